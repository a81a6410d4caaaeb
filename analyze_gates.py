"""Analyze gates and ablate branches of a run: `python analyze_gates.py runs/demo_gmu`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from config.loading import load_stored_config
from storage.folders import CONFIG, check_is_run
from system.cli import run_cli, run_entry
from system.text import printable


def main() -> int:
    """Evaluate, write `<run>/gates/`, print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of two branches or more")
    parser.add_argument(
        "others",
        nargs="*",
        default=[],
        metavar="UNIMODAL_RUN | section.key=value",
        help="run folders of fewer branches (cqt_only, mel_only, speech_only, file_only, or that "
        "join some of them), to compare with; and overrides of paths and devices: "
        "corpus.root=..., corpus.manifest=..., protocol.folds=..., model.speech.model=..., "
        "model.vectors=..., run.store=..., run.device=...",
    )
    parser.add_argument("--no-branch-ablation", action="store_true", help="analyze the gates only")
    parser.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="random draws of the utterances whose features replace others, 1 to 100",
    )
    arguments = parser.parse_intermixed_args()
    unimodal, overrides = split_overrides(arguments.others)

    def work() -> None:
        for folder in (arguments.run, *unimodal):
            check_is_run(folder)
        load_stored_config(arguments.run / CONFIG, overrides)
        from gates.analysis import N_DRAWS, analyze  # slow: torch, scipy, matplotlib
        from gates.results import FOLDER
        from gates.tables import gates_markdown

        n_draws = N_DRAWS if arguments.draws is None else arguments.draws
        ablate = not arguments.no_branch_ablation
        results = analyze(arguments.run, unimodal, ablate, n_draws, overrides)
        print(printable(gates_markdown(results)))
        print(printable(f"Tables and figures: {arguments.run / FOLDER}"))

    return run_cli(work)


def split_overrides(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Separate run folders from `section.key=value` overrides.

    >>> split_overrides(["runs/lr=0.1", "corpus.root=data"])
    ([PosixPath('runs/lr=0.1')], ['corpus.root=data'])
    """
    overrides = [word for word in words if re.match(r"[a-z_]+(\.[a-z_]+)+=", word)]
    return [Path(word) for word in words if word not in overrides], overrides


if __name__ == "__main__":
    run_entry(main)
