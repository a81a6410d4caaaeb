"""What the tasks share whose outputs are probabilities of classes."""

from typing import TYPE_CHECKING

from numpy.typing import NDArray

from evaluation.task import Task

if TYPE_CHECKING:
    from torch import Tensor  # slow: torch


class SoftmaxTask(Task):
    """A class, or shares of classes: softmax, cross-entropy with classes or shares."""

    @property
    def n_directions(self) -> int:
        """K points span K - 1 directions."""
        return len(self.names) - 1

    def outputs(self, logits: "Tensor") -> "Tensor":
        """Return probabilities."""
        return logits.softmax(1)

    def losses(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Return the cross-entropy."""
        from torch.nn import functional as F  # slow: torch

        return F.cross_entropy(logits, targets, reduction="none")

    def preds(self, outputs: NDArray) -> NDArray:
        """Return the most probable class: (N, K) -> (N,)."""
        found: NDArray = outputs.argmax(1)
        return found
