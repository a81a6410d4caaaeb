"""The trackers of one fold. One that fails says so once, and the training goes on without it."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from numpy.typing import NDArray

from config.schema import Config
from config.trackers import check_trackers
from evaluation.tasks import make_task
from storage.epoch_table import write_epoch_table
from storage.fold_folder import FoldMetrics
from storage.tracker_files import write_tracker_failures
from system.errors import first_line
from system.text import truncate
from training.mlflow_tracker import MlflowRun
from training.session import Fold
from training.tensorboard import Tracker as TensorBoard
from training.tracked_fold import FAILED, FINISHED, STOPPED, hyperparameters, tracked_fold
from training.wandb_tracker import WandbRun, check_wandb

log = logging.getLogger(__name__)

AGAIN = "What it lacks is written at the end of the fold, if that is possible then"
LOST = "It lacks a part of this fold, which history.csv and metrics.json have"
SECRET = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")  # ends of variables of the environment
History = Sequence[Mapping[str, float]]


class FoldTracker(Protocol):
    """What a tracker does; each call may raise anything."""

    name: str

    def start(self) -> None:
        """Begin, or resume; a second call does nothing."""

    def log_epoch(
        self, history: History, confusion: NDArray | None, gate: NDArray | None, n_new: int = 1
    ) -> None:
        """Write the epochs of the history that are missing, see `FoldTrackers.log_epoch`."""

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Write the scores of the finished fold, once; step is the number of its epochs."""

    def end(self, status: str) -> None:
        """End as FINISHED, FAILED or STOPPED."""


class EpochTable:
    """Writes epochs.csv of the run folder.

    Args:
        folder: The run folder.
    """

    name = "csv"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Do nothing."""

    def log_epoch(
        self, history: History, confusion: NDArray | None, gate: NDArray | None, n_new: int = 1
    ) -> None:
        """Write the epochs of all folds; those of this fold are in its history.csv."""
        write_epoch_table(self.folder)

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Do nothing: metrics.json and summary.json have them."""

    def end(self, status: str) -> None:
        """Do nothing."""


class TrackerError(Exception):
    """A tracker failed; its words name no secret."""


class FoldTrackers:
    """The trackers of a fold, on the process that writes.

    Args:
        trackers: In the order of `run.trackers`.
        folder: Folder of the fold.
    """

    def __init__(self, trackers: Sequence[FoldTracker], folder: Path) -> None:
        self.trackers, self.folder = trackers, folder
        self.failures: dict[str, str] = {}  # reasons by name
        self._is_closed = False

    def start(self) -> None:
        """Start all."""
        for tracker in self.trackers:
            self._attempt(tracker, tracker.start)

    def log_epoch(
        self, history: History, confusion: NDArray | None, gate: NDArray | None, n_new: int = 1
    ) -> None:
        """Write the newest epochs to each that has not failed, and earlier ones where missing.

        Args:
            history: Rows of all epochs.
            confusion: Dev confusion of the last (K, K), if it is known.
            gate: Its dev gate, (N, D) or (N, n, D) of n sources, if there is one.
            n_new: Number of the last rows that were trained since the last call; they replace what
                an earlier process may have written of them, where a tracker can do that.
        """
        for tracker in self.trackers:
            if tracker.name not in self.failures:
                work = partial(tracker.log_epoch, history, confusion, gate, n_new)
                self._attempt(tracker, work)

    def close(self, history: History, scores: Mapping[str, float]) -> None:
        """Write the scores, end all, and record which lack something; try those that failed again.

        Args:
            history: Rows of all epochs.
            scores: Scores of the finished fold by tag.

        Raises:
            RunError: The record of failures cannot be written.
        """
        self._is_closed = True
        failed, self.failures = self.failures, {}
        for tracker in self.trackers:
            earlier = history if tracker.name in failed else ()
            work = partial(_complete, tracker, earlier, scores, len(history))
            if not self._attempt(tracker, work, "" if earlier else LOST):
                self._attempt(tracker, partial(tracker.end, FAILED), "")
        write_tracker_failures(self.folder, self.failures)

    def stop(self, status: str) -> None:
        """End all, if they were not closed: the training was stopped, or failed."""
        if not self._is_closed:
            for tracker in self.trackers:
                words = "" if tracker.name in self.failures else LOST
                self._attempt(tracker, partial(tracker.end, status), words)

    def _attempt(self, tracker: FoldTracker, work: Callable[[], None], words: str = AGAIN) -> bool:
        """Let a tracker do something; return whether it did, and keep the reason if not.

        Args:
            tracker: The tracker.
            work: What it does.
            words: What a failure means, for the warning; none gives no warning.
        """
        try:
            with _errors():
                work()
        except TrackerError as error:
            self.failures.setdefault(tracker.name, str(error))
            if words:
                what = f"{self.folder.name}: the tracker {tracker.name} failed ({error})"
                log.warning("%s. The training goes on without it. %s", what, words)
            return False
        return True


def _complete(
    tracker: FoldTracker, history: History, scores: Mapping[str, float], step: int
) -> None:
    """Write the scores and end; first the epochs, where some may be missing."""
    tracker.start()
    if history:
        tracker.log_epoch(history, None, None)
    tracker.log_scores(scores, step)
    tracker.end(FINISHED)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn any error of a tracker, its server or its disk into one."""
    try:
        yield
    except Exception as error:
        words = f"{type(error).__name__}: {first_line(error)}"
        raise TrackerError(truncate(without_secrets(words), 300)) from error


def without_secrets(text: str) -> str:
    """Remove logins in addresses, keys of the environment and the home folder from a text.

    >>> without_secrets("no answer from https://me:word@host/api")
    'no answer from https://host/api'
    """
    text = re.sub(r"//[^/\s@]+@", "//", text)
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET.search(name):
            text = text.replace(value, "...")
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


@contextmanager
def fold_trackers(fold: Fold, folder: Path) -> Iterator[FoldTrackers]:
    """Yield the trackers of a fold, started; end them with the block, if they were not closed.

    On other processes than the first there is none.

    Args:
        fold: The training.
        folder: Folder of history and curves.
    """
    trackers = FoldTrackers(_trackers(fold, folder) if fold.session.is_main else [], folder)
    trackers.start()
    status = FINISHED
    try:
        yield trackers
    except KeyboardInterrupt:
        status = STOPPED
        raise
    except BaseException:
        status = FAILED
        raise
    finally:
        trackers.stop(status)


def _trackers(fold: Fold, folder: Path) -> list[FoldTracker]:
    make: dict[str, Callable[[], FoldTracker]] = {
        "tensorboard": lambda: TensorBoard(folder, fold.classes, hyperparameters(fold)),
        "csv": lambda: EpochTable(fold.session.folder),
        "wandb": lambda: WandbRun(tracked_fold(fold)),
        "mlflow": lambda: MlflowRun(tracked_fold(fold)),
    }
    return [make[name]() for name in fold.config.run.trackers]


def check_tracking(config: Config) -> None:
    """Check that the trackers of a run can be used; nothing is sent.

    Raises:
        InputError: A package is missing, or wandb has no API key.
    """
    check_trackers(config.run.trackers)
    if "wandb" in config.run.trackers and os.environ.get("RANK", "0") == "0":
        check_wandb()  # of several processes the first writes


def final_scores(metrics: FoldMetrics) -> dict[str, float]:
    """Return what trackers show of a finished fold, fractions of classes."""
    main = make_task(metrics.task, metrics.classes).main
    of_test = {f"final/test_{name}": score for name, score in metrics.test.named().items()}
    return {f"final/dev_{main}": metrics.dev.named()[main], **of_test}
