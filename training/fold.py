"""One fold with one seed: build, train, select on dev, test once, write the fold's folder."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.several import trained_on
from corpora.segments import segment_cells
from corpora.utterance import Utterance
from evaluation.tasks import task_facts
from storage.environment import STARTED, made_with_facts, record_environment
from storage.fold_folder import (
    STATE,
    WEIGHTS,
    FoldMetrics,
    PredictionTable,
    write_metrics,
    write_predictions,
)
from storage.folders import CARD, is_finished
from storage.kept_features import KeptFeatures
from storage.ledger import record_test_evaluation
from storage.model_card import write_model_card
from storage.tensors import load_tensors, save_tensors
from storage.training_range import training_range
from system.files import copy_file, make_folder, read_json
from system.locks import lock
from system.temporary import remove_leftovers
from training.beside import source_facts
from training.build import build_training, eval_loader
from training.checkpoints import Checkpoints, Progress
from training.device_errors import explain_device_errors
from training.distributed import from_first, on_all_processes
from training.divergence import Diverged
from training.engine import fit
from training.epoch_files import epoch_files
from training.evaluate import Predictions, evaluate
from training.frozen_branches import HeadOnly
from training.resume_with import check_fold
from training.same_sources import keep_sources
from training.saver import Spacing
from training.session import Fold
from training.state import TrainingState
from training.trackers import FoldTrackers, final_scores, fold_trackers
from training.warm_start import check_started, find_origins, with_origins

log = logging.getLogger(__name__)


def run_fold(fold: Fold) -> None:
    """Train and test one fold; resume if interrupted, skip if finished.

    Raises:
        RunError: Training diverged, a file could not be written (the last state is kept), or
            another process is at work on this fold.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    session, settings, start = fold.session, fold.config.train, time.monotonic()
    checkpoints = Checkpoints(fold.folder / STATE)
    with claimed(fold, checkpoints) as is_open:
        if not is_open:
            return
        from_first(lambda: check_fold(fold))
        keep_sources(fold)
        origins = find_origins(fold)
        fold = with_origins(fold, origins)
        made_with = from_first(lambda: record_environment(fold.folder, fold.session.environment))
        state, train_loader, kept = build_training(fold, origins)
        dev_loader = eval_loader(fold, fold.split.dev, kept)
        with fold_trackers(fold, fold.folder) as trackers:
            with epoch_files(fold, fold.folder, state, trackers) as after_epoch:
                fit(
                    state,
                    train_loader,
                    dev_loader,
                    epochs=settings.epochs,
                    patience=settings.patience,
                    checkpoints=checkpoints,
                    spacing=Spacing(settings.checkpoint_epochs, settings.checkpoint_minutes),
                    after_epoch=after_epoch,
                    resume_with=session.resume_with,
                )
            load_best(fold, state, checkpoints)
            with session.stop.deferred():  # an interrupted test would be evaluated a second time
                _test(fold, state, kept, made_with, start, trackers)
                if session.is_main:
                    checkpoints.remove()
        session.accelerator.free_memory()


@contextmanager
def claimed(fold: Fold, checkpoints: Checkpoints) -> Iterator[bool]:
    """Hold the fold's folder for this training; yield whether there is something to train."""
    session, folder = fold.session, fold.folder
    with ExitStack() as held:
        with on_all_processes():
            if session.is_main:
                make_folder(folder / STATE, inside=session.folder)
                place = folder / STATE / "lock"
                held.enter_context(lock(place, f"{fold.name} in {session.folder}"))
                for place in (folder, folder / STATE):
                    remove_leftovers(place)
        finished = from_first(lambda: is_finished(folder))
        if finished:
            log.info("%s is finished", fold.name)
            if session.is_main:
                checkpoints.remove()  # a kill may have left them
        else:
            sizes = (len(part) for _, part in fold.split.parts())
            log.info("%s: train %d, dev %d, test %d utterances", fold.name, *sizes)
        with explain_device_errors(fold.config, session.accelerator.device, session.stop):
            yield not finished


def train_fold(
    fold: Fold,
    folder: Path,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train on the train split and select on dev, or resume; the test split is not opened.

    Args:
        fold: The training.
        folder: Folder for history and curves; its folder `state` gets states and best weights.
        watch: Called with the progress after each epoch, before its state is saved; may raise.

    Raises:
        InputError: A branch cannot start from the run that the config names.
        RunError: Training diverged or a file could not be written; the last state is kept.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    settings, session = fold.config.train, fold.session
    check_started(fold.config)  # what a study varies may not fit its origins
    with explain_device_errors(fold.config, session.accelerator.device, session.stop):
        state, train_loader, kept = build_training(fold, find_origins(fold))
        dev_loader = eval_loader(fold, fold.split.dev, kept)
        with (
            fold_trackers(fold, folder) as trackers,
            epoch_files(fold, folder, state, trackers, watch) as after_epoch,
        ):
            return fit(
                state,
                train_loader,
                dev_loader,
                epochs=settings.epochs,
                patience=settings.patience,
                checkpoints=Checkpoints(folder / STATE),
                spacing=Spacing(settings.checkpoint_epochs, settings.checkpoint_minutes),
                after_epoch=after_epoch,
            )


def load_best(fold: Fold, state: TrainingState, checkpoints: Checkpoints) -> None:
    """Load the weights of the best epoch, and write them with their model card."""
    best = checkpoints.best(state.progress.best_epoch)
    state.model.load_state_dict(from_first(lambda: load_tensors(best)))
    if fold.session.is_main:
        recordings = fold.session.plan.recordings
        if isinstance(state.model, HeadOnly):
            save_tensors(fold.folder / WEIGHTS, state.model.whole.state_dict())
        else:
            copy_file(best, fold.folder / WEIGHTS)
        write_model_card(
            fold.folder,
            model=asdict(state.model.settings),  # type: ignore[call-overload]
            features=fold.session.store.settings,
            classes=fold.classes,
            corpus=trained_on(fold.config),
            certificate=fold.session.plan.certificate,
            fold=fold.number,
            seed=fold.seed,
            training_data=training_range([recordings[u.audio].facts for u in fold.split.train]),
            started_from=fold.session.environment.get(STARTED, {}),
            sources=source_facts(fold.session.sources),
            **task_facts(fold.task),
        )


def _test(
    fold: Fold,
    state: TrainingState,
    kept: KeptFeatures | None,
    made_with: Mapping[str, Any],
    start: float,
    trackers: FoldTrackers,
) -> None:
    """Evaluate the frozen best weights: dev again, then test, once, recorded in the ledger.

    The line is written when all predictions of the test are there, before any is written or shown.
    So a test whose outcome anyone can know is in the ledger, whatever happens next; a process that
    dies earlier leaves no line, since nobody learnt anything. One that dies between the line and
    metrics.json is tested again, and has a second line.
    """
    session, folder = fold.session, fold.folder
    parts = {"dev": fold.split.dev, "test": fold.split.test}
    why = f"test after selection of epoch {state.progress.best_epoch} on dev"
    predictions = {}
    for name, part in parts.items():
        loader, ids = eval_loader(fold, part, kept), fold.ids(part)
        try:
            predictions[name] = evaluate(state.wrapped, loader, session.accelerator, ids, fold.task)
        except Diverged as error:
            if name == "test":
                _record_test(fold, f"{why}: {error}")
            rates, precision = state.schedule.rates(), fold.config.train.precision
            raise error.because(rates, precision) from error
    _record_test(fold, why)
    if session.is_main:
        tables = {name: _table(part, predictions[name]) for name, part in parts.items()}
        segments = segment_cells(session.plan.utterances)
        reads = fold.config.model.reads
        write_predictions(folder, fold.classes, tables, segments, fold.task.kind, reads)
        seconds = round(time.monotonic() - start, 1)
        record_environment(folder, {**session.environment, "seconds": seconds})
        metrics = _metrics(fold, predictions, state.progress, made_with)
        trackers.close(state.progress.history, final_scores(metrics))
        write_metrics(folder, metrics)
    session.accelerator.wait_for_everyone()


def _record_test(fold: Fold, why: str) -> None:
    if fold.session.is_main:
        card, n = read_json(fold.folder / CARD), len(fold.split.test)
        record_test_evaluation(fold.session.folder, card, n, fold.folder, "test", why)


def _table(utterances: Sequence[Utterance], predictions: Predictions) -> PredictionTable:
    gate = predictions.gate
    return PredictionTable(
        np.array([utterance.id for utterance in utterances]),
        np.array([utterance.speaker for utterance in utterances]),
        predictions.targets,
        predictions.preds,
        predictions.probs,
        None if gate is None or gate.ndim > 2 else gate.mean(1),
        None if gate is None or gate.ndim < 3 else gate.mean(2),
    )


def _shares(fold: Fold, gate: NDArray | None) -> dict[str, float] | None:
    """Return the mean share of each source, of sources other than both images: (N, n, D)."""
    if gate is None or gate.ndim < 3:
        return None
    return dict(zip(fold.config.model.reads, gate.mean((0, 2)).tolist(), strict=True))


def _metrics(
    fold: Fold,
    predictions: Mapping[str, Predictions],
    progress: Progress,
    made_with: Mapping[str, Any],
) -> FoldMetrics:
    dev, test = (
        fold.task.scores(part.targets, part.preds, part.probs)
        for part in (predictions["dev"], predictions["test"])
    )
    gate = predictions["test"].gate
    return FoldMetrics(
        protocol=fold.session.plan.certificate["protocol"],
        certificate=fold.session.plan.certificate["id"],
        fold=fold.split.fold,
        seed=fold.seed,
        classes=fold.classes,
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        training_issues=progress.training_issues(),
        dev=dev,
        test=test,
        gate_mean=None if gate is None or gate.ndim > 2 else float(gate.mean()),
        gate_shares=_shares(fold, gate),
        made_with=made_with_facts(made_with),
        **task_facts(fold.task),
    )
