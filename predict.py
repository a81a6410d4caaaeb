"""Label recordings: `python predict.py runs/demo_gmu recording.wav folder/ ...`."""

import argparse
import sys
from pathlib import Path

from inference.bundle_file import read_bundle
from inference.inputs import STANDARD_INPUT, find_recordings
from inference.members import member_folders
from inference.output import FORMATS
from system.cli import run_cli, run_entry, say
from system.errors import InputError
from system.extras import check_extra


def main() -> int:
    """Write a line for each recording, and say what is unlike the training data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="folder of a run (its folds together), a fold, or a bundle",
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
    parser.add_argument(
        "--verify",
        action="store_true",
        help="label nothing: compare the ONNX graph of a bundle with PyTorch on the recordings",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps or auto")
    arguments = parser.parse_args()

    def work() -> None:
        if arguments.verify:
            _verify(parser, arguments)
            return
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


def _verify(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Verify a bundle, and print how far both sides differ.

    Raises:
        InputError: MODEL is not a bundle, an option has no effect, or a package is missing.
        RunError: They differ too much.
    """
    unused = ("format", "out", "risk", "device")
    if given := [name for name in unused if getattr(arguments, name) != parser.get_default(name)]:
        raise InputError(f"--{given[0]} has no effect with --verify: leave it out")
    read_bundle(arguments.model)
    files = find_recordings(arguments.inputs, arguments.list)
    if Path(STANDARD_INPUT) in files:
        raise InputError("--verify reads files, not standard input")
    check_extra("--verify", "onnxruntime", "onnx")
    from inference.bundle_card import parity  # slow: torch, timm
    from inference.verify import verify_bundle

    say(parity(verify_bundle(arguments.model, files)))


if __name__ == "__main__":
    run_entry(main)
