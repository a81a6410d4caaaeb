"""Cut a stream of sound into windows or at given times; memory holds a few windows.

Windows of T seconds start at 0, H, 2 H, ..., each rounded to a sample, so that no error adds up.
The last one is moved back so that it ends with the sound: all windows have the same length, and
every sample is in one, but for less than 10 ms at the end. Sound shorter than a window is one
window, as long as the sound.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.opening import BadAudio
from audio.segment import MIN_SECONDS
from audio.streaming import SoundStream
from inference.prediction import SILENCE

SMALLEST = 2.0**-16  # half a step of 16 bits: less between all samples of a window is silence


class Cut(NamedTuple):
    """A part of a sound."""

    start: float  # s
    end: float  # s
    waveform: NDArray[np.float32]  # (t,) at the stream's rate
    problem: str | None  # why it cannot be labelled
    rate: int  # of the source, Hz


class Ring:
    """The last samples of a stream.

    Attributes:
        first: Number of the first sample that is kept.
        end: Number behind the last sample.
    """

    def __init__(self) -> None:
        self.first = self.end = 0
        self._blocks: deque[NDArray[np.float32]] = deque()

    def add(self, block: NDArray[np.float32]) -> None:
        """Add the next samples: (t,)."""
        self._blocks.append(block)
        self.end += len(block)

    def drop(self, before: int) -> None:
        """Forget whole blocks that end before a sample."""
        while self._blocks and self.first + len(self._blocks[0]) <= before:
            self.first += len(self._blocks.popleft())

    def cut(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return a copy of samples that are kept: (stop - start,)."""
        parts, place = [], self.first
        for block in self._blocks:
            parts.append(block[max(start - place, 0) : max(stop - place, 0)])
            place += len(block)
        return np.concatenate(parts)


def windows(stream: SoundStream, window: float, hop: float) -> Iterator[Cut]:
    """Yield windows, each as soon as it is complete.

    Args:
        stream: The sound.
        window: Length, s.
        hop: From one start to the next, s; at most `window`.

    Raises:
        BadAudio: There is no sound, less than 10 ms of it, or the rest cannot be read.
    """
    rate = stream.sample_rate
    size = round(window * rate)
    ring, n, covered = Ring(), 0, 0
    for block in stream.blocks():
        ring.add(block)
        while ring.end >= (start := round(n * hop * rate)) + size:
            yield _cut(stream, ring, start, start + size)
            n, covered = n + 1, start + size
        ring.drop(covered - size)  # the last window may start anywhere behind the one before
    check_length(stream.seconds)
    if n == 0 or ring.end - covered >= MIN_SECONDS * rate:
        yield _cut(stream, ring, max(ring.end - size, 0), ring.end)


def pieces(stream: SoundStream, spans: Iterable[tuple[float, float]]) -> Iterator[Cut]:
    """Yield the sound between given times.

    Args:
        stream: The sound.
        spans: Start and end of each piece, s, in order; none overlap.

    Raises:
        BadAudio: The rest cannot be read.
    """
    rate = stream.sample_rate
    rest = deque((round(start * rate), round(end * rate)) for start, end in spans)
    ring = Ring()
    for block in stream.blocks():
        ring.add(block)
        while rest and ring.end >= rest[0][1]:
            yield _cut(stream, ring, *rest.popleft())
        ring.drop(rest[0][0] if rest else ring.end)
    if rest and ring.end > rest[0][0]:  # times were rounded
        yield _cut(stream, ring, rest[0][0], ring.end)


def check_length(seconds: float) -> None:
    """Refuse sound of no or hardly any samples with a BadAudio."""
    if seconds == 0:
        raise BadAudio("holds no samples")
    if seconds < MIN_SECONDS:
        found = f"{1000 * seconds:.3g} ms"
        raise BadAudio(f"is too short: {found}, where {1000 * MIN_SECONDS:g} ms are needed")


def _cut(stream: SoundStream, ring: Ring, first: int, stop: int) -> Cut:
    start, end = first / stream.sample_rate, stop / stream.sample_rate
    waveform = ring.cut(first, stop)
    problem = None
    if flaws := stream.flaws(start, end):
        problem = f"{flaws[0].reason} at {max(flaws[0].start, start):.2f} s"
    elif float(np.ptp(waveform)) < SMALLEST:
        problem = SILENCE
    return Cut(start, end, waveform, problem, stream.rate)
