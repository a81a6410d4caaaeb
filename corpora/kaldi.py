"""Read Kaldi data directories: wav.scp, utt2spk, segments, text, spk2gender and a file of labels.

Source: "Data preparation" of Kaldi's documentation. Each line is a key, white space and a value.
Commands in wav.scp are never executed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from config.patterns import FIELDS
from corpora.audio_files import Tree, first
from corpora.audiofolder import split_of_folder
from corpora.columns import log_once
from corpora.manifest import Listing
from system.errors import InputError, nearest
from system.files import MAX_MANIFEST, read_text
from system.text import short_repr, truncate

WAV_SCP = "wav.scp"
# Our fields, and the files that give them; Kaldi itself has no labels
FILES: dict[str, Sequence[str]] = dict.fromkeys(FIELDS, ()) | {
    "label": ("utt2emo", "utt2emotion", "utt2label", "emotion", "label"),
    "speaker": ("utt2spk",),
    "session": ("utt2session", "utt2sess"),
    "text": ("text",),
    "gender": ("spk2gender", "utt2gender"),
}
BY_SPEAKER = "spk2"  # how the name of a file begins whose keys are speakers
CHANNELS = "reco2file_and_channel"
OPEN_END = -1.0  # Kaldi: to the end of the recording


Row = tuple[str, dict[str, Any]]  # place for messages, fields


class Line(NamedTuple):
    """A line of a file: its number, and what follows the key."""

    number: int
    value: str


def read_kaldi(root: Path, tree: Tree, chosen: Mapping[str, str | None]) -> Listing:
    """Return the rows of a data directory, or of several that are called train, dev and test.

    Args:
        root: The folder.
        tree: What lies below it.
        chosen: Value of `corpus.columns`: the file of each field, or null for none.

    Raises:
        InputError: A file is missing or wrong, a recording is the output of a command, or several
            directories are not splits.
    """
    if wrong := [name for name in chosen if name not in FILES]:
        raise InputError(
            f"corpus.columns={{{wrong[0]}: ...}} has no effect on a Kaldi data directory; there it "
            f"names the file of {', '.join(FILES)}"
        )
    folders = [folder for folder in tree.folders if (folder / WAV_SCP).is_file()]
    if not folders:
        raise InputError(f"{root} has no {WAV_SCP}, nor has a folder below it")
    splits = {folder: split_of_folder(folder.name) for folder in folders}
    if len(folders) > 1 and (unclear := [str(f) for f, split in splits.items() if split is None]):
        raise InputError(
            f"{root} holds {len(folders)} data directories ({WAV_SCP}), and the names of "
            f"{first(unclear)} do not say train, dev or test: set corpus.root to one of them, or "
            "call each by its split, such as train or test_1"
        )
    read = {
        folder: _read_directory(root, folder, splits[folder] if len(folders) > 1 else None, chosen)
        for folder in folders
    }
    _refuse_shared_ids(root, read)
    rows = [row for of_folder in read.values() for row in of_folder]
    return Listing(root, rows, "speaker" not in chosen or chosen["speaker"] is not None)


def _refuse_shared_ids(root: Path, read: Mapping[Path, Sequence[Row]]) -> None:
    """Refuse utterances of two directories under one id.

    Raises:
        InputError: There are some; names the first two directories.
    """
    folder_of: dict[str, Path] = {}
    for folder, rows in read.items():
        ids = [row["id"] for _, row in rows]
        if shared := [one for one in ids if one in folder_of]:
            other = folder_of[shared[0]]
            n = sum(folder_of.get(one) == other for one in ids)
            raise InputError(
                f"{root}: the data directories {other} and {folder} share the ids of {n} "
                f"utterances, the first is {short_repr(shared[0])}. If one is a copy or a part of "
                "the other, move it out of corpus.root, or set corpus.root to the one to read; "
                "else give each utterance an id of its own"
            )
        folder_of |= dict.fromkeys(ids, folder)


def _read_directory(
    root: Path, folder: Path, split: str | None, chosen: Mapping[str, str | None]
) -> list[Row]:
    recordings = _read_recordings(folder)
    utterances = _read_segments(folder, recordings)
    fields = _read_fields(folder, utterances, chosen)
    rows = []
    for key, (place, row) in utterances.items():
        row |= {name: values[key] for name, values in fields.items() if key in values}
        if split is not None:
            row.setdefault("split", split)
        rows.append((f"{(folder / place).relative_to(root)}", row))
    return rows


def _read_recordings(folder: Path) -> dict[str, str]:
    """Return the audio file of each recording.

    Raises:
        InputError: Some are outputs of commands, or parts of archives.
    """
    path = folder / WAV_SCP
    lines = _read_lines(path)
    if pipes := [(key, line) for key, line in lines.items() if line.value.endswith("|")]:
        key, line = pipes[0]
        raise InputError(
            f"{path}, line {line.number}: {key} is the output of a command, "
            f"{short_repr(line.value)}; {len(pipes)} of {len(lines)} are. Commands of a list are "
            "never executed: run them yourself (sox, sph2pipe), each into a file, and name these "
            "files in wav.scp"
        )
    if inside := [(key, line) for key, line in lines.items() if _in_archive(line.value)]:
        key, line = inside[0]
        raise InputError(
            f"{path}, line {line.number}: {key} is a part of an archive, {short_repr(line.value)}; "
            f"{len(inside)} of {len(lines)} are. Write each recording to a file of its own"
        )
    _refuse_channels(folder)
    return {key: line.value for key, line in lines.items()}


def _in_archive(value: str) -> bool:
    file, colon, offset = value.rpartition(":")
    return bool(colon) and offset.isdigit() and file.endswith(".ark")


def _refuse_channels(folder: Path) -> None:
    path = folder / CHANNELS
    if not path.is_file():
        return
    for key, line in _read_lines(path).items():
        channel = line.value.split()[-1]
        if channel not in ("A", "1"):
            raise InputError(
                f"{path}, line {line.number}: {key} is channel {short_repr(channel)} of a file; "
                "channels are not read one by one: write each to a file of its own"
            )


def _read_segments(folder: Path, recordings: Mapping[str, str]) -> dict[str, Row]:
    """Return (place, fields) of each utterance: a segment, or without segments a recording."""
    path = folder / "segments"
    if not path.is_file():
        return {
            key: (f"{WAV_SCP}, {key}", {"id": key, "path": file})
            for key, file in recordings.items()
        }
    utterances: dict[str, Row] = {}
    used = set()
    for key, line in _read_lines(path).items():
        words = line.value.split()
        if len(words) != 3:
            raise InputError(
                f"{path}, line {line.number}: must be UTTERANCE RECORDING START END, got "
                f"{short_repr(f'{key} {line.value}')}"
            )
        recording, start, end = words
        if recording not in recordings:
            raise InputError(
                f"{path}, line {line.number}: {WAV_SCP} has no recording {short_repr(recording)}"
            )
        used.add(recording)
        row = {"id": key, "path": recordings[recording], "start": start, "end": _end(end)}
        utterances[key] = (f"segments, line {line.number}", row)
    if unused := [key for key in recordings if key not in used]:
        log_once(f"{path} has nothing of {len(unused)} recordings of {WAV_SCP}: {first(unused)}")
    return utterances


def _end(word: str) -> str:
    """Return the end of a segment; "" is that of the recording."""
    try:
        return "" if float(word) == OPEN_END else word
    except ValueError:
        return word  # refused with its line


def _read_fields(
    folder: Path, utterances: Iterable[str], chosen: Mapping[str, str | None]
) -> dict[str, dict[str, str]]:
    """Return the values of each field, by utterance."""
    keys = set(utterances)
    files = {name: _file_of(folder, name, chosen) for name in FILES}
    fields: dict[str, dict[str, str]] = {}
    used = {WAV_SCP, "segments", CHANNELS}
    for name, file in files.items():
        if file is None:
            continue
        used.add(file)
        values = {key: line.value for key, line in _read_lines(folder / file).items()}
        if file.startswith(BY_SPEAKER):
            who = fields.get("speaker", {})
            values = {key: values[who[key]] for key in keys if who.get(key) in values}
        elif others := sorted(values.keys() - keys):
            log_once(f"{folder / file} names {len(others)} other utterances: {first(others)}")
        fields[name] = values
    told = ", ".join(f"{name} from {file}" for name, file in files.items() if file is not None)
    log_once(f"{folder}: {told}")
    others = sorted(path.name for path in folder.iterdir() if path.is_file())
    if unused := [name for name in others if name not in used and not name.startswith(".")]:
        log_once(f"{folder}: files that are not used: {truncate(', '.join(unused))}")
    return fields


def _file_of(folder: Path, name: str, chosen: Mapping[str, str | None]) -> str | None:
    """Return the file that gives a field, or None.

    Raises:
        InputError: It is missing and needed, or there are several.
    """
    if name in chosen:
        file = chosen[name]
        if file is not None and not (folder / file).is_file():
            others = [path.name for path in folder.iterdir() if path.is_file()]
            raise InputError(
                f"corpus.columns takes {name} from {short_repr(file)}, and {folder} has no such "
                f"file; {nearest(file, others)}"
            )
        return file
    there = [file for file in FILES[name] if (folder / file).is_file()]
    if name in ("label", "speaker") and not there:
        null = ", or {speaker: null} where nobody knows them" if name == "speaker" else ""
        raise InputError(
            f"{folder} has no file of the {name}s of its utterances, such as {FILES[name][0]} "
            f"(lines of UTTERANCE {name.upper()}): write one, or name it, as in corpus.columns="
            f"{{{name}: FILE}}{null}"
        )
    if len(there) > 1:
        raise InputError(
            f"{folder} has {' and '.join(there)}, which both give {name}: choose one, as in "
            f"corpus.columns={{{name}: {there[0]}}}"
        )
    return there[0] if there else None


def _read_lines(path: Path) -> dict[str, Line]:
    """Return the lines of a file by their keys.

    Raises:
        InputError: It cannot be read, or a line has no value or a key that another line has.
    """
    try:
        text = read_text(path, MAX_MANIFEST, "utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    lines: dict[str, Line] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, *value = line.split(maxsplit=1)
        if not value and path.name != "text":
            raise InputError(f"{path}, line {number}: {short_repr(key)} has no value after it")
        if key in lines:
            raise InputError(
                f"{path}, line {number}: {short_repr(key)} was given in line {lines[key].number}: "
                "each key must have one line; remove one, or give the other a key of its own"
            )
        lines[key] = Line(number, value[0].strip() if value else "")
    return lines
