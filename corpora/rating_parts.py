"""Parts of the scale of ratings, which stand where groups of like utterances are needed.

They are quarters of valence and arousal where there are both, else halves of one dimension.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.tasks import DIMENSIONS, RatingScale
from corpora.labels import LabelSet
from corpora.splits import Split
from corpora.utterance import Utterance

ROUNDING = 1e-6  # of ratings in predictions.csv


def part_names(dimensions: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the parts.

    >>> part_names(["arousal", "dominance"])
    ('low arousal', 'high arousal')
    """
    halves = [[f"low {dimensions[i]}", f"high {dimensions[i]}"] for i in _split(dimensions)]
    return tuple(", ".join(parts) for parts in product(*halves))


def parts_of(
    ratings: NDArray[Any], dimensions: Sequence[str], scale: RatingScale
) -> NDArray[np.int64]:
    """Return the index of each part; the middle of the scale is high: (N, D) -> (N,)."""
    found = np.zeros(len(ratings), np.int64)
    for i in _split(dimensions):
        found = 2 * found + (ratings[:, i] >= scale.centre - ROUNDING)
    return found


def label_parts(
    labels: LabelSet, utterances: Sequence[Utterance], splits: Sequence[Split]
) -> tuple[LabelSet, list[Utterance], list[Split]]:
    """Label rated utterances with their part of the scale, as if it were their class.

    Args:
        labels: Dimensions and their scale.
        utterances: Utterances with ratings as targets.
        splits: Folds of them.

    Returns:
        The parts that occur in the place of classes, and the same utterances and folds.
    """
    assert labels.scale is not None
    names = part_names(labels.classes)
    ratings = np.array([one.target for one in utterances], float).reshape(len(utterances), -1)
    parts = parts_of(ratings, labels.classes, labels.scale).tolist()
    of = {one.id: names[k] for one, k in zip(utterances, parts, strict=True)}

    def labelled(members: Sequence[Utterance]) -> tuple[Utterance, ...]:
        return tuple(replace(one, label=of[one.id]) for one in members)

    occurring = tuple(name for name in names if name in of.values())
    folds = [Split(s.fold, *(labelled(part) for _, part in s.parts())) for s in splits]
    return replace(labels, classes=occurring), [*labelled(utterances)], folds


def _split(dimensions: Sequence[str]) -> list[int]:
    """Return the places of the dimensions that make parts."""
    both = [i for i, name in enumerate(dimensions) if name in DIMENSIONS[:2]]
    return both if len(both) == 2 else [0]
