"""Does a gate differ between groups of utterances more than by chance? Speakers are the units.

Gates are per utterance, (N,), 1 = CQT, 0 = Mel. Utterances of one speaker resemble each other, and
all utterances of a fold pass through one model, whose gate has its own level. So utterances are
averaged to one mean g[s, k] for each speaker s and class (or group) k first, speakers are compared
with themselves where possible, and labels are permuted only within a speaker or within a fold:

    class_test      d[s, k] = g[s, k] - mean over k of g[s, k]     T = sum over k of mean_s(d)^2
                    under H0 the classes of a speaker are exchangeable: permute k within each s
    unit_test       the same for every unit of the gate, T summed over units and folds, one
                    permutation for all units of a speaker
    sign_flip_test  one difference x[s] for each speaker           T = |mean_s(x)|
                    under H0 x is symmetric about 0: flip the sign of each x[s]
    group_test      groups of speakers                             T = |mean of group differences|
                    under H0 speakers of a fold are exchangeable: permute groups within each fold

p-values are those of `evaluation.permutation`; intervals are Student's t over speakers.
"""

import math
from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluation.permutation import (
    SAME,
    all_differences,
    all_sums,
    permutation_p_value,
    random_differences,
    random_sums,
    squared_means,
)
from evaluation.significance import MIN_UNITS
from gates.results import TestResult

MAX_EXACT = 50_000  # permutations up to which all are made; beyond, random ones
N_DRAWS = 10_000  # random permutations
UNEVEN = 2.0  # ratio of utterances between two classes above which variances are adjusted


def t_interval(values: NDArray, level: float = 0.95) -> list[float] | None:
    """Return Student's t interval of the mean, None below 3 values or where all are equal: (S,).

    Two values leave one degree of freedom, t = 12.7, which says nothing.

    >>> [round(end, 3) for end in t_interval(np.array([1.0, 2.0, 3.0]))]
    [-0.484, 4.484]
    """
    if len(values) < MIN_UNITS:
        return None
    return _student(values, float(np.std(values, ddof=1)), len(values) - 1, level)


def _student(values: NDArray, spread: float, free: int, level: float) -> list[float] | None:
    """Return mean +- t[free] spread / sqrt(S), None where there is no spread."""
    if spread < SAME:
        return None
    reach = float(stats.t.ppf((1 + level) / 2, free)) * spread / math.sqrt(len(values))
    mean = float(values.mean())
    return [mean - reach, mean + reach]


def speaker_means(values: NDArray, speakers: NDArray, groups: NDArray, n_groups: int) -> NDArray:
    """Return each speaker's mean in each group, NaN where it has no utterance: (N,) x 3 -> (S, G).

    Args:
        values: Gate of each utterance.
        speakers: Speaker of each utterance; rows of the result are sorted by speaker.
        groups: Group of each utterance, in 0..G-1.
        n_groups: Number of groups, G.
    """
    place = np.unique(speakers, return_inverse=True)[1]
    count = speaker_counts(speakers, groups, n_groups)
    total = np.zeros(count.shape)
    np.add.at(total, (place, groups), values)
    with np.errstate(invalid="ignore"):
        return total / count


def speaker_counts(speakers: NDArray, groups: NDArray, n_groups: int) -> NDArray:
    """Return how many utterances each speaker has in each group: (N,), (N,) -> (S, G)."""
    place = np.unique(speakers, return_inverse=True)[1]
    count = np.zeros((int(place.max()) + 1, n_groups))
    np.add.at(count, (place, groups), 1)
    return count


def within_interval(values: NDArray, blocks: NDArray, level: float = 0.95) -> list[float] | None:
    """Return the interval of the mean over speakers, given the folds' models: (S,), (S,).

    Student's t with the variance within folds alone, since folds differ by their models. Where
    each fold tests one speaker, models and speakers cannot be separated and the interval covers
    both.

    Args:
        values: Mean of each speaker.
        blocks: Fold of each speaker.
        level: Coverage.
    """
    names, place = np.unique(blocks, return_inverse=True)
    free = len(values) - len(names)
    if free == 0 or len(values) < MIN_UNITS:
        return t_interval(values, level)
    means = np.bincount(place, values) / np.bincount(place)
    spread = math.sqrt(float(((values - means[place]) ** 2).sum()) / free)
    return _student(values, spread, free, level)


def deviations(cells: NDArray) -> NDArray:
    """Return class means as deviations from the speaker's mean over its classes: (S, K) -> (U, K).

    Speakers with fewer than two classes are left out.
    """
    kept = cells[(~np.isnan(cells)).sum(1) > 1]
    return kept - np.nanmean(kept, axis=1, keepdims=True) if len(kept) else kept


def class_intervals(cells: NDArray) -> list[tuple[float, list[float] | None, int] | None]:
    """Return mean deviation, interval and number of speakers of each class, None if 0: (S, K)."""
    columns = [column[~np.isnan(column)] for column in deviations(cells).T]
    return [(float(c.mean()), t_interval(c), len(c)) if len(c) else None for c in columns]


def class_test(
    cells: NDArray, counts: NDArray | None = None, n_draws: int = N_DRAWS, seed: int = 0
) -> TestResult | None:
    """Test whether the gate differs between classes, permuting classes within each speaker.

    The statistic is the sum over classes of the squared mean deviation; the value returned is the
    root of its mean over classes. Means of few utterances vary more than means of many: where some
    class has over `UNEVEN` times as many utterances as another, each square is divided by the
    variance of its class over speakers. Missing cells stay missing. Where none is missing, the
    first speaker keeps its order, since permuting all speakers alike changes nothing.

    Args:
        cells: (S, K) from `speaker_means`.
        counts: (S, K) number of utterances in each cell; None means equal numbers.
        n_draws: Number of random permutations where there are more than `MAX_EXACT`.
        seed: Seed of the random permutations.

    Returns:
        The test, or None where no speaker has two classes.

    Source:
        Good 2005, permutation within blocks; Phipson & Smyth 2010 for the p of random ones;
        Janssen 1997 for dividing by the variance where it differs.
    """
    values = deviations(cells)
    values = values[:, ~np.isnan(values).all(0)]  # (U, K)
    if not values.size:
        return None
    present = ~np.isnan(values)
    n_of_class = present.sum(0)  # (K,)
    uneven = _is_uneven(counts) and n_of_class.min() > 1

    def statistic(sums: NDArray) -> NDArray:
        means = sums[..., 0] / n_of_class  # (..., K)
        if not uneven:
            return (means**2).sum(-1)
        spread = (sums[..., 1] - n_of_class * means**2) / (n_of_class - 1)
        return (means**2 / spread.clip(min=SAME)).sum(-1)

    whole = np.stack([np.nansum(values, axis=0), np.nansum(values**2, axis=0)], -1)  # (K, 2)
    fixed = bool(present.all())
    exact = math.prod(math.factorial(int(m)) for m in present.sum(1)[fixed:]) <= MAX_EXACT
    sums = all_sums(values, fixed) if exact else random_sums(values, n_draws, seed)
    p, smallest = permutation_p_value(statistic(sums), float(statistic(whole)), exact)
    estimate = math.sqrt(float(((whole[:, 0] / n_of_class) ** 2).mean()))
    return TestResult(estimate, None, p, smallest, len(values), exact)


def unit_test(
    blocks: Sequence[NDArray],
    counts: Sequence[NDArray] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> TestResult | None:
    """Test whether a gate's units differ between classes, also where their mean does not.

    As `class_test`, with the same permutation for all units of a speaker. Units of different models
    are different units, so only speakers of the same fold are averaged. The value returned is the
    root mean square over units and classes of the mean deviation. A fold has too few speakers to
    estimate variances: where classes are uneven (`UNEVEN`), deviations from the mean of all
    utterances are multiplied by the root of the cell's number of utterances, which gives all cells
    the same variance.

    Args:
        blocks: For each fold (S, K, D): unit means by speaker and class, the units of all seeds
            side by side. A speaker without some class of the fold is left out.
        counts: For each fold (S, K): number of utterances in each cell; None means equal numbers.
        n_draws: Number of random permutations where there are more than `MAX_EXACT`.
        seed: Seed of the random permutations.

    Returns:
        The test, or None where no fold has two speakers.
    """
    weights: Sequence[NDArray | None] = [None] * len(blocks) if counts is None else counts
    pairs = [_complete(*pair) for pair in zip(blocks, weights, strict=True)]
    pairs = [(values, plain) for values, plain in pairs if len(values) > 1]
    if not pairs:
        return None
    kept = [values for values, _ in pairs]
    ways = [math.factorial(v.shape[1]) ** (len(v) - 1) for v in kept]
    exact = math.prod(ways) <= MAX_EXACT
    rng = np.random.default_rng(seed)
    statistics = np.zeros(1 if exact else n_draws)
    observed, size, n = 0.0, 0.0, 0
    for values, plain in pairs:
        n_speakers, n_classes, n_units = values.shape
        if exact:
            rest = product(permutations(range(n_classes)), repeat=n_speakers - 1)
            orders = np.array([[tuple(range(n_classes)), *others] for others in rest])
        else:
            unmoved = np.tile(np.arange(n_classes), (n_draws, n_speakers, 1))
            orders = rng.permuted(unmoved, axis=2)  # (M, S, K)
        sizes = squared_means(values, orders)
        statistics = (statistics[:, None] + sizes).reshape(-1) if exact else statistics + sizes
        observed += float((values.mean(0) ** 2).sum())
        size += float((plain.mean(0) ** 2).sum())
        n += n_classes * n_units
    p, smallest = permutation_p_value(statistics, observed, exact)
    return TestResult(math.sqrt(size / n), None, p, smallest, sum(map(len, kept)), exact)


def sign_flip_test(
    values: NDArray, most: float = math.inf, n_draws: int = N_DRAWS, seed: int = 0
) -> TestResult | None:
    """Test whether the mean of the speakers' values is 0, flipping the sign of each: (S,).

    Args:
        values: A difference or correlation for each speaker.
        most: The interval is clipped to -most..most; 1 for correlations.
        n_draws: Number of random sign patterns where there are more than `MAX_EXACT`.
        seed: Seed of the random sign patterns.

    Returns:
        The test, or None without speakers.
    """
    n = len(values)
    if n == 0:
        return None
    exact = 2 ** (n - 1) <= MAX_EXACT
    if exact:  # the last keeps its sign: flipping all the others instead gives the same |mean|
        flipped = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    else:
        flipped = np.random.default_rng(seed).integers(0, 2, (n_draws, n))
    means = np.abs(((1 - 2 * flipped) * values).mean(1))  # (M,)
    estimate = float(values.mean())
    p, smallest = permutation_p_value(means, abs(estimate), exact)
    ends = t_interval(values)
    interval = None if ends is None else [max(ends[0], -most), min(ends[1], most)]
    return TestResult(estimate, interval, p, smallest, n, exact)


def group_test(
    means: NDArray, first: NDArray, blocks: NDArray, n_draws: int = N_DRAWS, seed: int = 0
) -> TestResult | None:
    """Test whether two groups of speakers differ, permuting group labels within blocks.

    The value returned is the mean over blocks of the difference between the groups; blocks with one
    group are left out. The interval is Student's t over blocks, or Welch's over speakers where
    there is one block.

    Args:
        means: (S,) mean gate of each speaker.
        first: (S,) True for speakers of the first group.
        blocks: (S,) fold of each speaker, that is, which model its gates come from.
        n_draws: Number of random permutations where there are more than `MAX_EXACT`.
        seed: Seed of the random permutations.

    Returns:
        The test, or None where no block has both groups.
    """
    parts = [(means[blocks == b], first[blocks == b]) for b in np.unique(blocks)]
    parts = [(values, is_first) for values, is_first in parts if 0 < is_first.sum() < len(values)]
    if not parts:
        return None
    differences = np.array([float(v[f].mean() - v[~f].mean()) for v, f in parts])  # (blocks,)
    estimate = float(differences.mean())
    ways = [math.comb(len(f), int(f.sum())) for _, f in parts]
    total = math.prod(ways)
    exact = total <= MAX_EXACT
    rng = np.random.default_rng(seed)
    sums = np.zeros(1 if exact else n_draws)
    for values, is_first in parts:
        if exact:
            every = np.array(list(all_differences(values, int(is_first.sum()))))
            sums = (sums[:, None] + every).reshape(-1)
        else:
            sums = sums + random_differences(values, int(is_first.sum()), n_draws, rng)
    p, smallest = permutation_p_value(np.abs(sums / len(parts)), abs(estimate), exact)
    interval = t_interval(differences) if len(parts) > 1 else _welch(*parts[0])
    return TestResult(estimate, interval, p, smallest, sum(len(v) for v, _ in parts), exact)


def _is_uneven(counts: NDArray | None) -> bool:
    """Return whether one class has many more utterances than another; empty ones do not count."""
    if counts is None or not len(per_class := counts.sum(0)[counts.sum(0) > 0]):
        return False
    return bool(per_class.max() > UNEVEN * per_class.min())


def _complete(block: NDArray, counts: NDArray | None) -> tuple[NDArray, NDArray]:
    """Return deviations from each speaker's mean over classes, weighted and plain, without gaps."""
    classes = ~np.isnan(block).any(2).all(0)  # classes that the fold has
    speakers = ~np.isnan(block[:, classes]).any((1, 2))
    values = block[speakers][:, classes]  # (S, K, D)
    if not values.size:
        return values[:0], values[:0]
    plain = values - values.mean(1, keepdims=True)
    if counts is None or not _is_uneven(own := counts[speakers][:, classes]):
        return plain, plain
    share = (own / own.sum(1, keepdims=True))[..., None]  # (S, K, 1)
    middle = (share * values).sum(1, keepdims=True)
    return np.sqrt(share.shape[1] * share) * (values - middle), plain


def _welch(values: NDArray, first: NDArray) -> list[float] | None:
    groups: Sequence[NDArray] = (values[first], values[~first])
    if min(map(len, groups)) < 2 or max(float(np.std(g)) for g in groups) < SAME:
        return None
    ends = stats.ttest_ind(*groups, equal_var=False).confidence_interval()
    return [float(ends.low), float(ends.high)]
