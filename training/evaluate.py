"""Predict the utterances of a split."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from data import Batch
from training.divergence import DATA, Diverged, named, not_finite

READ_EVERY = 32  # batches before the host reads predictions


class Predictions(NamedTuple):
    """Predictions for all utterances of a split, in the split's order."""

    targets: NDArray  # (N,)
    probs: NDArray  # (N, K)
    gate: NDArray | None  # (N, D), 1 = CQT, 0 = Mel
    loss: float  # mean cross-entropy

    @property
    def preds(self) -> NDArray:
        """Most probable class of each utterance: (N,)."""
        return self.probs.argmax(1)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    accelerator: Accelerator,
    names: Sequence[str] = (),
) -> Predictions:
    """Predict each utterance of a split once, as the mean over its crops, on all processes.

    Args:
        model: The network, wrapped for several processes or not.
        loader: Batches of the split; in several processes, the share of this one.
        accelerator: Accelerator of the session.
        names: Ids of the split's utterances, for messages.

    Raises:
        Diverged: A prediction is NaN.
    """
    model.eval()
    parts: list[tuple[NDArray, ...]] = []
    waiting: list[tuple[Tensor, ...]] = []  # predictions on the device
    for batch in loader:
        waiting.append(_predict(model, batch.to(accelerator.device)))
        if len(waiting) == READ_EVERY:
            parts.append(_read(waiting))
            waiting = []
    if waiting:
        parts.append(_read(waiting))
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    columns = zip(*parts, strict=True)
    utterance, targets, probs, gate, ce, bad = (np.concatenate(column) for column in columns)
    if not np.isfinite(probs).all():
        raise Diverged("prediction", [DATA] if bad.any() else (), named(utterance[bad], names))
    order = utterance.argsort(kind="stable")
    starts = np.unique(utterance[order], return_index=True)[1]  # first crop of each utterance
    n_crops = np.diff(starts, append=len(order))

    def over_crops(column: NDArray) -> NDArray:
        total = np.add.reduceat(column[order], starts, axis=0)
        return total / n_crops.reshape(-1, *[1] * (column.ndim - 1)).astype(column.dtype)

    return Predictions(
        targets[order][starts],
        over_crops(probs),
        over_crops(gate) if gate.shape[1] else None,
        float(over_crops(ce).mean()),
    )


def _predict(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """Return utterances, targets, probabilities, gates, losses and what is not finite, by crop."""
    output = model(batch.cqt, batch.mel)
    logits = output.logits.float()
    losses = F.cross_entropy(logits, batch.targets, reduction="none")  # (B,)
    gates = output.gate.float() if output.gate is not None else logits[:, :0]  # (B, D or 0)
    return batch.utterance, batch.targets, logits.softmax(1), gates, losses, not_finite(batch)


def _read(rows: Sequence[tuple[Tensor, ...]]) -> tuple[NDArray, ...]:
    return tuple(torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True))
