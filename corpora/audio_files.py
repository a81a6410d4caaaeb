"""The audio files below a folder, and those of them that a reader did not read."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from corpora.utterance import LISTED_SUFFIXES
from system.text import printable

SUFFIXES = (*LISTED_SUFFIXES, ".oga", ".aac", ".m4a", ".wma", ".amr", ".au", ".sph", ".caf")
MAX_NAMES = 1_000_000  # files and folders that are listed; IEMOCAP has about 100 000
NAMES_SHOWN = 10


class Tree(NamedTuple):
    """What lies below a folder; hidden files and folders are left out."""

    folders: list[Path]  # the folder itself first
    audio: list[Path]  # files named as audio
    closed: dict[Path, str]  # folders that cannot be listed: reason
    is_whole: bool  # False where there are more names than the limit


class Unread(NamedTuple):
    """Audio files below `corpus.root` that the reader did not read.

    Args:
        files: Their paths relative to the root, sorted.
        closed: Folders that cannot be listed.
        named: False for a manifest, whose list decides: its files are counted and not named.
        is_whole: False if the root holds too many files to list all.
    """

    files: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    named: bool = True
    is_whole: bool = True

    def words(self) -> list[str]:
        """Return their number, folders and first names, one line for a kind.

        >>> Unread(("a/1.mp3", "a/2.mp3", "3.wav")).words()[0].split(": ", 1)[1]
        'a/ (2), ./ (1); the first are a/1.mp3, a/2.mp3, 3.wav'
        """
        lines = []
        if self.files:
            some = "" if self.is_whole else "at least "
            counted = f"{some}{len(self.files)} audio files below corpus.root were not read"
            folders = Counter(os.path.dirname(name) or "." for name in self.files).most_common()
            shown = first(f"{folder}/ ({n})" for folder, n in folders)
            names = f"{shown}; the first are {first(self.files)}"
            lines.append(f"{counted}: {names if self.named else 'the manifest does not list them'}")
        if self.closed:
            closed = first(self.closed)
            lines.append(f"{len(self.closed)} folders below corpus.root cannot be listed: {closed}")
        return lines


def list_tree(root: Path, limit: int = MAX_NAMES, suffixes: tuple[str, ...] = SUFFIXES) -> Tree:
    """List folders and audio files below a folder, level by level.

    Links are followed. A folder is listed once, under its own name rather than a link's, so that
    cycles end.

    Args:
        root: The folder.
        limit: Number of names after which listing ends.
        suffixes: Endings of the names of audio files, in lower case.
    """
    tree = Tree([], [], {}, True)
    known: set[str] = set()
    level = [(root, os.path.realpath(root))]
    n_names = 0
    while level:
        folders: list[tuple[Path, str]] = []
        links: list[tuple[Path, str]] = []
        for folder, real in level:
            if real in known:
                continue
            known.add(real)
            try:
                with os.scandir(folder) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                tree.closed[folder] = str(error.strerror)
                continue
            tree.folders.append(folder)
            n_names += len(entries)
            if n_names > limit:
                return tree._replace(is_whole=False)
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    if entry.name.lower().endswith(suffixes):
                        tree.audio.append(folder / entry.name)
                elif entry.is_symlink():
                    links.append((folder / entry.name, os.path.realpath(entry.path)))
                else:
                    folders.append((folder / entry.name, f"{real}/{entry.name}"))
        level = folders + links
    return tree


def unread_audio(root: Path, read: Iterable[Path], named: bool = True) -> Unread:
    """Return the audio files below a folder that are not among those read.

    A link to a file or folder that was read counts as read.

    Args:
        root: Value of `corpus.root`.
        read: Paths of all utterances of the corpus.
        named: Whether the files are to be named.
    """
    root = Path(root).expanduser()
    tree = list_tree(root, MAX_NAMES if named else MAX_NAMES // 10)
    folders: dict[str, str] = {}
    known = {_real(path, folders) for path in read}
    files = [path for path in tree.audio if _real(path, folders) not in known]
    names, closed = (
        tuple(sorted(printable(str(path.relative_to(root)), keep="") for path in paths))
        for paths in (files, tree.closed)
    )
    return Unread(names, closed, named, tree.is_whole)


def first(names: Iterable[str], most: int = NAMES_SHOWN) -> str:
    """Join the first names, and the number of the others.

    >>> first(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _real(path: Path, folders: dict[str, str]) -> str:
    """Return the path without links; `folders` keeps those of the folders seen so far."""
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return f"{folders[folder]}/{name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
