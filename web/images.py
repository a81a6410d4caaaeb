"""Both images of a recording, with axes in Hz and seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.trim import sound_span
from evaluation.figures import spectrogram_png
from features import SpectrogramImages
from reports.media import data_uri

HERTZ = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)  # where an axis may have a tick
APART = 0.07  # of the height, between two ticks of the frequencies
MOST_TICKS = 6  # of the time


class Tick(NamedTuple):
    """A mark of an axis."""

    place: float  # 0 at the start of the axis, 1 at its end
    text: str


@dataclass(frozen=True)
class AxesImage:
    """An image and its axes.

    Attributes:
        name: CQT or Mel-STFT.
        uri: PNG, low frequencies at the bottom.
        hertz: Ticks from the bottom up.
        seconds: Ticks from left to right, in seconds of the recording.
    """

    name: str
    uri: str
    hertz: list[Tick]
    seconds: list[Tick]


@dataclass(frozen=True)
class ShownImages:
    """Both images of a part of a recording: what the branches of the network read.

    Attributes:
        start: Where the part begins, in s of the recording.
        end: Where it ends; behind the recording where that was padded.
        n_crops: How many crops the model read, of which this is the first.
        is_trimmed: Whether silence at the ends was left out.
    """

    images: list[AxesImage]
    start: float
    end: float
    n_crops: int
    is_trimmed: bool


@torch.inference_mode()
def shown_images(
    waveform: Tensor, front_end: SpectrogramImages, device: torch.device, offset: float = 0.0
) -> ShownImages:
    """Return the images of the first crop of a waveform: (T,) at `input_rate`.

    Args:
        waveform: The recording, or a part of it.
        front_end: What makes the images, on `device`.
        device: Where they are made.
        offset: Where the waveform begins, in s of the recording.
    """
    rate = front_end.input_rate
    first, stop = sound_span(waveform, rate, front_end.trim_db)
    crops = front_end.cut(waveform)
    pair = front_end(crops[:1].to(device))
    start = offset + first / rate
    end = start + crops.shape[1] / rate
    times = time_ticks(start, end)
    frequencies = (front_end.cqt.frequencies, front_end.mel.edges[1:-1])
    images = [
        AxesImage(
            name,
            data_uri("image/png", spectrogram_png(image[0, 0].cpu().numpy(), -front_end.top_db)),
            hertz_ticks(hertz),
            times,
        )
        for name, image, hertz in zip(("CQT", "Mel-STFT"), pair, frequencies, strict=True)
    ]
    return ShownImages(images, start, end, len(crops), (first, stop) != (0, len(waveform)))


def hertz_ticks(frequencies: NDArray[np.float64]) -> list[Tick]:
    """Return ticks at round frequencies, by the rows of an image: row i has frequencies[i].

    >>> [tick.text for tick in hertz_ticks(np.geomspace(100, 1600, 5))]
    ['100', '200', '500', '1k']
    >>> hertz_ticks(np.geomspace(100, 1600, 5))[1].place  # the middle of the second of five rows
    0.3
    """
    rows = np.arange(len(frequencies))
    ticks: list[Tick] = []
    for hertz in HERTZ:
        if not frequencies[0] <= hertz <= frequencies[-1]:
            continue
        row = np.interp(np.log(hertz), np.log(np.maximum(frequencies, 1e-9)), rows)
        place = round(float((row + 0.5) / len(frequencies)), 4)
        if not ticks or place - ticks[-1].place >= APART:
            ticks.append(Tick(place, f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)))
    return ticks


def time_ticks(start: float, end: float, most: int = MOST_TICKS) -> list[Tick]:
    """Return ticks at round times of an axis from start to end, s.

    >>> [tick.text for tick in time_ticks(0.0, 3.4)]
    ['0', '1', '2', '3']
    >>> time_ticks(60.0, 660.0, 5)[0]
    Tick(place=0.1, text='2:00')
    """
    span = end - start
    step = _round_step(span / most)
    numbers = range(ceil(start / step - 1e-9), floor(end / step + 1e-9) + 1)
    return [Tick(round((n * step - start) / span, 4), clock(n * step, end)) for n in numbers]


def _round_step(least: float) -> float:
    """Return the smallest round step of at least so many seconds."""
    steps: Sequence[float] = (5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
    if least <= 2:
        unit = 10.0 ** floor(log10(least))
        steps = (unit, 2 * unit, 5 * unit, 10 * unit)
    return next((step for step in steps if step >= least * 0.999), steps[-1])


def clock(seconds: float, longest: float) -> str:
    """Write a time: in seconds where all times are below a minute, else m:ss or h:mm:ss.

    >>> clock(3.5, 12), clock(75, 80), clock(407.72, 540), clock(3675, 4000)
    ('3.5', '1:15', '6:47.7', '1:01:15')
    """
    if longest < 60:
        return f"{round(seconds, 3):g}"
    minutes, rest = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{whole}:{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
