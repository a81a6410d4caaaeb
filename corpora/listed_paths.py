"""Paths of audio files in lists: kept inside the corpus, and found however they are spelled."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from unicodedata import normalize

from corpora.columns import log_once
from corpora.utterance import LISTED_SUFFIXES, is_audio
from system.errors import InputError
from system.text import control_character, short_repr

MAX_NAME = 255  # bytes between two slashes of a path, the limit of most file systems
MAX_PATH = 2000  # bytes of a whole path
# The folder of a corpus in the lists of SpeechBrain: {data_root}/a.wav in JSON, $data_folder in CSV
VARIABLE = re.compile(r"(\{\w+\}|\$\w+|\$\{\w+\})[/\\]")


class Variables:
    """Removes the variable that stands for the corpus folder from paths, and counts them.

    Args:
        root: The folder that audio paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counts: Counter[str] = Counter()

    def remove(self, path: str) -> str:
        """Return a path without a variable before it, unless a folder is called so."""
        match = VARIABLE.match(path)
        if match is None or os.path.lexists(self.root / match[1]):
            return path
        self.counts[match[1]] += 1
        return path[match.end() :]

    def report(self, source: Path) -> None:
        """Log which variables were read as the folder of the corpus."""
        for word, n in self.counts.items():
            log_once(f"{source}: {word} in {n} paths is read as corpus.root = {self.root}")


def trim(root: Path, path: str) -> str:
    """Return a path without blanks around it, unless a file is called so.

    Args:
        root: The folder that the path starts from.
        path: The path as written.
    """
    bare = path.strip()
    if bare == path or (bare and os.path.lexists(root / path)):
        return path
    return bare


def check_path(path: str) -> None:
    """Refuse a path that no file system or message can hold.

    Raises:
        InputError: It has a control character, or is too long.
    """
    if character := control_character(path):
        raise InputError(f"'path' holds the control character {character}: {short_repr(path)}")
    sizes = [len(part.encode()) for part in path.split("/")]
    if max(sizes) > MAX_NAME or sum(sizes) + len(sizes) > MAX_PATH:
        raise InputError(
            f"the path is too long: at most {MAX_NAME} bytes between two slashes and {MAX_PATH} in "
            f"all, got {short_repr(path)}"
        )


def check_inside(path: str, dataset: str) -> None:
    """Refuse a path that may leave `corpus.root`, in any of its spellings.

    Args:
        path: The path as written.
        dataset: EmoBox's name of the corpus, or "".

    Raises:
        InputError: It is absolute, begins with ~ or contains `..`.
    """
    for name in _spellings(path, dataset):
        absolute = name.startswith(("/", "\\", "~")) or PureWindowsPath(name).drive
        if absolute or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{short_repr(path)} leads out of corpus.root (absolute, ~ or ..): write it "
                "relative to corpus.root, or set corpus.absolute_paths=true"
            )


def find_audio(root: Path, path: str, dataset: str) -> Path:
    r"""Return the path of the file; where there is none, as written but with / for \.

    Args:
        root: The folder that audio paths are relative to.
        path: The path as written.
        dataset: EmoBox's name of the corpus, or "".

    Raises:
        InputError: It is not named as audio.
    """
    listed = os.path.expanduser(path)
    if not is_audio(Path(listed.replace("\\", "/")), LISTED_SUFFIXES):
        allowed = f"end in one of {', '.join(LISTED_SUFFIXES)} and not begin with a dot"
        raise InputError(f"{short_repr(listed)} must {allowed}")
    paths = (root / name for name in _spellings(listed, dataset))
    there = next(filter(os.path.lexists, paths), None)
    return there or root / listed.replace("\\", "/")


def _spellings(path: str, dataset: str) -> Iterator[str]:
    r"""Yield what a path may be called on the disk.

    That is the path as written; with / for the \ of Windows; with composed or decomposed letters,
    which systems write differently; and without EmoBox's downloads/<dataset>/.
    """
    for name in dict.fromkeys((path, path.replace("\\", "/"))):
        for spelling in dict.fromkeys((name, normalize("NFC", name), normalize("NFD", name))):
            yield from dict.fromkeys((spelling, spelling.removeprefix(f"downloads/{dataset}/")))
