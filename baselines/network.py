"""Train a small network with class-balanced cross-entropy and AdamW; dev chooses the epoch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.fitted import Fitted
from corpora.utterance import Utterance
from evaluation.metrics import scores

CLIP = 1.0  # largest norm of the gradient
Inputs = Callable[[Sequence[Utterance]], Sequence[NDArray]]  # one array an utterance
Collate = Callable[[Sequence[NDArray], torch.device], tuple[Tensor, ...]]


class Recipe(NamedTuple):
    """How it is trained."""

    epochs: int
    batch_size: int  # utterances
    lr: float
    weight_decay: float


class Splits(NamedTuple):
    """What trains and chooses."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance]
    targets: Callable[[Sequence[Utterance]], list[int]]  # class indices of utterances
    n_classes: int  # K


class Standardised(nn.Module):
    """A network that standardises what it reads.

    Args:
        mean: Mean of each input over the training split; kept with the weights.
        std: Their deviation.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def standardised(self, x: Tensor) -> Tensor:
        """Return inputs with mean 0 and deviation 1 over the training split."""
        return (x - self.mean) / self.std


def fit_network(
    make: Callable[[Sequence[NDArray]], nn.Module],
    splits: Splits,
    inputs: Inputs,
    collate: Collate,
    recipe: Recipe,
    rng_seed: int,
    device: torch.device,
) -> Fitted:
    """Train a model on train, and keep the epoch with the best UA on dev.

    Args:
        make: Makes the model for the arrays of the training split, which returns logits (B, K) of
            what `collate` returns.
        splits: Training and dev split.
        inputs: Returns the arrays of utterances.
        collate: Makes a batch of arrays, on a device.
        recipe: How it is trained.
        rng_seed: Seed of weights, order and dropout.
        device: Device that trains.
    """
    x, x_dev = inputs(splits.train), inputs(splits.dev)
    y, y_dev = torch.tensor(splits.targets(splits.train)), splits.targets(splits.dev)
    torch.manual_seed(rng_seed)
    model, n_classes = make(x).to(device), splits.n_classes
    rng = torch.Generator().manual_seed(rng_seed)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    counts = torch.bincount(y, minlength=n_classes)
    balanced = (len(y) / (n_classes * counts)).to(device)  # (K,), as scikit-learn's
    history: list[dict[str, float]] = []
    best, best_epoch, best_ua = _copy(model), 0, -1.0

    def predict_arrays(read: Sequence[NDArray]) -> NDArray:
        batches = _batches(read, recipe.batch_size)
        return _predict(model, (collate(some, device) for some in batches))

    for epoch in range(1, recipe.epochs + 1):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(y), generator=rng).split(recipe.batch_size):
            logits = model(*collate([x[i] for i in rows.tolist()], device))
            loss = F.cross_entropy(logits, y[rows].to(device), balanced)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        ua = scores(y_dev, predict_arrays(x_dev).argmax(1).tolist(), n_classes)["ua"]
        history.append({"epoch": epoch, "loss": total / len(y), "dev_ua": ua})
        if ua > best_ua:
            best, best_epoch, best_ua = _copy(model), epoch, ua
    model.load_state_dict(best)

    def predict(utterances: Sequence[Utterance]) -> NDArray:
        return predict_arrays(inputs(utterances))

    return Fitted(predict, best, {"dev_ua": best_ua}, history, best_epoch)


@torch.inference_mode()
def _predict(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> NDArray:
    """Return class probabilities (N, K)."""
    model.eval()
    parts = [model(*batch).softmax(1).cpu() for batch in batches]
    probs: NDArray = torch.cat(parts).double().numpy()
    return probs / probs.sum(1, keepdims=True)


def _batches(x: Sequence[NDArray], size: int) -> Iterator[Sequence[NDArray]]:
    for start in range(0, len(x), size):
        yield x[start : start + size]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
