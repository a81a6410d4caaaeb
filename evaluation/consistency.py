"""Does metrics.json say what predictions.csv says? Scores are computed again and compared."""

from typing import Any

import numpy as np

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
        if abs(getattr(recorded, name) - found[name]) > ROUNDING:
            raise _contradiction(result, f"{split}.{name}", getattr(recorded, name), found[name])
    for name, kind in (("confusion", int), ("per_class_recall", float)):
        own, other = np.array(getattr(recorded, name), kind), np.array(found[name], kind)
        if own.shape != other.shape or not np.allclose(own, other, 0, ROUNDING, equal_nan=True):
            raise _contradiction(result, f"{split}.{name}", own.tolist(), other.tolist())


def _check_gate(result: FoldResult) -> None:
    recorded, gate = result.metrics.gate_mean, result.test.gate
    found = None if gate is None else float(gate.mean())
    if recorded is None and found is None:
        return
    if recorded is None or found is None or abs(recorded - found) > ROUNDING:
        raise _contradiction(result, "gate_mean", recorded, found)


def _contradiction(result: FoldResult, key: str, recorded: Any, found: Any) -> RunError:
    return RunError(
        f"{result.folder}: {METRICS} has {key} {short_repr(recorded)}, but {PREDICTIONS} gives "
        f"{short_repr(found)}: one of them was changed. Restore both from a copy, or remove "
        "the folder and run the same training command again"
    )
