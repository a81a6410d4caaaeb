"""Analyze gates and ablate branches of a run: `python analyze_gates.py runs/demo_gmu`."""

import argparse
import sys
from pathlib import Path

from gates.analysis import analyze, split_arguments
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
        help="run folders of model.fusion cqt_only or mel_only, to compare with; and overrides "
        "of paths and devices: corpus.root=..., corpus.manifest=..., run.store=..., run.device=...",
    )
    parser.add_argument("--no-branch-ablation", action="store_true", help="analyze the gates only")
    parser.add_argument(
        "--draws",
        type=int,
        default=N_DRAWS,
        metavar="N",
        help="random draws of the utterances whose features replace others, 1 to 100",
    )
    arguments = parser.parse_intermixed_args()
    unimodal, overrides = split_arguments(arguments.others)
    ablate = not arguments.no_branch_ablation

    def work() -> None:
        results = analyze(arguments.run, unimodal, ablate, arguments.draws, overrides)
        print(printable(gates_markdown(results)))
        print(printable(f"Tables and figures: {arguments.run / FOLDER}"))

    return run_cli(work)


if __name__ == "__main__":
    sys.exit(main())
