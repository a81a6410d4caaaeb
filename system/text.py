"""Text for people: escaped, truncated, sizes and durations."""

import codecs
import re
import unicodedata
from collections.abc import Sequence

CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control, half a pair, line and paragraph ends
UNSEEN = (*CONTROL, "Cf")  # and what changes the direction of writing, or joins
NOT_IN_XML = "\ufffe\uffff"  # and no others beside the control characters
SHOWN = 120  # characters of a value in a message
MOST_DIGITS = 18  # of a whole number: it fits into 64 bits
AS_UTF8 = (
    "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8'; in a shell: iconv -f NAME -t UTF-8 FILE, "
    "where NAME is its encoding, such as WINDOWS-1252, GBK or UTF-16)"
)


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Escape the characters that steer a terminal or a page.

    Args:
        text: Text with names from outside.
        keep: Layout characters that stay.

    >>> printable("\x1b[2Jann\u202e")
    '\\x1b[2Jann\\u202e'
    """
    if text.isprintable():  # fast path for nearly all texts
        return text
    return "".join(
        c.encode("unicode_escape").decode() if _is_one_of(c, UNSEEN) and c not in keep else c
        for c in text
    )


class EncodingError(ValueError):
    """A file is not UTF-8; `what` is the reason without the advice to save it as UTF-8."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: {AS_UTF8}")
        self.what = what


def decode_text(content: bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Decode the bytes of a text file.

    Args:
        content: The bytes.
        encoding: utf-8, or utf-8-sig to drop a byte order mark.
        errors: What to do with bytes that do not decode, see `bytes.decode`.

    Raises:
        EncodingError: It is UTF-16 or UTF-32. Or, if `errors` is "strict": a byte is not UTF-8, or
            is zero as in UTF-16 without a mark; names the line.
    """
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise EncodingError("it is UTF-32")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise EncodingError("it is UTF-16")
    zero = content.find(b"\0")
    if errors == "strict" and zero >= 0:
        line = content.count(b"\n", 0, zero) + 1
        raise EncodingError(f"line {line}: a zero byte, so it is UTF-16 or not text")
    try:
        return content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        start = error.start + len(content) - len(error.object)  # the object lacks the mark
        line = content.count(b"\n", 0, start) + 1
        byte = f"byte 0x{content[start]:02X} (number {start + 1} of the file)"
        raise EncodingError(f"line {line}: {byte} is not UTF-8") from None


def control_character(text: str) -> str | None:
    r"""Return the first character that is not allowed in a name, escaped, or None.

    >>> control_character("a\x00b")
    '\\x00'
    """
    if text.isprintable():
        return None
    return next((printable(c, keep="") for c in text if _is_one_of(c, CONTROL)), None)


def _is_one_of(character: str, categories: Sequence[str]) -> bool:
    return unicodedata.category(character) in categories or character in NOT_IN_XML


def truncate(text: str, most: int = SHOWN) -> str:
    """Shorten a text that has more than `most` characters.

    >>> truncate("temperature", 4)
    'temp...'
    """
    return text if len(text) <= most else f"{text[:most]}..."


def count_of(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count_of(1, "speaker"), count_of(4, "speaker")
    ('1 speaker', '4 speakers')
    """
    return f"{n} {noun}{'s' * (n != 1)}"


def whole_number(word: str) -> int | None:
    """Return the number that a word writes in ASCII digits, or None.

    `str.isdigit` holds for "²", which `int` refuses, as it refuses more than 4300 digits.

    Args:
        word: A word from outside; at most MOST_DIGITS digits.

    >>> whole_number("010"), whole_number("²"), whole_number("-1"), whole_number("1" * 5000)
    (10, None, None, None)
    """
    return int(word) if re.fullmatch(rf"[0-9]{{1,{MOST_DIGITS}}}", word) else None


def short_repr(value: object) -> str:
    """Return the repr of a value, truncated."""
    return truncate(repr(value))


def format_bytes(n: int) -> str:
    """Write a number of bytes in a unit that fits.

    >>> format_bytes(0), format_bytes(999), format_bytes(12_345_678), format_bytes(73_000_000_000)
    ('0 B', '999 B', '12.3 MB', '73.0 GB')
    """
    if n < 1000:
        return f"{n} B"
    size, units = n / 1000, iter(("kB", "MB", "GB"))
    unit = next(units)
    while size >= 999.95 and unit != "GB":
        size, unit = size / 1000, next(units)
    return f"{size:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Write a duration in a unit that fits.

    >>> format_duration(41.3), format_duration(250), format_duration(5400)
    ('41 s', '4 min', '1.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def without_place(word: str) -> str:
    """Return a word of the command without the folders of this machine.

    >>> without_place("corpus.root=/data/mine/ravdess"), without_place("configs/demo_gmu.yaml")
    ('corpus.root=path/to/ravdess', 'configs/demo_gmu.yaml')
    >>> without_place("--out=/home/me/page")
    '--out=path/to/page'
    """
    return re.sub(r"^([\w.-]+=)?[/~].*/", r"\1path/to/", word)
