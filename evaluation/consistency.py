"""Does metrics.json say what predictions.csv says? Scores are computed again and compared."""

from typing import Any

from evaluation.metrics import SCORES, scores
from storage.fold_folder import PREDICTIONS, PredictionTable, Scores
from storage.folders import METRICS
from storage.run_folder import FoldResult, Run
from system.errors import RunError
from system.text import short_repr

ROUNDING = 2e-6  # predictions.csv has six decimals


def check_scores(run: Run) -> None:
    """Refuse a run whose scores are not those of its predictions.

    Raises:
        RunError: A score differs by more than rounding; names the folder and both values.
    """
    for result in run.folds:
        for split in ("dev", "test"):
            recorded: Scores = getattr(result.metrics, split)
            if recorded.n:
                _check_split(result, split, recorded, getattr(result, split))
        _check_gate(result)


def _check_split(result: FoldResult, split: str, recorded: Scores, table: PredictionTable) -> None:
    found = scores(table.targets.tolist(), table.preds.tolist(), len(result.classes))
    for name in SCORES:
        if not _is_same(getattr(recorded, name), found[name]):
            raise _contradiction(result, f"{split}.{name}", getattr(recorded, name), found[name])
    confusion = [list(row) for row in recorded.confusion]
    if confusion != found["confusion"]:
        raise _contradiction(result, f"{split}.confusion", confusion, found["confusion"])
    own, other = list(recorded.per_class_recall), found["per_class_recall"]
    if len(own) != len(other) or not all(map(_is_same, own, other)):
        raise _contradiction(result, f"{split}.per_class_recall", own, other)


def _check_gate(result: FoldResult) -> None:
    recorded, gate = result.metrics.gate_mean, result.test.gate
    found = None if gate is None else float(gate.mean())
    if not _is_same(recorded, found):
        raise _contradiction(result, "gate_mean", recorded, found)


def _is_same(recorded: float | None, found: float | None) -> bool:
    if recorded is None or found is None:
        return recorded is found
    return abs(recorded - found) <= ROUNDING


def _contradiction(result: FoldResult, key: str, recorded: Any, found: Any) -> RunError:
    return RunError(
        f"{result.folder}: {METRICS} has {key} {short_repr(recorded)}, but {PREDICTIONS} gives "
        f"{short_repr(found)}: one of them was changed. Restore both from a copy, or remove "
        "the folder and run the same training command again"
    )
