"""What a run predicts of each utterance: its class, ratings on dimensions, or shares of votes.

`target_set` names it and `select_targets` gives it to utterances, for each task of `config.tasks`.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from config.effects import OWN
from config.schema import Config, CorpusConfig
from config.tasks import CLASS, DIMENSIONS, DISTRIBUTION, RATINGS, SCALES, RatingScale
from corpora.audio_files import first
from corpora.labels import LabelSet, choose_classes, label_set, select_labels
from corpora.names import clean_name
from corpora.readers import select_subset
from corpora.utterance import Utterance
from corpora.votes import read_votes
from system.errors import InputError, nearest
from system.text import short_repr

log = logging.getLogger(__name__)

RATED_SET = "-dimensions"  # after the corpus in the name of its label set
RATED = "rated"  # label of an utterance whose target is not a class
# Label lines of the corpus, all of which have ratings; see `labels.LABEL_SETS` for classes
RATED_UTTERANCES = {"iemocap": {"all": 10_039, "improvised": 4784, "scripted": 5255}}


def target_set(config: Config, utterances: Sequence[Utterance]) -> LabelSet:
    """Return the classes, or the dimensions, that a config asks for.

    Args:
        config: Config of the run.
        utterances: All utterances of the corpus.

    Raises:
        InputError: `corpus.labels` does not fit the task; see also `label_set`.
    """
    corpus = config.corpus
    if config.task == CLASS:
        if unlabelled := [utterance.id for utterance in utterances if not utterance.label]:
            raise InputError(
                f"{len(unlabelled)} of {len(utterances)} utterances have no label: "
                f"{first(unlabelled)}. Fill it in, remove these rows, or set another task"
            )
        return _class_set(corpus, utterances)
    if config.task == DISTRIBUTION:
        return _voted_set(corpus, utterances)
    _refuse_classes(corpus)
    return _dimension_set(corpus.name, corpus.labels, corpus.scale)


def select_targets(
    utterances: Sequence[Utterance],
    labels: LabelSet,
    subset: str,
    expect_published_counts: bool,
    refusals: list[str] | None = None,
) -> list[Utterance]:
    """Keep the utterances of a subset that have a target, and give it to them.

    Args:
        utterances: All utterances, as they were read.
        labels: From `target_set`.
        subset: "all" or a portion, see `select_subset`.
        expect_published_counts: Whether to refuse counts that differ from the published ones.
        refusals: Gets why counts of classes are refused; None raises it.

    Raises:
        InputError: A rating is missing or not a number, or counts differ; see also `select_labels`.
    """
    if labels.task == CLASS:
        return select_labels(utterances, labels, subset, expect_published_counts, refusals)
    chosen = select_subset(utterances, subset)
    if labels.task == DISTRIBUTION:
        return _share(chosen, labels)
    published = labels.published.get(subset, {}).get(RATED)
    if expect_published_counts and published not in (None, len(chosen)):
        raise InputError(
            f"{labels.name}, subset {subset}: {published} rated utterances are published, "
            f"{len(chosen)} are here. Complete the corpus, or set "
            "corpus.expect_published_counts=false to use these utterances"
        )
    return _rate(chosen, labels)


def _class_set(corpus: CorpusConfig, utterances: Sequence[Utterance]) -> LabelSet:
    labels = label_set(corpus.name, corpus.labels, utterances, corpus.label_map)
    return labels if corpus.classes is None else choose_classes(labels, corpus.classes)


def _refuse_classes(corpus: CorpusConfig) -> None:
    """Refuse keys that say something about classes where ratings are predicted."""
    for key in ("label_map", "classes"):
        if getattr(corpus, key) is not None:
            raise InputError(
                f"corpus.{key} has no effect, since task=dimensions predicts no class: set it to "
                "null, or set another task"
            )


def _dimension_set(corpus: str, labels: str | list[str], scale: Sequence[float] | None) -> LabelSet:
    """Return the dimensions in one order, whatever order they were named in."""
    wanted = DIMENSIONS if labels == "all" else labels
    if isinstance(wanted, str):
        raise InputError(
            f"corpus.labels={wanted} names classes, but task=dimensions: set it to all, or to a "
            f"list of {', '.join(DIMENSIONS)}"
        )
    names = [clean_name(name) for name in wanted]
    for name in names:
        if name not in DIMENSIONS:
            raise InputError(
                f"corpus.labels: {name!r} is not a dimension; {nearest(name, DIMENSIONS)}"
            )
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"corpus.labels must name at least one dimension and none twice, got {names}"
        )
    names.sort(key=DIMENSIONS.index)
    known = SCALES.get(corpus)
    limits = known or RatingScale(*scale or ())
    of_table = "" if known else f"-{limits.low:g}-{limits.high:g}"
    counts = {part: {RATED: n} for part, n in RATED_UTTERANCES.get(corpus, {}).items()}
    name = f"{corpus}{RATED_SET}({'+'.join(names)}){of_table}"
    return LabelSet(name, tuple(names), {}, counts, RATINGS, limits)


def _voted_set(corpus: CorpusConfig, utterances: Sequence[Utterance]) -> LabelSet:
    """Return the label set of a corpus, or for a manifest that of all labels that got votes."""
    voted = utterances
    if corpus.name in OWN:
        names = sorted({name for u in utterances for name in votes_of(u)})
        voted = [replace(utterances[0], label=name) for name in names]
    found = _class_set(corpus, voted)
    return replace(found, name=f"{found.name}-{DISTRIBUTION}", published={}, task=DISTRIBUTION)


def _share(utterances: Sequence[Utterance], labels: LabelSet) -> list[Utterance]:
    """Divide the votes for classes by their number; leave out utterances without any."""
    silent = [utterance.id for utterance in utterances if utterance.votes is None]
    if silent:
        raise InputError(
            f"{len(silent)} of {len(utterances)} utterances have no votes: {first(silent)}. Give "
            "each of them some (column votes), or remove these rows"
        )
    kept = []
    for utterance in utterances:
        shares = dict.fromkeys(labels.classes, 0.0)
        for label, weight in votes_of(utterance).items():
            if label not in labels.classes_of:
                raise InputError(
                    f"{utterance.id} has a vote for {label!r}, which the label set {labels.name} "
                    f"does not know; {nearest(label, labels.classes_of)}"
                )
            if (name := labels.classes_of[label]) is not None:
                shares[name] += weight
        if total := sum(shares.values()):
            target = tuple(share / total for share in shares.values())
            most = labels.classes[target.index(max(target))]  # of equal ones the first
            kept.append(replace(utterance, label=most, target=target))
    if empty := labels.missing(kept):
        raise InputError(
            f"{labels.name}: no vote for {', '.join(empty)}; choose another corpus.subset or other "
            "corpus.labels"
        )
    return kept


def votes_of(utterance: Utterance) -> dict[str, float]:
    """Return the votes of an utterance by label; empty where it has none.

    Raises:
        InputError: They cannot be read; names the utterance.
    """
    try:
        return read_votes(utterance.votes) if utterance.votes else {}
    except InputError as error:
        raise InputError(f"{utterance.id}: {error}") from None


def _rate(utterances: Iterable[Utterance], labels: LabelSet) -> list[Utterance]:
    """Read the ratings of utterances as their targets."""
    assert labels.scale is not None
    places = [DIMENSIONS.index(name) for name in labels.classes]
    rated, unrated, outside = [], [], []
    for utterance in utterances:
        cells = utterance.ratings or ("",) * len(DIMENSIONS)
        target = tuple(_number(utterance, i, cells[i]) for i in places)
        if any(map(math.isnan, target)):
            unrated.append(utterance.id)
        elif not all(labels.scale.low <= rating <= labels.scale.high for rating in target):
            outside.append(f"{utterance.id} {', '.join(f'{rating:g}' for rating in target)}")
        rated.append(replace(utterance, label=RATED, target=target))
    if unrated:
        raise InputError(
            f"{len(unrated)} of {len(rated)} utterances lack a rating of "
            f"{' or '.join(labels.classes)}: {first(unrated)}. Fill it in, remove these rows, or "
            "name dimensions in corpus.labels that all have"
        )
    if outside:
        _report_outside(labels, labels.scale, outside)
    return rated


def _report_outside(labels: LabelSet, scale: RatingScale, outside: Sequence[str]) -> None:
    """Refuse ratings beyond a scale that the config names; a published corpus is as it is."""
    words = (
        f"{labels.name}: the ratings of {len(outside)} utterances are outside {scale.low:g} to "
        f"{scale.high:g}: {first(outside)}"
    )
    corpus = labels.name.partition(RATED_SET)[0]
    if corpus in SCALES:
        log.warning("%s; they are used as they are", words)
    else:
        raise InputError(f"{words}. Correct them, or set corpus.scale to the scale of the raters")


def _number(utterance: Utterance, place: int, cell: str) -> float:
    """Return a rating, NaN where there is none."""
    try:
        rating = float(cell or "nan")
    except ValueError:
        rating = math.inf
    if math.isinf(rating):
        raise InputError(
            f"{utterance.id}: {DIMENSIONS[place]} must be a number, got {short_repr(cell)}"
        )
    return rating
