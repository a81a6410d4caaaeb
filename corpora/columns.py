"""The rows of a manifest under our names of its columns: CSV, TSV or JSONL, also of other tools."""

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

from corpora.names import clean_name
from system.errors import InputError
from system.files import MAX_MANIFEST, read_text
from system.tables import csv_rows
from system.text import short_repr, truncate

SUFFIXES = (".csv", ".tsv", ".jsonl")
DELIMITERS = (",", ";", "\t")
SHARE = "prob_"  # begins the name of a column with the share of a class in the votes
SURPLUS = "more fields than the header"  # key of fields that no column names
NO_HEADER = (
    "This line names no column that is read: remove what stands above the header, such as sep=; or "
    "a comment, or write a header"
)
FROM_JSON = (
    "write one object a line, for example with jq -c '.[]' FILE > list.jsonl for a list of "
    "objects, or jq -c '.meta_data[]' FILE > list.jsonl for a list of s3prl"
)

Row = dict[str, Any]

log = logging.getLogger(__name__)


def read_rows(
    manifest: Path, columns: Mapping[str, Sequence[str]], required: Sequence[str]
) -> list[tuple[int, Row]]:
    """Read all rows; log once which columns were renamed and which are not used.

    Args:
        manifest: Path of the .csv, .tsv or .jsonl file. Fields of the first two are separated by
            commas, semicolons or tabs; the header tells.
        columns: Our name of each column that is used, and other names of it.
        required: Columns that the header of a table must name.

    Returns:
        (line number, row) pairs. Values of a table are strings, those of JSONL as written.

    Raises:
        InputError: The file cannot be read, is not UTF-8, or is not a table; or two columns have
            one meaning. Names the line.
    """
    suffix = manifest.suffix.lower()
    if suffix not in SUFFIXES:
        more = f"; {FROM_JSON}" if suffix == ".json" else ""
        raise InputError(f"corpus.manifest must end in .csv, .tsv or .jsonl, got {manifest}{more}")
    header = Header(columns)
    try:
        text = read_text(manifest, MAX_MANIFEST, "utf-8-sig")
        if suffix == ".jsonl":
            rows = list(read_jsonl(text, header))
        else:
            rows = list(read_csv(text, header, required))
    except FileNotFoundError:
        raise InputError(f"corpus.manifest: there is no file {manifest}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"corpus.manifest: cannot read {manifest}: {error}") from None
    header.report(manifest)
    return rows


class Header:
    """Gives columns our names, and remembers which it renamed and which it does not know."""

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        self.ours = {word: name for name, words in columns.items() for word in (name, *words)}
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

    def count(self, header: Iterable[str]) -> int:
        """Count the columns of a header that are used."""
        return sum(_plain(name) in self.ours for name in header)

    def others(self, missing: Iterable[str]) -> str:
        """Say how some columns may be called too."""
        words = (
            f"{name}: {', '.join(word for word, ours in self.ours.items() if ours == name != word)}"
            for name in missing
        )
        return f"Other names that are read are, for {'; for '.join(words)}"

    def report(self, manifest: Path) -> None:
        """Log what was renamed and what is not used."""
        if self.renamed:
            pairs = (f"{name} is read as {ours}" for name, ours in self.renamed.items())
            log_once(f"{manifest}: column {', '.join(pairs)}")
        if self.unused:
            listed = truncate(", ".join(name or "(no name)" for name in self.unused))
            log_once(f"{manifest}: columns that are not used: {listed}")

    def _names(self, header: Sequence[str]) -> list[str]:
        plain = [_plain(name) for name in header]
        names = [self.ours.get(name, name) for name in plain]
        for name, n in Counter(names).items():
            if n > 1 and name:
                same = (c for c, ours in zip(header, names, strict=True) if ours == name)
                raise ValueError(
                    f"the columns {truncate(' and '.join(map(repr, same)))} mean the same, "
                    f"{truncate(name)}: rename or remove all but one"
                )
        for name, ours in zip(plain, names, strict=True):
            if name != ours:
                self.renamed[name] = ours
            elif name not in self.ours and not name.startswith(SHARE):
                self.unused[name] = None
        return names


@cache
def log_once(line: str, level: int = logging.INFO) -> None:
    """Log a line the first time; a run reads its tables before it plans, and again to plan."""
    log.log(level, "%s", line)


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
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None
    if missing := [name for name in required if name not in names]:
        raise ValueError(
            f"line {line}: the header must name {', '.join(required)}; {', '.join(missing)} not "
            f"found in: {truncate(', '.join(columns)) or 'an empty file'}. {header.others(missing)}"
            + ("" if header.count(columns) else f". {NO_HEADER}")
        )
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
