"""Rows of a Parquet file, with the extra `formats`; columns that are not used are not read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora.columns import SHARE, VOTES, Header, Row
from system.extras import check_extra
from system.regular import open_regular
from system.text import short_repr, truncate

MAX_ROWS = 2_000_000


def read_parquet(
    path: Path, header: Header, required: Sequence[str], key: str = "corpus.manifest"
) -> list[tuple[str, Row]]:
    """Return the rows of a Parquet file with their places; durations are seconds.

    Args:
        path: The file.
        header: Gives columns our names.
        required: Columns that it must have.
        key: What messages call the file.

    Raises:
        InputError: pyarrow is missing.
        ValueError: It is not Parquet, or a column that is used holds no words or numbers.
    """
    check_extra(f"to read {path.name}, {key}", "pyarrow", "formats")
    import pyarrow
    import pyarrow.parquet

    try:
        with open_regular(path) as handle:
            file = pyarrow.parquet.ParquetFile(handle)
            if file.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"it has more than {MAX_ROWS} rows")
            fields = [file.schema_arrow.field(n) for n in range(len(file.schema_arrow.names))]
            names = header.names([field.name for field in fields])
            header.refuse_missing(required)
            used = {
                field.name: name
                for field, name in zip(fields, names, strict=True)
                if name in header.fields or name.startswith(SHARE)
            }
            for field in fields:
                if field.name in used:
                    _check_type(field, used[field.name] == VOTES)
            table = file.read(columns=list(used))
        columns = {used[field.name]: _values(table[field.name]) for field in table.schema}
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        raise ValueError(f"not Parquet that pyarrow reads: {truncate(str(error))}") from None
    return [
        (f"row {number}", dict(zip(columns, values, strict=True)))
        for number, values in enumerate(zip(*columns.values(), strict=True), start=1)
    ]


def _check_type(field: Any, nested: bool) -> None:
    import pyarrow

    kind = field.type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        raise ValueError(
            f"the column {short_repr(field.name)} holds the audio itself, as Hugging Face writes "
            "it: write each recording to a file (row['audio']['bytes'] are its bytes), and its "
            "path into the table"
        )
    if pyarrow.types.is_nested(kind) and nested:
        return
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
        raise ValueError(
            f"the column {short_repr(field.name)} must hold words or numbers, got {kind}"
        )


def _values(column: Any) -> list[Any]:
    """Return the values of a column: null is None, durations are seconds, other times words."""
    import pyarrow

    if pyarrow.types.is_duration(column.type):
        whole = column.cast(pyarrow.duration("ns"), safe=False).cast(pyarrow.int64())
        return [None if ns is None else round(ns / 1e9, 9) for ns in whole.to_pylist()]
    plain = (str, int, float, bool, list, dict, type(None))
    return [one if isinstance(one, plain) else str(one) for one in column.to_pylist()]
