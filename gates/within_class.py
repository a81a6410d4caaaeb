"""What a gate goes with inside the classes of a speaker: duration, right and wrong predictions.

Classes differ in gate, in duration and in how often they are right. What is compared across them
may only be the classes, so a speaker's utterances of one class are compared, then averaged.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluation.permutation import SAME


def rank_correlations(
    values: NDArray, sizes: NDArray, speakers: NDArray, classes: NDArray
) -> NDArray:
    """Return each speaker's Spearman correlation within classes: (N,) x 4 -> (U,).

    Classes differ in size and in gate, so a correlation across them may be that of the classes. It
    is taken within each class and averaged over classes, weighted by their number of utterances.
    Classes of a speaker with fewer than three utterances, or without variation, are skipped.
    """
    correlations = []
    for name in np.unique(speakers):
        found, weights = [], []
        for k in np.unique(classes):
            own = (speakers == name) & (classes == k) & ~np.isnan(sizes)
            if own.sum() > 2 and np.ptp(values[own]) > SAME and np.ptp(sizes[own]) > 0:
                found.append(float(stats.spearmanr(values[own], sizes[own]).statistic))
                weights.append(int(own.sum()))
        if found:
            correlations.append(float(np.average(found, weights=weights)))
    return np.array(correlations)


def right_minus_wrong(
    values: NDArray, right: NDArray, speakers: NDArray, classes: NDArray
) -> NDArray:
    """Return each speaker's mean difference within classes, NaN for none: (N,) x 4 -> (S,).

    Classes differ in gate and in how often they are right, so a difference across them may be that
    of the classes. Of n right and m wrong utterances of a class the difference of the means has a
    variance proportional to 1/n + 1/m: classes are weighted by n m / (n + m).

    Args:
        values: Gate of each utterance.
        right: Whether its prediction is right.
        speakers: Its speaker; the result is sorted by speaker.
        classes: Its class.
    """
    differences = []
    for name in np.unique(speakers):
        total = weight = 0.0
        for k in np.unique(classes):
            own = (speakers == name) & (classes == k)
            n, m = int((own & right).sum()), int((own & ~right).sum())
            if n and m:
                share = n * m / (n + m)
                total += share * float(values[own & right].mean() - values[own & ~right].mean())
                weight += share
        differences.append(total / weight if weight else np.nan)
    return np.array(differences)
