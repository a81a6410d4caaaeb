"""Label sets: the class of each label of a corpus, and the published number of utterances."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from config.effects import OWN
from corpora.label_maps import digest_of_map, map_labels
from corpora.names import clean_name
from corpora.readers import select_subset
from corpora.utterance import Utterance
from system.errors import InputError, nearest
from system.files import MAX_CLASSES


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task, and the class of each corpus label.

    Args:
        name: Part of the protocol id, so that results with other classes are never compared.
        classes: Class names; the position is the target index.
        classes_of: Corpus label -> class, or None if utterances with the label are left out. An
            utterance with any other label is an error; it is not dropped silently.
        published: Subset -> class -> published number of utterances; empty if none is published.
    """

    name: str
    classes: tuple[str, ...]
    classes_of: Mapping[str, str | None]
    published: Mapping[str, Mapping[str, int]]


def _label_set(
    name: str, classes_of: dict[str, str | None], published: dict[str, list[int]]
) -> LabelSet:
    """Order the classes and their published counts as `classes_of` first names them."""
    classes = tuple(dict.fromkeys(value for value in classes_of.values() if value is not None))
    counts = {subset: dict(zip(classes, n, strict=True)) for subset, n in published.items()}
    return LabelSet(name, classes, classes_of, counts)


_IEMOCAP = {"neu": "neutral", "hap": "happy", "ang": "angry", "sad": "sad"}
# xxx: the raters found no majority
_IEMOCAP_OTHER = dict.fromkeys(("fru", "sur", "fea", "dis", "oth", "xxx"))

LABEL_SETS: dict[str, tuple[LabelSet, ...]] = {
    # Counted in the label files of the corpus; the literature has 5531, 4490, 2943 and 2280 too.
    "iemocap": (
        _label_set(
            "iemocap4-exc",
            {**_IEMOCAP, "exc": "happy", **_IEMOCAP_OTHER},
            {
                "all": [1708, 1636, 1103, 1084],  # 5531
                "improvised": [1099, 947, 289, 608],  # 2943
                "scripted": [609, 689, 814, 476],  # 2588
            },
        ),
        _label_set(
            "iemocap4",
            {**_IEMOCAP, "exc": None, **_IEMOCAP_OTHER},
            {
                "all": [1708, 595, 1103, 1084],  # 4490
                "improvised": [1099, 284, 289, 608],  # 2280
                "scripted": [609, 311, 814, 476],  # 2210
            },
        ),
    ),
    # 20 speakers x 5 emotions x 350 sentences, Zhou et al. 2022
    "esd": (
        _label_set(
            "esd5",
            {
                "Neutral": "neutral",
                "Happy": "happy",
                "Angry": "angry",
                "Sad": "sad",
                "Surprise": "surprised",
            },
            {"all": [7000] * 5, "english": [3500] * 5, "mandarin": [3500] * 5},
        ),
    ),
    # 24 actors x 60 recordings, neutral at one intensity only, Livingstone & Russo 2018
    "ravdess": (
        _label_set(
            "ravdess8",
            {
                "neutral": "neutral",
                "calm": "calm",
                "happy": "happy",
                "sad": "sad",
                "angry": "angry",
                "fearful": "fearful",
                "disgust": "disgust",
                "surprised": "surprised",
            },
            {"all": [96, *[192] * 7]},
        ),
    ),
    # 535 published recordings; counts of EmoBox's list, Ma et al. 2024
    "emodb": (
        _label_set(
            "emodb7",
            {
                "neutral": "neutral",
                "happiness": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "disgust": "disgust",
                "boredom": "bored",
            },
            {"all": [79, 71, 127, 62, 69, 46, 81]},
        ),
    ),
    # 7442 recordings, intended emotion, Cao et al. 2014; counts of EmoBox's list
    "cremad": (
        _label_set(
            "cremad6",
            {
                "NEU": "neutral",
                "HAP": "happy",
                "ANG": "angry",
                "SAD": "sad",
                "FEA": "fearful",
                "DIS": "disgust",
            },
            {"all": [1087, *[1271] * 5]},
        ),
    ),
}


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
    name = f"{corpus}{len(classes)}" if labels == "all" else f"{corpus}({'+'.join(classes)})"
    kept = {label: own if own in classes else None for label, own in mapped.items()}
    return LabelSet(name + digest_of_map(mapped), classes, kept, {})


def select_labels(
    utterances: Iterable[Utterance], labels: LabelSet, subset: str, expect_published_counts: bool
) -> list[Utterance]:
    """Keep the utterances of a subset that have a class, and label them with it.

    Args:
        utterances: All utterances, with the corpus's own labels.
        labels: From `label_set`.
        subset: "all" or a portion, see `select_subset`.
        expect_published_counts: Whether to refuse counts that differ from the published ones.

    Raises:
        InputError: The set does not know a label, counts differ from the published ones, or a class
            has no utterance.
    """
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
    counts = Counter(utterance.label for utterance in kept)
    if expect_published_counts and subset in labels.published:
        _check_counts(labels, subset, counts)
    empty = [name for name in labels.classes if not counts[name]]
    if empty:
        raise InputError(
            f"{labels.name}, subset {subset}: no utterance of {', '.join(empty)}; choose another "
            "corpus.subset or other corpus.labels"
        )
    return kept


def _check_counts(labels: LabelSet, subset: str, counts: Mapping[str, int]) -> None:
    published = labels.published[subset]
    if all(counts.get(name, 0) == published[name] for name in labels.classes):
        return
    rows = [(name, published[name], counts.get(name, 0)) for name in labels.classes]
    rows.append(("total", sum(published.values()), sum(counts.values())))
    table = "\n".join(f"  {name:<12}{expected:>10}{got:>10}" for name, expected, got in rows)
    raise InputError(
        f"{labels.name}, subset {subset}: the counts differ from the published ones\n"
        f"  {'class':<12}{'published':>10}{'found':>10}\n{table}\n"
        "Complete the corpus, or set corpus.expect_published_counts=false to use these utterances"
    )
