"""The ledger of a run: one line for each time that test data were evaluated."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from files import append_line, damaged

LEDGER = "ledger.jsonl"
KEYS = ("certificate", "fold", "seed", "kind")


def note(run: Path, card: Mapping[str, Any], n: int, fold: Path, kind: str, why: str) -> None:
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
        "n": n,
        "weights": hashlib.sha256((fold / "model.safetensors").read_bytes()).hexdigest(),
        "kind": kind,
        "why": why,
    }
    append_line(run / LEDGER, json.dumps(line))


def read_ledger(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger.

    Raises:
        RunError: A line is not as `note` writes it.
    """
    path = run / LEDGER
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        [tuple(line[key] for key in KEYS) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error, remove=path.parent) from error
    return lines


def looks(run: Path, certificate: str) -> dict[str, dict[str, int]]:
    """Return how often each fold's test data were read: {"fold 1 seed 0": {"test": 1}}.

    Args:
        run: The run folder.
        certificate: Id of the splits; other splits are other test data.
    """
    lines = [line for line in read_ledger(run) if line["certificate"] == certificate]
    counts: dict[tuple[int, int], Counter[str]] = {}
    for line in lines:
        counts.setdefault((line["fold"], line["seed"]), Counter())[line["kind"]] += 1
    return {f"fold {k} seed {s}": dict(counts[k, s]) for k, s in sorted(counts)}


def second_looks(counted: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return in words whose test data were read more than once, for summaries and tables."""
    return [
        f"{name}: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items()))
        for name, kinds in counted.items()
        if sum(kinds.values()) > 1
    ]
