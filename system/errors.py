"""The two ways a command can fail on purpose, and the words that help the user on."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control, half a pair, line and paragraph ends
UNSEEN = (*CONTROL, "Cf")  # and what changes the direction of writing, or joins
NO_CHARACTERS = "\ufffe\uffff"  # that XML refuses beside those
SHOWN = 120  # characters of a value in a message


class InputError(ValueError):
    """What the user gave is wrong: the entry prints the message alone and exits with status 2."""


class RunError(RuntimeError):
    """The run could not go on: the entry prints the message alone and exits with status 1."""


def nearest(word: str, options: Iterable[str]) -> str:
    """Name what is allowed, the closest one first.

    >>> nearest("tempreature", ["alpha", "temperature"])
    "did you mean 'temperature'? Allowed: alpha, temperature"
    >>> nearest("zzz", ["alpha", "temperature"])
    'Allowed: alpha, temperature'
    """
    options = sorted(options)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(options)}"


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Return a text in which characters that steer a terminal or a page are shown as escapes.

    Args:
        text: With names that are others'.
        keep: Characters of layout that stay.

    >>> printable("\x1b[2Jann\u202e")
    '\\x1b[2Jann\\u202e'
    """
    if text.isprintable():  # quick: nearly all are
        return text
    return "".join(
        c.encode("unicode_escape").decode() if _is_one_of(c, UNSEEN) and c not in keep else c
        for c in text
    )


def control_character(text: str) -> str | None:
    r"""Return the first character that no name may hold, as an escape.

    >>> control_character("a\x00b")
    '\\x00'
    """
    if text.isprintable():
        return None
    return next((printable(c, keep="") for c in text if _is_one_of(c, CONTROL)), None)


def _is_one_of(character: str, categories: Sequence[str]) -> bool:
    return unicodedata.category(character) in categories or character in NO_CHARACTERS


def cut(text: str, most: int = SHOWN) -> str:
    """Return a text, cut where it is longer than some characters.

    >>> cut("temperature", 4)
    'temp...'
    """
    return text if len(text) <= most else f"{text[:most]}..."


def brief(value: object) -> str:
    """Return a value as Python writes it, cut where it is long."""
    return cut(repr(value))
