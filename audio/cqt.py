"""The constant-Q transform: exact, batched, differentiable, scaled as `librosa.cqt`.

Short wavelets meet the waveform's frames in a matrix product. Long ones are narrow in frequency:
they meet its spectrum, whose rows are then added up, which is the same as keeping every hop-th
sample in time. No filter bank is approximated and nothing is downsampled.
"""

from fractions import Fraction
from math import ceil
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audio.wavelets import Wavelets
from audio.windows import check_rates

BLOCK = 2**18  # samples: longer clips are transformed in overlapping blocks
BUCKETS = 8  # kernel sets kept, one for each FFT length,
KERNEL_BYTES = 2**28  # and of them so many bytes at most, but always the newest
SMALLEST = 1e-38  # power, near float32's smallest


class Kernels(NamedTuple):
    """All that `CQT` multiplies with, for one FFT length, type and device."""

    direct: list[Tensor]  # (L, 2n) real, then imaginary parts; one for each group of short wavelets
    span: tuple[int, int]  # first and last + 1 place in the spectrum that long wavelets reach
    turns: Tensor  # (R, C) between the two steps of an FFT of R * C points
    here: Tensor  # (J,) at place j the spectrum is here * Z[j] + there * Z[-j].conj(), where Z is
    there: Tensor  # (J,) the FFT of the waveform taken two samples at a time as complex numbers
    bands: list[tuple[slice, Tensor]]  # rows of the spectrum and (n, rows, q), for each group

    def n_bytes(self) -> int:
        """Return the memory that they take."""
        tensors = [*self.direct, self.turns, self.here, self.there, *(b for _, b in self.bands)]
        return sum(tensor.nbytes for tensor in tensors)


Key = tuple[int, torch.device, torch.dtype]  # frames of a block


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
        input_rate: Hz of the waveforms. The result is that of the waveform resampled to
            `sample_rate` without loss, which is not computed. Where `hop_length` is then no whole
            number of its samples, a clip is one block however long: meant for clips of seconds.

    Shape:
        (B, T) -> (B, n_bins, n_frames(T)); float64 for float64, otherwise float32, also under
        autocast

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
        check_rates(self.input_rate, sample_rate)
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
        self._kernels: dict[Key, Kernels] = {}

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
        n_frames = self.n_frames(index(waveform.shape[-1]))  # compiled once for each length
        n_blocks, q = self._layout(n_frames)
        kernels = self._kernels_for(q, waveform.device, waveform.dtype)
        blocks = self._blocks(waveform, n_blocks, q).flatten(0, 1)  # (B * b, P)
        at_once = 1 if waveform.device.type == "cpu" else len(blocks)  # one fits the cache
        with torch.autocast(waveform.device.type, enabled=False):
            parts = [self._transform(block, q, kernels) for block in blocks.split(at_once)]
        power = parts[0] if len(parts) == 1 else torch.cat(parts)
        power = power.unflatten(0, (-1, n_blocks))  # (B, b, n_bins, valid)
        return power.transpose(1, 2).flatten(2)[..., :n_frames]

    def _layout(self, n_frames: int) -> tuple[int, int]:
        """Return into how many blocks a waveform is cut, and how many frames one has.

        A block has margins, and 4, 5, 6, 7 or 8 times a power of 2 as its length: quick to
        transform, and seldom made twice as kernels.
        """
        longest = max(BLOCK // self.hop_length, 4 * self._margin)
        n_blocks = -(-n_frames // (longest - 2 * self._margin)) if self._before else 1
        unit = self._frames * (1 + self._samples % 2)  # of an even number of samples
        needed = -(-(-(-n_frames // n_blocks) + 2 * self._margin) // unit)
        rounded = 2 ** max(needed.bit_length() - 3, 0)
        return n_blocks, unit * rounded * -(-needed // rounded)

    def _blocks(self, waveform: Tensor, n_blocks: int, q: int) -> Tensor:
        """Return overlapping stretches of the waveform: (B, T) -> (B, b, P)."""
        n_points = q * self._samples // self._frames
        left = self._before * self._samples
        apart = n_points - 2 * left
        right = n_points + (n_blocks - 1) * apart - left - waveform.shape[-1]
        zeros = waveform.new_zeros(len(waveform), max(left, right))
        padded = torch.cat([zeros[:, :left], waveform, zeros[:, :right]], 1)  # quicker than F.pad
        return padded.unfold(-1, n_points, apart)

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
        packed = torch.view_as_complex(block.unflatten(-1, (-1, 2)))  # (b, P / 2)
        steps = torch.fft.fft(packed.unflatten(-1, kernels.turns.shape), dim=1)
        steps *= kernels.turns
        half = torch.fft.fft(steps)  # (b, R, C); place r + R * c is at [r, c]
        mirrored = _part(half, 1 - end, 1 - first).flip(-1).conj()
        spectrum = kernels.here * _part(half, first, end) + kernels.there * mirrored  # (b, J)
        planes = torch.view_as_real(spectrum).movedim(-1, 1).contiguous()  # (b, 2, J)
        rows = planes.unflatten(-1, (1, -1, q))  # (b, 2, 1, rows, q)
        folded = [_folded(rows[:, :, :, where], band) for where, band in kernels.bands]
        real, imaginary = torch.cat(folded, 2).unbind(1)  # (b, n, q)
        return torch.fft.ifft(torch.complex(real, imaginary))

    def _kernels_for(self, q: int, device: torch.device, dtype: torch.dtype) -> Kernels:
        key = (q, device, dtype)
        kernels = self._kernels.get(key)
        if kernels is None:  # threads share the cache: each returns what it holds itself
            make = self._make_kernels
            if torch.compiler.is_compiling():  # as a decorator it would load the compiler for all
                make = torch.compiler.disable(make)
            kernels = make(q, device, dtype)
            if not torch.compiler.is_exporting():  # or they are stand-ins for tensors
                self._keep(key, kernels)
        return kernels

    def _keep(self, key: Key, kernels: Kernels) -> None:
        """Cache kernels; the oldest make room."""
        cached = list(self._kernels.items())
        free = KERNEL_BYTES - kernels.n_bytes() - sum(old.n_bytes() for _, old in cached)
        for i, (oldest, old) in enumerate(cached):
            if free >= 0 and len(cached) - i < BUCKETS:
                break
            self._kernels.pop(oldest, None)
            free += old.n_bytes()
        self._kernels[key] = kernels

    @torch.inference_mode(False)  # else a later backward pass could not use them
    def _make_kernels(self, q: int, device: torch.device, dtype: torch.dtype) -> Kernels:
        design, n_points = self._wavelets, q * self._samples // self._frames
        folded = (g for g in self._groups if not g.is_direct)
        pieces = (piece for g in folded for piece in design.pieces(g, q, n_points))
        bands = [design.band(piece, q, n_points) for piece in pieces]
        low = min((row for row, _ in bands), default=0)
        high = max((row + band.shape[1] for row, band in bands), default=0)
        j = np.arange(low * q, high * q)  # (J,)
        turn = 1j * np.exp(-2j * np.pi / n_points * j)
        half_sample = np.exp(-1j * np.pi / (q * self.hop_length) * j)  # bands are counted from it
        scale = 0.5 * self.sample_rate / self.input_rate / self.hop_length * half_sample

        def tensor(array: NDArray) -> Tensor:
            size = array.itemsize if dtype == torch.float64 else array.itemsize // 2
            return torch.from_numpy(array.astype(f"{array.dtype.kind}{size}")).to(device)

        return Kernels(
            [tensor(design.matrix(group)) for group in self._groups if group.is_direct],
            (low * q, high * q),
            tensor(_turns(n_points // 2)),
            tensor(scale * (1 - turn)),
            tensor(scale * (1 + turn)),
            [(slice(row - low, row - low + band.shape[1]), tensor(band)) for row, band in bands],
        )


def _folded(rows: Tensor, band: Tensor) -> Tensor:
    """Add up rows times a real or complex band: (b, 2, 1, R, q), (n, R, q) -> (b, 2, n, q)."""
    if not band.is_complex():
        return (rows * band).sum(3)
    product = torch.complex(rows[:, 0], rows[:, 1]) * band  # (b, n, R, q)
    return torch.view_as_real(product.sum(2)).movedim(-1, 1)


def _turns(n: int) -> NDArray[np.complex128]:
    """Return the factors between the column FFTs and the row FFTs that make up one of n points.

    Cooley & Tukey 1965. One long call of the library takes up to ten times as long for some n.
    """
    rows = next(r for r in range(int(np.sqrt(n)), 0, -1) if n % r == 0)
    places = np.arange(rows)[:, None] * np.arange(n // rows)  # (R, C)
    return np.exp(-2j * np.pi / n * places)


def _part(spectrum: Tensor, first: int, end: int) -> Tensor:
    """Return places first..end - 1 of a periodic spectrum: (b, R, C) -> (b, end - first)."""
    n_rows, n_columns = spectrum.shape[1:]
    column, last, pieces = first // n_rows, -(-end // n_rows), []
    skip = first - column * n_rows
    while column < last:
        at = column % n_columns
        pieces.append(spectrum[..., at : min(at + last - column, n_columns)])
        column += pieces[-1].shape[-1]
    return torch.cat(pieces, -1).mT.flatten(1).narrow(1, skip, end - first)
