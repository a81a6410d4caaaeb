"""Serve a page that labels recordings: `python app.py runs/demo_gmu`.

Record or drop a file; see probabilities, both images, the gate, and long recordings over time. The
page is at http://127.0.0.1:7860 on this machine alone, asks no other host for anything, and keeps
nothing that was sent. Needs the extra `app`. Exit status: 2 the input is wrong; 130 after Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from system.cli import run_cli, run_entry
from system.errors import InputError
from system.extras import check_extra
from web.choices import find_examples, find_models
from web.server import Settings, serve

RUNS, DEMO = Path("runs"), Path("data/demo")
MOST_MINUTES = 60  # as audio/reading.py reads


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; return the exit status."""
    arguments = parse_arguments(argv)

    def work() -> None:
        settings = Settings(
            arguments.host,
            arguments.port,
            arguments.max_minutes,
            arguments.max_mb,
            arguments.device,
            arguments.speech_model,
        )
        check_settings(settings)
        runs = arguments.runs or (None if arguments.models else RUNS)
        models = find_models(arguments.models, runs)
        check_extra("the page", "gradio", "app")
        serve(models, find_examples(arguments.examples), settings)

    return run_cli(work)


def check_settings(settings: Settings) -> None:
    """Refuse limits that are none.

    Raises:
        InputError: A limit or the port is out of range.
    """
    if not 0 < settings.max_minutes <= MOST_MINUTES:
        limit = f"above 0 and at most {MOST_MINUTES}"
        raise InputError(f"--max-minutes must be {limit}, got {settings.max_minutes:g}")
    if not 0 < settings.max_mb <= 10_000:
        raise InputError(f"--max-mb must be above 0 and at most 10000, got {settings.max_mb:g}")
    if not 0 <= settings.port <= 65_535:
        raise InputError(f"--port must be 0 to 65535, got {settings.port}")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL",
        help="folder of a run, a fold or a bundle; default: all in --runs",
    )
    parser.add_argument("--runs", type=Path, help="folder of runs and bundles, default runs")
    parser.add_argument("--host", default="127.0.0.1", help="address, default: this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="default 7860; 0 takes a free one")
    parser.add_argument("--max-minutes", type=float, default=10.0, help="longest recording")
    parser.add_argument("--max-mb", type=float, default=50.0, help="largest file, MB")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps or auto")
    parser.add_argument(
        "--speech-model",
        metavar="FOLDER",
        help="speech model of models that read one; default: where each was trained with it",
    )
    parser.add_argument(
        "--examples", type=Path, default=DEMO, help="folder of recordings to try, default data/demo"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
