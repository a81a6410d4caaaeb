"""Open files to read, regular ones alone: a pipe waits for a writer, a device may have no end."""

import hashlib
import os
import stat
from io import FileIO
from pathlib import Path

NOT_REGULAR = "it is not a regular file"


def open_regular(path: Path) -> FileIO:
    """Open a regular file, or a link to one, unbuffered.

    It is opened without waiting and checked once it is open: nothing can take its place between.

    Raises:
        OSError: It cannot be opened, or is a folder, pipe, socket or device.
    """
    check_regular(path)  # opening a device may already have an effect
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_mode(os.fstat(handle).st_mode)
    except OSError:
        os.close(handle)
        raise
    return FileIO(handle)


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file or a link to one, before a library opens it by its path.

    Raises:
        OSError: It is missing, or a folder, pipe, socket or device.
    """
    _check_mode(path.stat().st_mode)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the bytes of a regular file.

    Raises:
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_mode(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(NOT_REGULAR)
