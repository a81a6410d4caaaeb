"""The speakers and utterances of a partition, found in a corpus however they are spelled."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath

from corpora.names import clean_name
from corpora.partition import Entry, Partition
from corpora.published import PUBLISHED
from corpora.utterance import LISTED_SUFFIXES, Utterance
from system.errors import InputError
from system.text import short_repr, truncate

SHOWN = 8
BEFORE_NUMBER = re.compile(r"^(actor|speaker|spk)(?=\d)")


def speaker_key(name: str) -> str:
    """Return what spellings of one speaker have in common.

    Case, blanks, `_`, `-`, zeros before a number, `.0` after it, and the words actor, speaker and
    spk before it say nothing.

    >>> {speaker_key(name) for name in ("1", "01", "Actor_01", "actor 1", "1.0")}
    {'1'}
    >>> speaker_key("Ses01_F") == speaker_key("ses1f")
    True
    """
    key = re.sub(r"[\s_-]", "", clean_name(name).casefold())
    key = re.sub(r"(\d)\.0+$", r"\1", BEFORE_NUMBER.sub("", key))
    return re.sub(r"(?<!\d)0+(?=\d)", "", key)


class Names:
    """Finds speakers or utterances of a corpus by the names that others give them."""

    def __init__(self, utterances: Iterable[Utterance], by_speaker: bool) -> None:
        self.by_speaker = by_speaker
        self.known: dict[str, list[str]] = defaultdict(list)  # speaker or id -> ids
        keys: dict[str, set[str]] = defaultdict(set)
        for one in utterances:
            name = one.speaker if by_speaker else one.id
            self.known[name].append(one.id)
            for key in [speaker_key(name)] if by_speaker else _keys(one):
                keys[key].add(name)
        self.of_key = {key: names.pop() for key, names in keys.items() if len(names) == 1}

    def find(self, entry: Entry) -> str | None:
        """Return the corpus's own name, or None."""
        if self.by_speaker:
            name = clean_name(entry.row["speaker"])
            return name if name in self.known else self.of_key.get(speaker_key(name))
        for key in _spellings(entry.row):
            if key in self.known:
                return key
            if key in self.of_key:
                return self.of_key[key]
        return None

    def nearest(self, name: str) -> str:
        """Return the corpus's name that is closest, in words; "" if none is close."""
        close = get_close_matches(name, self.known, n=1, cutoff=0.6)
        return f" (did you mean {close[0]}?)" if close else ""


def _keys(utterance: Utterance) -> set[str]:
    return {
        utterance.id,
        PurePosixPath(utterance.id).name,
        utterance.path.stem,
        *(f"{utterance.path.parent.name}/{utterance.path.stem}",),
    }


def _spellings(row: Mapping[str, str]) -> list[str]:
    """Return names that an utterance may have in the corpus, the likeliest first."""
    names = []
    for word in (row.get("id"), row.get("path")):
        if word:
            path = PurePosixPath(word.replace("\\", "/"))
            if path.suffix.lower() in LISTED_SUFFIXES:
                path = path.with_suffix("")
            names += [clean_name(word), str(path), "/".join(path.parts[-2:]), path.name]
            names += [word.removeprefix(f"{corpus}-") for corpus in PUBLISHED]
    return list(dict.fromkeys(names))


def match(
    partition: Partition, everyone: Sequence[Utterance], needed: Sequence[Utterance]
) -> list[dict[str, str]]:
    """Return {utterance id: part} of each fold.

    Args:
        partition: The folds.
        everyone: All utterances of the corpus; a list may name those that are not used.
        needed: The utterances that must have a part in each fold.

    Raises:
        InputError: Names are unknown or occur twice in a fold, or utterances have no part; one
            message with all three.
    """
    names = Names(everyone, partition.by_speaker)
    what = "speakers" if partition.by_speaker else "utterances"
    unknown = [
        f"{entry.place}: {short_repr(entry.name)}{names.nearest(entry.name)}"
        for entry in partition.entries
        if names.find(entry) is None
    ]
    twice: dict[str, None] = {}
    without: dict[str, None] = {}
    folds = []
    for fold in partition.folds:
        parts: dict[str, str] = {}
        first: dict[str, Entry] = {}
        for entry in partition.of_fold(fold):
            name = names.find(entry)
            if name is None:
                continue
            if name in first:
                twice[_contradiction(partition, name, first[name], entry)] = None
                continue
            first[name] = entry
            parts |= dict.fromkeys(names.known[name], entry.part)
        of_fold = f" in fold {fold}" if fold and not partition.rotating else ""
        for one in needed:
            if one.id not in parts:
                name = one.speaker if partition.by_speaker else f"{one.id} of {one.speaker}"
                without[f"{name}{of_fold}"] = None
        folds.append(parts)
    problems = [
        *_listed(unknown, f"{what} that the corpus does not have"),
        *_listed(list(twice), f"{what} that are named twice"),
        *_listed(
            list(without),
            f"{what} of the corpus without a fold or part; name them, or write excluded",
        ),
    ]
    if problems:
        raise InputError(f"{partition.name} does not fit the corpus:\n  " + "\n  ".join(problems))
    return folds


def _contradiction(partition: Partition, name: str, one: Entry, other: Entry) -> str:
    """Say where a name stands twice; the words are the same for each fold of a rotating table."""
    one, other = sorted((one, other), key=lambda entry: entry.place)
    key = "fold" if partition.rotating else "part"
    a, b = getattr(one, key), getattr(other, key)
    differ = "" if a == b else f", as {key} {a} and {b}"
    return f"{name} ({one.place}; {other.place}{differ})"


def _listed(items: list[str], what: str) -> list[str]:
    if not items:
        return []
    more = ", ..." if len(items) > SHOWN else ""
    return [f"{len(items)} {what}: {truncate(', '.join(items[:SHOWN]), 1000)}{more}"]
