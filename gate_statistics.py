"""Does a gate differ between groups beyond chance? All said here counts a speaker once.

Gates are per clip, (N,), 1 = CQT, 0 = Mel. Clips of one speaker are alike, and so are all clips of
one fold, whose model has a gate of its own: so a speaker is compared with itself wherever that can
be, and labels are exchanged within a speaker or within a fold.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MAX_EXACT = 50_000  # exchanges that are all made; beyond, random ones
N_DRAWS = 10_000  # random exchanges
SAME = 1e-12  # gates closer than this are equal but for rounding


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
    shape = (int(place.max()) + 1, n_groups)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (place, groups), values)
    np.add.at(count, (place, groups), 1)
    with np.errstate(invalid="ignore"):
        return total / count


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


def class_test(cells: NDArray, n_draws: int = N_DRAWS, seed: int = 0) -> Finding | None:
    """Test whether the gate differs between classes, permuting them within each speaker.

    If it does not, a speaker's class means may as well have come in any other order. The statistic
    is the sum over classes of the squared mean deviation; the estimate is the root of its mean over
    classes. What is missing stays missing. Where no cell is, the first speaker keeps its order:
    permuting all alike changes nothing.

    Args:
        cells: (S, K) from `speaker_means`.
        n_draws: Random permutations where there are more than `MAX_EXACT`.
        seed: Of them.

    Returns:
        None where no speaker has two classes.

    Source:
        Good 2005, permutation within blocks; Phipson & Smyth 2010 for the p of random ones.
    """
    values = deviations(cells)
    values = values[:, ~np.isnan(values).all(0)]  # (U, K)
    if not values.size:
        return None
    present = ~np.isnan(values)
    n_of_class = present.sum(0)  # (K,)

    def statistic(sums: NDArray) -> NDArray:
        return ((sums / n_of_class) ** 2).sum(-1)

    observed = float(statistic(np.nansum(values, axis=0)))
    fixed = bool(present.all())
    exact = math.prod(math.factorial(int(m)) for m in present.sum(1)[fixed:]) <= MAX_EXACT
    sums = _all_sums(values, fixed) if exact else _drawn_sums(values, n_draws, seed)
    p, smallest = _p(statistic(sums), observed, exact)
    return Finding(math.sqrt(observed / values.shape[1]), None, p, smallest, len(values), exact)


def unit_test(blocks: Sequence[NDArray], n_draws: int = N_DRAWS, seed: int = 0) -> Finding | None:
    """Test whether a gate's units differ between classes, also where their mean does not.

    As `class_test`, with the same permutation for all units of a speaker. Units of two models are
    two units, so a speaker can only confirm another one of its own fold. The estimate is the root
    mean square over units and classes of the mean deviation.

    Args:
        blocks: For each fold (S, K, D): means of its units, those of all seeds side by side, by
            speaker and class. A speaker without some class of the fold is left out.
        n_draws: Random permutations where there are more than `MAX_EXACT`.
        seed: Of them.

    Returns:
        None where no fold has two speakers.
    """
    kept = [values for block in blocks if len(values := _complete(block)) > 1]
    if not kept:
        return None
    ways = [math.factorial(v.shape[1]) ** (len(v) - 1) for v in kept]
    exact = math.prod(ways) <= MAX_EXACT
    draw = np.random.default_rng(seed)
    found = np.zeros(1 if exact else n_draws)
    observed, n = 0.0, 0
    for values in kept:
        n_speakers, n_classes, n_units = values.shape
        if exact:
            rest = product(permutations(range(n_classes)), repeat=n_speakers - 1)
            orders = np.array([[tuple(range(n_classes)), *others] for others in rest])
        else:
            plain = np.tile(np.arange(n_classes), (n_draws, n_speakers, 1))
            orders = draw.permuted(plain, axis=2)  # (orders, S, K)
        sizes = _squared_means(values, orders)
        found = (found[:, None] + sizes).reshape(-1) if exact else found + sizes
        observed += float((values.mean(0) ** 2).sum())
        n += n_classes * n_units
    p, smallest = _p(found, observed, exact)
    return Finding(math.sqrt(observed / n), None, p, smallest, sum(map(len, kept)), exact)


def sign_flip_test(values: NDArray, n_draws: int = N_DRAWS, seed: int = 0) -> Finding | None:
    """Test whether speakers' own differences are 0 on average, turning their signs: (S,).

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
    p, smallest = _p(means, abs(estimate), exact)
    return Finding(estimate, t_interval(values), p, smallest, n, exact)


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
            found = np.array(list(_exchanged(values, int(is_first.sum()))))
            sums = (sums[:, None] + found).reshape(-1)
        else:
            sums = sums + _drawn(values, int(is_first.sum()), n_draws, draw)
    p, smallest = _p(np.abs(sums / len(parts)), abs(estimate), exact)
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


def _p(found: NDArray, observed: float, exact: bool) -> tuple[float, float]:
    """Return p and the least p possible, by exchanges (all of them, or drawn)."""

    def as_large(size: float) -> int:
        return int((found >= size - max(1e-9 * size, SAME**2)).sum())

    if exact:
        return as_large(observed) / len(found), as_large(float(found.max())) / len(found)
    return (1 + as_large(observed)) / (1 + len(found)), 1 / (1 + len(found))


def _complete(block: NDArray) -> NDArray:
    """Return deviations from each speaker's mean over classes, without missing cells."""
    values = block[:, ~np.isnan(block).any(2).all(0)]  # classes that the fold has
    values = values[~np.isnan(values).any((1, 2))]
    return values - values.mean(1, keepdims=True) if values.size else values[:0]


def _squared_means(values: NDArray, orders: NDArray) -> NDArray:
    """Return the sum of squares of the mean over speakers: (S, K, D), (O, S, K) -> (O,).

    By inner products, so that the units are multiplied once and not for each order.
    """
    n_speakers = len(values)
    products = np.einsum("skd,tld->stkl", values, values)
    total = np.zeros(len(orders))
    for s in range(n_speakers):
        for t in range(n_speakers):
            total += products[s, t][orders[:, s], orders[:, t]].sum(1)
    return total / n_speakers**2


def _all_sums(values: NDArray, fixed: bool) -> NDArray:
    """Return the sums over speakers for all orders of their own values: (U, K) -> (orders, K)."""
    sums = np.zeros((1, values.shape[1]))
    for place, row in enumerate(values):
        present = ~np.isnan(row)
        own = row[present]
        orders = [own] if fixed and place == 0 else list(permutations(own))
        filled = np.zeros((len(orders), len(row)))
        filled[:, present] = orders
        sums = (sums[:, None] + filled).reshape(-1, len(row))
    return sums


def _drawn_sums(values: NDArray, n_draws: int, seed: int) -> NDArray:
    draw = np.random.default_rng(seed)
    sums = np.zeros((n_draws, values.shape[1]))
    for row in values:
        present = ~np.isnan(row)
        sums[:, present] += draw.permuted(np.tile(row[present], (n_draws, 1)), axis=1)
    return sums


def _exchanged(values: NDArray, n_first: int) -> Iterator[float]:
    """Yield the difference of the groups for each choice of the first."""
    rest, whole = len(values) - n_first, float(values.sum())
    for chosen in combinations(values.tolist(), n_first):
        yield sum(chosen) / n_first - (whole - sum(chosen)) / rest


def _drawn(values: NDArray, n_first: int, n_draws: int, draw: np.random.Generator) -> NDArray:
    mixed = draw.permuted(np.tile(values, (n_draws, 1)), axis=1)
    return mixed[:, :n_first].mean(1) - mixed[:, n_first:].mean(1)


def _welch(values: NDArray, first: NDArray) -> list[float] | None:
    groups: Sequence[NDArray] = (values[first], values[~first])
    if min(map(len, groups)) < 2 or max(float(np.std(g)) for g in groups) < SAME:
        return None
    ends = stats.ttest_ind(*groups, equal_var=False).confidence_interval()
    return [float(ends.low), float(ends.high)]
