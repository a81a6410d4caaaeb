"""Work on many recordings in threads; one that cannot be used stops no other."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from audio.opening import BadAudio

AHEAD = 16  # results, or two a thread, that may wait for whoever takes them


def in_parallel(
    work: Callable[[Any], Any], items: Iterable[Any], workers: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result) in order, with threads if workers > 1; a BadAudio is a result.

    The threads run ahead of whoever takes the results, by a number of items that does not grow.
    """

    def attempt(item: Any) -> Any:
        try:
            return work(item)
        except BadAudio as error:
            return error

    if workers <= 1:
        yield from ((item, attempt(item)) for item in items)
        return
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:  # reading, resampling and FFTs release the GIL
        try:
            for item in items:
                waiting.append((item, pool.submit(attempt, item)))
                if len(waiting) > max(AHEAD, 2 * workers):
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
