"""Do two runs differ? Two sources of chance: which speakers were tested, which training was drawn.

Runs a and b tested the same utterances, with the same folds and seeds. Let c[r, u] be the K x K
confusion counts of seed r and unit u, theta = mean over r of f(sum over u of c[r, u]) the score of
a run and d = theta_a - theta_b. A fold's speakers share one training, so its luck moves all of
them together. Model: the difference of speaker s of fold k with seed r is

    delta + speaker[s] + training[k, r] + rest,        S speakers, F folds, R seeds.

Exchange. If the runs do not differ, a and b may swap their predictions for any subset of
independent units, and every d' is as likely as d: p is the share of subsets with |d'| >= |d|. All
swapped is none swapped with the sign changed, so U units have 2^(U - 1) distinct subsets and no p
is below 2^-(U - 1). Beyond `MAX_EXACT` units M random subsets: p = (1 + #) / (1 + M).

    units                               what varies between them
    speakers, all seeds together        speaker[s]; a training counts once for each of its speakers
    folds x seeds                       training[k, r]; a speaker counts once for each seed
    folds, all seeds together           both, and whatever else a fold's trainings share

Exchanging whole folds is right whatever the shares of the sources, but needs six folds for a p
below 0.05. So with `MIN_UNITS` folds or more, whole folds are tested by Student's t instead: with
se the bootstrap's standard error over folds, on the logit scale of `significance`,
t = logit((1 + d) / 2) / se_l with F - 1 degrees of freedom. The interval is that of this t.

Of the three p-values the largest counts: the first two make no assumption of normality, the third
counts both sources together. What none of them counts: training sets of different folds overlap.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluation.significance import (
    FRACTION,
    MIN_UNITS,
    SAME,
    Scale,
    Score,
    check_counts,
    is_same,
    mean_scores,
    on_logit_scale,
    resamples,
    standard_error,
    t_interval,
)

MAX_EXACT = 13  # units: 4096 distinct swaps, still fewer than the random ones


class PairedTest(NamedTuple):
    """The result of `paired_test` or `fixed_weights_test`.

    Attributes:
        difference: Score of a minus score of b, each the mean over its seeds.
        p: Two-sided p-value, the largest of those that were made.
        smallest_p: Smallest p that this design allows; if it is above the level of the test, no
            difference can be significant.
        n_speakers: Number of speakers, S.
        interval: 95 % interval of the difference; None for fewer than `MIN_UNITS` units.
        d_z: Cohen's d_z, the mean of the speakers' own differences over their standard deviation
            (n - 1); None for fewer than `MIN_UNITS` speakers or where all differ equally.
        p_speakers: p of exchanging speakers.
        p_trainings: p of exchanging fold x seed pairs; None where weights are held fixed.
        p_folds: p of whole folds; None where weights are held fixed.
    """

    difference: float
    p: float
    smallest_p: float
    n_speakers: int
    interval: list[float] | None
    d_z: float | None
    p_speakers: float
    p_trainings: float | None = None
    p_folds: float | None = None


def paired_test(
    a: NDArray,
    b: NDArray,
    speakers: Sequence[str],
    folds: Sequence[int],
    score: Score,
    n_draws: int = 10_000,
    seed: int = 0,
    scale: Scale = FRACTION,
) -> PairedTest:
    """Test whether two runs would differ for other speakers and other trainings.

    Args:
        a: Confusion counts (R, C, K, K) of one run, by seed and by speaker of a fold.
        b: Confusion counts (R, C, K, K) of the other, in the same order.
        speakers: (C,) speaker of each.
        folds: (C,) fold that tests it.
        score: Score of a confusion matrix, see `metrics.SCORES`.
        n_draws: Number of random swaps M beyond `MAX_EXACT` units, and of bootstrap samples B.
        seed: Seed of both.
        scale: Range of the score, and what its counts are.

    Raises:
        ValueError: Shapes differ, or a speaker's number of utterances of a class; see also
            `significance.check_counts`.

    Source:
        Good 2005, permutation of matched pairs with clusters as units; Phipson & Smyth 2010 for
        the p of random permutations; Lakens 2013 for d_z; Hesterberg 2015 for the t interval with
        bootstrap standard error. The largest p of several units is ours;
        `tests/evaluation/test_paired_tests.py` measures size and coverage.
    """
    _check_alike(a, b, scale)
    difference = float(np.mean(score(a.sum(1)) - score(b.sum(1))))
    least, most = scale.of_differences()
    own = (_by_unit(a, speakers), _by_unit(b, speakers))
    whole = (_by_unit(a, folds), _by_unit(b, folds))
    p_speakers, floor_speakers = _exchange(*own, score, False, n_draws, seed)
    p_trainings, floor_trainings = _exchange(*whole, score, True, n_draws, seed)
    se = _standard_error(*whole, score, n_draws, seed)
    n_folds = whole[0].shape[1]
    if n_folds < MIN_UNITS or se < SAME:
        p_folds, floor_folds = _exchange(*whole, score, False, n_draws, seed)
    else:
        logit, se_logit = on_logit_scale(difference, se, least, most)
        p_folds, floor_folds = 2 * float(stats.t.sf(abs(logit) / se_logit, n_folds - 1)), 0.0
    return PairedTest(
        difference,
        max(p_speakers, p_trainings, p_folds),
        max(floor_speakers, floor_trainings, floor_folds),
        own[0].shape[1],
        t_interval(difference, se, n_folds, 0.95, least, most),
        _standardised(*own, score),
        p_speakers,
        p_trainings,
        p_folds,
    )


def smallest_p_of(n_speakers: int, n_folds: int, n_seeds: int, n_draws: int = 10_000) -> float:
    """Return the smallest p that `paired_test` can give with a design.

    >>> smallest_p_of(10, 5, 1), smallest_p_of(4, 2, 3)
    (0.0625, 0.5)
    """
    floors = [_floor(n_speakers, n_draws), _floor(n_folds * n_seeds, n_draws)]
    return max(*floors, _floor(n_folds, n_draws) if n_folds < MIN_UNITS else 0.0)


def fixed_weights_test(
    a: NDArray,
    b: NDArray,
    score: Score,
    n_draws: int = 10_000,
    seed: int = 0,
    scale: Scale = FRACTION,
) -> PairedTest:
    """Test whether two treatments of the same trained weights differ for other speakers.

    Speakers are the only source of chance: this is for interventions on the same weights, and not
    for two runs.

    Args:
        a: Confusion counts (R, S, K, K) of one treatment, by seed and speaker.
        b: Confusion counts (R, S, K, K) of the other, in the same order.
        score: Score of a confusion matrix, see `metrics.SCORES`.
        n_draws: Number of random swaps M beyond `MAX_EXACT` speakers, and of bootstrap samples B.
        seed: Seed of both.
        scale: Range of the score, and what its counts are.

    Raises:
        ValueError: As `paired_test`.
    """
    _check_alike(a, b, scale)
    difference = float(np.mean(score(a.sum(1)) - score(b.sum(1))))
    p, smallest_p = _exchange(a, b, score, False, n_draws, seed)
    se, n_speakers = _standard_error(a, b, score, n_draws, seed), a.shape[1]
    interval = t_interval(difference, se, n_speakers, 0.95, *scale.of_differences())
    d_z = _standardised(a, b, score)
    return PairedTest(difference, p, smallest_p, n_speakers, interval, d_z, p)


def _check_alike(a: NDArray, b: NDArray, scale: Scale) -> None:
    check_counts(a, scale)
    check_counts(b, scale)
    if a.shape != b.shape:
        raise ValueError(
            "a and b need the same seeds, speakers and classes (R, S, K, K), "
            f"got {a.shape} and {b.shape}: keep the seeds and folds that both have"
        )
    if not is_same(scale.support(a[0]), scale.support(b[0])):
        raise ValueError(
            "a and b need the same utterances, but speakers' counts of the classes differ: "
            "compare runs of one protocol on the same folds, speakers in the same order"
        )


def _by_unit(counts: NDArray, units: Sequence[str] | Sequence[int]) -> NDArray:
    """Add up counts by unit, units sorted: (R, C, K, K), (C,) -> (R, U, K, K)."""
    names = np.asarray(units)
    return np.stack([counts[:, names == name].sum(1) for name in np.unique(names)], axis=1)


def _exchange(
    a: NDArray, b: NDArray, score: Score, each_seed: bool, n_draws: int, seed: int
) -> tuple[float, float]:
    """Return p of exchanging units, and the smallest p possible: (R, U, K, K) x 2.

    Args:
        a: Counts of one run by seed and unit.
        b: Counts of the other.
        score: Score of a confusion matrix.
        each_seed: Units of different seeds are swapped apart; otherwise all seeds together.
        n_draws: Number of random swaps beyond `MAX_EXACT` units.
        seed: Seed of these swaps.
    """
    n_seeds, n_units = (len(a) if each_seed else 1), a.shape[1]
    n = n_seeds * n_units
    if n <= MAX_EXACT:  # the last unit stays: swapping all others instead only changes the sign
        swapped = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    else:
        swapped = np.random.default_rng(seed).integers(0, 2, (n_draws, n))
    weights = swapped.reshape(-1, n_seeds, n_units).swapaxes(0, 1)  # (R or 1, M, U)
    observed = abs(float(np.mean(score(a.sum(1)) - score(b.sum(1)))))
    swaps = mean_scores(weights, b - a, score, a.sum(1))  # (M,), theta_a'
    swaps -= mean_scores(weights, a - b, score, b.sum(1))  # (M,), d'
    as_large = int((np.abs(swaps) >= observed - SAME).sum())
    p = as_large / len(swaps) if n <= MAX_EXACT else (1 + as_large) / (1 + n_draws)
    return p, _floor(n, n_draws)


def _floor(n_units: int, n_draws: int) -> float:
    """Return the smallest p that exchanging so many units can give."""
    return 2.0 ** (1 - n_units) if n_units <= MAX_EXACT else 1 / (1 + n_draws)


def _standard_error(a: NDArray, b: NDArray, score: Score, n_draws: int, seed: int) -> float:
    """Return the bootstrap's standard error of the difference over units, 0 for one unit."""
    n_units = a.shape[1]
    if n_units < 2:
        return 0.0
    w = resamples(n_units, n_draws, seed)
    return standard_error(mean_scores(w, a, score) - mean_scores(w, b, score), n_units)


def _standardised(a: NDArray, b: NDArray, score: Score) -> float | None:
    """Return d_z of the speakers' own differences: (R, S, K, K) x 2."""
    differences = np.mean(score(a) - score(b), axis=0)  # (S,)
    if len(differences) < MIN_UNITS or (spread := float(np.std(differences, ddof=1))) < SAME:
        return None
    return float(np.mean(differences)) / spread
