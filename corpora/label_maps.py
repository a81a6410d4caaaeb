"""`corpus.label_map`: the class of each label of a corpus of one's own, and what is left out."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from config.effects import OWN
from corpora.audio_files import first
from corpora.names import clean_name, two_spellings
from system.errors import InputError, nearest
from system.text import short_repr


class Relabelled(NamedTuple):
    """What became of the labels of a corpus.

    Args:
        mapped: Label -> class, of labels that are called otherwise.
        left_out: Label -> number of utterances that are left out.
    """

    mapped: Mapping[str, str]
    left_out: Mapping[str, int]

    def words(self) -> list[str]:
        """Say which labels were mapped, and how many utterances of which were left out.

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
    mapped = {a: b for a, b in classes_of.items() if b is not None and a != b}
    left_out = {a: counts[a] for a, b in sorted(classes_of.items()) if b is None and counts[a]}
    return Relabelled(mapped, left_out)
