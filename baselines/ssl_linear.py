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
from baselines.network import Data, Recipe, fit_network
from corpora.utterance import Utterance
from models.speech import SpeechBranch

RECIPE = Recipe(epochs=60, batch_size=32, lr=1e-3, weight_decay=1e-2)
TINY = 1e-6  # of a deviation: what does not vary is not standardised

States = Callable[[Sequence[Utterance]], NDArray]


class SslLinear(nn.Module):
    """Weighted layers, then one linear layer.

    Args:
        mean: Mean of the pooled hidden states over training (L, D); kept with the weights.
        std: Their deviation (L, D).
        n_classes: Number of classes K.
    """

    def __init__(self, mean: Tensor, std: Tensor, n_classes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.speech = SpeechBranch(len(mean), mean.shape[1], "mean")
        self.classifier = nn.Linear(mean.shape[1], n_classes)

    def forward(self, states: Tensor) -> Tensor:
        """Return logits: (B, L, D) -> (B, K)."""
        logits: Tensor = self.classifier(self.speech((states - self.mean) / self.std))
        return logits


def fit_ssl_linear(
    states: States,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    targets: Callable[[Sequence[Utterance]], list[int]],
    n_classes: int,
    rng_seed: int,
    device: torch.device,
    recipe: Recipe = RECIPE,
) -> Fitted:
    """Train on train, and keep the epoch with the best UA on dev.

    Args:
        states: Returns the pooled hidden states (N, L, D) of utterances.
        train: Training split.
        dev: Dev split.
        targets: Returns the class indices of utterances.
        n_classes: Number of classes K.
        rng_seed: Seed of weights and order.
        device: Device that trains.
        recipe: How it is trained.
    """
    x = states(train).astype(np.float32)
    mean, std = torch.from_numpy(x.mean(0)), torch.from_numpy(x.std(0))
    std = torch.where(std < TINY * (1 + mean.abs()), 1.0, std)
    torch.manual_seed(rng_seed)
    model = SslLinear(mean, std, n_classes).to(device)
    data = Data(list(x), targets(train), list(states(dev)), targets(dev))
    return fit_network(
        model, data, lambda some: list(states(some)), _stacked, n_classes, recipe, rng_seed
    )


def _stacked(x: Sequence[NDArray], device: torch.device) -> tuple[Tensor]:
    return (torch.from_numpy(np.stack(x)).float().to(device),)
