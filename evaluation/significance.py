"""Are two runs different, and how sure is a score? Speakers are exchanged and resampled.

Clips of one speaker are alike, so the speaker is the unit of all statistics here. They share one
structure: counts `each` (R, S, K, K) by seed and speaker, row target, column prediction; all seeds
tested the same clips.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from evaluation.metrics import confusion_matrix

Score = Callable[[NDArray], NDArray]  # (..., K, K) -> (...), within 0..1, see metrics.SCORES

MAX_EXACT = 13  # speakers: 4096 different exchanges, still fewer than the random ones
SAME = 1e-12  # differences closer than this are equal but for rounding


class PairedTest(NamedTuple):
    """What `paired_test` found.

    Attributes:
        difference: Score of a minus score of b, each the mean over its seeds.
        p: Two-sided.
        smallest_p: The least p that so many speakers and draws allow; above the level of the test
            no difference can be found.
        n_speakers: S.
        interval: 95 %, of the difference; None for one speaker.
        d_z: Cohen's d_z, the mean of the speakers' own differences over their standard deviation
            (n - 1); None for one speaker or where all differ alike.
    """

    difference: float
    p: float
    smallest_p: float
    n_speakers: int
    interval: list[float] | None
    d_z: float | None


class McNemar(NamedTuple):
    """What `mcnemar` found.

    Attributes:
        only_a: Clips that a alone has right.
        only_b: Clips that b alone has right.
        p: Two-sided, exact.
        g: Cohen's g, the part of these clips that is a's, minus 1/2: positive where a is better,
            -1/2 to 1/2; None where there are none.
    """

    only_a: int
    only_b: int
    p: float
    g: float | None


def speaker_confusions(
    targets: Sequence[int], preds: Sequence[int], speakers: Sequence[str], n_classes: int
) -> tuple[NDArray, NDArray]:
    """Count each speaker's clips: (N,), (N,), (N,) -> sorted names (S,), counts (S, K, K).

    Raises:
        ValueError: There are none, lengths differ, or a class is outside 0..K-1.
    """
    target, pred, speaker = np.asarray(targets), np.asarray(preds), np.asarray(speakers)
    if len(target) == 0 or not target.shape == pred.shape == speaker.shape:
        raise ValueError(
            "need one prediction and one speaker a clip and a clip at least, got "
            f"{len(pred)} and {len(speaker)} for {len(target)}"
        )
    names = np.unique(speaker)
    each = [confusion_matrix(target[speaker == s], pred[speaker == s], n_classes) for s in names]
    return names, np.stack(each)


def speaker_interval(
    each: NDArray, score: Score, n_draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """Return the interval [low, high] of the mean score over seeds, None if speakers do not vary.

    The standard error is the bootstrap's over speakers times sqrt(S / (S - 1)); the interval is
    Student's t with S - 1 degrees of freedom on the logit scale, so it stays within 0..1. A draw
    without clips of a class leaves this class out, as the score does. All is given these trained
    seeds: the interval says how the score would vary with other speakers, not with other seeds.

    Args:
        each: (R, S, K, K) counts.
        score: Of a confusion matrix, see `metrics.SCORES`.
        n_draws: Bootstrap samples.
        level: Coverage aimed at.
        seed: Of the draws.

    Raises:
        ValueError: Wrong shape, seeds that tested other clips, or a speaker without clips.

    Source:
        Hesterberg 2015, "What Teachers Should Know About the Bootstrap": t interval with bootstrap
        standard error. His expanded percentile interval ends at the worst and the best speaker,
        which is too narrow for four speakers; the tests measure both. The logit is ours.
    """
    _check(each)
    point = _mean_score(each.sum(1), score)
    draws = _mean_score(_pool(_resamples(each.shape[1], n_draws, seed), each), score)  # (draws,)
    return _t_interval(float(point), draws, each.shape[1], level, least=0.0)


def paired_test(
    a: NDArray, b: NDArray, score: Score, n_draws: int = 10_000, seed: int = 0
) -> PairedTest:
    """Test whether two runs that tested the same clips score alike, exchanging whole speakers.

    If the runs do not differ, a speaker's predictions may as well have come from the other run.
    So a and b exchange the predictions for a speaker, all seeds together, the first seed of a with
    the first of b and so on, and score again. Up to 13 speakers all 2^S exchanges are made and p
    is exact; beyond, `n_draws` random ones with p = (1 + as large) / (1 + draws).

    Args:
        a: (R, S, K, K) counts.
        b: (R, S, K, K) counts: as many seeds, in the same order, of the same speakers.
        score: Of a confusion matrix, see `metrics.SCORES`.
        n_draws: Random exchanges and bootstrap samples.
        seed: Of both.

    Raises:
        ValueError: Shapes or a speaker's clips of a class differ; see also `speaker_interval`.

    Source:
        Good 2005, permutation of matched pairs with clusters as units; Phipson & Smyth 2010 for
        the p of random exchanges; Lakens 2013 for d_z.
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
            "a and b need the same clips, but speakers' counts of the classes differ: "
            "compare runs of one protocol on the same folds, speakers in the same order"
        )
    n_speakers = a.shape[1]
    difference = float(_difference(a.sum(1), b.sum(1), score))
    p, smallest_p = _permutation_p(a, b, score, abs(difference), n_draws, seed)
    taken = _resamples(n_speakers, n_draws, seed)  # (draws, S)
    draws = _difference(_pool(taken, a), _pool(taken, b), score)  # (draws,)
    interval = _t_interval(difference, draws, n_speakers, 0.95, least=-1.0)
    d_z = _standardised(_difference(a, b, score))
    return PairedTest(difference, p, smallest_p, n_speakers, interval, d_z)


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> McNemar:
    """Test whether two runs have equally many clips right: (N,), (N,), True where right.

    It takes clips as independent, which the clips of one speaker are not: where errors cluster by
    speaker its p is too small. It is here because papers report it; believe `paired_test`.

    Raises:
        ValueError: There are none, lengths differ, or a value is neither true nor false.

    Source:
        McNemar 1947, as the exact binomial test; Cohen 1988 for g.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [True])
    McNemar(only_a=6, only_b=1, p=0.125, g=0.3571428571428571)
    """
    a, b = np.asarray(right_a), np.asarray(right_b)
    if a.size == 0 or a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"need two rows of equal length, of a clip at least: {a.shape}, {b.shape}")
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError("right_a and right_b say of each clip whether it is right: True or False")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    discordant = only_a + only_b
    if discordant == 0:
        return McNemar(0, 0, 1.0, None)
    p = float(stats.binomtest(only_a, discordant, 0.5).pvalue)
    return McNemar(only_a, only_b, p, only_a / discordant - 0.5)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given, at most 1.

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


def _check(each: NDArray) -> None:
    if each.ndim != 4 or each.shape[2] != each.shape[3] or 0 in each.shape:
        raise ValueError(f"counts must be (seeds, speakers, classes, classes), got {each.shape}")
    support = each.sum(-1)  # (R, S, K)
    if (support != support[0]).any():
        raise ValueError("every seed must have tested the same clips: counts by speaker differ")
    if (support[0].sum(-1) == 0).any():
        raise ValueError("every speaker needs a clip at least: leave out who has none")


def _permutation_p(
    a: NDArray, b: NDArray, score: Score, observed: float, n_draws: int, seed: int
) -> tuple[float, float]:
    """Return p and the least p possible."""
    n_speakers = a.shape[1]
    exact = n_speakers <= MAX_EXACT
    if exact:  # the last speaker stays: exchanging all others instead turns the sign alone
        exchanged = np.arange(2 ** (n_speakers - 1))[:, None] >> np.arange(n_speakers) & 1
    else:
        exchanged = np.random.default_rng(seed).integers(0, 2, (n_draws, n_speakers))
    moved = _pool(exchanged, b - a)  # (R, draws, K, K)
    found = _difference(a.sum(1)[:, None] + moved, b.sum(1)[:, None] - moved, score)  # (draws,)
    as_large = int((np.abs(found) >= observed - SAME).sum())
    if exact:
        return as_large / len(found), 1 / len(found)
    return (1 + as_large) / (1 + n_draws), 1 / (1 + n_draws)


def _resamples(n_speakers: int, n_draws: int, seed: int) -> NDArray:
    """Return how often each speaker is taken in each draw: (draws, S)."""
    even = np.full(n_speakers, 1 / n_speakers)
    return np.random.default_rng(seed).multinomial(n_speakers, even, size=n_draws)


def _pool(taken: NDArray, each: NDArray) -> NDArray:
    """Add speakers' counts: (draws, S), (R, S, K, K) -> (R, draws, K, K); floats, to be fast."""
    flat = each.reshape(*each.shape[:2], -1).astype(float)  # (R, S, K * K)
    return (taken.astype(float) @ flat).reshape(len(each), len(taken), *each.shape[2:])


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
    place = (point - least) / span  # in 0..1
    error = float(np.std(draws, ddof=1)) * (n_speakers / (n_speakers - 1)) ** 0.5 / span
    if error < SAME:  # all speakers alike: nothing is known of how others vary
        return None
    reach = stats.t.ppf((1 + level) / 2, n_speakers - 1) * error / (place * (1 - place))
    ends = special.expit(special.logit(place) + reach * np.array([-1, 1]))
    return (least + span * ends).tolist()


def _standardised(differences: NDArray) -> float | None:
    """Return mean over standard deviation (n - 1), None where it is undefined: (S,)."""
    if len(differences) < 2 or (spread := float(np.std(differences, ddof=1))) < SAME:
        return None
    return float(np.mean(differences)) / spread
