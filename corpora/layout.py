"""Find a published corpus below `corpus.root`, wherever it was unpacked: parts, copies, links."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from corpora.audio_files import MAX_NAMES, Tree, first, list_tree
from corpora.published import PUBLISHED
from system.errors import InputError
from system.files import MAX_LABELS, read_text


def search(corpus: str, root: Path) -> Tree:
    """List what lies below the root.

    Raises:
        InputError: It holds too much to be a corpus, or folders of the corpus cannot be listed,
            whose files would be passed over.
    """
    tree = list_tree(root)
    if not tree.is_whole:
        raise InputError(
            f"corpus.root {root} holds more than {MAX_NAMES} files: set it to the folder of the "
            "corpus itself"
        )
    closed = [folder for folder in tree.closed if _is_part(corpus, root, folder)]
    if closed:
        raise InputError(
            f"{len(closed)} folders of the corpus cannot be read: {first(map(str, closed))}: "
            f"{tree.closed[closed[0]]}. Change their permissions (chmod u+rx)"
        )
    return tree


def own_folder(corpus: str, root: Path, path: Path) -> Path:
    """Return the folder that holds the published folders of a file, at highest the root.

    >>> own_folder("ravdess", Path("data"), Path("data/speech/Actor_03/actor_03/03-01.wav"))
    PosixPath('data/speech')
    """
    folder = path.parent
    while folder != root and is_published(corpus, folder):
        folder = folder.parent
    return folder


def is_published(corpus: str, folder: Path) -> bool:
    """Return whether the corpus is published in folders of this name; case does not count."""
    return bool(re.fullmatch(PUBLISHED[corpus].folders, folder.name, re.IGNORECASE))


def choose_parts(corpus: str, root: Path, ids: Mapping[Path, Iterable[str]]) -> list[Path]:
    """Return the folders to read: all parts of one corpus, without copies inside of them.

    Args:
        corpus: Name of the corpus.
        root: Value of `corpus.root`.
        ids: What each folder holds.

    Raises:
        InputError: Two folders hold the same, and neither lies in the other.
    """
    kept: dict[Path, set[str]] = {}
    for folder in sorted(ids, key=lambda folder: (len(folder.parts), folder)):
        own = set(ids[folder])
        sharing = [other for other in kept if kept[other] & own]
        if any(own <= kept[other] and folder.is_relative_to(other) for other in sharing):
            continue  # told as not read
        if sharing:
            other = sharing[0]
            raise InputError(
                f"corpus.root {root} holds {corpus} more than once: {other} and {folder} have "
                f"{len(kept[other] & own)} names in common ({len(kept[other])} and {len(own)} in "
                "all). Set corpus.root to the folder to read"
            )
        kept[folder] = own
    return list(kept)


def not_found(corpus: str, root: Path, tree: Tree, others: Iterable[Path] = ()) -> InputError:
    """Build the error for a root without the corpus: what was searched, and what is there.

    Args:
        corpus: Name of the corpus.
        root: Value of `corpus.root`.
        tree: What lies below it.
        others: Files that are named as in the corpus and have another format.
    """
    names = [str(path.relative_to(root)) for path in others]
    there = f"{len(tree.audio)} audio files lie there, named otherwise; " if tree.audio else ""
    if names:
        there = (
            f"{first(names)} are named so, but only WAV and FLAC files are read: convert them, or "
            "list them in a manifest; "
        )
    return InputError(
        f"corpus.root: no {corpus} corpus in {root}, searched there and in all folders below for "
        f"files such as {PUBLISHED[corpus].example}; {there}{list_folder(root)}"
    )


def list_folder(folder: Path) -> str:
    """Return what a folder holds, in words."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return f"{folder} holds: {first(names)}" if names else "it is empty"


def read_published(path: Path, errors: str = "replace") -> str:
    """Read a text file of a published corpus; bytes that are not UTF-8 are in its comments.

    Args:
        path: The file.
        errors: What to do with bytes that are not UTF-8: "strict" where they may be names.

    Raises:
        InputError: It cannot be read, or is too large.
    """
    try:
        return read_text(path, MAX_LABELS, "utf-8-sig", errors)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _is_part(corpus: str, root: Path, folder: Path) -> bool:
    """Whether a folder belongs to the corpus; the label files of IEMOCAP name its audio files."""
    inside = folder.relative_to(root).parts
    own = any(is_published(corpus, Path(name)) for name in inside)
    return not inside or (own and not (corpus == "iemocap" and "sentences" in inside))
