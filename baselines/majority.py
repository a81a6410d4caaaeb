"""The majority baseline: every utterance gets the class frequencies of training, or its means."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.fitted import Fitted


def fit_majority(targets: Sequence[int], n_classes: int) -> Fitted:
    """Count the training classes; of equally frequent ones the first is predicted.

    Args:
        targets: Class indices of the training utterances.
        n_classes: Number of classes K.
    """
    prior = np.bincount(targets, minlength=n_classes) / len(targets)  # (K,)

    def predict(utterances: Sequence[object]) -> NDArray:
        return np.tile(prior, (len(utterances), 1))

    return Fitted(predict, {"prior": torch.from_numpy(prior)})


def fit_mean(targets: Sequence[Sequence[float]]) -> Fitted:
    """Take the mean of training: of ratings the constant of least RMSE, of shares the prior.

    Args:
        targets: (N, D) ratings, or shares of votes, of the training utterances.
    """
    mean = np.mean(targets, axis=0)  # (D,)

    def predict(utterances: Sequence[object]) -> NDArray:
        return np.tile(mean, (len(utterances), 1))

    return Fitted(predict, {"mean": torch.from_numpy(mean)})
