"""Calibration: by hand, against scikit-learn, and on made probabilities that are known to fit."""

import warnings

import numpy as np
import pytest
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from evaluation.calibration import (
    FLOOR,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    Bin,
    apply_temperature,
    area_under_risk_coverage,
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)


def fitting(n=4000, n_classes=4, seed=0):
    """Return probabilities and targets drawn from them: calibrated by construction."""
    draw = np.random.default_rng(seed)
    probs = special.softmax(1.5 * draw.standard_normal((n, n_classes)), axis=1)
    return probs, (draw.random((n, 1)) > probs.cumsum(1)[:, :-1]).sum(1)


def test_the_bins_by_hand():
    # Confidences 0.5 (right), 0.6 (wrong), 0.75 and 0.75 (one right), 1.0 (right); four bins,
    # an edge belongs to the bin below it.
    probs = np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.75, 0.25, 0], [0, 0.75, 0.25]])
    probs = np.vstack([probs, [0, 0, 1]])
    targets = np.array([0, 0, 0, 2, 2])
    bins = reliability(probs, targets, n_bins=4)
    assert bins[0] == Bin(0.0, 0.25, 0, None, None)
    assert bins[1] == Bin(0.25, 0.5, 1, 0.5, 1.0)
    assert bins[2] == Bin(0.5, 0.75, 3, pytest.approx(0.7), pytest.approx(1 / 3))
    assert bins[3] == Bin(0.75, 1.0, 1, 1.0, 1.0)
    # (1 * 0.5 + 3 * (0.7 - 1/3) + 1 * 0) / 5
    assert expected_calibration_error(probs, targets, n_bins=4) == pytest.approx(1.6 / 5)


@pytest.mark.parametrize("n_bins", [20, 35])  # 0.2 is 7 of 35 parts, 7 * (1 / 35) is less
def test_a_decimal_on_an_edge_belongs_to_the_bin_below(n_bins):
    for tenths in range(2, 10):
        probs = np.array([[tenths / 10, *[(10 - tenths) / 10 / 7] * 7]])
        bins = reliability(probs, np.array([0]), n_bins=n_bins)
        expected = -(-tenths * n_bins // 10) - 1  # ceil, in whole numbers
        assert [i for i, b in enumerate(bins) if b.n] == [expected]


def test_the_bins_are_scikit_learns():
    probs, targets = fitting(500)
    right, confidence = probs.argmax(1) == targets, probs.max(1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    bins = [b for b in reliability(probs, targets) if b.n]
    assert sum(b.n for b in bins) == 500 and len(reliability(probs, targets)) == 15
    np.testing.assert_allclose([b.accuracy for b in bins], accuracy)
    np.testing.assert_allclose([b.confidence for b in bins], mean)


def test_the_error_is_small_where_probabilities_fit_and_large_where_they_are_sharpened():
    probs, targets = fitting()
    assert expected_calibration_error(probs, targets) < 0.03
    sharp = apply_temperature(probs, 0.3)
    gap = sharp.max(1).mean() - (probs.argmax(1) == targets).mean()  # too sure in every bin
    assert expected_calibration_error(sharp, targets) == pytest.approx(gap, abs=0.01)
    assert gap > 0.1


def test_brier_and_cross_entropy_are_scikit_learns():
    probs, targets = fitting(300)
    labels = range(4)
    expected = brier_score_loss(targets, probs, labels=labels, scale_by_half=False)
    assert brier(probs, targets) == pytest.approx(expected)
    expected = log_loss(targets, probs, labels=labels)
    assert negative_log_likelihood(probs, targets) == pytest.approx(expected)


def test_brier_and_cross_entropy_of_a_stored_zero_by_hand():
    probs, targets = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 1])
    assert brier(probs, targets) == 1.25  # (1 + 1 + 0.25 + 0.25) / 2
    expected = (-np.log(FLOOR) + np.log(2)) / 2
    assert negative_log_likelihood(probs, targets) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.3, 0.8, 2.5])
def test_a_temperature_is_found_again(temperature):
    probs, targets = fitting(20_000)
    distorted = apply_temperature(probs, 1 / temperature)
    found = fit_temperature(distorted, targets)
    assert found == pytest.approx(temperature, rel=0.03)
    back = apply_temperature(distorted, temperature)
    np.testing.assert_allclose(back, probs, atol=0.01)  # FLOOR lifts what was sharpened below it


def test_the_temperature_has_the_least_cross_entropy_of_a_grid():
    probs, targets = fitting(200, seed=3)
    distorted = np.round(apply_temperature(probs, 0.5), 6)  # as stored, with zeros
    found = fit_temperature(distorted, targets)
    assert (distorted == 0).any()

    def loss(temperature):
        return negative_log_likelihood(apply_temperature(distorted, temperature), targets)

    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 400)
    best = min(grid, key=loss)
    assert found == pytest.approx(best, rel=0.02)
    assert loss(found) <= loss(best) + 1e-12


def test_the_temperature_ends_at_a_bound_or_stays_1_without_a_warning():
    soft = np.tile([0.7, 0.2, 0.1], (20, 1))
    hard = np.tile([1.0, 0.0, 0.0], (20, 1))
    right, least = np.zeros(20, int), np.full(20, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_temperature(soft, right) == MIN_TEMPERATURE
        assert fit_temperature(soft, least) == MAX_TEMPERATURE
        # Sure and right: sharper is better until the rest of the row is lost in rounding.
        assert fit_temperature(hard, right) == MIN_TEMPERATURE
        assert fit_temperature(hard, least) == MAX_TEMPERATURE
        assert fit_temperature(np.full((20, 4), 0.25), right) == 1.0
        assert fit_temperature(hard[:1], right[:1]) == MIN_TEMPERATURE


def test_a_temperature_keeps_rows_sums_and_the_order_of_classes():
    probs = np.round(fitting(100)[0], 6)
    for temperature in (MIN_TEMPERATURE, 0.5, 3.0):
        found = apply_temperature(probs, temperature)
        np.testing.assert_allclose(found.sum(1), 1)
        np.testing.assert_array_equal(found.argmax(1), probs.argmax(1))
    np.testing.assert_allclose(apply_temperature(probs, 1.0), probs, atol=1e-5)
    # 0.8 and 0.2 at T = 2: square roots, 2 to 1.
    np.testing.assert_allclose(apply_temperature(np.array([[0.8, 0.2]]), 2), [[2 / 3, 1 / 3]])


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_a_temperature_that_is_none_is_a_value_error(temperature):
    with pytest.raises(ValueError, match="above 0"):
        apply_temperature(np.array([[0.5, 0.5]]), temperature)


def test_risk_and_coverage_by_hand():
    # Confidence 0.9 right, 0.8 wrong, 0.7 right, 0.6 wrong, in another order.
    probs = np.array([[0.7, 0.3], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    coverage, risk = risk_coverage(probs, np.array([0, 0, 0, 0]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert area_under_risk_coverage(probs, np.zeros(4, int)) == pytest.approx(1 / 3)


def test_clips_of_equal_confidence_count_with_their_mean_error():
    # 0.9 right; three of 0.6, one wrong: errors 0, 1/3, 2/3, 1 of 1, 2, 3, 4 clips.
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    for wrong in (0, 2, 3):
        targets = np.zeros(4, int)
        targets[wrong] = 1
        _, risk = risk_coverage(probs, targets)
        np.testing.assert_allclose(risk, [0, 1 / 6, 2 / 9, 1 / 4])


def test_risk_is_the_mean_over_all_orders_of_the_clips():
    draw = np.random.default_rng(0)
    top = draw.choice([0.6, 0.7, 0.8], 30)
    probs, targets = np.stack([top, 1 - top], 1), draw.integers(0, 2, 30)
    coverage, risk = risk_coverage(probs, targets)
    orders = [draw.permutation(30) for _ in range(4000)]
    ranked = [order[np.argsort(-top[order], kind="stable")] for order in orders]
    curves = [np.cumsum(targets[rank] == 1) / np.arange(1, 31) for rank in ranked]
    np.testing.assert_allclose(risk, np.mean(curves, 0), atol=0.03)
    assert risk[-1] == pytest.approx((targets == 1).mean()) and coverage[-1] == 1
    order = orders[0]
    np.testing.assert_array_equal(risk_coverage(probs[order], targets[order])[1], risk)


def test_the_area_ranks_a_confidence_that_knows_above_one_that_does_not():
    probs, targets = fitting()
    knows = area_under_risk_coverage(probs, targets)
    draw = np.random.default_rng(0)
    top = draw.uniform(0.5, 1, 4000)  # confidence without meaning, as many errors
    order = np.where(probs.argmax(1) == targets, 0, 1)
    blind = area_under_risk_coverage(np.stack([top, 1 - top], 1), order)
    assert blind == pytest.approx(order.mean(), abs=0.05) and knows < 0.7 * blind
    assert area_under_risk_coverage(np.eye(3), np.arange(3)) == 0.0


HALF = [0.5, 0.5]
BAD = [
    (np.zeros((0, 2)), np.zeros(0, int), "need probabilities"),
    (np.array(HALF), np.array([0, 1]), "need probabilities"),
    (np.array([HALF]), np.array([0, 1]), "need probabilities"),
    (np.array([[0.5, 0.6]]), np.array([0]), "add up to 1"),
    (np.array([[1.5, -0.5]]), np.array([0]), "not be negative"),
    (np.array([[np.nan, 1.0]]), np.array([0]), "add up to 1"),
    (np.array([HALF]), np.array([2]), "targets must be in 0..1"),
    (np.array([HALF]), np.array([-1]), "targets must be in 0..1"),
]


@pytest.mark.parametrize(("probs", "targets", "message"), BAD)
def test_what_are_not_probabilities_is_a_value_error(probs, targets, message):
    for measure in (
        reliability,
        expected_calibration_error,
        negative_log_likelihood,
        brier,
        fit_temperature,
        risk_coverage,
        area_under_risk_coverage,
    ):
        with pytest.raises(ValueError, match=message):
            measure(probs, targets)
    with pytest.raises(ValueError, match="n_bins"):
        reliability(np.array([HALF]), np.array([0]), n_bins=0)
