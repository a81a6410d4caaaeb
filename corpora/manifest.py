"""Read a table of recordings, CSV or JSONL, or an EmoBox JSONL, into a list of utterances."""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from corpora.segments import read_segment, segment_id
from corpora.utterance import LISTED_SUFFIXES, NAMED_CORPORA, Utterance, from_name, is_audio
from system.errors import InputError
from system.files import MAX_MANIFEST, MAX_WORD, read_text
from system.text import control_character, short_repr, truncate

# Our field: EmoBox's field (Ma et al. 2024, EmoBox/utils/preprocess_utils.py, write_jsonl).
FIELDS = {"path": "wav", "label": "emo", "speaker": "spk", "id": "key"}
REQUIRED = ("path", "label", "speaker")
GENDERS = {"": None, "f": "F", "female": "F", "m": "M", "male": "M"}
PROBLEMS_SHOWN = 8
TEXT_FIELDS = ("path", "label", "speaker", "id", "session", "text", "gender", "dataset")
MAX_NAME = 255  # bytes between two slashes of a path, the limit of most file systems
MAX_PATH = 2000  # bytes of a whole path

log = logging.getLogger(__name__)

Row = dict[str, str]


def read_manifest(manifest: Path, root: Path, absolute_paths: bool = False) -> list[Utterance]:
    """Read all rows, or refuse the file.

    A row has `path` (with one of `LISTED_SUFFIXES`), `label`, `speaker`, and optionally `session`,
    `text`, `gender` and `id`, and where it is a part of its file the times of `read_segment`.
    EmoBox's rows (`wav`, `emo`, `key`, `dataset`) have no speaker: it is taken from the file names
    of `NAMED_CORPORA`; other corpora need the field. If a published file name and the field
    `speaker` differ, the file name counts, because public lists of IEMOCAP take the wrong letter of
    its ids.

    A missing file is reported later as bad audio, unless all are missing.

    Args:
        manifest: Path of the .csv or .jsonl file.
        root: The folder that audio paths are relative to. Links in it are followed.
        absolute_paths: Whether a path may leave `root`: be absolute, begin with ~ or contain `..`.

    Raises:
        InputError: Some rows are wrong (gives their number and the lines of the first), there are
            no rows, or all audio files are missing.
    """
    rows = list(_read_rows(manifest))
    problems = []
    utterances = []
    first_line: dict[str, int] = {}
    for line, row in rows:
        try:
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
        utterances.append(utterance)
    if problems:
        shown = "\n".join(problems[:PROBLEMS_SHOWN])
        more = "\n  ..." if len(problems) > PROBLEMS_SHOWN else ""
        raise InputError(
            f"{manifest}: {len(problems)} of {len(rows)} rows are wrong; audio paths are relative "
            f"to corpus.root = {root}\n{shown}{more}"
        )
    if not utterances:
        raise InputError(f"{manifest} has no rows; write one row per recording")
    if not any(os.path.lexists(utterance.path) for utterance in utterances):
        raise InputError(
            f"{manifest}: none of the {len(rows)} audio files exists, the first is "
            f"{rows[0][1]['path']!r}; audio paths are relative to corpus.root = {root}"
        )
    _report_wrong_speakers(manifest, rows, utterances)
    return utterances


def _read_rows(manifest: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) pairs; keys are our field names, values stripped strings."""
    if manifest.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"corpus.manifest must end in .csv or .jsonl, got {manifest}")
    try:
        text = read_text(manifest, MAX_MANIFEST, "utf-8-sig", "replace")
    except FileNotFoundError:
        raise InputError(f"corpus.manifest: there is no file {manifest}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"corpus.manifest: cannot read {manifest}: {error}") from None
    is_csv = manifest.suffix.lower() == ".csv"
    return _read_csv(manifest, text) if is_csv else _read_jsonl(manifest, text)


def _read_csv(manifest: Path, text: str) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = list(reader.fieldnames or [])
        missing = [name for name in REQUIRED if name not in columns and FIELDS[name] not in columns]
        if missing:
            raise InputError(
                f"{manifest}, line 1: the header must name {', '.join(REQUIRED)}; "
                f"{', '.join(missing)} not found in: "
                f"{truncate(', '.join(columns)) or 'an empty file'}"
            )
        for row in reader:
            yield reader.line_num, _rename_fields(row)
    except csv.Error as error:
        line = reader.line_num + 1  # the reader counts complete lines
        raise InputError(f"{manifest}, line {line}: not CSV: {error}") from error


def _read_jsonl(manifest: Path, text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{manifest}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{manifest}, line {number}: must be an object, got {line[:40]!r}")
        yield number, _rename_fields(row)


def _rename_fields(row: dict[str | None, Any]) -> Row:
    renamed = {
        str(key): "" if value is None else str(value).strip()
        for key, value in row.items()
        if key is not None
    }
    if None in row:  # csv.DictReader keeps surplus fields there
        renamed["surplus"] = str(row[None])
    for ours, theirs in FIELDS.items():
        renamed[ours] = renamed.get(ours) or renamed.get(theirs, "")
    return renamed


def _read_row(row: Row, root: Path, absolute_paths: bool) -> Utterance:
    if "surplus" in row:
        surplus = truncate(row["surplus"])
        raise InputError(f"more fields than the header: {surplus}; quote text with commas")
    for field in ("path", "label"):
        if not row[field]:
            raise InputError(f"{field!r} is empty; fill it in")
    row["text"] = " ".join(row.get("text", "").casefold().split())
    _check_names(row)
    if not absolute_paths:
        _check_inside(row)
    path = _find_audio(root, os.path.expanduser(row["path"]), row.get("dataset", ""))
    start, end = read_segment(row)
    file_id = Path(row["path"]).with_suffix("").as_posix()
    utterance_id = row["id"] or segment_id(file_id, start, end)
    published = _from_published_name(row, path)
    speaker = published.speaker if published else row["speaker"]
    if not speaker:
        raise InputError(
            "no speaker: add the field 'speaker'; only the file names of "
            f"{', '.join(NAMED_CORPORA)} contain it"
        )
    if row.get("gender", "").lower() not in GENDERS:
        raise InputError(f"gender must be F, M or empty, got {short_repr(row['gender'])}")
    base = published or Utterance(utterance_id, path, row["label"], speaker)
    return replace(
        base,
        id=utterance_id,
        speaker=speaker,
        session=row.get("session") or base.session,
        text_id=row["text"] or base.text_id,
        gender=GENDERS[row.get("gender", "").lower()] or base.gender,
        start=start,
        end=end,
    )


def _from_published_name(row: Row, path: Path) -> Utterance | None:
    """Parse a published file name: IEMOCAP's always, others only if EmoBox's `dataset` says so."""
    for stem in (row["id"], path.stem):
        if iemocap := from_name("iemocap", stem, path, row["label"]):
            return iemocap
    if row.get("dataset") in NAMED_CORPORA:
        return from_name(row["dataset"], path.stem, path, row["label"])
    return None


def _check_names(row: Row) -> None:
    """Refuse names that a file system, a table or a page cannot hold."""
    for field in TEXT_FIELDS:
        value = row.get(field, "")
        if character := control_character(value):
            raise InputError(
                f"{field!r} holds the control character {character}: {short_repr(value)}"
            )
        if field not in ("path", "text") and len(value) > MAX_WORD:
            raise InputError(f"{field!r} has more than {MAX_WORD} characters: {short_repr(value)}")
    sizes = [len(part.encode()) for part in row["path"].split("/")]
    if max(sizes) > MAX_NAME or sum(sizes) + len(sizes) > MAX_PATH:
        raise InputError(
            f"the path is too long: at most {MAX_NAME} bytes between two slashes and {MAX_PATH} in "
            f"all, got {short_repr(row['path'])}"
        )


def _check_inside(row: Row) -> None:
    """Refuse a path that may leave `root`, as written or without EmoBox's downloads/."""
    for name in (row["path"], _without_downloads(row["path"], row.get("dataset", ""))):
        absolute = name.startswith(("/", "\\", "~")) or PureWindowsPath(name).drive
        if absolute or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{short_repr(row['path'])} leads out of corpus.root (absolute, ~ or ..): write it "
                "relative to corpus.root, or set corpus.absolute_paths=true"
            )


def _without_downloads(name: str, dataset: str) -> str:
    return name.removeprefix(f"downloads/{dataset}/")


def _find_audio(root: Path, name: str, dataset: str) -> Path:
    """Return the path of the file; `root` may stand for EmoBox's downloads/<dataset>/."""
    if not is_audio(Path(name), LISTED_SUFFIXES):
        allowed = f"end in one of {', '.join(LISTED_SUFFIXES)} and not begin with a dot"
        raise InputError(f"{short_repr(name)} must {allowed}")
    path, inside = root / name, root / _without_downloads(name, dataset)
    return inside if os.path.lexists(inside) and not os.path.lexists(path) else path


def _report_wrong_speakers(
    manifest: Path, rows: list[tuple[int, Row]], utterances: list[Utterance]
) -> None:
    wrong = sum(
        bool(row["speaker"]) and row["speaker"] != utterance.speaker
        for (_, row), utterance in zip(rows, utterances, strict=True)
    )
    if wrong:
        log.warning(
            "%s: in %d of %d rows the speaker differs from the published file name, which is used",
            manifest,
            wrong,
            len(rows),
        )
