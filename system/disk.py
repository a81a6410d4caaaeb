"""Files are written whole or not at all, synced, and what a disk does not take is told plainly.

A file is written in a hidden folder beside it, synced, and renamed; then its folder is synced, so
that the name outlives a power cut as well. Folders are made where a run, a fold, a store or an
output begins and nowhere else: one that was removed meanwhile never comes back half empty.
"""

import errno
import fcntl
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from system.errors import RunError
from system.text import format_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # sync of a folder
FEW_FILES = 16  # a file and what is there while it is written are fewer
PLACES = "run.root, run.store, --out or --root"
AGAIN = "then give the same command again"


@contextmanager
def atomic_write(path: Path, needs: int | None = None) -> Iterator[Path]:
    """Give a temporary place to write to; on success it is synced and takes the name `path`.

    Args:
        path: The file, in a folder that is there.
        needs: Bytes that are about to be written, for the message; None is unknown.

    Raises:
        RunError: The disk is full, lost or read-only, or the folder is gone; `path` is as it was.
    """
    replaced = False
    try:
        with _scratch(path) as scratch:
            temporary = scratch / path.name
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            replaced = True
            sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        kept = "It was replaced, but may not outlive a power cut" if replaced else None
        raise failure(f"cannot write {path}", path.parent, error, needs, kept) from error


def append(path: Path, data: bytes, is_line: bool = False) -> None:
    """Append some bytes, synced; where that fails nothing of them stays.

    Args:
        path: The file, made if missing; its folder must be there.
        data: The bytes.
        is_line: First end the line that a crash has left unfinished.

    Raises:
        RunError: The disk is full, lost or read-only, or the folder is gone.
    """
    try:
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            try:
                write_all(file, (_end_of_line(file, size) if is_line else b"") + data)
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):  # of a lost disk; the first error is the one to tell
                    file.truncate(size)
                raise
        if size == 0:
            sync_folder(path.parent)
    except OSError as error:
        raise failure(f"cannot append to {path}", path.parent, error, len(data)) from error


def make_folder(folder: Path, inside: Path | None = None) -> None:
    """Make a folder where something begins.

    Args:
        folder: May be there already.
        inside: A folder above it that must be there: if it was removed meanwhile, none is made.

    Raises:
        RunError: It cannot be made.
    """
    try:
        if inside is not None and not inside.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(inside))
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in made:
            sync_folder(each.parent)
    except OSError as error:
        place = folder if inside is None else inside
        raise failure(f"cannot make the folder {folder}", place, error) from error


def check_writable(folder: Path, setting: str) -> None:
    """Fail before anything is computed where a folder cannot be written, or not be made.

    Leaves nothing behind. A disk that is merely nearly full passes: what fits shows when written.

    Args:
        folder: May be missing.
        setting: Key and value that name it, for the message.

    Raises:
        RunError: Nothing can be written there.
    """
    try:
        tempfile.TemporaryFile(dir=_nearest(folder)).close()
    except OSError as error:
        raise failure(f"{setting} cannot be written", _nearest(folder), error) from error


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where its file system offers that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    finally:
        os.close(handle)


def failure(
    what: str,
    folder: Path,
    error: Exception,
    needs: int | None = None,
    kept: str | None = None,
) -> RunError:
    """Return the error for what a disk did not take: the reason, the room, and the way on.

    Args:
        what: Could not be done.
        folder: Where.
        error: Of the system.
        needs: Bytes that were about to be written; None is unknown.
        kept: What is so now; None is that nothing was changed there.
    """
    number = _number(error)
    if number == errno.ENOENT and not os.path.exists(folder):
        return RunError(
            f"{what}: the folder {_highest_missing(folder)} is gone. Nothing was made in its "
            "place: the same command starts anew what was in it"
        )
    reason = os.strerror(number) if number else str(error)
    way = f"check that disk, {AGAIN}"
    if number in FULL:
        reason += f" ({_room(folder, needs)})"
        way = f"free some space or name another disk ({PLACES}), {AGAIN}"
    elif number in CLOSED:
        way = f"make it writable or name another place ({PLACES}), {AGAIN}"
    return RunError(f"{what}: {reason}. {kept or 'Nothing was changed there'}: {way}")


def keeps_back(error: Exception) -> bool:
    """Whether a disk does not give what may well be there and whole, as a lost or a closed one."""
    return _number(error) in (*CLOSED, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)


def is_full(folder: Path) -> bool:
    """Whether not even a page fits on the disk of a folder."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < 4096 or bool(disk.f_files and not disk.f_favail)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in a folder; what others are writing stays."""
    for left in folder.glob(".*.tmp"):
        _remove_if_left(left)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside a file that is to be written; it goes, however that ends.

    It is locked, and the lock falls with the process: so the next writer of the file can tell what
    a killed one has left, and removes it, from what another one is still writing.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_if_left(left)
    folder, handle = _own_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # at work, gone meanwhile, or no locks on this file system
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _own_folder(path: Path) -> tuple[Path, int]:
    """Make and lock a folder; once more where it was taken for one left before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # no locks on this file system: nobody removes it either
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file, which may take only a part at a time."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _end_of_line(file: BinaryIO, size: int) -> bytes:
    """Return what ends a line that a crash has left unfinished."""
    if size == 0:
        return b""
    file.seek(size - 1)
    return b"" if file.read(1) == b"\n" else b"\n"


def _number(error: Exception) -> int | None:
    """Return the system's number of an error; safetensors has it in its words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _room(folder: Path, needs: int | None) -> str:
    """Say what was needed and what is free, for this user, now that nothing half is left."""
    needed = "" if needs is None else f"needs {format_bytes(needs)}, "
    try:
        disk = os.statvfs(_nearest(folder))
    except OSError:
        return f"{needed}what is free there cannot be told"
    few = disk.f_files and disk.f_favail < FEW_FILES
    files = f", for at most {disk.f_favail} new file{'s' * (disk.f_favail != 1)}" if few else ""
    return f"{needed}{format_bytes(disk.f_bavail * disk.f_frsize)} is free on that disk{files}"


def _nearest(folder: Path) -> Path:
    """Return the folder, or what of the way to it is there."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _highest_missing(folder: Path) -> Path:
    while not os.path.exists(folder.parent):
        folder = folder.parent
    return folder
