"""Read a Hugging Face audiofolder with metadata: metadata.csv, .jsonl or .parquet beside the audio.

Source: datasets-audio and datasets-file-names-and-splits of the Hub's documentation. A metadata
file lies in the folder of its audio files or above; `file_name` starts from there. A folder named
by one of `KEYWORDS` is a split. Without metadata there is a folder for each class.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from corpora.audio_files import Tree, first
from corpora.columns import log_once
from corpora.given import PART_OF
from corpora.listed_paths import trim
from corpora.manifest import Listing, list_table
from system.errors import InputError
from system.files import MAX_CONFIG, read_text
from system.text import short_repr

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
KEYWORDS = PART_OF | {"eval": "test", "evaluation": "test"}
CARD = "README.md"
CARD_KEYS = re.compile(r"^\s*-?\s*(data_files|drop_labels|drop_metadata|metadata_filenames):", re.M)


def split_of_folder(name: str) -> str | None:
    """Return the split that the name of a folder says, or None.

    >>> split_of_folder("train"), split_of_folder("my-validation_1"), split_of_folder("contest")
    ('train', 'dev', None)
    """
    words = re.split(r"[-._ 0-9]+", name.casefold())
    splits = {KEYWORDS[word] for word in words if word in KEYWORDS}
    return splits.pop() if len(splits) == 1 else None


def read_audiofolder(root: Path, tree: Tree, chosen: Mapping[str, str | None]) -> Listing:
    """Return the rows of all metadata files; arguments as for `folders.read_folder`.

    Raises:
        InputError: There are none, or one cannot be read.
    """
    files = [folder / name for folder in tree.folders for name in METADATA]
    files = [path for path in files if path.is_file()]
    if not files:
        raise InputError(
            f"{root} has no {', '.join(METADATA)} in it or in a folder below: without one, use "
            "corpus.layout=classes, whose folders name the classes"
        )
    if several := [str(p.parent) for p in files if sum(q.parent == p.parent for q in files) > 1]:
        raise InputError(f"{several[0]} has several of {', '.join(METADATA)}: keep one")
    rows: list[tuple[str, Mapping[str, Any]]] = []
    knows_speakers = True
    for path in files:
        table = list_table(path, chosen, "corpus.root")
        knows_speakers = table.knows_speakers
        for place, row in table.rows:
            rows.append((f"{path.relative_to(root)}, {place}", _below_root(root, path, row)))
    log_once(f"{root}: read {first(str(path.relative_to(root)) for path in files)}")
    _report_card(root)
    return Listing(root, rows, knows_speakers)


def _below_root(root: Path, table: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose path starts from the root, with the split that its folders say."""
    row = dict(row)
    if not isinstance(name := row.get("path"), str) or not name.strip():
        return row  # refused with its line
    folder = table.parent.relative_to(root)
    if not name.strip().startswith(("/", "~", "\\")):
        row["path"] = (PurePosixPath(folder.as_posix()) / trim(table.parent, name)).as_posix()
    parts = PurePosixPath(str(row["path"]).replace("\\", "/")).parent.parts
    splits = [split for part in parts if (split := split_of_folder(part))]
    if splits and not row.get("split"):
        row["split"] = splits[0]
    elif splits and KEYWORDS.get(str(row["split"]).casefold()) != splits[0]:
        raise InputError(
            f"{table}: the column `split` says {short_repr(row['split'])} and the folders of "
            f"{short_repr(name)} say {splits[0]}: corpus.columns={{split: null}} takes the folders"
        )
    return row


def _report_card(root: Path) -> None:
    """Say that a dataset card configures what is not read here."""
    card = root / CARD
    if not card.is_file():
        return
    try:
        text = read_text(card, MAX_CONFIG * 10, errors="replace")
    except (OSError, ValueError):
        log_once(f"{card} cannot be read; it may configure splits")
        return
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    if keys := dict.fromkeys(CARD_KEYS.findall(head)):
        log_once(
            f"{card} sets {', '.join(keys)}, which is not read: splits are those of folder names"
        )
