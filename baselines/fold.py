"""One fold of a baseline: fit on train, choose on dev, test once, write the fold's folder."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.fitted import Fitted
from baselines.session import BaselineSession
from config.several import trained_on
from corpora.segments import segment_cells
from corpora.utterance import Utterance
from evaluation.tasks import task_facts
from storage.environment import made_with_facts, record_environment
from storage.fold_folder import (
    STATE,
    WEIGHTS,
    FoldMetrics,
    PredictionTable,
    write_history,
    write_metrics,
    write_predictions,
)
from storage.folders import CARD, is_finished
from storage.ledger import record_test_evaluation
from storage.model_card import write_baseline_card
from storage.tensors import save_tensors
from system.files import make_folder, read_json
from system.locks import lock
from system.temporary import remove_leftovers
from training.session import Fold

log = logging.getLogger(__name__)


def run_fold(baseline: BaselineSession, fold: Fold) -> None:
    """Fit and test a baseline on one fold; skip it if finished.

    Args:
        baseline: The opened run.
        fold: One of its folds with a seed.

    Raises:
        RunError: A file could not be written.
        KeyboardInterrupt: The process was asked to end.
    """
    with _claimed(fold) as is_open:
        if not is_open:
            return
        start = time.monotonic()
        made_with = record_environment(fold.folder, fold.session.environment)
        fitted = baseline.fit(fold)  # sees train and dev
        chosen = ", ".join(f"{key} {_shown(value)}" for key, value in fitted.choice.items())
        log.info("%s: %s", fold.name, chosen or "nothing to choose")
        with fold.session.stop.deferred():  # an interrupted test would be evaluated a second time
            _write_model(baseline, fold, fitted)
            _test(baseline, fold, fitted, made_with, start)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _claimed(fold: Fold) -> Iterator[bool]:
    """Hold the fold's folder; yield whether there is something to do. A second process waits."""
    make_folder(fold.folder / STATE, inside=fold.session.folder)
    place = fold.folder / STATE / "lock"
    with lock(place, f"{fold.name} in {fold.session.folder}", blocking=True):
        remove_leftovers(fold.folder)
        if finished := is_finished(fold.folder):
            log.info("%s is finished", fold.name)
        yield not finished


def _write_model(baseline: BaselineSession, fold: Fold, fitted: Fitted) -> None:
    save_tensors(fold.folder / WEIGHTS, fitted.tensors)
    if fitted.history:
        write_history(fold.folder, fitted.history)
    write_baseline_card(
        fold.folder,
        baseline={**baseline.config.baseline.model_dump(exclude_none=True), **fitted.choice},
        classes=fold.classes,
        corpus=trained_on(fold.config),
        certificate=fold.session.plan.certificate,
        fold=fold.split.fold,
        seed=fold.seed,
    )


def _test(
    baseline: BaselineSession,
    fold: Fold,
    fitted: Fitted,
    made_with: Mapping[str, Any],
    start: float,
) -> None:
    """Predict dev and test with what was chosen; the ledger first, as in `training.fold`."""
    session, folder = fold.session, fold.folder
    parts = {"dev": fold.split.dev, "test": fold.split.test}
    probs = {name: fitted.predict(part) for name, part in parts.items()}
    kind = baseline.config.baseline.kind
    why = f"test of the baseline {kind}, chosen on dev"
    card = read_json(folder / CARD)
    record_test_evaluation(session.folder, card, len(parts["test"]), folder, "test", why)
    tables = {name: _table(fold, part, probs[name]) for name, part in parts.items()}
    segments = segment_cells(session.plan.utterances)
    write_predictions(folder, fold.classes, tables, segments, fold.task.kind)
    seconds = round(time.monotonic() - start, 1)
    record_environment(folder, {**session.environment, "seconds": seconds})
    write_metrics(folder, _metrics(fold, fitted, tables, made_with))


def _table(fold: Fold, utterances: Sequence[Utterance], probs: NDArray) -> PredictionTable:
    return PredictionTable(
        np.array([utterance.id for utterance in utterances]),
        np.array([utterance.speaker for utterance in utterances]),
        np.array(fold.targets(utterances)),
        fold.task.preds(probs),
        probs,
        None,
    )


def _metrics(
    fold: Fold,
    fitted: Fitted,
    tables: Mapping[str, PredictionTable],
    made_with: Mapping[str, Any],
) -> FoldMetrics:
    dev, test = (
        fold.task.scores(table.targets, table.preds, table.probs)
        for table in (tables["dev"], tables["test"])
    )
    certificate = fold.session.plan.certificate
    return FoldMetrics(
        protocol=certificate["protocol"],
        certificate=certificate["id"],
        fold=fold.split.fold,
        seed=fold.seed,
        classes=fold.classes,
        best_epoch=fitted.best_epoch,
        epochs=len(fitted.history),
        dev=dev,
        test=test,
        made_with=made_with_facts(made_with),
        **task_facts(fold.task),
    )
