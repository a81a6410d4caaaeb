"""Which files are to be labelled: files, folders, patterns, lists of paths; nothing slow."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from corpora.audio_files import SUFFIXES, list_tree
from system.errors import InputError
from system.files import MAX_MANIFEST, read_text
from system.text import decode_text

STANDARD_INPUT = "-"
LIST_ENCODING = "utf-8-sig"  # Windows begins UTF-8 with a byte order mark
FOREIGN = (".mp4", ".webm", ".mkv", ".mov", ".3gp", ".mka")  # read through ffmpeg


def find_recordings(inputs: Sequence[str], lists: Sequence[str] = ()) -> list[Path]:
    """Return the files that inputs name, each once, in their order.

    Args:
        inputs: Files, `-` for one on standard input; folders, of which all audio files are taken,
            hidden ones left out; patterns such as `calls/**/*.wav` that no shell has replaced.
        lists: Text files with a path in each line, `-` for standard input; what is relative starts
            from the current folder. Empty lines are skipped.

    Returns:
        The files, and folders without audio, which cannot be labelled.

    Raises:
        InputError: A pattern matches nothing, a list cannot be read, no file is there, or standard
            input is named twice.
    """
    if [*inputs, *lists].count(STANDARD_INPUT) > 1:
        raise InputError("standard input can be read once: give one - as INPUT or --list")
    named = [path for name in inputs for path in _files_of(name)]
    named += [path for name in lists for path in _listed(name)]
    if not named:
        raise InputError("there is nothing to label: name files, folders or patterns, or a --list")
    found = list(dict.fromkeys(named))
    if all(os.path.isdir(path) for path in found):
        kinds = ", ".join((*SUFFIXES, *FOREIGN))
        raise InputError(f"{found[0]} has no audio files ({kinds}) in it or below")
    if not any(str(path) == STANDARD_INPUT or os.path.lexists(path) for path in found):
        raise InputError(f"there is no file {', '.join(map(str, found[:5]))}")
    return found


def _files_of(name: str) -> Iterable[Path]:
    path = Path(name)
    if os.path.isdir(path):
        tree = list_tree(path, suffixes=(*SUFFIXES, *FOREIGN))
        if not tree.is_whole:
            raise InputError(f"{name} holds more files than are listed: name folders in it")
        if tree.closed:
            closed, reason = next(iter(tree.closed.items()))
            raise InputError(f"{closed} cannot be listed: {reason}")
        return tree.audio or [path]
    if not os.path.lexists(path) and glob.has_magic(name):
        found = sorted(Path(one) for one in glob.glob(name, recursive=True))
        files = [one for one in found if not one.is_dir()]
        if not files:
            raise InputError(f"no file matches {name}")
        return files
    return [path]


def _listed(name: str) -> Iterator[Path]:
    try:
        if name == STANDARD_INPUT:
            text = decode_text(sys.stdin.buffer.read(), LIST_ENCODING)
        else:
            text = read_text(Path(name), MAX_MANIFEST, LIST_ENCODING)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--list {name} cannot be read: {reason}") from error
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    if not any(lines):
        raise InputError(f"--list {name} names no file")
    return (Path(line) for line in lines if line)
