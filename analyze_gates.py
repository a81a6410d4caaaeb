"""What a run's gates do, what its branches are worth: `python analyze_gates.py runs/demo_gmu`."""

import argparse
import sys
from pathlib import Path

from gates.analysis import analyze, sort_words
from gates.branch_ablation import N_DRAWS
from gates.results import FOLDER
from gates.tables import gates_markdown
from system.cli import run_cli
from system.text import printable


def main() -> int:
    """Evaluate, write `<run>/gates/`, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of two branches")
    parser.add_argument(
        "others",
        nargs="*",
        default=[],
        metavar="UNIMODAL_RUN | section.key=value",
        help="run folders of model.fusion cqt_only or mel_only, to stand beside; and where things "
        "are now: corpus.root=..., corpus.manifest=..., run.store=..., run.device=...",
    )
    parser.add_argument(
        "--no-reliance", action="store_true", help="look at the gates, replace no branch"
    )
    parser.add_argument(
        "--draws", type=int, default=N_DRAWS, metavar="N", help="draws of donor clips, 1 to 100"
    )
    arguments = parser.parse_intermixed_args()
    unimodal, overrides = sort_words(arguments.others)

    def work() -> None:
        found = analyze(
            arguments.run, unimodal, not arguments.no_reliance, arguments.draws, overrides
        )
        print(printable(gates_markdown(found)))
        print(printable(f"Everything is in {arguments.run / FOLDER}"))

    return run_cli(work)


if __name__ == "__main__":
    sys.exit(main())
