"""CSV as rows of fields that never span lines, so that a stray quote swallows no row."""

import csv
import io
from collections.abc import Iterator


def csv_rows(text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    r"""Yield (line number, fields) of every line that is not empty.

    Args:
        text: CSV; line ends are \n, \r\n or \r.
        delimiter: The character between two fields.

    Raises:
        ValueError: A line is not CSV, or a quote is not closed in it; names the line.

    >>> list(csv_rows('a,b\n"1, 2",3\n'))
    [(1, ['a', 'b']), (2, ['1, 2', '3'])]
    """
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        try:
            for row in csv.reader([line], delimiter=delimiter, strict=True):
                if row:
                    yield number, row
        except csv.Error as error:
            if "unexpected end" not in str(error):
                raise ValueError(f"line {number}: not CSV: {error}") from None
            raise ValueError(
                f'line {number}: not CSV: a quote (") opens here and is not closed in this line; '
                'close it or remove it, or write "" for a quote in a quoted field. A field must '
                "not span lines"
            ) from None


def csv_table(text: str) -> list[dict[str, str]]:
    """Return one mapping of column to field for each row below the header.

    Raises:
        ValueError: It is not CSV, has no header or a column twice, or a row has another number of
            fields than the header; names the line.
    """
    rows = csv_rows(text)
    _, header = next(rows, (1, []))
    if not header or len(set(header)) < len(header):
        raise ValueError("line 1: must name columns, each once")
    table = []
    for number, fields in rows:
        if len(fields) != len(header):
            raise ValueError(f"line {number}: {len(fields)} fields, the header has {len(header)}")
        table.append(dict(zip(header, fields, strict=True)))
    return table
