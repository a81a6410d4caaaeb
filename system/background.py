"""Work in a thread beside the main one, one piece at a time; its error is not lost."""

from collections.abc import Callable
from threading import Thread


class Background:
    """Runs one piece of work at a time in a thread of its own.

    The thread does not keep a process alive that is forced to end.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the work before, then start this one."""
        self.wait()
        self._thread = Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether the work goes on."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise the error of work that has failed; do not wait."""
        if not self.is_busy:
            self.wait()

    def wait(self) -> None:
        """Wait for the end of the work, and raise its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # raised in the thread that waits
            self._error = error
