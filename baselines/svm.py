"""Support vector machine with an RBF kernel on one vector an utterance, as scikit-learn has it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from baselines.fitted import Fitted
from corpora.utterance import Utterance
from evaluation.metrics import scores

COSTS = (0.3, 1.0, 3.0, 10.0, 30.0)  # C; of equally good ones the smallest is taken
GAMMAS = (1.0, 0.25)  # times 1 / number of features, which is scikit-learn's `auto`

Vectors = Callable[[Sequence[Utterance]], NDArray]


class Choice(NamedTuple):
    """An SVM, how it was set, and its UA on dev."""

    scaler: StandardScaler
    svc: SVC
    cost: float
    gamma: float
    dev_ua: float


def fit_svm(
    vectors: Vectors,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    targets: Callable[[Sequence[Utterance]], list[int]],
    n_classes: int,
) -> Fitted:
    """Standardise by train, fit on train, choose C and gamma by the UA of dev.

    Args:
        vectors: Returns the features (N, D) of utterances.
        train: Training split.
        dev: Dev split.
        targets: Returns the class indices of utterances.
        n_classes: Number of classes K.
    """
    best = choose(vectors(train), targets(train), vectors(dev), targets(dev), n_classes)

    def predict(utterances: Sequence[Utterance]) -> NDArray:
        return probabilities(best, vectors(utterances))

    svc, scaler = best.svc, best.scaler
    arrays: dict[str, Any] = {
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "support_vectors": svc.support_vectors_,
        "dual_coef": svc.dual_coef_,
        "intercept": svc.intercept_,
        "n_support": svc.n_support_,
        "gamma": np.array(best.gamma),
    }
    choice = {"C": best.cost, "gamma": best.gamma, "dev_ua": best.dev_ua}
    return Fitted(predict, {k: torch.from_numpy(v) for k, v in arrays.items()}, choice)


def choose(
    x_train: NDArray,
    y_train: Sequence[int],
    x_dev: NDArray,
    y_dev: Sequence[int],
    n_classes: int,
) -> Choice:
    """Return the SVM of the grid with the best UA on dev; of equals the first.

    Args:
        x_train: Features of the training split (N, D).
        y_train: Its class indices.
        x_dev: Features of the dev split (M, D).
        y_dev: Its class indices.
        n_classes: Number of classes K.
    """
    scaler = StandardScaler().fit(x_train)
    x, best = scaler.transform(x_train), None
    for factor in GAMMAS:
        for cost in COSTS:
            gamma = factor / x.shape[1]
            svc = SVC(C=cost, gamma=gamma, class_weight="balanced")
            found = Choice(scaler, svc.fit(x, y_train), cost, gamma, 0.0)
            preds = probabilities(found, x_dev).argmax(1).tolist()
            ua = scores(list(y_dev), preds, n_classes)["ua"]
            if best is None or ua > best.dev_ua:
                best = found._replace(dev_ua=ua)
    assert best is not None
    return best


def probabilities(choice: Choice, x: NDArray) -> NDArray:
    """Return the softmax of the decision values (N, K): it sums to 1, and is not calibrated.

    The most probable class is what scikit-learn predicts with `break_ties`.

    Platt's probabilities would come from another model than the one that was chosen, fitted by an
    inner cross-validation that splits speakers.

    Args:
        choice: The SVM.
        x: Features before standardisation (N, D).
    """
    values = choice.svc.decision_function(choice.scaler.transform(x))  # (N, K), or (N,) of two
    if values.ndim == 1:
        values = np.stack([-values, values], axis=1)
    found: NDArray = softmax(values, axis=1)
    return found
