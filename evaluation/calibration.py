"""Are the probabilities calibrated, and which utterances should be left to a human?

Probabilities are (N, K), rows add up to 1; the prediction is the most probable class and its
probability is the confidence. They are stored with 6 decimals, so zeros occur: logarithms replace
what is below FLOOR by FLOOR.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOOR = 5e-7  # half of the last decimal stored
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
SUM_TOLERANCE = 1e-3  # of a row's sum from 1; rounding stays far below


@dataclass(frozen=True)
class Bin:
    """The n utterances whose confidence is in (low, high]; means are None where n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration on the test utterances of all folds and seeds.

    Each utterance counts once for every seed. Fields that end in `_scaled` are after temperature
    scaling.

    Attributes:
        temperature: Temperature fitted on dev, by fold and seed.
        ece: Expected calibration error.
        nll: Negative log-likelihood, nats.
        brier: Brier score, 0 to 2.
        reliability: Bins of equal width.
    """

    temperature: dict[str, float]
    ece: float
    nll: float
    brier: float
    reliability: list[Bin]
    ece_scaled: float
    nll_scaled: float
    brier_scaled: float
    reliability_scaled: list[Bin]


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """Errors among the most confident utterances, mean over seeds.

    Attributes:
        coverage: (M,) share of the utterances that the model labels.
        risk: (M,) share of these that is wrong.
        area: Mean risk over all coverages.
    """

    coverage: list[float]
    risk: list[float]
    area: float


def reliability(probs: NDArray, targets: NDArray, n_bins: int = 15) -> list[Bin]:
    """Return mean confidence and accuracy in bins of equal width: (N, K), (N,) -> M bins.

    Raises:
        ValueError: No probabilities or targets as described above, or no bins.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.

    >>> reliability(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 0]), n_bins=2)[1]
    Bin(low=0.5, high=1.0, n=2, confidence=0.8, accuracy=0.5)
    """
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    confidence, right = _confidence(probs, targets)
    edges = np.arange(n_bins + 1) / n_bins
    place = np.searchsorted(edges[1:-1], confidence, side="left")  # (N,): an edge counts below
    bins = []
    for i in range(n_bins):
        inside = place == i
        means = [float(x[inside].mean()) if inside.any() else None for x in (confidence, right)]
        bins.append(Bin(float(edges[i]), float(edges[i + 1]), int(inside.sum()), *means))
    return bins


def expected_calibration_error(probs: NDArray, targets: NDArray, n_bins: int = 15) -> float:
    """Return the mean distance of accuracy from confidence over bins, weighted by their size.

    Raises:
        ValueError: See `reliability`.

    Source:
        Guo et al. 2017, equation 3, after Naeini et al. 2015. It depends on the number of bins.
    """
    bins = reliability(probs, targets, n_bins)
    gaps = [
        b.n * abs(b.accuracy - b.confidence)
        for b in bins
        if b.accuracy is not None and b.confidence is not None
    ]
    return sum(gaps) / len(targets)


def negative_log_likelihood(probs: NDArray, targets: NDArray) -> float:
    """Return the mean cross-entropy in nats, probabilities at least FLOOR: (N, K), (N,).

    Raises:
        ValueError: No probabilities or targets as described above.
    """
    _check(probs, targets)
    return float(-np.log(np.maximum(_of_target(probs, targets), FLOOR)).mean())


def brier(probs: NDArray, targets: NDArray) -> float:
    """Return the mean squared distance from the target's one-hot row, 0 to 2: (N, K), (N,).

    Raises:
        ValueError: No probabilities or targets as described above.

    Source:
        Brier 1950, the sum over classes, not half of it.
    """
    _check(probs, targets)
    return float(np.square(probs - np.eye(probs.shape[1])[targets]).sum(1).mean())


def fit_temperature(dev_probs: NDArray, dev_targets: NDArray) -> float:
    """Return the temperature that minimises the cross-entropy on dev: (N, K), (N,).

    Fit it on dev only: fitted on test it would bias the calibration measured there. Above 1 the
    model was overconfident, below 1 underconfident. The result is MIN_TEMPERATURE where sharper is
    always better (all dev utterances right), MAX_TEMPERATURE where flatter is (the target is the
    least probable class of all), and 1 where it makes no difference.

    Raises:
        ValueError: No probabilities or targets as described above.

    Source:
        Guo et al. 2017, temperature scaling. Here logits are logarithms of stored probabilities.
    """
    from scipy.optimize import minimize_scalar  # slow to import
    from scipy.special import log_softmax

    _check(dev_probs, dev_targets)
    logits = _log(dev_probs)

    def cross_entropy(temperature: float) -> float:
        scaled = log_softmax(logits / temperature, axis=1)
        return float(-_of_target(scaled, dev_targets).mean())

    # Cross-entropy is convex in 1/T, so it has one minimum in log T; the search omits the bounds.
    minimum = minimize_scalar(
        lambda log_temperature: cross_entropy(np.exp(log_temperature)),
        bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    candidates = [1.0, MIN_TEMPERATURE, MAX_TEMPERATURE, float(np.exp(minimum.x))]
    return min(candidates, key=cross_entropy)  # the first of equals


def apply_temperature(probs: NDArray, temperature: float) -> NDArray:
    """Return softmax(log(probs) / T): (N, K) -> (N, K); the order of classes stays.

    Raises:
        ValueError: T is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    from scipy.special import softmax  # slow to import

    return softmax(_log(probs) / temperature, axis=1)


def risk_coverage(probs: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
    """Return coverage and risk of the 1, 2, ... N most confident: (N, K), (N,) -> (N,), (N,).

    Coverage is the share of utterances that the model labels, risk the share of these that is
    wrong. Utterances of equal confidence count with their mean error, so their order does not
    matter.

    Raises:
        ValueError: No probabilities or targets as described above.

    Source:
        Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks".
    """
    confidence, right = _confidence(probs, targets)
    _, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    error = np.bincount(group, weights=~right) / size  # (groups,), falling confidence
    taken = np.arange(1, len(right) + 1)
    return taken / len(right), np.cumsum(np.repeat(error, size)) / taken


def area_under_risk_coverage(probs: NDArray, targets: NDArray) -> float:
    """Return the mean risk over all coverages, 0 where all are right: lower is better.

    Raises:
        ValueError: See `risk_coverage`.

    Source:
        Geifman, Uziel & El-Yaniv 2019, AURC.
    """
    return float(risk_coverage(probs, targets)[1].mean())


def _confidence(probs: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
    """Return the greatest probability and whether its class is the target: (N,), (N,) bool."""
    _check(probs, targets)
    return probs.max(1), probs.argmax(1) == targets


def _log(probs: NDArray) -> NDArray:
    return np.log(np.maximum(probs, FLOOR))


def _of_target(values: NDArray, targets: NDArray) -> NDArray:
    return values[np.arange(len(targets)), targets]  # (N,)


def _check(probs: NDArray, targets: NDArray) -> None:
    if probs.ndim != 2 or 0 in probs.shape or targets.shape != probs.shape[:1]:
        raise ValueError(
            f"need probabilities (N, K) and targets (N,), got {probs.shape} and {targets.shape}"
        )
    if not (probs >= 0).all() or not (np.abs(probs.sum(1) - 1) <= SUM_TOLERANCE).all():
        raise ValueError("probabilities must not be negative and each row must add up to 1")
    if targets.min() < 0 or targets.max() >= probs.shape[1]:
        raise ValueError(
            f"targets must be in 0..{probs.shape[1] - 1}, got {np.unique(targets).tolist()}"
        )
