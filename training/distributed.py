"""What the processes of one training tell each other."""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from system.errors import RunError


def gather_views(z: Tensor) -> Tensor:
    """Join the views of all processes, so that each utterance of any process is a negative.

    Each process computes the same loss of all views and has the gradient of its own alone; DDP then
    averages, so the own part's gradient is multiplied by the number of processes.

    Shape:
        (B, P) -> (world * B, P)
    """
    if _is_alone():
        return z
    world, rank = dist.get_world_size(), dist.get_rank()
    pieces = [torch.empty_like(z) for _ in range(world)]
    dist.all_gather(pieces, z.detach().contiguous())
    pieces[rank] = z.detach() + world * (z - z.detach())  # value z, gradient world times
    return torch.cat(pieces)


def gather_labels(labels: Tensor) -> Tensor:
    """Join the classes of all processes, in the order of `gather_views`: (B,) -> (world * B,)."""
    if _is_alone():
        return labels
    pieces = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, labels.contiguous())
    return torch.cat(pieces)


def gather_rows(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """Join rows on the CPU of all processes, which may have different numbers: (n, D) -> (N, D)."""
    return rows if accelerator.num_processes == 1 else torch.cat(gather_object([rows]))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give all processes the mean gradient of parameters that DDP does not know."""
    if _is_alone():
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def on_any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Return whether the flag is set on any process; call it on all of them."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(int(flag), device=accelerator.device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def check_same_number(before: int | None, accelerator: Accelerator, folder: Path) -> None:
    """Refuse a state saved by another number of processes, whose batches were different.

    Args:
        before: Number of processes that saved the state; None is unknown.
        accelerator: Accelerator of the session.
        folder: Folder of the state, for the message.

    Raises:
        RunError: The numbers differ.
    """
    now = accelerator.num_processes
    if before not in (None, now):
        raise RunError(
            f"{folder} was saved by a training on {before} process{'es' * (before != 1)}, this one "
            f"is on {now} and would get different batches: start it on {before}, or remove "
            f"{folder} to train this fold anew"
        )


def _is_alone() -> bool:
    together = dist.is_available() and dist.is_initialized()
    return not together or dist.get_world_size() == 1
