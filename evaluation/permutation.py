"""Permutation tests: the statistic under all or random arrangements, and its p-value.

A hypothesis says that some labels (classes of a speaker, groups of speakers) may be permuted
without changing the distribution of the data. Let T be the statistic of the data as observed and
T_1 .. T_M those of M arrangements, large values speaking against the hypothesis. Then

    all arrangements, the observed one among them:  p = #{T_m >= T} / M
    M random arrangements:                          p = (1 + #{T_m >= T}) / (1 + M)

Both reject with probability at most alpha where the hypothesis holds. The random form counts the
observed arrangement once, so p is never 0. The smallest p possible is what max(T_m) would give:
where it is above alpha, no effect of any size can be significant with so few speakers.

Class means v[s, k] of speakers s are permuted over the classes k within each speaker. Sums over
speakers of v and v^2 are kept for each arrangement, from which means and variances follow.

Source:
    Good 2005, "Permutation, Parametric and Bootstrap Tests of Hypotheses"; Phipson & Smyth 2010
    for the p of random arrangements.
"""

from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

SAME = 1e-12  # values closer than this differ by rounding alone


def permutation_p_value(statistics: NDArray, observed: float, exact: bool) -> tuple[float, float]:
    """Return p and the smallest p possible.

    Args:
        statistics: (M,) T_m of the arrangements.
        observed: T of the data.
        exact: Whether these are all arrangements; otherwise random ones.
    """

    def count_as_large(size: float) -> int:
        return int((statistics >= size - max(1e-9 * size, SAME**2)).sum())

    n = len(statistics)
    if exact:
        return count_as_large(observed) / n, count_as_large(float(statistics.max())) / n
    return (1 + count_as_large(observed)) / (1 + n), 1 / (1 + n)


def squared_means(values: NDArray, orders: NDArray) -> NDArray:
    """Return the sum of squares of the mean over speakers: (S, K, D), (M, S, K) -> (M,).

    By inner products, so that the units are multiplied once and not for each order.
    """
    n_speakers = len(values)
    products = np.einsum("skd,tld->stkl", values, values)
    total = np.zeros(len(orders))
    for s in range(n_speakers):
        for t in range(n_speakers):
            total += products[s, t][orders[:, s], orders[:, t]].sum(1)
    return total / n_speakers**2


def all_sums(values: NDArray, fixed: bool) -> NDArray:
    """Return sums over speakers of v and v^2 in all arrangements: (S, K) -> (M, K, 2).

    Args:
        values: Class means of each speaker; NaN stays where it is.
        fixed: Keep the order of the first speaker.
    """
    sums = np.zeros((1, values.shape[1], 2))
    for place, row in enumerate(values):
        present = ~np.isnan(row)
        own = row[present]
        orders = np.array([own] if fixed and place == 0 else list(permutations(own)))
        filled = np.zeros((len(orders), len(row), 2))
        filled[:, present] = np.stack([orders, orders**2], -1)
        sums = (sums[:, None] + filled).reshape(-1, len(row), 2)
    return sums


def random_sums(values: NDArray, n_draws: int, seed: int) -> NDArray:
    """Return these sums for random arrangements: (S, K) -> (n_draws, K, 2)."""
    rng = np.random.default_rng(seed)
    sums = np.zeros((n_draws, values.shape[1], 2))
    for row in values:
        present = ~np.isnan(row)
        orders = rng.permuted(np.tile(row[present], (n_draws, 1)), axis=1)
        sums[:, present] += np.stack([orders, orders**2], -1)
    return sums


def all_differences(values: NDArray, n_first: int) -> Iterator[float]:
    """Yield mean of the first group minus mean of the second, for each choice of the first."""
    n_second, total = len(values) - n_first, float(values.sum())
    for chosen in combinations(values.tolist(), n_first):
        yield sum(chosen) / n_first - (total - sum(chosen)) / n_second


def random_differences(
    values: NDArray, n_first: int, n_draws: int, rng: np.random.Generator
) -> NDArray:
    """Return these differences for random choices of the first group: (S,) -> (n_draws,)."""
    mixed = rng.permuted(np.tile(values, (n_draws, 1)), axis=1)
    return mixed[:, :n_first].mean(1) - mixed[:, n_first:].mean(1)
