"""Waveforms to two images in dB: constant-Q and Mel-STFT.

Batched modules for any device, without files or labels. In every image frequency runs from low
(row 0) to high and time from left to right. An image does not depend on the rest of its batch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.cqt import CQT
from audio.mel_stft import MelSTFT
from audio.trim import trim_silence
from audio.windows import check_positive, check_rates, check_waveform, check_whole
from system.errors import InputError

RESAMPLER = {  # torchaudio's "kaiser best"; its default aliases near half the lower rate
    "resampling_method": "sinc_interp_kaiser",
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "beta": 14.769656459379492,
}
SILENCE = 1e-7  # amplitude, -140 dB of full scale: the lowest reference


class Images(NamedTuple):
    """The two images of a batch, dB in [-top_db, 0] (`full_scale` may exceed 0)."""

    cqt: Tensor  # (B, C, H, W)
    mel: Tensor  # (B, C, H, W)


class SpectrogramImages(nn.Module):
    """Waveforms to the two images that the backbones read.

    Args:
        sample_rate: Sampling rate in Hz that the settings of both transforms refer to.
        image_size: Height and width of the images, pixels.
        cqt: Arguments of `CQT` except the sampling rate.
        mel: Arguments of `MelSTFT` except the sampling rate.
        top_db: Range kept below the reference, dB.
        reference: What 0 dB is. `clip`: the maximum of the waveform's own spectrogram;
            `full_scale`: the largest value for a sine of amplitude 1, which keeps the level.
        channels: `static`, or `delta` for static + delta + delta-delta.
        seconds: Length of the crops that `cut` makes; None stretches whole recordings to the
            width of the image.
        trim_db: Silence at the ends of a recording that `cut` leaves out: frames this many dB below
            the loudest one; None keeps all.
        input_rate: Sampling rate of the waveforms in Hz, None for `sample_rate`. They are
            resampled once for both transforms.

    Shape:
        waveform (B, T) in [-1, 1], lengths (B,) in samples -> 2 x (B, C, H, W), H = W = image_size

    Raises:
        InputError: A setting is out of range, or a waveform is not (B, T) of a floating-point type.

    Source:
        Settings of MaxMViT-MLP, resized once, with antialiasing. Theirs has 244 pixels, which
        MaxViT's windows do not divide: 224 here.
    """

    version = 3  # raised when equal settings give other images: part of the feature store's key

    def __init__(
        self,
        sample_rate: int = 44_100,
        image_size: int = 224,
        cqt: Mapping[str, Any] | None = None,
        mel: Mapping[str, Any] | None = None,
        top_db: float = 80.0,
        reference: str = "clip",
        channels: str = "static",
        seconds: float | None = None,
        trim_db: float | None = None,
        input_rate: int | None = None,
    ) -> None:
        super().__init__()
        check_whole("model.image_size", image_size)
        check_positive("features.top_db", top_db)
        check_positive("features.seconds", 1.0 if seconds is None else seconds)
        check_positive("features.trim_db", 1.0 if trim_db is None else trim_db)
        for name, value, allowed in (
            ("reference", reference, ("clip", "full_scale")),
            ("channels", channels, ("static", "delta")),
        ):
            if value not in allowed:
                raise InputError(f"features.{name} must be one of {allowed}, got {value!r}")
        self.settings: dict[str, Any] = {  # with `version` they decide every pixel
            "sample_rate": sample_rate,
            "input_rate": input_rate,
            "cqt": dict(cqt or {}),
            "mel": dict(mel or {}),
            "top_db": top_db,
            "reference": reference,
            "channels": channels,
            "seconds": seconds,
            "trim_db": trim_db,
            "image_size": image_size,
        }
        self.image_size, self.top_db, self.trim_db = image_size, top_db, trim_db
        self.reference, self.channels = reference, channels
        self.sample_rate = sample_rate
        self.input_rate = sample_rate if input_rate is None else input_rate
        check_rates(self.input_rate, sample_rate)
        self.crop_size = None if seconds is None else max(round(seconds * self.input_rate), 1)
        self.resample = _resampler(self.input_rate, sample_rate)
        self.cqt = CQT(sample_rate, **(cqt or {}))
        self.mel = MelSTFT(sample_rate, **(mel or {}))

    @property
    def n_channels(self) -> int:
        """Channels of each image."""
        return 3 if self.channels == "delta" else 1

    @property
    def record(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.n_channels, self.image_size, self.image_size

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Images:
        """Return both images, in float32 whatever autocast says.

        Args:
            waveform: Waveforms, padded to the longest.
            lengths: Number of samples of each; samples beyond are ignored. None uses all samples;
                this exports as one graph, and compiles as one after an eager call has made the
                kernels of its length.
        """
        check_waveform(waveform)
        if 0 in waveform.shape:
            shape = tuple(waveform.shape)
            raise InputError(f"waveform must be (B, T) and not empty, got {shape}")
        waveform = waveform.float()
        if lengths is None:
            waveform = self.resample(waveform)
            powers = self.cqt.power(waveform), self.mel(waveform)
            return Images(*map(self._images, powers, self._full_scales))
        in_range = 1 <= lengths.min() and lengths.max() <= waveform.shape[-1]
        if lengths.shape != waveform.shape[:1] or not in_range:
            limit = f"{len(waveform)} lengths in 1..{waveform.shape[-1]}"
            raise ValueError(f"there must be {limit}, got {lengths.tolist()}")
        waveform = self.resample(_zero_beyond(waveform, lengths))
        lengths = -(-lengths * self.sample_rate // self.input_rate)  # as torchaudio rounds
        waveform = _zero_beyond(waveform, lengths)  # the resampler rings beyond the end
        powers = self.cqt.power(waveform), self.mel(waveform)
        n_frames = self.cqt.n_frames(lengths), self.mel.n_frames(lengths)
        return Images(*map(self._images_of_frames, powers, self._full_scales, n_frames))

    @property
    def _full_scales(self) -> tuple[float, float]:
        return self.cqt.full_scale, self.mel.full_scale

    def cut(self, waveform: Tensor) -> Tensor:
        """Trim a recording and cut it into the fewest crops: (T,) -> (n, crop_size) or (1, T')."""
        waveform = trim_silence(waveform, self.input_rate, self.trim_db)
        return waveform[None] if self.crop_size is None else crops(waveform, self.crop_size)

    def _images_of_frames(self, power: Tensor, full_scale: float, n_frames: Tensor) -> Tensor:
        """Make an image of the first n_frames of each: (B, F, T), (B,) -> (B, C, H, W)."""
        pairs = zip(power.split(1), n_frames.tolist(), strict=True)
        return torch.cat([self._images(p[..., :n], full_scale) for p, n in pairs])

    def _images(self, power: Tensor, full_scale: float) -> Tensor:
        """Convert power to dB, clamp to the range, resize: (B, F, n) -> (B, C, H, W)."""
        db = 10 * torch.log10(power.clamp_min(1e-30))
        reference = torch.as_tensor(10 * float(np.log10(full_scale)))
        if self.reference == "clip":
            silence = reference + 20 * float(np.log10(SILENCE))
            reference = db.amax((1, 2), keepdim=True).clamp_min(float(silence))
        db = (db - reference).clamp_min(-self.top_db)
        channels = _with_deltas(db) if self.channels == "delta" else db[:, None]  # (B, C, F, n)
        size = (self.image_size, self.image_size)
        return F.interpolate(channels, size, mode="bilinear", antialias=True)


def _resampler(input_rate: int, sample_rate: int) -> nn.Module:
    """Return what resamples waveforms from one rate to another; its kernel is in no state_dict."""
    if input_rate == sample_rate:
        return nn.Identity()
    from torchaudio.transforms import Resample  # half a second of CPU time

    resample = Resample(input_rate, sample_rate, **RESAMPLER)
    resample.register_buffer("kernel", resample.kernel, persistent=False)
    return resample


def _zero_beyond(waveform: Tensor, lengths: Tensor) -> Tensor:
    """Set the samples beyond each length to zero: (B, T), (B,) -> (B, T)."""
    if int(lengths.min()) == waveform.shape[-1]:
        return waveform
    is_inside = torch.arange(waveform.shape[-1], device=waveform.device) < lengths[:, None]
    return torch.where(is_inside, waveform, 0)


def crops(waveform: Tensor, size: int) -> Tensor:
    """Return evenly spaced crops that cover a recording; a short one is padded with zeros.

    Shape:
        (T,) -> (ceil(T / size), size)

    >>> crops(torch.arange(1, 6), 3).tolist()
    [[1, 2, 3], [3, 4, 5]]
    >>> crops(torch.arange(1, 3), 3).tolist()
    [[1, 2, 0]]
    """
    spare = len(waveform) - size
    if spare <= 0:
        return F.pad(waveform, (0, -spare))[None]
    n = -(-len(waveform) // size)
    starts = (round(i * spare / (n - 1)) for i in range(n))
    return torch.stack([waveform[start : start + size] for start in starts])


def _with_deltas(db: Tensor) -> Tensor:
    """Stack spectrograms with their first and second slope over time: (B, F, n) -> (B, 3, F, n)."""
    from torchaudio.functional import compute_deltas  # half a second of CPU time

    delta = compute_deltas(db)
    return torch.stack([db, delta, compute_deltas(delta)], 1)
