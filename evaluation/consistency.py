"""Does metrics.json say what predictions.csv says? Scores are computed again and compared."""

from typing import Any

from evaluation.tasks import task_of
from storage.fold_folder import PREDICTIONS, PredictionTable
from storage.folders import METRICS
from storage.run_folder import FoldResult, Run
from storage.scores import AnyScores, Scores
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
            recorded: AnyScores = getattr(result.metrics, split)
            if recorded.n:
                _check_split(result, split, recorded, getattr(result, split))
        _check_gate(result)


def _check_split(
    result: FoldResult, split: str, recorded: AnyScores, table: PredictionTable
) -> None:
    found = task_of(result).scores(table.targets, table.preds, table.probs)
    values = recorded.named()
    for name, value in found.named().items():
        if not _is_same(values.get(name), value):
            raise _contradiction(result, f"{split}.{name}", values.get(name), value)
    if not isinstance(found, Scores) or not isinstance(recorded, Scores):
        return
    confusion = [list(row) for row in recorded.confusion]
    if confusion != found.confusion:
        raise _contradiction(result, f"{split}.confusion", confusion, found.confusion)
    own, other = list(recorded.per_class_recall), list(found.per_class_recall)
    if len(own) != len(other) or not all(map(_is_same, own, other)):
        raise _contradiction(result, f"{split}.per_class_recall", own, other)


def _check_gate(result: FoldResult) -> None:
    recorded, gate = result.metrics.gate_mean, result.test.gate
    found = None if gate is None else float(gate.mean())
    if not _is_same(recorded, found):
        raise _contradiction(result, "gate_mean", recorded, found)
    own, shares = result.metrics.gate_shares or {}, result.test.shares
    means = [] if shares is None else shares.mean(0).tolist()
    if len(own) != len(means) or not all(map(_is_same, own.values(), means)):
        raise _contradiction(result, "gate_shares", own, means)


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
