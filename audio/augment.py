"""Changes to training clips, drawn from (seed, epoch, clip): the same on any machine.

Which clip mixup mixes in follows from the batch, and so from the number of processes, too.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Key = Sequence[int]  # (seed, epoch, clip): equal keys give equal changes
STRETCH_WINDOW = 0.046  # seconds, about: the phase vocoder's frame
OF_WAVEFORM, OF_CROP, OF_MIX = 1, 2, 3  # apart from the chance of the images


class Mix(NamedTuple):
    """How the clips of a batch are mixed."""

    partner: Tensor  # (B,) place in the batch of the clip mixed in
    share: Tensor  # (B,) part of the clip itself


def augment_waveform(
    waveform: NDArray[np.float32],
    sample_rate: int,
    key: Key,
    gain_db: float = 0.0,
    snr_db: Sequence[float] | None = None,
    speed: float = 0.0,
    pitch: float = 0.0,
) -> NDArray[np.float32]:
    """Change speed, pitch and level of a clip and add white noise.

    Args:
        waveform: One clip.
        sample_rate: Hz.
        key: (seed, epoch, clip).
        gain_db: Largest change of level up or down.
        snr_db: Lowest and highest ratio of the clip's power to the noise's; None adds none.
        speed: Largest change: 0.1 plays at 0.9 to 1.1 times the speed, which moves pitch too.
        pitch: Largest change in semitones; the length stays.

    Shape:
        (T,) -> (about T / speed,)

    Source:
        Ko et al. 2015 for speed; resampling by soxr, phase vocoder by torchaudio.
    """
    draw = np.random.default_rng((*key, OF_WAVEFORM))
    factor = 1 + speed * draw.uniform(-1, 1)
    semitones = pitch * draw.uniform(-1, 1)
    level = gain_db * draw.uniform(-1, 1)
    if factor != 1:
        waveform = _resample(waveform, factor)
    if semitones:
        waveform = _shift_pitch(waveform, sample_rate, 2 ** (semitones / 12))
    if snr_db is not None:
        ratio = draw.uniform(snr_db[0], snr_db[1])  # dB
        rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
        noise = draw.standard_normal(len(waveform), dtype=np.float32)
        waveform = waveform + np.float32(rms * 10 ** (-ratio / 20)) * noise
    return (waveform * 10 ** (level / 20)).astype(np.float32)


def draw_crop(waveform: Tensor, size: int, key: Key) -> Tensor:
    """Return a stretch of a clip from anywhere in it, zeros behind a short one: (T,) -> (size,)."""
    spare = len(waveform) - size
    if spare <= 0:
        return F.pad(waveform, (0, -spare))
    start = draw_index(spare + 1, key)
    return waveform[start : start + size]


def draw_index(n: int, key: Key) -> int:
    """Return which of n crops is seen: 0 to n - 1."""
    return int(np.random.default_rng((*key, OF_CROP)).integers(n))


def draw_mix(keys: Sequence[Key], alpha: float) -> Mix:
    """Pair each clip of a batch with the one before it, in parts of its own.

    Args:
        keys: (seed, epoch, clip) of each clip.
        alpha: Of the Beta distribution: small keeps most clips nearly whole.

    Source:
        mixup, Zhang et al. 2018; theirs draws one part a batch, here one a clip.
    """
    shares = [np.random.default_rng((*key, OF_MIX)).beta(alpha, alpha) for key in keys]
    return Mix(torch.arange(len(keys)).roll(1), torch.tensor(shares, dtype=torch.float32))


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix the images of a batch: (B, C, H, W) -> (B, C, H, W)."""
    share = mix.share[:, None, None, None]
    return share * images + (1 - share) * images[mix.partner]


def augment_images(
    images: tuple[Tensor, Tensor],
    key: Key,
    freq_mask: float = 0.0,
    time_mask: float = 0.0,
    time_shift: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Mask a band and a stretch of time in each image, and shift both in time alike.

    Args:
        images: CQT and Mel images of one clip, dB.
        key: (seed, epoch, clip).
        freq_mask: Largest part of the height masked, drawn uniformly from 0.
        time_mask: Largest part of the width masked, likewise.
        time_shift: Largest shift as a part of the width; both images move together and the
            edge is filled with the image's floor.

    Shape:
        2 x (C, H, W) -> 2 x (C, H, W)

    Source:
        SpecAugment, Park et al. 2019; theirs masks with zero or the mean, here the mean.
    """
    draw = np.random.default_rng(key)
    shift = draw.uniform(-time_shift, time_shift)
    changed = []
    for image in images:
        image = _shift(image, round(shift * image.shape[-1]))
        image = _mask(image, -2, draw.uniform(0, freq_mask), draw.random())
        changed.append(_mask(image, -1, draw.uniform(0, time_mask), draw.random()))
    return changed[0], changed[1]


def _resample(waveform: NDArray, factor: float) -> NDArray:
    """Play at a multiple of the speed; at least one sample is left."""
    played = soxr.resample(waveform, factor, 1.0)
    return played if len(played) else waveform[:1]


def _shift_pitch(waveform: NDArray, sample_rate: int, factor: float) -> NDArray:
    """Multiply all frequencies: stretch by the factor at the same pitch, then play faster by it."""
    from torchaudio.functional import phase_vocoder  # half a second of CPU time

    n_fft = 2 ** round(math.log2(STRETCH_WINDOW * sample_rate))
    hop, window = n_fft // 4, torch.hann_window(n_fft)
    clip = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    spectrum = torch.stft(clip, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, math.pi * hop, n_fft // 2 + 1)[:, None]
    stretched = phase_vocoder(spectrum, 1 / factor, advance)
    length = max(round(len(waveform) * factor), 1)
    longer = torch.istft(stretched, n_fft, hop, window=window, length=length).numpy()
    shifted = _resample(longer, factor)[: len(waveform)]
    return np.pad(shifted, (0, len(waveform) - len(shifted)))


def _shift(image: Tensor, n: int) -> Tensor:
    """Move the image n columns to the right, n < 0 to the left."""
    if n == 0:
        return image
    floor = image.amin((-2, -1), keepdim=True).expand(*image.shape[:-1], abs(n))  # (C, H, |n|)
    kept = image[..., :-n] if n > 0 else image[..., -n:]
    return torch.cat([floor, kept] if n > 0 else [kept, floor], -1)


def _mask(image: Tensor, axis: int, part: float, position: float) -> Tensor:
    """Set a stretch of rows (axis -2) or columns (axis -1) to the image's mean."""
    size = image.shape[axis]
    width = round(part * size)
    if width == 0:
        return image
    masked = image.clone()
    start = int(position * (size - width + 1))
    masked.narrow(axis, start, width).copy_(image.mean((-2, -1), keepdim=True))
    return masked
