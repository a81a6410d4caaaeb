"""The front end for a graph of any length and batch: `SpectrogramImages` without FFTs.

The images are those of `features.py`; the way to them has no constant that depends on the number
of samples, no FFT, and no operation that runtimes compute differently:
- CQT: equation 1 of `audio/cqt.py` as it stands, one strided convolution for each group of bins.
- Mel-STFT: an FFT of N = U V points as two products with matrices. With n = a V + v, f = u + U w,
      X[f] = sum_v exp(-2 pi i v (u/N + w/V)) sum_a h[n] x[n] exp(-2 pi i u a / U).
- Resize: products with the two matrices of PyTorch's antialiased bilinear interpolation. Output j
  of s has its centre at c = (j + 1/2) n/s, and the weight of input i is, up to their sum 1,
      max(0, 1 - |i + 1/2 - c| / max(n/s, 1)).
ONNX Runtime's FFT loses up to 70 dB where a length is not a power of two, and products are exact.
"""

from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from audio.cqt import CQT
from audio.mel_stft import MelSTFT
from features import SILENCE, Images, SpectrogramImages

DELTA = 2  # frames to either side that a slope is fitted to, as torchaudio's


class GraphImages(nn.Module):
    """Waveforms of one length to the images that a model reads, in float16's precision.

    Args:
        images: The front end whose images these are.

    Shape:
        waveform (B, T) at `input_rate` -> 2 x (B n, C, H, W); n crops of each, 1 without crops

    >>> exact, graph = (make(SpectrogramImages(16000, 64)) for make in (lambda x: x, GraphImages))
    >>> tone = torch.sin(0.2 * torch.arange(16000))[None]
    >>> [bool((a - b).abs().max() < 0.1) for a, b in zip(exact(tone), graph(tone))]  # dB
    [True, True]
    """

    def __init__(self, images: SpectrogramImages) -> None:
        super().__init__()
        self.settings = images.settings
        self.size, self.top_db = images.image_size, images.top_db
        self.crop_size, self.reference = images.crop_size, images.reference
        self.with_deltas = images.channels == "delta"
        self.resample: nn.Module = nn.Identity()
        if images.input_rate != images.sample_rate:
            self.resample = _Resample(images.resample)
        self.cqt, self.mel = _Cqt(images.cqt), _Mel(images.mel)
        self.full_scale = [float(10 * np.log10(t.full_scale)) for t in (images.cqt, images.mel)]

    def forward(self, waveform: Tensor) -> Images:
        """Return the images of all crops; those of one waveform stand together."""
        if self.crop_size is not None:
            waveform = _crops(waveform, self.crop_size).flatten(0, 1)  # (B n, crop_size)
        waveform = self.resample(waveform)
        powers = self.cqt(waveform), self.mel(waveform)
        pairs = zip(powers, self.full_scale, strict=True)
        return Images(*(self._image(power, full_scale) for power, full_scale in pairs))

    def _image(self, power: Tensor, full_scale: float) -> Tensor:
        """Convert power to dB, clamp, resize, round: (B, F, n) -> (B, C, H, W)."""
        db = 10 * torch.log10(power.clamp_min(1e-30))
        if self.reference == "clip":
            silence = full_scale + 20 * float(np.log10(SILENCE))
            db = db - db.amax((1, 2), keepdim=True).clamp_min(silence)
        else:
            db = db - full_scale
        db = db.clamp_min(-self.top_db)
        channels = _with_deltas(db) if self.with_deltas else db[:, None]  # (B, C, F, n)
        columns = resize_matrix(channels.shape[3], self.size)  # (n, W)
        rows = resize_matrix(channels.shape[2], self.size)  # (F, H)
        return (rows.T @ (channels @ columns)).half().float()


class _Cqt(nn.Module):
    """Power of the constant-Q transform: (B, T) -> (B, n_bins, n)."""

    def __init__(self, cqt: CQT) -> None:
        super().__init__()
        self.hop_length = cqt.hop_length
        self.matrices = nn.ParameterList(
            _constant(matrix.T[:, None])
            for matrix in cqt.matrices()  # (2n, 1, L)
        )

    def forward(self, waveform: Tensor) -> Tensor:
        parts = []
        for matrix in self.matrices:
            half = matrix.shape[2] // 2
            both = F.conv1d(waveform[:, None], matrix, stride=self.hop_length, padding=half)
            real, imaginary = both.chunk(2, 1)
            parts.append(real.square() + imaginary.square())  # (B, n, frames)
        return torch.cat(parts, 1)


class _Mel(nn.Module):
    """Mel power: (B, T) -> (B, n_mels, n)."""

    def __init__(self, mel: MelSTFT) -> None:
        super().__init__()
        self.n_fft, self.hop_length = mel.n_fft, mel.hop_length
        steps = two_steps(mel.n_fft)
        window, filters = mel.window_and_filters  # (N,), (F, n_mels)
        self.n_u, self.n_v = steps.n_u, steps.n_v
        self.window = _constant(window)
        self.first, self.second = _constant(steps.first), _constant(steps.second)
        power = np.zeros((steps.n_u * steps.n_w, filters.shape[1]))
        f = (np.arange(steps.n_u)[:, None] + steps.n_u * np.arange(steps.n_w)).ravel()
        power[f < len(filters)] = filters[f[f < len(filters)]]
        self.filters = _constant(power)  # (U W, n_mels), in the order of the second step

    def forward(self, waveform: Tensor) -> Tensor:
        step = gcd(self.hop_length, self.n_fft)
        n, before = 1 + waveform.shape[1] // self.hop_length, self.n_fft // 2
        after = self.n_fft - before + step  # and what the last row of the step needs
        padded = F.pad(waveform, (before, after))
        rows = padded[:, : padded.shape[1] // step * step].unflatten(1, (-1, step))
        starts = self.hop_length // step * torch.arange(n)
        index = starts[:, None] + torch.arange(self.n_fft // step)  # (n, N / step)
        frames = rows.index_select(1, index.flatten()).reshape(-1, n, self.n_fft) * self.window
        blocks = frames.unflatten(2, (self.n_u, self.n_v))  # (B, n, a, v)
        complex_parts = (self.first @ blocks).unflatten(2, (2, self.n_u))  # (B, n, 2, u, v)
        by_u = complex_parts.permute(0, 3, 1, 2, 4).flatten(3)  # (B, u, n, 2V)
        squares = (by_u @ self.second).square()  # (B, u, n, 2W) real, imaginary
        real, imaginary = squares.chunk(2, 3)
        power = (real + imaginary).transpose(1, 2).flatten(2)  # (B, n, U W)
        return (power @ self.filters).mT


class TwoSteps(NamedTuple):
    """The matrices of a real FFT of N = U V points, up to half the sampling rate."""

    n_u: int
    n_v: int
    n_w: int  # V // 2 + 1
    first: NDArray  # (2U, U): over a; real parts of all u, then imaginary ones
    second: NDArray  # (U, 2V, 2W): for each u over v; real and imaginary parts


def two_steps(n: int) -> TwoSteps:
    """Return the matrices of the equation above.

    >>> two_steps(4096)[:3]
    (64, 64, 33)
    """
    n_u = next(u for u in range(int(np.sqrt(n)), 0, -1) if n % u == 0)
    n_v = n // n_u
    n_w = n_v // 2 + 1
    u, w = np.arange(n_u), np.arange(n_w)
    over_a = np.exp(-2j * np.pi / n_u * u[:, None] * u)  # (u, a)
    v = np.arange(n_v)[:, None]
    over_v = np.exp(-2j * np.pi * v * (u[:, None, None] / n + w / n_v))  # (u, v, w)
    real, imaginary = over_v.real, over_v.imag
    top, bottom = np.concatenate([real, imaginary], 2), np.concatenate([-imaginary, real], 2)
    first = np.concatenate([over_a.real, over_a.imag])
    return TwoSteps(n_u, n_v, n_w, first, np.concatenate([top, bottom], 1))


def resize_matrix(n: int, size: int) -> Tensor:
    """Return the weights of each input for each output: (n, size), columns of sum 1.

    Args:
        n: Number of inputs; may be a symbol while a graph is traced.
        size: Number of outputs.
    """
    n_inputs = torch.full((1, 1), 1.0) * n
    scale = n_inputs / size
    centres = (torch.arange(size) + 0.5) * scale  # (1, size)
    places = torch.arange(n)[:, None] + 0.5  # (n, 1)
    weights = (1 - (places - centres).abs() / scale.clamp_min(1)).clamp_min(0)
    return weights / weights.sum(0, keepdim=True)


class _Resample(nn.Module):
    """The convolution of torchaudio's resampler: (B, T) -> (B, T')."""

    def __init__(self, resample: Any) -> None:
        super().__init__()
        self.old = resample.orig_freq // resample.gcd
        self.new = resample.new_freq // resample.gcd
        self.width = resample.width
        self.kernel = _constant(resample.kernel.numpy())  # (new, 1, L)

    def forward(self, waveform: Tensor) -> Tensor:
        padded = F.pad(waveform, (self.width, self.width + self.old))
        phases = F.conv1d(padded[:, None], self.kernel, stride=self.old)  # (B, new, t)
        n_samples = -(-waveform.shape[1] * self.new // self.old)
        return phases.mT.flatten(1)[:, :n_samples]


def _crops(waveform: Tensor, size: int) -> Tensor:
    """Return evenly spaced crops as `features.crops`, of a batch: (B, T) -> (B, n, size)."""
    n_samples: Any = waveform.shape[1]  # a symbol while a graph is traced
    spare: Any = torch.sym_max(n_samples - size, 0)
    short: Any = torch.sym_max(size - n_samples, 0)
    n = (n_samples + size - 1) // size
    one = torch.ones(1, dtype=torch.long)  # symbols times it are tensors, which a graph divides
    above, below = torch.arange(n) * spare, one * torch.sym_max(n - 1, 1)
    starts: Tensor = (2 * above + below) // (2 * below)  # round(above / below), but halves go up
    is_half = torch.eq(2 * above + below, starts * 2 * below)
    starts = starts - (is_half & (starts % 2 == 1)).long()  # and here to even, as Python's
    return F.pad(waveform, (0, short))[:, starts[:, None] + torch.arange(size)]


def _with_deltas(db: Tensor) -> Tensor:
    """Stack with first and second slope over time, as torchaudio: (B, F, n) -> (B, 3, F, n)."""
    delta = _delta(db)
    return torch.stack([db, delta, _delta(delta)], 1)


def _delta(db: Tensor) -> Tensor:
    n = db.shape[2]
    padded = torch.cat([*[db[:, :, :1]] * DELTA, db, *[db[:, :, -1:]] * DELTA], 2)
    slopes = [
        k * (padded[:, :, DELTA + k :][:, :, :n] - padded[:, :, DELTA - k :][:, :, :n])
        for k in range(1, DELTA + 1)
    ]
    return sum(slopes[1:], slopes[0]) / (2 * sum(k * k for k in range(1, DELTA + 1)))


def _constant(values: NDArray) -> nn.Parameter:
    """Return what is stored in the graph, and not trained."""
    return nn.Parameter(torch.from_numpy(np.ascontiguousarray(values)).float(), False)
