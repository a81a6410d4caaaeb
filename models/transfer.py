"""What of a trained network starts another one, decided by names and shapes, and by class names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]
LAST = "head.classify.4."  # the layer with a row for each class
CLASSIFIER = "head.classify."
HIDDEN = ("head.classify.0.weight", "head.classify.0.bias")  # what the last layer's columns mean


@dataclass(frozen=True)
class Transfer:
    """Which tensors, and which rows of the last layer, one network takes from another.

    Attributes:
        tensors: Names of the tensors that are taken whole.
        rows: For each class that both have, its row here and there; empty where the last layer
            starts anew.
        classes: Names of these classes.
        new: Modules that start anew, and classes whose rows do.
    """

    tensors: tuple[str, ...]
    rows: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]
    new: tuple[str, ...]

    def apply(self, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that the network starts with, of those that it takes.

        Args:
            own: Its state before.
            theirs: State of the trained network.
        """
        taken = {name: theirs[name] for name in self.tensors}
        for name in [name for name in own if name.startswith(LAST)] if self.rows else ():
            taken[name] = own[name].clone()  # (K, ...)
            for here, there in self.rows:
                taken[name][here] = theirs[name][there]
        return taken


def plan_transfer(
    own: Mapping[str, Shape],
    theirs: Mapping[str, Shape],
    classes: Sequence[str],
    their_classes: Sequence[str],
) -> Transfer:
    """Decide what a network takes from a trained one.

    A tensor is taken where name and shape are the same; of the last layer, the rows of classes of
    the same name. The classifier is taken only where its first layer fits: the columns of the last
    one are that layer's units.

    Args:
        own: Shapes of the network's tensors by name.
        theirs: Shapes of those of the trained network.
        classes: Names of the network's classes, or dimensions.
        their_classes: Those of the trained network.
    """
    fits = {name for name, shape in own.items() if theirs.get(name) == shape}
    keeps_classifier = fits.issuperset(HIDDEN)
    taken: list[str] = []
    new: list[str] = []
    for name in own:
        if name.startswith(LAST):
            continue
        is_taken = name in fits and (keeps_classifier or not name.startswith(CLASSIFIER))
        (taken if is_taken else new).append(name)
    shared = [name for name in classes if name in their_classes] if keeps_classifier else []
    rows = tuple((classes.index(name), their_classes.index(name)) for name in shared)
    modules = dict.fromkeys(name.rpartition(".")[0] or name for name in new)
    last = [f"row {name} of {LAST[:-1]}" for name in classes if name not in shared]
    if not shared:
        last = [LAST[:-1]]
    return Transfer(tuple(taken), rows, tuple(shared), (*modules, *last))
