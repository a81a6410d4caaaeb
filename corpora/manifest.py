"""Rows of tables and of folders, checked and read into utterances: the same for all of them."""

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from config.tasks import DIMENSIONS
from corpora.columns import SURPLUS, VOTES, log_once
from corpora.file_names import NAMED_CORPORA, from_name
from corpora.listed_paths import Variables, check_inside, check_path, find_audio, trim
from corpora.names import clean_name, clean_text, is_placeholder, two_spellings
from corpora.segments import SEGMENT_COLUMNS, read_segment, segment_id
from corpora.tables import NO_WORDS, read_table
from corpora.utterance import NO_SPEAKER, Utterance
from corpora.votes import votes_text
from system.errors import InputError
from system.files import MAX_WORD
from system.text import control_character, short_repr, truncate

# Our name of each column that is read, and what other tools call it, without case and blanks.
# wav, emo, spk and key are EmoBox's (Ma et al. 2024, EmoBox/utils/preprocess_utils.py).
COLUMNS = {
    "path": ("wav", "wav_path", "file", "file_name", "filename", "file_path", "filepath")
    + ("audio", "audio_file", "audio_path", "audio_filepath"),
    "label": ("emo", "emotion"),
    "speaker": ("spk", "spk_id", "speaker_id"),
    "id": ("key", "utterance", "utterance_id", "utt_id"),
    "session": ("session_id",),
    "text": ("sentence", "transcript", "transcription"),
    "gender": ("sex",),
    "dataset": (),
    "split": ("partition",),
    "fold": (),
    "valence": ("val", "emoval"),  # Emo... of MSP-Podcast
    "arousal": ("aro", "act", "activation", "emoact"),
    "dominance": ("dom", "emodom"),
    "votes": ("distribution",),
    **{name: () for name in SEGMENT_COLUMNS},  # each by itself: they must agree
}
REQUIRED = ("path", "label", "speaker")
NAMES = ("label", "speaker", "id", "session", "dataset", "split", "fold")
ONE_SPELLING = ("label", "speaker", "session")
GENDERS = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
PROBLEMS_SHOWN = 8

Row = dict[str, str]


class Listing(NamedTuple):
    """Rows that describe recordings, whatever they were read from.

    Args:
        source: The file or folder, for messages.
        rows: (place for messages, fields under our names) of each row.
        knows_speakers: Whether each row must say who speaks; else nobody knows it.
    """

    source: Path
    rows: Sequence[tuple[str, Mapping[str, Any]]]
    knows_speakers: bool = True


def read_manifest(
    manifest: Path,
    root: Path,
    absolute_paths: bool = False,
    chosen: Mapping[str, str | None] = NO_WORDS,
) -> list[Utterance]:
    """Read all rows of a table, or refuse the file.

    Args:
        manifest: Path of the table, see `read_table`.
        root: The folder that audio paths are relative to. Links in it are followed.
        absolute_paths: Whether a path may leave `root`: be absolute, begin with ~ or contain `..`.
        chosen: Value of `corpus.columns`.

    Raises:
        InputError: See `read_table` and `read_listing`.
    """
    return read_listing(list_table(manifest, chosen), root, absolute_paths)


def list_table(
    table: Path, chosen: Mapping[str, str | None] = NO_WORDS, key: str = "corpus.manifest"
) -> Listing:
    """Return the rows of a table; arguments as for `read_manifest` and `read_table`."""
    unknown = [name for name, word in chosen.items() if word is None]
    required = [name for name in REQUIRED if name not in unknown]
    rows = read_table(table, COLUMNS, required, chosen, key, in_names=("speaker",))
    if not rows:
        raise InputError(f"{table} has no rows; write one row per recording")
    return Listing(table, rows, "speaker" not in unknown)


def read_listing(listing: Listing, root: Path, absolute_paths: bool = False) -> list[Utterance]:
    """Read all rows of a listing, or refuse it.

    A row has `path` (with one of `LISTED_SUFFIXES`), `label`, `speaker`, and optionally `session`,
    `text`, `gender`, `id`, `split`, `fold`, `valence`, `arousal`, `dominance` and `votes`, and if
    it is a part of its file the times of `read_segment`; `COLUMNS` lists other names of them. A row
    with ratings or votes needs no label. EmoBox's rows have no speaker: it is taken from the file
    names of `NAMED_CORPORA`; other corpora need the field. If a published file name and the field
    `speaker` differ, the file name counts, because public lists of IEMOCAP take the wrong letter of
    its ids.

    Names are composed (NFC) and lose invisible characters. A missing file is reported later as bad
    audio, unless all are missing.

    Args:
        listing: The rows.
        root: The folder that audio paths are relative to. Links in it are followed.
        absolute_paths: Whether a path may leave `root`: be absolute, begin with ~ or contain `..`.

    Raises:
        InputError: Some rows are wrong (gives their number and the places of the first), a name has
            two spellings, or all audio files are missing.
    """
    source, problems, variables = listing.source, [], Variables(root)
    rows: list[Row] = []
    utterances = []
    places: dict[str, str] = {}
    for place, raw in listing.rows:
        try:
            row = _clean_row(raw, root)
            row["path"] = variables.remove(row["path"])
            utterance = _read_row(row, root, absolute_paths, listing.knows_speakers)
            if utterance.id in places:
                raise InputError(
                    f"id {short_repr(utterance.id)} was given in {places[utterance.id]}; ids must "
                    "be unique"
                )
        except InputError as error:
            problems.append(f"  {place}: {error}")
            continue
        places[utterance.id] = place
        rows.append(row)
        utterances.append(utterance)
    if problems:
        raise InputError(_wrong_rows(source, problems, len(listing.rows), root))
    if not utterances:
        raise InputError(f"{source} has no utterances")
    if not any(os.path.lexists(utterance.path) for utterance in utterances):
        raise InputError(
            f"{source}: none of the {len(rows)} audio files exists, the first is "
            f"{rows[0]['path']!r}, searched as {utterances[0].path}; audio paths are relative to "
            f"corpus.root = {root}"
        )
    _refuse_two_spellings(source, utterances, places)
    variables.report(source)
    _report_speakers(source, rows, utterances)
    _report_unknown_genders(source, rows)
    return utterances


def _wrong_rows(source: Path, problems: list[str], n_rows: int, root: Path) -> str:
    shown = "\n".join(problems[:PROBLEMS_SHOWN])
    more = "\n  ..." if len(problems) > PROBLEMS_SHOWN else ""
    return (
        f"{source}: {len(problems)} of {n_rows} rows are wrong; audio paths are relative to "
        f"corpus.root = {root}\n{shown}{more}"
    )


def _clean_row(raw: Mapping[str, Any], root: Path) -> Row:
    """Return the fields of `COLUMNS` as text: names checked and cleaned, null and NaN empty.

    All are there but those of `SEGMENT_COLUMNS` that the row does not name.
    """
    if SURPLUS in raw:
        raise InputError(f"{SURPLUS}: {truncate(str(raw[SURPLUS]))}; quote text with commas")
    fields = (field for field in COLUMNS if field in raw or field not in SEGMENT_COLUMNS)
    row = {field: _as_text(field, raw.get(field)) for field in fields if field != VOTES}
    row[VOTES] = votes_text(raw)
    row["path"] = trim(root, row["path"])
    check_path(row["path"])
    for field in NAMES:
        _check_name(field, row[field])
        row[field] = clean_name(row[field])
    row["text"] = "" if is_placeholder(row["text"]) else clean_text(row["text"])
    other = row["votes"] or _ratings(row)
    for field in ("path", "label"):
        if not row[field] and not (field == "label" and other):
            raise InputError(f"{field!r} is empty or null; fill it in, or remove the row")
    for field in (*ONE_SPELLING, "id"):
        if is_placeholder(row[field]):
            must = "remove the row" if field in REQUIRED else "leave it empty"
            raise InputError(
                f"{field!r} is {row[field]!r}, which stands for unknown: fill it in, or {must}"
            )
    return row


def _as_text(field: str, value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, str):
        return value if field == "path" else value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise InputError(f"{field!r} must be a word or a number, got {short_repr(value)}")
    return str(value)


def _read_row(row: Row, root: Path, absolute_paths: bool, knows_speakers: bool) -> Utterance:
    if not absolute_paths:
        check_inside(row["path"], row["dataset"])
    path = find_audio(root, row["path"], row["dataset"])
    start, end = read_segment(row)
    file_id = clean_name(Path(row["path"].replace("\\", "/")).with_suffix("").as_posix())
    utterance_id = row["id"] or segment_id(file_id, start, end)
    published = _from_published_name(row, path)
    speaker = published.speaker if published else row["speaker"]
    if not speaker and not knows_speakers:
        speaker = NO_SPEAKER
    if not speaker:
        raise InputError(
            "no speaker: fill in the field 'speaker'; only the file names of "
            f"{', '.join(NAMED_CORPORA)} contain it. corpus.columns={{speaker: COLUMN}} "
            "names its column, {speaker: null} says that nobody knows them"
        )
    base = published or Utterance(utterance_id, path, row["label"], speaker)
    return replace(
        base,
        id=utterance_id,
        speaker=speaker,
        session=row["session"] or base.session,
        text_id=row["text"] or base.text_id,
        gender=GENDERS.get(row["gender"].casefold()) or base.gender,
        start=start,
        end=end,
        split=row["split"] or None,
        fold=row["fold"] or None,
        ratings=_ratings(row),
        votes=row["votes"] or None,
    )


def _ratings(row: Row) -> tuple[str, ...] | None:
    """Return the ratings as written; they are read as numbers where they are used."""
    found = tuple(row[name] for name in DIMENSIONS)
    return found if any(found) else None


def _from_published_name(row: Row, path: Path) -> Utterance | None:
    """Parse a published file name: IEMOCAP's always, others only if EmoBox's `dataset` says so."""
    for stem in (row["id"], path.stem):
        if iemocap := from_name("iemocap", stem, path, row["label"]):
            return iemocap
    if row["dataset"] in NAMED_CORPORA:
        return from_name(row["dataset"], path.stem, path, row["label"])
    return None


def _check_name(field: str, name: str) -> None:
    """Refuse a name that a file system, a table or a page cannot hold."""
    if character := control_character(name):
        raise InputError(f"{field!r} holds the control character {character}: {short_repr(name)}")
    if len(name) > MAX_WORD:
        raise InputError(f"{field!r} has more than {MAX_WORD} characters: {short_repr(name)}")


def _refuse_two_spellings(
    source: Path, utterances: list[Utterance], place_of: Mapping[str, str]
) -> None:
    problems = []
    for field in ONE_SPELLING:
        places = {
            name: place_of[utterance.id]
            for utterance in reversed(utterances)
            if (name := getattr(utterance, field)) is not None
        }
        problems += [
            f"  {field} {short_repr(a)} ({places[a]}) and {short_repr(b)} ({places[b]})"
            for a, b in two_spellings(places)
        ]
    if problems:
        shown = "\n".join(problems[:PROBLEMS_SHOWN])
        more = "\n  ..." if len(problems) > PROBLEMS_SHOWN else ""
        raise InputError(
            f"{source}: names that differ only in case or in how a number is written; write each "
            f"in one way, or give two things two names\n{shown}{more}"
        )


def _report_unknown_genders(source: Path, rows: list[Row]) -> None:
    words = (row["gender"] for row in rows)
    unknown = Counter(word for word in words if word and word.casefold() not in GENDERS)
    if unknown:
        listed = truncate(", ".join(f"{word!r} in {n} rows" for word, n in sorted(unknown.items())))
        log_once(f"{source}: gender is read as unknown unless it is F or M: {listed}")


def _report_speakers(source: Path, rows: list[Row], utterances: list[Utterance]) -> None:
    """Say where published file names tell the speaker: beside the rows, or instead of them."""
    told = [row["speaker"] for row in rows]
    read = [utterance.speaker for utterance in utterances]
    wrong = sum(bool(a) and a != b for a, b in zip(told, read, strict=True))
    if wrong:
        log_once(
            f"{source}: in {wrong} of {len(rows)} rows the speaker differs from the published "
            "file name, which is used",
            logging.WARNING,
        )
    if published := sum(not a and b != NO_SPEAKER for a, b in zip(told, read, strict=True)):
        log_once(
            f"{source}: the speaker of {published} of {len(rows)} rows is that of the published "
            "file name"
        )
