"""Recognise the pointers that Git LFS leaves in the place of files it has not fetched."""

import stat
from pathlib import Path

LFS_START = b"version https://git-lfs.github.com/spec/"
LFS_POINTER = "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"


def refuse_lfs_pointer(content: bytes) -> None:
    """Raise a ValueError with the way on for the content of a pointer."""
    if content.startswith(LFS_START):
        raise ValueError(f"it {LFS_POINTER}")


def is_lfs_pointer(path: Path) -> bool:
    """Return whether the file at a path is a pointer; False where no file can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            return False
        with path.open("rb") as file:
            return file.read(len(LFS_START)) == LFS_START
    except (OSError, ValueError):  # ValueError: a null character in the name
        return False
