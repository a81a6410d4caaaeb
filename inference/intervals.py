"""A finished timeline, and its intervals that do not overlap.

Windows overlap; annotations must not. Where two parts overlap, each has the half of the overlap
that is nearer to its own centre: of windows with hop H, a window's region is the H seconds around
its centre, and the first and the last reach to the ends. Segments do not overlap and keep their
times. Neighbouring regions with one label are joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.tasks import RatingScale

TOUCHING = 0.0015  # s: times are written to the millisecond
EMOTION = "emotion"  # the tier of classes; that of ratings has the dimension's name


class Interval(NamedTuple):
    """A stretch of one label."""

    start: float  # s
    end: float  # s
    label: str
    confidence: float | None  # mean over its parts; None of ratings


@dataclass(frozen=True)
class Timeline:
    """What a model says over the time of one recording.

    Args:
        name: Path of the recording.
        outputs: Names of the classes or dimensions.
        scale: Scale of ratings; None of classes.
        times: Start and end of each part, s: (n, 2), starts in order.
        probs: Probabilities or ratings (n, K); NaN where a part is not labelled.
        gate: Mean gate of each part (n,), 1 = CQT, 0 = Mel; NaN where there is none.
        problems: Why each part is not labelled; empty where it is.
        unsure: Whether each label is unsure; None without a stated risk.
        seconds: Duration of the recording, at least the end of the last part.
        sources: Names of the shares of the gate, of fusions of other sources than both images.
        shares: Share of each source in the gate of each part, (n, S), NaN where there is none.
    """

    name: str
    outputs: Sequence[str]
    scale: RatingScale | None
    times: NDArray[np.float64]
    probs: NDArray[np.float64]
    gate: NDArray[np.float64]
    problems: Sequence[str]
    unsure: Sequence[bool | None]
    seconds: float
    sources: Sequence[str] = ()
    shares: NDArray[np.float64] | None = None

    def regions(self) -> NDArray[np.float64]:
        """Return start and end of each part's own region, s: (n, 2), none overlapping."""
        return own_regions(self.times)

    def tiers(self) -> dict[str, list[str | None]]:
        """Return the label of each part, None where it has none: of classes, or by dimension."""
        labelled = [not problem for problem in self.problems]
        if self.scale is None:
            best = self.probs.argmax(1)
            names = [
                self.outputs[k] if has else None for k, has in zip(best, labelled, strict=True)
            ]
            return {EMOTION: names}
        return {
            output: [f"{x:.2f}" if has else None for x, has in zip(column, labelled, strict=True)]
            for output, column in zip(self.outputs, self.probs.T, strict=True)
        }

    def intervals(self) -> dict[str, list[Interval]]:
        """Return the intervals of each tier, in order; parts without a label leave gaps."""
        confidence = None if self.scale is not None else self.probs.max(1)
        return {
            tier: _joined(self.regions(), labels, confidence)
            for tier, labels in self.tiers().items()
        }

    def problem_intervals(self) -> list[Interval]:
        """Return the intervals of one problem, silence included."""
        labels = [problem or None for problem in self.problems]
        return _joined(self.regions(), labels, None)


def own_regions(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return start and end of each part's own region, none overlapping: (n, 2) -> (n, 2), s.

    >>> own_regions(np.array([[0.0, 3.0], [1.0, 4.0], [1.5, 4.5]])).tolist()
    [[0.0, 2.0], [2.0, 2.75], [2.75, 4.5]]
    """
    found = times.copy()
    overlaps = found[:-1, 1] > found[1:, 0]
    middle = (found[:-1, 1] + found[1:, 0]) / 2
    found[:-1, 1] = np.where(overlaps, middle, found[:-1, 1])
    found[1:, 0] = np.where(overlaps, middle, found[1:, 0])
    return found


def _joined(
    regions: NDArray[np.float64], labels: Sequence[str | None], confidence: NDArray | None
) -> list[Interval]:
    """Join neighbouring regions that touch and have one label."""
    starts = [0]
    for i, ((_, end), (start, _)) in enumerate(pairwise(regions.tolist()), start=1):
        if labels[i] != labels[i - 1] or start - end > TOUCHING:
            starts.append(i)
    found = []
    for first, stop in pairwise([*starts, len(labels)]):
        label = labels[first] if first < stop else None
        start, end = (regions[first, 0], regions[stop - 1, 1]) if first < stop else (0.0, 0.0)
        if label is not None and end > start:
            mean = None if confidence is None else float(confidence[first:stop].mean())
            found.append(Interval(float(start), float(end), label, mean))
    return found
