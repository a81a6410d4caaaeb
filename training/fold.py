"""One fold with one seed: build, train, select on dev, test once, write the fold's folder."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from evaluation.metrics import scores
from storage.ledger import record_test_evaluation
from storage.tensors import load_tensors
from system.disk import make_folder, remove_leftovers
from system.files import copy_file, read_json, write_csv, write_json
from system.locks import alone
from training.build import build_training, eval_loader
from training.checkpoints import Checkpoints, Progress
from training.divergence import Diverged
from training.engine import fit
from training.evaluate import Predictions, evaluate
from training.results import write_metrics, write_model_card, write_predictions
from training.session import Fold
from training.state import TrainingState
from training.tensorboard import Tracker

log = logging.getLogger(__name__)


def run_fold(fold: Fold) -> None:
    """Train and test one fold; resume if interrupted, skip if finished.

    Raises:
        RunError: Training diverged, a file could not be written (the last state is kept), or
            another process is at work on this fold.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    session, folder = fold.session, fold.folder
    if session.is_main:
        make_folder(folder / "state", inside=session.folder)
    lock = alone(folder / "state" / "lock", f"{fold.name} in {session.folder}")
    with lock if session.is_main else nullcontext():
        for place in (folder, folder / "state"):
            remove_leftovers(place)
        checkpoints = Checkpoints(folder / "state")
        if (folder / "metrics.json").exists():
            log.info("%s is finished", fold.name)
            checkpoints.remove()  # a kill may have left them
            return
        sizes = (len(part) for _, part in fold.split.parts())
        log.info("%s: train %d, dev %d, test %d utterances", fold.name, *sizes)
        start = time.monotonic()
        state, train_loader = build_training(fold)
        dev_loader = eval_loader(fold, fold.split.dev)
        settings, write = fold.config.train, _epoch_writer(fold, folder, state)
        fit(
            *(state, train_loader, dev_loader, settings.epochs, settings.patience),
            *(checkpoints, settings.checkpoint_minutes, write),
        )
        _load_best(fold, state, checkpoints)
        with session.stop.deferred():  # an interrupted test would be evaluated a second time
            _test(fold, state, start)
            if session.is_main:
                checkpoints.remove()
        session.accelerator.free_memory()


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
        RunError: Training diverged or a file could not be written; the last state is kept.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    state, train_loader = build_training(fold)
    dev_loader = eval_loader(fold, fold.split.dev)
    settings, write = fold.config.train, _epoch_writer(fold, folder, state, watch)
    return fit(
        *(state, train_loader, dev_loader, settings.epochs, settings.patience),
        *(Checkpoints(folder / "state"), settings.checkpoint_minutes, write),
    )


def _epoch_writer(
    fold: Fold,
    folder: Path,
    state: TrainingState,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Callable[[dict[str, float], Predictions], None]:
    """Return what writes history.csv and curves after an epoch, then calls `watch`."""
    tracker = Tracker(folder, fold.classes)

    def after_epoch(record: dict[str, float], dev: Predictions) -> None:
        history = state.progress.history
        write_csv(folder / "history.csv", list(record), [list(row.values()) for row in history])
        confusion = scores(dev.targets.tolist(), dev.preds.tolist(), len(fold.classes))["confusion"]
        tracker.log_epoch(record, np.array(confusion), dev.gate)
        watch(state.progress)

    return after_epoch


def _load_best(fold: Fold, state: TrainingState, checkpoints: Checkpoints) -> None:
    """Load the weights of the best epoch, and write them with their model card."""
    best = checkpoints.best(state.progress.best_epoch)
    state.model.load_state_dict(load_tensors(best))
    if fold.session.is_main:
        copy_file(best, fold.folder / "model.safetensors")
        write_model_card(fold, fold.folder, state.model)


def _test(fold: Fold, state: TrainingState, start: float) -> None:
    """Evaluate the frozen best weights: dev again, then test, once, recorded in the ledger."""
    session, folder = fold.session, fold.folder
    parts = {"dev": fold.split.dev, "test": fold.split.test}
    if session.is_main:
        card, n = read_json(folder / "model.json"), len(fold.split.test)
        why = f"test after selection of epoch {state.progress.best_epoch} on dev"
        record_test_evaluation(session.folder, card, n, folder, "test", why)
    predictions = {}
    for name, part in parts.items():
        loader, ids = eval_loader(fold, part), fold.ids(part)
        try:
            predictions[name] = evaluate(state.wrapped, loader, session.accelerator, ids)
        except Diverged as error:
            rates, precision = state.schedule.rates(), fold.config.train.precision
            raise error.because(rates, precision) from error
    if session.is_main:
        write_predictions(fold, folder, parts, predictions)
        seconds = round(time.monotonic() - start, 1)
        write_json(folder / "environment.json", {**session.environment, "seconds": seconds})
        write_metrics(fold, folder, predictions, state.progress)
    session.accelerator.wait_for_everyone()
