"""The files of an audformat database, loaded so that none of them runs code or wins silently.

The header is parsed with YAML's safe loader, since audformat's own can run code; and a table is
read from the file that is chosen here, never from a pickle, which can run code, too. Where
Parquet and CSV of a table lie side by side, audformat takes Parquet even if CSV is newer: here they
must say the same.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from corpora.columns import log_once
from system.errors import InputError, first_line
from system.files import MAX_LABELS, MAX_MANIFEST, read_text
from system.regular import check_regular
from system.tables import csv_rows
from system.text import truncate

HEADER = "db.yaml"
SUFFIXES = (".parquet", ".csv")  # in the order in which audformat takes them


def load_header(path: Path) -> Any:
    """Return the database of a header, an `audformat.Database` without data.

    Raises:
        InputError: It cannot be read.
    """
    import audformat

    try:
        header = yaml.safe_load(read_text(path, MAX_LABELS, "utf-8-sig"))
        if not isinstance(header, dict):
            raise ValueError("it is not a header of audformat")
        database = audformat.Database.load_header_from_yaml(header)
        _check_references(database)
        return database
    except Exception as error:  # what a header that is wrong somewhere makes audformat raise
        raise InputError(
            f"cannot read {path} as the header of an audformat database: "
            f"{truncate(first_line(error), 400)}"
        ) from None


def _check_references(database: Any) -> None:
    """Refuse a header that names a scheme, split or misc table that it does not have."""
    for kind, tables in (("table", database.tables), ("misc table", database.misc_tables)):
        for name, table in tables.items():
            split = getattr(table, "split_id", None)
            if split is not None and split not in database.splits:
                raise ValueError(f"the {kind} {name} has the split {split}, which is not there")
            for column in table.columns.values():
                if column.scheme_id is not None and column.scheme_id not in database.schemes:
                    raise ValueError(
                        f"the {kind} {name} has the scheme {column.scheme_id}, which is not there"
                    )
    for name, scheme in database.schemes.items():
        if isinstance(scheme.labels, str) and scheme.labels not in database.misc_tables:
            raise ValueError(f"the scheme {name} has no misc table {scheme.labels}")


def load_tables(root: Path, database: Any, tables: Iterable[str]) -> None:
    """Load tables, and the misc tables that schemes need, each from the file that is chosen.

    Args:
        root: The folder.
        database: From `load_header`.
        tables: Their ids.

    Raises:
        InputError: A table has no file, cannot be read, or its files differ.
    """
    needed = {
        scheme.labels for scheme in database.schemes.values() if isinstance(scheme.labels, str)
    }
    read, older = [], []
    for name in [*sorted(needed), *tables]:
        files = [root / f"db.{name}{suffix}" for suffix in SUFFIXES]
        files = [path for path in files if path.is_file()]
        if not files:
            pickle = root / f"db.{name}.pkl"
            only = f"; {pickle.name} is not read, since a pickle can run code" * pickle.is_file()
            raise InputError(f"{root} has no db.{name}.csv and no db.{name}.parquet{only}")
        frames = [_load_table(database, name, path) for path in reversed(files)]  # the first last
        if len(frames) == 2:
            _refuse_difference(name, files, frames)
            older.append(name)
        read.append(files[0].name)
    log_once(f"{root}: read {truncate(', '.join(read), 600)}")
    if older:
        log_once(f"{root}: CSV and Parquet say the same of {truncate(', '.join(older), 600)}")


def _load_table(database: Any, name: str, path: Path) -> Any:
    """Load a table from one file alone: of a folder with several, audformat chooses itself."""
    try:
        check_regular(path)
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, path.name)
            link.symlink_to(path.resolve())
            database[name].load(str(link.with_suffix("")))
            frame = database[name].df.copy()
        if path.suffix == ".csv":
            _check_header(path, [*frame.index.names, *frame.columns])
        return frame
    except InputError:
        raise
    except Exception as error:  # of pandas, pyarrow or audformat
        raise InputError(
            f"cannot read {path} as the table {name}: {truncate(first_line(error), 400)}"
        ) from None


def _check_header(path: Path, wanted: Sequence[str]) -> None:
    """Refuse a CSV whose columns are not those of the database in their order.

    audformat takes them by their place.
    """
    _, header = next(csv_rows(read_text(path, MAX_MANIFEST, "utf-8-sig")), (1, []))
    if header != list(wanted):
        raise InputError(
            f"{path}, line 1: the header must be {truncate(','.join(wanted))}, as {HEADER} says, "
            f"got {truncate(','.join(header))}"
        )


def _refuse_difference(name: str, files: list[Path], frames: list[Any]) -> None:
    """Refuse two files of a table that say different things."""
    csv, parquet = (frame.astype(str).sort_index() for frame in frames)
    if csv.equals(parquet):
        return
    newer = max(files, key=lambda path: path.stat().st_mtime)
    raise InputError(
        f"the table {name} has two files that differ, {' and '.join(map(str, files))} "
        f"({len(parquet)} and {len(csv)} rows); {newer.name} was written last, and audformat takes "
        f"{files[0].name}: remove the one that is wrong"
    )
