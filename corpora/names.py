"""Names from outside, in one spelling: labels, speakers, sessions and ids; and free texts."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from system.text import control_character

# What nobody sees beside the category Cf: joiners, fillers and variation selectors.
# Source: Default_Ignorable_Code_Point of the Unicode Character Database.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
# What pandas, R, JSON and spreadsheets write for "unknown", in lower case
PLACEHOLDERS = {"nan", "-nan", "nat", "null", "none", "na", "<na>", "n/a", "#n/a"}
NUMBER = re.compile(r"(?P<whole>\d+)(\.(?P<part>\d*))?", re.ASCII)


def clean_name(name: str) -> str:
    r"""Compose letters (NFC), drop invisible characters, and write one blank for several.

    >>> clean_name("Ja\u0308n\u200b  a") == "J\u00e4n a"
    True
    """
    if not name.isascii():
        seen = (c for c in INVISIBLE.sub("", name) if unicodedata.category(c) != "Cf")
        name = unicodedata.normalize("NFC", "".join(seen))
    return " ".join(name.split())


def clean_text(text: str) -> str:
    r"""Return what is said, without regard to case, blanks and characters that nobody sees.

    >>> clean_text("Oh\x00  NO\u200b")
    'oh no'
    """
    if not text.isprintable():
        text = "".join(" " if control_character(c) else c for c in text)
    return clean_name(text.casefold())


def is_placeholder(name: str) -> bool:
    """Return whether a name stands for "unknown", as NaN or null.

    >>> is_placeholder("NaN"), is_placeholder("Nana")
    (True, False)
    """
    return name.casefold() in PLACEHOLDERS


def two_spellings(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that are equal but for case, width or the format of a number.

    >>> two_spellings(["Happy", "1", "sad", "happy", "01.0"])
    [('Happy', 'happy'), ('01.0', '1')]
    """
    spellings: dict[str, set[str]] = defaultdict(set)
    for name in names:
        spellings[_key(name)].add(name)
    several = (sorted(group) for group in spellings.values() if len(group) > 1)
    return [(first, other) for first, *others in several for other in others]


def _key(name: str) -> str:
    key = unicodedata.normalize("NFKC", name).casefold()
    if number := NUMBER.fullmatch(key):
        key = f"{number['whole'].lstrip('0')}.{(number['part'] or '').rstrip('0')}"
    return key
