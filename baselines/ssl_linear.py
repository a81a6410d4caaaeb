"""A linear layer on the weighted hidden states of a frozen speech model: SUPERB's form.

    pooled[l] = mean over time of hidden state l, standardised over training      (B, L, D)
    logits = W sum_l softmax(w)_l pooled[l] + b                                   (B, K)

w, W and b are trained. The row that reviewers ask for: what fusions add has to be above it.

**Source:** Yang et al. 2021 (SUPERB), emotion recognition: weighted sum, mean pooling, linear. Here
each state is standardised first, and there is no projection to 256 before the pooling, which would
make the layer no longer one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.fitted import Fitted
from baselines.network import Recipe, Splits, Standardised, fit_network
from corpora.utterance import Utterance
from models.speech import SpeechBranch

RECIPE = Recipe(epochs=60, batch_size=32, lr=1e-3, weight_decay=1e-2)
TINY = 1e-6  # of a deviation: what does not vary is not standardised

States = Callable[[Sequence[Utterance]], NDArray]


class SslLinear(Standardised):
    """Weighted layers, then one linear layer.

    Args:
        mean: Mean of the pooled hidden states over training (L, D).
        std: Their deviation (L, D).
        n_classes: Number of classes K.
    """

    def __init__(self, mean: Tensor, std: Tensor, n_classes: int) -> None:
        super().__init__(mean, std)
        self.speech = SpeechBranch(len(mean), mean.shape[1], "mean")
        self.classifier = nn.Linear(mean.shape[1], n_classes)

    def forward(self, states: Tensor) -> Tensor:
        """Return logits: (B, L, D) -> (B, K)."""
        logits: Tensor = self.classifier(self.speech(self.standardised(states)))
        return logits


def fit_ssl_linear(
    states: States, splits: Splits, rng_seed: int, device: torch.device, recipe: Recipe = RECIPE
) -> Fitted:
    """Train on train, and keep the epoch with the best UA on dev.

    Args:
        states: Returns the pooled hidden states (N, L, D) of utterances.
        splits: Training and dev split.
        rng_seed: Seed of weights and order.
        device: Device that trains.
        recipe: How it is trained.
    """

    def make(x: Sequence[NDArray]) -> SslLinear:
        every = np.stack(x).astype(np.float32, copy=False)
        mean, std = torch.from_numpy(every.mean(0)), torch.from_numpy(every.std(0))
        std = torch.where(std < TINY * (1 + mean.abs()), 1.0, std)
        return SslLinear(mean, std, splits.n_classes)

    return fit_network(
        make, splits, lambda some: list(states(some)), _stacked, recipe, rng_seed, device
    )


def _stacked(x: Sequence[NDArray], device: torch.device) -> tuple[Tensor]:
    return (torch.from_numpy(np.stack(x)).float().to(device),)
