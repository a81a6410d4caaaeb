"""What a training writes after its epochs: history.csv, and TensorBoard's curves.

Both are written after each epoch. Only an epoch of a head on kept features takes no longer than
that: there they are written every few seconds and at the end, with figures of the newest epoch.
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
    waiting: list[tuple[dict[str, float], Predictions]] = []
    written = time.monotonic()

    def write() -> None:
        nonlocal written
        if not waiting:
            return
        write_history(folder, state.progress.history)
        record, dev = waiting[-1]
        pairs = dev.targets.tolist(), dev.preds.tolist()
        confusion = confusion_matrix(*pairs, len(fold.classes))
        tracker.log_epoch(record, confusion, dev.gate, [earlier for earlier, _ in waiting[:-1]])
        waiting.clear()
        written = time.monotonic()

    def after_epoch(record: dict[str, float], dev: Predictions) -> None:
        waiting.append((record, dev))
        if time.monotonic() - written >= interval:
            write()
        watch(state.progress)

    try:
        yield after_epoch
    except BaseException:
        if interval:
            with suppress(RunError, OSError):  # the first error is the one that ends the training
                write()
        raise
    write()
