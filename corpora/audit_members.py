"""Whom the parts of a partition hold: utterances of a corpus, or what the lists say of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from corpora.file_names import NAMED_CORPORA, from_name
from corpora.fold_lists import EXCLUDED, Row
from corpora.fold_names import Names, speaker_key
from corpora.leakage import PARTS
from corpora.names import clean_name, clean_text
from corpora.partition import Entry, Partition
from corpora.utterance import Utterance
from system.errors import InputError
from system.text import short_repr, truncate

SHOWN = 5


class Spellings:
    """Gives the spellings of one speaker or session one name, the first.

    Args:
        known: Names of the corpus; they stay as they are, also where they are much alike.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.known = set(known)
        self.first: dict[str, str] = {}
        for name in sorted(self.known):
            self.first.setdefault(speaker_key(name), name)

    def find(self, name: str) -> str:
        """Return the name that stands for all spellings of `name`."""
        name = clean_name(name)
        return name if name in self.known else self.first.setdefault(speaker_key(name), name)


@dataclass(frozen=True)
class Members:
    """One fold of a partition; an utterance may be in several parts.

    Args:
        fold: Name of the fold; "1" where there is one.
        parts: (`train`, utterances), (`dev`, ...), (`test`, ...); empty parts are left out.
    """

    fold: str
    parts: tuple[tuple[str, tuple[Utterance, ...]], ...]

    def __iter__(self) -> Iterator[tuple[str, Utterance]]:
        """Iterate over (part, utterance)."""
        yield from ((name, one) for name, part in self.parts for one in part)


def members_of(
    partition: Partition, corpus: str | None, everyone: Sequence[Utterance] | None
) -> tuple[list[Members], list[str]]:
    """Return the folds, and what does not fit in words.

    Args:
        partition: The partition.
        corpus: Name of the corpus whose file names the lists have; None trusts EmoBox's `dataset`.
        everyone: All utterances of the corpus; None takes speaker, session and text from published
            file names, or from the lists' own columns.

    Raises:
        InputError: The speaker of a row cannot be known, or the corpus has nothing of the lists.
    """
    names = Names(everyone or (), partition.by_speaker)
    by_id = {one.id: one for one in everyone or ()}
    speakers = Spellings(one.speaker for one in everyone or ())
    sessions = Spellings(one.session for one in everyone or () if one.session is not None)
    known: dict[str, list[Utterance]] = {}  # place -> utterances
    absent: list[Entry] = []
    unknown: list[str] = []
    for entry in partition.entries:
        name = names.find(entry) if everyone is not None else None
        if name is not None:
            known[entry.place] = [by_id[one] for one in names.known[name]]
            continue
        absent.append(entry)
        one = _from_row(entry, corpus, partition.by_speaker)
        if one is not None:
            session = None if one.session is None else sessions.find(one.session)
            one = replace(one, speaker=speakers.find(one.speaker), session=session)
        known[entry.place] = [] if one is None else [one]
        if one is None:
            unknown.append(f"{entry.place}: {short_repr(entry.name)}")
    if everyone is not None and len(absent) == len(partition.entries):
        raise InputError(
            f"{partition.name}: the corpus has none of its {len(absent)} names, the first is "
            f"{short_repr(absent[0].name)}; check --corpus and --root"
        )
    if unknown:
        raise InputError(
            f"{partition.name}: nothing says who speaks in {len(unknown)} of "
            f"{len(partition.entries)} rows: {truncate(', '.join(unknown[:SHOWN]), 600)}. Name the "
            f"corpus (--corpus, one of {', '.join(NAMED_CORPORA)}), give its folder (--root), or "
            "add a column speaker"
        )
    folds = [_members(partition, fold, known) for fold in partition.folds]
    return folds, _notes(partition, folds, absent, everyone, known)


def _members(partition: Partition, fold: str, known: dict[str, list[Utterance]]) -> Members:
    parts = {
        name: tuple(
            one
            for entry in partition.of_fold(fold)
            if entry.part == name
            for one in known[entry.place]
        )
        for name in PARTS
    }
    return Members(fold or "1", tuple((name, part) for name, part in parts.items() if part))


def _from_row(entry: Entry, corpus: str | None, by_speaker: bool) -> Utterance | None:
    """Return an utterance as a published name or the row itself describes it, or None."""
    row = entry.row
    if by_speaker:
        name = speaker_key(row["speaker"])
        return Utterance(name, Path(name), "", name)
    path = Path(row.get("path", row.get("id", "")).replace("\\", "/"))
    if found := _published(row, path, corpus):
        return found
    if "speaker" not in row:
        return None
    return Utterance(
        id=clean_name(row.get("id", str(path))),
        path=path,
        label=row.get("label", ""),
        speaker=row["speaker"],
        session=row.get("session"),
        text_id=clean_text(row["text"]) if "text" in row else None,
    )


def _published(row: Row, path: Path, corpus: str | None) -> Utterance | None:
    """Parse a published file name: IEMOCAP's always, others where their corpus is named."""
    named = corpus or row.get("dataset")
    corpora = ["iemocap", *([named] if named in NAMED_CORPORA else [])]
    key = row.get("id", "")
    stems = (path.stem, key, key.removeprefix(f"{named}-"), PurePosixPath(key).stem)
    for name in dict.fromkeys(corpora):
        for stem in dict.fromkeys(stems):
            if one := from_name(name, stem, path, row.get("label", "")):
                return one
    return None


def _notes(
    partition: Partition,
    folds: Sequence[Members],
    absent: Sequence[Entry],
    everyone: Sequence[Utterance] | None,
    known: dict[str, list[Utterance]],
) -> list[str]:
    """Say what is missing, or spoken by another than the list says."""
    notes = []
    if everyone is not None:
        if absent:
            first = truncate(", ".join(entry.name for entry in absent[:SHOWN]))
            notes.append(f"{len(absent)} names are not in the corpus as read: {first}")
        listed = {one.id for utterances in known.values() for one in utterances}
        if missing := [one.id for one in everyone if one.id not in listed]:
            notes.append(
                f"{len(missing)} of {len(everyone)} utterances of the corpus are in no list, the "
                f"first is {missing[0]}"
            )
    wrong = [
        entry
        for entry in partition.entries
        if not partition.by_speaker and "speaker" in entry.row
        for one in known[entry.place]
        if speaker_key(one.speaker) != speaker_key(entry.row["speaker"])
    ]
    if wrong:
        notes.append(
            f"in {len(wrong)} rows the speaker differs from the corpus's, which is used; the first "
            f"is {wrong[0].place}"
        )
    if excluded := sum(entry.part == EXCLUDED for entry in partition.entries):
        notes.append(f"{excluded} rows are excluded by the partition")
    if len(folds) > 1:
        what = "utterances" if everyone is not None or not partition.by_speaker else "speakers"
        tests = Counter(i for fold in folds for i in {u.id for p, u in fold if p == "test"})
        ids = {one.id for fold in folds for _, one in fold}
        again, never = sum(n > 1 for n in tests.values()), len(ids - tests.keys())
        if again:
            notes.append(f"{again} {what} are tested in several folds")
        if never:
            notes.append(f"{never} {what} are tested in no fold")
    return notes
