"""What one optimizer step gives, and how the host reads it from the device."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from training.distributed import mean_of_processes


class Step(NamedTuple):
    """What a step gives: tensors on the device, or numbers once they are read."""

    losses: list[dict[str, Any]]  # of each batch by name; none of a step that was skipped
    norm: Any  # of all gradients, before clipping
    norms: dict[str, Any]  # of the gradients of each branch, see `CollapseMonitor`

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradients are finite."""
        return all(map(math.isfinite, (self.norm, *(terms["total"] for terms in self.losses))))


def read(steps: Sequence[Step]) -> list[Step]:
    """Return steps with numbers, means over all processes, in one transfer from the device."""
    named = [[{"": step.norm}, step.norms, *step.losses] for step in steps]
    values = [value for step in named for part in step for value in part.values()]
    numbers = iter(mean_of_processes(torch.stack(values)).tolist())
    parts = [[{name: next(numbers) for name in part} for part in step] for step in named]
    return [Step(losses, norm[""], norms) for norm, norms, *losses in parts]
