"""Label sets: which class a corpus's label belongs to, and how many of each were published."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from corpora.readers import Utterance, select_subset
from system.errors import InputError, nearest
from system.files import MAX_CLASSES


@dataclass(frozen=True)
class LabelSet:
    """Classes and who belongs to them.

    Args:
        name: Part of the protocol id, so results with other classes are never set side by side.
        classes: Class names; the position is the target index.
        classes_of: Corpus label -> class, or None where the label is left out on purpose. A label
            that is not named here is an error, never dropped.
        published: Subset -> class -> number of utterances; empty where nothing is published.
    """

    name: str
    classes: tuple[str, ...]
    classes_of: Mapping[str, str | None]
    published: Mapping[str, Mapping[str, int]]


def _label_set(
    name: str, classes_of: dict[str, str | None], published: dict[str, list[int]]
) -> LabelSet:
    """Order the classes, and the published counts with them, as `classes_of` first names them."""
    classes = tuple(dict.fromkeys(value for value in classes_of.values() if value is not None))
    counts = {subset: dict(zip(classes, n, strict=True)) for subset, n in published.items()}
    return LabelSet(name, classes, classes_of, counts)


_IEMOCAP = {"neu": "neutral", "hap": "happy", "ang": "angry", "sad": "sad"}
# xxx: the raters found no majority
_IEMOCAP_OTHER = dict.fromkeys(("fru", "sur", "fea", "dis", "oth", "xxx"))

LABEL_SETS: dict[str, tuple[LabelSet, ...]] = {
    # Counted over the label files of the corpus; 5531, 4490, 2943 and 2280 are the literature's.
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
    # 24 actors x 60 clips, neutral at one intensity only, Livingstone & Russo 2018
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
    # 535 published clips; the counts are those of EmoBox's list, Ma et al. 2024
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
    # 7442 clips, intended emotion, Cao et al. 2014; the counts are those of EmoBox's list
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


def label_set(corpus: str, labels: str | list[str], utterances: Iterable[Utterance]) -> LabelSet:
    """Look up the label set of a corpus, or make that of a manifest.

    Args:
        corpus: The corpus name.
        labels: The name of a label set; for a manifest "all" (every label, sorted) or a list of
            labels, which leaves the others out.
        utterances: Read only for a manifest.
    """
    if corpus == "manifest":
        return _manifest_labels(labels, {utterance.label for utterance in utterances})
    sets = {known.name: known for known in LABEL_SETS[corpus]}
    if not isinstance(labels, str) or labels not in sets:
        hint = nearest(labels, sets) if isinstance(labels, str) else nearest("", sets)
        raise InputError(f"corpus.labels {labels!r} is no label set of {corpus}; {hint}")
    return sets[labels]


def _manifest_labels(labels: str | list[str], found: set[str]) -> LabelSet:
    if isinstance(labels, str) and labels != "all":
        raise InputError(
            f"corpus.labels of a manifest must be all, or a list such as "
            f"[{', '.join(sorted(found)[:3])}], got {labels!r}"
        )
    classes = tuple(sorted(found)) if labels == "all" else tuple(labels)
    for name in classes:
        if name not in found:
            raise InputError(
                f"corpus.labels: {name!r} does not occur in the manifest; {nearest(name, found)}"
            )
    if len(classes) > MAX_CLASSES:
        raise InputError(
            f"corpus.labels names {len(classes)} classes, at most {MAX_CLASSES} are allowed: does "
            "the manifest's `label` hold something else?"
        )
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(
            f"corpus.labels must name at least two different classes, got {', '.join(classes)}"
        )
    name = f"manifest{len(classes)}" if labels == "all" else f"manifest({'+'.join(classes)})"
    left_out = dict.fromkeys(found - set(classes))
    return LabelSet(name, classes, {name: name for name in classes} | left_out, {})


def select_labels(
    utterances: Iterable[Utterance], labels: LabelSet, subset: str, expect_published_counts: bool
) -> list[Utterance]:
    """Keep the utterances of the subset that have a class, labelled with it.

    Args:
        utterances: With the corpus's own labels.
        labels: From `label_set`.
        subset: "all" or a portion, see `select_subset`.
        expect_published_counts: Refuse other counts than the published ones, where there are any.

    Raises:
        InputError: A label that the set does not know; counts that differ; a class without a clip.
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
        raise InputError(f"{labels.name}, subset {subset}: no utterance of {', '.join(empty)}")
    return kept


def _check_counts(labels: LabelSet, subset: str, counts: Mapping[str, int]) -> None:
    published = labels.published[subset]
    if all(counts.get(name, 0) == published[name] for name in labels.classes):
        return
    rows = [(name, published[name], counts.get(name, 0)) for name in labels.classes]
    rows.append(("total", sum(published.values()), sum(counts.values())))
    table = "\n".join(f"  {name:<12}{there:>10}{here:>10}" for name, there, here in rows)
    raise InputError(
        f"{labels.name}, subset {subset}: the counts are not the published ones\n"
        f"  {'class':<12}{'published':>10}{'found':>10}\n{table}\n"
        "Complete the corpus, or set corpus.expect_published_counts=false to go on with these"
    )
