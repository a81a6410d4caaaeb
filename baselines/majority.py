"""The majority baseline: every utterance gets the class frequencies of the training split."""

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
