"""Parameter groups, one optimizer for each part of the model, and the learning-rate schedule."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "radam": torch.optim.RAdam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
FUSED = ("adam", "adamw", "sgd")  # one kernel for all parameters; torch has none of RAdam
FUSED_ON = ("cpu", "cuda")


def build_optimizers(
    parts: Mapping[str, Sequence[nn.Parameter]],
    optimizer: Mapping[str, str],
    lr: float,
    lr_scales: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    without_decay: Iterable[nn.Parameter] = (),
) -> list[Optimizer]:
    """Give each part of the model its optimizer; all of them are stepped together.

    Args:
        parts: Parameters of `cqt`, `mel` and `head`; a branch may be missing.
        optimizer: Name for each part: adam, radam, adamw, sgd (momentum 0.9).
        lr: Learning rate of the head.
        lr_scales: Learning rate of a part as a multiple of `lr`; that of others is `lr`.
        weight_decay: Weight decay of matrices and kernels; parameters with at most one axis
            (biases and norms) get none.
        without_decay: Further parameters that get none, such as position tables.

    Source:
        MaxMViT-MLP trains MaxViT and head with Adam and MViTv2 with RAdam.
    """
    built, spared = [], {id(parameter) for parameter in without_decay}
    for part, parameters in parts.items():
        decayed = [p for p in parameters if p.ndim > 1 and id(p) not in spared]
        others = [p for p in parameters if p.ndim <= 1 or id(p) in spared]
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        scale = (lr_scales or {}).get(part, 1.0)
        extra: dict[str, Any] = {"momentum": 0.9} if optimizer[part] == "sgd" else {}
        if optimizer[part] in FUSED and all(p.device.type in FUSED_ON for p in parameters):
            extra["fused"] = True
        built.append(OPTIMIZERS[optimizer[part]](groups, lr=lr * scale, **extra))
    return built


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Restore an optimizer; moments get the memory format of their parameters.

    Files hold contiguous tensors. Fused optimizers of torch (seen in 2.14.1) take the elements of
    weights and moments as they lie in memory, so that those of a kernel in channels-last order
    would meet the moments of other elements, without a word.
    """
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def clip_gradients(parameters: Iterable[nn.Parameter], longest: float | None) -> Tensor:
    """Return the norm of all gradients together; one that is longer than allowed is shortened."""
    trained = [p for p in parameters if p.grad is not None]
    norm = total_norm([p.grad for p in trained if p.grad is not None])
    if longest is not None:
        nn.utils.clip_grads_with_norm_(trained, longest, norm)
    return norm


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of gradients together; they are of one device and type.

    Torch's `get_total_norm` gives the same, and groups them first, which a small head feels.
    """
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)


class Schedule:
    """The learning rates of all optimizers over time.

    Args:
        optimizers: Optimizers of the parts; their current rates are the highest.
        kind: `plateau` (by epoch, reads dev UA, the score that also selects), `cosine` (by step,
            after a linear warm-up), `constant` or `replayed` (by epoch, as `factors` say).
        n_steps: Optimizer steps in the whole training, for the cosine.
        n_warmup: Optimizer steps of the linear warm-up.
        factor: Factor by which `plateau` multiplies the rate.
        patience: Epochs without a better dev UA before `plateau` lowers the rate.
        min_lr: Lowest rate of the head; that of the backbones is scaled by `backbone_lr_scale`.
        factors: Of `replayed`, the factor of the highest rates in each epoch.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        kind: str = "constant",
        n_steps: int = 1,
        n_warmup: int = 0,
        factor: float = 0.1,
        patience: int = 2,
        min_lr: float = 0.0,
        factors: Sequence[float] = (),
    ) -> None:
        self.optimizers = optimizers
        self.steps = 0  # taken or skipped
        self.by_step: list[LambdaLR] = []
        self.by_epoch: list[ReduceLROnPlateau] = []
        self.replayed: list[LambdaLR] = []
        top = max(group["lr"] for o in optimizers[-1:] for group in o.param_groups)
        if kind == "cosine":
            shape = _warmup_cosine(n_steps, n_warmup, min_lr / top)
            self.by_step = [LambdaLR(o, shape) for o in optimizers]
        elif kind == "replayed":
            of_epoch = lambda epoch: factors[min(epoch, len(factors) - 1)]  # noqa: E731
            self.replayed = [LambdaLR(o, of_epoch) for o in optimizers]
        elif kind == "plateau":
            self.by_epoch = [
                ReduceLROnPlateau(
                    optimizer,
                    mode="max",
                    factor=factor,
                    patience=patience,
                    threshold=0.0,
                    threshold_mode="abs",
                    eps=0.0,  # torch's 1e-8 ignores the last drops of a small rate
                    min_lr=[group["lr"] * min_lr / top for group in optimizer.param_groups],
                )
                for optimizer in optimizers
            ]

    def after_step(self) -> None:
        """Move on by one optimizer step."""
        self.steps += 1
        for schedule in self.by_step:
            schedule.step()

    def after_epoch(self, dev_ua: float | None) -> None:
        """Advance by one epoch with this dev UA; None where there is no dev split."""
        for schedule in self.replayed:
            schedule.step()
        if dev_ua is not None:
            for plateau in self.by_epoch:
                plateau.step(dev_ua)

    def rates(self) -> list[float]:
        """Return the current learning rate of each optimizer."""
        return [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        return {
            "steps": self.steps,
            "by_step": [{"last_epoch": s.last_epoch} for s in self.by_step],
            "replayed": [{"last_epoch": s.last_epoch} for s in self.replayed],
            "by_epoch": [
                {k: getattr(s, k) for k in ("best", "num_bad_epochs", "last_epoch")}
                for s in self.by_epoch
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state; the optimizers restore their own rates."""
        self.steps = state.get("steps", 0)  # earlier versions had no average, which reads it
        for schedules, saved in (
            (self.by_step, state["by_step"]),
            (self.by_epoch, state["by_epoch"]),
            (self.replayed, state.get("replayed", [])),
        ):
            for schedule, values in zip(schedules, saved, strict=True):
                for name, value in values.items():
                    setattr(schedule, name, value)


def _warmup_cosine(n_steps: int, n_warmup: int, lowest: float) -> Callable[[int], float]:
    """Return the factor of the highest rate at each step: up a line, down a half cosine."""

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        done = min((step - n_warmup) / max(n_steps - n_warmup, 1), 1.0)
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))

    return factor
