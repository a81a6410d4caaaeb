"""`corpus.label_map`: the class of each label of a corpus of one's own, and what is left out."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from config.effects import OWN
from corpora.audio_files import first
from corpora.names import clean_name, two_spellings
from system.errors import InputError, nearest
from system.text import short_repr


class Relabelled(NamedTuple):
    """What became of the labels of a corpus.

    Args:
        mapped: Label -> class, of labels that are called otherwise.
        left_out: Label -> number of utterances that are left out; of votes, `votes`.
        votes: Label -> number of votes that do not count, where votes are predicted.
        silent: Number of utterances without a vote that counts, which are left out.
    """

    mapped: Mapping[str, str]
    left_out: Mapping[str, int]
    votes: Mapping[str, float] = MappingProxyType({})
    silent: int = 0

    def facts(self) -> dict[str, Any]:
        """Return what the certificate says; empty where nothing became of the labels."""
        if self.votes or self.silent:
            return {
                "mapped": dict(self.mapped),
                "votes_left_out": dict(self.votes),
                "utterances_without_votes": self.silent,
            }
        if self.mapped or self.left_out:
            return {"mapped": dict(self.mapped), "left_out": dict(self.left_out)}
        return {}

    def words(self) -> list[str]:
        """Say which labels were mapped, and how many utterances or votes of which were left out.

        >>> Relabelled({"exc": "happy"}, {"xxx": 7}).words()
        ['labels: exc is happy', '7 utterances are left out by their labels: xxx (7)']
        """
        lines = []
        if self.mapped:
            lines.append(f"labels: {first(f'{a} is {b}' for a, b in self.mapped.items())}")
        if self.left_out:
            shown = first(f"{label} ({n})" for label, n in self.left_out.items())
            n = sum(self.left_out.values())
            lines.append(f"{n} utterances are left out by their labels: {shown}")
        if self.votes:
            shown = first(f"{label} ({n:g})" for label, n in self.votes.items())
            n_votes = sum(self.votes.values())
            lines.append(f"{n_votes:g} votes do not count, which are for other labels: {shown}")
        if self.silent:
            lines.append(f"{self.silent} utterances are left out, since no vote of them counts")
        return lines


def map_labels(known: Iterable[str], label_map: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the class of each label, or None if its utterances are left out.

    Args:
        known: Labels of the corpus.
        label_map: Value of `corpus.label_map`; labels that it does not name are their own class.

    Raises:
        InputError: It names a label that does not occur, gives a class two spellings, or changes
            nothing.

    >>> map_labels(["ang", "exc", "hap", "xxx"], {"hap": "happy", "exc": "happy", "xxx": None})
    {'ang': 'ang', 'exc': 'happy', 'hap': 'happy', 'xxx': None}
    """
    known = sorted(set(known))
    words = {clean_name(label): word and clean_name(word) for label, word in label_map.items()}
    for label, word in words.items():
        if label not in known:
            raise InputError(
                f"corpus.label_map: the label {short_repr(label)} does not occur; "
                f"{nearest(label, known)}"
            )
        if word == "":
            raise InputError(
                f"corpus.label_map: the class of {short_repr(label)} is empty: name it, or write "
                "null, which leaves its utterances out"
            )
    classes = {label: words.get(label, label) for label in known}
    if words and all(label == name for label, name in classes.items()):
        raise InputError(
            "corpus.label_map has no effect, since each label is its own class: set it to null"
        )
    if spelled := two_spellings({name for name in classes.values() if name is not None}):
        a, b = map(short_repr, spelled[0])
        raise InputError(
            f"corpus.label_map makes the classes {a} and {b}, which differ only in case or in how "
            "a number is written: write them in one way, or give two classes two names"
        )
    return classes


def digest_of_map(mapped: Mapping[str, str | None]) -> str:
    """Return the part of a label set's name that says which labels are what; "" if all stay.

    Args:
        mapped: From `map_labels`.
    """
    changed = sorted([label, name] for label, name in mapped.items() if label != name)
    digest = hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:8]
    return f"-mapped-{digest}" if changed else ""


def _renamed(classes_of: Mapping[str, str | None]) -> dict[str, str]:
    return {a: b for a, b in classes_of.items() if b is not None and a != b}


def describe_votes(
    corpus: str,
    classes_of: Mapping[str, str | None],
    votes: Iterable[Mapping[str, float]],
    silent: int,
) -> Relabelled:
    """Return what becomes of the votes of a corpus.

    Args:
        corpus: Value of `corpus.name`.
        classes_of: Class of each label, or None if votes for it do not count.
        votes: Votes by label of each utterance.
        silent: Number of utterances without a vote that counts.
    """
    lost: Counter[str] = Counter()
    for one in votes:
        lost.update({label: n for label, n in one.items() if classes_of.get(label) is None})
    counts = {label: round(n, 4) for label, n in sorted(lost.items()) if n}
    return Relabelled(_renamed(classes_of) if corpus in OWN else {}, {}, counts, silent)


def describe_labels(
    corpus: str, classes_of: Mapping[str, str | None], labels: Iterable[str]
) -> Relabelled:
    """Return what becomes of the labels of a corpus; a published label set says it itself.

    Args:
        corpus: Value of `corpus.name`.
        classes_of: Class of each label, or None if it is left out.
        labels: The corpus's own label of each utterance.
    """
    if corpus not in OWN:
        return Relabelled({}, {})
    counts = Counter(labels)
    mapped = _renamed(classes_of)
    left_out = {a: counts[a] for a, b in sorted(classes_of.items()) if b is None and counts[a]}
    return Relabelled(mapped, left_out)
