"""Silent ends of a recording: found by the level of short frames, and cut off.

Frame m is centred on sample m H; its level is the mean of x^2 over N samples, x being 0 outside of
the recording. With m_1 and m_2 the first and the last frame less than `trim_db` below the loudest,
samples m_1 H to (m_2 + 1) H remain.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FRAME_SECONDS = 2048 / 44_100  # N, 46 ms
HOP_SECONDS = 512 / 44_100  # H, 12 ms


class FrameLevels:
    """Levels of the frames of a recording, added up block by block.

    Args:
        sample_rate: Sampling rate of the blocks, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._frame, self.hop = (
            max(round(s * sample_rate), 1) for s in (FRAME_SECONDS, HOP_SECONDS)
        )
        self._rest = torch.zeros(self._frame // 2, dtype=torch.double)  # squares without a frame
        self._levels: list[Tensor] = []

    def add(self, block: Tensor) -> None:
        """Add the next samples: (t,)."""
        self._take(block.double().square())

    def end(self) -> Tensor:
        """Return the mean square of each frame, after the last block: (frames,)."""
        self._take(torch.zeros(self._frame // 2, dtype=torch.double))
        return torch.cat([torch.zeros(0, dtype=torch.double), *self._levels])

    def _take(self, squares: Tensor) -> None:
        squares = torch.cat([self._rest, squares])
        n = max((len(squares) - self._frame) // self.hop + 1, 0)
        if n:
            whole = squares[: (n - 1) * self.hop + self._frame]
            self._levels.append(_means(whole, self._frame, self.hop))
        self._rest = squares[n * self.hop :]


def _means(x: Tensor, size: int, hop: int) -> Tensor:
    """Return the mean of each frame: (t,) -> ((t - size) / hop + 1,)."""
    if size % hop:
        return F.avg_pool1d(x[None], size, hop)[0]
    sums = x[: len(x) - len(x) % hop].view(-1, hop).sum(1)  # each enters size / hop frames
    return sums.unfold(0, size // hop, 1).sum(1) / size


def loud_frames(levels: Tensor, trim_db: float) -> tuple[int, int] | None:
    """Return the first and the last frame that is not silent; None for a silent recording.

    Args:
        levels: Mean square of each frame: (frames,).
        trim_db: Frames this many dB below the loudest one are silent.
    """
    if not len(levels):
        return None
    loud = torch.nonzero(levels > levels.max() * 10 ** (-trim_db / 10)).flatten()
    return (int(loud[0]), int(loud[-1])) if len(loud) else None


def trim_silence(waveform: Tensor, sample_rate: int, trim_db: float | None) -> Tensor:
    """Return a recording without the silence at its ends; a silent one, or None dB, stays whole.

    Args:
        waveform: Samples.
        sample_rate: Sampling rate, Hz.
        trim_db: Frames this many dB below the loudest one are silent.

    Shape:
        (T,) -> (T',)

    Source:
        `librosa.effects.trim`, the same samples at 44.1 kHz; there frames have equal samples, here
        equal seconds at every rate.

    >>> tone = torch.sin(torch.arange(4410) / 5)
    >>> len(trim_silence(torch.cat([torch.zeros(22050), tone, torch.zeros(9000)]), 44_100, 40.0))
    6144
    """
    start, stop = sound_span(waveform, sample_rate, trim_db)
    return waveform if stop - start == len(waveform) else waveform[start:stop]


def sound_span(waveform: Tensor, sample_rate: int, trim_db: float | None) -> tuple[int, int]:
    """Return the first sample that `trim_silence` keeps, and the one behind the last."""
    whole = (0, len(waveform))
    if trim_db is None or not len(waveform):
        return whole
    frames = FrameLevels(sample_rate)
    frames.add(waveform)
    loud = loud_frames(frames.end(), trim_db)
    if loud is None:
        return whole
    return loud[0] * frames.hop, min((loud[1] + 1) * frames.hop, len(waveform))
