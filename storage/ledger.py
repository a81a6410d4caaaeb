"""The ledger of a run: one line per evaluation on test data."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.fold_folder import WEIGHTS
from system.errors import RunError
from system.files import MAX_TABLE, append_line, corrupt_file, read_text
from system.regular import file_sha256

log = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"
KEYS = "when run protocol certificate fold seed clips n weights kind why".split()
UNREADABLE = "unreadable"


def record_test_evaluation(
    run: Path, card: Mapping[str, Any], n: int, fold: Path | None, kind: str, why: str
) -> None:
    """Append a line to the ledger; call it before anything of the evaluation is written or shown.

    Args:
        run: The run folder.
        card: Content of the fold's model.json.
        n: Number of utterances that are evaluated.
        fold: Folder of the fold whose weights are used; None where those of every epoch are.
        kind: "test" for the evaluation that metrics.json reports, another word for any other.
        why: The reason, in words for people.

    Raises:
        RunError: The weights cannot be read or the line cannot be written; nothing was changed.
    """
    weights = None if fold is None else _digest(fold)
    line = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.name,
        "protocol": card["protocol"],
        "certificate": card["certificate"],
        "fold": card["fold"],
        "seed": card["seed"],
        "clips": card["test_clips"],
        "n": n,
        "weights": weights,
        "kind": kind,
        "why": why,
    }
    append_line(run / LEDGER, json.dumps(line))


def _digest(fold: Path) -> str:
    try:
        return file_sha256(fold / WEIGHTS)
    except OSError as error:
        raise corrupt_file(fold / WEIGHTS, error, remove=fold) from error


def read_ledger(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger; a corrupt line has the value `UNREADABLE` for each key.

    Raises:
        RunError: The file cannot be read.
    """
    path = run / LEDGER
    try:
        text = read_text(path, MAX_TABLE, errors="replace") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    return [_parse(line) for line in text.splitlines() if line.strip()]


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if all(isinstance(entry[key], str | int | None) for key in KEYS):
            return {key: entry[key] for key in KEYS}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return dict.fromkeys(KEYS, UNREADABLE)


def count_test_evaluations(run: Path, certificate: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count the evaluations of each fold's test split: {"fold 1 seed 0": {"test": 1}}.

    A corrupt line counts as an evaluation too, under "ledger".

    Args:
        run: The run folder.
        certificate: The split certificate of the run; evaluations of recordings that it does not
            test are not counted.
    """
    fold_of = {fold["test"]["recordings"]: fold["fold"] for fold in certificate["folds"]}
    counts: dict[str, Counter[str]] = {}
    for entry in read_ledger(run):
        if entry["clips"] == UNREADABLE:
            counts.setdefault("ledger", Counter())["unreadable line"] += 1
        elif entry["clips"] in fold_of:
            name = f"fold {fold_of[entry['clips']]} seed {entry['seed']}"
            counts.setdefault(name, Counter())[entry["kind"]] += 1
    return {name: dict(counts[name]) for name in sorted(counts)}


def count_runs_before(run: Path, certificate: Mapping[str, Any]) -> int:
    """Count the other runs under `run.root` that tested a fold's utterances before this one did.

    A choice made after looking at their scores is a choice made on test data, whichever run it is
    for. Folds count that test exactly the same recordings. Of this run the last test of a fold and
    seed counts, which is the one that is reported. A line without a readable time counts as
    earlier; a ledger that cannot be read is logged and not counted.

    Args:
        run: The run folder; the other runs lie beside it.
        certificate: The split certificate of the run.
    """
    recordings = {fold["test"]["recordings"] for fold in certificate["folds"]}
    reported = {
        (e["clips"], e["seed"]): _time(e) for e in read_ledger(run) if e["kind"] == "test"
    }  # the last line of each counts
    own: dict[Any, str] = {}
    for (clips, _), when in reported.items():
        own[clips] = min(when, own.get(clips, when))

    def was_before(folder: Path) -> bool:
        try:
            lines = [e for e in read_ledger(folder) if e["clips"] in recordings]
        except RunError as error:
            log.warning("its evaluations are not counted: %s", error)
            return False
        return any(e["clips"] not in own or _time(e) < own[e["clips"]] for e in lines)

    others = [path.parent for path in run.resolve().parent.glob(f"*/{LEDGER}")]
    return sum(was_before(other) for other in others if other.name != run.resolve().name)


def _time(entry: Mapping[str, Any]) -> str:
    return "" if entry["when"] == UNREADABLE else str(entry["when"])


def repeated_evaluations(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Describe the folds whose test split was evaluated more than once.

    Args:
        counts: From `count_test_evaluations`.

    >>> repeated_evaluations({"fold 1 seed 0": {"test": 1}, "fold 2 seed 0": {"test": 2}})
    ['fold 2 seed 0: 2 x test']
    """
    return [
        f"{name}: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items()))
        for name, kinds in counts.items()
        if sum(kinds.values()) > 1 or name == "ledger"
    ]
