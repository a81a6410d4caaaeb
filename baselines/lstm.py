"""A small LSTM with attention pooling on MFCC: what a recurrent network reaches with 47 k weights.

**Source:** attention pooling of an LSTM's states, Mirsamadi et al. 2017; here one layer that reads
forwards, 20 MFCC with their differences, and the epoch with the best UA on dev.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.fitted import Fitted
from baselines.network import Recipe, Splits, Standardised, fit_network
from corpora.utterance import Utterance

HIDDEN = 88  # states
DROPOUT = 0.3
EPOCHS = 40
BATCH_SIZE = 32  # utterances
LR, WEIGHT_DECAY = 3e-3, 1e-2

Sequences = Callable[[Sequence[Utterance]], list[NDArray]]


class AttentionLSTM(Standardised):
    """LSTM, a weighted mean of its states, and a linear layer.

    Args:
        mean: Mean of each input over the training frames (F,).
        std: Their deviation (F,).
        n_classes: Number of classes K.
    """

    def __init__(self, mean: Tensor, std: Tensor, n_classes: int) -> None:
        super().__init__(mean, std)
        self.lstm = nn.LSTM(len(mean), HIDDEN, batch_first=True)
        self.attention = nn.Linear(HIDDEN, 1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(HIDDEN, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return logits: (B, T, F) padded at the end, (B,) -> (B, K)."""
        states, _ = self.lstm(self.standardised(frames))  # (B, T, H)
        beyond = torch.arange(frames.shape[1], device=frames.device) >= lengths[:, None]  # (B, T)
        weights = self.attention(states)[..., 0].masked_fill(beyond, -torch.inf).softmax(1)
        pooled = torch.einsum("bt,bth->bh", weights, states)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def with_differences(mfcc: NDArray) -> NDArray[np.float32]:
    """Append the differences from frame to frame, 0 in the first: (T, 20) -> (T, 40)."""
    return np.hstack([mfcc, np.diff(mfcc, axis=0, prepend=mfcc[:1])]).astype(np.float32)


def fit_lstm(
    sequences: Sequences, splits: Splits, rng_seed: int, device: torch.device, epochs: int = EPOCHS
) -> Fitted:
    """Train with class-balanced cross-entropy and AdamW; keep the epoch with the best UA on dev.

    Args:
        sequences: Returns the inputs (T, F) of utterances.
        splits: Training and dev split.
        rng_seed: Seed of weights, order and dropout.
        device: Device that trains.
        epochs: Number of epochs.
    """

    def make(x: Sequence[NDArray]) -> AttentionLSTM:
        frames = np.concatenate(x).astype(np.float64)
        mean, std = torch.tensor(frames.mean(0)).float(), torch.tensor(frames.std(0)).float()
        return AttentionLSTM(mean, std.clamp_min(1e-6), splits.n_classes)

    recipe = Recipe(epochs, BATCH_SIZE, LR, WEIGHT_DECAY)
    return fit_network(make, splits, sequences, _padded, recipe, rng_seed, device)


def _padded(x: Sequence[NDArray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return frames padded to the longest (B, T, F), and lengths (B,)."""
    frames = nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in x], batch_first=True)
    return frames.to(device), torch.tensor([len(one) for one in x], device=device)
