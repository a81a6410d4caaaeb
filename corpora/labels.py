"""Choose the classes of a task, label utterances with them, and check their published counts."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from config.effects import CLASSES_KEY, OWN
from corpora.label_maps import digest_of_map, map_labels
from corpora.label_sets import LABEL_SETS, LabelSet
from corpora.names import clean_name, two_spellings
from corpora.readers import select_subset
from corpora.utterance import Utterance
from system.errors import InputError, nearest
from system.files import MAX_CLASSES, MAX_WORD
from system.text import short_repr

__all__ = ["LABEL_SETS", "LabelSet", "choose_classes", "label_set", "select_labels"]

CLASS_NAME = re.compile(r"\w+", re.ASCII)
ALL = "all"  # the row of all classes in tables


def label_set(
    corpus: str,
    labels: str | list[str],
    utterances: Iterable[Utterance],
    label_map: Mapping[str, str | None] | None = None,
) -> LabelSet:
    """Return a label set of a published corpus, or make one for a manifest or folder.

    Args:
        corpus: Value of `corpus.name`.
        labels: Name of a label set; for a manifest or folder "all" (every class, sorted) or the
            list of classes to keep.
        utterances: All utterances of the corpus; only their labels are read, and only for a
            manifest or folder.
        label_map: Value of `corpus.label_map`, for a manifest or folder.

    Raises:
        InputError: The corpus has no such label set, or the manifest no such label; or there are
            fewer than two classes, or too many.
    """
    if corpus in OWN:
        mapped = map_labels({utterance.label for utterance in utterances}, label_map or {})
        return _own_labels(corpus, labels, mapped)
    sets = {known.name: known for known in LABEL_SETS[corpus]}
    if not isinstance(labels, str) or labels not in sets:
        hint = nearest(labels, sets) if isinstance(labels, str) else nearest("", sets)
        raise InputError(f"corpus.labels {labels!r} is not a label set of {corpus}; {hint}")
    return sets[labels]


def _own_labels(corpus: str, labels: str | list[str], mapped: Mapping[str, str | None]) -> LabelSet:
    """Make the label set of a manifest or folder."""
    known = {name for name in mapped.values() if name is not None}
    if isinstance(labels, str) and labels != "all":
        raise InputError(
            f"corpus.labels of a {corpus} must be all, or a list such as "
            f"[{', '.join(sorted(known)[:3])}], got {labels!r}"
        )
    classes = tuple(sorted(known)) if labels == "all" else tuple(map(clean_name, labels))
    for name in classes:
        if name not in known:
            after = ", after corpus.label_map" * (name in mapped)
            raise InputError(
                f"corpus.labels: {name!r} does not occur in the {corpus}{after}; "
                f"{nearest(name, known)}"
            )
    if len(classes) > MAX_CLASSES:
        raise InputError(
            f"corpus.labels names {len(classes)} classes, at most {MAX_CLASSES} are allowed: check "
            f"that the labels of the {corpus} are emotions"
        )
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(
            f"corpus.labels must name at least two different classes, got {', '.join(classes)}"
        )
    refuse_names(classes, "corpus.labels", "rename it by corpus.label_map")
    name = f"{corpus}{len(classes)}" if labels == "all" else f"{corpus}({'+'.join(classes)})"
    kept = {label: own if own in classes else None for label, own in mapped.items()}
    return LabelSet(name + digest_of_map(mapped), classes, kept, {})


def choose_classes(labels: LabelSet, classes: Sequence[str]) -> LabelSet:
    """Return a label set with fewer or merged classes of another.

    Order says nothing: classes keep that of the label set, so that one choice has one name.

    Args:
        labels: Label set of a published corpus.
        classes: Value of `corpus.classes`: a class, classes to merge (`happy+surprised`), or a name
            for them (`positive=happy+surprised`).

    Raises:
        InputError: A class is not known or named twice, a name is taken or not a word, fewer than
            two classes are left, or nothing is changed.

    >>> base = LabelSet("three", ("neutral", "happy", "sad"), {"n": "neutral", "h": "happy"}, {})
    >>> choose_classes(base, ["low=sad+neutral", "happy"]).name
    'three(low=neutral+sad,happy)'
    """
    chosen: dict[str, list[str]] = {}
    for word in classes:
        name, members = _read_choice(labels, word)
        if name in chosen:
            raise InputError(f"corpus.classes names the class {name!r} twice")
        chosen[name] = members
    _refuse_choice(labels, chosen)
    ordered = sorted(chosen, key=lambda name: labels.classes.index(chosen[name][0]))
    new_class = {one: name for name in ordered for one in chosen[name]}
    return LabelSet(
        f"{labels.name}({','.join(_words(name, chosen[name]) for name in ordered)})",
        tuple(ordered),
        {label: new_class.get(str(one)) for label, one in labels.classes_of.items()},
        {
            subset: {name: sum(counts[one] for one in chosen[name]) for name in ordered}
            for subset, counts in labels.published.items()
        },
    )


def _refuse_choice(labels: LabelSet, chosen: Mapping[str, Sequence[str]]) -> None:
    """Raise an error for a choice of classes that cannot be, or changes nothing."""
    members = [one for several in chosen.values() for one in several]
    if twice := [one for one, n in Counter(members).items() if n > 1]:
        raise InputError(f"corpus.classes takes {twice[0]!r} twice: put it into one class")
    if len(chosen) < 2:
        raise InputError(
            f"corpus.classes must leave at least two classes, got {', '.join(chosen) or 'none'}"
        )
    for name, own in chosen.items():
        others = {*chosen, *labels.classes} - {*own, name}
        if name in labels.classes and name not in own:
            others.add(name)
        if taken := next(
            (one for one in sorted(others) if one == name or two_spellings([one, name])), None
        ):
            spelled = "" if taken == name else f" (there {short_repr(taken)})"
            raise InputError(
                f"corpus.classes calls {short_repr('+'.join(own))} {short_repr(name)}, which is "
                f"another class of {labels.name}{spelled}: choose another name"
            )
    refuse_names(chosen, "corpus.classes", "name it otherwise, as in positive=happy+surprised")
    if sorted(chosen) == sorted(labels.classes) == sorted(members):
        raise InputError(
            f"corpus.classes names all classes of {labels.name}, which changes nothing: leave it "
            "out"
        )


def refuse_names(classes: Iterable[str], key: str, cure: str) -> None:
    """Refuse names of classes that tables and files of a run cannot hold.

    Args:
        classes: Class names.
        key: Config key that names them.
        cure: What to do.

    Raises:
        InputError: One is called as the rows of all classes are, or is too long.
    """
    for name in classes:
        if name.casefold() == ALL:
            raise InputError(
                f"{key}: no class can be called {name!r}, the row of all classes in tables: {cure}"
            )
        if len(name) > MAX_WORD:
            raise InputError(
                f"{key}: the name of a class has {len(name)} characters, at most {MAX_WORD} are "
                f"allowed: {short_repr(name)}; {cure}"
            )


def _read_choice(labels: LabelSet, word: str) -> tuple[str, list[str]]:
    """Return the name of a class and its members, in the order of the label set."""
    name, equals, merged = word.partition("=")
    members = [clean_name(one) for one in (merged if equals else word).split("+")]
    for one in members:
        if one not in labels.classes:
            raise InputError(
                f"corpus.classes: {one!r} is not a class of {labels.name}; "
                f"{nearest(one, labels.classes)}"
            )
    members.sort(key=labels.classes.index)
    name = clean_name(name) if equals else "+".join(members)
    if equals and not CLASS_NAME.fullmatch(name):
        raise InputError(
            f"corpus.classes: {word!r} must name the class in letters, digits and _, as in "
            "positive=happy+surprised"
        )
    return name, members


def _words(name: str, members: Sequence[str]) -> str:
    merged = "+".join(members)
    return name if name == merged else f"{name}={merged}"


def select_labels(
    utterances: Iterable[Utterance],
    labels: LabelSet,
    subset: str,
    expect_published_counts: bool,
    refusals: list[str] | None = None,
) -> list[Utterance]:
    """Keep the utterances of a subset that have a class, and label them with it.

    Args:
        utterances: All utterances, with the corpus's own labels.
        labels: From `label_set`.
        subset: "all" or a portion, see `select_subset`.
        expect_published_counts: Whether to refuse counts that differ from the published ones.
        refusals: Gets why counts are refused; None raises it.

    Raises:
        InputError: The set does not know a label, counts differ from the published ones, or a class
            has no utterance.
    """
    kept = _label_utterances(utterances, labels, subset)
    found = _refuse_counts(kept, labels, subset, expect_published_counts)
    if refusals is not None:
        refusals += found
    elif found:
        raise InputError(found[0])
    return kept


def _label_utterances(
    utterances: Iterable[Utterance], labels: LabelSet, subset: str
) -> list[Utterance]:
    """Keep the utterances of a subset that have a class, however many; see `select_labels`."""
    kept = []
    for utterance in select_subset(utterances, subset):
        if utterance.label not in labels.classes_of:
            raise InputError(
                f"{utterance.id} is labelled {utterance.label!r}, which the label set "
                f"{labels.name} does not know; {nearest(utterance.label, labels.classes_of)}"
            )
        name = labels.classes_of[utterance.label]
        if name is not None:
            kept.append(replace(utterance, label=name))
    return kept


def _refuse_counts(
    kept: Sequence[Utterance], labels: LabelSet, subset: str, expect_published_counts: bool
) -> list[str]:
    """Return why the counts of the classes are refused; see `select_labels`."""
    counts = Counter(utterance.label for utterance in kept)
    refusals = []
    if expect_published_counts and subset in labels.published:
        refusals += _differing_counts(labels, subset, counts)
    if empty := labels.missing(kept):
        refusals.append(
            f"{labels.name}, subset {subset}: no utterance of {', '.join(empty)}; choose another "
            f"corpus.subset or other {CLASSES_KEY}"
        )
    return refusals


def _differing_counts(labels: LabelSet, subset: str, counts: Mapping[str, int]) -> list[str]:
    published = labels.published[subset]
    if all(counts.get(name, 0) == published[name] for name in labels.classes):
        return []
    rows = [(name, published[name], counts.get(name, 0)) for name in labels.classes]
    rows.append(("total", sum(published.values()), sum(counts.values())))
    table = "\n".join(f"  {name:<12}{expected:>10}{got:>10}" for name, expected, got in rows)
    return [
        f"{labels.name}, subset {subset}: the counts differ from the published ones\n"
        f"  {'class':<12}{'published':>10}{'found':>10}\n{table}\n"
        "Complete the corpus, or set corpus.expect_published_counts=false to use these utterances"
    ]
