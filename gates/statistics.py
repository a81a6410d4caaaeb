"""Does a gate differ between groups beyond chance? All said here counts a speaker once.

Gates are per clip, (N,), 1 = CQT, 0 = Mel. Clips of one speaker are alike, and so are all clips of
one fold, whose model has a gate of its own: so a speaker is compared with itself wherever that can
be, and labels are exchanged within a speaker or within a fold.
"""

import math
from collections.abc import Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluation.permutation import SAME, all_sums, drawn, drawn_sums, exchanged, p_of, squared_means

MAX_EXACT = 50_000  # exchanges that are all made; beyond, random ones
N_DRAWS = 10_000  # random exchanges
UNEVEN = 2.0  # times as many clips of one class as of another, beyond which their means are unlike


class Finding(NamedTuple):
    """What an exchange of labels or signs found.

    Attributes:
        estimate: What was asked for, in units of the gate (of a correlation: of a correlation).
        interval: 95 % of the estimate, Student's t over speakers; None where there is none.
        p: Two-sided.
        smallest_p: The least p that these speakers' values allow in any order.
        n_speakers: That could be asked.
        exact: Whether all exchanges were made.
    """

    estimate: float
    interval: list[float] | None
    p: float
    smallest_p: float
    n_speakers: int
    exact: bool


def t_interval(values: NDArray, level: float = 0.95) -> list[float] | None:
    """Return Student's t interval of the mean, None for one value or where all are equal: (S,).

    >>> [round(end, 3) for end in t_interval(np.array([1.0, 2.0, 3.0]))]
    [-0.484, 4.484]
    """
    if len(values) < 2 or (spread := float(np.std(values, ddof=1))) < SAME:
        return None
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    middle = float(np.mean(values))
    return [middle - reach, middle + reach]


def speaker_means(values: NDArray, speakers: NDArray, groups: NDArray, n_groups: int) -> NDArray:
    """Return each speaker's mean in each group, NaN where it has no clip: (N,) x 3 -> (S, G).

    Args:
        values: Of the clips.
        speakers: Of the clips; rows are in their sorted order.
        groups: Places in 0..G-1.
        n_groups: G.
    """
    place = np.unique(speakers, return_inverse=True)[1]
    count = speaker_counts(speakers, groups, n_groups)
    total = np.zeros(count.shape)
    np.add.at(total, (place, groups), values)
    with np.errstate(invalid="ignore"):
        return total / count


def speaker_counts(speakers: NDArray, groups: NDArray, n_groups: int) -> NDArray:
    """Return how many clips each speaker has in each group: (N,), (N,) -> (S, G)."""
    place = np.unique(speakers, return_inverse=True)[1]
    count = np.zeros((int(place.max()) + 1, n_groups))
    np.add.at(count, (place, groups), 1)
    return count


def within_interval(values: NDArray, blocks: NDArray, level: float = 0.95) -> list[float] | None:
    """Return the interval of the mean of speakers, given the models of their folds: (S,), (S,).

    Student's t with the variance within folds alone: what sets folds apart is their models. Where
    each fold has one speaker, models and speakers cannot be told apart and both vary in it.
    """
    names, place = np.unique(blocks, return_inverse=True)
    free = len(values) - len(names)
    if free == 0:
        return t_interval(values, level)
    means = np.bincount(place, values) / np.bincount(place)
    spread = math.sqrt(float(((values - means[place]) ** 2).sum()) / free)
    if spread < SAME:
        return None
    reach = float(stats.t.ppf((1 + level) / 2, free)) * spread / math.sqrt(len(values))
    middle = float(values.mean())
    return [middle - reach, middle + reach]


def deviations(cells: NDArray) -> NDArray:
    """Return class means as deviations from the speaker's mean over its classes: (S, K) -> (U, K).

    A speaker with fewer than two classes says nothing and is left out.
    """
    told = cells[(~np.isnan(cells)).sum(1) > 1]
    return told - np.nanmean(told, axis=1, keepdims=True) if len(told) else told


def class_intervals(cells: NDArray) -> list[tuple[float, list[float] | None, int] | None]:
    """Return mean deviation, interval and speakers of each class, None without any: (S, K)."""
    columns = [column[~np.isnan(column)] for column in deviations(cells).T]
    return [(float(c.mean()), t_interval(c), len(c)) if len(c) else None for c in columns]


def class_test(
    cells: NDArray, counts: NDArray | None = None, n_draws: int = N_DRAWS, seed: int = 0
) -> Finding | None:
    """Test whether the gate differs between classes, permuting them within each speaker.

    If it does not, a speaker's class means may as well have come in any other order. The statistic
    is the sum over classes of the squared mean deviation; the estimate is the root of its mean over
    classes. Means of few clips vary more than means of many: where some class has over `UNEVEN`
    times as many clips as another, each square is divided by the variance of its class over
    speakers. What is missing stays missing. Where no cell is, the first speaker keeps its order:
    permuting all alike changes nothing.

    Args:
        cells: (S, K) from `speaker_means`.
        counts: (S, K) clips behind them, from `speaker_counts`; None is equally many.
        n_draws: Random permutations where there are more than `MAX_EXACT`.
        seed: Of them.

    Returns:
        None where no speaker has two classes.

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
    sums = all_sums(values, fixed) if exact else drawn_sums(values, n_draws, seed)
    p, smallest = p_of(statistic(sums), float(statistic(whole)), exact)
    estimate = math.sqrt(float(((whole[:, 0] / n_of_class) ** 2).mean()))
    return Finding(estimate, None, p, smallest, len(values), exact)


def unit_test(
    blocks: Sequence[NDArray],
    counts: Sequence[NDArray] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Finding | None:
    """Test whether a gate's units differ between classes, also where their mean does not.

    As `class_test`, with the same permutation for all units of a speaker. Units of two models are
    two units, so a speaker can only confirm another one of its own fold. The estimate is the root
    mean square over units and classes of the mean deviation. A fold has too few speakers for
    variances of its own: where clips are uneven (`UNEVEN`), deviations from the mean of all clips
    are multiplied by the root of their clips, which makes those of few clips vary as all others.

    Args:
        blocks: For each fold (S, K, D): means of its units, those of all seeds side by side, by
            speaker and class. A speaker without some class of the fold is left out.
        counts: For each fold (S, K): the clips behind them; None is equally many.
        n_draws: Random permutations where there are more than `MAX_EXACT`.
        seed: Of them.

    Returns:
        None where no fold has two speakers.
    """
    weights: Sequence[NDArray | None] = [None] * len(blocks) if counts is None else counts
    pairs = [_complete(*pair) for pair in zip(blocks, weights, strict=True)]
    pairs = [(values, plain) for values, plain in pairs if len(values) > 1]
    if not pairs:
        return None
    kept = [values for values, _ in pairs]
    ways = [math.factorial(v.shape[1]) ** (len(v) - 1) for v in kept]
    exact = math.prod(ways) <= MAX_EXACT
    draw = np.random.default_rng(seed)
    found = np.zeros(1 if exact else n_draws)
    observed, size, n = 0.0, 0.0, 0
    for values, plain in pairs:
        n_speakers, n_classes, n_units = values.shape
        if exact:
            rest = product(permutations(range(n_classes)), repeat=n_speakers - 1)
            orders = np.array([[tuple(range(n_classes)), *others] for others in rest])
        else:
            unmoved = np.tile(np.arange(n_classes), (n_draws, n_speakers, 1))
            orders = draw.permuted(unmoved, axis=2)  # (orders, S, K)
        sizes = squared_means(values, orders)
        found = (found[:, None] + sizes).reshape(-1) if exact else found + sizes
        observed += float((values.mean(0) ** 2).sum())
        size += float((plain.mean(0) ** 2).sum())
        n += n_classes * n_units
    p, smallest = p_of(found, observed, exact)
    return Finding(math.sqrt(size / n), None, p, smallest, sum(map(len, kept)), exact)


def sign_flip_test(
    values: NDArray, most: float = math.inf, n_draws: int = N_DRAWS, seed: int = 0
) -> Finding | None:
    """Test whether speakers' own differences are 0 on average, turning their signs: (S,).

    The interval is cut at `most` and minus that, 1 of correlations.

    Returns:
        None without a speaker.
    """
    n = len(values)
    if n == 0:
        return None
    exact = 2 ** (n - 1) <= MAX_EXACT
    if exact:  # the last keeps its sign: turning all others instead turns that of the sum alone
        turned = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    else:
        turned = np.random.default_rng(seed).integers(0, 2, (n_draws, n))
    means = np.abs(((1 - 2 * turned) * values).mean(1))  # (exchanges,)
    estimate = float(values.mean())
    p, smallest = p_of(means, abs(estimate), exact)
    ends = t_interval(values)
    interval = None if ends is None else [max(ends[0], -most), min(ends[1], most)]
    return Finding(estimate, interval, p, smallest, n, exact)


def group_test(
    means: NDArray, first: NDArray, blocks: NDArray, n_draws: int = N_DRAWS, seed: int = 0
) -> Finding | None:
    """Test whether two groups of speakers differ, exchanging speakers within blocks.

    The estimate is the mean over blocks of the difference of the groups; blocks with one group
    alone say nothing. The interval is Student's t over blocks, or for a single block Welch's over
    speakers.

    Args:
        means: (S,) mean gate of each speaker.
        first: (S,) whether a speaker is of the first group.
        blocks: (S,) fold of each speaker: a block's speakers were judged by one model.
        n_draws: Random exchanges where there are more than `MAX_EXACT`.
        seed: Of them.

    Returns:
        None where no block has both groups.
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
    draw = np.random.default_rng(seed)
    sums = np.zeros(1 if exact else n_draws)
    for values, is_first in parts:
        if exact:
            found = np.array(list(exchanged(values, int(is_first.sum()))))
            sums = (sums[:, None] + found).reshape(-1)
        else:
            sums = sums + drawn(values, int(is_first.sum()), n_draws, draw)
    p, smallest = p_of(np.abs(sums / len(parts)), abs(estimate), exact)
    interval = t_interval(differences) if len(parts) > 1 else _welch(*parts[0])
    return Finding(estimate, interval, p, smallest, sum(len(v) for v, _ in parts), exact)


def rank_correlations(values: NDArray, sizes: NDArray, speakers: NDArray) -> NDArray:
    """Return Spearman's correlation within each speaker that has one: (N,) x 3 -> (U,).

    A speaker with fewer than three clips, or without variation, has none.
    """
    found = []
    for name in np.unique(speakers):
        own = (speakers == name) & ~np.isnan(sizes)
        if own.sum() > 2 and np.ptp(values[own]) > SAME and np.ptp(sizes[own]) > 0:
            found.append(float(stats.spearmanr(values[own], sizes[own]).statistic))
    return np.array(found)


def _is_uneven(counts: NDArray | None) -> bool:
    """Return whether some class has many more clips than another, those without any aside."""
    if counts is None or not len(per_class := counts.sum(0)[counts.sum(0) > 0]):
        return False
    return bool(per_class.max() > UNEVEN * per_class.min())


def _complete(block: NDArray, counts: NDArray | None) -> tuple[NDArray, NDArray]:
    """Return deviations from each speaker's mean over classes, without missing cells.

    Twice: as they are compared, and as they are.
    """
    classes = ~np.isnan(block).any(2).all(0)  # that the fold has
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
