"""The one reader of tables: CSV, TSV, JSONL, JSON or Parquet, under our names of its columns."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from corpora.columns import Header, Row, read_csv, read_jsonl
from corpora.json_tables import SPEECHBRAIN, read_json_rows
from corpora.parquet import read_parquet
from corpora.segments import DURATION, unread_times, whole_files
from system.errors import InputError
from system.files import MAX_MANIFEST, read_text
from system.text import truncate

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
NO_WORDS: Mapping[str, str | None] = MappingProxyType({})


def read_table(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    required: Sequence[str],
    chosen: Mapping[str, str | None] = NO_WORDS,
    key: str = "corpus.manifest",
    in_names: Collection[str] = (),
) -> list[tuple[str, Row]]:
    """Read all rows; log once which columns were renamed and which are not used.

    Args:
        path: The file; its suffix says its form. Fields of a .csv or .tsv file are separated by
            commas, semicolons or tabs; the header tells.
        columns: Our name of each column that is used, and other names of it.
        required: Columns that a table must have.
        chosen: Value of `corpus.columns`.
        key: What messages call the file.
        in_names: Required columns that JSON may lack, since names of files may tell them.

    Returns:
        (place, row) pairs, such as ("line 2", ...). Values of CSV are strings, others as written.

    Raises:
        InputError: The file cannot be read, is not UTF-8, or is not a table; or two columns have
            one meaning, names the line; or columns seem to be times and are not read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{key} must end in one of {', '.join(SUFFIXES)}, got {path}")
    header = Header(columns, chosen)
    try:
        if suffix == ".parquet":
            rows = read_parquet(path, header, required, key)
        else:
            rows = _read_text(read_text(path, MAX_MANIFEST, "utf-8-sig"), suffix, header, required)
        if rows and suffix in (".jsonl", ".json"):
            header.refuse_missing([name for name in required if name not in in_names])
    except FileNotFoundError:
        raise InputError(f"{key}: there is no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{key}: cannot read {path}: {error}") from None
    if times := unread_times(header.all_names()):
        raise InputError(
            f"{path}: the columns {truncate(', '.join(map(repr, times)))} look like times of a "
            "part of the file and are not read. If they are such times, write them as start and "
            "end in seconds (milliseconds / 1000, samples / sampling rate), else rename or remove "
            "them"
        )
    header.report(path)
    return rows


def _read_text(
    text: str, suffix: str, header: Header, required: Sequence[str]
) -> list[tuple[str, Row]]:
    if suffix == ".json":
        form, rows = read_json_rows(text, header)
        if form != SPEECHBRAIN or DURATION in header.chosen:
            return rows
        rows = whole_files(rows)
        if not any(DURATION in row for _, row in rows):
            header.leave_out(DURATION)
        return rows
    if suffix == ".jsonl":
        numbered = list(read_jsonl(text, header))
    else:
        numbered = list(read_csv(text, header, required))
    return [(f"line {number}", row) for number, row in numbered]
