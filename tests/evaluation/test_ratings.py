"""CCC and RMSE by hand, against pearson r and plain loops; and as sums over speakers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.paired_tests import paired_test
from evaluation.ratings import CONCORDANCE, ERROR, ccc, mean_ccc, moments, rmse, speaker_moments
from evaluation.significance import speaker_interval, t_interval
from evaluation.tasks import make_task


def drawn(n: int, seed: int = 0, dimensions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(3, 1, (n, dimensions))
    return x, 0.7 * x + draw.normal(1.2, 0.6, x.shape)


def test_ccc_and_rmse_by_hand():
    # means 2 and 7/3, variances 2/3 and 14/9, covariance 1: 2 / (2/3 + 14/9 + 1/9) = 6/7
    sums = moments(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]]))
    assert ccc(sums)[0] == pytest.approx(6 / 7)
    assert rmse(sums)[0] == pytest.approx(np.sqrt(1 / 3))


def test_ccc_is_pearson_r_times_the_bias_factor():
    # Lin 1989: rho_c = rho C_b, C_b = 2 / (v + 1/v + u^2), with v = s_x / s_y and
    # u^2 = (m_x - m_y)^2 / (s_x s_y)
    x, y = drawn(60)
    for i, found in enumerate(ccc(moments(x, y))):
        s_x, s_y = x[:, i].std(), y[:, i].std()
        u = (x[:, i].mean() - y[:, i].mean()) ** 2 / (s_x * s_y)
        bias = 2 / (s_x / s_y + s_y / s_x + u)
        assert found == pytest.approx(stats.pearsonr(x[:, i], y[:, i])[0] * bias)


@given(st.integers(2, 40), st.integers(0, 10**6), st.floats(0.1, 9), st.floats(-50, 50))
def test_ccc_does_not_depend_on_the_unit_and_rmse_is_in_it(n, seed, factor, offset):
    x, y = drawn(n, seed)
    changed = moments(factor * x + offset, factor * y + offset)
    np.testing.assert_allclose(ccc(changed), ccc(moments(x, y)), atol=1e-6)
    np.testing.assert_allclose(rmse(changed), factor * rmse(moments(x, y)), rtol=1e-6, atol=1e-6)


def test_constants_have_a_ccc_of_0():
    x = np.full((4, 1), 3.0)
    assert ccc(moments(x, x))[0] == 0 and ccc(moments(drawn(4, 1, 1)[0], x))[0] == 0
    third = np.full((300, 1), 10 / 3)  # whose sums are rounded: 0, neither above nor below
    x, _ = drawn(300, 7, 1)
    assert ccc(moments(x, third))[0] == ccc(moments(third, x))[0] == 0


def test_sums_of_speakers_add_up_to_those_of_all():
    x, y = drawn(50)
    speakers = np.random.default_rng(1).choice(list("dabc"), 50)
    names, sums = speaker_moments(x, y, speakers.tolist())
    assert names.tolist() == list("abcd")
    np.testing.assert_allclose(sums.sum(0), moments(x, y))
    # a CCC of all is not the mean of the speakers'
    assert abs(mean_ccc(sums).mean() - mean_ccc(sums.sum(0))) > 1e-3


@pytest.mark.parametrize("shapes", [((0, 3), (0, 3)), ((3, 2), (3, 3)), ((3,), (3,))])
def test_what_cannot_be_scored_is_a_value_error(shapes):
    with pytest.raises(ValueError, match="need a prediction for each target"):
        moments(*(np.zeros(shape) for shape in shapes))


def test_the_interval_of_a_ccc_is_that_of_resampled_speakers():
    x, y = drawn(400)
    speakers = [f"s{i % 8}" for i in range(400)]
    sums = speaker_moments(x, y, speakers)[1][None]  # (1, 8, 3, 6)
    low, high = speaker_interval(sums, mean_ccc, scale=CONCORDANCE)
    draw, found = np.random.default_rng(5), []
    for _ in range(4000):  # utterances of the drawn speakers, scored by a plain loop
        rows = np.concatenate([np.arange(s, 400, 8) for s in draw.integers(0, 8, 8)])
        found.append(np.mean(ccc(moments(x[rows], y[rows]))))
    se = np.std(found) * np.sqrt(8 / 7)
    value = float(mean_ccc(sums[0].sum(0)))
    logit, se_logit = np.log((1 + value) / (1 - value)), se * 2 / (1 - value**2)
    reach = stats.t.ppf(0.975, 7) * se_logit
    expected = [np.tanh((logit + sign * reach) / 2) for sign in (-1, 1)]
    np.testing.assert_allclose([low, high], expected, atol=0.004)


def test_an_error_has_an_interval_above_0_and_no_upper_end():
    low, high = t_interval(0.5, 0.2, 5, 0.95, ERROR.least, ERROR.most)
    reach = stats.t.ppf(0.975, 4) * 0.4
    assert (low, high) == pytest.approx((0.5 * np.exp(-reach), 0.5 * np.exp(reach)))
    plain = t_interval(0.5, 0.2, 5, 0.95, *ERROR.of_differences())
    assert plain == pytest.approx([0.5 - reach / 2, 0.5 + reach / 2])


def cells(values: np.ndarray, x: np.ndarray, n_speakers: int) -> np.ndarray:
    speakers = [f"{i % n_speakers}" for i in range(len(x))]
    return speaker_moments(x, values, speakers)[1][None]


def test_a_paired_test_of_two_runs_finds_the_better_ratings():
    x, good = drawn(480, 2)
    bad = good + np.random.default_rng(3).normal(0, 1.5, good.shape)
    speakers, folds = [str(i) for i in range(12)], [i // 2 for i in range(12)]
    pair = cells(good, x, 12), cells(bad, x, 12)
    test = paired_test(*pair, speakers, folds, mean_ccc, scale=CONCORDANCE)
    both = [float(mean_ccc(moments(x, values))) for values in (good, bad)]
    assert test.difference == pytest.approx(both[0] - both[1])
    assert test.p < 0.05 and test.interval[0] > 0
    same = paired_test(pair[0], pair[0], speakers, folds, mean_ccc, scale=CONCORDANCE)
    assert same.p == 1 and same.difference == 0


def test_runs_with_other_targets_are_not_tested_against_each_other():
    x, y = drawn(40)
    with pytest.raises(ValueError, match="same utterances"):
        paired_test(
            *(cells(y, x, 4), cells(y, x + 0.01, 4)),
            *(list("0123"), [0, 1, 2, 3], mean_ccc),
            scale=CONCORDANCE,
        )


def test_groups_are_halves_of_the_scale_and_its_middle_is_high():
    task = make_task("dimensions", ("valence", "arousal", "dominance"), (1, 5))
    names = [task.group_names[i] for i in task.group_of(np.array([[1, 5, 1.0], [3, 2, 5]]))]
    assert names == ["low valence, high arousal", "high valence, low arousal"]
    alone = make_task("dimensions", ("dominance",), (1, 7))
    assert alone.group_of(np.array([[3.9], [4.0]])).tolist() == [0, 1]
    assert alone.group_names == ("low dominance", "high dominance")
    assert list(alone.measures) == ["ccc", "rmse"] and alone.pooled == ("ccc", "rmse")
