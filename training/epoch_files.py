"""What a training writes after its epochs: history.csv, and what its trackers show.

Both are written after each epoch. Only an epoch of a head on kept features takes no longer than
that: there they are written every few seconds and at the end, with figures of the newest epoch. A
killed process may have saved epochs without them: the next one writes what is missing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.fold_folder import write_history
from system.errors import RunError
from training.checkpoints import Progress
from training.engine import AfterEpoch
from training.evaluate import Predictions
from training.session import Fold
from training.state import TrainingState
from training.trackers import FoldTrackers

INTERVAL_OF_HEADS = 10.0  # seconds


@contextmanager
def epoch_files(
    fold: Fold,
    folder: Path,
    state: TrainingState,
    trackers: FoldTrackers,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[AfterEpoch]:
    """Yield what takes each row of the history and the dev predictions, if any, and writes them.

    Args:
        fold: The training.
        folder: Folder of the files.
        state: Its progress has the history.
        trackers: Get the history and the figures of its newest epoch.
        watch: Called with the progress after each epoch; may raise.

    Raises:
        RunError: A file could not be written.
    """
    interval = INTERVAL_OF_HEADS if fold.config.train.features == "frozen" else 0.0
    newest: Predictions | None = None  # whose figures are not written yet
    last: int | None = None  # epoch before the first that was trained and is not written yet
    written = time.monotonic()

    def write() -> None:
        nonlocal last, newest, written
        history, epoch = state.progress.history, state.progress.epoch
        write_history(folder, history)
        confusion = gate = None
        if newest is not None:
            confusion, gate = fold.task.confusion(newest.targets, newest.preds), newest.gate
        trackers.log_epoch(history, confusion, gate, 0 if last is None else epoch - last)
        last, newest, written = epoch, None, time.monotonic()

    def write_late() -> None:
        is_late = last is None or state.progress.epoch > last
        if interval and fold.session.is_main and state.progress.history and is_late:
            write()

    def after_epoch(record: dict[str, float], dev: Predictions | None) -> None:
        nonlocal last, newest
        newest, before = dev, int(record["epoch"]) - 1
        last = before if last is None or not interval else min(last, before)
        if time.monotonic() - written >= interval:
            write()
        watch(state.progress)

    try:
        yield after_epoch
    except BaseException:
        with suppress(RunError, OSError):  # the first error is the one that ends the training
            write_late()
        raise
    write_late()
