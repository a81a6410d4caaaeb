"""Tune a config on the dev split of one fold: `python tune.py --config C --space S`.

Stop the command at any point and give it again to resume; give it on other machines as well to
share the trials. No test utterance of the fold is opened.
"""

import argparse
import sys
from pathlib import Path

from config.loading import load_config
from corpora.readers import check_corpus_exists
from experiments.search_space import read_space
from system.cli import run_cli
from system.signals import Stop
from system.text import printable


def main() -> int:
    """Tune, write the best config and the figures, print the best trials."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML config")
    parser.add_argument("--space", required=True, metavar="FILE", help="YAML, keys and ranges")
    parser.add_argument("--trials", type=int, default=30, metavar="N", help="in all, default 30")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, one a GPU")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. run.folds=[1]"
    )
    arguments = parser.parse_intermixed_args()
    for name in ("trials", "workers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more, got {getattr(arguments, name)}")
    entry = str(Path(sys.argv[0]))
    words = ["--config", arguments.config, "--space", arguments.space]
    command = ["python", entry, *words, "--trials", str(arguments.trials), *arguments.overrides]
    stop = Stop()

    def work() -> None:
        config = load_config(arguments.config, arguments.overrides)
        read_space(Path(arguments.space), arguments.config, arguments.overrides)
        check_corpus_exists(config.corpus.root, config.corpus.manifest)
        from experiments.tuning import load_tuning, tune  # slow: torch, optuna

        tuning = load_tuning(arguments.config, arguments.space, arguments.overrides, command)
        print(printable(tune(tuning, arguments.trials, arguments.workers, stop)))

    with stop.install_handlers():
        return run_cli(work, ["python", *sys.argv], stop)


if __name__ == "__main__":
    sys.exit(main())
