"""Put finished runs of one protocol into one table: `python compare.py runs/a runs/b`."""

import argparse
import sys
from pathlib import Path

from cli import guarded
from comparison import compare
from files import write_text
from run_folder import read_run
from tables import comparison_markdown


def main() -> int:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table here")
    arguments = parser.parse_args()

    def work() -> None:
        table = comparison_markdown(compare([read_run(run) for run in arguments.runs]))
        print(table)
        if arguments.out:
            write_text(arguments.out, table)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
