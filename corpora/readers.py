"""Read a corpus folder into a list of utterances: one reader per corpus; no audio is opened."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from corpora.manifest import read_manifest
from corpora.utterance import Utterance, from_name, is_audio
from system.errors import InputError, nearest
from system.files import MAX_LABELS, read_text
from system.tables import csv_table
from system.text import truncate

__all__ = ["CORPORA", "Utterance", "check_corpus_exists", "read_corpus", "select_subset"]

NAMES_SHOWN = 10

# [start - end] <tab> id <tab> label <tab> [valence, activation, dominance], without outer spaces
IEMOCAP_LABEL_LINE = re.compile(
    r"\[\d+\.\d+ - \d+\.\d+\]\t(?P<id>\w+)\t(?P<label>\w+)\t\[\d+\.\d+, \d+\.\d+, \d+\.\d+\]"
)
# id [start-end]: words
IEMOCAP_TEXT_LINE = re.compile(r"(?P<id>\w+) \[[\d.\- ]+\]: ?(?P<text>.*)")


def read_corpus(
    name: str, root: Path, manifest: Path | None = None, absolute_paths: bool = False
) -> list[Utterance]:
    """Read every labelled utterance of a corpus.

    Args:
        name: One of `CORPORA`.
        root: The corpus folder, or the folder that holds it; the folder that the audio paths of a
            manifest are relative to.
        manifest: The table to read; required by the corpus "manifest", refused by the others.
        absolute_paths: Whether a manifest may name files outside `root`.

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
            "corpus.name: manifest needs corpus.manifest, a CSV or JSONL file"
            if manifest is None
            else f"corpus.manifest needs corpus.name: manifest, got {name}: change either of them"
        )
    check_corpus_exists(root, manifest)
    if manifest is not None:
        utterances = read_manifest(Path(manifest).expanduser(), root, absolute_paths)
    else:
        utterances = READERS[name](root)
    _refuse_duplicates(name, utterances)
    return sorted(utterances, key=lambda utterance: utterance.id)


def check_corpus_exists(root: str | Path, manifest: str | Path | None = None) -> None:
    """Refuse a wrong path before anything slow is imported or read.

    Args:
        root: Value of `corpus.root`.
        manifest: Value of `corpus.manifest`.

    Raises:
        InputError: There is no such folder or file.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"corpus.root: there is no folder {root}; {_list_nearest_folder(root)}")
    if manifest is not None and not os.path.lexists(Path(manifest).expanduser()):
        raise InputError(f"corpus.manifest: there is no file {manifest}")


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


def _read_iemocap(root: Path) -> list[Utterance]:
    root = _find_root("iemocap", root, "Session*/dialog/EmoEvaluation/*.txt")
    utterances = [
        utterance
        for label_file in _visible(root.glob("Session*/dialog/EmoEvaluation/*.txt"))
        for utterance in _read_iemocap_labels(root, label_file)
    ]
    if not utterances:
        raise InputError(
            f"no label line in {root}/Session*/dialog/EmoEvaluation/*.txt; unpack the corpus again"
        )
    _refuse_missing_audio(root, utterances)
    texts = _read_iemocap_texts(root)
    return [replace(utterance, text_id=texts.get(utterance.id)) for utterance in utterances]


def _read_iemocap_labels(root: Path, label_file: Path) -> list[Utterance]:
    """Read the lines that begin with `[`; the header has a `[` too, but not at the beginning."""
    utterances = []
    for number, line in enumerate(_lines(label_file), start=1):
        if not line.startswith("["):
            continue
        match = IEMOCAP_LABEL_LINE.fullmatch(line)
        utterance = match and from_name("iemocap", match["id"], root, match["label"])
        if utterance is None:
            raise InputError(
                f"{label_file}, line {number}: not an IEMOCAP label line: {line[:80]!r}; expected "
                "'[start - end]<tab>Ses01F_impro01_F000<tab>neu<tab>[v, a, d]'"
            )
        utterances.append(replace(utterance, path=_iemocap_audio(root, utterance.id)))
    return utterances


def _iemocap_audio(root: Path, utterance_id: str) -> Path:
    # Ses05M_script01_1b begins like Ses05M_script01_1: the dialog is all but the last group.
    dialog = utterance_id.rsplit("_", 1)[0]
    folder = root / f"Session{utterance_id[4:5]}" / "sentences" / "wav" / dialog
    flac = folder / f"{utterance_id}.flac"
    return flac if os.path.lexists(flac) else flac.with_suffix(".wav")


def _read_iemocap_texts(root: Path) -> dict[str, str]:
    """Map each scripted id to its words, letters only; line numbers differ between sessions."""
    texts = {}
    for path in _visible(root.glob("Session*/dialog/transcriptions/*script*.txt")):
        for match in filter(None, map(IEMOCAP_TEXT_LINE.fullmatch, _lines(path))):
            words = re.sub(r"\[.*?\]", "", match["text"].lower())  # [LAUGHTER]
            if letters := re.sub(r"[^a-z]", "", words):
                texts[match["id"]] = letters
    return texts


def _refuse_missing_audio(root: Path, utterances: list[Utterance]) -> None:
    """Refuse a corpus without any audio file; if only some are missing, they are bad audio."""
    if not any(os.path.lexists(utterance.path) for utterance in utterances):
        raise InputError(
            f"none of {len(utterances)} labelled utterances has an audio file under "
            f"{root}/Session*/sentences/wav/<dialog>/: {_first([u.id for u in utterances])}. "
            "Unpack the corpus again"
        )


def _read_esd(root: Path) -> list[Utterance]:
    root = _find_root("esd", root, "[0-9][0-9][0-9][0-9]/*/")
    files = [path for path in root.glob("[0-9][0-9][0-9][0-9]/*/**/*") if is_audio(path)]
    return _read_names("esd", root, files, label_of=lambda path: path.relative_to(root).parts[1])


def _read_ravdess(root: Path) -> list[Utterance]:
    root = _find_root("ravdess", root, "Actor_*/03-01-*")
    files = [path for path in root.glob("Actor_*/*") if is_audio(path)]
    other = re.compile(r"(0[12]-0[12]|03-02)-.*")  # video, or song
    return _read_names("ravdess", root, [path for path in files if not other.match(path.name)])


def _read_emodb(root: Path) -> list[Utterance]:
    root = _find_root("emodb", root, "wav/[0-9][0-9][ab]*")
    return _read_names("emodb", root, [path for path in root.glob("wav/*") if is_audio(path)])


def _read_cremad(root: Path) -> list[Utterance]:
    root = _find_root("cremad", root, "AudioWAV/1[0-9][0-9][0-9]_*")
    files = [path for path in root.glob("AudioWAV/*") if is_audio(path)]
    genders = _read_cremad_genders(root / "VideoDemographics.csv")
    return [
        replace(utterance, gender=genders.get(utterance.speaker))
        for utterance in _read_names("cremad", root, files)
    ]


def _read_cremad_genders(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    text = _text(path, errors="strict")
    try:
        return {row["ActorID"]: {"Female": "F", "Male": "M"}[row["Sex"]] for row in csv_table(text)}
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: expected columns ActorID and Sex (Female or Male), got "
            f"{truncate(str(error))}; unpack the corpus again"
        ) from error


READERS: dict[str, Callable[[Path], list[Utterance]]] = {
    "iemocap": _read_iemocap,
    "esd": _read_esd,
    "ravdess": _read_ravdess,
    "emodb": _read_emodb,
    "cremad": _read_cremad,
}
CORPORA = (*READERS, "manifest")


def _read_names(
    corpus: str, root: Path, files: list[Path], label_of: Callable[[Path], str] = lambda path: ""
) -> list[Utterance]:
    utterances = [from_name(corpus, path.stem, path, label_of(path)) for path in files]
    pairs = zip(files, utterances, strict=True)
    unknown = [str(path.relative_to(root)) for path, utterance in pairs if utterance is None]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(files)} audio files under {root} are not named as in "
            f"{corpus}: {_first(unknown)}. Move them away, or describe them in a manifest"
        )
    if not files:
        raise InputError(f"no WAV or FLAC file under {root}; {_list_folder(root)}")
    return [utterance for utterance in utterances if utterance is not None]


def _find_root(corpus: str, root: Path, pattern: str) -> Path:
    """Return the folder that holds `pattern`: `root`, a folder in it, or a folder `name/name`."""
    folders = _visible(path for path in root.iterdir() if path.is_dir())
    for candidates in ([root], folders, [folder / folder.name for folder in folders]):
        hits = [folder for folder in candidates if _visible(folder.glob(pattern))]
        if len(hits) == 1:
            _refuse_unreadable_folders(hits[0], pattern)
            return hits[0]
        if hits:
            raise InputError(
                f"corpus.root {root} holds {corpus} more than once; set it to the one to read: "
                f"{_first([str(hit) for hit in hits])}"
            )
    raise InputError(
        f"corpus.root: no {corpus} corpus in {root}, searched there and one folder deeper for "
        f"{pattern}; {_list_folder(root)}"
    )


def _refuse_unreadable_folders(root: Path, pattern: str) -> None:
    """Refuse folders without permission, which a search would skip silently."""
    errors: list[OSError] = []
    for top in root.glob(pattern.split("/")[0]):
        for _, folders, _ in os.walk(top, onerror=errors.append):
            folders[:] = [
                name for name in folders if name != "sentences"
            ]  # the label files name its files
    if errors:
        raise InputError(
            f"{len(errors)} folders of the corpus cannot be read: "
            f"{_first(sorted(str(error.filename) for error in errors))}: {errors[0].strerror}. "
            "Change their permissions (chmod u+rx)"
        )


def _refuse_duplicates(corpus: str, utterances: list[Utterance]) -> None:
    counts = Counter(utterance.id for utterance in utterances)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        paths = [str(utterance.path) for utterance in utterances if utterance.id == twice[0]]
        raise InputError(
            f"{corpus}: {len(twice)} ids occur more than once: {_first(twice)}; the first is in "
            f"{_first(paths)}. Remove the copies"
        )


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Sort paths and leave out hidden ones, such as AppleDouble files (`._name`)."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in re.split(r"\r\n?|\n", _text(path))]


def _text(path: Path, errors: str = "replace") -> str:
    """Read a label file; published ones have comments in other encodings, but names in ASCII."""
    try:
        return read_text(path, MAX_LABELS, "utf-8-sig", errors)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; unpack the corpus again") from error


def _list_folder(folder: Path) -> str:
    names = _visible(folder.iterdir())
    return f"{folder} holds: {_first([path.name for path in names])}" if names else "it is empty"


def _list_nearest_folder(missing: Path) -> str:
    return _list_folder(next(parent for parent in missing.absolute().parents if parent.is_dir()))


def _first(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
