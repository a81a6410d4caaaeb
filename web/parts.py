"""A long recording in windows: each is labelled by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inference.emotion_model import EmotionModel
from inference.prediction import Prediction

WINDOW, HOP = 3.0, 1.0  # s
AT_ONCE = 8  # windows that are labelled together
SILENT = 2.0**-16  # half a step of 16 bits: less between all samples of a window is silence


@dataclass(frozen=True)
class Part:
    """A window of a recording, in s, and what the model says of it."""

    start: float
    end: float
    prediction: Prediction  # with the problem `silence` where nothing is to be heard


def label_parts(
    model: EmotionModel,
    waveform: NDArray[np.float32],
    window: float,
    hop: float,
    report: Callable[[int, int], None],
) -> list[Part]:
    """Return the windows of a waveform at the rate of the model, (T,), in their order.

    Args:
        model: The model.
        waveform: The recording, at least as long as a window.
        window: Length of a window, s. The last one is moved back to end with the recording.
        hop: From the start of a window to the next, s.
        report: Is told how many of how many windows are labelled.
    """
    rate = model.sample_rate
    size, step = round(window * rate), round(hop * rate)
    last = len(waveform) - size
    starts = [*range(0, last, step), last]
    parts: list[Part] = []
    for i in range(0, len(starts), AT_ONCE):
        some = starts[i : i + AT_ONCE]
        pieces = [waveform[start : start + size] for start in some]
        is_loud = [float(np.ptp(piece)) >= SILENT for piece in pieces]
        loud = [piece for piece, is_one in zip(pieces, is_loud, strict=True) if is_one]
        labelled = iter(model.predict_waveforms(loud))
        for start, is_one in zip(some, is_loud, strict=True):
            silent = Prediction("", {}, problem="silence", scale=model.scale)
            one = next(labelled) if is_one else silent
            parts.append(Part(start / rate, (start + size) / rate, one))
        report(len(parts), len(starts))
    return parts


def mean_of(predictions: Sequence[Prediction]) -> Prediction:
    """Return the mean of the predictions that have no problem; there is one."""
    usable = [one for one in predictions if one.probs]
    probs = {name: float(np.mean([one.probs[name] for one in usable])) for name in usable[0].probs}
    gates = [one.gate for one in usable if one.gate is not None]
    return replace(usable[0], probs=probs, gate=float(np.mean(gates)) if gates else None)


def regions(parts: Sequence[Part], seconds: float) -> list[tuple[float, float]]:
    """Return the time for which each window stands, in s: they do not overlap, and cover all.

    Where windows overlap, the border lies halfway between their middles.

    Args:
        parts: Windows in their order.
        seconds: Duration of the recording.

    >>> from inference.prediction import Prediction
    >>> parts = [Part(start, start + 3.0, Prediction("", {})) for start in (0.0, 1.0, 1.5)]
    >>> regions(parts, 4.5)
    [(0.0, 2.0), (2.0, 2.75), (2.75, 4.5)]
    """
    middles = [(part.start + part.end) / 2 for part in parts]
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(middles)), seconds]
    return list(pairwise(borders))
