"""Read MELD: three tables name utterances and speakers; their audio must be taken out of videos.

Source: Poria et al. 2019, and the README and tables of the repository declare-lab/MELD.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from corpora.audio_files import Tree, first
from corpora.layout import not_found, search
from corpora.names import clean_name, clean_text
from corpora.published_tables import find_table, one_place, read_published_table
from corpora.utterance import Utterance, is_audio
from system.errors import InputError
from system.text import short_repr, whole_number

TABLES = {"train": "train_sent_emo.csv", "dev": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
FILE = re.compile(r"(?:(?P<part>train|dev|test)_)?dia(?P<dialog>\d+)_utt(?P<number>\d+)")
# train_splits, dev_splits_complete, output_repeated_splits_test, and what extractions make of them
PART_OF_FOLDER = re.compile(r"(?<![a-z])(train|dev|test)(?![a-z])", re.IGNORECASE)
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete"}
FOLDERS["test"] = "output_repeated_splits_test"
# Source: issues 39, 22 and 27 of the repository: a video that is corrupt, and one that is missing.
WITHOUT_AUDIO = ("dia125_utt3-train", "dia110_utt7-dev")
EXTRACT = (
    "take the sound out of the videos, beside them: find ROOT -name '*.mp4' -exec sh -c 'ffmpeg -n "
    '-i "$1" -vn -ac 1 -ar 16000 "${1%.mp4}.wav"\' sh {} \\;'
)


def read_meld(root: Path) -> list[Utterance]:
    """Read the utterances of all three tables; a dialogue is a session.

    The ids are those of EmoBox's lists, `dia0_utt0-train`, since numbers begin anew in each part.

    Raises:
        InputError: A table is missing or cannot be read, two files hold one utterance, or videos
            lie there whose audio was not extracted.
    """
    tree = search("meld", root)
    tables = {part: find_table("meld", tree, name) for part, name in TABLES.items()}
    if not any(tables.values()):
        raise not_found("meld", root, tree)
    if missing := [name for part, name in TABLES.items() if tables[part] is None]:
        raise InputError(
            f"meld: there is no {' and no '.join(missing)} below {root}; they are in the folder "
            "data/MELD of the repository declare-lab/MELD"
        )
    places = _places(root, tree)
    utterances = [
        _utterance(part, row, places, root)
        for part, table in tables.items()
        if table is not None
        for row in _rows(table)
    ]
    _refuse_videos(root, tree, utterances)
    return utterances


def _rows(table: Path) -> Iterator[dict[str, str]]:
    for number, row in enumerate(read_published_table(table, COLUMNS), start=2):
        if any(whole_number(row[name]) is None for name in ("Dialogue_ID", "Utterance_ID")):
            raise InputError(
                f"{table}, row {number}: Dialogue_ID and Utterance_ID must be numbers, got "
                f"{short_repr(row['Dialogue_ID'])} and {short_repr(row['Utterance_ID'])}"
            )
        if not row["Speaker"].strip():
            raise InputError(
                f"{table}, row {number}: Speaker is empty: put the published table there"
            )
        yield row


def _utterance(
    part: str, row: dict[str, str], places: dict[str, list[Path]], root: Path
) -> Utterance:
    name = f"dia{int(row['Dialogue_ID'])}_utt{int(row['Utterance_ID'])}"
    key = f"{name}-{part}"
    found = one_place("meld", key, places.get(key, ()))
    return Utterance(
        id=key,
        path=found or root / FOLDERS[part] / f"{name}.wav",
        label=row["Emotion"].strip(),
        speaker=clean_name(row["Speaker"]),
        session=f"{part} dialogue {int(row['Dialogue_ID'])}",
        text_id=clean_text(row["Utterance"]) or None,
        split=part,
    )


def _places(root: Path, tree: Tree) -> dict[str, list[Path]]:
    """Map ids to audio files; a file whose part nothing tells belongs to no utterance."""
    places: dict[str, list[Path]] = defaultdict(list)
    for path in filter(is_audio, tree.audio):
        if key := _key(root, path):
            places[key].append(path)
    return places


def _key(root: Path, path: Path) -> str | None:
    name = FILE.fullmatch(path.stem)
    if name is None:
        return None
    folders = reversed(path.relative_to(root).parent.parts)
    told = (match[1].lower() for match in map(PART_OF_FOLDER.search, folders) if match)
    part = name["part"] or next(told, None)
    return part and f"dia{int(name['dialog'])}_utt{int(name['number'])}-{part}"


def _refuse_videos(root: Path, tree: Tree, utterances: list[Utterance]) -> None:
    """Refuse utterances that lie there as video alone: a step is missing, or was interrupted."""
    silent = {one.id for one in utterances if not one.path.exists()} - {*WITHOUT_AUDIO}
    if not silent:
        return
    videos = [path for folder in tree.folders for path in sorted(folder.glob("*.mp4"))]
    waiting = [path for path in videos if _key(root, path) in silent]
    if waiting:
        raise InputError(
            f"meld: {len(waiting)} of {len(utterances)} utterances lie there as video and not as "
            f"audio: {first(str(path.relative_to(root)) for path in waiting)}. One step is missing:"
            f" {EXTRACT}"
        )
    if len(silent) == len(utterances) - sum(one.id in WITHOUT_AUDIO for one in utterances):
        raise InputError(
            f"meld: none of {len(utterances)} utterances has a WAV or FLAC file below {root}, such "
            "as train_splits/dia0_utt0.wav; the folders must say train, dev or test"
        )
