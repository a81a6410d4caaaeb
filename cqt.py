"""The constant-Q transform: exact, batched, differentiable, scaled as `librosa.cqt`.

Short wavelets meet the waveform's frames in a matrix product. Long ones are narrow in frequency:
they meet its spectrum, whose rows are then added up, which is the same as keeping every hop-th
sample in time. No filter bank is approximated and nothing is downsampled.
"""

from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wavelets import Wavelets

BLOCK = 2**18  # samples: longer clips are transformed in overlapping blocks
BUCKETS = 8  # kernel sets kept, one for each FFT length
SMALLEST = 1e-38  # power, near float32's smallest


class Kernels(NamedTuple):
    """All that `CQT` multiplies with, for one FFT length, type and device."""

    direct: list[Tensor]  # (L, 2n) real, then imaginary parts; one for each group of short wavelets
    span: tuple[int, int]  # first and last + 1 place in the spectrum that long wavelets reach
    here: Tensor  # (J,) at place j the spectrum is here * Z[j] + there * Z[-j].conj(), where Z is
    there: Tensor  # (J,) the FFT of the waveform taken two samples at a time as complex numbers
    bands: list[tuple[slice, Tensor]]  # rows of the spectrum and (n, R, q) on them, for each group


class CQT(nn.Module):
    """Constant-Q magnitudes.

    The coefficient of bin k at frame m is sqrt(l) * sum_n x[n] * conj(w[n - m * hop_length]), where
    w is the bin's wavelet, of length l = Q * sample_rate / frequency and L1 norm 1.

    Args:
        sample_rate: Hz in which hop and wavelets are counted.
        hop_length: Samples between frames.
        fmin: Hz, centre of the lowest bin.
        n_bins: Number of bins.
        bins_per_octave: Bins an octave; sets Q.
        window: Of the wavelets, whatever `scipy.signal.get_window` takes.
        filter_scale: Multiplies Q: below 1 sharper in time, above 1 in frequency.
        input_rate: Hz of the waveforms. Below `sample_rate` the result is that of the waveform
            resampled without loss, which is not computed.

    Shape:
        (B, T) -> (B, n_bins, n_frames(T)); float64 for float64, otherwise float32

    Raises:
        InputError: The highest bin does not fit below half the sample rate, or another setting is
            out of range.

    Source:
        Brown & Puckette 1992; wavelets of `librosa.filters.wavelet`.

    >>> tone = torch.sin(2 * torch.pi * 440 / 16000 * torch.arange(16000))[None]
    >>> int(CQT(16000, 256, fmin=110.0, n_bins=48)(tone)[0, :, 30].argmax())  # two octaves up
    24
    """

    def __init__(
        self,
        sample_rate: int,
        hop_length: int = 512,
        fmin: float = 32.70319566257483,
        n_bins: int = 84,
        bins_per_octave: int = 12,
        window: Any = "hann",
        filter_scale: float = 1.0,
        input_rate: int | None = None,
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop_length = sample_rate, hop_length
        self.input_rate = input_rate or sample_rate
        self._wavelets = Wavelets(
            sample_rate, hop_length, fmin, n_bins, bins_per_octave, window, filter_scale
        )
        self.full_scale = float(self._wavelets.lengths[0] / 4)  # largest power of a sine of 1
        self.frequencies = self._wavelets.frequencies  # (n_bins,) Hz
        step = Fraction(hop_length * self.input_rate, sample_rate)
        self._samples, self._frames = step.numerator, step.denominator  # waveform's, a whole step
        self._groups = self._wavelets.groups(may_be_direct=self.input_rate == sample_rate)
        self._margin = ceil((self._wavelets.lengths[0] / 2 + 1) / hop_length)  # frames
        # Frames before the waveform. Without, what lies before it wraps to the end of the block.
        self._before = self._margin if self._frames == 1 else 0
        self._kernels: dict[tuple[int, torch.device, torch.dtype], Kernels] = {}

    def n_frames(self, n_samples: Any) -> Any:
        """Return the frames of waveforms of so many samples, an int or a tensor of them."""
        return 1 + n_samples * self._frames // self._samples

    def forward(self, waveform: Tensor) -> Tensor:
        """Return magnitudes."""
        return self.power(waveform).clamp_min(SMALLEST).sqrt()  # no infinite slope at 0

    def power(self, waveform: Tensor) -> Tensor:
        """Return squared magnitudes: (B, T) -> (B, n_bins, n_frames(T))."""
        if waveform.dtype != torch.float64:
            waveform = waveform.float()  # torch.fft has no bfloat16
        n_frames = self.n_frames(waveform.shape[-1])
        q = self._points(n_frames)
        kernels = self._kernels_for(q, waveform.device, waveform.dtype)
        blocks = self._blocks(waveform, n_frames, q)  # (B, b, P)
        at_once = 1 if waveform.device.type == "cpu" else blocks[..., 0].numel()  # fits its cache
        parts = [
            self._transform(block, q, kernels) for block in blocks.flatten(0, 1).split(at_once)
        ]
        power = torch.cat(parts).unflatten(0, blocks.shape[:2])  # (B, b, n_bins, valid)
        return power.transpose(1, 2).flatten(2)[..., :n_frames]

    def _points(self, n_frames: int) -> int:
        """Return the frames of a block: room for margins, and a product of 2, 3, 5 and 7.

        Rounding up to 4, 5, 6, 7 or 8 times a power of 2 makes it at most a quarter too long.
        """
        unit = self._frames * (1 + self._samples % 2)  # of an even number of samples
        needed = n_frames + 2 * self._margin
        if self._before:
            needed = min(needed, max(BLOCK // self.hop_length, 4 * self._margin))
        needed = -(-needed // unit)
        power_of_2 = 2 ** max(needed.bit_length() - 3, 0)
        return unit * power_of_2 * -(-needed // power_of_2)

    def _blocks(self, waveform: Tensor, n_frames: int, q: int) -> Tensor:
        """Return overlapping stretches of the waveform: (B, T) -> (B, b, P)."""
        valid, n_points = q - 2 * self._margin, q * self._samples // self._frames
        n_more = -(-n_frames // valid) - 1  # blocks beyond the first
        left, apart = self._before * self._samples, valid * self._samples // self._frames
        right = n_points + n_more * apart - left - waveform.shape[-1]
        zeros = waveform.new_zeros(len(waveform), max(left, right))
        padded = torch.cat([zeros[:, :left], waveform, zeros[:, :right]], 1)  # quicker than F.pad
        return padded.unfold(-1, n_points, max(apart, 1))

    def _transform(self, block: Tensor, q: int, kernels: Kernels) -> Tensor:
        """Return the power in a block's valid frames: (b, P) -> (b, n_bins, valid)."""
        first, n_frames = self._before, q - 2 * self._margin
        parts = []
        if kernels.bands:
            low = self._fold(block.contiguous(), q, kernels)[..., first : first + n_frames]
            parts.append(low.real.square() + low.imag.square())
        for matrix in kernels.direct:
            start = first * self.hop_length - len(matrix) // 2
            real, imaginary = self._product(block[:, start:], n_frames, matrix).chunk(2, 2)
            parts.append((real.square() + imaginary.square()).mT)  # (b, n, n_frames)
        return torch.cat(parts, 1)

    def _product(self, samples: Tensor, n_frames: int, matrix: Tensor) -> Tensor:
        """Multiply frames with a matrix: (b, ...), (L, 2n) -> (b, n_frames, 2n)."""
        hop, products = self.hop_length, []
        for i, piece in enumerate(matrix.split(hop)):  # frames of one hop need no copy
            frames = samples[:, i * hop :].unfold(-1, len(piece), hop)
            products.append(frames[:, :n_frames] @ piece)
        return sum(products[1:], products[0])

    def _fold(self, block: Tensor, q: int, kernels: Kernels) -> Tensor:
        """Return the coefficients of the long wavelets: (b, P) -> (b, n, q)."""
        first, end = kernels.span
        half = torch.fft.fft(torch.view_as_complex(block.unflatten(-1, (-1, 2))))  # (b, P / 2)
        spectrum = kernels.here * _around(half, first, end)  # (b, J)
        spectrum = spectrum + kernels.there * _around(half, 1 - end, 1 - first).flip(-1).conj()
        planes = torch.view_as_real(spectrum).movedim(-1, 1).contiguous()  # (b, 2, J)
        rows = planes.unflatten(-1, (1, -1, q))  # (b, 2, 1, rows, q)
        folded = [(rows[:, :, :, where] * band).sum(3) for where, band in kernels.bands]
        real, imaginary = torch.cat(folded, 2).unbind(1)  # (b, n, q)
        return torch.fft.ifft(torch.complex(real, imaginary))

    def _kernels_for(self, q: int, device: torch.device, dtype: torch.dtype) -> Kernels:
        key = (q, device, dtype)
        kernels = self._kernels.get(key)
        if kernels is None:  # threads share the cache: each returns what it holds itself
            kernels = self._make_kernels(q, device, dtype)
            cached = list(self._kernels)
            for oldest in cached[: max(len(cached) + 1 - BUCKETS, 0)]:
                self._kernels.pop(oldest, None)
            self._kernels[key] = kernels
        return kernels

    @torch.compiler.disable
    @torch.inference_mode(False)  # else a later backward pass could not use them
    def _make_kernels(self, q: int, device: torch.device, dtype: torch.dtype) -> Kernels:
        design = self._wavelets
        n_points = q * self._samples // self._frames
        bands = [design.band(g, q, n_points) for g in self._groups if not g.is_direct]
        low = min((row for row, _ in bands), default=0)
        high = max((row + band.shape[1] for row, band in bands), default=0)
        j = np.arange(low * q, high * q)  # (J,)
        turn = 1j * np.exp(-2j * np.pi / n_points * j)
        half_sample = np.exp(-1j * np.pi / (q * self.hop_length) * j)  # bands are counted from it
        scale = 0.5 * self.sample_rate / self.input_rate / self.hop_length * half_sample
        to_complex = torch.complex128 if dtype == torch.float64 else torch.complex64

        def tensor(array: NDArray, of: torch.dtype = dtype) -> Tensor:
            return torch.from_numpy(array).to(device, of)

        return Kernels(
            [tensor(design.matrix(group)) for group in self._groups if group.is_direct],
            (low * q, high * q),
            tensor(scale * (1 - turn), to_complex),
            tensor(scale * (1 + turn), to_complex),
            [(slice(row - low, row - low + band.shape[1]), tensor(band)) for row, band in bands],
        )


def _around(circle: Tensor, first: int, end: int) -> Tensor:
    """Return places first..end - 1 of what repeats for ever."""
    n, pieces = circle.shape[-1], []
    while first < end:
        start = first % n
        pieces.append(circle[..., start : start + end - first])
        first += pieces[-1].shape[-1]
    return torch.cat(pieces, -1)
