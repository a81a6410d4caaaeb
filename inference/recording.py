"""What the network of a fold reads of a recording, and what it says of some."""

from typing import Any, NamedTuple

from torch import Tensor

from features import Images
from models.kept_states import States


class Inputs(NamedTuple):
    """What the network of a fold reads of one recording; None where it reads no such source."""

    images: Images | None = None  # of its crops: 2 x (n, C, H, W)
    speech: States | None = None  # of `SpeechReader.records`
    file: Tensor | None = None  # (D,)

    @property
    def n_crops(self) -> int:
        """Number of its crops; 1 where no image is read."""
        return 1 if self.images is None else len(self.images.cqt)


class Outputs(NamedTuple):
    """Of each recording the mean over its crops, on the CPU."""

    values: Tensor  # probabilities (n, K), or ratings (n, D)
    gate: Tensor | None = None  # (n,) 1 = CQT, 0 = Mel; None of other fusions
    shares: Tensor | None = None  # (n, S) of the gate of other sources than the two images


def there(value: Any) -> Any:
    """Return what a recording has of a source that the network reads.

    Raises:
        ValueError: It has none.
    """
    if value is None:
        raise ValueError("a recording lacks what a branch of the network reads")
    return value
