"""Support vector regression with an RBF kernel on one vector an utterance, for ratings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from baselines.fitted import Fitted
from baselines.svm import COSTS, GAMMAS, Vectors
from config.tasks import RatingScale
from corpora.utterance import Utterance
from evaluation.ratings import mean_ccc, moments

EPSILON = 0.1  # half the width of the tube, on the scale -1..1, as scikit-learn has it


def fit_svr(
    vectors: Vectors,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    scale: RatingScale,
) -> Fitted:
    """Standardise by train, fit one SVR a dimension on train, choose C and gamma by dev CCC.

    C and gamma are those of all dimensions: the mean CCC decides, of equals the first.

    Args:
        vectors: Returns the features (N, D) of utterances.
        train: Training split.
        dev: Dev split.
        scale: Scale of the ratings.
    """
    y_train, y_dev = _targets(train), _targets(dev)
    scaler = StandardScaler().fit(vectors(train))
    x_train, x_dev = scaler.transform(vectors(train)), scaler.transform(vectors(dev))
    best: tuple[list[SVR], float, float] | None = None
    best_ccc = -np.inf
    for factor in GAMMAS:
        for cost in COSTS:
            gamma = factor / x_train.shape[1]
            svrs = [
                SVR(C=cost, gamma=gamma, epsilon=EPSILON).fit(x_train, scale.to_unit(column))
                for column in y_train.T
            ]
            score = float(mean_ccc(moments(y_dev, _predict(svrs, x_dev, scale))))
            if score > best_ccc:
                best, best_ccc = (svrs, cost, gamma), score
    assert best is not None
    svrs, cost, gamma = best

    def predict(utterances: Sequence[Utterance]) -> NDArray:
        return _predict(svrs, scaler.transform(vectors(utterances)), scale)

    choice = {"C": cost, "gamma": gamma, "dev_ccc": best_ccc}
    return Fitted(predict, _tensors(scaler, svrs, gamma), choice)


def _targets(utterances: Sequence[Utterance]) -> NDArray:
    return np.array([utterance.target for utterance in utterances], dtype=float)  # (N, D)


def _predict(svrs: Sequence[SVR], x: NDArray, scale: RatingScale) -> NDArray:
    found: NDArray = scale.to_rating(np.stack([svr.predict(x) for svr in svrs], 1))
    return found


def _tensors(scaler: StandardScaler, svrs: Sequence[SVR], gamma: float) -> dict[str, torch.Tensor]:
    """Return everything that a prediction needs; numbers at the end of a name are dimensions."""
    arrays: dict[str, Any] = {"mean": scaler.mean_, "scale": scaler.scale_}
    arrays["gamma"] = np.array(gamma)
    for i, svr in enumerate(svrs):
        arrays[f"support_vectors_{i}"] = svr.support_vectors_
        arrays[f"dual_coef_{i}"] = svr.dual_coef_
        arrays[f"intercept_{i}"] = svr.intercept_
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
