"""Open a file of sound: only a regular file that is not empty. `BadAudio` says why not."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from system.regular import open_regular

NOT_A_FILE = {  # opening these would block, or read forever
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFIFO: "is a pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


class BadAudio(Exception):
    """A file that is not usable audio; the message is the reason, without the path."""


@contextmanager
def open_file(path: Path) -> Iterator[FileIO]:
    """Open a regular file that is not empty; no other function here opens a file.

    Unbuffered, so that its position is also that of the file descriptor which libsndfile reads.

    Raises:
        BadAudio: The path is not such a file, or reading fails.
    """
    try:
        _check_is_file(path)
        with open_regular(path) as file:
            yield file
    except OSError as error:
        broken = error.errno == errno.ENOENT and path.is_symlink()
        link = "the link leads nowhere: " if broken else ""
        raise BadAudio(f"cannot be read: {link}{error.strerror or error}") from error


def _check_is_file(path: Path) -> None:
    try:
        str(path).encode()
        status = path.stat()
    except UnicodeEncodeError as error:
        raise BadAudio("has a name that is not UTF-8: rename it") from error
    except ValueError as error:  # a null character, which no file name can have
        raise BadAudio(f"cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadAudio(NOT_A_FILE.get(stat.S_IFMT(status.st_mode), "is not a regular file"))
    if status.st_size == 0:
        raise BadAudio("is empty: 0 bytes")
