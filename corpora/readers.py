"""Read a corpus folder into a list of utterances: one reader per corpus; no audio is opened."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from config.schema import Config
from config.several import each_corpus, of_corpus
from corpora.audio_files import first
from corpora.esd import read_esd
from corpora.file_names import NAMINGS
from corpora.folders import read_folder
from corpora.iemocap import read_iemocap
from corpora.layout import list_folder, read_published, search
from corpora.manifest import read_manifest
from corpora.meld import read_meld
from corpora.msp_podcast import read_msp_podcast
from corpora.named import read_named
from corpora.names import two_spellings
from corpora.partition import find_partition
from corpora.tables import NO_WORDS
from corpora.unannotated_speakers import is_unannotated
from corpora.utterance import Utterance
from system.errors import InputError, nearest
from system.tables import csv_table
from system.text import short_repr, truncate

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
            cannot be parsed, a speaker or session has two spellings, or an id occurs twice.
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
        _refuse_two_spellings(name, utterances)
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


def check_corpora_exist(config: Config) -> None:
    """Refuse wrong paths of a config before anything slow is imported or read.

    Args:
        config: Config of a run, or of a baseline's.

    Raises:
        InputError: There is no such folder, file or table.
    """
    for key, own in each_corpus(config).items():
        with of_corpus(key):
            check_corpus_exists(own.corpus.root, own.corpus.manifest, config.protocol.folds)


def select_subset(utterances: Iterable[Utterance], subset: str) -> list[Utterance]:
    """Keep one portion of a corpus, or all utterances if `subset` is "all".

    Utterances of no portion belong to each, as MSP-Podcast's train and dev to each of its tests.

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
    return [utterance for utterance in utterances if utterance.portion in (subset, None)]


def _read_cremad(root: Path) -> list[Utterance]:
    tree = search("cremad", root)
    utterances = read_named("cremad", root, tree)
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
    **{name: partial(read_named, name) for name in NAMINGS},
    "cremad": _read_cremad,
    "iemocap": read_iemocap,
    "esd": read_esd,
    "meld": read_meld,
    "msppodcast": read_msp_podcast,
}
CORPORA = (*READERS, "manifest", "folder")


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


def _refuse_two_spellings(corpus: str, utterances: Sequence[Utterance]) -> None:
    """Refuse a speaker or session in two spellings: the leakage check takes them for two."""
    for field in ("speaker", "session"):
        names = {name: one.id for one in utterances if (name := getattr(one, field)) is not None}
        if pairs := two_spellings(name for name in names if not is_unannotated(name)):
            shown = first(
                f"{short_repr(a)} ({names[a]}) and {short_repr(b)} ({names[b]})" for a, b in pairs
            )
            raise InputError(
                f"{corpus}: {field}s that differ only in case or in how a number is written: "
                f"{shown}. Write each in one way in the corpus's table or file names"
            )
