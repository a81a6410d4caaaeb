"""Tests and intervals over speakers: by hand, against scipy and statsmodels, and by simulation.

`pytest tests/evaluation/test_significance.py -s -k simulation` prints what the simulations measure.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from evaluation import significance
from evaluation.metrics import SCORES, confusion_matrix
from evaluation.significance import holm, mcnemar, paired_test, speaker_confusions, speaker_interval

UA, WA = SCORES["ua"], SCORES["wa"]


def right_of(*hits: int, clips: int = 4) -> np.ndarray:
    """Return counts of one seed, two classes, class 0 alone: (1, S, 2, 2)."""
    return np.array([[[[h, clips - h], [0, 0]] for h in hits]])


def counts_of(seed: int, n_seeds: int, n_speakers: int, n_classes: int = 3, clips: int = 12):
    """Return counts of two runs on the same clips, speakers unlike in size: two (R, S, K, K)."""
    draw = np.random.default_rng(seed)
    owner = np.sort(np.r_[np.arange(n_speakers), draw.integers(0, n_speakers, n_speakers * clips)])
    targets = draw.integers(0, n_classes, len(owner))
    runs = []
    for skill in (0.6, 0.5):
        preds = [
            np.where(
                draw.random(len(owner)) < skill, targets, draw.integers(0, n_classes, len(owner))
            )
            for _ in range(n_seeds)
        ]
        runs.append(np.stack([speaker_confusions(targets, p, owner, n_classes)[1] for p in preds]))
    return runs


def test_speaker_confusions_by_hand():
    names, each = speaker_confusions([0, 1, 0, 1], [0, 0, 1, 1], ["b", "a", "b", "b"], 2)
    assert names.tolist() == ["a", "b"]
    assert each.tolist() == [[[0, 0], [1, 0]], [[1, 1], [0, 1]]]  # row target, column prediction


def test_speaker_confusions_add_up_to_the_confusion_matrix():
    draw = np.random.default_rng(0)
    targets, preds = draw.integers(0, 5, (2, 300))
    _, each = speaker_confusions(targets, preds, draw.choice(list("dabc"), 300), 5)
    assert each.shape == (4, 5, 5) and each.dtype.kind == "i"
    np.testing.assert_array_equal(each.sum(0), confusion_matrix(targets, preds, 5))


@pytest.mark.parametrize(
    ("targets", "preds", "speakers"),
    [([], [], []), ([0], [0, 1], ["a"]), ([0, 1], [0, 1], ["a"]), ([0, 2], [0, 1], ["a", "a"])],
)
def test_counts_that_cannot_be_made_are_a_value_error(targets, preds, speakers):
    with pytest.raises(ValueError, match="one prediction and one speaker|must be in 0..1"):
        speaker_confusions(targets, preds, speakers, 2)


def test_the_interval_of_two_speakers_by_hand():
    # Accuracies 1/4 and 3/4, mean 1/2. Draws: 1/4, 1/2, 1/2, 3/4, so their variance is 1/32, the
    # standard error sqrt(1/32) * sqrt(2 / 1) = 1/4. Level 1/2 with 1 degree of freedom: t = 1.
    # Logit scale: 0 +- 1 * (1/4) / (1/2 * 1/2) = +-1.
    low, high = speaker_interval(right_of(1, 3), WA, n_draws=100_000, level=0.5)
    assert (low, high) == pytest.approx((special.expit(-1), special.expit(1)), abs=0.005)


def test_the_interval_is_of_the_mean_over_seeds():
    # What one seed has wrong the other has right: the mean is 1/2 whatever speakers are drawn.
    both = np.concatenate([right_of(1, 3, 0), right_of(3, 1, 4)])
    assert speaker_interval(both, WA) is None  # the seeds' errors cancel out


@pytest.mark.parametrize("name", SCORES)
def test_the_standard_error_is_scipys(name):
    each, _ = counts_of(0, 2, 8)
    score = SCORES[name]

    def statistic(speakers, axis):
        return score(each[:, speakers].sum(axis - 2 if axis < 0 else axis + 1)).mean(0)

    reference = stats.bootstrap(
        (np.arange(8),), statistic, n_resamples=40_000, method="percentile", rng=1
    )
    error = reference.standard_error * np.sqrt(8 / 7)
    point = score(each.sum(1)).mean()
    reach = stats.t(7).ppf(0.975) * error / (point * (1 - point))
    expected = special.expit(special.logit(point) + reach * np.array([-1, 1]))
    found = speaker_interval(each, score, n_draws=40_000)
    assert np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected, atol=0.003)


def test_the_interval_stays_within_0_and_1_and_contains_the_point():
    low, high = speaker_interval(right_of(40, 40, 40, 30, clips=40), WA)
    assert 0 < low < 150 / 160 < high < 1


def test_there_is_no_interval_where_speakers_do_not_vary():
    assert speaker_interval(right_of(4, 4, 4), UA) is None
    assert speaker_interval(right_of(0, 0, 0), WA) is None
    assert speaker_interval(right_of(2, 2, 2), WA) is None
    assert speaker_interval(right_of(3), WA) is None


def test_draws_without_a_class_leave_it_out():
    # Speaker a has class 0 alone, 2 of 4 right, b has class 1 alone, all right. UA of the draws:
    # aa 1/2, ab 3/4 twice, bb 1: standard error as by hand above times 1: sqrt(1/32 * 2) = 1/4.
    each = np.array([[[[2, 2], [0, 0]], [[0, 0], [0, 4]]]])
    found = speaker_interval(each, UA, n_draws=100_000, level=0.5)
    middle, reach = special.logit(0.75), 0.25 / (0.75 * 0.25)
    expected = special.expit([middle - reach, middle + reach])
    np.testing.assert_allclose(found, expected, atol=0.005)


def test_the_interval_of_alike_speakers_clips_is_wider_than_one_over_clips():
    by_speaker = speaker_interval(right_of(*[40, 0] * 4, clips=40), WA)
    by_clip = speaker_interval(right_of(*[1, 0] * 160, clips=1), WA)
    assert np.ptp(by_speaker) > 4 * np.ptp(by_clip)


def test_the_interval_is_reproducible_and_wider_at_a_higher_level():
    each, _ = counts_of(3, 1, 10)
    assert speaker_interval(each, UA, 500) == speaker_interval(each, UA, 500)
    assert speaker_interval(each, UA, 500) != speaker_interval(each, UA, 500, seed=1)
    widths = [np.ptp(speaker_interval(each, UA, 500, level=level)) for level in (0.5, 0.8, 0.99)]
    assert 0 < widths[0] < widths[1] < widths[2]


BAD_COUNTS = {
    "must be": np.zeros((3, 2, 2), int),
    "classes, classes": np.ones((1, 3, 2, 3), int),
    "the same utterances": np.concatenate([right_of(1, 2), right_of(1, 2, clips=5)]),
    "an utterance at least": np.array([[[[1, 0], [0, 0]], [[0, 0], [0, 0]]]]),
}


@pytest.mark.parametrize("message", BAD_COUNTS)
def test_counts_of_another_shape_are_a_value_error(message):
    each = BAD_COUNTS[message]
    for call in (lambda: speaker_interval(each, WA), lambda: paired_test(each, each, WA)):
        with pytest.raises(ValueError, match=message):
            call()


def test_paired_test_by_hand_where_one_run_is_better_for_all():
    # Differences by speaker 1/2, 1/4, 1/4. Of 8 exchanges only none and all reach |1/3|: p = 2/8.
    # d_z: mean 1/3, variance ((1/6)^2 + 2 (1/12)^2) / 2 = 1/48.
    found = paired_test(right_of(4, 4, 4), right_of(2, 3, 3), WA)
    assert (found.difference, found.p) == pytest.approx((1 / 3, 0.25))
    assert (found.smallest_p, found.n_speakers) == (0.25, 3)
    assert found.d_z == pytest.approx((1 / 3) / np.sqrt(1 / 48))


def test_paired_test_by_hand_with_ties():
    # Differences +2, +1, -1 quarters, sum 2. With signs: 4, 2, 2, 0 and their negatives:
    # 6 of 8 are as large as 2.
    assert paired_test(right_of(4, 2, 1), right_of(2, 1, 2), WA).p == 0.75


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
        found = paired_test(a, b, SCORES[name], n_draws=50)
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
    assert paired_test(a, b, UA, n_draws=20).p == expected


def test_equal_differences_are_equal_in_spite_of_rounding():
    # Differences 1/10, 2/10 against -3/10 sum up to 0, but not in binary fractions: 0.1 + 0.2 is
    # not 0.3. The speakers' scores are recalls of one class each, so they add up unmixed.
    a, b = np.zeros((2, 1, 3, 3, 3), int)
    for k, (first, second) in enumerate([(6, 5), (7, 5), (2, 5)]):
        a[0, k, k, [k, k - 1]] = first, 10 - first
        b[0, k, k, [k, k - 1]] = second, 10 - second
    found = paired_test(a, b, UA)
    assert abs(found.difference) < 1e-15 and found.p == 1.0
    for parts in ((3, 1, 2), (1, 2, 3), (2, 2, 2), (1, 1, 2)):  # all of one sign, as of the other
        for k, part in enumerate(parts):
            a[0, k, k, [k, k - 1]] = 5 + part, 5 - part
        assert paired_test(a, b, UA).p == 0.25


def test_random_exchanges_agree_with_all_of_them(monkeypatch):
    a, b = counts_of(2, 2, 14, clips=8)
    drawn, again = paired_test(a, b, UA), paired_test(a, b, UA, seed=1)
    monkeypatch.setattr(significance, "MAX_EXACT", 14)
    exact = paired_test(a, b, UA)
    assert 0.01 < exact.p < 0.9 and exact.smallest_p == 2**-13
    assert drawn.p not in (exact.p, again.p)
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / 10_000))


def test_the_smallest_p_is_reached_where_one_run_has_all_right():
    for n_speakers, smallest in ((1, 1.0), (2, 0.5), (6, 1 / 32), (13, 2**-12), (20, 1 / 1001)):
        a, b = right_of(*[4] * n_speakers), right_of(*[0] * n_speakers)
        found = paired_test(a, b, UA, n_draws=1000)
        assert found.p == found.smallest_p == pytest.approx(smallest)
        assert found.interval is None
        assert found.d_z is None  # one speaker, or all alike


def test_a_run_does_not_differ_from_itself():
    a, _ = counts_of(0, 2, 6)
    assert paired_test(a, a, UA) == (0.0, 1.0, 1 / 32, 6, None, None)


def test_turning_the_runs_round_turns_the_signs():
    a, b = counts_of(5, 2, 7)
    one, other = paired_test(a, b, UA), paired_test(b, a, UA)
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
    found = paired_test(a, b, UA, n_draws=40_000)
    # Logit of (1 + d) / 2 is 2 atanh d, and its slope 2 / (1 - d^2).
    error = reference.standard_error * np.sqrt(9 / 8)
    reach = stats.t(8).ppf(0.975) * error / (1 - found.difference**2)
    expected = np.tanh(np.arctanh(found.difference) + reach * np.array([-1, 1]))
    np.testing.assert_allclose(found.interval, expected, atol=0.003)


def test_the_effect_size_is_of_the_mean_over_seeds_of_each_speaker():
    a, b = counts_of(4, 3, 6)
    own = [(UA(a[:, s]) - UA(b[:, s])).mean() for s in range(6)]
    t = stats.ttest_1samp(own, 0).statistic  # t = d_z * sqrt(S)
    assert paired_test(a, b, UA).d_z == pytest.approx(t / np.sqrt(6))


def test_runs_that_tested_other_clips_or_seeds_are_a_value_error():
    with pytest.raises(ValueError, match="the same utterances"):
        paired_test(right_of(1, 2), right_of(1, 2, clips=5), WA)
    with pytest.raises(ValueError, match="the same seeds"):
        paired_test(right_of(1, 2), np.repeat(right_of(1, 2), 2, axis=0), WA)
    with pytest.raises(ValueError, match="the same seeds"):
        paired_test(right_of(1, 2), right_of(1, 2, 3), WA)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_statsmodels(pairs):
    a, b = np.array(pairs).T
    table = confusion_matrix(a, b, 2)  # [[both wrong, b alone], [a alone, both right]]
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (table[1, 0], table[0, 1])
    if found.only_a + found.only_b:
        assert found.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
        assert found.g == found.only_a / (found.only_a + found.only_b) - 0.5
    else:
        assert found == (0, 0, 1.0, None)


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([True], [True, False]), ([0, 2], [0, 1]), ([[True]], [[True]])]
)
def test_mcnemar_refuses_what_is_not_right_or_wrong(a, b):
    with pytest.raises(ValueError, match="rows of equal length|True or False"):
        mcnemar(a, b)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, rtol=1e-12)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.02, 0.9, times 4, 3, 2, 1: 0.04, 0.06, 0.04 -> 0.06, 0.9.
    assert holm([0.02, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize("bad", [None, float("nan"), -0.1, 1.1])
def test_holm_refuses_what_is_not_a_p_value(bad):
    with pytest.raises(ValueError, match="must be in 0..1"):
        holm([0.5, bad])


def simulate(draw, n_runs, n_speakers, n_clips=90, spread=1.0):
    """Return whether each clip is right: (n_runs, S, n_clips); each run has its own good speakers.

    A speaker's chance of a right label is expit(1 + spread * normal), for each run anew.
    """
    chance = special.expit(1 + spread * draw.standard_normal((n_runs, n_speakers, 1)))
    return draw.random((n_runs, n_speakers, n_clips)) < chance


def counts_of_right(right):
    """Count two classes, two clips of class 0 for one of class 1: (..., S, n) -> (..., S, 2, 2)."""
    second = right[..., ::3]
    first = right[..., np.arange(right.shape[-1]) % 3 > 0]
    rows = [(first.sum(-1), (~first).sum(-1)), ((~second).sum(-1), second.sum(-1))]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def within(count, n, chance):
    """Whether a count lies within the 99.9 % binomial bounds."""
    low, high = stats.binom(n, chance).interval(0.999)
    return low <= count <= high


@pytest.mark.parametrize(
    ("n_speakers", "size"),
    [(6, 1 / 32), (10, 25 / 512), (16, 0.05)],  # sizes that the steps of p allow up to 5 %
)
def test_simulation_without_an_effect_the_test_rejects_5_percent(n_speakers, size):
    draw, n = np.random.default_rng(7), 2000
    rejected = covered = 0
    for seed in range(n):
        a, b = counts_of_right(simulate(draw, 2, n_speakers))[:, None]
        found = paired_test(a, b, UA, n_draws=199, seed=seed)
        rejected += found.p <= 0.05
        covered += found.interval[0] <= 0 <= found.interval[1]
    print(
        f"\nS = {n_speakers}: rejects {rejected / n:.3f}, p allows {size:.3f}; the interval of "
        f"the difference covers {covered / n:.3f}; {n} times"
    )
    assert within(rejected, n, size) and within(covered, n, 0.95)


def test_simulation_mcnemar_rejects_too_often_where_errors_cluster_by_speaker():
    n, rejected = 1500, {}
    for spread in (0.0, 1.0):
        draw = np.random.default_rng(8)
        by_clip = by_speaker = 0
        for _ in range(n):
            right = simulate(draw, 2, 10, spread=spread)
            by_clip += mcnemar(*right.reshape(2, -1)).p <= 0.05
            by_speaker += paired_test(*counts_of_right(right)[:, None], UA, n_draws=2).p <= 0.05
        rejected[spread] = by_clip, by_speaker
        print(
            f"\nspread {spread}: McNemar rejects {by_clip / n:.3f}, exchange of speakers "
            f"{by_speaker / n:.3f}; {n} times"
        )
    assert rejected[0.0][0] <= stats.binom(n, 0.05).ppf(0.9995)  # exact, so rather fewer
    assert rejected[1.0][0] > 3 * 0.05 * n
    assert within(rejected[0.0][1], n, 25 / 512) and within(rejected[1.0][1], n, 25 / 512)


def draws_of(each, seed):
    """Return plain bootstrap draws of UA, for the intervals that were not taken: (500,)."""
    n_seeds, n_speakers = each.shape[:2]
    even = np.full(n_speakers, 1 / n_speakers)
    taken = np.random.default_rng(seed).multinomial(n_speakers, even, size=500).astype(float)
    return UA((taken @ each.reshape(n_seeds, n_speakers, 4)).reshape(n_seeds, 500, 2, 2)).mean(0)


@pytest.mark.parametrize("n_speakers", [4, 10, 24])
def test_simulation_the_interval_covers_95_percent(n_speakers):
    draw, n, spread = np.random.default_rng(9), 1000, 1.0
    grid = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    truth = special.expit(1 + spread * grid).mean()  # of infinitely many speakers
    t = stats.t(n_speakers - 1).ppf(0.975) * np.sqrt(n_speakers / (n_speakers - 1))
    levels = [0.025, 0.975, *stats.norm.cdf([-t, t])]
    covered = dict.fromkeys(["ours", "percentile", "expanded percentile"], 0)
    for seed in range(n):
        each = counts_of_right(simulate(draw, 2, n_speakers))  # two seeds
        ends = np.quantile(draws_of(each, seed), levels)
        intervals = speaker_interval(each, UA, n_draws=500, seed=seed), ends[:2], ends[2:]
        for name, (low, high) in zip(covered, intervals, strict=True):
            covered[name] += int(low <= truth <= high)
    print(f"\nS = {n_speakers}: covers { ({k: v / n for k, v in covered.items()}) }; {n} times")
    assert within(covered["ours"], n, 0.95)
    assert covered["percentile"] < covered["ours"]
    if n_speakers == 4:
        assert covered["expanded percentile"] < 0.92 * n
