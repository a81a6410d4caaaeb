"""Print which share of each room's lines and branches the tests ran: `make coverage`.

Coverage says what no test ran. It does not say that what ran was checked, so no threshold is set.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.wording import markdown_table, percent
from system.cli import run_entry

REPORT = Path(__file__).resolve().parents[1] / "build/coverage.json"
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def coverage_rows(files: Mapping[str, Any]) -> list[list[str]]:
    """Return one row a room (a folder, or a file of the root), and a row of all.

    Args:
        files: `files` of the JSON report of coverage.py, by path from the root.
    """
    rooms: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, file in files.items():
        first, *rest = Path(path).parts
        for room in (f"{first}/" if rest else first, "all"):
            rooms[room].update({key: file["summary"][key] for key in COUNTS})
    names = [*sorted(name for name in rooms if name != "all"), "all"]
    return [[name, *_cells(rooms[name])] for name in names]


def _cells(counts: Mapping[str, int]) -> list[str]:
    lines, covered, branches, covered_branches = (counts[key] for key in COUNTS)
    shares = [a / b if b else None for a, b in ((covered, lines), (covered_branches, branches))]
    return [str(lines), percent(shares[0]), str(branches), percent(shares[1])]


def main() -> None:
    """Print the table of the last `make coverage`; exit with status 2 where there was none."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not REPORT.exists():
        print(f"error: {REPORT} does not exist: run `make coverage`", file=sys.stderr)
        raise SystemExit(2)
    files = json.loads(REPORT.read_bytes())["files"]
    head = ["room", "lines", "run, %", "branches", "taken, %"]
    print(markdown_table(head, coverage_rows(files)))


if __name__ == "__main__":
    run_entry(main)
