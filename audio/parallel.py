"""Work on many recordings in threads; one that cannot be used stops no other."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from audio.opening import BadAudio


def in_parallel(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result) in order, with threads if workers > 1; a BadAudio is a result."""

    def attempt(item: Any) -> Any:
        try:
            return work(item)
        except BadAudio as error:
            return error

    if workers <= 1:
        yield from ((item, attempt(item)) for item in items)
        return
    with ThreadPoolExecutor(workers) as pool:  # reading, resampling and FFTs release the GIL
        yield from zip(items, pool.map(attempt, items), strict=True)
