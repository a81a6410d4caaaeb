"""Read a table of recordings, CSV, TSV or JSONL, or an EmoBox JSONL, into a list of utterances."""

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any
from unicodedata import normalize

from corpora.columns import SURPLUS, log_once, read_rows
from corpora.file_names import NAMED_CORPORA, from_name
from corpora.names import clean_name, clean_text, is_placeholder, two_spellings
from corpora.segments import SEGMENT_COLUMNS, read_segment, segment_id, unread_times
from corpora.utterance import LISTED_SUFFIXES, Utterance, is_audio
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
    **{name: () for name in SEGMENT_COLUMNS},  # each by itself: they must agree
}
REQUIRED = ("path", "label", "speaker")
NAMES = ("label", "speaker", "id", "session", "dataset", "split", "fold")
ONE_SPELLING = ("label", "speaker", "session")
GENDERS = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
PROBLEMS_SHOWN = 8
MAX_NAME = 255  # bytes between two slashes of a path, the limit of most file systems
MAX_PATH = 2000  # bytes of a whole path

Row = dict[str, str]


def read_manifest(manifest: Path, root: Path, absolute_paths: bool = False) -> list[Utterance]:
    """Read all rows, or refuse the file.

    A row has `path` (with one of `LISTED_SUFFIXES`), `label`, `speaker`, and optionally `session`,
    `text`, `gender`, `id`, `split` and `fold`, and where it is a part of its file the times of
    `read_segment`; `COLUMNS` lists other names of them. EmoBox's rows have no speaker: it is taken
    from the file names of `NAMED_CORPORA`; other corpora need the field. If a published file name
    and the field `speaker` differ, the file name counts, because public lists of IEMOCAP take the
    wrong letter of its ids.

    Names are composed (NFC) and lose invisible characters. A missing file is reported later as bad
    audio, unless all are missing.

    Args:
        manifest: Path of the .csv, .tsv or .jsonl file.
        root: The folder that audio paths are relative to. Links in it are followed.
        absolute_paths: Whether a path may leave `root`: be absolute, begin with ~ or contain `..`.

    Raises:
        InputError: Some rows are wrong (gives their number and the lines of the first), a name has
            two spellings, there are no rows, or all audio files are missing.
    """
    table = read_rows(manifest, COLUMNS, REQUIRED)
    if times := unread_times({name for _, row in table for name in row}):
        raise InputError(_unread_times(manifest, times))
    problems = []
    rows: list[Row] = []
    utterances = []
    first_line: dict[str, int] = {}
    for line, raw in table:
        try:
            row = _clean_row(raw)
            utterance = _read_row(row, root, absolute_paths)
            if utterance.id in first_line:
                raise InputError(
                    f"id {short_repr(utterance.id)} was given in line "
                    f"{first_line[utterance.id]}; ids must be unique"
                )
        except InputError as error:
            problems.append(f"  line {line}: {error}")
            continue
        first_line[utterance.id] = line
        rows.append(row)
        utterances.append(utterance)
    if problems:
        raise InputError(_wrong_rows(manifest, problems, len(table), root))
    if not utterances:
        raise InputError(f"{manifest} has no rows; write one row per recording")
    if not any(os.path.lexists(utterance.path) for utterance in utterances):
        raise InputError(
            f"{manifest}: none of the {len(rows)} audio files exists, the first is "
            f"{rows[0]['path']!r}, searched as {utterances[0].path}; audio paths are relative to "
            f"corpus.root = {root}"
        )
    _refuse_two_spellings(manifest, utterances, first_line)
    _report_wrong_speakers(manifest, rows, utterances)
    _report_unknown_genders(manifest, rows)
    return utterances


def _unread_times(manifest: Path, names: Sequence[str]) -> str:
    shown = truncate(", ".join(map(repr, names)))
    return (
        f"{manifest}: the columns {shown} look like times of a part of the file and are not read. "
        "If they are such times, write them as start and end in seconds (milliseconds / 1000, "
        "samples / sampling rate), else rename or remove them"
    )


def _wrong_rows(manifest: Path, problems: list[str], n_rows: int, root: Path) -> str:
    shown = "\n".join(problems[:PROBLEMS_SHOWN])
    more = "\n  ..." if len(problems) > PROBLEMS_SHOWN else ""
    return (
        f"{manifest}: {len(problems)} of {n_rows} rows are wrong; audio paths are relative to "
        f"corpus.root = {root}\n{shown}{more}"
    )


def _clean_row(raw: Mapping[str, Any]) -> Row:
    """Return the fields of `COLUMNS` as text: names checked and cleaned, null and NaN empty.

    All are there but those of `SEGMENT_COLUMNS` that the row does not name.
    """
    if SURPLUS in raw:
        raise InputError(f"{SURPLUS}: {truncate(str(raw[SURPLUS]))}; quote text with commas")
    fields = (field for field in COLUMNS if field in raw or field not in SEGMENT_COLUMNS)
    row = {field: _as_text(field, raw.get(field)) for field in fields}
    _check_path(row["path"])
    for field in NAMES:
        _check_name(field, row[field])
        row[field] = clean_name(row[field])
    row["text"] = "" if is_placeholder(row["text"]) else clean_text(row["text"])
    for field in ("path", "label"):
        if not row[field]:
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
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise InputError(f"{field!r} must be a word or a number, got {short_repr(value)}")
    return str(value)


def _read_row(row: Row, root: Path, absolute_paths: bool) -> Utterance:
    if not absolute_paths:
        _check_inside(row)
    path = _find_audio(root, row)
    start, end = read_segment(row)
    file_id = clean_name(Path(row["path"].replace("\\", "/")).with_suffix("").as_posix())
    utterance_id = row["id"] or segment_id(file_id, start, end)
    published = _from_published_name(row, path)
    speaker = published.speaker if published else row["speaker"]
    if not speaker:
        raise InputError(
            "no speaker: fill in the field 'speaker'; only the file names of "
            f"{', '.join(NAMED_CORPORA)} contain it"
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
    )


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


def _check_path(path: str) -> None:
    if character := control_character(path):
        raise InputError(f"'path' holds the control character {character}: {short_repr(path)}")
    sizes = [len(part.encode()) for part in path.split("/")]
    if max(sizes) > MAX_NAME or sum(sizes) + len(sizes) > MAX_PATH:
        raise InputError(
            f"the path is too long: at most {MAX_NAME} bytes between two slashes and {MAX_PATH} in "
            f"all, got {short_repr(path)}"
        )


def _check_inside(row: Row) -> None:
    """Refuse a path that may leave `root`, in any of its spellings."""
    for name in _spellings(row["path"], row["dataset"]):
        absolute = name.startswith(("/", "\\", "~")) or PureWindowsPath(name).drive
        if absolute or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{short_repr(row['path'])} leads out of corpus.root (absolute, ~ or ..): write it "
                "relative to corpus.root, or set corpus.absolute_paths=true"
            )


def _spellings(path: str, dataset: str) -> Iterator[str]:
    r"""Yield what a path may be called on the disk.

    That is the path as written; with / for the \ of Windows; with composed or decomposed letters,
    which systems write differently; and without EmoBox's downloads/<dataset>/.
    """
    for name in dict.fromkeys((path, path.replace("\\", "/"))):
        for spelling in dict.fromkeys((name, normalize("NFC", name), normalize("NFD", name))):
            yield from dict.fromkeys((spelling, spelling.removeprefix(f"downloads/{dataset}/")))


def _find_audio(root: Path, row: Row) -> Path:
    r"""Return the path of the file; where there is none, as written but with / for \."""
    listed = os.path.expanduser(row["path"])
    if not is_audio(Path(listed.replace("\\", "/")), LISTED_SUFFIXES):
        allowed = f"end in one of {', '.join(LISTED_SUFFIXES)} and not begin with a dot"
        raise InputError(f"{short_repr(listed)} must {allowed}")
    paths = (root / name for name in _spellings(listed, row["dataset"]))
    there = next(filter(os.path.lexists, paths), None)
    return there or root / listed.replace("\\", "/")


def _refuse_two_spellings(
    manifest: Path, utterances: list[Utterance], line_of: Mapping[str, int]
) -> None:
    problems = []
    for field in ONE_SPELLING:
        lines = {
            name: line_of[utterance.id]
            for utterance in reversed(utterances)
            if (name := getattr(utterance, field)) is not None
        }
        problems += [
            f"  {field} {short_repr(a)} (line {lines[a]}) and {short_repr(b)} (line {lines[b]})"
            for a, b in two_spellings(lines)
        ]
    if problems:
        shown = "\n".join(problems[:PROBLEMS_SHOWN])
        more = "\n  ..." if len(problems) > PROBLEMS_SHOWN else ""
        raise InputError(
            f"{manifest}: names that differ only in case or in how a number is written; write each "
            f"in one way, or give two things two names\n{shown}{more}"
        )


def _report_unknown_genders(manifest: Path, rows: list[Row]) -> None:
    words = (row["gender"] for row in rows)
    unknown = Counter(word for word in words if word and word.casefold() not in GENDERS)
    if unknown:
        listed = truncate(", ".join(f"{word!r} in {n} rows" for word, n in sorted(unknown.items())))
        log_once(f"{manifest}: gender is read as unknown unless it is F or M: {listed}")


def _report_wrong_speakers(manifest: Path, rows: list[Row], utterances: list[Utterance]) -> None:
    wrong = sum(
        bool(row["speaker"]) and row["speaker"] != utterance.speaker
        for row, utterance in zip(rows, utterances, strict=True)
    )
    if wrong:
        log_once(
            f"{manifest}: in {wrong} of {len(rows)} rows the speaker differs from the published "
            "file name, which is used",
            logging.WARNING,
        )
