"""When states are saved: copied at once, and written by a thread while training goes on.

One write is in flight at a time; the next save waits for it. So host memory holds one copy of the
state and two of the weights at most, and one state more where bfloat16 may have to be given up.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor

from data import Batch
from storage.tensors import StateCopy, copy_state, copy_tensors
from system.background import Background
from system.errors import RunError
from system.signals import Stop
from training.checkpoints import Checkpoints, Place
from training.distributed import on_any_process

log = logging.getLogger(__name__)

SHARE = 0.1  # largest share of the time in which unasked states are copied and written
MINUTES = 15.0  # between two states within an epoch, or more to keep to that share


class Spacing(NamedTuple):
    """How often a state is saved; None is as often as `SHARE` allows."""

    epochs: int | None = None  # between two states at an epoch's end
    minutes: float | None = None  # between two states within an epoch


AFFORDABLE = Spacing()


class CheckpointSaver:
    """Saves the state at the end of epochs, within them, and when asked to stop.

    Errors of a write are raised by the next call, at the latest when the `with` block ends.

    Args:
        checkpoints: Folder of the states.
        spacing: Epochs and minutes between two saves.
        stop: Whether the process was asked to end.
        accelerator: Processes of this training; the first writes, all end at the same step.
        snapshot: Returns state and place, or None where the weights are not finite.
        look_every: Batches of an evaluation between two looks for a request to end.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        spacing: Spacing,
        stop: Stop,
        accelerator: Accelerator,
        snapshot: Callable[[], tuple[Mapping[str, Any], Place] | None],
        look_every: int = 1,
    ) -> None:
        self.checkpoints, self.spacing, self.stop = checkpoints, spacing, stop
        self.accelerator, self.snapshot, self.look_every = accelerator, snapshot, look_every
        self.saved: Place | None = None
        self._writing = Background()
        self._began = self._ended = time.monotonic()  # of the last save
        self._best: tuple[Mapping[str, Tensor], int] | None = None  # not on the disk yet
        self._epoch_end: tuple[StateCopy, Place] | None = None  # likewise

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self._writing.wait()
        elif not issubclass(kind, KeyboardInterrupt):  # which waits only when the process ends
            try:
                self._writing.wait()
            except (RunError, OSError) as also:  # the first error is the one that ends the training
                log.warning("%s", also)

    def save(self, again: bool = False) -> None:
        """Copy the state and start to write it, unless it is saved; `again=True` rewrites it."""
        if self.accelerator.is_main_process and (snapshot := self.snapshot()) is not None:
            self._save(*snapshot, again)

    def _save(self, state: Mapping[str, Any], place: Place, again: bool = False) -> None:
        self._writing.wait()
        if place == self.saved and not again:
            return
        self._began = time.monotonic()
        before = [self._epoch_end] if self._epoch_end and place.batch else []
        self._epoch_end = None
        self._start([*before, (copy_state(state), place)])

    def keep_best(self, weights: Mapping[str, Tensor], epoch: int) -> None:
        """Copy the weights of the best epoch so far; the next state is written after them."""
        if self.accelerator.is_main_process:
            self._best = copy_tensors(weights), epoch

    def end_epoch(self) -> None:
        """Save the state at the end of an epoch if that is due.

        Under bfloat16 training may have to return to it: it is kept in memory until a state of a
        later epoch is saved, or one within the next epoch, which is written after it. So the return
        leads to the same epoch, whenever states are saved.
        """
        if not self.accelerator.is_main_process:
            return
        self._writing.check()
        every, keeps = self.spacing.epochs, self.accelerator.mixed_precision != "no"
        if every is None and not keeps and not self._is_affordable(0):
            return  # a snapshot is not needed
        if (snapshot := self.snapshot()) is None:
            return
        state, place = snapshot
        if self._is_affordable(0) if every is None else place.epoch % every == 0:
            self._save(state, place)
        elif keeps:
            self._epoch_end = copy_state(state), place

    def maybe_save(self) -> None:
        """Save if it is time to do so within an epoch, or the process was asked to end.

        Raises:
            KeyboardInterrupt: A process was asked to end; the state is on the disk.
            RunError: A state could not be written.
        """
        self._writing.check()
        if on_any_process(self.stop.requested, self.accelerator):
            self.save()
            self._writing.wait()
            raise self.stop.interrupt()
        minutes = self.spacing.minutes
        passed = time.monotonic() - self._began
        if self._is_affordable(60 * MINUTES) if minutes is None else passed >= 60 * minutes:
            self.save()

    def watched(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation; the training may end between some of them."""
        for i, batch in enumerate(loader):
            if i % self.look_every == 0:
                self.maybe_save()
            yield batch

    def finish(self) -> None:
        """Save the state at the end of the training, and wait until all is on the disk."""
        self.save()
        if self._best is not None:  # the weights are no longer finite
            self._start([])
        self._writing.wait()

    def load_epoch_end(self) -> dict[str, Any] | None:
        """Return the state at the end of the last epoch, or None; the first process calls it."""
        self._writing.wait()
        if self._epoch_end is not None:
            return self._epoch_end[0].state()
        return self.checkpoints.load(between_epochs=True)

    def rewrite(self) -> None:
        """Save the state of an epoch to which training has returned; remove all later ones."""
        self.save(again=True)
        self._writing.wait()
        if self.accelerator.is_main_process and self.saved is not None:
            self.checkpoints.remove_after(self.saved)

    def _start(self, states: list[tuple[StateCopy, Place]]) -> None:
        """Write the best weights, if they are new, and then states, in a thread."""
        best, self._best = self._best, None

        def write() -> None:
            if best is not None:
                self.checkpoints.save_best(*best)
            for state, place in states:
                self.checkpoints.save(state, place)
            self._ended = time.monotonic()

        if states:
            self.saved = states[-1][1]
        self._writing.start(write)

    def _is_affordable(self, seconds: float) -> bool:
        """Whether another save keeps to the share, and comes no sooner than `seconds`."""
        passed, last = time.monotonic() - self._began, self._ended - self._began
        return not self._writing.is_busy and passed >= max(seconds, last / SHARE)
