"""Random changes of training data, seeded by (seed, epoch, id): equal on any machine.

Only the partner in mixup also depends on the batch, and so on the number of processes.
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

Key = Sequence[int]  # (seed, epoch, id of the recording): equal keys give equal changes
VOCODER_FRAME = 0.046  # seconds, rounded to a power of 2 in samples
# Appended to a key: independent streams. Masks and the shift in time use the key alone
WAVEFORM, CROP, MIX, FREQ_SHIFT, LEVEL = 1, 2, 3, 4, 5


class Mix(NamedTuple):
    """How the images of a batch are mixed."""

    partner: Tensor  # (B,) index in the batch of the image mixed in
    share: Tensor  # (B,) weight of the image itself


def augment_waveform(
    waveform: NDArray[np.float32],
    sample_rate: int,
    key: Key,
    gain_db: float = 0.0,
    snr_db: Sequence[float] | None = None,
    speed: float = 0.0,
    pitch: float = 0.0,
) -> NDArray[np.float32]:
    """Change speed, pitch and level of a recording and add white noise.

    Args:
        waveform: Samples of one recording.
        sample_rate: Sampling rate of the waveform, Hz.
        key: (seed, epoch, id) that seeds the changes.
        gain_db: Largest change of level up or down, dB.
        snr_db: Lowest and highest signal-to-noise ratio, dB; None adds no noise.
        speed: Largest change of speed: 0.1 plays 0.9 to 1.1 times as fast, which moves pitch too.
        pitch: Largest change of pitch in semitones; the length stays.

    Shape:
        (T,) -> (about T / speed,)

    Source:
        Ko et al. 2015 for speed; resampling by soxr, phase vocoder by torchaudio.
    """
    rng = np.random.default_rng((*key, WAVEFORM))
    factor = 1 + speed * rng.uniform(-1, 1)
    semitones = pitch * rng.uniform(-1, 1)
    level = gain_db * rng.uniform(-1, 1)
    if factor != 1:
        waveform = _resample(waveform, factor)
    if semitones:
        waveform = _shift_pitch(waveform, sample_rate, 2 ** (semitones / 12))
    if snr_db is not None:
        ratio = rng.uniform(snr_db[0], snr_db[1])  # dB
        rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
        noise = rng.standard_normal(len(waveform), dtype=np.float32)
        waveform = waveform + np.float32(rms * 10 ** (-ratio / 20)) * noise
    return (waveform * 10 ** (level / 20)).astype(np.float32)


def draw_crop(waveform: Tensor, size: int, key: Key) -> Tensor:
    """Return a random crop of a recording; a short one is padded with zeros: (T,) -> (size,)."""
    spare = len(waveform) - size
    if spare <= 0:
        return F.pad(waveform, (0, -spare))
    start = draw_index(spare + 1, key)
    return waveform[start : start + size]


def recording_id(audio_hash: str) -> int:
    """Return a recording's part of the augmentation's seed, equal in every fold and order."""
    return int(audio_hash[:8], 16)


def draw_index(n: int, key: Key) -> int:
    """Return which of n crops is used, 0 to n - 1."""
    return int(np.random.default_rng((*key, CROP)).integers(n))


def draw_mix(keys: Sequence[Key], alpha: float) -> Mix:
    """Pair each image of a batch with the previous one, each with a random share.

    Args:
        keys: (seed, epoch, id) of each image.
        alpha: Parameter of the Beta distribution; small values keep most images nearly pure.

    Source:
        mixup, Zhang et al. 2018; theirs draws one share per batch, here one per image.
    """
    shares = [np.random.default_rng((*key, MIX)).beta(alpha, alpha) for key in keys]
    return Mix(torch.arange(len(keys)).roll(1), torch.tensor(shares, dtype=torch.float32))


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix the images or vectors of a batch: (B, ...) -> (B, ...)."""
    share = mix.share.reshape(-1, *[1] * (images.ndim - 1))
    return share * images + (1 - share) * images[mix.partner]


def augment_images(
    images: tuple[Tensor, Tensor],
    key: Key,
    freq_mask: float = 0.0,
    time_mask: float = 0.0,
    time_shift: float = 0.0,
    freq_shift: float = 0.0,
    level_db: float = 0.0,
    top_db: float = 80.0,
) -> tuple[Tensor, Tensor]:
    """Shift both images in time, frequency and level, then mask a band and a time span in each.

    Args:
        images: CQT and Mel images of one recording, dB.
        key: (seed, epoch, id) that seeds the changes.
        freq_mask: Largest masked fraction of the height; drawn uniformly from 0.
        time_mask: Largest masked fraction of the width; drawn uniformly from 0.
        time_shift: Largest shift as a fraction of the width; both images move together and the
            edge is filled with silence: the minimum, and 0 in the channels of slopes.
        freq_shift: Largest shift up or down as a fraction of the height; otherwise as `time_shift`.
        level_db: Largest change of level up or down, dB, equal for both images; slopes stay.
        top_db: The floor of a changed level is -top_db, as in images of `full_scale`.

    Shape:
        2 x (C, H, W) -> 2 x (C, H, W)

    Source:
        SpecAugment, Park et al. 2019; theirs masks with zero or the mean, here the mean. The shift
        in frequency has its idea from vocal tract length perturbation, Jaitly & Hinton 2013; theirs
        warps the axis of a Mel filterbank, which a shift of rows is only like. On the CQT, whose
        axis is logarithmic, it multiplies all frequencies, as a change of pitch does.
    """
    rng = np.random.default_rng(key)
    shift = rng.uniform(-time_shift, time_shift)
    rise, level = _draw(key, FREQ_SHIFT, freq_shift), _draw(key, LEVEL, level_db)
    changed = []
    for image in images:
        image = _shift(image, round(shift * image.shape[-1]))
        image = _shift(image, round(rise * image.shape[-2]), -2)
        image = _change_level(image, level, top_db)
        image = _mask(image, -2, rng.uniform(0, freq_mask), rng.random())
        changed.append(_mask(image, -1, rng.uniform(0, time_mask), rng.random()))
    return changed[0], changed[1]


def _resample(waveform: NDArray, factor: float) -> NDArray:
    """Play `factor` times as fast; at least one sample is left."""
    resampled = soxr.resample(waveform, factor, 1.0)
    return resampled if len(resampled) else waveform[:1]


def _shift_pitch(waveform: NDArray, sample_rate: int, factor: float) -> NDArray:
    """Multiply all frequencies: stretch by the factor at equal pitch, then play faster."""
    from torchaudio.functional import phase_vocoder  # half a second of CPU time

    n_fft = 2 ** round(math.log2(VOCODER_FRAME * sample_rate))
    hop, window = n_fft // 4, torch.hann_window(n_fft)
    x = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    spectrum = torch.stft(x, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, math.pi * hop, n_fft // 2 + 1)[:, None]
    stretched = phase_vocoder(spectrum, 1 / factor, advance)
    length = max(round(len(waveform) * factor), 1)
    longer = torch.istft(stretched, n_fft, hop, window=window, length=length).numpy()
    shifted = _resample(longer, factor)[: len(waveform)]
    return np.pad(shifted, (0, len(waveform) - len(shifted)))


def _draw(key: Key, stream: int, most: float) -> float:
    """Return a number from [-most, most], drawn from a stream of its own."""
    return float(np.random.default_rng((*key, stream)).uniform(-most, most)) if most else 0.0


def _shift(image: Tensor, n: int, axis: int = -1) -> Tensor:
    """Move the image n columns to the right, or n rows (axis -2) up in frequency; n < 0 back."""
    if n == 0:
        return image
    edge = torch.zeros_like(image.narrow(axis, 0, abs(n)))  # silence has no slope
    edge[0] = image[0].min()  # channel 0 is the level, dB
    kept = image.narrow(axis, max(-n, 0), image.shape[axis] - abs(n))
    return torch.cat([edge, kept] if n > 0 else [kept, edge], axis)


def _change_level(image: Tensor, level: float, top_db: float) -> Tensor:
    """Add dB to channel 0, and floor it at -top_db."""
    if level == 0:
        return image
    return torch.cat([(image[:1] + level).clamp_min(-top_db), image[1:]])


def _mask(image: Tensor, axis: int, fraction: float, position: float) -> Tensor:
    """Set neighbouring rows (axis -2) or columns (axis -1) to the image's mean."""
    size = image.shape[axis]
    width = round(fraction * size)
    if width == 0:
        return image
    masked = image.clone()
    start = int(position * (size - width + 1))
    masked.narrow(axis, start, width).copy_(image.mean((-2, -1), keepdim=True))
    return masked
