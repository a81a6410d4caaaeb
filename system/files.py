"""Files: written atomically and synced, read within a size limit, disk errors in one message.

A file is written in a hidden folder beside it, synced, and renamed; then its folder is synced, so
that the name survives a power cut. Only `make_folder` makes folders: a removed one stays removed.
"""

import csv
import errno
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from system.errors import RunError
from system.owned import check_inside, flock, open_owned
from system.placeholders import LFS_POINTER, is_lfs_pointer, refuse_lfs_pointer
from system.regular import NOT_REGULAR, open_regular
from system.temporary import hidden_folder
from system.text import decode_text, format_bytes

MAX_CONFIG = 100_000  # bytes of a config file or an override; the longest here has 800
MAX_MANIFEST = 100_000_000  # bytes, about half a million rows
MAX_LABELS = 2_000_000  # bytes of a label file of a published corpus; IEMOCAP's have up to 60 000
MAX_JSON = 100_000_000  # bytes, the index of a feature store of a million utterances
MAX_TABLE = 300_000_000  # bytes of a table or ledger: predictions of a million utterances
MAX_CARD = 1_000_000  # bytes of a model.json; usually 2000
MAX_WORD = MAX_CLASSES = 1000  # characters of a label, speaker or id; classes

FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
LOST = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)
NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # sync, chmod
FEW_FILES = 16  # below this the message counts them; an atomic write needs two
OTHER_DISK = "another disk (run.root, run.store, --out or --root)"


def read_text(path: Path, limit: int, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Read a regular file whose size is limited; line ends stay as they are.

    Args:
        path: A file, or a link to one.
        limit: Largest size that is read, in bytes.
        encoding: Encoding of the text.
        errors: What to do with bytes that do not decode, see `bytes.decode`.

    Raises:
        OSError: The file cannot be read, or is a folder, pipe or device.
        ValueError: It is a Git LFS pointer, is larger, or is not text, see `decode_text`.
    """
    return decode_text(read_bytes(path, limit), encoding, errors)


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file whose size is limited; raises as `read_text`, whatever its bytes are."""
    with BufferedReader(open_regular(path)) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > limit else file.read(limit + 1)
    if max(size, len(content)) > limit:
        raise ValueError(f"it is larger than {limit / 1e6:g} MB")
    refuse_lfs_pointer(content)
    return content


def read_json(path: Path, *keys: str, remove: Path | None = None, limit: int = MAX_JSON) -> Any:
    """Read a JSON file that this code wrote.

    Args:
        path: The file.
        keys: Keys that it must have.
        remove: What to remove so that it is made again; None is the file alone.
        limit: Largest size that is read, in bytes.

    Raises:
        RunError: The file is missing or too large, is not JSON, or lacks a key.
    """
    try:
        value = json.loads(read_text(path, limit))
    except (OSError, ValueError, RecursionError) as error:
        raise corrupt_file(path, error, remove) from error
    if missing := [key for key in keys if not isinstance(value, dict) or key not in value]:
        raise corrupt_file(path, f"no {', '.join(missing)} in it", remove)
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    data = text.encode()
    with atomic_write(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ","
) -> None:
    """Write a CSV file atomically, header first."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


def copy_file(source: Path, path: Path) -> None:
    """Copy a file atomically."""
    try:
        size = source.stat().st_size
    except OSError as error:
        raise corrupt_file(source, error, remove=path.parent) from error
    with atomic_write(path, size) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def atomic_write(path: Path, n_bytes: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is synced and renamed to `path`.

    Args:
        path: The file, in a folder that exists.
        n_bytes: Size of what will be written, for the message; None is unknown.

    Raises:
        RunError: The disk is full, lost or read-only, the folder is gone, or `path` is a pipe or
            such; it is unchanged.
    """
    kept = "Nothing was changed there"
    try:
        if path.exists() and not path.is_file():  # a rename would replace a device
            raise RunError(f"cannot write {path}: {NOT_REGULAR}: name another file")
        with hidden_folder(path) as folder:
            temporary = folder / path.name
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask says
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            if temporary.stat().st_mode != mode:  # safetensors writes for the owner alone
                _set_mode(temporary, mode)
            temporary.replace(path)
            kept = "It was replaced, but a power cut may undo that"
            sync_folder(path.parent)
    except OSError as error:
        raise disk_error(f"cannot write {path}", path.parent, error, n_bytes, kept) from error


def append(path: Path, data: bytes, is_line: bool = False) -> None:
    """Append bytes and sync them; if that fails, none of them stay.

    Args:
        path: The file, made if missing; its folder must exist.
        data: What to append.
        is_line: First end a line that a crash left unfinished.

    Raises:
        RunError: The disk is full, lost or read-only, or the folder is gone.
    """
    try:
        with open_owned(path, "a+b") as file:
            flock(file)
            size = file.seek(0, os.SEEK_END)
            try:
                write_all(file, (_missing_newline(file, size) if is_line else b"") + data)
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):  # on a lost disk; report the first error
                    file.truncate(size)
                raise
        if size == 0:
            sync_folder(path.parent)
    except OSError as error:
        raise disk_error(f"cannot append to {path}", path.parent, error, len(data)) from error


def append_line(path: Path, line: str) -> None:
    """Append one line, see `append`."""
    append(path, f"{line}\n".encode(), is_line=True)


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write to an unbuffered file, which may take only a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def make_folder(folder: Path, inside: Path | None = None) -> None:
    """Make a folder and its parents, synced.

    Args:
        folder: May exist already.
        inside: A parent that must exist; if it was removed during the run, nothing is made. No link
            may lead out of it.

    Raises:
        RunError: It cannot be made.
    """
    try:
        if inside is not None and not inside.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(inside))
        if inside is not None:
            check_inside(folder, inside)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
    except OSError as error:
        raise disk_error(f"cannot make the folder {folder}", inside or folder, error) from error


def check_writable(folder: Path, setting: str) -> None:
    """Fail before anything is computed if a folder cannot be written, or made.

    Leaves nothing behind. A disk that is nearly full passes: the write itself shows what fits.

    Args:
        folder: May be missing.
        setting: Key and value that name it, for the message.
    """
    existing = _nearest_existing(folder)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise disk_error(f"{setting} cannot be written", existing, error) from error


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, if its file system offers that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    finally:
        os.close(handle)


def is_full(folder: Path) -> bool:
    """Return whether not even one page or one file fits on the disk of a folder."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < 4096 or bool(disk.f_files and not disk.f_favail)


def is_unreachable(error: Exception) -> bool:
    """Return whether the disk is lost or closed: the file itself may be whole."""
    return isinstance(error, OSError) and error.errno in (*NOT_WRITABLE, *LOST)


def corrupt_file(path: Path, reason: object, remove: Path | None = None) -> RunError:
    """Build the error for a corrupt or outdated file, including how to recover.

    Args:
        path: The file.
        reason: What is wrong with it.
        remove: What to remove so that it is made again; None is the file alone.
    """
    if is_lfs_pointer(path):
        return RunError(f"{path} {LFS_POINTER}")
    if isinstance(reason, Exception) and is_unreachable(reason):
        return RunError(
            f"cannot read {path}: {reason}. Check its disk and its permissions, then run the same "
            "command again"
        )
    return RunError(
        f"{path} is missing, corrupt or of another version ({getattr(reason, 'what', reason)}): "
        f"{'restore it from a copy, or ' if remove else ''}remove {remove or path} "
        "and run the same training command again"
    )


def disk_error(
    what: str,
    folder: Path,
    error: OSError,
    n_bytes: int | None = None,
    kept: str = "Nothing was changed there",
) -> RunError:
    """Build the error for a failed write: the reason, the free space, and how to recover.

    Args:
        what: Failed action, for example "cannot write FILE".
        folder: Folder of the failed write.
        error: The system's error.
        n_bytes: Bytes that were to be written; None is unknown.
        kept: Sentence that says what is on the disk now.
    """
    if error.errno == errno.ENOENT and not os.path.exists(folder):
        gone = next(path for path in (folder, *folder.parents) if os.path.exists(path.parent))
        return RunError(f"{what}: the folder {gone} is gone: the same command starts anew")
    reason, remedy = os.strerror(error.errno) if error.errno else str(error), "check that disk"
    if error.errno in FULL:
        reason += f" ({_free_space(folder, n_bytes)})"
        remedy = f"free some space or name {OTHER_DISK}"
    elif error.errno in NOT_WRITABLE:
        remedy = f"make it writable or name {OTHER_DISK}"
    return RunError(f"{what}: {reason}. {kept}: {remedy}, then run the same command again")


def _set_mode(path: Path, mode: int) -> None:
    """Set a file's mode, if its mount offers that."""
    try:
        path.chmod(stat.S_IMODE(mode))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, *NOT_OFFERED):
            raise


def _missing_newline(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - 1))
    return b"" if file.read(1) in (b"\n", b"") else b"\n"


def _free_space(folder: Path, n_bytes: int | None) -> str:
    """Describe what was needed and what is free for this user, after the failed write is undone."""
    needed = f"needs {format_bytes(n_bytes)}, " if n_bytes is not None else ""
    try:
        disk = os.statvfs(_nearest_existing(folder))
    except OSError:
        return f"{needed}free space unknown"
    few = disk.f_files and disk.f_favail < FEW_FILES
    files = f", for at most {disk.f_favail} new file{'s' * (disk.f_favail != 1)}" if few else ""
    return f"{needed}{format_bytes(disk.f_bavail * disk.f_frsize)} is free on that disk{files}"


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))
