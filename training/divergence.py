"""Values that are not finite: where they arose, and what to say of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from config.fusions import SOURCES
from data import Batch
from system.errors import RunError

UTTERANCES_NAMED = 32  # at most, for one bad step
PARTS = (*SOURCES, "head")
DATA = "data"  # stands for a part where the inputs themselves are not finite


class Diverged(RunError):
    """A loss, gradient or prediction is NaN or infinite, and skipping steps does not help.

    Args:
        what: The loss, the gradient or the prediction.
        parts: Parts of the network where it arose, some of `PARTS`, or `DATA`; empty if unknown.
        utterances: Ids of the utterances whose images are not finite; else all of the batch.
    """

    def __init__(
        self, what: str, parts: Sequence[str] = (), utterances: Sequence[str] = ()
    ) -> None:
        self.what, self.parts, self.utterances = what, tuple(parts), tuple(utterances)
        super().__init__(f"the {what} is NaN or infinite{_where(self.parts)}")

    @property
    def is_data(self) -> bool:
        """Whether the images are the cause."""
        return DATA in self.parts

    def because(self, rates: Sequence[float], precision: str) -> RunError:
        """Return the error that ends the run, with the cause.

        Args:
            rates: The current learning rates.
            precision: Number format that was tried, in words.
        """
        if self.is_data:
            return RunError(
                f"the inputs of {', '.join(self.utterances)} are NaN or infinite. The cause is the "
                "data, not the training: the feature store is corrupt. Give the same command with "
                "another folder as run.store=, where images and hidden states are computed anew"
            )
        shown = ", ".join(f"{rate:g}" for rate in rates)
        return RunError(
            f"{self} in {precision}. The cause is the learning rate ({shown}), which has driven "
            "the weights too far: lower optim.lr or set train.clip_grad_norm. The last good state "
            "is kept"
        )


def not_finite(batch: Batch) -> Tensor:
    """Return which utterances of a batch have an input that is not finite: (B,) bool."""
    inputs = (v[0] if isinstance(v, tuple) else v for v in batch.inputs if v is not None)
    finite = [one.flatten(1).isfinite().all(1) for one in inputs]
    return ~torch.stack(finite).all(0)


def named(indices: Iterable[int], names: Sequence[str]) -> list[str]:
    """Return the ids of utterances of a split, or their indices where `names` is empty."""
    return [names[i] if names else f"utterance {i}" for i in indices]


def describe(
    model: nn.Module,
    window: Sequence[Batch],
    losses: Sequence[Tensor],
    names: Sequence[str],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Describe a step that is not finite: what, where, which utterances; equal in all processes.

    Args:
        model: The network, holding the gradients of the step.
        window: Batches of the step on this process.
        losses: Loss of each batch.
        names: Ids of all training utterances, or empty.
        accelerator: Accelerator of the session.
    """
    own = [
        _account(model, batch, bool(loss.isfinite()), names, accelerator)
        for batch, loss in zip(window, losses, strict=True)
    ]
    accounts = gather_object(own) if accelerator.num_processes > 1 else own
    first = min(map(_order, accounts))  # NaN spread from here to the others
    blamed = [account for account in accounts if _order(account) == first]
    parts = {part for account in blamed for part in account["parts"]}
    utterances = [name for account in blamed for name in account["utterances"]]
    return {
        "what": blamed[0]["what"],
        "parts": [part for part in (DATA, *PARTS) if part in parts],
        "utterances": utterances[:UTTERANCES_NAMED],
    }


def _account(
    model: nn.Module,
    batch: Batch,
    loss_is_finite: bool,
    names: Sequence[str],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Describe one batch: what is not finite, where, and which utterances."""
    with accelerator.autocast():
        parts = offending_parts(model, batch, loss_is_finite)
    bad = not_finite(batch)
    utterances = batch.utterance[bad] if bad.any() else batch.utterance
    what = "gradient" if loss_is_finite else "loss"
    return {"what": what, "parts": parts, "utterances": named(utterances.tolist(), names)}


def _order(account: Mapping[str, Any]) -> tuple[bool, int]:
    """Return how early a cause lies: loss before gradient, data before branch before head."""
    place = 0 if DATA in account["parts"] else 2 if "head" in account["parts"] else 1
    return account["what"] == "gradient", place


@torch.no_grad()
def offending_parts(model: nn.Module, batch: Batch, loss_is_finite: bool) -> list[str]:
    """Return where values that are not finite arose: the first place in the order of computing.

    Args:
        model: The network, holding the gradients of the step.
        batch: Batch that led to these values.
        loss_is_finite: Whether only the gradients are not finite.
    """
    if not_finite(batch).any():
        return [DATA]
    features = model.features(*batch.inputs)  # type: ignore[operator]
    seen = {part: f for part, f in zip(SOURCES, features, strict=False) if f is not None}
    found = [part for part, feature in seen.items() if _is_bad([feature])]
    if found or not loss_is_finite:
        return found or ["head"]
    slopes = {
        part: [p.grad for p in parameters if p.grad is not None]
        for part, parameters in model.parts().items()  # type: ignore[operator]
    }
    if _is_bad(slopes["head"]):
        return ["head"]  # its NaN gradients flow into both branches
    return [part for part in seen if _is_bad(slopes.get(part, []))] or ["head"]  # or frozen


def is_finite(model: nn.Module) -> bool:
    """Return whether all weights and running statistics are finite."""
    return not _is_bad([*model.parameters(), *model.buffers()])


def _is_bad(tensors: Sequence[Tensor]) -> bool:
    finite = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    return bool(finite) and not bool(torch.stack(finite).all())  # one look at the device


def _where(parts: Sequence[str]) -> str:
    named = {"cqt": "the CQT branch", "mel": "the Mel branch", "speech": "the speech branch"}
    named |= {"file": "the vectors", "head": "the head", DATA: "the data"}
    return f", first in {' and '.join(named[part] for part in parts)}" if parts else ""
