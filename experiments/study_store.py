"""The SQLite file of a study, checked before Optuna opens it: it may be damaged, or a stranger's.

SQLite computes what a file's schema asks for: a view or a generated column could give rows without
end. Optuna's own schema has tables and indices alone, and no expressions.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from system.regular import open_regular

HEADER = b"SQLite format 3\0"
MAX_STORE = 200_000_000  # bytes; a study of 1000 trials of 100 epochs has some 10 MB
MAX_VALUE = 1_000_000  # bytes of a row or of a text in it
COMPUTED = re.compile(r"\bAS\b|\bVIRTUAL\b", re.IGNORECASE)
# What Optuna and its database layer raise about rows that they did not write
UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(RuntimeError, RecursionError, sqlite3.Error),
)


def check_store(file: Path, timeout: float) -> None:
    """Refuse a file that is not a whole SQLite database of plain tables; it may be missing.

    Args:
        file: The store of a study.
        timeout: Seconds to wait for another process that writes to it.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is too large, not such a database, or its schema computes something.
        sqlite3.Error: It is damaged.
    """
    if not file.exists() and not file.is_symlink():
        return
    with open_regular(file) as opened:
        header = opened.read(len(HEADER))
    if not header:
        return  # an empty file is an empty database
    if header != HEADER:
        raise ValueError("it is not an SQLite database")
    if file.stat().st_size > MAX_STORE:
        raise ValueError(f"it is larger than {MAX_STORE / 1e6:g} MB")
    address = f"file:{quote(str(file.absolute()))}?mode=rw"  # to roll back what a kill left
    with closing(sqlite3.connect(address, timeout, uri=True)) as database:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        database.execute("PRAGMA trusted_schema = OFF")
        if problem := next(_computed(database), None):
            raise ValueError(problem)
        (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise ValueError(str(result))


def _computed(database: sqlite3.Connection) -> Iterator[str]:
    """Yield what in the schema is no plain table or index."""
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind not in ("table", "index") or COMPUTED.search(sql or ""):
            yield f"it holds {name!r}, which is not a plain table"
