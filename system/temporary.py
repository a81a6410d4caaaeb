"""Hidden folders in which files are written before they are renamed into place."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from system.owned import NO_LINK, flock


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a file, removed at the end.

    Its name is new, so no link can be in its place. A lock on it tells `remove_leftovers` that this
    process is still writing.
    """
    remove_leftovers(path.parent, f"{glob.escape(path.name)}.*")
    with ExitStack() as locked:
        while True:
            folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
            with suppress(FileNotFoundError):  # another process removed it before it was locked
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                locked.callback(os.close, handle)
                with suppress(OSError):  # a file system without locks: nobody removes it either
                    flock(handle)
                if folder.exists():
                    break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes were writing; keep what other processes are writing.

    Args:
        folder: Folder to clean.
        name: Pattern of the names of the files that were being written.
    """
    for hidden in folder.glob(f".{name}.tmp"):
        with suppress(OSError):  # in use, gone meanwhile, or a file system without locks
            handle = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | NO_LINK)
            try:
                flock(handle, blocking=False)
                shutil.rmtree(hidden, ignore_errors=True)
            finally:
                os.close(handle)
