"""The finished folds of a run become its summary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import SCORES, confusion_matrix, recalls
from evaluation.significance import speaker_confusions, speaker_interval
from evaluation.tables import comparison_markdown
from storage.ledger import test_evaluations
from storage.run_folder import FoldResult, Run, read_run
from system.files import write_json, write_text
from system.locks import lock

TROUBLES = ("bad_steps", "repairs", "alarms")  # a NaN in dev is repaired without a skipped step


def summarize(folder: Path) -> dict[str, Any]:
    """Write summary.json and summary.md over the folds that all seeds have finished; return it.

    Raises:
        InputError: No fold is finished.
        RunError: A file of the run is corrupt.
    """
    # Read and written under one lock, so that an older state never replaces a newer one
    with lock(folder / ".lock.summary", f"the summary of {folder}", blocking=True):
        summary = describe_run(read_run(folder))
        write_json(folder / "summary.json", summary)
        write_text(folder / "summary.md", comparison_markdown({**summary, "runs": [summary]}))
    return summary


def describe_run(run: Run) -> dict[str, Any]:
    """Return all scores of a run, ready for JSON.

    A score is averaged over the seeds of each fold first; mean and standard deviation (n - 1) are
    over folds; `seed_std` is over the seeds' means. `pooled` scores all test clips together, once
    for each seed, and averages; its interval resamples speakers. Recalls are pooled likewise, and
    the confusion counts every clip once for each seed. `gate_mean` is over clips and seeds.
    """
    each = by_speaker(run)  # (R, S, K, K)
    confusion = each.sum((0, 1))
    recall = recalls(confusion)
    return {
        "name": run.name,
        "fusion": run.config["model.fusion"],
        "protocol": run.certificate["protocol"],
        "certificate": run.certificate["id"],
        "speaker_dependent": run.certificate["speaker_dependent"],
        "classes": list(run.classes),
        "folds": run.fold_numbers,
        "seeds": run.seeds,
        "n_folds": len(run.certificate["folds"]),
        "n": int(confusion.sum()) // len(run.seeds),
        "n_speakers": each.shape[1],
        "test": {name: _score(run, each, name) for name in SCORES},
        "per_class_recall": [None if np.isnan(r) else float(r) for r in recall],
        "confusion": confusion.tolist(),
        "gate_mean": _gate_mean(run),
        "missing_classes": _missing_classes(run),
        "left_out": list(run.left_out),
        "looks": test_evaluations(run.folder, run.certificate),
        "trouble": _trouble(run),
        "commits": sorted({str(one.environment()["git_commit"]) for one in run.folds}),
    }


def by_speaker(run: Run) -> NDArray:
    """Count test clips by seed and speaker, target and prediction: (R, S, K, K)."""
    tables = [run.of_seed(seed) for seed in run.seeds]
    counted = [
        speaker_confusions(
            table.targets.tolist(), table.preds.tolist(), table.speakers.tolist(), len(run.classes)
        )[1]
        for table in tables
    ]
    return np.stack(counted)


def _gate_mean(run: Run) -> float | None:
    gates = [one.test.gate for one in run.folds if one.test.gate is not None]
    return float(np.concatenate(gates).mean()) if len(gates) == len(run.folds) else None


def _trouble(run: Run) -> dict[str, Any]:
    """Return what went wrong in the training of folds, of those where something did."""
    return {
        f"fold {one.fold} seed {one.seed}": trouble
        for one in run.folds
        if any((trouble := one.metrics.get("trouble", {})).get(key) for key in TROUBLES)
    }


def _missing_classes(run: Run) -> dict[str, list[str]]:
    """Return {fold: classes without a test clip} of the folds that lack some."""
    found = {}
    for one in run.folds:
        support = _confusion(one).sum(1)
        missing = [name for name, n in zip(one.classes, support, strict=True) if n == 0]
        if missing:
            found[str(one.fold)] = missing
    return found


def _score(run: Run, each: NDArray, name: str) -> dict[str, Any]:
    score = SCORES[name]
    by_fold = {fold: _mean_of(run, name, "fold", fold) for fold in run.fold_numbers}
    by_seed = [_mean_of(run, name, "seed", seed) for seed in run.seeds]
    return {
        "mean": float(np.mean(list(by_fold.values()))),
        "std": _std(list(by_fold.values())),
        "seed_std": _std(by_seed),
        "folds": {str(fold): value for fold, value in by_fold.items()},
        "pooled": float(np.mean(score(each.sum(1)))),
        "interval": speaker_interval(each, score),
    }


def _mean_of(run: Run, name: str, key: str, value: int) -> float:
    """Return the mean test score of the folds of one number, or of one seed."""
    chosen = [one for one in run.folds if getattr(one, key) == value]
    return float(np.mean([float(SCORES[name](_confusion(one))) for one in chosen]))


def _confusion(one: FoldResult) -> NDArray:
    return confusion_matrix(one.test.targets.tolist(), one.test.preds.tolist(), len(one.classes))


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
