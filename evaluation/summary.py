"""The summary of a run's finished folds."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.consistency import check_scores
from evaluation.metrics import SCORES, confusion_matrix, recalls
from evaluation.results import RunSummary, ScoreSummary, side_by_side
from evaluation.significance import speaker_confusions, speaker_interval
from evaluation.tables import comparison_markdown
from storage.fold_folder import PredictionTable, TrainingIssues
from storage.ledger import count_test_evaluations
from storage.run_folder import FoldResult, Run, read_run
from system.files import write_json, write_text
from system.locks import lock


def summarize(folder: Path) -> RunSummary:
    """Write summary.json and summary.md over the folds that all seeds have finished; return it.

    Raises:
        InputError: No fold is finished.
        RunError: A file of the run is corrupt.
    """
    # Read and written under one lock, so that an older state never replaces a newer one
    with lock(folder / ".lock.summary", f"the summary of {folder}", blocking=True):
        summary = describe_run(read_run(folder))
        write_json(folder / "summary.json", asdict(summary))
        write_text(folder / "summary.md", comparison_markdown(side_by_side(summary)))
    return summary


def describe_run(run: Run) -> RunSummary:
    """Return all scores of a run.

    A score is averaged over the seeds of each fold first; mean and standard deviation (n - 1) are
    over folds; `seed_std` is over the seeds' means. `pooled` scores all test utterances together,
    once for each seed, and averages; its interval is over speakers. Recalls are pooled alike. The
    confusion counts an utterance once for each seed; `gate_mean` is over utterances and seeds.

    Raises:
        RunError: A file of the run is corrupt, or its scores are not those of its predictions.
    """
    check_scores(run)
    counts = by_speaker(run)  # (R, S, K, K)
    confusion = counts.sum((0, 1))
    recall = recalls(confusion)
    return RunSummary(
        name=run.name,
        fusion=run.config["model.fusion"],
        protocol=run.certificate["protocol"],
        certificate=run.certificate["id"],
        speaker_dependent=run.certificate["speaker_dependent"],
        classes=list(run.classes),
        folds=run.fold_numbers,
        seeds=run.seeds,
        n_folds=len(run.certificate["folds"]),
        n=int(confusion.sum()) // len(run.seeds),
        n_speakers=counts.shape[1],
        test={name: _score(run, counts, name) for name in SCORES},
        per_class_recall=[None if np.isnan(r) else float(r) for r in recall],
        confusion=confusion.tolist(),
        gate_mean=_gate_mean(run),
        missing_classes=_missing_classes(run),
        left_out=list(run.left_out),
        test_evaluations=count_test_evaluations(run.folder, run.certificate),
        training_issues=_training_issues(run),
        commits=sorted({str(fold.environment()["git_commit"]) for fold in run.folds}),
    )


def by_speaker(run: Run) -> NDArray:
    """Count test utterances by seed and speaker, target and prediction: (R, S, K, K)."""
    tables = [run.of_seed(seed) for seed in run.seeds]
    return np.stack([count_by_speaker(table, len(run.classes)) for table in tables])


def count_by_speaker(table: PredictionTable, n_classes: int) -> NDArray:
    """Count utterances by speaker, target and prediction: (S, K, K)."""
    columns = (table.targets.tolist(), table.preds.tolist(), table.speakers.tolist())
    return speaker_confusions(*columns, n_classes)[1]


def _gate_mean(run: Run) -> float | None:
    gates = [fold.test.gate for fold in run.folds if fold.test.gate is not None]
    return float(np.concatenate(gates).mean()) if len(gates) == len(run.folds) else None


def _training_issues(run: Run) -> dict[str, TrainingIssues]:
    """Return the training issues of the folds that had some."""
    return {
        f"fold {result.fold} seed {result.seed}": result.metrics.training_issues
        for result in run.folds
        if result.metrics.training_issues
    }


def _missing_classes(run: Run) -> dict[str, list[str]]:
    """Return {fold: classes without a test utterance} of the folds that lack some."""
    by_fold = {}
    for fold in run.folds:
        support = _confusion(fold).sum(1)
        missing = [name for name, n in zip(fold.classes, support, strict=True) if n == 0]
        if missing:
            by_fold[str(fold.fold)] = missing
    return by_fold


def _score(run: Run, counts: NDArray, name: str) -> ScoreSummary:
    score = SCORES[name]
    by_fold = {fold: _mean_of(run, name, "fold", fold) for fold in run.fold_numbers}
    by_seed = [_mean_of(run, name, "seed", seed) for seed in run.seeds]
    return ScoreSummary(
        mean=float(np.mean(list(by_fold.values()))),
        std=_std(list(by_fold.values())),
        seed_std=_std(by_seed),
        folds={str(fold): value for fold, value in by_fold.items()},
        pooled=float(np.mean(score(counts.sum(1)))),
        interval=speaker_interval(counts, score),
    )


def _mean_of(run: Run, name: str, key: str, value: int) -> float:
    """Return the mean test score of one fold over its seeds, or of one seed over its folds."""
    chosen = [fold for fold in run.folds if getattr(fold, key) == value]
    return float(np.mean([float(SCORES[name](_confusion(fold))) for fold in chosen]))


def _confusion(fold: FoldResult) -> NDArray:
    targets, preds = fold.test.targets.tolist(), fold.test.preds.tolist()
    return confusion_matrix(targets, preds, len(fold.classes))


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
