"""Read MSP-Podcast: one table of consensus labels names files, speakers and parts.

Source: the corpus's page at ecs.utdallas.edu (release 1.11), its readme (release 1.12), and public
code that reads `labels_consensus.csv`, such as msplabresearch/MSP-Podcast_Challenge.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from corpora.audio_files import Tree, first
from corpora.columns import log_once
from corpora.layout import not_found, search
from corpora.names import clean_name, is_placeholder
from corpora.published_tables import find_table, one_place, read_published_table
from corpora.unannotated_speakers import unannotated
from corpora.utterance import Utterance, is_audio
from system.errors import InputError, nearest
from system.text import short_repr

TABLE = "labels_consensus.csv"
RATINGS = ("EmoVal", "EmoAct", "EmoDom")  # means over raters, 1 to 7; in the order of DIMENSIONS
COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set")
GENDERS = {"male": "M", "female": "F"}  # Unknown, too
# Validation is the word of early releases.
PARTS = {"train": "train", "development": "dev", "validation": "dev"}
TESTS = ("test1", "test2", "test3")
HIDDEN = "test3"  # its labels and speakers are published since release 1.11 by a web page alone
UNKNOWN = "unknown"
NO_LABEL = ("", "x")  # EmoClass of rows whose labels are hidden


def read_msp_podcast(root: Path) -> list[Utterance]:
    """Read all rows of the table that have a label, or ratings beside a label that is not used.

    Train and development belong to every subset; Test1 to Test3 are subsets `test1` to `test3`.

    Raises:
        InputError: There is no table, a row is none of it, or no file has audio.
    """
    tree = search("msppodcast", root)
    table = find_table("msppodcast", tree, TABLE)
    if table is None:
        raise not_found("msppodcast", root, tree)
    rows = read_published_table(table, COLUMNS)
    hidden = [row["FileName"] for row in rows if _is_hidden(row)]
    if hidden:
        log_once(
            f"{table}: {len(hidden)} rows of Test3 have neither label nor speaker, which its "
            f"authors keep to themselves; they are not read: {first(hidden)}"
        )
    _report_genders(table, rows)
    places = _places(tree)
    utterances = [
        _utterance(table, number, row, places)
        for number, row in enumerate(rows, start=2)
        if not _is_hidden(row)
    ]
    if not any(one.path.exists() for one in utterances):
        raise InputError(
            f"msppodcast: none of {len(utterances)} labelled files has audio below {root}, as in "
            f"Audios/: {first(one.path.name for one in utterances)}"
        )
    return utterances


def _report_genders(table: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Say which words of the column Gender are read as unknown."""
    words = Counter(row["Gender"].strip() for row in rows)
    strange = {w: n for w, n in words.items() if w.lower() not in GENDERS and not _is_unknown(w)}
    if strange:
        shown = first(f"{short_repr(word)} in {n} rows" for word, n in sorted(strange.items()))
        log_once(f"{table}: Gender is read as unknown unless it is Male or Female: {shown}")


def _is_hidden(row: dict[str, str]) -> bool:
    return (
        row["Split_Set"].strip().lower() == HIDDEN
        and row["EmoClass"].strip().lower() in NO_LABEL
        and _is_unknown(row["SpkrID"])
    )


def _is_unknown(name: str) -> bool:
    word = clean_name(name).casefold()
    return not word or word == UNKNOWN or is_placeholder(word)


def _utterance(
    table: Path, number: int, row: dict[str, str], places: dict[str, list[Path]]
) -> Utterance:
    file = Path(row["FileName"].strip())
    word = row["Split_Set"].strip().lower()
    if word not in PARTS and word not in TESTS:
        raise InputError(
            f"{table}, row {number}: Split_Set says {row['Split_Set']!r}; "
            f"{nearest(word, (*PARTS, *TESTS))}"
        )
    if not file.stem or file.name != str(file):
        raise InputError(
            f"{table}, row {number}: FileName must name a file, got {row['FileName']!r}"
        )
    found = one_place("msppodcast", file.stem, places.get(file.stem, ()))
    ratings = tuple(row.get(name, "").strip() for name in RATINGS)
    speaker = unannotated(file.stem) if _is_unknown(row["SpkrID"]) else clean_name(row["SpkrID"])
    return Utterance(
        id=file.stem,
        path=found or table.parent.parent / "Audios" / file.name,
        label=row["EmoClass"].strip(),
        speaker=speaker,
        gender=GENDERS.get(row["Gender"].strip().lower()),
        portion=word if word in TESTS else None,
        split=PARTS.get(word, "test"),
        ratings=ratings if any(ratings) else None,
    )


def _places(tree: Tree) -> dict[str, list[Path]]:
    places: dict[str, list[Path]] = defaultdict(list)
    for path in filter(is_audio, tree.audio):
        places[path.stem].append(path)
    return places
