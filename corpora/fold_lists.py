"""Lists of train, dev and test that others publish, as rows under this project's column names.

| who | files | rows |
|---|---|---|
| EmoBox | fold_1/NAME_train_fold_1.jsonl, NAME_test_fold_1.jsonl | key, dataset, wav, emo |
| s3prl | Session1/train_meta_data.json, test_meta_data.json | meta_data: path, label, speaker |
| SpeechBrain | train.json, valid.json, test.json | {id: {wav, length, emo}} |
| tables | .csv, .tsv, .json, .jsonl, .parquet | columns `split`, `fold`: `corpora.partition` |
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpora.columns import SURPLUS, Header, log_once, read_csv, read_jsonl
from corpora.given import PART_OF, in_order
from corpora.json_tables import S3PRL, UnknownForm, objects, parse_json, rows_of
from corpora.manifest import COLUMNS
from corpora.names import clean_name
from corpora.parquet import read_parquet
from corpora.tables import SUFFIXES
from system.errors import InputError, nearest
from system.files import MAX_MANIFEST, MAX_WORD, read_text
from system.text import control_character, short_repr, truncate

# Source: EmoBox/EmoDataset.py opens these names alone; its Emo-DB folders hold older lists too.
EMOBOX_NAME = re.compile(r".+_(train|valid|test)_fold_\d+\.jsonl")
HEAD = ("made_by", "source", "note")
MAX_HEAD = 500  # characters of one of them
BY_NAME = ("speakers", "utterances")  # keys of JSON that map names to folds or parts
USED = ("id", "path", "label", "speaker", "session", "text", "dataset", "split", "fold")

Row = dict[str, str]


class FoldList(NamedTuple):
    """Rows of one file.

    Args:
        path: The file.
        form: What wrote it: "a table", "EmoBox", "s3prl" or "SpeechBrain".
        head: What its head says: `made_by`, `source`, `note`.
        rows: (place for messages, fields) of each row; fields are those of `USED` that it has.
    """

    path: Path
    form: str
    head: dict[str, str]
    rows: list[tuple[str, Row]]


def read_list(path: Path, chosen: Mapping[str, str | None] | None = None) -> FoldList:
    """Read a file of any form.

    Args:
        path: The file.
        chosen: Value of `corpus.columns` where the file is `corpus.manifest`, too; else None.

    Raises:
        InputError: It cannot be read, or is of no form that is known.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: a list of folds must end in one of {', '.join(SUFFIXES)}")
    header = Header(COLUMNS, chosen)
    try:
        if suffix == ".parquet":
            form, head = "a table", dict[str, str]()
            numbered = read_parquet(path, header, (), "protocol.folds")
        else:
            text = read_text(path, MAX_MANIFEST, "utf-8-sig")
            form, head, numbered = _read_text(text, suffix, header)
        rows = [(f"{path.name}, {place}", _clean(row, place)) for place, row in numbered]
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not rows:
        raise InputError(f"{path} has no rows")
    if suffix == ".jsonl" and all("dataset" in row for _, row in numbered):
        form = "EmoBox"
    if form == "a table":  # the columns of the other forms are known
        header.report(path)
    return FoldList(path, form, head, rows)


def _read_text(
    text: str, suffix: str, header: Header
) -> tuple[str, dict[str, str], list[tuple[str, Any]]]:
    """Return form, head and numbered rows of a file of text."""
    if suffix == ".json":
        return _read_json(text, header)
    if suffix == ".jsonl":
        return "a table", {}, [(f"line {n}", row) for n, row in read_jsonl(text, header)]
    head, body = _split_head(text)
    return "a table", head, [(f"line {n}", row) for n, row in read_csv(body, header, ())]


def _split_head(text: str) -> tuple[dict[str, str], str]:
    """Take off the lines `# key: words` above the header; line numbers stay as they are."""
    lines = text.splitlines(keepends=True)
    head: dict[str, str] = {}
    for number, line in enumerate(lines):
        if not line.startswith("#"):
            break
        key, colon, words = line.removeprefix("#").partition(":")
        key = key.strip().casefold()
        if not colon or key not in HEAD or key in head:
            raise ValueError(
                f"line {number + 1}: the head must name {', '.join(HEAD)}, each once, as "
                f"`# made_by: words`, got {short_repr(line.strip())}"
            )
        head[key] = _head_words(key, words)
        lines[number] = "\n"
    return head, "".join(lines)


def _head_words(key: str, value: Any) -> str:
    """Return what a head says, as one line that can be printed."""
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be words, got {short_repr(value)}")
    words = value.strip()
    if found := control_character(words):
        raise ValueError(f"{key!r} holds the control character {found}: write one line of words")
    if len(words) > MAX_HEAD:
        raise ValueError(f"{key!r} must have at most {MAX_HEAD} characters, got {len(words)}")
    return clean_name(words)


def _read_json(text: str, header: Header) -> tuple[str, dict[str, str], list[tuple[str, Any]]]:
    """Return form, head and numbered rows of a JSON file."""
    value = parse_json(text)
    named = [key for key in (*BY_NAME, "rows") if isinstance(value, dict) and key in value]
    if not named or S3PRL in value:
        try:
            form, rows = rows_of(value, header)
        except UnknownForm as error:
            raise ValueError(f"no {', '.join((*BY_NAME, 'rows'))} in it, and {error}") from None
        return form, {}, rows
    if len(named) > 1 or (unknown := [key for key in value if key not in (*HEAD, *named)]):
        said = " and ".join(named) if len(named) > 1 else nearest(unknown[0], (*HEAD, *named))
        raise ValueError(f"it must have {' or '.join((*BY_NAME, 'rows'))}, and {HEAD}: {said}")
    head = {key: _head_words(key, value[key]) for key in HEAD if key in value}
    return "a table", head, objects(_rows_of(named[0], value[named[0]]), header)


def _rows_of(key: str, value: Any) -> Any:
    """Return rows of {name: fold or part}."""
    if key == "rows":
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{key!r} must map names to a fold or to train, dev, test")
    column = "speaker" if key == "speakers" else "id"
    parts = all(str(word).casefold() in (*PART_OF, EXCLUDED) for word in value.values())
    return [{column: name, "split" if parts else "fold": word} for name, word in value.items()]


def _clean(raw: dict[str, Any], place: str) -> Row:
    """Return the fields that are used, as text."""
    if SURPLUS in raw:
        raise ValueError(f"{place}: {SURPLUS}: {truncate(str(raw[SURPLUS]))}")
    row = {}
    for name in USED:
        value = raw.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"{place}: {name!r} must be a word or number, got {short_repr(value)}")
        word = str(value).strip()
        if found := control_character(word):
            raise ValueError(f"{place}: {name!r} holds the control character {found}")
        if len(word) > MAX_WORD and name not in ("path", "text"):
            raise ValueError(
                f"{place}: {name!r} must have at most {MAX_WORD} characters, got {len(word)}"
            )
        row[name] = word
    return row


EXCLUDED = "excluded"  # beside train, dev and test: left out on purpose


def part_of_name(path: Path) -> str | None:
    """Return the part that a file's name says, or None.

    >>> part_of_name(Path("ravdess_train_fold_1.jsonl")), part_of_name(Path("valid.json"))
    ('train', 'dev')
    """
    words = re.split(r"[^a-z]+", path.stem.casefold())
    parts = {PART_OF[word] for word in words if word in PART_OF}
    return parts.pop() if len(parts) == 1 else None


def list_folder(folder: Path) -> list[tuple[str, dict[str, Path]]]:
    """Return (fold, {part: file}) of a folder of lists, or of a folder with one subfolder a fold.

    Raises:
        InputError: There are none, two files give one part, or a fold has no train or test.
    """
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    folds = [
        (path.name, _part_files(path)) for path in sorted(inner, key=lambda p: in_order(p.name))
    ]
    folds = [(name, files) for name, files in folds if files] or [("", _part_files(folder))]
    for name, files in folds:
        where = folder / name
        if missing := [part for part in ("train", "test") if part not in files]:
            raise InputError(
                f"{where} has no list for {' and '.join(missing)}: lists end in "
                f"{', '.join(SUFFIXES)} and have train, dev (valid) or test in their name, as "
                "train.json or ravdess_train_fold_1.jsonl"
            )
    return folds


def _part_files(folder: Path) -> dict[str, Path]:
    lists = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and part_of_name(p))
    emobox = [path for path in lists if EMOBOX_NAME.fullmatch(path.name)]
    stems = {path.stem for path in emobox}  # EmoBox has each list as JSON for SpeechBrain, too
    if emobox and (others := [path.name for path in lists if path.stem not in stems]):
        log_once(f"{folder}: lists that EmoBox does not read: {truncate(', '.join(others))}")
    return by_part(emobox or lists)


def by_part(paths: Sequence[Path]) -> dict[str, Path]:
    """Return {part: file} of lists whose names say train, dev or test.

    Raises:
        InputError: A name says none of them, or two say the same.
    """
    files: dict[str, Path] = {}
    for path in paths:
        part = part_of_name(path)
        if part is None:
            raise InputError(f"{path}: the name of a list must say train, dev (valid) or test")
        if part in files:
            raise InputError(f"both {files[part]} and {path} say {part}: keep one of them")
        files[part] = path
    return files
