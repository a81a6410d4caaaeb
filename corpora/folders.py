"""Read a folder of recordings as it lies there: by its names, its lists or its tables."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from config.corpus_keys import AUDFORMAT, AUDIOFOLDER, CLASSES, KALDI
from corpora.audformat_database import HEADER, read_audformat
from corpora.audio_files import MAX_NAMES, Tree, first, list_tree
from corpora.audiofolder import METADATA, read_audiofolder, split_of_folder
from corpora.columns import log_once
from corpora.folder_pattern import Pattern, read_paths
from corpora.kaldi import WAV_SCP, read_kaldi
from corpora.layout import list_folder
from corpora.manifest import Listing, read_listing
from corpora.tables import NO_WORDS
from corpora.utterance import LISTED_SUFFIXES, Utterance, is_audio
from system.errors import InputError

WAY_ON = (
    "Say what its names mean, such as corpus.layout={speaker}/{label}/*.wav, or list the files in "
    "a table (corpus.name=manifest)"
)


class Layout(NamedTuple):
    """A way in which folders of recordings are laid out.

    Args:
        words: Its name for people.
        marks: Names of files that tell it.
        read: Returns the rows; takes the folder, what lies below it and `corpus.columns`.
    """

    words: str
    marks: Sequence[str]
    read: Callable[[Path, Tree, Mapping[str, str | None]], Listing]


def read_folder(
    root: Path,
    layout: str | None = None,
    chosen: Mapping[str, str | None] = NO_WORDS,
    absolute_paths: bool = False,
) -> list[Utterance]:
    """Read the recordings below a folder; log once how it was understood.

    Args:
        root: The folder.
        layout: Value of `corpus.layout`; None is what lies there.
        chosen: Value of `corpus.columns`.
        absolute_paths: Whether lists in the folder may name files outside of it.

    Raises:
        InputError: It cannot be read so, or nobody can say how it is to be read.
    """
    tree = _list(root)
    if layout is not None and layout not in READERS:
        listing, words = _read_pattern(root, tree, layout, chosen), f"the pattern {layout}"
    else:
        name = layout or find_layout(root, tree)
        listing, words = READERS[name].read(root, tree, chosen), READERS[name].words
    log_once(f"{root} is read as {words}: {len(listing.rows)} utterances")
    return read_listing(listing, root, absolute_paths)


def find_layout(root: Path, tree: Tree) -> str:
    """Return the layout that the files in a folder tell.

    Args:
        root: The folder.
        tree: What lies below it.

    Raises:
        InputError: They tell several.
    """
    marks = {
        name: [str(path.relative_to(root)) for path in _marks(tree, layout.marks)]
        for name, layout in READERS.items()
    }
    told = [name for name, files in marks.items() if files]
    if len(told) > 1:
        shown = " and ".join(f"{name} ({first(marks[name])})" for name in told)
        raise InputError(f"{root} may be read as {shown}: set corpus.layout to {' or '.join(told)}")
    return told[0] if told else CLASSES


def _marks(tree: Tree, names: Sequence[str]) -> list[Path]:
    return [folder / name for folder in tree.folders for name in names if (folder / name).is_file()]


def _list(root: Path) -> Tree:
    tree = list_tree(root)
    if not tree.is_whole:
        raise InputError(
            f"corpus.root {root} holds more than {MAX_NAMES} files: set it to the folder of the "
            "corpus itself"
        )
    if tree.closed:
        raise InputError(
            f"{len(tree.closed)} folders of the corpus cannot be read: "
            f"{first(map(str, tree.closed))}. Change their permissions (chmod u+rx)"
        )
    return tree


def _audio(root: Path, tree: Tree) -> list[Path]:
    audio = [path for path in tree.audio if is_audio(path, LISTED_SUFFIXES)]
    if not audio:
        others = f"; it holds other audio: {first(map(str, tree.audio))}" if tree.audio else ""
        raise InputError(
            f"corpus.root: no {', '.join(LISTED_SUFFIXES)} file below {root}; "
            f"{list_folder(root)}{others}"
        )
    return audio


def _refuse_columns(layout: str, chosen: Mapping[str, str | None]) -> None:
    if chosen:
        raise InputError(
            f"corpus.columns has no effect with corpus.layout={layout}, which has no columns: "
            "remove it or set it to null"
        )


def _read_pattern(root: Path, tree: Tree, layout: str, chosen: Mapping[str, str | None]) -> Listing:
    _refuse_columns(layout, chosen)
    pattern, audio = Pattern(layout), _audio(root, tree)
    found = read_paths(pattern, root, audio)
    if not found:
        names = first(path.relative_to(root).as_posix() for path in audio)
        raise InputError(
            f"corpus.layout={layout} matches none of {len(audio)} audio files below {root}: {names}"
        )
    return _by_names(root, found, "speaker" in pattern.fields)


def _read_classes(root: Path, tree: Tree, chosen: Mapping[str, str | None]) -> Listing:
    """Read a folder for each class, or one for each of train, dev and test with these inside."""
    _refuse_columns(CLASSES, chosen)
    found: dict[Path, dict[str, str]] = {}
    places: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for path in _audio(root, tree):
        folders = path.relative_to(root).parts[:-1]
        split = split_of_folder(folders[0]) if folders else None
        if len(folders) == 1 and split is None:
            found[path] = {"label": folders[0]}
            places["in CLASS/"] += 1
        elif len(folders) == 2 and split is not None:
            found[path] = {"label": folders[1], "split": split}
            places["in SPLIT/CLASS/"] += 1
        else:
            place = f"{len(folders)} folders deep" if folders else "beside the folders"
            place = "right in a split" if len(folders) == 1 else place
            places[place] += 1
            examples.setdefault(place, path.relative_to(root).as_posix())
    if len(places) > 1 or not found:
        such = {place: f" (such as {name})" for place, name in examples.items()}
        shown = ", ".join(f"{n} files {place}{such.get(place, '')}" for place, n in places.items())
        raise InputError(
            f"{root} is not one folder for each class, CLASS/FILE or SPLIT/CLASS/FILE (splits are "
            f"train, dev or test): {shown}. {WAY_ON}"
        )
    return _by_names(root, found, knows_speakers=False)


def _by_names(root: Path, found: Mapping[Path, Mapping[str, str]], knows_speakers: bool) -> Listing:
    """Return rows of files whose names say everything."""
    rows = []
    for path, fields in found.items():
        name = path.relative_to(root).as_posix()
        rows.append((name, {"path": name, **fields}))
    counts = Counter(fields["label"] for fields in found.values())
    shown = first(f"{name} ({n})" for name, n in sorted(counts.items()))
    log_once(f"{root}: the folders name {len(counts)} labels: {shown}")
    return Listing(root, rows, knows_speakers)


READERS = {
    AUDFORMAT: Layout("an audformat database", [HEADER], read_audformat),
    KALDI: Layout("Kaldi data directories", [WAV_SCP], read_kaldi),
    AUDIOFOLDER: Layout("a Hugging Face audiofolder", METADATA, read_audiofolder),
    CLASSES: Layout("a folder for each class", (), _read_classes),
}
