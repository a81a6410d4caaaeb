"""Whether one number of a recording, or its text, already tells the class: a shortcut for a model.

The number is divided into BINS bins of equal counts in training; a category is a bin of its own. In
each fold the predicted class of a bin is the one that fills the largest share of its own training
utterances with it (add-one smoothing), so that frequent classes have no advantage; of equal ones
each counts in part. UA of these predictions over all tested utterances is what the number alone is
worth on speakers that the fold does not train on. It is compared with N_SHUFFLES permutations of
the labels within speakers, which keep how often a speaker utters each class. Beyond chance is more
than DEVIATIONS standard deviations above their mean: several numbers are tried on each corpus.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 10
N_SHUFFLES = 99
DEVIATIONS = 4.0
WORTH = 0.1  # of the way from chance to 1, from which a shortcut is named

Indices = NDArray[np.int64]
Fold = tuple[Indices, Indices]  # indices: not tested, tested


class Shortcut(NamedTuple):
    """What one number of a recording tells of the class."""

    name: str
    ua: float
    chance: float  # UA of guessing
    limit: float  # UA up to which shuffled labels come, see DEVIATIONS

    @property
    def tells(self) -> bool:
        """Whether it tells classes apart beyond chance, and enough to matter."""
        worth = (self.ua - self.chance) / (1 - self.chance)
        return self.ua > self.limit and worth >= WORTH


def find_shortcut(
    name: str,
    values: NDArray[Any],
    targets: Indices,
    groups: Indices,
    folds: Sequence[Fold],
    categories: bool = False,
) -> Shortcut | None:
    """Score what one number tells of the class.

    None where it is the same for all, or where fewer than two classes are tested.

    Args:
        name: Name of the number.
        values: Number or category of each utterance: (n,).
        targets: Class index of each utterance: (n,).
        groups: Index of the speaker of each utterance: (n,).
        folds: Indices that are trained on, and tested, in each fold.
        categories: Whether values are names rather than numbers.
    """
    present = len(np.unique(np.concatenate([targets[test] for _, test in folds]))) if folds else 0
    if present < 2 or len(np.unique(values)) < 2:
        return None
    n_classes = int(targets.max()) + 1
    binned = [(*fold, *_bins(values, *fold, categories)) for fold in folds]
    ua = _ua(binned, targets, n_classes)
    rng = np.random.default_rng(0)
    places = np.argsort(groups, kind="stable")
    shuffled = [
        _ua(binned, _shuffle_within(targets, groups, places, rng), n_classes)
        for _ in range(N_SHUFFLES)
    ]
    limit = np.mean(shuffled) + DEVIATIONS * np.std(shuffled)
    return Shortcut(name, ua, 1 / present, float(limit))


def _bins(
    values: NDArray[Any], train: Indices, test: Indices, categories: bool
) -> tuple[Indices, Indices]:
    """Return the bin of each trained and each tested utterance; -1 where training has none."""
    if categories:
        known = np.unique(values[train])
        at = np.searchsorted(known, values[test])
        found = known[np.minimum(at, len(known) - 1)] == values[test]
        return np.searchsorted(known, values[train]), np.where(found, at, -1)
    edges = np.unique(np.quantile(values[train], np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, values[train]), np.searchsorted(edges, values[test])


def _ua(
    binned: Sequence[tuple[Indices, Indices, Indices, Indices]], targets: Indices, n_classes: int
) -> float:
    """Return UA over all folds, each utterance as often as it is tested."""
    right, total = np.zeros(n_classes), np.zeros(n_classes)
    for train, test, train_bins, test_bins in binned:
        n_bins = int(train_bins.max()) + 1
        cells = np.bincount(train_bins * n_classes + targets[train], minlength=n_bins * n_classes)
        counts = cells.reshape(n_bins, n_classes) + 1.0  # (bins, K)
        shares = counts / counts.sum(0)
        best = np.isclose(shares, shares.max(1, keepdims=True))
        scores = best / best.sum(1, keepdims=True)  # (bins, K)
        scores = np.concatenate([scores, np.full((1, n_classes), 1 / n_classes)])  # of bin -1
        actual = targets[test]
        right += np.bincount(actual, scores[test_bins, actual], n_classes)
        total += np.bincount(actual, minlength=n_classes)
    return float((right[total > 0] / total[total > 0]).mean())


def _shuffle_within(
    targets: Indices, groups: Indices, places: Indices, rng: np.random.Generator
) -> Indices:
    """Permute targets within each group; `places` lists the members of each group in turn."""
    order = np.lexsort((rng.random(len(targets)), groups))  # random within each group
    shuffled = np.empty_like(targets)
    shuffled[places] = targets[order]
    return shuffled
