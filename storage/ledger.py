"""The ledger of a run: one line for each time that test data were evaluated."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from system.errors import RunError
from system.files import MAX_TABLE, append_line, read_text

LEDGER = "ledger.jsonl"
KEYS = "when run protocol certificate fold seed clips n weights kind why".split()
UNREADABLE = "unreadable"


def record_test_evaluation(
    run: Path, card: Mapping[str, Any], n: int, fold: Path, kind: str, why: str
) -> None:
    """Write down an evaluation on test data, before it is made.

    Args:
        run: The run folder.
        card: The fold's model.json.
        n: Clips.
        fold: The fold's folder, whose weights are used.
        kind: "test" for the one that metrics.json reports, or another word.
        why: For people.
    """
    line = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.name,
        "protocol": card["protocol"],
        "certificate": card["certificate"],
        "fold": card["fold"],
        "seed": card["seed"],
        "clips": card["test_clips"],
        "n": n,
        "weights": hashlib.sha256((fold / "model.safetensors").read_bytes()).hexdigest(),
        "kind": kind,
        "why": why,
    }
    append_line(run / LEDGER, json.dumps(line))


def read_ledger(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger; a line that is none of ours counts as a look as well."""
    path = run / LEDGER
    try:
        written = read_text(path, MAX_TABLE, errors="replace") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    return [_parse(line) for line in written.splitlines() if line.strip()]


def _parse(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if all(isinstance(found[key], str | int | None) for key in KEYS):
            return {key: found[key] for key in KEYS}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return dict.fromkeys(KEYS, UNREADABLE)


def test_evaluations(run: Path, certificate: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return how often each fold's test clips were read: {"fold 1 seed 0": {"test": 1}}.

    Args:
        run: The run folder.
        certificate: Says which clips each fold tests; looks at other clips are not counted.
    """
    fold_of = {fold["test"]["recordings"]: fold["fold"] for fold in certificate["folds"]}
    counts: dict[str, Counter[str]] = {}
    for line in read_ledger(run):
        if line["clips"] == UNREADABLE:
            counts.setdefault("ledger", Counter())["unreadable line"] += 1
        elif line["clips"] in fold_of:
            name = f"fold {fold_of[line['clips']]} seed {line['seed']}"
            counts.setdefault(name, Counter())[line["kind"]] += 1
    return {name: dict(counts[name]) for name in sorted(counts)}


def repeated_evaluations(counted: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return in words whose test data were read more than once, for summaries and tables."""
    return [
        f"{name}: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items()))
        for name, kinds in counted.items()
        if sum(kinds.values()) > 1 or name == "ledger"
    ]
