"""Columns of a table under our names, and the rows of CSV, TSV and JSONL, also of other tools."""

import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from config.tasks import DIMENSIONS
from corpora.names import clean_name
from system.errors import InputError, nearest
from system.tables import csv_rows
from system.text import short_repr, truncate

DELIMITERS = (",", ";", "\t")
VOTES = "votes"  # column of several raters' choices
SHARE = "prob_"  # begins the name of a column with the share of a class in the votes
SURPLUS = "more fields than the header"  # key of fields that no column names
NOT_CHOSEN = "(not chosen)"  # after the name of a column that `corpus.columns` replaces
WAY_ON = (
    "or name the columns, such as corpus.columns={path: file, label: emotion}; {speaker: null} "
    "says that nobody knows the speakers"
)
NO_HEADER = (
    "This line names no column that is read: remove what stands above the header, such as sep=; or "
    "a comment, or write a header"
)
Row = dict[str, Any]

log = logging.getLogger(__name__)


class Header:
    """Gives columns our names, and remembers which it renamed and which it does not know.

    Args:
        columns: Our name of each column that is used, and other names of it.
        chosen: Value of `corpus.columns`: the one column of a field, or null for none; None where
            it has no effect on the table.

    Raises:
        InputError: `corpus.columns` takes two fields from one column.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[str]],
        chosen: Mapping[str, str | None] | None = None,
    ) -> None:
        self.may_choose = chosen is not None
        chosen = chosen or {}
        _refuse_one_for_two(chosen)
        free = {name: words for name, words in columns.items() if name not in chosen}
        self.ours = {word: name for name, words in free.items() for word in (name, *words)}
        self.ours |= {_plain(word): name for name, word in chosen.items() if word is not None}
        self.fields = set(columns)
        self.chosen = {name: word for name, word in chosen.items() if word is not None}
        self.seen: dict[str, str] = {}  # plain name: as written
        self.renamed: dict[str, str] = {}
        self.unused: dict[str, None] = {}
        self._known: dict[tuple[str, ...], list[str]] = {}

    def names(self, header: Sequence[str]) -> list[str]:
        """Return our names of some columns; those that we do not use keep theirs.

        Raises:
            ValueError: Two columns have the same name or meaning.
        """
        if tuple(header) not in self._known:
            self._known[tuple(header)] = self._names(header)
        return self._known[tuple(header)]

    def all_names(self) -> list[str]:
        """Return every column that was seen, as rows name it."""
        return [self._ours(name, word) for name, word in self.seen.items()]

    def ours_of(self, name: str) -> str | None:
        """Return our name of a column, or None if it is not used."""
        return self.ours.get(_plain(name))

    def count(self, header: Iterable[str]) -> int:
        """Count the columns of a header that are used."""
        return sum(_plain(name) in self.ours for name in header)

    def refuse_missing(self, required: Sequence[str]) -> None:
        """Refuse columns that were not seen: of `corpus.columns`, and others that are needed.

        Args:
            required: Our names of the columns that are needed.

        Raises:
            ValueError: There is one; names the columns that there are, and the way on.
        """
        for name, word in self.chosen.items():
            if _plain(word) not in self.seen:
                raise ValueError(
                    f"corpus.columns takes {name} from {short_repr(word)}, and there is no such "
                    f"column; {truncate(nearest(word, [n or '(no name)' for n in self.seen]), 600)}"
                )
        names = self.all_names()
        if any(map(_replaces_label, names)):
            names.append("label")
        if missing := [name for name in required if name not in names]:
            raise ValueError(
                f"the columns {', '.join(required)} are needed; {', '.join(missing)} not found in: "
                f"{truncate(', '.join(self.seen.values())) or 'an empty file'}. "
                f"{self._others(missing)}"
            )

    def leave_out(self, name: str) -> None:
        """Report a column of ours, if it was seen, as not used."""
        if name in self.all_names():
            self.unused[name] = None

    def report(self, manifest: Path) -> None:
        """Log what was renamed and what is not used."""
        if self.renamed:
            pairs = (f"{name} is read as {ours}" for name, ours in self.renamed.items())
            log_once(f"{manifest}: column {', '.join(pairs)}")
        if self.unused:
            listed = truncate(", ".join(name or "(no name)" for name in self.unused))
            log_once(f"{manifest}: columns that are not used: {listed}")

    def _others(self, missing: Iterable[str]) -> str:
        """Say how some columns may be called too, and the way on."""
        words = (
            f"{name}: {', '.join(word for word, ours in self.ours.items() if ours == name != word)}"
            for name in missing
        )
        return f"Other names that are read are, for {'; for '.join(words)}; {WAY_ON}"

    def _names(self, header: Sequence[str]) -> list[str]:
        plain = [_plain(name) for name in header]
        self.seen |= dict(zip(plain, header, strict=True))
        names = [self._ours(name, word) for name, word in zip(plain, header, strict=True)]
        for name, n in Counter(names).items():
            if n > 1 and name:
                same = [c for c, ours in zip(header, names, strict=True) if ours == name]
                told_apart = len({_plain(column) for column in same}) == n
                way = ""
                if told_apart and self.may_choose and name in self.fields:
                    way = f", or choose one, as in corpus.columns={{{name}: {_plain(same[0])}}}"
                raise ValueError(
                    f"the columns {truncate(' and '.join(map(repr, same)))} mean the same, "
                    f"{truncate(name)}: rename or remove all but one{way}"
                )
        for name, ours in zip(plain, names, strict=True):
            if name in self.ours:
                if name != ours:
                    self.renamed[name] = ours
            elif not name.startswith(SHARE):
                self.unused[name] = None
        return names

    def _ours(self, name: str, word: str) -> str:
        """Return our name of a column, or its own; one that took ours from another gets another.

        Args:
            name: Its plain name.
            word: Its name in the file, whose case the name of a class keeps.
        """
        if name.startswith(SHARE):
            return SHARE + clean_name(word)[len(SHARE) :]
        if name in self.fields and name not in self.ours:
            return f"{name} {NOT_CHOSEN}"
        return self.ours.get(name, name)


@cache
def log_once(line: str, level: int = logging.INFO) -> None:
    """Log a line the first time; a run reads its tables before it plans, and again to plan."""
    log.log(level, "%s", line)


def _replaces_label(name: str) -> bool:
    """Return whether a column, by our name, says what a label would: ratings, or votes."""
    return name in (*DIMENSIONS, VOTES) or name.startswith(SHARE)


def _refuse_one_for_two(chosen: Mapping[str, str | None]) -> None:
    field_of: dict[str, str] = {}
    for name, word in chosen.items():
        if word is not None and (other := field_of.setdefault(_plain(word), name)) != name:
            raise InputError(
                f"corpus.columns takes {other} and {name} from one column, "
                f"{short_repr(chosen[other])} and {short_repr(word)}: name it for one of them"
            )


def _plain(name: str) -> str:
    """Return a column's name without regard to case, blanks and hyphens.

    >>> _plain(" Speaker-ID ")
    'speaker_id'
    """
    return re.sub(r"[\s-]", "_", clean_name(name)).casefold()


def read_csv(text: str, header: Header, required: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of CSV or TSV.

    Raises:
        ValueError: It is not a table, or lacks a required column; names the line.
    """
    rows = csv_rows(text, _delimiter(text, header))
    line, columns = next(rows, (1, []))
    try:
        names = header.names(columns)
        header.refuse_missing(required)
    except ValueError as error:
        more = "" if header.count(columns) else f". {NO_HEADER}"
        raise ValueError(f"line {line}: {error}{more}") from None
    for line, fields in rows:
        row: Row = {name: value for name, value in zip_longest(names, fields[: len(names)]) if name}
        if len(fields) > len(names):
            row[SURPLUS] = fields[len(names) :]
        yield line, row


def _delimiter(text: str, header: Header) -> str:
    """Return the delimiter that separates most column names that are known."""
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")

    def known(delimiter: str) -> int:
        try:
            return header.count(next(csv_rows(first, delimiter), (1, []))[1])
        except ValueError:
            return 0

    return max(DELIMITERS, key=known)


def read_jsonl(text: str, header: Header) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of JSONL.

    Raises:
        ValueError: A line is not an object; names it.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_object)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: must be an object, got {line[:40]!r}")
        try:
            names = header.names(list(row))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        yield number, dict(zip(names, row.values(), strict=True))


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that occurs twice: JSON readers would take the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {short_repr(twice)} occurs twice: remove one")
    return values
