"""Text, JSON and CSV files: written atomically, read within a size limit."""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from system.bounded import MAX_JSON, read_text
from system.disk import append, atomic_write, keeps_back
from system.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    data = text.encode()
    with atomic_write(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str, remove: Path | None = None, most: int = MAX_JSON) -> Any:
    """Read a JSON file of ours, which must hold some keys.

    Args:
        path: The file.
        keys: That it must hold.
        remove: What must go so that it is made again; None is the file alone.
        most: Bytes that it may hold.

    Raises:
        RunError: The file is missing or too large, is not JSON, or lacks a key.
    """
    try:
        value = json.loads(read_text(path, most))
    except (OSError, ValueError, RecursionError) as error:
        raise corrupt_file(path, error, remove) from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise corrupt_file(path, f"no {', '.join(missing)} in it", remove)
    return value


def corrupt_file(path: Path, reason: object, remove: Path | None = None) -> RunError:
    """Return the error for a file of ours that is not as we write it, with the way on.

    Args:
        path: The file.
        reason: What is wrong with it.
        remove: What must go so that it is made again; None is the file alone.
    """
    if isinstance(reason, Exception) and keeps_back(reason):  # it may be whole: nothing must go
        return RunError(
            f"cannot read {path}: {reason}. Check its disk and its permissions, then give the same "
            "command again"
        )
    return RunError(
        f"{path} is missing, corrupt or of another version ({reason}): "
        f"remove {remove or path} and run the same training command again"
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file whole, header first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def append_line(path: Path, line: str) -> None:
    """Append one line, synced; where that fails nothing of it stays.

    Raises:
        RunError: The disk is full or the file cannot be written.
    """
    append(path, line.encode() + b"\n", is_line=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file whole."""
    try:
        size = source.stat().st_size
    except OSError as error:
        raise corrupt_file(source, error, remove=path.parent) from error
    with atomic_write(path, size) as temporary:
        shutil.copyfile(source, temporary)
