"""A copy of all that optimizer steps move, on the device, to take steps back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.optim import Schedule


class Undo:
    """Copies weights, running statistics, optimizers and schedule, and puts them back.

    The copies take as much memory as what they copy, and are made once.

    Args:
        modules: Network and loss.
        optimizers: Optimizers of their parameters.
        schedule: Schedule of the optimizers.
        averages: Averages of the weights, which steps move, too.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        schedule: Schedule,
        averages: Sequence[Tensor] = (),
    ) -> None:
        self.optimizers, self.schedule = optimizers, schedule
        trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.parameters = [parameter.detach() for parameter in trained]
        self.parameters += averages
        self.buffers = [buffer for module in modules for buffer in module.buffers()]
        copies = [torch.empty_like(buffer) for buffer in self.buffers]
        self._copies: dict[str, list[Tensor]] = {"buffers": copies}
        self._statistics = grouped(copies, self.buffers)
        self._plain: list[Any] = []
        self._held: list[set[Tensor]] = []  # of each optimizer, parameters that had moments

    def keep_statistics(self) -> None:
        """Copy the running statistics, which a forward pass moves."""
        for copies, buffers in self._statistics:
            torch._foreach_copy_(copies, buffers)

    def restore_statistics(self) -> None:
        """Put the running statistics back."""
        copy_into(self.buffers, self._copies["buffers"])

    def is_ready(self) -> bool:
        """Whether all optimizers have taken a step: before it they have no moments to copy."""
        return all(optimizer.state for optimizer in self.optimizers)

    def keep_all(self) -> None:
        """Copy all that optimizer steps move."""
        self.keep_statistics()
        self._keep("parameters", self.parameters)
        self._held = [set(optimizer.state) for optimizer in self.optimizers]
        self._keep("moments", self._moments())
        rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self._plain = [rates, self.schedule.state_dict()]

    def restore_all(self) -> None:
        """Put back what `keep_all` has copied."""
        self.restore_statistics()
        copy_into(self.parameters, self._copies["parameters"])
        for optimizer, held in zip(self.optimizers, self._held, strict=True):
            for parameter in set(optimizer.state) - held:
                del optimizer.state[parameter]
        copy_into(self._moments(), self._copies["moments"])
        rates, schedule = self._plain
        for optimizer, own in zip(self.optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = rate
        self.schedule.load_state_dict(schedule)

    def _moments(self) -> list[Tensor]:
        states = [s for optimizer in self.optimizers for s in optimizer.state.values()]
        return [value for state in states for value in state.values() if torch.is_tensor(value)]

    def _keep(self, name: str, tensors: Sequence[Tensor]) -> None:
        if len(self._copies.get(name, [])) != len(tensors) or not tensors:
            self._copies[name] = [torch.empty_like(tensor) for tensor in tensors]
        copy_into(self._copies[name], tensors)


@torch.no_grad()
def copy_into(to: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors; those of one device and type at once, which torch would else copy singly."""
    for targets, sources in grouped(to, tensors):
        torch._foreach_copy_(targets, sources)


def grouped(
    to: Sequence[Tensor], tensors: Sequence[Tensor]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return targets and sources of each device and type."""
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for target, tensor in zip(to, tensors, strict=True):
        targets, sources = groups.setdefault((tensor.device, tensor.dtype), ([], []))
        targets.append(target)
        sources.append(tensor)
    return list(groups.values())
