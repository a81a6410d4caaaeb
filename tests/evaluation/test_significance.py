"""Tests and intervals over speakers: by hand, against scipy and statsmodels, and by simulation.

`pytest tests/evaluation/test_significance.py -s -k simulation` prints what the simulations measure.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from evaluation.metrics import SCORES, confusion_matrix
from evaluation.paired_tests import fixed_weights_test
from evaluation.significance import holm, mcnemar, speaker_confusions, speaker_interval
from tests.support.confusions import counts_of, counts_of_right, right_of, simulate, within

UA, WA = SCORES["ua"], SCORES["wa"]


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


def test_the_interval_of_three_speakers_by_hand():
    # Accuracies 1/4, 2/4, 3/4, mean 1/2, variance with divisor 3: 1/24. The mean of a draw of three
    # has variance 1/72, the standard error is sqrt(1/72) * sqrt(3 / 2) = 1 / sqrt(48).
    # Student's t with 2 degrees of freedom at level 1/2 is sqrt(2/3): t / sqrt(2 + t^2) = 1/2.
    # Logit scale: 0 +- sqrt(2/3) / sqrt(48) / (1/2 * 1/2) = +-sqrt(2) / 3.
    low, high = speaker_interval(right_of(1, 2, 3), WA, n_draws=100_000, level=0.5)
    reach = np.sqrt(2) / 3
    assert (low, high) == pytest.approx((special.expit(-reach), special.expit(reach)), abs=0.003)


def test_two_speakers_have_no_interval():
    assert speaker_interval(right_of(1, 3), WA) is None
    assert speaker_interval(right_of(1, 2, 3), WA) is not None


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
    # Speaker a has class 0 alone, 2 of 4 right; b and c have class 1 alone, all right. UA of the
    # draws: aaa 1/2 (1 of 27), without a 1 (8 of 27), all others 3/4.
    each = np.array([[[[2, 2], [0, 0]], [[0, 0], [0, 4]], [[0, 0], [0, 4]]]])
    found = speaker_interval(each, UA, n_draws=100_000, level=0.5)
    values, chances = np.array([1 / 2, 1, 3 / 4]), np.array([1, 8, 18]) / 27
    variance = chances @ values**2 - (chances @ values) ** 2
    reach = np.sqrt(2 / 3) * np.sqrt(variance * 3 / 2) / (0.75 * 0.25)
    expected = special.expit(special.logit(0.75) + np.array([-reach, reach]))
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
    for call in (
        lambda: speaker_interval(each, WA),
        lambda: fixed_weights_test(each, each, WA),
    ):
        with pytest.raises(ValueError, match=message):
            call()


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


def test_simulation_mcnemar_rejects_too_often_where_errors_cluster_by_speaker():
    n, rejected = 1500, {}
    for spread in (0.0, 1.0):
        draw = np.random.default_rng(8)
        by_clip = by_speaker = 0
        for _ in range(n):
            right = simulate(draw, 2, 10, spread=spread)
            by_clip += mcnemar(*right.reshape(2, -1)).p <= 0.05
            by_speaker += (
                fixed_weights_test(*counts_of_right(right)[:, None], UA, n_draws=2).p <= 0.05
            )
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
