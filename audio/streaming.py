"""Sound in blocks, whatever its length: files, and raw samples from a pipe.

`audio.reading` holds a whole recording and refuses one that cannot be used. Here only a block is in
memory, and what cannot be used is a `Flaw` with its time: an hour is not lost for one bad second.
"""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from audio.channels import ChannelLevels
from audio.opening import open_file
from audio.reading import MAX_PEAK, open_audio

log = logging.getLogger(__name__)
BLOCK = 2**16  # samples, over all channels, that are in memory at once
CANCELLING = 0.1  # s of a block from which on its channels are compared
PcmFormat = Literal["s16le", "f32le"]
PCM_FORMATS: dict[PcmFormat, str] = {"s16le": "<i2", "f32le": "<f4"}  # names of ffmpeg and arecord
FULL_SCALE = {"s16le": 2**15, "f32le": 1}


class Flaw(NamedTuple):
    """A part of a sound that cannot be used; its samples are replaced by zeros."""

    start: float  # s
    end: float  # s
    reason: str


class SoundStream:
    """A sound as mono blocks at a rate, with its flaws.

    Args:
        blocks: Samples as they come: (t, channels) float32 each.
        rate: Their rate, Hz.
        sample_rate: Rate of the result, Hz; None keeps theirs.

    Attributes:
        rate: Rate of the source, Hz.
        sample_rate: Rate of the result, Hz.
        seconds: Duration of what was read so far.
    """

    def __init__(
        self, blocks: Iterator[NDArray[np.float32]], rate: int, sample_rate: int | None = None
    ) -> None:
        self.rate, self.sample_rate = rate, sample_rate or rate
        self.seconds = 0.0
        self._blocks = blocks
        self._flaws: deque[Flaw] = deque()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the mean of the channels at `sample_rate`: (t,) each.

        The filter of the resampling runs through: blocks joined are the whole sound resampled.

        Raises:
            BadAudio: The rest of a file cannot be read.
        """
        same = self.rate == self.sample_rate
        quality = "HQ"  # as of `read_audio`
        soxr_stream = soxr.ResampleStream(self.rate, self.sample_rate, 1, "float32", quality)
        for samples in self._blocks:
            mono = self._checked(samples)
            self.seconds += len(mono) / self.rate
            yield mono if same else soxr_stream.resample_chunk(mono)
        if not same:
            yield soxr_stream.resample_chunk(np.zeros(0, np.float32), last=True)

    def flaws(self, start: float, end: float) -> list[Flaw]:
        """Return the flaws between two times in s; those before `start` are forgotten."""
        while self._flaws and self._flaws[0].end <= start:
            self._flaws.popleft()
        return [flaw for flaw in self._flaws if flaw.start < end]

    def _checked(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the channels, zero where a sample cannot be used: (t, C) -> (t,)."""
        with np.errstate(invalid="ignore"):
            size = np.abs(samples).max(1)  # (t,), NaN where a channel is
        strange, loud = ~np.isfinite(size), size > MAX_PEAK
        if (strange | loud).any():
            self._note(strange, "holds samples that are NaN or infinite")
            self._note(loud & ~strange, "holds samples far above full scale")
            samples = np.where((strange | loud)[:, None], np.float32(0), samples)
        mono: NDArray[np.float32] = samples.mean(1)
        if samples.shape[1] > 1 and len(samples) >= CANCELLING * self.rate:
            levels = ChannelLevels(samples.shape[1])
            levels.add(samples, mono)
            if levels.cancellation() is not None:
                self._note(np.ones(len(mono), bool), "has channels that cancel")
        return mono

    def _note(self, bad: NDArray[np.bool_], reason: str) -> None:
        """Note a flaw from the first to the last bad sample of a block."""
        if not bad.any():
            return
        first, last = np.flatnonzero(bad)[[0, -1]] / self.rate + self.seconds
        self._flaws.append(Flaw(float(first), float(last) + 1 / self.rate, reason))


@contextmanager
def open_stream(path: Path, sample_rate: int | None = None) -> Iterator[SoundStream]:
    """Open a file that libsndfile reads as a stream, of any length.

    Raises:
        BadAudio: It cannot be opened or is not audio; in `blocks`, the rest cannot be read.
    """
    with open_file(path) as file, open_audio(file) as audio:
        size = max(BLOCK // audio.channels, 1)

        def read() -> Iterator[NDArray[np.float32]]:
            while len(samples := audio.read(size, "float32", always_2d=True)):  # (t, channels)
                yield samples

        yield SoundStream(read(), audio.samplerate, sample_rate)


def pcm_stream(
    file: BinaryIO, rate: int, form: PcmFormat, sample_rate: int | None = None
) -> SoundStream:
    """Return raw mono samples of a pipe as a stream; blocks come as soon as the pipe has them.

    Args:
        file: A buffered binary file, such as `sys.stdin.buffer`.
        rate: Rate of the samples, Hz.
        form: `s16le` or `f32le`, little-endian.
        sample_rate: Rate of the result, Hz; None keeps theirs.
    """
    kind = np.dtype(PCM_FORMATS[form])

    def read() -> Iterator[NDArray[np.float32]]:
        rest = b""
        while data := file.read1(BLOCK):  # type: ignore[attr-defined]
            data = rest + data
            whole = len(data) - len(data) % kind.itemsize
            rest = data[whole:]
            if whole:
                samples = np.frombuffer(data[:whole], kind).astype(np.float32)
                yield samples[:, None] / np.float32(FULL_SCALE[form])
        if rest:
            log.warning("the last %d bytes are no whole sample of %s", len(rest), form)

    return SoundStream(read(), rate, sample_rate)
