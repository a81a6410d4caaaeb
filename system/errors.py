"""The two errors that an entry prints as one message, and words for others."""

import difflib
from collections.abc import Iterable

# How torch, cuDNN, cuBLAS, CUDA, MPS and the CPU's allocator say that memory is used up
OUT_OF_MEMORY = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


class InputError(ValueError):
    """The input is wrong: the entry prints the message alone and exits with status 2."""


class RunError(RuntimeError):
    """The run failed: the entry prints the message alone and exits with status 1."""


def nearest(word: str, options: Iterable[str]) -> str:
    """List the allowed words, after the one that is closest.

    >>> nearest("tempreature", ["alpha", "temperature"])
    "did you mean 'temperature'? Allowed: alpha, temperature"
    >>> nearest("ALPHA", ["alpha", "temperature"])
    "did you mean 'alpha'? Allowed: alpha, temperature"
    >>> nearest("zzz", ["alpha", "temperature"])
    'Allowed: alpha, temperature'
    """
    options = sorted(options)
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(options)}"


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error, or its kind: a bare assert has no words.

    >>> first_line(AssertionError()), first_line(ValueError("two\nlines"))
    ('AssertionError', 'two')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device is used up.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    True
    """
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return said or isinstance(error, MemoryError)
