"""Predict the utterances of a split."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from config.tasks import CLASS
from data import Batch
from evaluation.tasks import Task, make_task
from model_gmu import FusionOutput
from training.divergence import DATA, Diverged, named, not_finite

READ_EVERY = 32  # batches before the host reads predictions


class Predictions(NamedTuple):
    """Predictions for all utterances of a split, in the split's order."""

    targets: NDArray  # (N,) class indices, or (N, D) ratings
    probs: NDArray  # (N, K) probabilities, or the predicted ratings (N, D)
    gate: NDArray | None  # (N, units), 1 = CQT, 0 = Mel; (N, n, units) of n other sources
    loss: float  # mean over utterances of `Task.losses`
    preds: NDArray  # (N,) most probable classes, or the predicted ratings (N, D)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    accelerator: Accelerator,
    names: Sequence[str] = (),
    task: Task | None = None,
) -> Predictions:
    """Predict each utterance of a split once, as the mean over its crops, on all processes.

    Args:
        model: The network, wrapped for several processes or not.
        loader: Batches of the split; in several processes, the share of this one.
        accelerator: Accelerator of the session.
        names: Ids of the split's utterances, for messages.
        task: What is predicted; None is classes.

    Raises:
        Diverged: A prediction is NaN.
    """
    model.eval()
    task = task or make_task(CLASS, ())
    parts: list[tuple[NDArray, ...]] = []
    waiting: list[tuple[Tensor, ...]] = []  # predictions on the device
    for batch in loader:
        waiting.append(_predict(model, batch.to(accelerator.device), task))
        if len(waiting) == READ_EVERY:
            parts.append(_read(waiting))
            waiting = []
    if waiting:
        parts.append(_read(waiting))
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    columns = map(np.concatenate, zip(*parts, strict=True))
    utterance, targets, probs, gate, ce, bad = columns
    if not np.isfinite(probs).all():
        raise Diverged("prediction", [DATA] if bad.any() else (), named(utterance[bad], names))
    order = utterance.argsort(kind="stable")
    starts = np.unique(utterance[order], return_index=True)[1]  # first crop of each utterance
    n_crops = np.diff(starts, append=len(order))

    def over_crops(column: NDArray) -> NDArray:
        total = np.add.reduceat(column[order], starts, axis=0)
        return total / n_crops.reshape(-1, *[1] * (column.ndim - 1)).astype(column.dtype)

    outputs = over_crops(probs)
    return Predictions(
        targets[order][starts],
        outputs,
        over_crops(gate) if gate.shape[1] else None,
        float(over_crops(ce).mean()),
        task.preds(outputs),
    )


def _predict(model: nn.Module, batch: Batch, task: Task) -> tuple[Tensor, ...]:
    """Return utterances, targets, outputs, gates, losses and what is not finite, by crop."""
    output = model(*batch.inputs)
    logits = output.logits.float()
    losses = task.losses(logits, batch.targets)  # (B,)
    bad = not_finite(batch)
    return batch.utterance, batch.targets, task.outputs(logits), _gates(output, batch), losses, bad


def _gates(output: FusionOutput, batch: Batch) -> Tensor:
    """Return the gate of both images (B, D), the shares of other sources (B, n, D), or (B, 0)."""
    if output.gate is None:
        return output.logits[:, :0].float()
    gate = output.gate.float()
    are_images = batch.speech is None and batch.file is None
    return gate if gate.ndim == 3 or are_images else torch.stack([gate, 1 - gate], 1)


def _read(rows: Sequence[tuple[Tensor, ...]]) -> tuple[NDArray, ...]:
    return tuple(torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True))
