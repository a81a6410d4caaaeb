"""Run a baseline on a fusion's folds.

python baseline.py --config configs/iemocap_gmu.yaml --kind svm_images
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from config.baselines import (
    AUTO,
    FUNCTIONALS,
    KINDS,
    check_kind,
    choose_functionals,
    load_baseline,
)
from corpora.readers import check_corpora_exist
from system.cli import exit_status, run_entry, say
from system.files import MAX_TABLE, read_text
from system.signals import Stop
from training.command import check_config_option


def main(argv: Sequence[str]) -> int:
    """Fit, choose on dev and test every fold with every seed; return the exit status."""
    arguments = parse_arguments(argv)
    stop = Stop()
    with exit_status(["python", sys.argv[0], *argv], stop) as result:
        check_kind(arguments.kind)
        functionals = choose_functionals(arguments.kind, arguments.functionals)
        config = load_baseline(arguments.config, arguments.kind, functionals, arguments.overrides)
        check_corpora_exist(config.as_config())

        from baselines.fold import run_fold  # slow: torch, scikit-learn
        from baselines.session import dry_run, open_baseline
        from evaluation.summary import summarize

        if arguments.dry_run:
            say(dry_run(config, arguments.overwrite))
            return result.status
        with open_baseline(config, [sys.argv[0], *argv], arguments.overwrite, stop) as baseline:
            # The corpus is indexed, split and certified, exactly as for the fusion.
            for fold in baseline.folds():  # folds x seeds
                run_fold(baseline, fold)  # fit, choose on dev, test once
            folder = baseline.session.folder
            summarize(folder)
        say(read_text(folder / "summary.md", MAX_TABLE))
        say(f"Everything is in {folder}")
    return result.status


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="YAML config of a fusion"
    )
    parser.add_argument("--kind", required=True, help=f"one of {', '.join(KINDS)}")
    parser.add_argument(
        "--functionals",
        choices=(AUTO, *FUNCTIONALS),
        default=AUTO,
        help="of svm_functionals; auto, the default: egemaps where opensmile is installed",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, fit nothing")
    parser.add_argument("--overwrite", action="store_true", help="start a run of this name anew")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. corpus.root=data"
    )
    check_config_option(parser, argv)
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
