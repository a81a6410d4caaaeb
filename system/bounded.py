"""The text of a file that may be anything: read only if it is a plain file of a bounded size."""

import stat
from pathlib import Path

MAX_CONFIG = 100_000  # bytes of a recipe or an override; the longest of ours has 800
MAX_MANIFEST = 100_000_000  # bytes, about half a million rows
MAX_LABELS = 2_000_000  # bytes of one file of a published corpus; IEMOCAP's have up to 60 000
MAX_JSON = 100_000_000  # bytes, the index of a feature store of a million clips
MAX_TABLE = 300_000_000  # bytes of a table or ledger of a run: predictions of a million clips
MAX_CARD = 1_000_000  # bytes of a model.json; ours have 2000
MAX_WORD = 1000  # characters of a label, speaker or id
MAX_CLASSES = 1000


def read_text(path: Path, most: int, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Read a file whole, after looking at what it is; newlines stay as they are.

    Args:
        path: A file, or a link to one.
        most: Bytes that it may hold.
        encoding: Of the text.
        errors: What bytes of no text become, see `bytes.decode`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is a folder, pipe or device, is larger, or is not text.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # to open a pipe is to wait
        raise ValueError("it is no plain file")
    with path.open("rb") as file:
        content = b"" if found.st_size > most else file.read(most + 1)
    if max(found.st_size, len(content)) > most:
        raise ValueError(f"it is larger than {most / 1e6:g} MB")
    return content.decode(encoding, errors)
