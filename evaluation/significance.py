"""How uncertain is a score? Speakers are the units. Tests of two runs: `paired_tests`.

Utterances of one speaker resemble each other, so they are not independent; speakers are. Let
c[r, s] be the K x K confusion counts of seed r and speaker s (rows: targets), f a score in 0..1 of
a confusion matrix, and theta = mean over r of f(sum over s of c[r, s]) the score of the run.

Interval (`speaker_interval`). Each of B bootstrap samples takes S of the S speakers with
replacement: speaker s is taken w[s] times, theta* = mean over r of f(sum over s of w[s] c[r, s]).
For a mean, the variance of theta* has divisor S where an unbiased one has S - 1, so the standard
error is se = sd(theta*) sqrt(S / (S - 1)). To stay within 0..1 the interval is made on the logit
scale, l = log(theta / (1 - theta)), where by the delta method se_l = se / (theta (1 - theta)), and
taken back: expit(l +- t[S - 1, 0.975] se_l). A difference, in -1..1, is mapped to 0..1 first. Two
speakers leave one degree of freedom, t = 12.7, which says nothing: no interval below `MIN_UNITS`.

Several tests (`holm`). The p-values are sorted, p_(1) <= ... <= p_(m), and adjusted to
max over j <= i of (m - j + 1) p_(j). Rejecting where this is at most alpha keeps the probability of
any false rejection below alpha.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from evaluation.metrics import speaker_confusions as speaker_confusions
from evaluation.scale import FRACTION as FRACTION
from evaluation.scale import Scale as Scale
from evaluation.scale import Score as Score
from evaluation.scale import of_classes

MIN_UNITS = 3  # speakers or folds, below which there is no t interval and no standardised effect
SAME = 1e-12  # values closer than this differ by rounding alone
MAX_NUMBERS = 2**23  # confusion counts held at once while scoring draws, 64 MB


class McNemar(NamedTuple):
    """The result of `mcnemar`.

    Attributes:
        only_a: Utterances that only a has right.
        only_b: Utterances that only b has right.
        p: Two-sided exact p-value.
        g: Cohen's g, only_a / (only_a + only_b) - 1/2: positive where a is better; None where both
            are 0.
    """

    only_a: int
    only_b: int
    p: float
    g: float | None


def pool_folds(parts: Sequence[tuple[int, Sequence[str], NDArray]]) -> NDArray:
    """Add up the counts of folds by seed and speaker: (R, S, K, K), speakers sorted.

    Args:
        parts: Seed, names of speakers and their counts (S', K, K) of each fold and seed.
    """
    seeds = sorted({seed for seed, _, _ in parts})
    names = sorted({name for _, speakers, _ in parts for name in speakers})
    shape = parts[0][2].shape[1:]
    counts = np.zeros((len(seeds), len(names), *shape), dtype=parts[0][2].dtype)
    for seed, speakers, part in parts:
        counts[seeds.index(seed), [names.index(speaker) for speaker in speakers]] += part
    return counts


def speaker_interval(
    counts: NDArray,
    score: Score,
    n_draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    scale: Scale = FRACTION,
) -> list[float] | None:
    """Return the interval [low, high] of the mean score over seeds, None if speakers do not vary.

    The interval is about other speakers, given these trained weights: it does not cover the
    variation between trainings. Fewer than `MIN_UNITS` speakers have none. A bootstrap sample
    without utterances of a class leaves this class out, as the score does.

    Args:
        counts: (R, S, K, K) confusion counts; every seed tested the same utterances.
        score: Score of a confusion matrix, see `metrics.SCORES`.
        n_draws: Number of bootstrap samples B.
        level: Nominal coverage.
        seed: Seed of the bootstrap.
        scale: Range of the score.

    Raises:
        ValueError: Wrong shape, seeds that tested other utterances, or a speaker without any.

    Source:
        Hesterberg 2015, "What Teachers Should Know About the Bootstrap": t interval with bootstrap
        standard error. His expanded percentile interval ends at the worst and the best speaker,
        which is too narrow for four speakers; the tests measure both. The logit scale is added
        here.
    """
    check_counts(counts, scale)
    n_speakers = counts.shape[1]
    if n_speakers < MIN_UNITS:
        return None
    point = float(np.mean(score(counts.sum(1))))
    draws = mean_scores(resamples(n_speakers, n_draws, seed), counts, score)  # (B,), theta*
    se = standard_error(draws, n_speakers)
    return t_interval(point, se, n_speakers, level, scale.least, scale.most)


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> McNemar:
    """Test whether two runs have equally many utterances right: (N,), (N,), True where right.

    It assumes independent utterances, which those of one speaker are not: where errors cluster by
    speaker its p is too small. It is here because papers report it; rely on `paired_tests`.

    Raises:
        ValueError: No utterances, lengths differ, or a value is neither true nor false.

    Source:
        McNemar 1947, as the exact binomial test; Cohen 1988 for g.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [True])
    McNemar(only_a=6, only_b=1, p=0.125, g=0.3571428571428571)
    """
    a, b = np.asarray(right_a), np.asarray(right_b)
    if a.size == 0 or a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"need two rows of equal length, not empty, got {a.shape}, {b.shape}")
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError("right_a and right_b must hold True or False for each utterance")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    discordant = only_a + only_b
    if discordant == 0:
        return McNemar(0, 0, 1.0, None)
    p = float(stats.binomtest(only_a, discordant, 0.5).pvalue)
    return McNemar(only_a, only_b, p, only_a / discordant - 0.5)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the given order, at most 1.

    Raises:
        ValueError: A p-value is missing or outside 0..1.

    Source:
        Holm 1979, step-down.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    if any(p is None or not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be in 0..1, got {list(p_values)}")
    p = np.asarray(p_values, dtype=float)  # (M,)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0).tolist()


def check_counts(counts: NDArray, scale: Scale = FRACTION) -> None:
    """Refuse counts that are not of seeds with the same utterances: (R, S, K, K) or (R, S, A, B).

    Raises:
        ValueError: See above.
    """
    square = scale.support is not of_classes or counts.shape[2:3] == counts.shape[3:]
    if counts.ndim != 4 or not square or 0 in counts.shape:
        raise ValueError(f"counts must be (seeds, speakers, classes, classes), got {counts.shape}")
    support = scale.support(counts)  # (R, S, K)
    if not is_same(support, support[0]):
        raise ValueError("every seed must have tested the same utterances: counts differ")
    if (support[0] == 0).all(-1).any():
        raise ValueError("every speaker needs an utterance at least: leave out those without any")


def is_same(a: NDArray, b: NDArray) -> bool:
    """Return whether counts are equal, or sums but for rounding."""
    return np.allclose(a, b, rtol=1e-9, atol=1e-9)


def resamples(n_units: int, n_draws: int, seed: int) -> NDArray:
    """Return w, how often each unit is in each bootstrap sample: (1, draws, units)."""
    even = np.full(n_units, 1 / n_units)
    return np.random.default_rng(seed).multinomial(n_units, even, size=n_draws)[None]


def mean_scores(
    weights: NDArray, counts: NDArray, score: Score, base: NDArray | None = None
) -> NDArray:
    """Return mean over r of f(base[r] + sum over u of w[r, m, u] c[r, u]): (M,).

    Args:
        weights: (R, M, U), or (1, M, U) where they are the same for every seed.
        counts: (R, U, K, K), or (R, U, A, B) of another task.
        score: Score of such counts.
        base: (R, K, K) counts that every draw has; None means none.
    """
    n_seeds, _, *shape = counts.shape
    n_draws = weights.shape[1]
    total = np.zeros(n_draws)
    step = max(1, MAX_NUMBERS // math.prod(shape))
    for r in range(n_seeds):
        own = weights[r % len(weights)].astype(float)  # (M, U)
        flat = counts[r].reshape(len(counts[r]), -1).astype(float)  # (U, K * K)
        for start in range(0, n_draws, step):
            part = slice(start, start + step)
            pooled = (own[part] @ flat).reshape(-1, *shape)
            total[part] += score(pooled if base is None else base[r] + pooled)
    return total / n_seeds


def standard_error(draws: NDArray, n_units: int) -> float:
    """Return se = sd(theta*) sqrt(U / (U - 1)) of bootstrap draws over U units: (B,)."""
    return float(np.std(draws, ddof=1)) * (n_units / (n_units - 1)) ** 0.5


def t_interval(
    point: float, se: float, n_units: int, level: float, least: float, most: float = 1.0
) -> list[float] | None:
    """Return Student's t interval on the logit scale of `least`..`most` (delta method).

    Without a largest value the scale is that of the logarithm; without a smallest, too, as it is.

    Args:
        point: The estimate.
        se: Its standard error.
        n_units: Number of independent units, whose number less 1 is that of the degrees of freedom.
        level: Nominal coverage.
        least: Smallest value possible: 0 for a score, -1 for a difference.
        most: Largest value possible.

    Returns:
        None for fewer than `MIN_UNITS` units, or if they do not vary: their variation is unknown.
    """
    if n_units < MIN_UNITS or se < SAME:
        return None
    logit, se_logit = on_logit_scale(point, se, least, most)
    reach = stats.t.ppf((1 + level) / 2, n_units - 1) * se_logit
    ends = logit + reach * np.array([-1, 1])
    if math.isinf(most):
        return (ends if math.isinf(least) else least + np.exp(ends)).tolist()
    return (least + (most - least) * special.expit(ends)).tolist()


def on_logit_scale(point: float, se: float, least: float, most: float = 1.0) -> tuple[float, float]:
    """Return an estimate of `least`..`most` and its standard error on the scale of `t_interval`."""
    if math.isinf(most):
        if math.isinf(least):
            return point, se
        return math.log(point - least), se / (point - least)
    span = most - least
    theta = (point - least) / span  # in 0..1
    return float(special.logit(theta)), se / span / (theta * (1 - theta))
