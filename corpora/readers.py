"""Read a corpus folder into a list of utterances: one reader per corpus; no audio is opened."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from corpora.audio_files import Tree, first
from corpora.folders import read_folder
from corpora.iemocap import read_iemocap
from corpora.layout import (
    choose_parts,
    is_published,
    list_folder,
    not_found,
    own_folder,
    read_published,
    search,
)
from corpora.manifest import read_manifest
from corpora.partition import find_partition
from corpora.tables import NO_WORDS
from corpora.utterance import ESD_EMOTIONS, Utterance, from_name, is_audio
from system.errors import InputError, nearest
from system.tables import csv_table
from system.text import truncate

__all__ = ["CORPORA", "Utterance", "check_corpus_exists", "read_corpus", "select_subset"]


def read_corpus(
    name: str,
    root: Path,
    manifest: Path | None = None,
    absolute_paths: bool = False,
    layout: str | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> list[Utterance]:
    """Read every labelled utterance of a corpus.

    Args:
        name: One of `CORPORA`.
        root: The corpus folder, or a folder that holds it or its parts; the folder that the audio
            paths of a manifest are relative to.
        manifest: The table to read; required by the corpus "manifest", refused by the others.
        absolute_paths: Whether a manifest, or lists in a folder, may name files outside `root`.
        layout: Value of `corpus.layout`, for the corpus "folder".
        columns: Value of `corpus.columns`, for a manifest or folder.

    Returns:
        Utterances sorted by id, with the corpus's own labels.

    Raises:
        InputError: The corpus is not in `root`, all its files are missing, a file name or line
            cannot be parsed, or an id occurs twice.
    """
    root = Path(root).expanduser()
    if name not in CORPORA:
        raise InputError(f"corpus.name {name!r} is not known; {nearest(name, CORPORA)}")
    if (name == "manifest") != (manifest is not None):
        raise InputError(
            "corpus.name: manifest needs corpus.manifest, a table; corpus.name: folder needs none"
            if manifest is None
            else f"corpus.manifest needs corpus.name: manifest, got {name}: change either of them"
        )
    check_corpus_exists(root, manifest)
    if manifest is not None:
        utterances = read_manifest(
            Path(manifest).expanduser(), root, absolute_paths, columns or NO_WORDS
        )
    elif name == "folder":
        utterances = read_folder(root, layout, columns or NO_WORDS, absolute_paths)
    else:
        utterances = READERS[name](root)
    _refuse_duplicates(name, utterances)
    return sorted(utterances, key=lambda utterance: utterance.id)


def check_corpus_exists(
    root: str | Path, manifest: str | Path | None = None, folds: str | None = None
) -> None:
    """Refuse a wrong path before anything slow is imported or read.

    Args:
        root: Value of `corpus.root`.
        manifest: Value of `corpus.manifest`.
        folds: Value of `protocol.folds`.

    Raises:
        InputError: There is no such folder, file or table.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        near = next(path for path in root.absolute().parents if path.is_dir())
        raise InputError(f"corpus.root: there is no folder {root}; {list_folder(near)}")
    if manifest is not None and not os.path.lexists(Path(manifest).expanduser()):
        raise InputError(f"corpus.manifest: there is no file {manifest}")
    if folds is not None:
        find_partition(folds)


def select_subset(utterances: Iterable[Utterance], subset: str) -> list[Utterance]:
    """Keep one portion of a corpus, or all utterances if `subset` is "all".

    Raises:
        InputError: No utterance has that portion; lists the portions that occur.
    """
    utterances = list(utterances)
    if subset == "all":
        return utterances
    portions = {utterance.portion for utterance in utterances if utterance.portion}
    if subset not in portions:
        raise InputError(
            f"corpus.subset {subset!r} does not occur; {nearest(subset, ['all', *portions])}"
        )
    return [utterance for utterance in utterances if utterance.portion == subset]


def _read_esd(root: Path) -> list[Utterance]:
    def emotion_of(path: Path) -> str:
        folders = reversed(path.relative_to(root).parent.parts)
        return next((ESD_EMOTIONS[f.lower()] for f in folders if f.lower() in ESD_EMOTIONS), "")

    utterances = _read_names("esd", root, search("esd", root), emotion_of)
    unlabelled = [str(u.path.relative_to(root)) for u in utterances if not u.label]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(utterances)} files of esd lie in no folder of an emotion "
            f"({', '.join(ESD_EMOTIONS.values())}), which is their label: {first(unlabelled)}. "
            "Use the published folders, speaker/emotion, or list the files in a manifest"
        )
    return utterances


def _read_ravdess(root: Path) -> list[Utterance]:
    other = re.compile(r"(0[12]-0[12]|03-02)-.*")  # video, or song
    return _read_names("ravdess", root, search("ravdess", root), other=other)


def _read_emodb(root: Path) -> list[Utterance]:
    return _read_names("emodb", root, search("emodb", root))


def _read_cremad(root: Path) -> list[Utterance]:
    tree = search("cremad", root)
    utterances = _read_names("cremad", root, tree)
    genders = next(filter(None, map(_read_cremad_genders, tree.folders)), {})
    return [replace(one, gender=genders.get(one.speaker)) for one in utterances]


def _read_cremad_genders(folder: Path) -> dict[str, str]:
    path = folder / "VideoDemographics.csv"
    if not path.is_file():
        return {}
    text = read_published(path, errors="strict")
    try:
        return {row["ActorID"]: {"Female": "F", "Male": "M"}[row["Sex"]] for row in csv_table(text)}
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: expected columns ActorID and Sex (Female or Male), got "
            f"{truncate(str(error))}: put the published table there"
        ) from error


READERS: dict[str, Callable[[Path], list[Utterance]]] = {
    "iemocap": read_iemocap,
    "esd": _read_esd,
    "ravdess": _read_ravdess,
    "emodb": _read_emodb,
    "cremad": _read_cremad,
}
CORPORA = (*READERS, "manifest", "folder")
NO_OTHER = re.compile(r"(?!)")  # matches nothing


def _read_names(
    corpus: str,
    root: Path,
    tree: Tree,
    label_of: Callable[[Path], str] = lambda path: "",
    other: re.Pattern[str] = NO_OTHER,
) -> list[Utterance]:
    """Read the files that are named as in the corpus, whatever folder below the root they lie in.

    Args:
        corpus: Name of the corpus.
        root: Value of `corpus.root`.
        tree: What lies below it.
        label_of: Returns what the folders of a file say of its label.
        other: Names of files that the corpus has too and that are not read.
    """
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


def _refuse_duplicates(corpus: str, utterances: list[Utterance]) -> None:
    counts = Counter(utterance.id for utterance in utterances)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        paths = [str(utterance.path) for utterance in utterances if utterance.id == twice[0]]
        raise InputError(
            f"{corpus}: {len(twice)} ids occur more than once: {first(twice)}; the first is in "
            f"{first(paths)}. Set corpus.root to a folder with one of each, or list the files to "
            "use in a manifest"
        )
