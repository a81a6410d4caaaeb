"""The index of a feature store as text: one line for each recording, appended and never changed.

A line is a JSON list: audio hash, first row, the row after the last. Until November 2026 the index
was one JSON object of all recordings, rewritten for each 64 of them. It is still read, and keeps
its name: earlier versions of this code must not take a store for an empty one and write over it.
"""

import json
from collections.abc import Mapping

NO_MARKS = str.maketrans("", "", '[",]')


def index_lines(rows: Mapping[str, range]) -> str:
    r"""Return the lines of some recordings.

    Args:
        rows: Rows of each audio hash.

    >>> index_lines({"5f": range(2, 4)})
    '["5f", 2, 4]\n'
    """
    return "".join(f'["{key}", {place.start}, {place.stop}]\n' for key, place in rows.items())


def read_rows(text: str) -> dict[str, range]:
    r"""Return the rows of each audio hash; a torn last line is left out.

    Args:
        text: The index, of this or the older form.

    Raises:
        AttributeError, TypeError, ValueError: It is not as written.

    >>> read_rows('["5f", 2, 4]\n["60", 4')
    {'5f': range(2, 4)}
    """
    if is_of_older_version(text):
        return {key: _rows(*place) for key, place in json.loads(text).items()}
    lines = text[: text.rfind("\n") + 1]
    words = lines.translate(NO_MARKS).split()  # far quicker than JSON, line by line or whole
    if len(words) != 3 * lines.count("\n"):
        raise ValueError("a line does not hold a hash, a first row and a stop")
    places = map(_rows, map(int, words[1::3]), map(int, words[2::3]))
    return dict(zip(words[::3], places, strict=True))


def is_of_older_version(text: str) -> bool:
    """Return whether an index is one JSON object."""
    return text.startswith("{")


def _rows(first: int, stop: int) -> range:
    """Return the rows of a recording."""
    if not 0 <= first < stop:
        raise ValueError(f"{first} to {stop}")
    return range(first, stop)
