"""Work in a thread beside the main one, one piece at a time; its error is not lost."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one piece of work at a time in a thread; the process does not end before it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._work: Future[object] | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the work before, then start this one."""
        self.wait()
        self._work = self._pool.submit(work)

    @property
    def is_busy(self) -> bool:
        """Whether the work goes on."""
        return self._work is not None and not self._work.done()

    def check(self) -> None:
        """Raise the error of work that has failed; do not wait."""
        if not self.is_busy:
            self.wait()

    def wait(self) -> None:
        """Wait for the end of the work, and raise its error, once."""
        work, self._work = self._work, None
        if work is not None:
            work.result()
