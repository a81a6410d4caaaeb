"""Facts of a recording that say whether two recordings are alike: length, rate, level, bandwidth.

Bandwidth. Let P[k] be the mean of |X[k]|^2 over frames of FRAME samples, side by side, each without
its mean and under a Hann window. The bandwidth is k / FRAME of the rate, for the smallest k with
    P[0] + ... + P[k] >= ENERGY_SHARE * (P[0] + ... + P[FRAME / 2]).
The rest is 30 dB below the whole. Sound that was once sampled at another rate, sent by telephone or
coded at a low bit rate keeps its narrow band in a file of any rate.

Cutoff. Speech fades towards high frequencies; a filter ends it. The fall at k is the mean of P
over 0.85 k to 0.95 k, in dB above the largest P beyond 1.05 k, smoothed over SMOOTHED bins. Where
the largest fall from LOWEST_CUTOFF on is CLIFF_DB or more, the cutoff is the highest frequency with
more than half of that fall, in dB, below it; else there is none, and it is half the rate.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAME = 1024  # samples
BLOCK = 2**18  # samples described at a time
ENERGY_SHARE = 0.999  # of the energy, below the bandwidth
CLIFF_DB = 24.0  # filters of codecs and resampling: mostly 30 to 80
LOWEST_CUTOFF = 1500.0  # Hz; below, single harmonics of a soft voice stand out as much
SMOOTHED = 9  # bins
SILENCE = 1e-30  # mean square, -300 dBFS: the lowest level


class RecordingFacts(NamedTuple):
    """Facts of a recording as it lies in its file, channels averaged."""

    seconds: float
    rate: int  # Hz, of the file
    level: float  # dBFS: RMS without the mean, where a sine of amplitude 1 has -3.01 dB
    bandwidth: float  # Hz: 99.9 % of the energy lies below


class Description:
    """Facts of a recording, added up block by block; memory does not grow with its length.

    Args:
        rate: Sampling rate of the blocks, Hz.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._n_samples = 0
        self._sum = self._squares = 0.0
        self._power = np.zeros(FRAME // 2 + 1)  # (k,) summed over frames
        self._rest = np.zeros(0, np.float32)  # samples that fill no frame yet

    def add(self, block: NDArray[np.float32]) -> None:
        """Add the next samples: (t,)."""
        wide = block.astype(np.float64)
        self._n_samples += len(wide)
        self._sum += float(wide.sum())
        # Not wide @ wide: BLAS threads would wait, busy, on the cores of other readers
        self._squares += float(np.einsum("t,t", wide, wide))
        samples = np.concatenate([self._rest, block])
        whole = len(samples) - len(samples) % FRAME
        if whole:
            frames = samples[:whole].reshape(-1, FRAME)
            self._power += _power(frames)
        self._rest = samples[whole:]

    def facts(self) -> RecordingFacts:
        """Return the facts of what was added, at least one sample.

        Samples behind the last whole frame count for length and level alone; a recording shorter
        than a frame is one frame, under a window of its own length.
        """
        power = self._spectrum()
        energy = np.cumsum(power, dtype=np.float64)  # (k,)
        k = int(np.searchsorted(energy, ENERGY_SHARE * energy[-1]))
        variance = self._squares / self._n_samples - (self._sum / self._n_samples) ** 2
        return RecordingFacts(
            seconds=self._n_samples / self._rate,
            rate=self._rate,
            level=float(10 * np.log10(max(variance, SILENCE))),
            bandwidth=k * self._rate / FRAME,
        )

    def cutoff(self) -> float:
        """Return the frequency in Hz at which a filter ended the sound; half the rate if none."""
        power = np.maximum(self._spectrum(), SILENCE)  # (k,)
        n = len(power) - 1
        k = np.arange(max(SMOOTHED, round(LOWEST_CUTOFF * FRAME / self._rate)), round(0.95 * n))
        low, high, beyond = (np.round(share * k).astype(int) for share in (0.85, 0.95, 1.05))
        total = np.concatenate([[0.0], np.cumsum(power)])
        below = np.maximum((total[high] - total[low]) / (high - low), SILENCE)
        smooth = np.convolve(power, np.ones(SMOOTHED) / SMOOTHED, "valid")  # (k - SMOOTHED + 1,)
        largest = np.maximum.accumulate(smooth[::-1])[::-1]  # from k on
        above = largest[np.minimum(beyond + SMOOTHED // 2, len(largest) - 1)]
        fall = 10 * np.log10(below / above)
        if not len(k) or fall.max() < CLIFF_DB:
            return self._rate / 2
        halfway = np.sqrt(below * above)[fall.argmax()]
        last = int(np.flatnonzero(smooth >= halfway)[-1]) + SMOOTHED // 2
        return last * self._rate / FRAME

    def _spectrum(self) -> NDArray[np.float64]:
        """Return the power of each bin: (k,)."""
        if self._n_samples < FRAME:
            return _power(self._rest[None])
        return self._power


def describe(waveform: NDArray[np.float32], rate: int) -> RecordingFacts:
    """Return the facts of a waveform (T,) in [-1, 1] at a rate in Hz.

    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    >>> facts = describe(tone, 16_000)
    >>> facts.seconds, facts.rate, round(facts.level, 2), round(facts.bandwidth)
    (1.0, 16000, -3.01, 1016)
    """
    description = Description(rate)
    for start in range(0, len(waveform), BLOCK):
        description.add(waveform[start : start + BLOCK])
    return description.facts()


def _power(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return |X[k]|^2 of frames of at most FRAME samples, their sum: (n, t) -> (FRAME / 2 + 1,)."""
    from scipy.fft import rfft  # slow to import; six times as fast as NumPy's in float32

    window = np.hanning(frames.shape[1] + 1)[:-1].astype(np.float32)  # periodic
    centred = frames - frames.mean(1, keepdims=True)
    centred *= window
    spectrum = rfft(centred, FRAME)
    squares = np.square(spectrum.view(np.float32))  # (n, 2 * (FRAME / 2 + 1))
    ones = np.ones(len(squares), np.float32)
    return (ones @ squares).reshape(-1, 2).sum(1, dtype=np.float64)  # BLAS sums the frames
