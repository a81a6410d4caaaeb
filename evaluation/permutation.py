"""What tests by exchange have in common: all orders of labels or drawn ones, and their p."""

from collections.abc import Iterator
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

SAME = 1e-12  # values closer than this are equal but for rounding


def p_of(found: NDArray, observed: float, exact: bool) -> tuple[float, float]:
    """Return p and the least p possible, by exchanges (all of them, or drawn)."""

    def as_large(size: float) -> int:
        return int((found >= size - max(1e-9 * size, SAME**2)).sum())

    if exact:
        return as_large(observed) / len(found), as_large(float(found.max())) / len(found)
    return (1 + as_large(observed)) / (1 + len(found)), 1 / (1 + len(found))


def squared_means(values: NDArray, orders: NDArray) -> NDArray:
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


def all_sums(values: NDArray, fixed: bool) -> NDArray:
    """Return sums over speakers, of values and squares, in all orders: (U, K) -> (orders, K, 2)."""
    sums = np.zeros((1, values.shape[1], 2))
    for place, row in enumerate(values):
        present = ~np.isnan(row)
        own = row[present]
        orders = np.array([own] if fixed and place == 0 else list(permutations(own)))
        filled = np.zeros((len(orders), len(row), 2))
        filled[:, present] = np.stack([orders, orders**2], -1)
        sums = (sums[:, None] + filled).reshape(-1, len(row), 2)
    return sums


def drawn_sums(values: NDArray, n_draws: int, seed: int) -> NDArray:
    """Return the same for drawn orders: (U, K) -> (draws, K, 2)."""
    draw = np.random.default_rng(seed)
    sums = np.zeros((n_draws, values.shape[1], 2))
    for row in values:
        present = ~np.isnan(row)
        orders = draw.permuted(np.tile(row[present], (n_draws, 1)), axis=1)
        sums[:, present] += np.stack([orders, orders**2], -1)
    return sums


def exchanged(values: NDArray, n_first: int) -> Iterator[float]:
    """Yield the difference of the groups for each choice of the first."""
    rest, whole = len(values) - n_first, float(values.sum())
    for chosen in combinations(values.tolist(), n_first):
        yield sum(chosen) / n_first - (whole - sum(chosen)) / rest


def drawn(values: NDArray, n_first: int, n_draws: int, draw: np.random.Generator) -> NDArray:
    """Return the difference of the groups for drawn choices of the first: (S,) -> (draws,)."""
    mixed = draw.permuted(np.tile(values, (n_draws, 1)), axis=1)
    return mixed[:, :n_first].mean(1) - mixed[:, n_first:].mean(1)
