"""A small LSTM with attention pooling on MFCC: what a recurrent network reaches with 47 k weights.

**Source:** attention pooling of an LSTM's states, Mirsamadi et al. 2017; here one layer that reads
forwards, 20 MFCC with their differences, and the epoch with the best UA on dev.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.fitted import Fitted
from corpora.utterance import Utterance
from evaluation.metrics import scores

HIDDEN = 88  # states
DROPOUT = 0.3
EPOCHS = 40
BATCH_SIZE = 32  # utterances
LR, WEIGHT_DECAY, CLIP = 3e-3, 1e-2, 1.0

Sequences = Callable[[Sequence[Utterance]], list[NDArray]]


class AttentionLSTM(nn.Module):
    """LSTM, a weighted mean of its states, and a linear layer.

    Args:
        mean: Mean of each input over the training frames (F,); kept with the weights.
        std: Standard deviation of each input (F,).
        n_classes: Number of classes K.
    """

    def __init__(self, mean: Tensor, std: Tensor, n_classes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.lstm = nn.LSTM(len(mean), HIDDEN, batch_first=True)
        self.attention = nn.Linear(HIDDEN, 1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(HIDDEN, n_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return logits: (B, T, F) padded at the end, (B,) -> (B, K)."""
        states, _ = self.lstm((frames - self.mean) / self.std)  # (B, T, H)
        beyond = torch.arange(frames.shape[1], device=frames.device) >= lengths[:, None]  # (B, T)
        weights = self.attention(states)[..., 0].masked_fill(beyond, -torch.inf).softmax(1)
        pooled = torch.einsum("bt,bth->bh", weights, states)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def with_differences(mfcc: NDArray) -> NDArray[np.float32]:
    """Append the differences from frame to frame, 0 in the first: (T, 20) -> (T, 40)."""
    return np.hstack([mfcc, np.diff(mfcc, axis=0, prepend=mfcc[:1])]).astype(np.float32)


def fit_lstm(
    sequences: Sequences,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    targets: Callable[[Sequence[Utterance]], list[int]],
    n_classes: int,
    rng_seed: int,
    device: torch.device,
    epochs: int = EPOCHS,
) -> Fitted:
    """Train with class-balanced cross-entropy and AdamW; keep the epoch with the best UA on dev.

    Args:
        sequences: Returns the inputs (T, F) of utterances.
        train: Training split.
        dev: Dev split.
        targets: Returns the class indices of utterances.
        n_classes: Number of classes K.
        rng_seed: Seed of weights, order and dropout.
        device: Device that trains.
        epochs: Number of epochs.
    """
    x, y = sequences(train), torch.tensor(targets(train))
    x_dev, y_dev = sequences(dev), targets(dev)
    frames = np.concatenate(x).astype(np.float64)
    mean, std = torch.tensor(frames.mean(0)).float(), torch.tensor(frames.std(0)).float()
    torch.manual_seed(rng_seed)
    rng = torch.Generator().manual_seed(rng_seed)  # of the order
    model = AttentionLSTM(mean, std.clamp_min(1e-6), n_classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)
    counts = torch.bincount(y, minlength=n_classes)
    balanced = (len(y) / (n_classes * counts)).to(device)  # (K,), as scikit-learn's
    history: list[dict[str, float]] = []
    best, best_epoch, best_ua = _copy(model), 0, -1.0
    for epoch in range(1, epochs + 1):
        loss = _train_epoch(model, optimizer, x, y, balanced, rng)
        preds = _predict(model, x_dev).argmax(1).tolist()
        ua = scores(y_dev, preds, n_classes)["ua"]
        history.append({"epoch": epoch, "loss": loss, "dev_ua": ua})
        if ua > best_ua:
            best, best_epoch, best_ua = _copy(model), epoch, ua
    model.load_state_dict(best)

    def predict(utterances: Sequence[Utterance]) -> NDArray:
        return _predict(model, sequences(utterances))

    return Fitted(predict, best, {"dev_ua": best_ua}, history, best_epoch)


def _train_epoch(
    model: AttentionLSTM,
    optimizer: torch.optim.Optimizer,
    x: Sequence[NDArray],
    y: Tensor,
    class_weights: Tensor,
    rng: torch.Generator,
) -> float:
    """Train one epoch; return the mean loss."""
    model.train()
    total = 0.0
    device = class_weights.device
    for rows in torch.randperm(len(x), generator=rng).split(BATCH_SIZE):
        logits = model(*_padded([x[i] for i in rows.tolist()], device))
        loss = F.cross_entropy(logits, y[rows].to(device), class_weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        total += float(loss.detach()) * len(rows)
    return total / len(x)


@torch.inference_mode()
def _predict(model: AttentionLSTM, x: Sequence[NDArray]) -> NDArray:
    """Return class probabilities (N, K)."""
    model.eval()
    device = next(model.parameters()).device
    parts = [model(*_padded(batch, device)).softmax(1).cpu() for batch in _batches(x)]
    probs: NDArray = torch.cat(parts).double().numpy()
    return probs / probs.sum(1, keepdims=True)


def _batches(x: Sequence[NDArray]) -> Iterator[Sequence[NDArray]]:
    for start in range(0, len(x), BATCH_SIZE):
        yield x[start : start + BATCH_SIZE]


def _padded(x: Sequence[NDArray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return frames padded to the longest (B, T, F), and lengths (B,)."""
    frames = nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in x], batch_first=True)
    return frames.to(device), torch.tensor([len(one) for one in x], device=device)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
