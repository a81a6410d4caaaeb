"""Gradient caching: a large batch for head and loss in the memory of a small one for the backbones.

    1. features of the whole batch, chunk by chunk, without a graph      (B, D) or tokens (B, N, D)
    2. head and loss of the whole batch; gradients with respect to the features
    3. features again, chunk by chunk, with a graph; backward from the gradients of step 2

By the chain rule the gradients are those of the whole batch at once. What a chunk draws (dropout,
stochastic depth) is drawn from a seed of its own in steps 1 and 3 alike. Batch norms of the
backbones see a chunk, and count it in step 1 alone; those of the head see the whole batch.

Source:
    Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup".
    There the encoders end in the vectors that are compared; here the head belongs to step 2.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from data import Batch
from model_gmu import Features, FusionOutput
from models.losses import FusionLoss, LossTerms
from models.recompute import keep_statistics
from training.state import TrainingState

LossTermsOf = Callable[[FusionLoss, FusionOutput, Batch], LossTerms]


def cached_backward(
    state: TrainingState, batch: Batch, loss_terms: LossTermsOf, n_batches: int
) -> LossTerms:
    """Add the gradients of a batch to those of the parameters; return its losses.

    The gradients are this process's own: nothing of DDP runs, so the caller averages them.

    Args:
        state: The training; its `backbone_batch` utterances are computed at once.
        batch: Batch on the device of the training.
        loss_terms: Loss of an output.
        n_batches: Batches of the optimizer step, by which the loss is divided.
    """
    model, accelerator = state.model, state.accelerator
    n = len(batch.targets)
    n_chunks = chunk_count(n, state.backbone_batch)
    parts_of = torch.arange(n).tensor_split(n_chunks)
    chunks = [batch.take(rows.to(batch.cqt.device)).inputs for rows in parts_of]
    seeds = torch.randint(2**62, (n_chunks,)).tolist()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]

    def features(i: int) -> Features:
        torch.manual_seed(seeds[i])
        with accelerator.autocast():
            found: Features = model.features(*chunks[i])  # type: ignore[operator]
        return found

    with torch.no_grad():
        parts = [features(i) for i in range(n_chunks)]
    leaves = [_leaf(branch) for branch in zip(*parts, strict=True)]
    with accelerator.autocast():
        output = model.fuse(tuple(leaves))  # type: ignore[operator]
    terms = loss_terms(state.criterion, output, batch)
    accelerator.backward(terms.total / n_batches)
    slopes = [
        [None] * n_chunks if leaf is None or leaf.grad is None else leaf.grad.tensor_split(n_chunks)
        for leaf in leaves
    ]
    with keep_statistics(norms):
        for i, of_chunk in enumerate(zip(*slopes, strict=True)):
            _backward(features(i), of_chunk)
    return terms


def chunk_count(n: int, backbone_batch: int | None) -> int:
    """Return into how many chunks of nearly equal size n utterances are split."""
    return min(-(-n // (backbone_batch or n)), n // 2)  # batch norms take no chunk of one


def _leaf(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Join the chunks of a branch into a tensor that gets a gradient."""
    pieces = [part for part in parts if part is not None]
    return torch.cat(pieces).requires_grad_() if pieces else None


def _backward(features: tuple[Tensor | None, ...], slopes: tuple[Tensor | None, ...]) -> None:
    pairs = [
        (feature, slope)
        for feature, slope in zip(features, slopes, strict=True)
        if feature is not None and slope is not None and feature.requires_grad
    ]
    torch.autograd.backward([feature for feature, _ in pairs], [slope for _, slope in pairs])
