"""What the processes of one training tell each other."""

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor


def gather_views(z: Tensor) -> Tensor:
    """Join the views of all processes, so that every clip on any of them is a negative.

    Each process computes the same loss of all views and has the gradient of its own alone; DDP then
    averages, so the own part's gradient is multiplied by the number of processes.

    Shape:
        (B, P) -> (world * B, P)
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return z
    world, rank = dist.get_world_size(), dist.get_rank()
    pieces = [torch.empty_like(z) for _ in range(world)]
    dist.all_gather(pieces, z.detach().contiguous())
    pieces[rank] = z.detach() + world * (z - z.detach())  # value z, gradient world times
    return torch.cat(pieces)


def on_any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Return whether it is so on any process; all of them must ask."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(int(flag), device=accelerator.device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)
