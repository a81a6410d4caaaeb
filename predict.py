"""Label recordings: `python predict.py runs/demo_gmu recording.wav folder/ ...`.

Long ones over time: `--window 3 --hop 1` or `--segments energy`. Sound from a microphone:
`arecord -t raw -f S16_LE -c 1 -r 16000 | python predict.py MODEL --pcm 16000 --window 3 --hop 1`.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference.bundle_file import read_bundle
from inference.cuts import add_long_options, check_long_options, cuts_of
from inference.inputs import STANDARD_INPUT, find_recordings
from inference.members import member_folders
from inference.output import FORMATS, Format, check_out
from inference.prediction import check_risk
from system.cli import run_cli, run_entry, say
from system.errors import InputError
from system.extras import check_extra

if TYPE_CHECKING:
    from audio.streaming import PcmFormat
    from inference.emotion_model import EmotionModel
    from inference.labelling import Labelled


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
    parser.add_argument("--format", choices=FORMATS, help="default: table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write there as the work goes; resumes"
    )
    parser.add_argument(
        "--risk", type=float, metavar="R", help="mark labels as unsure, so that R of the others err"
    )
    add_long_options(parser)
    parser.add_argument(
        "--speech-model",
        metavar="FOLDER",
        help="where the speech model lies that MODEL reads; default: where the training had it",
    )
    parser.add_argument(
        "--vectors", type=Path, metavar="FILE", help="vectors of the recordings, for branch file"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="label nothing: compare the ONNX graph of a bundle with PyTorch on the recordings",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps or auto")
    arguments = parser.parse_intermixed_args()

    def work() -> None:
        if arguments.verify:
            _verify(parser, arguments)
            return
        check_long_options(arguments)
        member_folders(arguments.model)
        files = find_recordings(arguments.inputs, arguments.list) if not arguments.pcm else []
        if arguments.out is not None:
            check_out(arguments.out)
        if arguments.risk is not None:
            check_risk(arguments.risk)
        from inference.emotion_model import load  # slow: torch, timm
        from inference.labelling import about, check_labelled

        speech_model, vectors = arguments.speech_model, arguments.vectors
        model = load(arguments.model, arguments.device, speech_model=speech_model, vectors=vectors)
        for line in about(model, arguments.risk):
            print(line, file=sys.stderr)
        check_labelled(label(model, files, arguments), arguments.out or arguments.timeline)

    return run_cli(work, sys.argv if arguments.out or arguments.timeline else ())


def label(model: "EmotionModel", files: list[Path], arguments: argparse.Namespace) -> "Labelled":
    """Label files or a live stream in the way that the options ask for."""
    from inference import labelling, long_recordings

    form: Format = arguments.format or "table"
    risk, cuts = arguments.risk, cuts_of(arguments)
    if cuts is None:
        return labelling.label_files(model, files, form, arguments.out, risk)
    if arguments.pcm:
        pcm: PcmFormat = arguments.pcm_format or "s16le"
        sound = sys.stdin.buffer
        return long_recordings.label_live(model, sound, cuts, arguments.pcm, pcm, form, risk)
    if arguments.timeline:
        return long_recordings.write_timelines(model, files, cuts, arguments.timeline, risk)
    return long_recordings.label_parts(model, files, cuts, form, arguments.out, risk)


def _verify(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Verify a bundle, and print how far both sides differ.

    Raises:
        InputError: MODEL is not a bundle, an option has no effect, or a package is missing.
        RunError: They differ too much.
    """
    used = ("model", "inputs", "list", "verify", "speech_model", "vectors")
    values = {name: value for name, value in vars(arguments).items() if name not in used}
    if given := [name for name, value in values.items() if value != parser.get_default(name)]:
        raise InputError(
            f"--{given[0].replace('_', '-')} has no effect with --verify: leave it out"
        )
    bundle = read_bundle(arguments.model)
    files = find_recordings(arguments.inputs, arguments.list)
    if Path(STANDARD_INPUT) in files:
        raise InputError("--verify reads files, not standard input")
    speech_model, vectors = arguments.speech_model, arguments.vectors
    if bundle.sources is not None:
        from inference.verify import verify_without_graph  # slow: torch, timm

        say(verify_without_graph(arguments.model, files, speech_model, vectors))
        return
    if speech_model is not None or vectors is not None:
        name = "--vectors" if speech_model is None else "--speech-model"
        raise InputError(f"{name} has no effect on {arguments.model}: leave it out")
    check_extra("--verify", "onnxruntime", "onnx")
    from inference.bundle_card import parity  # slow: torch, timm
    from inference.verify import verify_bundle

    say(parity(verify_bundle(arguments.model, files)))


if __name__ == "__main__":
    run_entry(main)
