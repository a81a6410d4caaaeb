"""When the state of a training is saved, and where a training may end early."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from accelerate import Accelerator

from data import Batch
from storage.checkpoints import Checkpoints, Place
from system.signals import Stop
from training.distributed import on_any_process

Snapshot = tuple[Mapping[str, Any], Place]


class Keeper:
    """Saves a training every few minutes and when it is asked to end.

    Args:
        checkpoints: Where.
        minutes: Between two savings within an epoch; None is none.
        stop: Says when to end early.
        accelerator: Of the processes; the first one writes, all end at the same step.
        snapshot: Returns the state and its place, or None where it is not worth keeping.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        minutes: float | None,
        stop: Stop,
        accelerator: Accelerator,
        snapshot: Callable[[], Snapshot | None],
    ) -> None:
        self.checkpoints, self.stop, self.accelerator = checkpoints, stop, accelerator
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.snapshot, self.saved_at = snapshot, time.monotonic()
        self.saved: Place | None = None

    def save(self, again: bool = False) -> None:
        """Save the present state; that of a place which was saved last only if asked to."""
        self.saved_at = time.monotonic()
        if not self.accelerator.is_main_process or (snapshot := self.snapshot()) is None:
            return
        if again or snapshot[1] != self.saved:
            self.checkpoints.save(*snapshot)
            self.saved = snapshot[1]

    def between_steps(self) -> None:
        """Save if it is time.

        Raises:
            KeyboardInterrupt: A process was asked to end; the state is saved.
        """
        if on_any_process(self.stop.requested, self.accelerator):
            self.save()
            raise KeyboardInterrupt
        if time.monotonic() - self.saved_at >= self.seconds:
            self.save()

    def watched(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation, between which the training may end too."""
        for batch in loader:
            self.between_steps()
            yield batch
