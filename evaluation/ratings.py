"""Scores of ratings on dimensions: concordance (CCC) and root mean square error (RMSE).

With targets x and predictions y, means m, variances s^2 and covariance s_xy, all divided by n:

    CCC  = 2 s_xy / (s_x^2 + s_y^2 + (m_x - m_y)^2)
    RMSE = sqrt(mean of (x - y)^2), in units of the ratings

Both follow from the sums in `MOMENTS`, which add up over speakers, folds and bootstrap samples as
confusion counts do. So a CCC is always that of some utterances together, never a mean of CCCs of
parts: of a test fold, of all test utterances (`pooled`), or of the speakers that a sample took.

Source:
    Lin 1989, "A Concordance Correlation Coefficient to Evaluate Reproducibility": divisor n, as
    here. Where neither x nor y varies and their means agree it is 0 / 0; here 0.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from evaluation.scale import Scale

MOMENTS = ("n", "x", "xx", "y", "yy", "xy")  # sums over utterances
OF_TARGETS = 3  # of these, the first
TINY = 1e-12  # a variance below this part of the mean square is rounding


def moments(targets: NDArray, values: NDArray) -> NDArray:
    """Sum up some utterances: (N, D), (N, D) -> (D, 6).

    Raises:
        ValueError: There are no utterances, or shapes differ.
    """
    x, y = np.asarray(targets, float), np.asarray(values, float)
    if x.ndim != 2 or x.shape != y.shape or 0 in x.shape:
        raise ValueError(
            f"need a prediction for each target, and an utterance, got {y.shape} for {x.shape}"
        )
    return np.stack([part.sum(0) for part in (np.ones_like(x), x, x * x, y, y * y, x * y)], -1)


def ccc(sums: NDArray) -> NDArray:
    """Return the CCC of each dimension: (..., D, 6) -> (..., D).

    >>> x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [3.0], [4.0]])
    >>> ccc(moments(x, y)).round(4).tolist()  # 2 * 2/3 / (2/3 + 2/3 + 1)
    [0.5714]
    """
    n, x, xx, y, yy, xy = np.moveaxis(np.asarray(sums, float), -1, 0)
    m_x, m_y = x / n, y / n
    v_x, v_y = xx / n - m_x * m_x, yy / n - m_y * m_y
    vary = (v_x > TINY * xx / n) & (v_y > TINY * yy / n)
    below = np.where(vary, v_x + v_y + (m_x - m_y) ** 2, 1.0)
    return np.where(vary, 2 * (xy / n - m_x * m_y) / below, 0.0)


def rmse(sums: NDArray) -> NDArray:
    """Return the RMSE of each dimension: (..., D, 6) -> (..., D)."""
    n, _, xx, _, yy, xy = np.moveaxis(np.asarray(sums, float), -1, 0)
    return np.sqrt(np.maximum(xx - 2 * xy + yy, 0.0) / n)


def mean_ccc(sums: NDArray) -> NDArray:
    """Return the mean CCC over dimensions: (..., D, 6) -> (...)."""
    return ccc(sums).mean(-1)


def mean_rmse(sums: NDArray) -> NDArray:
    """Return the mean RMSE over dimensions: (..., D, 6) -> (...)."""
    return rmse(sums).mean(-1)


def of_dimension(score, place: int):  # type: ignore[no-untyped-def]
    """Return `ccc` or `rmse` of one dimension: a function (..., D, 6) -> (...)."""
    return partial(_one, score, place)


def _one(score, place: int, sums: NDArray) -> NDArray:  # type: ignore[no-untyped-def]
    found: NDArray = score(sums)[..., place]
    return found


def of_targets(sums: NDArray) -> NDArray:
    """Return what the targets alone decide: (..., D, 6) -> (..., D * 3)."""
    return sums[..., :OF_TARGETS].reshape(*sums.shape[:-2], -1)


CONCORDANCE = Scale(-1.0, 1.0, of_targets)
ERROR = Scale(0.0, np.inf, of_targets)


def speaker_moments(
    targets: NDArray, values: NDArray, speakers: Sequence[str]
) -> tuple[NDArray, NDArray]:
    """Sum up by speaker: (N, D), (N, D), (N,) -> sorted names (S,), (S, D, 6)."""
    speaker = np.asarray(speakers)
    names = np.unique(speaker)
    own = (speaker == name for name in names)
    return names, np.stack([moments(targets[rows], values[rows]) for rows in own])
