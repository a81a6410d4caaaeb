"""Export a trained model as one folder: `python export.py runs/demo_gmu --to bundle`."""

import argparse
from pathlib import Path

from inference.bundle import export_bundle, find_source
from system.cli import run_cli, run_entry, say
from system.text import count_of


def main(arguments: list[str] | None = None) -> int:
    """Write the bundle, and say what is next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="folder of a run (its folds together), a fold, or a final model",
    )
    parser.add_argument(
        "--to", type=Path, required=True, metavar="BUNDLE", help="folder to make; not there yet"
    )
    parser.add_argument(
        "--audonnx",
        action="store_true",
        help="also write audonnx/, which has the weights once more, for a batch of 1",
    )
    parser.add_argument(
        "--speech-model",
        metavar="FOLDER",
        help="where the speech model lies that MODEL reads; default: where the training had it",
    )
    parser.add_argument(
        "--with-speech-model", action="store_true", help="copy the speech model into the bundle"
    )
    parsed = parser.parse_args(arguments)

    def work() -> None:
        source = find_source(parsed.model, parsed.to, parsed.audonnx)
        bundle = export_bundle(
            source, parsed.to, parsed.audonnx, parsed.speech_model, parsed.with_speech_model
        )
        say(f"{parsed.to}: {count_of(len(bundle.members), 'model')}, {bundle.protocol}")
        if source.beside:
            say(
                f"without an ONNX graph, which cannot hold the branch {' and '.join(source.beside)}"
                ": PyTorch labels with it"
            )
        vectors = " --vectors FILE" if "file" in source.beside else ""
        say(f"next: python predict.py --verify {parsed.to} recordings/{vectors}")

    return run_cli(work)


if __name__ == "__main__":
    run_entry(main)
