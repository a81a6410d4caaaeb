"""What a training writes after its epochs: history.csv, and TensorBoard's curves.

Both are written after each epoch. Only an epoch of a head on kept features takes no longer than
that: there they are written every few seconds and at the end, with figures of the newest epoch. A
killed process may have saved epochs without them: the next one writes those of all epochs again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evaluation.metrics import confusion_matrix
from storage.fold_folder import write_history
from system.errors import RunError
from training.checkpoints import Progress
from training.evaluate import Predictions
from training.session import Fold
from training.state import TrainingState
from training.tensorboard import Tracker

INTERVAL_OF_HEADS = 10.0  # seconds

AfterEpoch = Callable[[dict[str, float], Predictions], None]


@contextmanager
def epoch_files(
    fold: Fold,
    folder: Path,
    state: TrainingState,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[AfterEpoch]:
    """Yield what takes each row of the history and the dev predictions, and writes them.

    Args:
        fold: The training.
        folder: Folder of the files.
        state: Its progress has the history.
        watch: Called with the progress after each epoch; may raise.

    Raises:
        RunError: A file could not be written.
    """
    tracker = Tracker(folder, fold.classes)
    interval = INTERVAL_OF_HEADS if fold.config.train.features == "frozen" else 0.0
    newest: Predictions | None = None  # whose figures are not written yet
    last, written = 0, time.monotonic()  # epoch whose numbers are in this process's curves

    def write() -> None:
        nonlocal last, newest, written
        write_history(folder, state.progress.history)
        *earlier, record = [row for row in state.progress.history if row["epoch"] > last]
        confusion = gate = None
        if newest is not None:
            pairs = newest.targets.tolist(), newest.preds.tolist()
            confusion, gate = confusion_matrix(*pairs, len(fold.classes)), newest.gate
        tracker.log_epoch(record, confusion, gate, earlier)
        last, newest, written = state.progress.epoch, None, time.monotonic()

    def write_late() -> None:
        if interval and fold.session.is_main and state.progress.epoch > last:
            write()

    def after_epoch(record: dict[str, float], dev: Predictions) -> None:
        nonlocal last, newest
        newest, before = dev, int(record["epoch"]) - 1
        last = min(last, before) if interval else before
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
