"""Files that this code makes in folders that may come from elsewhere: no link leads out of them.

A run folder may be a stranger's. A link in it in the place of a lock, a ledger or a log would let
a harmless command overwrite a file of the user, so these are opened without following links.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from system.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_LOCKS = (
    "this Python has no file locks (module fcntl), without which two processes could write to one "
    "run: on Windows use WSL, see README.md"
)
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor wait for a pipe


def has_locks() -> bool:
    """Return whether this system can lock files."""
    return fcntl is not None


def flock(file: IO[Any] | int, shared: bool = False, blocking: bool = True) -> None:
    """Lock an open file or folder until it is closed.

    Raises:
        BlockingIOError: Another process holds it and `blocking` is false.
        OSError: The file system has no locks.
        RunError: This system has none.
    """
    if fcntl is None:
        raise RunError(NO_LOCKS)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind if blocking else kind | fcntl.LOCK_NB)


def open_owned(path: Path, mode: Literal["rb", "r+b", "a+b"]) -> BinaryIO:
    """Open a file unbuffered, but never through a link.

    Args:
        path: The file.
        mode: As for `open`; "a+b" makes the file if it is missing.

    Raises:
        OSError: It cannot be opened.
        RunError: It is a link, a pipe or a device.
    """
    check_owned(path)
    return open(path, mode, buffering=0, opener=lambda p, flags: os.open(p, flags | NO_LINK, 0o666))


def check_owned(path: Path) -> None:
    """Refuse a path that is a link, a pipe or a device; it may be missing.

    Raises:
        RunError: It is one of these.
    """
    with suppress(OSError):  # missing, or opening it will say why
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise _not_owned(path, "a link")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise _not_owned(path, "not a regular file")


def check_inside(folder: Path, inside: Path) -> None:
    """Refuse a folder that a link leads out of another one.

    Raises:
        RunError: It does.
    """
    if not folder.resolve().is_relative_to(inside.resolve()):
        raise RunError(
            f"{folder} is a link that leads out of {inside}: nothing was written there. Remove the "
            "link, then run the same command again"
        )


def remove(path: Path) -> None:
    """Remove a file, a folder with all it holds, or a link but not what it names.

    Raises:
        OSError: It cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _not_owned(path: Path, kind: str) -> RunError:
    return RunError(
        f"{path} is {kind}: nothing was written through it. Remove it, then run the same command "
        "again"
    )
