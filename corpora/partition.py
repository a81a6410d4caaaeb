"""Folds from files: who is trained, selected and tested, as some list or table says.

A table has the columns `speaker` or `utterance` (or `path`), and

    fold          each value is tested in turn, all others are trained on
    split         train, dev or test: one fold
    fold, split   what each speaker or utterance is in each fold

and `excluded` in the place of a value for what is left out on purpose. A CSV may begin with the
lines `# made_by: words`, `# source: words` and `# note: words`; JSON has them as keys beside
`speakers` or `utterances` ({name: fold or part}) or `rows`. Lists of others: `corpora.fold_lists`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from corpora.fold_lists import (
    EXCLUDED,
    FoldList,
    Row,
    by_part,
    list_folder,
    read_list,
)
from corpora.given import PART_OF, check_fold_names, in_order
from corpora.names import clean_name, two_spellings
from system.errors import InputError, nearest
from system.text import printable, short_repr, truncate

SHIPPED = Path(__file__).resolve().parent.parent / "configs" / "folds"
NOT_STATED = "not stated"
WORDS = (*PART_OF, EXCLUDED)


class Entry(NamedTuple):
    """What one row says.

    Args:
        fold: Name of the fold; "" where there is one.
        part: `train`, `dev`, `test` or `excluded`.
        row: Fields of the row.
        place: File and line.
    """

    fold: str
    part: str
    row: Row
    place: str

    @property
    def name(self) -> str:
        """The speaker or utterance, as written."""
        return next(self.row[key] for key in ("id", "path", "speaker") if key in self.row)


@dataclass(frozen=True)
class Partition:
    """Folds as files give them; names are not compared with a corpus yet.

    Args:
        name: Name of the shipped table, file or folder.
        made_by: Who made the folds.
        source: Where they are published, in words; may be empty.
        by_speaker: Whether the entries name speakers; else utterances.
        rotating: Whether each fold tests its entries and trains on those of all others.
        folds: Names of the folds, in their order.
        entries: One for each row.
    """

    name: str
    made_by: str
    source: str
    by_speaker: bool
    rotating: bool
    folds: tuple[str, ...]
    entries: tuple[Entry, ...]

    def of_fold(self, fold: str) -> list[Entry]:
        """Return what the entries are in one fold."""
        if not self.rotating:
            return [
                e for e in self.entries if e.fold == fold or (not e.fold and e.part == EXCLUDED)
            ]
        return [
            entry if entry.part == EXCLUDED or entry.fold == fold else entry._replace(part="train")
            for entry in self.entries
        ]


def shipped_tables() -> dict[str, Path]:
    """Return the tables that come with the code, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.csv"))}


def find_partition(folds: str, key: str = "protocol.folds") -> Path:
    """Return the file or folder that a value of `protocol.folds` names.

    Args:
        folds: The value.
        key: What messages call it.

    Raises:
        InputError: There is none.
    """
    tables = shipped_tables()
    path = Path(folds).expanduser()
    if folds in tables:
        return tables[folds]
    if not folds:  # a path of nothing is the current folder
        raise InputError(f"{key} is empty: name a file, a folder or one of {', '.join(tables)}")
    if not os.path.exists(path):  # also False for a name that is too long
        raise InputError(
            f"{key}: there is no file or folder {truncate(folds)}, and no table of this name comes "
            f"with the code; {nearest(folds, tables)}"
        )
    return path


def read_partition(
    paths: Sequence[Path], chosen: Mapping[str, str | None] | None = None
) -> Partition:
    """Read a table, a folder of lists, or the lists of one fold (train, dev, test).

    Args:
        paths: The table, the folder or the lists.
        chosen: Value of `corpus.columns` where the table is `corpus.manifest`, too. It names the
            columns of that file alone; others have columns under the names of `COLUMNS`.

    Raises:
        InputError: Something cannot be read, or does not say who is trained and tested.
    """
    if len(paths) > 1:
        return _from_lists(", ".join(map(str, paths)), [("", by_part(paths))])
    (path,) = paths
    if path.is_dir():
        return _from_lists(path.name or str(path), list_folder(path))
    return _from_table(read_list(path, chosen))


def _from_lists(name: str, folds: Sequence[tuple[str, dict[str, Path]]]) -> Partition:
    entries = []
    forms: dict[str, None] = {}
    for fold, files in folds:
        for part, path in files.items():
            found = read_list(path)
            forms[found.form] = None
            for place, row in found.rows:
                if "split" in row or "fold" in row:
                    raise InputError(
                        f"{place}: the file's name says {part}, and a column gives `split` or "
                        "`fold`, too: give the file alone, or remove the column"
                    )
                entries.append(Entry(fold, part, row, place))
    form = " and ".join(forms)
    made_by = form if form == "EmoBox" else f"{NOT_STATED}; in the form of {form}"
    return _partition(name, made_by, "", False, [fold for fold, _ in folds], entries)


def _from_table(found: FoldList) -> Partition:
    columns = {key for _, row in found.rows for key in ("split", "fold") if key in row}
    if not columns:
        raise InputError(
            f"{found.path} has no column `fold` or `split`: add one, or give all lists of a fold "
            "(train, dev, test) or their folder"
        )
    entries = []
    for place, row in found.rows:
        if missing := sorted(columns - row.keys()):
            raise InputError(f"{place}: `{missing[0]}` is empty: fill it in, or write {EXCLUDED}")
        word = row.get("split", "test").casefold()
        fold = clean_name(row.get("fold", ""))
        if fold.casefold() == EXCLUDED:
            word, fold = EXCLUDED, ""
        if word not in WORDS:
            raise InputError(f"{place}: `split` says {short_repr(word)}; {nearest(word, WORDS)}")
        entries.append(Entry(fold, PART_OF.get(word, word), row, place))
    rotating = columns == {"fold"}
    folds = sorted({e.fold for e in entries if e.part != EXCLUDED or e.fold}, key=in_order)
    head = found.head
    made_by = head.get("made_by") or f"{NOT_STATED} in {found.path.name}"
    name = found.path.stem if found.path.parent == SHIPPED else found.path.name
    return _partition(name, made_by, head.get("source", ""), rotating, folds, entries)


def _partition(
    name: str,
    made_by: str,
    source: str,
    rotating: bool,
    folds: Sequence[str],
    entries: Sequence[Entry],
) -> Partition:
    """Check what every form must have."""
    by_speaker = [not entry.row.keys() & {"id", "path"} for entry in entries]
    for entry, lone in zip(entries, by_speaker, strict=True):
        if lone and "speaker" not in entry.row:
            raise InputError(f"{entry.place}: no `speaker`, `utterance` or `path` is filled in")
        if lone != by_speaker[0]:
            raise InputError(f"{entry.place}: rows must all name utterances, or all speakers")
    if rotating and len(folds) < 2:
        raise InputError(f"{name}: the column `fold` needs at least 2 values, got {len(folds)}")
    if rotating:
        check_fold_names(folds, f"{name}: the column `fold`")
        _refuse_nearly_excluded(name, folds)
    for first, second in two_spellings(folds):
        raise InputError(
            f"{name} has the folds {short_repr(first)} and {short_repr(second)}: write each fold "
            "in one way"
        )
    for fold in folds:
        if not rotating and (
            missing := {"train", "test"} - {e.part for e in entries if e.fold == fold}
        ):
            of_fold = f" of fold {fold}" if fold else ""
            raise InputError(f"{name}: nobody is in {' and '.join(sorted(missing))}{of_fold}")
    # a file name may hold line breaks
    name, made_by = printable(name, keep=""), printable(made_by, keep="")
    return Partition(name, made_by, source, by_speaker[0], rotating, tuple(folds), tuple(entries))


def _refuse_nearly_excluded(name: str, folds: Sequence[str]) -> None:
    """Refuse a misspelled `excluded`, which would be a fold of its own."""
    by_lower = {fold.casefold(): fold for fold in folds}
    if close := get_close_matches(EXCLUDED, by_lower, n=1, cutoff=0.8):
        raise InputError(
            f"{name}: the column `fold` says {short_repr(by_lower[close[0]])}: write {EXCLUDED} "
            "for what is left out, or give the fold another name"
        )
