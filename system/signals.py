"""Signals that ask a process to end: it may finish what it must not leave half done."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE = 3  # signals; launchers pass Ctrl-C on as a second one


class Stop:
    """Whether the process was asked to end.

    Where nothing is lost by it a signal ends the work at once, as a KeyboardInterrupt. Inside
    `deferred` it is only noted, and the work ends where `check` is called.
    """

    def __init__(self) -> None:
        self.requested = False
        self.begun = False  # whether what `--overwrite` removes was removed, and work has begun
        self._deferred = 0
        self._n_signals = 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note signals instead of ending at once; at the end of it they take effect."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        self.check()

    def check(self) -> None:
        """End the work if it was asked for.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self.requested and not self._deferred:
            raise KeyboardInterrupt

    @contextmanager
    def install_handlers(self) -> Iterator["Stop"]:
        """Heed SIGINT (Ctrl-C), SIGTERM and SIGHUP; those that are ignored stay ignored."""
        heeded = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {one: signal.signal(one, self._note) for one in heeded}
        try:
            yield self
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._n_signals += 1
        if not self._deferred or self._n_signals >= AT_ONCE:
            raise KeyboardInterrupt
        if not self.requested:
            log.info("%s: saving, then ending", signal.Signals(number).name)
        self.requested = True
