"""A fitted baseline: what was chosen on dev, what predicts, and its tensors for the fold folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from corpora.utterance import Utterance


@dataclass(frozen=True)
class Fitted:
    """A baseline that was fitted on train and chosen on dev; the test split is not opened.

    Args:
        predict: Returns the class probabilities (N, K) of utterances, or their ratings (N, D).
        tensors: Everything that a prediction needs, for model.safetensors.
        choice: What was chosen on dev, in words for the model card: {"C": 3.0, "dev_ua": 0.5}.
        history: One mapping per epoch, as in history.csv; empty without epochs.
        best_epoch: Epoch whose weights predict, counted from 1; 0 without epochs.
    """

    predict: Callable[[Sequence[Utterance]], NDArray]
    tensors: Mapping[str, Tensor]
    choice: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    best_epoch: int = 0
