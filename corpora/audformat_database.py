"""Read an audformat database with audformat itself: tables, schemes, splits, speaker mappings."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from config.patterns import FIELDS
from corpora.audformat_files import HEADER, load_header, load_tables
from corpora.audio_files import Tree, first
from corpora.columns import Header, log_once
from corpora.given import PART_OF
from corpora.manifest import COLUMNS, Listing
from corpora.segments import unread_times
from system.errors import InputError, first_line
from system.extras import check_extra
from system.text import short_repr, truncate

SHOWN = 8

Key = tuple[str, float, float | None]  # file, start and end of a segment, s


class Source(NamedTuple):
    """A column that gives a field, or what its scheme says of its values.

    Args:
        table: Id of the table.
        column: Id of the column.
        mapped: Key of the scheme's labels, such as the gender of a speaker; None is the value.
    """

    table: str
    column: str
    mapped: str | None = None

    def __str__(self) -> str:
        """Return its name in messages, as `corpus.columns` has it."""
        return f"{self.table}.{self.column}" + (f" -> {self.mapped}" if self.mapped else "")


def read_audformat(root: Path, tree: Tree, chosen: Mapping[str, str | None]) -> Listing:
    """Return the rows of a database; arguments as for `folders.read_folder`.

    A value of `corpus.columns` is a column, or table.column, with * for any part of it.

    Raises:
        InputError: It cannot be read, nothing gives labels or speakers, or tables contradict.
    """
    if not (root / HEADER).is_file():
        raise InputError(f"{root} has no {HEADER}: set corpus.root to the folder of the database")
    if wrong := [name for name in chosen if name not in FIELDS]:
        raise InputError(
            f"corpus.columns={{{wrong[0]}: ...}} has no effect on an audformat database; there it "
            f"names the column of {', '.join(FIELDS)}"
        )
    check_extra("corpus.layout=audformat", "audformat", "formats")
    database = load_header(root / HEADER)
    sources = {name: _sources(database, name, chosen) for name in FIELDS}
    for name in ("label", "speaker"):
        if not sources[name] and chosen.get(name, "") is not None:
            raise _nothing_gives(root, database, name)
    _refuse_times(root, database, sources)
    tables = sorted({source.table for several in sources.values() for source in several})
    load_tables(root, database, tables)
    told = ", ".join(f"{name} from {first(map(str, of))}" for name, of in sources.items() if of)
    log_once(f"{root}: {told}")
    _report_unused(root, database, sources)
    labels = _values(database, "label", sources["label"])
    unlabelled = sum(value is None for value in labels.values())
    if unlabelled == len(labels):
        raise InputError(f"{root}: none of {len(labels)} rows has a label that its scheme has")
    if unlabelled:
        log_once(
            f"{root}: {unlabelled} of {len(labels)} rows have no label, or one that its scheme "
            "does not have, and are left out",
            logging.WARNING,
        )
    others = {name: _values(database, name, sources[name]) for name in FIELDS if name != "label"}
    splits = _table_splits(database, sources["label"])
    rows = []
    for key, label in labels.items():
        if label is None:
            continue
        file, start, end = key
        row: dict[str, Any] = {"path": file, "label": label, "split": splits.get(key)}
        found = {name: _find(values, key) for name, values in others.items()}
        row |= {name: value for name, value in found.items() if value is not None}
        row |= {} if (start, end) == (0.0, None) else {"start": start, "end": end}
        rows.append((f"{file} [{start:g}, {'end' if end is None else f'{end:g}'}]", row))
    return Listing(root, rows, chosen.get("speaker", "") is not None)


def _refuse_times(root: Path, database: Any, sources: Mapping[str, list[Source]]) -> None:
    """Refuse times in columns of the tables that give the label; their index has the times.

    Raises:
        InputError: A table of whole files has such a column.
    """
    used = {(source.table, source.column) for several in sources.values() for source in several}
    for name in sorted({source.table for source in sources["label"]}):
        table = database.tables[name]
        if table.type != "filewise":
            continue
        columns = {c.casefold(): c for c in table.columns if (name, c) not in used}
        if times := unread_times(columns, readable=()):
            shown = truncate(", ".join(repr(columns[time]) for time in times))
            raise InputError(
                f"{root}: the columns {shown} of the table {name} look like times of a part of the "
                "file and are not read. If they are such times, give the table an index with them "
                "(audformat.segmented_index), else rename or remove them"
            )


def _report_unused(root: Path, database: Any, sources: Mapping[str, list[Source]]) -> None:
    """Log which tables are not used, and which columns of the others."""
    used = [source for several in sources.values() for source in several]
    columns = {(source.table, source.column) for source in used}
    joined = [_scheme_labels(database, source) for source in used if source.mapped]
    tables, lone = [name for name in database.misc_tables if name not in joined], []
    for name, table in database.tables.items():
        unused = [column for column in table.columns if (name, column) not in columns]
        if all(name != source.table for source in used):
            tables.append(name)
        else:
            lone += [f"{name}.{column}" for column in unused]
    for kind, names in (("tables", tables), ("columns", lone)):
        if names:
            log_once(f"{root}: {kind} that are not used: {truncate(', '.join(sorted(names)))}")


def _find(values: Mapping[Key, Any], key: Key) -> Any:
    """Return the value of a segment, that of its whole file, or None."""
    value = values.get(key)
    return values.get((key[0], 0.0, None)) if value is None else value


def _sources(database: Any, name: str, chosen: Mapping[str, str | None]) -> list[Source]:
    """Return the columns that give a field.

    Raises:
        InputError: `corpus.columns` names none, or a table has several.
    """
    every = [Source(t, c) for t, table in database.tables.items() for c in table.columns]
    if name in chosen:
        word = chosen[name]
        if word is None:
            return []
        found = [s for s in every if s.column == word or fnmatchcase(str(s), word)]
        if not found:
            raise InputError(
                f"corpus.columns takes {name} from {short_repr(word)}, and {database.name} has no "
                f"such column; it has {first(map(str, every))}"
            )
    else:
        header = Header(COLUMNS)
        found = [s for s in every if header.ours_of(s.column) == name]
        if not found:
            schemes = {s: database.tables[s.table].columns[s.column].scheme_id for s in every}
            found = [s for s in every if schemes[s] and header.ours_of(schemes[s]) == name]
        if not found and name != "label":
            found = [
                s._replace(mapped=key)
                for s in every
                for key in _scheme_keys(database, s)
                if header.ours_of(key) == name
            ]
    for table in {source.table for source in found}:
        if len(several := [str(source) for source in found if source.table == table]) > 1:
            raise InputError(
                f"the table {table} has several columns for {name}: {first(several)}: choose one, "
                f"as in corpus.columns={{{name}: {several[0]}}}"
            )
    return found


def _scheme_keys(database: Any, source: Source) -> list[str]:
    """Return what the scheme of a column says of each of its values, such as gender and age."""
    labels = _scheme_labels(database, source)
    if isinstance(labels, str):
        return list(database.misc_tables[labels].columns)
    if isinstance(labels, dict):
        return list({k: None for v in labels.values() if isinstance(v, dict) for k in v})
    return []


def _scheme_labels(database: Any, source: Source) -> Any:
    """Return the labels of the scheme of a column: a list, a dict, or the id of a misc table."""
    scheme_id = database.tables[source.table].columns[source.column].scheme_id
    return database.schemes[scheme_id].labels if scheme_id else None


def _nothing_gives(root: Path, database: Any, name: str) -> InputError:
    every = [f"{t}.{c}" for t, table in database.tables.items() for c in table.columns]
    null = "; {speaker: null} says that nobody knows them" if name == "speaker" else ""
    return InputError(
        f"{root}: no column of the database {database.name} is known to give the {name}: "
        f"{first(every) or 'its tables have no columns'}. Choose one, as in "
        f"corpus.columns={{{name}: {every[0] if every else 'COLUMN'}}}{null}"
    )


def _values(database: Any, name: str, sources: Iterable[Source]) -> dict[Key, Any]:
    """Return the values of a field by segment; a file is the segment from 0 to its end.

    Raises:
        InputError: Two tables contradict each other, or a table has a segment twice.
    """
    found: dict[Key, tuple[Any, Source]] = {}
    contradictions = []
    for source in sources:
        column = database.tables[source.table].columns[source.column]
        try:
            series = column.get(map=source.mapped) if source.mapped else column.get()
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{database.name}: {source} cannot be read: {truncate(first_line(error))}"
            ) from None
        for key, value in _items(series):
            before = found.setdefault(key, (value, source))
            if before[0] is None:
                found[key] = (value, source)
            elif value is not None and value != before[0]:
                contradictions.append(
                    f"{key[0]} is {short_repr(before[0])} in {before[1]} and {short_repr(value)} "
                    f"in {source}"
                )
    if contradictions:
        shown = "\n  ".join(contradictions[:SHOWN])
        raise InputError(
            f"{database.name}: {len(contradictions)} times two columns contradict each other about "
            f"{name}; choose one, as in corpus.columns={{{name}: {next(iter(sources))}}}\n  {shown}"
        )
    return {key: value for key, (value, _) in found.items()}


def _items(series: Any) -> Iterator[tuple[Key, Any]]:
    """Yield segments and values of a column; what is not given is None."""
    segmented = series.index.nlevels > 1
    values = series.to_numpy(dtype=object, na_value=None)
    for index, value in zip(series.index, values, strict=True):
        file, start, end = index if segmented else (index, None, None)
        begin = _seconds(start) or 0.0
        yield (str(file), begin, _seconds(end)), _plain(value)


def _seconds(time: Any) -> float | None:
    """Return the seconds of a time; None for NaT."""
    if time is None or (seconds := time.total_seconds()) != seconds:
        return None
    return round(float(seconds), 9)


def _plain(value: Any) -> Any:
    """Return a value as a word or number of Python; None for NaN."""
    value = getattr(value, "item", lambda: value)()
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _table_splits(database: Any, sources: Iterable[Source]) -> dict[Key, str]:
    """Return the split of each segment, where its table is one of a split.

    Raises:
        InputError: A segment is in tables of two splits.
    """
    found: dict[Key, str] = {}
    for source in sources:
        table = database.tables[source.table]
        if table.split_id is None:
            continue
        kind = database.splits[table.split_id].type
        word = PART_OF.get(str(kind).casefold(), table.split_id)
        for key, _ in _items(table.columns[source.column].get()):
            if found.setdefault(key, word) != word:
                raise InputError(
                    f"{database.name}: {key[0]} is in tables of the splits {found[key]} and "
                    f"{word}: choose one table, as in corpus.columns={{label: {source}}}"
                )
    return found
