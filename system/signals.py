"""Signals that ask a process to end: work that must not stop half-way is finished first."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Ctrl-C; schedulers and `kill`; a closed terminal; two that schedulers send as a warning.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
FORCED_AFTER = 3  # signals end the process at once; launchers send Ctrl-C a second time


class Stop:
    """Whether the process was asked to end.

    A signal raises KeyboardInterrupt with its number at once, except inside `deferred`: there it is
    only recorded, and `check` raises later.
    """

    def __init__(self) -> None:
        self.requested = False
        self.begun = False  # set when `--overwrite` has removed the old run and work has begun
        self._number: int = signal.SIGTERM  # also where another process was asked to end
        self._deferred = 0
        self._n_signals = 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Record signals inside this block; they take effect at its end."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal was recorded and nothing defers it."""
        if self.requested and not self._deferred:
            raise self.interrupt()

    def interrupt(self) -> KeyboardInterrupt:
        """Return the exception that ends the process, with the number of the recorded signal."""
        return KeyboardInterrupt(self._number)

    @contextmanager
    def install_handlers(self) -> Iterator["Stop"]:
        """Handle `SIGNALS`; those that are ignored stay ignored."""
        numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._n_signals += 1
        if not self._deferred or self._n_signals >= FORCED_AFTER:
            raise KeyboardInterrupt(number)
        if not self.requested:
            self.requested, self._number = True, number
            _say(f"{signal.Signals(number).name}: saving, then stopping")


def ignore_signals(worker: int) -> None:
    """Ignore signals in a process that loads data: the training process decides when to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    """Write to standard error, past its buffer: the signal may have come while that was in use."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())
