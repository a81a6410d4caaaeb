"""Gradient checkpointing: a block keeps its input alone and is computed again in the backward pass.

The second computation repeats the first: the same random numbers (dropout, stochastic depth), and
batch norms that take the statistics of the batch again but count it once.

Source:
    Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

BLOCKS = "blocks"  # timm's name for what a stage consists of, in all families that it fits


def recompute_blocks(backbone: nn.Module, blocks: str | None = None) -> int:
    """Let each block of a backbone keep its input alone in training.

    Args:
        backbone: Changed in place. Its weights keep their names. A deep copy of it would compute
            with the weights of the original.
        blocks: Name of the modules whose children are blocks; None is that of timm.

    Returns:
        Number of blocks; 0 where the backbone has none under this name.
    """
    n_blocks = 0
    wrapped: tuple[str, ...] = ()
    for name, module in backbone.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in wrapped)
        if name.split(".")[-1] != (blocks or BLOCKS) or inside:
            continue
        wrapped += (name,)
        for block in module.children():
            _recompute(block)
            n_blocks += 1
    return n_blocks


def _recompute(block: nn.Module) -> None:
    forward = block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # torch repeats the random numbers of the CPU and of CUDA, and forgets those of MPS
        state = torch.mps.get_rng_state() if _is_on_mps(block) else None
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        return nullcontext(), keep_statistics(norms, state)

    def run(*inputs: Any, **options: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)

    block.forward = run


@contextmanager
def keep_statistics(norms: Sequence[_BatchNorm], state: Tensor | None = None) -> Iterator[None]:
    """Keep the running statistics of batch norms, and draw from a random state of MPS again."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        counter = norm.num_batches_tracked
        norm.momentum = 0.0  # weight of the batch
        needs_one = isinstance(norm, nn.SyncBatchNorm) and counter is not None
        norm.num_batches_tracked = counter.clone() if needs_one else None  # type: ignore[union-attr]
    if state is not None:
        now = torch.mps.get_rng_state()
        torch.mps.set_rng_state(state)
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
        if state is not None:
            torch.mps.set_rng_state(now)


def _is_on_mps(block: nn.Module) -> bool:
    return any(parameter.device.type == "mps" for parameter in block.parameters())
