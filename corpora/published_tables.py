"""Tables that come with a published corpus, found and read below its folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from corpora.audio_files import Tree, first
from corpora.columns import log_once
from system.errors import InputError
from system.files import MAX_MANIFEST, read_text
from system.tables import csv_table
from system.text import truncate


def find_table(corpus: str, tree: Tree, name: str) -> Path | None:
    """Return the table of a name, or None where there is none.

    Of several the one that lies highest is read, and the others are told: a release may hold the
    tables of earlier ones in folders of their own.

    Args:
        corpus: Name of the corpus, for messages.
        tree: What lies below `corpus.root`.
        name: Name of the file.

    Raises:
        InputError: Two lie equally high.
    """
    found = [folder / name for folder in tree.folders if os.path.lexists(folder / name)]
    if not found:
        return None
    highest = [path for path in found if len(path.parts) == len(found[0].parts)]
    if len(highest) > 1:
        raise InputError(
            f"{corpus}: {name} is in {len(highest)} places: {first(map(str, highest))}. Set "
            "corpus.root to a folder with one of them"
        )
    if len(found) > 1:
        log_once(f"{corpus}: tables that are not read: {first(map(str, found[1:]))}")
    return found[0]


def read_published_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV of a published corpus.

    Args:
        path: The file; UTF-8.
        columns: Columns that are used; others are allowed.

    Raises:
        InputError: It cannot be read, is no table, or lacks a column; names the line.
    """
    try:
        rows = csv_table(read_text(path, MAX_MANIFEST, "utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not rows:
        raise InputError(f"{path} has no rows: put the published table there")
    if missing := [name for name in columns if name not in rows[0]]:
        raise InputError(
            f"{path} has no column {' and '.join(missing)}, but "
            f"{truncate(', '.join(rows[0]))}: put the published table there"
        )
    return rows


def one_place(corpus: str, name: str, places: Iterable[Path]) -> Path | None:
    """Return the highest of the places of an audio file, or None where there is none.

    Raises:
        InputError: Two lie equally high.
    """
    found = sorted(places, key=lambda path: (len(path.parts), path))
    highest = [path for path in found if len(path.parts) == len(found[0].parts)]
    if len(highest) > 1:
        raise InputError(
            f"{corpus}: the audio of {name} is in {len(highest)} places: "
            f"{first(map(str, highest))}. Set corpus.root to a folder with one of them"
        )
    return found[0] if found else None
