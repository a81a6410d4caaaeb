"""Paired tests of runs: by hand, against scipy and all swaps, and by simulation of designs.

`pytest tests/evaluation/test_paired_tests.py -s -k simulation` prints what the simulations measure.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from evaluation import paired_tests
from evaluation.metrics import SCORES
from evaluation.paired_tests import fixed_weights_test, paired_test
from evaluation.power import Design, simulate_pair
from tests.support.confusions import counts_of, counts_of_right, right_of, simulate, within

UA, WA = SCORES["ua"], SCORES["wa"]


def test_exchanging_speakers_by_hand_where_one_run_is_better_for_all():
    # Differences by speaker 1/2, 1/4, 1/4. Of 8 exchanges only none and all reach |1/3|: p = 2/8.
    # d_z: mean 1/3, variance ((1/6)^2 + 2 (1/12)^2) / 2 = 1/48.
    found = fixed_weights_test(right_of(4, 4, 4), right_of(2, 3, 3), WA)
    assert (found.difference, found.p) == pytest.approx((1 / 3, 0.25))
    assert (found.smallest_p, found.n_speakers) == (0.25, 3)
    assert found.d_z == pytest.approx((1 / 3) / np.sqrt(1 / 48))


def test_exchanging_speakers_by_hand_with_ties():
    # Differences +2, +1, -1 quarters, sum 2. With signs: 4, 2, 2, 0 and their negatives:
    # 6 of 8 are as large as 2.
    assert fixed_weights_test(right_of(4, 2, 1), right_of(2, 1, 2), WA).p == 0.75


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("n_speakers", [2, 5, 7])
def test_the_exact_p_is_scipys(name, n_speakers):
    for seed in range(3):
        a, b = counts_of(seed, 2, n_speakers, clips=4)
        both = np.concatenate([a, b], axis=1)  # speaker s of a is s, of b is S + s

        def statistic(x, y, axis=-1, both=both):
            first, second = (SCORES[name](both[:, side].sum(axis - 2)) for side in (x, y))
            return np.round((first - second).mean(0), 12)  # scipy allows less rounding in ties

        reference = stats.permutation_test(
            (np.arange(n_speakers), np.arange(n_speakers) + n_speakers),
            statistic,
            permutation_type="samples",
            n_resamples=np.inf,
            axis=-1,
        )
        found = fixed_weights_test(a, b, SCORES[name], n_draws=50)
        assert found.difference == pytest.approx(reference.statistic)
        assert found.p == pytest.approx(min(reference.pvalue, 1.0))


def exact_ua(confusion):
    """Return UA without rounding, of classes that all occur."""
    rows = [(int(row[k]), int(row.sum())) for k, row in enumerate(confusion)]
    return sum(Fraction(hits, clips) for hits, clips in rows) / len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_p_is_that_of_fractions(seed):
    a, b = counts_of(seed, 2, 5)
    found = []
    for exchanged in itertools.product([False, True], repeat=5):  # the first exchanges none
        chosen = np.array(exchanged)[:, None, None]
        first, second = np.where(chosen, b, a).sum(1), np.where(chosen, a, b).sum(1)
        pairs = zip(first, second, strict=True)  # seed by seed
        found.append(abs(sum(exact_ua(x) - exact_ua(y) for x, y in pairs)))
    expected = sum(difference >= found[0] for difference in found) / len(found)
    assert fixed_weights_test(a, b, UA, n_draws=20).p == expected


def test_equal_differences_are_equal_in_spite_of_rounding():
    # Differences 1/10, 2/10 against -3/10 sum up to 0, but not in binary fractions: 0.1 + 0.2 is
    # not 0.3. The speakers' scores are recalls of one class each, so they add up unmixed.
    a, b = np.zeros((2, 1, 3, 3, 3), int)
    for k, (first, second) in enumerate([(6, 5), (7, 5), (2, 5)]):
        a[0, k, k, [k, k - 1]] = first, 10 - first
        b[0, k, k, [k, k - 1]] = second, 10 - second
    found = fixed_weights_test(a, b, UA)
    assert abs(found.difference) < 1e-15 and found.p == 1.0
    for parts in ((3, 1, 2), (1, 2, 3), (2, 2, 2), (1, 1, 2)):  # all of one sign, as of the other
        for k, part in enumerate(parts):
            a[0, k, k, [k, k - 1]] = 5 + part, 5 - part
        assert fixed_weights_test(a, b, UA).p == 0.25


def test_random_exchanges_agree_with_all_of_them(monkeypatch):
    a, b = counts_of(2, 2, 14, clips=8)
    drawn, again = fixed_weights_test(a, b, UA), fixed_weights_test(a, b, UA, seed=1)
    monkeypatch.setattr(paired_tests, "MAX_EXACT", 14)
    exact = fixed_weights_test(a, b, UA)
    assert 0.01 < exact.p < 0.9 and exact.smallest_p == 2**-13
    assert drawn.p not in (exact.p, again.p)
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / 10_000))


def test_the_smallest_p_is_reached_where_one_run_has_all_right():
    for n_speakers, smallest in ((1, 1.0), (2, 0.5), (6, 1 / 32), (13, 2**-12), (20, 1 / 1001)):
        a, b = right_of(*[4] * n_speakers), right_of(*[0] * n_speakers)
        found = fixed_weights_test(a, b, UA, n_draws=1000)
        assert found.p == found.smallest_p == pytest.approx(smallest)
        assert found.interval is None
        assert found.d_z is None  # one speaker, or all alike


def test_a_run_does_not_differ_from_itself():
    a, _ = counts_of(0, 2, 6)
    assert fixed_weights_test(a, a, UA) == (0.0, 1.0, 1 / 32, 6, None, None, 1.0, None, None)


def test_turning_the_runs_round_turns_the_signs():
    a, b = counts_of(5, 2, 7)
    one, other = fixed_weights_test(a, b, UA), fixed_weights_test(b, a, UA)
    assert one.difference == pytest.approx(-other.difference) and one.p == other.p
    assert one.d_z == pytest.approx(-other.d_z)
    assert one.interval == pytest.approx([-end for end in other.interval[::-1]])


def test_the_differences_interval_is_scipys_standard_error_on_its_scale():
    a, b = counts_of(1, 2, 9)

    def statistic(speakers, axis):
        return (UA(a[:, speakers].sum(axis - 2)) - UA(b[:, speakers].sum(axis - 2))).mean(0)

    reference = stats.bootstrap(
        (np.arange(9),), statistic, n_resamples=40_000, method="percentile", rng=1
    )
    found = fixed_weights_test(a, b, UA, n_draws=40_000)
    # Logit of (1 + d) / 2 is 2 atanh d, and its slope 2 / (1 - d^2).
    error = reference.standard_error * np.sqrt(9 / 8)
    reach = stats.t(8).ppf(0.975) * error / (1 - found.difference**2)
    expected = np.tanh(np.arctanh(found.difference) + reach * np.array([-1, 1]))
    np.testing.assert_allclose(found.interval, expected, atol=0.003)


def test_the_effect_size_is_of_the_mean_over_seeds_of_each_speaker():
    a, b = counts_of(4, 3, 6)
    own = [(UA(a[:, s]) - UA(b[:, s])).mean() for s in range(6)]
    t = stats.ttest_1samp(own, 0).statistic  # t = d_z * sqrt(S)
    assert fixed_weights_test(a, b, UA).d_z == pytest.approx(t / np.sqrt(6))


def test_runs_that_tested_other_clips_or_seeds_are_a_value_error():
    with pytest.raises(ValueError, match="the same utterances"):
        fixed_weights_test(right_of(1, 2), right_of(1, 2, clips=5), WA)
    with pytest.raises(ValueError, match="the same seeds"):
        fixed_weights_test(right_of(1, 2), np.repeat(right_of(1, 2), 2, axis=0), WA)
    with pytest.raises(ValueError, match="the same seeds"):
        fixed_weights_test(right_of(1, 2), right_of(1, 2, 3), WA)


def test_whole_folds_are_students_t_on_the_logit_scale():
    a, b = counts_of(1, 2, 12)
    folds = [s // 2 for s in range(12)]  # six folds of two speakers

    def statistic(chosen, axis):
        cells = np.concatenate([2 * chosen, 2 * chosen + 1], axis=-1)
        return (UA(a[:, cells].sum(axis - 2)) - UA(b[:, cells].sum(axis - 2))).mean(0)

    reference = stats.bootstrap(
        (np.arange(6),), statistic, n_resamples=40_000, method="percentile", rng=1
    )
    found = paired_test(a, b, list(range(12)), folds, UA, n_draws=40_000)
    error = reference.standard_error * np.sqrt(6 / 5)
    # Logit of (1 + d) / 2 is 2 atanh d, and its slope 2 / (1 - d^2).
    middle, error = np.arctanh(found.difference), error / (1 - found.difference**2)
    reach = stats.t(5).ppf(0.975) * error
    np.testing.assert_allclose(found.interval, np.tanh([middle - reach, middle + reach]), atol=3e-3)
    assert found.p_folds == pytest.approx(2 * stats.t(5).sf(middle / error), rel=0.05)
    assert found.p == max(found.p_speakers, found.p_trainings, found.p_folds)


def test_folds_and_seeds_are_exchanged_as_pairs_and_speakers_with_all_their_seeds():
    a, b = counts_of(3, 2, 6)  # two seeds, three folds of two speakers
    folds, n_seeds = [1, 1, 2, 2, 3, 3], 2
    found = paired_test(a, b, list("abcdef"), folds, UA)

    def share(units):
        """Swap all subsets of units, each a list of (seed, speaker), by exact fractions."""
        sizes = []
        for swapped in itertools.product([False, True], repeat=len(units)):
            first, second = a.copy(), b.copy()
            for unit in itertools.compress(units, swapped):
                for r, s in unit:
                    first[r, s], second[r, s] = b[r, s], a[r, s]
            pairs = zip(first.sum(1), second.sum(1), strict=True)
            sizes.append(abs(sum(exact_ua(x) - exact_ua(y) for x, y in pairs)))
        return sum(size >= sizes[0] for size in sizes) / len(sizes)

    speakers = [[(r, s) for r in range(n_seeds)] for s in range(6)]
    pairs = [[(r, s), (r, s + 1)] for r in range(n_seeds) for s in (0, 2, 4)]
    assert found.p_speakers == share(speakers) and found.p_trainings == share(pairs)
    assert 0 < found.p_speakers != found.p_trainings


def test_a_speaker_of_two_folds_is_one_speaker():
    a, b = counts_of(4, 1, 4)
    found = paired_test(a, b, ["x", "y", "x", "y"], [1, 1, 2, 2], UA)
    assert found.n_speakers == 2 and found.d_z is None
    assert found.smallest_p == 0.5 and found.interval is None


@pytest.mark.parametrize(
    ("n_folds", "n_seeds", "smallest"),
    [(1, 1, 1.0), (2, 5, 0.5), (5, 1, 1 / 16), (5, 3, 1 / 512), (6, 1, 1 / 32)],
)
def test_the_smallest_p_is_that_of_the_design(n_folds, n_seeds, smallest):
    a, b = counts_of(0, n_seeds, 2 * n_folds)
    folds = [s // 2 for s in range(2 * n_folds)]
    found = paired_test(a, b, list(range(2 * n_folds)), folds, UA)
    floor = max(smallest, 2.0 ** -(2 * n_folds - 1))
    assert found.smallest_p == pytest.approx(floor, rel=0.3) and found.p >= found.smallest_p


def test_whole_folds_that_all_differ_alike_are_exchanged():
    a, b = right_of(4, 4, 4), right_of(2, 2, 2)
    found = paired_test(a, b, list("abc"), [1, 2, 3], WA)
    assert found.interval is None and found.p_folds == 0.25


@pytest.mark.parametrize(
    ("n_speakers", "size"),
    [(6, 1 / 32), (10, 25 / 512), (16, 0.05)],  # sizes that the steps of p allow up to 5 %
)
def test_simulation_without_an_effect_exchanging_speakers_rejects_5_percent(n_speakers, size):
    draw, n = np.random.default_rng(7), 2000
    rejected = covered = 0
    for seed in range(n):
        a, b = counts_of_right(simulate(draw, 2, n_speakers))[:, None]
        found = fixed_weights_test(a, b, UA, n_draws=199, seed=seed)
        rejected += found.p <= 0.05
        covered += found.interval[0] <= 0 <= found.interval[1]
    print(
        f"\nS = {n_speakers}: rejects {rejected / n:.3f}, p allows {size:.3f}; the interval of "
        f"the difference covers {covered / n:.3f}; {n} times"
    )
    assert within(rejected, n, size) and within(covered, n, 0.95)


DESIGNS = [(2, 4), (6, 4), (5, 2), (24, 1)]  # folds, speakers of each
N_CLIPS = 60  # utterances of a speaker
SOURCES = {  # standard deviations of a run's accuracy, points of 100: speaker x run, training
    "training": (0.0, 0.04),
    "both": (0.05, 0.04),
    "speakers": (0.1, 0.0),
}


def measure_design(n_folds, n_each, n_seeds, n, seed=0):
    """Return for each mix of sources: rejections, misses, intervals, rejections by exchange."""
    cells = list(range(n_folds * n_each))
    folds = [cell // n_each for cell in cells]
    found = {}
    for name, sizes in SOURCES.items():
        draw, counts = np.random.default_rng(seed), np.zeros(4, int)
        for _ in range(n):
            design = Design(n_folds, n_each, n_seeds, N_CLIPS, *sizes)
            test = paired_test(*simulate_pair(draw, design), cells, folds, UA, n_draws=199)
            ends = test.interval
            missed = ends is not None and not ends[0] <= 0 <= ends[1]
            by_speakers = test.p_speakers <= 0.05
            counts += (test.p <= 0.05, missed, ends is not None, by_speakers)
        found[name] = counts
    return found


def describe_design(n_folds, n_each, n_seeds, n, found):
    """Return the worst of all mixes in words."""
    rejected, missed, intervals, by_speakers = np.max(list(found.values()), axis=0) / n
    covers = f"covers {100 * (1 - missed):.1f} %" if intervals else "has no interval"
    return (
        f"\n{n_folds} folds x {n_each} speakers, {n_seeds} seeds, worst of {len(found)} mixes, {n} "
        f"times each: rejects {100 * rejected:.1f} %, {covers}; exchanging speakers alone rejects "
        f"{100 * by_speakers:.1f} %"
    )


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize(("n_folds", "n_each"), DESIGNS)
def test_simulation_of_designs_rejects_few_and_covers_most(n_folds, n_each, n_seeds):
    n = 400
    found = measure_design(n_folds, n_each, n_seeds, n)
    print(describe_design(n_folds, n_each, n_seeds, n, found))
    for rejected, missed, intervals, _ in found.values():
        assert rejected <= 0.09 * n and missed <= 0.09 * n  # so few draws are 2 points off
        assert intervals == (0 if n_folds == 2 else n)  # two folds cannot be tested
    if n_folds == 2:
        assert not any(counts[0] for counts in found.values())
    if (n_folds, n_each, n_seeds) == (6, 4, 1):  # what holding the weights fixed does
        assert found["training"][3] > 0.09 * n


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [1, 3, 5])
@pytest.mark.parametrize(("n_folds", "n_each"), DESIGNS)
def test_simulation_of_designs_rejects_at_most_7_and_covers_at_least_93_percent(
    n_folds, n_each, n_seeds
):
    n = 2000
    found = measure_design(n_folds, n_each, n_seeds, n, seed=1)
    print(describe_design(n_folds, n_each, n_seeds, n, found))
    rejected, missed, *_ = np.max(list(found.values()), axis=0) / n
    assert rejected <= 0.07 and missed <= 0.07
