"""Where the tests find the repository and its code."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ("tests", "benchmarks", "data", "runs")  # folders that are not rooms
CODE = [
    path
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")])
    if path.parent.name not in BESIDE
]
