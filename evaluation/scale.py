"""What a score and the sums behind it are like: for intervals and tests, which need no more."""

from collections.abc import Callable
from typing import NamedTuple

from numpy.typing import NDArray

# (..., K, K) -> (...), see metrics.SCORES; of other tasks (..., A, B), sums that add up likewise
Score = Callable[[NDArray], NDArray]


def of_classes(counts: NDArray) -> NDArray:
    """Return the utterances of each class, whatever was predicted: (..., K, K) -> (..., K)."""
    found: NDArray = counts.sum(-1)
    return found


class Scale(NamedTuple):
    """What a score and its sums are like.

    Args:
        least: Smallest value possible.
        most: Largest value possible, perhaps infinite.
        support: Returns what the targets alone decide of some sums, equal for all seeds and runs.
    """

    least: float = 0.0
    most: float = 1.0
    support: Callable[[NDArray], NDArray] = of_classes

    def of_differences(self) -> tuple[float, float]:
        """Return the smallest and the largest difference of two scores."""
        return self.least - self.most, self.most - self.least


FRACTION = Scale()  # of a confusion matrix
