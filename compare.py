"""Compare finished runs of one protocol: `python compare.py runs/a runs/b --out comparison`."""

import argparse
from pathlib import Path

from storage.folders import check_is_run
from system.cli import run_cli, run_entry
from system.errors import InputError
from system.text import printable


def main() -> int:
    """Print the tables, and write them and the report where asked; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write Markdown, LaTeX, JSON and report.html"
    )
    parser.add_argument(
        "--breakdown",
        action="store_true",
        help="by gender, speaker, duration, portion, text; calibration; risk and coverage",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="test the frozen weights on noise, gain, low-pass and speed; goes into the ledger",
    )
    parser.add_argument("--no-audio", action="store_true", help="a report without recordings")
    arguments = parser.parse_args()
    if arguments.no_audio and not arguments.out:
        parser.error("--no-audio concerns the report: give --out, too")

    def work() -> None:
        for folder in arguments.runs:
            check_is_run(folder)
        from evaluation.conclusion import conclusion  # slow: torch, scipy
        from evaluation.corpus_matrix import matrix_markdown
        from reports.publish import gather, gather_matrix, markdown, publish, publish_matrix

        matrix, is_one_certificate = gather_matrix(arguments.runs)  # of cross-corpus runs
        if not is_one_certificate and (arguments.breakdown or arguments.robustness):
            raise InputError(
                "--breakdown and --robustness need runs of one certificate: the matrix has runs on "
                "other corpora"
            )
        if matrix is not None:
            print(printable(matrix_markdown(matrix)))
            if arguments.out:
                publish_matrix(arguments.out, matrix)
                print(f"The matrix: {arguments.out}/matrix.md and matrix.json")
        if not is_one_certificate:
            return
        runs, comparison = gather(arguments.runs, arguments.breakdown, arguments.robustness)
        print(printable(markdown(comparison)))
        if arguments.out:
            publish(arguments.out, runs, comparison, audio=not arguments.no_audio)
            print(f"Tables and report: {arguments.out}/comparison.* and report.html")
        print(printable(conclusion(comparison)))

    return run_cli(work)


if __name__ == "__main__":
    run_entry(main)
