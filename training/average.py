"""An exponential moving average of the weights (EMA), for evaluation in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.undo import copy_into


class WeightAverage:
    """Averages parameters and running statistics of a model over its steps.

    After step n (from 1) each average moves by 1 - d towards its weight, with
        d = min(decay, n / (n + 9)),
    so that the first weights, which are random, do not outweigh all others for 1 / (1 - decay)
    steps. Counters are copied.

    Args:
        model: Its weights are averaged; it stays as it is.
        decay: d in the long run.

    Source:
        Polyak & Juditsky 1992; the growing decay as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        weights = model.state_dict()
        self.names = list(weights)
        self.own = list(weights.values())  # they share the memory of the model's weights
        self.values = [weight.clone() for weight in self.own]
        self._held: list[Tensor] | None = None  # weights of the model while the averages are in it

    def update(self, step: int) -> None:
        """Move the averages towards the weights after a step, counted from 1."""
        decay = min(self.decay, step / (step + 9))
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for value, own in zip(self.values, self.own, strict=True):
            if own.is_floating_point():
                floats[0].append(value)
                floats[1].append(own)
            else:
                value.copy_(own)
        torch._foreach_lerp_(*floats, weight=1 - decay)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Let the model have the averages as weights."""
        self._held = [own.clone() for own in self.own]
        copy_into(self.own, self.values)
        try:
            yield
        finally:
            copy_into(self.own, self._held)
            self._held = None

    def averages(self) -> dict[str, Tensor]:
        """Return the averages by name, as a state dict of the model."""
        return dict(zip(self.names, self.values, strict=True))

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that are trained, also while the model has the averages."""
        return dict(zip(self.names, self._held or self.own, strict=True))

    def load(self, averages: dict[str, Tensor]) -> None:
        """Take saved averages."""
        copy_into(self.values, [averages[name] for name in self.names])
