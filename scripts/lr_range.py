"""Is a config's learning rate usable? `scripts/lr_range.sh configs/demo_gmu.yaml optim.lr=0.02`."""

import argparse
import sys
from collections.abc import Sequence

from config.loading import load_config
from config.trackers import refuse_trackers_by_fold
from corpora.readers import check_corpora_exist
from experiments.lr_range import run_range_test
from system.cli import run_cli, run_entry
from system.text import printable


def main(argv: Sequence[str]) -> int:
    """Run the range test and print the answer; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/lr_range.sh", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML config")
    parser.add_argument("--lowest", type=float, default=1e-7, help="first rate, default 1e-7")
    parser.add_argument("--highest", type=float, default=1.0, help="last rate, default 1")
    parser.add_argument("--steps", type=int, default=200, help="between them, default 200")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="seeds, default 3")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. optim.lr=0.02"
    )
    arguments = parser.parse_intermixed_args(argv)

    def work() -> None:
        config = load_config(arguments.config, arguments.overrides)
        refuse_trackers_by_fold(config.run.trackers, "scripts.lr_range")
        check_corpora_exist(config)
        options = (arguments.lowest, arguments.highest, arguments.steps, arguments.repeats)
        print(printable(run_range_test(config, *options)))

    return run_cli(work)


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
