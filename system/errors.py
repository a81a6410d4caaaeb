"""The two errors that an entry prints as one message, and hints for them."""

import difflib
from collections.abc import Iterable


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
