"""Label recordings: `python predict.py runs/demo_gmu recording.wav folder/ ...`."""

import argparse
import sys
from pathlib import Path

from inference.inputs import find_recordings
from inference.members import member_folders
from inference.output import FORMATS
from system.cli import run_cli, run_entry


def main() -> int:
    """Write a line for each recording, and say what is unlike the training data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="folder of a run (its folds together), or a fold"
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="file, folder or pattern; - is standard input"
    )
    parser.add_argument(
        "--list", action="append", default=[], metavar="FILE", help="file with a path in each line"
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write there as the work goes; resumes"
    )
    parser.add_argument(
        "--risk", type=float, metavar="R", help="mark labels as unsure, so that R of the others err"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps or auto")
    arguments = parser.parse_args()

    def work() -> None:
        member_folders(arguments.model)
        files = find_recordings(arguments.inputs, arguments.list)
        from inference.emotion_model import load  # slow: torch, timm
        from inference.labelling import about, check_labelled, label_files

        model = load(arguments.model, arguments.device)
        for line in about(model, arguments.risk):
            print(line, file=sys.stderr)
        found = label_files(model, files, arguments.format, arguments.out, arguments.risk)
        check_labelled(found)

    return run_cli(work, sys.argv if arguments.out else ())


if __name__ == "__main__":
    run_entry(main)
