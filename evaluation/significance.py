"""How uncertain is a score, and do two runs differ? Speakers are the units of all statistics.

Utterances of one speaker resemble each other, so they are not independent; speakers are. Let
c[r, s] be the K x K confusion counts of seed r and speaker s (rows: targets), f a score in 0..1 of
a confusion matrix, and theta = mean over r of f(sum over s of c[r, s]) the score of the run.

Interval (`speaker_interval`). Each of B bootstrap samples takes S of the S speakers with
replacement: speaker s is taken w[s] times, theta* = mean over r of f(sum over s of w[s] c[r, s]).
For a mean, the variance of theta* has divisor S where an unbiased one has S - 1, so the standard
error is se = sd(theta*) sqrt(S / (S - 1)). To stay within 0..1 the interval is made on the logit
scale, l = log(theta / (1 - theta)), where by the delta method se_l = se / (theta (1 - theta)), and
taken back: expit(l +- t[S - 1, 0.975] se_l). A difference, in -1..1, is mapped to 0..1 first.

Paired test (`paired_test`). Runs a and b tested the same utterances, d = theta_a - theta_b. If they
do not differ, (c_a[s], c_b[s]) and (c_b[s], c_a[s]) are equally likely for every speaker, so
swapping those of any subset of speakers gives a d' as likely as d. p is the share of subsets with
|d'| >= |d|. All swapped is none swapped with the sign changed, so 2^(S - 1) subsets are distinct,
and no p is below 2^-(S - 1). Beyond `MAX_EXACT` speakers M random subsets: p = (1 + #) / (1 + M).

Several tests (`holm`). The p-values are sorted, p_(1) <= ... <= p_(m), and adjusted to
max over j <= i of (m - j + 1) p_(j). Rejecting where this is at most alpha keeps the probability of
any false rejection below alpha.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from evaluation.metrics import confusion_matrix

Score = Callable[[NDArray], NDArray]  # (..., K, K) -> (...), within 0..1, see metrics.SCORES

MAX_EXACT = 13  # speakers: 4096 distinct swaps, still fewer than the random ones
SAME = 1e-12  # values closer than this differ by rounding alone


class PairedTest(NamedTuple):
    """The result of `paired_test`.

    Attributes:
        difference: Score of a minus score of b, each the mean over its seeds.
        p: Two-sided p-value.
        smallest_p: Smallest p possible with so many speakers and draws; if it is above the level of
            the test, no difference can be significant.
        n_speakers: Number of speakers, S.
        interval: 95 % interval of the difference; None for one speaker.
        d_z: Cohen's d_z, the mean of the speakers' own differences over their standard deviation
            (n - 1); None for one speaker or where all differ equally.
    """

    difference: float
    p: float
    smallest_p: float
    n_speakers: int
    interval: list[float] | None
    d_z: float | None


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


def speaker_confusions(
    targets: Sequence[int], preds: Sequence[int], speakers: Sequence[str], n_classes: int
) -> tuple[NDArray, NDArray]:
    """Count utterances by speaker: (N,), (N,), (N,) -> sorted names (S,), counts (S, K, K).

    Raises:
        ValueError: No utterances, lengths differ, or a class is outside 0..K-1.
    """
    target, pred, speaker = np.asarray(targets), np.asarray(preds), np.asarray(speakers)
    if len(target) == 0 or not target.shape == pred.shape == speaker.shape:
        raise ValueError(
            "need one prediction and one speaker for each utterance, and an utterance, got "
            f"{len(pred)} and {len(speaker)} for {len(target)}"
        )
    names = np.unique(speaker)
    counts = [confusion_matrix(target[speaker == s], pred[speaker == s], n_classes) for s in names]
    return names, np.stack(counts)


def pool_folds(parts: Sequence[tuple[int, Sequence[str], NDArray]]) -> NDArray:
    """Add up the counts of folds by seed and speaker: (R, S, K, K), speakers sorted.

    Args:
        parts: Seed, names of speakers and their counts (S', K, K) of each fold and seed.
    """
    seeds = sorted({seed for seed, _, _ in parts})
    names = sorted({name for _, speakers, _ in parts for name in speakers})
    n_classes = parts[0][2].shape[-1]
    counts = np.zeros((len(seeds), len(names), n_classes, n_classes), dtype=np.int64)
    for seed, speakers, part in parts:
        counts[seeds.index(seed), [names.index(speaker) for speaker in speakers]] += part
    return counts


def speaker_interval(
    counts: NDArray, score: Score, n_draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """Return the interval [low, high] of the mean score over seeds, None if speakers do not vary.

    The interval is about other speakers, given these trained models: it does not cover the
    variation between seeds. A bootstrap sample without utterances of a class leaves this class out,
    as the score does.

    Args:
        counts: (R, S, K, K) confusion counts; every seed tested the same utterances.
        score: Score of a confusion matrix, see `metrics.SCORES`.
        n_draws: Number of bootstrap samples B.
        level: Nominal coverage.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Wrong shape, seeds that tested other utterances, or a speaker without any.

    Source:
        Hesterberg 2015, "What Teachers Should Know About the Bootstrap": t interval with bootstrap
        standard error. His expanded percentile interval ends at the worst and the best speaker,
        which is too narrow for four speakers; the tests measure both. The logit scale is added
        here.
    """
    _check(counts)
    n_speakers = counts.shape[1]
    point = _mean_score(counts.sum(1), score)
    draws = _mean_score(_pool(_resamples(n_speakers, n_draws, seed), counts), score)  # (B,), theta*
    return _t_interval(float(point), draws, n_speakers, level, least=0.0)


def paired_test(
    a: NDArray, b: NDArray, score: Score, n_draws: int = 10_000, seed: int = 0
) -> PairedTest:
    """Test whether two runs on the same utterances score alike: a permutation test over speakers.

    Under the null hypothesis a speaker's predictions may as well have come from the other run, so a
    and b swap their predictions for whole speakers: all seeds together, the first seed of a with
    the first of b and so on.

    Args:
        a: Confusion counts (R, S, K, K) of one run.
        b: Confusion counts (R, S, K, K) of the other; seeds and speakers in the same order.
        score: Score of a confusion matrix, see `metrics.SCORES`.
        n_draws: Number of random swaps M beyond `MAX_EXACT` speakers, and of bootstrap samples B.
        seed: Seed of both.

    Raises:
        ValueError: Shapes differ, or a speaker's number of utterances of a class; see also
            `speaker_interval`.

    Source:
        Good 2005, permutation of matched pairs with clusters as units; Phipson & Smyth 2010 for
        the p of random permutations; Lakens 2013 for d_z.
    """
    _check(a)
    _check(b)
    if a.shape != b.shape:
        raise ValueError(
            "a and b need the same seeds, speakers and classes (R, S, K, K), "
            f"got {a.shape} and {b.shape}: keep the seeds and folds that both have"
        )
    if (a[0].sum(-1) != b[0].sum(-1)).any():
        raise ValueError(
            "a and b need the same utterances, but speakers' counts of the classes differ: "
            "compare runs of one protocol on the same folds, speakers in the same order"
        )
    n_speakers = a.shape[1]
    difference = float(_difference(a.sum(1), b.sum(1), score))
    p, smallest_p = _permutation_p(a, b, score, abs(difference), n_draws, seed)
    w = _resamples(n_speakers, n_draws, seed)  # (B, S)
    draws = _difference(_pool(w, a), _pool(w, b), score)  # (B,), theta*
    interval = _t_interval(difference, draws, n_speakers, 0.95, least=-1.0)
    d_z = _standardised(_difference(a, b, score))
    return PairedTest(difference, p, smallest_p, n_speakers, interval, d_z)


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> McNemar:
    """Test whether two runs have equally many utterances right: (N,), (N,), True where right.

    It assumes independent utterances, which those of one speaker are not: where errors cluster by
    speaker its p is too small. It is here because papers report it; rely on `paired_test`.

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


def _check(counts: NDArray) -> None:
    if counts.ndim != 4 or counts.shape[2] != counts.shape[3] or 0 in counts.shape:
        raise ValueError(f"counts must be (seeds, speakers, classes, classes), got {counts.shape}")
    support = counts.sum(-1)  # (R, S, K)
    if (support != support[0]).any():
        raise ValueError("every seed must have tested the same utterances: counts differ")
    if (support[0].sum(-1) == 0).any():
        raise ValueError("every speaker needs an utterance at least: leave out those without any")


def _permutation_p(
    a: NDArray, b: NDArray, score: Score, observed: float, n_draws: int, seed: int
) -> tuple[float, float]:
    """Return p and the smallest p possible."""
    n_speakers = a.shape[1]
    exact = n_speakers <= MAX_EXACT
    if exact:  # the last speaker stays: swapping all others instead only changes the sign
        swapped = np.arange(2 ** (n_speakers - 1))[:, None] >> np.arange(n_speakers) & 1
    else:
        swapped = np.random.default_rng(seed).integers(0, 2, (n_draws, n_speakers))
    moved = _pool(swapped, b - a)  # (R, M, K, K)
    swaps = _difference(a.sum(1)[:, None] + moved, b.sum(1)[:, None] - moved, score)  # (M,), d'
    as_large = int((np.abs(swaps) >= observed - SAME).sum())
    if exact:
        return as_large / len(swaps), 1 / len(swaps)
    return (1 + as_large) / (1 + n_draws), 1 / (1 + n_draws)


def _resamples(n_speakers: int, n_draws: int, seed: int) -> NDArray:
    """Return w, how often each speaker is in each bootstrap sample: (draws, S)."""
    even = np.full(n_speakers, 1 / n_speakers)
    return np.random.default_rng(seed).multinomial(n_speakers, even, size=n_draws)


def _pool(weights: NDArray, counts: NDArray) -> NDArray:
    """Add up w[s] c[r, s]: (draws, S), (R, S, K, K) -> (R, draws, K, K); floats, for speed."""
    flat = counts.reshape(*counts.shape[:2], -1).astype(float)  # (R, S, K * K)
    return (weights.astype(float) @ flat).reshape(len(counts), len(weights), *counts.shape[2:])


def _mean_score(confusions: NDArray, score: Score) -> NDArray:
    """Return the mean over seeds: (R, ..., K, K) -> (...)."""
    return np.mean(score(confusions), axis=0)


def _difference(a: NDArray, b: NDArray, score: Score) -> NDArray:
    return _mean_score(a, score) - _mean_score(b, score)


def _t_interval(
    point: float, draws: NDArray, n_speakers: int, level: float, least: float
) -> list[float] | None:
    """Return Student's t interval on the logit scale of `least`..1 (delta method)."""
    if n_speakers < 2:
        return None
    span = 1 - least
    theta = (point - least) / span  # in 0..1
    se = float(np.std(draws, ddof=1)) * (n_speakers / (n_speakers - 1)) ** 0.5 / span
    if se < SAME:  # all speakers score the same: their variation is unknown
        return None
    reach = stats.t.ppf((1 + level) / 2, n_speakers - 1) * se / (theta * (1 - theta))
    ends = special.expit(special.logit(theta) + reach * np.array([-1, 1]))
    return (least + span * ends).tolist()


def _standardised(differences: NDArray) -> float | None:
    """Return mean over standard deviation (n - 1), None where it is undefined: (S,)."""
    if len(differences) < 2 or (spread := float(np.std(differences, ddof=1))) < SAME:
        return None
    return float(np.mean(differences)) / spread
