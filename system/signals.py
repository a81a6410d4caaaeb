"""Signals that ask a process to end: work that must not stop half-way is finished first."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORCED_AFTER = 3  # signals end the process at once; launchers send Ctrl-C a second time


class Stop:
    """Whether the process was asked to end.

    A signal raises KeyboardInterrupt at once, except inside `deferred`: there it is only recorded,
    and `check` raises later.
    """

    def __init__(self) -> None:
        self.requested = False
        self.begun = False  # set when `--overwrite` has removed the old run and work has begun
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
            raise KeyboardInterrupt

    @contextmanager
    def install_handlers(self) -> Iterator["Stop"]:
        """Handle SIGINT (Ctrl-C), SIGTERM and SIGHUP; signals that are ignored stay ignored."""
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
            raise KeyboardInterrupt
        if not self.requested:
            log.info("%s: saving, then stopping", signal.Signals(number).name)
        self.requested = True
