"""A table of your own recordings, CSV or JSONL, or a JSONL of EmoBox -> utterances."""

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

from corpora.utterance import LISTED_SUFFIXES, NAMED_CORPORA, Utterance, from_name, is_audio
from system.errors import InputError
from system.files import MAX_MANIFEST, MAX_WORD, read_text
from system.text import control_character, short_repr, truncate

# Ours, and EmoBox's word for it (Ma et al. 2024, EmoBox/utils/preprocess_utils.py, write_jsonl).
FIELDS = {"path": "wav", "label": "emo", "speaker": "spk", "id": "key"}
REQUIRED = ("path", "label", "speaker")
GENDERS = {"": None, "f": "F", "female": "F", "m": "M", "male": "M"}
PROBLEMS_SHOWN = 8
NAMED = ("path", "label", "speaker", "id", "session", "text", "gender", "dataset")
MAX_NAME = 255  # bytes of a part of a path, as most file systems have it
MAX_PATH = 2000  # bytes of a whole one

log = logging.getLogger(__name__)

Row = dict[str, str]


def read_manifest(manifest: Path, root: Path, absolute_paths: bool = False) -> list[Utterance]:
    """Read every row or refuse the file.

    A row has `path` (of `LISTED_SUFFIXES`, relative to `root`), `label`, `speaker`, and optionally
    `session`, `text`, `gender` and `id`. EmoBox's rows (`wav`, `emo`, `key`, `dataset`) carry no
    speaker: the file names of `NAMED_CORPORA` say it, all others need the field. A published file
    name is believed rather than a speaker field, because public lists of IEMOCAP take the wrong
    letter of its ids.

    A path stays inside `root`: an absolute one, one that begins with ~ and one with `..` are
    refused unless `absolute_paths`. Links inside `root` are its owner's own and are followed.
    A file that is not there is bad audio like any other, and told with it; but not all of them.

    Raises:
        InputError: With the file, how many rows are wrong, and the line of the first few.
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
                    f"id {short_repr(utterance.id)} was given in line {first_line[utterance.id]}"
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
        raise InputError(f"{manifest} has no rows")
    if not any(os.path.lexists(utterance.path) for utterance in utterances):
        raise InputError(
            f"{manifest}: there is no file {rows[0][1]['path']!r}, nor any other of its "
            f"{len(rows)} rows; audio paths are relative to corpus.root = {root}"
        )
    _report_wrong_speakers(manifest, rows, utterances)
    return utterances


def _read_rows(manifest: Path) -> Iterator[tuple[int, Row]]:
    """Give (line number, row) pairs; keys are our words, values stripped strings."""
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
            yield reader.line_num, _in_our_words(row)
    except csv.Error as error:
        line = reader.line_num + 1  # those before it were whole
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
        yield number, _in_our_words(row)


def _in_our_words(row: dict[str | None, Any]) -> Row:
    words = {
        str(key): "" if value is None else str(value).strip()
        for key, value in row.items()
        if key is not None
    }
    if None in row:  # csv.DictReader keeps surplus fields there
        words["surplus"] = str(row[None])
    for ours, theirs in FIELDS.items():
        words[ours] = words.get(ours) or words.get(theirs, "")
    return words


def _read_row(row: Row, root: Path, absolute_paths: bool) -> Utterance:
    if "surplus" in row:
        surplus = truncate(row["surplus"])
        raise InputError(f"more fields than the header: {surplus}; quote text with commas")
    if row.get("start_time") or row.get("end_time"):
        raise InputError("parts of a file (start_time, end_time) are not read; cut the file first")
    for field in ("path", "label"):
        if not row[field]:
            raise InputError(f"{field!r} is empty")
    row["text"] = " ".join(row.get("text", "").casefold().split())
    _check_names(row)
    if not absolute_paths:
        _check_inside(row)
    path = _find_audio(root, os.path.expanduser(row["path"]), row.get("dataset", ""))
    utterance_id = row["id"] or Path(row["path"]).with_suffix("").as_posix()
    named = _named(row, path)
    speaker = named.speaker if named else row["speaker"]
    if not speaker:
        raise InputError(
            "no speaker: add the field 'speaker'; only the file names of "
            f"{', '.join(NAMED_CORPORA)} say it themselves"
        )
    if row.get("gender", "").lower() not in GENDERS:
        raise InputError(f"gender must be F, M or empty, got {short_repr(row['gender'])}")
    facts = named or Utterance(utterance_id, path, row["label"], speaker)
    return replace(
        facts,
        id=utterance_id,
        speaker=speaker,
        session=row.get("session") or facts.session,
        text_id=row["text"] or facts.text_id,
        gender=GENDERS[row.get("gender", "").lower()] or facts.gender,
    )


def _named(row: Row, path: Path) -> Utterance | None:
    """Read a published name; all but IEMOCAP's count only where EmoBox's `dataset` says so."""
    for stem in (row["id"], path.stem):
        if iemocap := from_name("iemocap", stem, path, row["label"]):
            return iemocap
    if row.get("dataset") in NAMED_CORPORA:
        return from_name(row["dataset"], path.stem, path, row["label"])
    return None


def _check_names(row: Row) -> None:
    """Refuse what no file system, table or page can hold as a name."""
    for field in NAMED:
        value = row.get(field, "")
        if found := control_character(value):
            raise InputError(f"{field!r} holds the control character {found}: {short_repr(value)}")
        if field not in ("path", "text") and len(value) > MAX_WORD:
            raise InputError(f"{field!r} has more than {MAX_WORD} characters: {short_repr(value)}")
    sizes = [len(part.encode()) for part in row["path"].split("/")]
    if max(sizes) > MAX_NAME or sum(sizes) + len(sizes) > MAX_PATH:
        raise InputError(
            f"the path is too long: at most {MAX_NAME} bytes between two slashes and {MAX_PATH} in "
            f"all, got {short_repr(row['path'])}"
        )


def _check_inside(row: Row) -> None:
    """Refuse a path that may lead out of root, as written or without EmoBox's downloads/."""
    for name in (row["path"], _without_downloads(row["path"], row.get("dataset", ""))):
        begins = name.startswith(("/", "\\", "~")) or PureWindowsPath(name).drive
        if begins or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{short_repr(row['path'])} leads out of corpus.root (absolute, ~ or ..): write it "
                "from there, or set corpus.absolute_paths=true"
            )


def _without_downloads(name: str, dataset: str) -> str:
    return name.removeprefix(f"downloads/{dataset}/")


def _find_audio(root: Path, name: str, dataset: str) -> Path:
    """Find the file; EmoBox's paths begin with downloads/<dataset>/, which `root` may replace."""
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
            "%s: in %d of %d rows the speaker differs from the published name, which is believed",
            manifest,
            wrong,
            len(rows),
        )
