"""Tune a config on the dev split of one fold: `python tune.py --config C --space S`.

The command may be stopped at any point and given again, or given elsewhere to join in: all
processes share the trials. No test utterance of the fold is opened.
"""

import argparse
import sys
from pathlib import Path

from config.tasks import check_classes
from corpora.readers import check_corpora_exist
from experiments.storages import SQLITE
from experiments.tuning import load_tuning, tune
from system.cli import run_cli, run_entry
from system.signals import Stop
from system.text import printable
from training.command import check_config_option


def main() -> int:
    """Tune, write the best config and the figures, print the best trials."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML config")
    parser.add_argument("--space", required=True, metavar="FILE", help="YAML search space")
    parser.add_argument(
        "--trials", type=int, default=30, metavar="N", help="total of the study, default 30"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; 1 per GPU")
    parser.add_argument(
        "--storage",
        default=SQLITE,
        metavar="WHERE",
        help="of the trials: sqlite (one machine, default), journal (a shared mount) or "
        "postgresql://user@host/database",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. run.folds=[1]"
    )
    check_config_option(parser, sys.argv[1:], ["--space"])
    arguments = parser.parse_intermixed_args()
    for name in ("trials", "workers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    entry = str(Path(sys.argv[0]))
    files = ["--config", arguments.config, "--space", arguments.space]
    command = ["python", entry, *files, "--trials", str(arguments.trials)]
    command += [] if arguments.storage == SQLITE else ["--storage", arguments.storage]
    command += arguments.overrides
    stop = Stop()

    def work() -> None:
        tuning = load_tuning(
            arguments.config, arguments.space, arguments.overrides, command, arguments.storage
        )
        config = tuning.config
        check_classes(config.task, "a study maximises dev UA,")
        check_corpora_exist(config)
        print(printable(tune(tuning, arguments.trials, arguments.workers, stop)))

    return run_cli(work, ["python", *sys.argv], stop)


if __name__ == "__main__":
    run_entry(main)
