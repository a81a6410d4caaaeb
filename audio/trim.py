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
    if trim_db is None or not len(waveform):
        return waveform
    frame, hop = (max(round(s * sample_rate), 1) for s in (FRAME_SECONDS, HOP_SECONDS))
    padded = F.pad(waveform.double().square(), (frame // 2, frame // 2))
    if len(padded) < frame:
        return waveform
    level = F.avg_pool1d(padded[None], frame, hop)[0]  # (frames,) mean square
    loud = torch.nonzero(level > level.max() * 10 ** (-trim_db / 10)).flatten()
    if not len(loud):
        return waveform
    return waveform[int(loud[0]) * hop : (int(loud[-1]) + 1) * hop]
