"""How large a difference between two fusions can a design show?

    python -m scripts.power --folds 6 --speakers 4 --seeds 1 3 5 --differences 2 3 5

Simulates pairs of runs that differ by so many points of UA, and tests them as compare.py does. How
much two runs differ by chance is `--by-speaker` and `--by-training`; evaluation/power.py says what
is simulated.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from system.cli import check_output, run_cli, run_entry
from system.errors import InputError

MOST = 1000  # folds, speakers of a fold, utterances of a speaker
MOST_SEEDS, MOST_PAIRS = 100, 100_000
MOST_UTTERANCES = 10_000_000  # of one run, all seeds counted


def main(argv: Sequence[str]) -> int:
    """Print the table; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.power", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    for name, default, text in (
        ("--folds", None, "that are tested"),
        ("--speakers", None, "of each fold"),
        ("--utterances", 60, "of each speaker, default 60"),
        ("--pairs", 400, "that are simulated, default 400"),
    ):
        required = default is None
        parser.add_argument(
            name, type=int, default=default, required=required, metavar="N", help=text
        )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 3], metavar="N", help="default: 1 3"
    )
    parser.add_argument(
        "--differences",
        type=float,
        nargs="+",
        default=[2.0, 3.0, 5.0],
        metavar="POINTS",
        help="of UA, default 2 3 5",
    )
    for name, points, text in (
        ("--by-speaker", 5.0, "speakers, beyond what both runs share, default 5"),
        ("--by-training", 4.0, "trainings, default 4"),
    ):
        text = f"deviation of a run's UA over {text}"
        parser.add_argument(name, type=float, default=points, metavar="POINTS", help=text)
    parser.add_argument("--json", metavar="FILE", help="file for the figures")
    arguments = parser.parse_args(argv)
    return run_cli(lambda: _work(arguments, argv))


def _work(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    _check(arguments)
    from evaluation.power import LEVEL, Design, power_table  # slow: scipy
    from evaluation.power_table import power_markdown
    from system.files import write_json

    given = arguments
    design = Design(given.folds, given.speakers, 1, given.utterances)
    design = design._replace(by_speaker=given.by_speaker / 100, by_training=given.by_training / 100)
    differences = [points / 100 for points in given.differences]
    found = {
        "command": shlex.join(["python", "-m", "scripts.power", *argv]),
        "design": design._asdict(),
        "level": LEVEL,
        "pairs": given.pairs,
        "rows": power_table(design, given.seeds, differences, given.pairs),
    }
    print(f"Power at p <= 0.05, by the true difference of UA. {power_markdown(found)}")
    if given.json is not None:
        write_json(Path(given.json), found)


def _check(given: argparse.Namespace) -> None:
    """Refuse numbers that make no design."""
    limits = {"folds": MOST, "speakers": MOST, "utterances": MOST, "pairs": MOST_PAIRS}
    for name, most in limits.items():
        least = 3 if name == "utterances" else 1  # both classes
        if not least <= (value := getattr(given, name)) <= most:
            raise InputError(f"--{name} must be {least} to {most}, got {value}")
    if wrong := [n for n in given.seeds if not 1 <= n <= MOST_SEEDS]:
        raise InputError(f"--seeds must be 1 to {MOST_SEEDS}, got {wrong[0]}")
    n = given.folds * given.speakers * given.utterances * max(given.seeds)
    if n > MOST_UTTERANCES:
        raise InputError(
            f"--folds x --speakers x --utterances x --seeds must be at most {MOST_UTTERANCES:,}, "
            f"got {n:,}"
        )
    check_output(given.json)
    for name in ("differences", "by_speaker", "by_training"):
        value = getattr(given, name)
        if wrong := [
            x for x in (value if isinstance(value, list) else [value]) if not 0 <= x <= 50
        ]:
            option = name.replace("_", "-")
            raise InputError(f"--{option} must be 0 to 50 points, got {wrong[0]:g}")


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
