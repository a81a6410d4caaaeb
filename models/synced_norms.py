"""Batch norms over the joined batch of all processes.

    mean = sum x / n,  var = sum (x - mean)^2 / n        sums and n over all processes

so that N processes normalise as one does with the N-fold batch. On a GPU it is torch's
SyncBatchNorm, which refuses a CPU; there the same is written with sums that autograd knows.
"""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def sync_batch_norms(model: nn.Module, device: torch.device) -> int:
    """Let all batch norms inside a model use the batches of all processes in training.

    Args:
        model: Changed in place; weights keep their names. Alone, a process computes as before.
        device: Device that the model will be on.

    Returns:
        Number of batch norms.
    """
    if device.type == "cuda":
        # timm's: torch's own drops the activations that are part of some
        convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if device.type != "cuda":  # there DDP refuses the class, too
        for norm in norms:
            _sync(norm)
    return len(norms)


def _sync(norm: _BatchNorm) -> None:
    forward = norm.forward

    def run(x: Tensor) -> Tensor:
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not norm.training or not together:
            return forward(x)
        y = _normalise(norm, x)
        for name in ("drop", "act"):  # of timm's norms with an activation
            y = getattr(norm, name)(y) if hasattr(norm, name) else y
        return y

    norm.forward = run  # type: ignore


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Add up: (N,) -> (N,)."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """Add up the gradients: (N,) -> (N,)."""
        total = slopes[0].clone()
        dist.all_reduce(total)
        return total


def _normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Return what SyncBatchNorm would, on a CPU: (B, C, ...) -> (B, C, ...)."""
    dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    wide = x.float()
    count = wide.new_full((1,), x.numel() // x.shape[1])
    sums = _Sum.apply(torch.cat([wide.sum(dims), count]))  # (C + 1,)
    n = sums[-1].detach()
    mean = sums[:-1] / n  # (C,)
    centred = wide - mean.view(shape)
    var = _Sum.apply(centred.square().sum(dims)) / n  # (C,)
    y = centred * (var + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    if norm.track_running_stats:
        _count(norm, mean.detach(), var.detach() * n / (n - 1))
    same: Tensor = y.to(x.dtype)
    return same


@torch.no_grad()
def _count(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    """Move the running statistics, as torch's batch norms do."""
    assert norm.running_mean is not None and norm.running_var is not None
    if norm.num_batches_tracked is None:
        return  # counted before, see `recompute.keep_statistics`
    norm.num_batches_tracked.add_(1)
    share = norm.momentum or 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(var, share)
