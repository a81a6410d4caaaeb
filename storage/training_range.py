"""The range of the recordings that a model was trained on: part of its model card."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from audio.description import RecordingFacts
from config.section import Section

DECIMALS = {"seconds": 3, "level": 2, "bandwidth": 1}  # kept of each quantity


class Spread(Section):
    """Smallest and largest value, and percentiles with linear interpolation."""

    min: float
    p1: float
    median: float
    p99: float
    max: float


class RateCount(Section):
    """Number of recordings at one sampling rate."""

    rate: Annotated[int, Field(ge=1)]
    """Hz of the files."""
    recordings: Annotated[int, Field(ge=1)]


class TrainingRange(Section):
    """Over the recordings of the training split, as `audio.description` defines each quantity."""

    seconds: Spread
    """s."""
    rates: Annotated[list[RateCount], Field(min_length=1)]
    """In ascending order."""
    level: Spread
    """dBFS."""
    bandwidth: Spread
    """Hz."""


def training_range(recordings: Sequence[RecordingFacts]) -> TrainingRange:
    """Return the range of recordings, at least one; a recording that is used twice counts twice."""
    spreads = {
        name: _spread([getattr(facts, name) for facts in recordings], decimals)
        for name, decimals in DECIMALS.items()
    }
    rates, counts = np.unique([facts.rate for facts in recordings], return_counts=True)
    pairs = zip(rates.tolist(), counts.tolist(), strict=True)
    return TrainingRange(rates=[RateCount(rate=r, recordings=n) for r, n in pairs], **spreads)


def _spread(values: Sequence[float], decimals: int) -> Spread:
    points = np.percentile(values, [0, 1, 50, 99, 100]).round(decimals).tolist()
    return Spread(**dict(zip(Spread.model_fields, points, strict=True)))
