"""The summary of a run's finished folds."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.effects import FEATURES, FROZEN
from corpora.certificate import describe_corpus
from evaluation.consistency import check_scores
from evaluation.layer_table import layer_weights, layers_markdown
from evaluation.metrics import recalls
from evaluation.results import RunSummary, ScoreSummary, side_by_side
from evaluation.significance import speaker_interval
from evaluation.tables import comparison_markdown
from evaluation.tasks import Task, task_of
from storage.audio_lists import read_unread_audio
from storage.environment import STARTED, distinct_facts, sessions
from storage.fold_folder import TrainingIssues
from storage.ledger import count_runs_before, count_test_evaluations
from storage.run_folder import Run, read_run
from storage.scores import Scores
from storage.tracker_files import read_tracker_failures
from system.errors import InputError, RunError
from system.files import write_json, write_text
from system.locks import lock

SHARE = 0.1  # largest share of the time in which summaries of some folds are written


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
        tables = [comparison_markdown(side_by_side(summary)), *layers_markdown([summary])]
        write_text(folder / "summary.md", "\n\n".join(block.rstrip() for block in tables) + "\n")
    return summary


@contextmanager
def summaries(folder: Path, is_main: bool = True) -> Iterator[Callable[[], None]]:
    """Yield what writes the summary after a fold; the last fold is always in it.

    It reads all folds again. So where folds take seconds, a summary is skipped that would come
    sooner than ten times the seconds of the last one.

    Args:
        folder: The run folder.
        is_main: Whether this process writes.
    """
    due, is_waiting = time.monotonic(), False

    def write() -> None:
        nonlocal due, is_waiting
        start = time.monotonic()
        summarize(folder)
        end = time.monotonic()
        due, is_waiting = end + (end - start) / SHARE, False

    def after_fold() -> None:
        nonlocal is_waiting
        is_waiting = is_main
        if is_waiting and time.monotonic() >= due:
            write()

    try:
        yield after_fold
    except BaseException:
        if is_waiting:
            with suppress(InputError, RunError):  # the first error is the one that ends the run
                write()
        raise
    if is_waiting:
        write()


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
    task, counts = task_of(run.folds[0]), by_speaker(run)  # (R, S, K, K), or (R, S, A, B)
    confusion, recall = _confusions(run)
    return RunSummary(
        name=run.name,
        fusion=run.method,
        baseline=run.is_baseline,
        frozen=run.config.get(FEATURES) == FROZEN,
        branch_seed=run.config.get("model.from_seed"),
        corpus=corpus_of(run)["name"],
        synthetic=corpus_of(run)["synthetic"],
        task=task.kind,
        protocol=run.certificate["protocol"],
        certificate=run.certificate["id"],
        speaker_dependent=run.certificate["speaker_dependent"],
        classes=list(run.classes),
        folds=run.fold_numbers,
        seeds=run.seeds,
        n_folds=len(run.certificate["folds"]),
        n=sum(fold.metrics.test.n for fold in run.folds) // len(run.seeds),
        n_speakers=counts.shape[1],
        test={name: _score(run, counts, name, task) for name in task.measures},
        per_class_recall=[None if np.isnan(r) else float(r) for r in recall],
        confusion=confusion,
        gate_mean=_gate_mean(run),
        gate_shares=_gate_shares(run),
        layer_weights=layer_weights(run),
        missing_classes=_missing_classes(run),
        left_out=list(run.left_out),
        test_evaluations=count_test_evaluations(run.folder, run.certificate),
        runs_before=count_runs_before(run.folder, run.certificate),
        unknown_origin="stamp" in run.certificate.get(STARTED, {}),
        shared_texts=_shared_texts(run),
        training_issues=_training_issues(run),
        tracker_failures=_tracker_failures(run),
        unread_audio=read_unread_audio(run.folder),
        commits=sorted({str(e.get("git_commit")) for e in sessions_of(run)}),
        made_with=distinct_facts(fold.environment() for fold in run.folds),
    )


def sessions_of(run: Run) -> list[dict[str, Any]]:
    """Return what each session that trained a fold of a run was made with."""
    return [session for fold in run.folds for session in sessions(fold.environment())]


def by_speaker(run: Run) -> NDArray:
    """Count test utterances by seed and speaker, target and prediction: (R, S, K, K).

    Of other tasks, the sums of `Task.by_speaker`: (R, S, A, B).
    """
    task = task_of(run.folds[0])
    return np.stack([task.by_speaker(run.of_seed(seed)) for seed in run.seeds])


def by_fold_and_speaker(run: Run) -> tuple[NDArray, list[str], list[int]]:
    """Count test utterances by seed, and by speaker of a fold, target and prediction.

    Returns:
        Counts (R, C, K, K), or sums as `by_speaker`; speaker and fold of each, (C,).
    """
    task, counts, speakers, folds = task_of(run.folds[0]), [], [], []
    for fold in run.fold_numbers:
        tables = [of.test for of in sorted(run.folds, key=lambda of: of.seed) if of.fold == fold]
        names = sorted(set(tables[0].speakers.tolist()))
        counts.append(np.stack([task.by_speaker(table) for table in tables]))
        speakers += names
        folds += [fold] * len(names)
    return np.concatenate(counts, axis=1), speakers, folds


def _confusions(run: Run) -> tuple[list[list[int]], NDArray]:
    """Return counts over folds and seeds by target and prediction, and recalls; empty of ratings.

    Shape:
        (K, K), (K,)
    """
    found = [fold.metrics.test for fold in run.folds if isinstance(fold.metrics.test, Scores)]
    if not found:
        return [], np.empty(0)
    confusion = np.sum([scores.confusion for scores in found], axis=0)
    return confusion.tolist(), recalls(confusion)


def corpus_of(run: Run) -> Mapping[str, Any]:
    """Return name and kind of the corpus, as they were when the run was made."""
    of_config = (run.config[f"corpus.{key}"] for key in ("name", "root", "manifest"))
    found: Mapping[str, Any] = run.certificate.get("corpus") or describe_corpus(*of_config)
    return found


def _shared_texts(run: Run) -> dict[str, int]:
    """Return {fold: number of texts in train and test} of the folds where there are some."""
    counts = {
        str(fold["fold"]): fold.get("text_in_train_and_test", {}).get("texts", 0)
        for fold in run.certificate["folds"]
        if fold["fold"] in run.fold_numbers
    }
    return {fold: n for fold, n in counts.items() if n}


def _gate_mean(run: Run) -> float | None:
    gates = [fold.test.gate for fold in run.folds if fold.test.gate is not None]
    return float(np.concatenate(gates).mean()) if len(gates) == len(run.folds) else None


def _gate_shares(run: Run) -> dict[str, float] | None:
    shares = [fold.test.shares for fold in run.folds if fold.test.shares is not None]
    if len(shares) < len(run.folds):
        return None
    means = np.concatenate(shares).mean(0).tolist()
    return dict(zip(run.folds[0].metrics.gate_shares or (), means, strict=True))


def _training_issues(run: Run) -> dict[str, TrainingIssues]:
    """Return the training issues of the folds that had some."""
    return {
        f"fold {result.fold} seed {result.seed}": result.metrics.training_issues
        for result in run.folds
        if result.metrics.training_issues
    }


def _tracker_failures(run: Run) -> dict[str, dict[str, str]]:
    """Return the reasons by tracker of the folds of which some tracker lacks a part."""
    found = {f"fold {r.fold} seed {r.seed}": read_tracker_failures(r.folder) for r in run.folds}
    return {fold: failures for fold, failures in found.items() if failures}


def _missing_classes(run: Run) -> dict[str, list[str]]:
    """Return {fold: classes without a test utterance} of the folds that lack some."""
    by_fold = {}
    for fold in run.folds:
        test = fold.metrics.test
        recall = test.per_class_recall if isinstance(test, Scores) else ()
        missing = [name for name, r in zip(fold.classes, recall, strict=False) if r is None]
        if missing:
            by_fold[str(fold.fold)] = missing
    return by_fold


def _score(run: Run, counts: NDArray, name: str, task: Task) -> ScoreSummary:
    score, scale = task.measures[name].score, task.measures[name].scale
    by_fold = {fold: _mean_of(run, name, "fold", fold) for fold in run.fold_numbers}
    by_seed = [_mean_of(run, name, "seed", seed) for seed in run.seeds]
    return ScoreSummary(
        mean=float(np.mean(list(by_fold.values()))),
        std=_std(list(by_fold.values())),
        seed_std=_std(by_seed),
        folds={str(fold): value for fold, value in by_fold.items()},
        pooled=float(np.mean(score(counts.sum(1)))),
        interval=speaker_interval(counts, score, scale=scale),
    )


def _mean_of(run: Run, name: str, key: str, value: int) -> float:
    """Return the mean test score of one fold over its seeds, or of one seed over its folds."""
    chosen = [fold for fold in run.folds if getattr(fold, key) == value]
    return float(np.mean([fold.metrics.test.named()[name] for fold in chosen]))


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
