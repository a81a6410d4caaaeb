"""Read a corpus whose file names say all or most of its facts; no audio is opened."""

import re
from collections.abc import Callable
from pathlib import Path

from corpora.audio_files import Tree, first
from corpora.file_names import from_name
from corpora.layout import choose_parts, is_published, not_found, own_folder, search
from corpora.published import PUBLISHED
from corpora.utterance import Utterance, is_audio
from system.errors import InputError


def read_named(
    corpus: str,
    root: Path,
    tree: Tree | None = None,
    label_of: Callable[[Path], str] = lambda path: "",
) -> list[Utterance]:
    """Read the files that are named as in the corpus, whatever folder below the root they lie in.

    Args:
        corpus: Name of the corpus.
        root: Value of `corpus.root`.
        tree: What lies below it; None lists it.
        label_of: Returns what the folders of a file say of its label.

    Raises:
        InputError: There are none, some are named otherwise, or copies lie beside each other.
    """
    tree = search(corpus, root) if tree is None else tree
    other = re.compile(PUBLISHED[corpus].other)
    parsed = {path: from_name(corpus, path.stem, path, label_of(path)) for path in tree.audio}
    named = {path: one for path, one in parsed.items() if one and not other.match(path.name)}
    files = {path: one for path, one in named.items() if is_audio(path)}
    if not files:
        raise not_found(corpus, root, tree, named)
    ids: dict[Path, list[str]] = {}
    for path, one in files.items():
        ids.setdefault(own_folder(corpus, root, path), []).append(one.id)
    parts = set(choose_parts(corpus, root, ids))
    read = {path: one for path, one in files.items() if own_folder(corpus, root, path) in parts}
    folders = {path.parent for path in read}
    unknown = [
        str(path.relative_to(root))
        for path in filter(is_audio, tree.audio)
        if parsed[path] is None
        and not other.match(path.name)
        and (path.parent in folders or is_published(corpus, path.parent))
        and own_folder(corpus, root, path) in parts
    ]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(unknown) + len(read)} audio files under {root} are not named "
            f"as in {corpus}: {first(unknown)}. Move them to another folder, or describe all files "
            "in a manifest"
        )
    return list(read.values())
