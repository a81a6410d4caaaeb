"""The constant-Q transform: batched, differentiable, scaled as `librosa.cqt`.

Nothing is approximated but for what lies below 2e-6 of the peak of a wavelet's spectrum.
With H = hop_length and w_k the wavelet of bin k (`wavelets.py`), the coefficient at frame m is
    c_k[m] = sum_n x[n] conj(w_k[n - m H]).                                                  (1)
Short wavelets: frames of the waveform times a matrix of conj(w_k). Long wavelets are narrow in
frequency. In a block of P = q H samples (q frames), with X and W_k the FFTs of x and w_k, (1) is
    c_k[m] = 1/P sum_f X[f] conj(W_k[f]) exp(2 pi i f m / q).                                (2)
The exponential depends on f modulo q alone: keeping every H-th sample in time aliases frequencies
that are q apart. So, with f = r q + j, sum these products over r; a small inverse FFT remains:
    c_k = ifft_q(F_k),    F_k[j] = 1/H sum_r X[r q + j] conj(W_k[r q + j]).                  (3)
Only the rows r where W_k is not negligible are kept: the band of bin k. (2) is circular, so that
`margin` frames at both ends of a block wrap around; they are dropped, and blocks overlap by them.

Two savings of one half each. First, x is real: the complex FFT Z of the P/2 points
z[t] = x[2t] + i x[2t + 1] holds X,
    X[f] = (1 - e)/2 Z[f] + (1 + e)/2 conj(Z[-f]),    e = i exp(-2 pi i f / P).              (4)
Second, most windows make w_k symmetric about n = -1/2. Then conj(W_k[f]) is exp(-i pi f / P) times
a real band B_k[f], up to a constant phase that the power |c_k|^2 does not see. With all factors
that depend on f alone in alpha and beta, the code computes
    F_k[j] = sum_r (alpha[f] Z[f] + beta[f] conj(Z[-f])) B_k[f],    f = r q + j.             (5)
At another input rate a block has P' = P input_rate / sample_rate samples, the same q and f, P' for
P in (4), X times sample_rate / input_rate, and nothing above half of either rate.
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
from audio.windows import check_rates, check_waveform

BLOCK = 2**18  # samples: longer waveforms are transformed in overlapping blocks
BUCKETS = 8  # kernel sets cached, one for each FFT length
KERNEL_BYTES = 2**28  # of all cached kernels; the newest is always kept
SMALLEST = 1e-38  # power, near float32's smallest


class Kernels(NamedTuple):
    """The constants of the transform for one FFT length, type and device."""

    matrices: list[Tensor]  # (L, 2n) conj(w_k), real then imaginary parts; per group of short w_k
    span: tuple[int, int]  # first and last + 1 f that the bands reach; N = their number
    twiddles: Tensor  # (U, V) between the two steps of the FFT of P/2 = U V points
    alpha: Tensor  # (N,) of equation 5
    beta: Tensor  # (N,)
    bands: list[tuple[slice, Tensor]]  # per group of long w_k: rows r from the first, (n, rows, q)

    def n_bytes(self) -> int:
        """Return the memory of all tensors."""
        tensors = [*self.matrices, self.twiddles, self.alpha, self.beta]
        return sum(tensor.nbytes for tensor in (*tensors, *(band for _, band in self.bands)))


Key = tuple[int, torch.device, torch.dtype]  # the int is q


class CQT(nn.Module):
    """Constant-Q magnitudes |c_k[m]|.

    Args:
        sample_rate: Sampling rate in Hz that hop and wavelets refer to.
        hop_length: Samples between frames.
        fmin: Centre of the lowest bin, Hz.
        n_bins: Number of bins.
        bins_per_octave: Bins per octave; sets Q.
        window: Window of the wavelets, anything that `scipy.signal.get_window` takes.
        filter_scale: Multiplies Q: below 1 sharper in time, above 1 sharper in frequency.
        input_rate: Sampling rate of the waveforms in Hz, None for `sample_rate`. The result is
            that of a waveform resampled without loss, but nothing is resampled. Where a hop is
            then not a whole number of input samples, a waveform is one block, however long.

    Shape:
        (B, T) -> (B, n_bins, n_frames(T)); float64 for float64, otherwise float32, also under
        autocast

    Raises:
        InputError: The highest bin does not fit below half the sample rate, another setting is out
            of range, or a waveform is not (B, T) of a floating-point type.

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
        self.input_rate = sample_rate if input_rate is None else input_rate
        check_rates(self.input_rate, sample_rate)
        self._wavelets = Wavelets(
            sample_rate, hop_length, fmin, n_bins, bins_per_octave, window, filter_scale
        )
        self.full_scale = float(self._wavelets.lengths[0] / 4)  # power of a sine of amplitude 1
        self.frequencies = self._wavelets.frequencies  # (n_bins,) Hz
        hop = Fraction(hop_length * self.input_rate, sample_rate)  # input samples per frame
        self._samples, self._frames = hop.numerator, hop.denominator
        self._groups = self._wavelets.groups(may_be_direct=self.input_rate == sample_rate)
        self._margin = ceil((self._wavelets.lengths[0] / 2 + 1) / hop_length)  # frames
        # Frames before the waveform. Without them its start wraps around to the block's end.
        self._before = self._margin if self._frames == 1 else 0
        self._kernels: dict[Key, Kernels] = {}

    def n_frames(self, n_samples: Any) -> Any:
        """Return the number of frames of a waveform of n_samples, an int or a tensor of ints."""
        return 1 + n_samples * self._frames // self._samples

    def matrices(self) -> list[NDArray[np.float64]]:
        """Return conj(w_k) of groups of bins, low to high, for equation 1: (L, 2n) each.

        Real parts stand before imaginary ones; L is even and the wavelets are centred.
        """
        return [self._wavelets.matrix(group) for group in self._groups]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return magnitudes."""
        return self.power(waveform).clamp_min(SMALLEST).sqrt()  # no infinite slope at 0

    def power(self, waveform: Tensor) -> Tensor:
        """Return squared magnitudes: (B, T) -> (B, n_bins, n_frames(T))."""
        check_waveform(waveform)
        if waveform.dtype != torch.float64:
            waveform = waveform.float()  # torch.fft has no bfloat16
        n_frames = self.n_frames(index(waveform.shape[-1]))  # a constant when compiled
        n_blocks, q = self._layout(n_frames)
        kernels = self._kernels_for(q, waveform.device, waveform.dtype)
        blocks = self._blocks(waveform, n_blocks, q).flatten(0, 1)  # (B * b, P)
        at_once = 1 if waveform.device.type == "cpu" else len(blocks)  # one block fits the cache
        with torch.autocast(waveform.device.type, enabled=False):
            parts = [self._transform(block, q, kernels) for block in blocks.split(at_once)]
        power = parts[0] if len(parts) == 1 else torch.cat(parts)
        power = power.unflatten(0, (-1, n_blocks))  # (B, b, n_bins, valid)
        return power.transpose(1, 2).flatten(2)[..., :n_frames]

    def _layout(self, n_frames: int) -> tuple[int, int]:
        """Return the number of blocks of a waveform, and the frames q of each, margins included.

        q is 4, 5, 6, 7 or 8 times a power of 2 (times the unit below): quick to transform, and
        few lengths, so that kernels are seldom made anew.
        """
        longest = max(BLOCK // self.hop_length, 4 * self._margin)
        n_blocks = -(-n_frames // (longest - 2 * self._margin)) if self._before else 1
        unit = self._frames * (1 + self._samples % 2)  # P must be even, see equation 4
        needed = -(-(-(-n_frames // n_blocks) + 2 * self._margin) // unit)
        rounded = 2 ** max(needed.bit_length() - 3, 0)
        return n_blocks, unit * rounded * -(-needed // rounded)

    def _blocks(self, waveform: Tensor, n_blocks: int, q: int) -> Tensor:
        """Return overlapping blocks of the waveform: (B, T) -> (B, b, P)."""
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
            low = self._alias(block.contiguous(), q, kernels)[..., first : first + n_frames]
            parts.append(low.real.square() + low.imag.square())
        for matrix in kernels.matrices:
            start = first * self.hop_length - len(matrix) // 2
            real, imaginary = self._product(block[:, start:], n_frames, matrix).chunk(2, 2)
            parts.append((real.square() + imaginary.square()).mT)  # (b, n, n_frames)
        return torch.cat(parts, 1)

    def _product(self, samples: Tensor, n_frames: int, matrix: Tensor) -> Tensor:
        """Multiply frames of L samples with a matrix: (b, ...), (L, 2n) -> (b, n_frames, 2n)."""
        hop, products = self.hop_length, []
        for i, piece in enumerate(matrix.split(hop)):  # frames of one hop need no copy
            frames = samples[:, i * hop :].unfold(-1, len(piece), hop)
            products.append(frames[:, :n_frames] @ piece)
        return sum(products[1:], products[0])

    def _alias(self, block: Tensor, q: int, kernels: Kernels) -> Tensor:
        """Return c_k of the long wavelets by equation 5: (b, P) -> (b, n, q)."""
        first, end = kernels.span
        z = torch.view_as_complex(block.unflatten(-1, (-1, 2)))  # (b, P/2)
        Z = torch.fft.fft(z.unflatten(-1, kernels.twiddles.shape), dim=1)
        Z *= kernels.twiddles
        Z = torch.fft.fft(Z)  # (b, U, V), Z[u + U v] at [u, v]
        mirrored = _slice(Z, 1 - end, 1 - first).flip(-1).conj()  # conj(Z[-f])
        X = kernels.alpha * _slice(Z, first, end) + kernels.beta * mirrored  # (b, N)
        parts = torch.view_as_real(X).movedim(-1, 1).contiguous()  # (b, 2, N) real, imaginary
        rows = parts.unflatten(-1, (1, -1, q))  # (b, 2, 1, r, j)
        aliased = [_sum_rows(rows[:, :, :, r], band) for r, band in kernels.bands]
        real, imaginary = torch.cat(aliased, 2).unbind(1)  # (b, n, q), F_k[j]
        return torch.fft.ifft(torch.complex(real, imaginary))

    def _kernels_for(self, q: int, device: torch.device, dtype: torch.dtype) -> Kernels:
        key = (q, device, dtype)
        kernels = self._kernels.get(key)
        if kernels is None:  # threads share the cache: each returns the kernels it holds itself
            make = self._make_kernels
            if torch.compiler.is_compiling():  # a decorator would import the compiler always
                make = torch.compiler.disable(make)
            kernels = make(q, device, dtype)
            if not torch.compiler.is_exporting():  # then they are fake tensors
                self._keep(key, kernels)
        return kernels

    def _keep(self, key: Key, kernels: Kernels) -> None:
        """Cache kernels and drop the oldest ones that exceed the limits."""
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
        """Compute the kernels for blocks of q frames, in float64, see the head of this file."""
        wavelets, n_points = self._wavelets, q * self._samples // self._frames
        long_groups = (group for group in self._groups if not group.is_direct)
        parts = (part for group in long_groups for part in wavelets.parts(group, q, n_points))
        bands = [wavelets.band(part, q, n_points) for part in parts]  # (lowest r, B_k)
        low = min((r for r, _ in bands), default=0)
        high = max((r + band.shape[1] for r, band in bands), default=0)
        f = np.arange(low * q, high * q)  # (N,)
        e = 1j * np.exp(-2j * np.pi / n_points * f)  # of equation 4
        half_sample = np.exp(-1j * np.pi / (q * self.hop_length) * f)
        scale = 0.5 * self.sample_rate / self.input_rate / self.hop_length * half_sample

        def tensor(array: NDArray) -> Tensor:
            size = array.itemsize if dtype == torch.float64 else array.itemsize // 2
            return torch.from_numpy(array.astype(f"{array.dtype.kind}{size}")).to(device)

        return Kernels(
            [tensor(wavelets.matrix(group)) for group in self._groups if group.is_direct],
            (low * q, high * q),
            tensor(_twiddles(n_points // 2)),
            tensor(scale * (1 - e)),
            tensor(scale * (1 + e)),
            [(slice(r - low, r - low + band.shape[1]), tensor(band)) for r, band in bands],
        )


def _sum_rows(rows: Tensor, band: Tensor) -> Tensor:
    """Sum over r the product of X and B_k: (b, 2, 1, r, q), (n, r, q) -> (b, 2, n, q)."""
    if not band.is_complex():
        return (rows * band).sum(3)
    product = torch.complex(rows[:, 0], rows[:, 1]) * band  # (b, n, r, q)
    return torch.view_as_real(product.sum(2)).movedim(-1, 1)


def _twiddles(n: int) -> NDArray[np.complex128]:
    """Return the factors exp(-2 pi i u v / n) of an FFT of n = U V points in two steps: (U, V).

    Z[u + U w] is the FFT over v (to w) of twiddles[u, v] times the FFT over a (to u) of z[a V + v].
    One long FFT takes up to ten times as long for some n. Source: Cooley & Tukey 1965.
    """
    n_u = next(u for u in range(int(np.sqrt(n)), 0, -1) if n % u == 0)
    uv = np.arange(n_u)[:, None] * np.arange(n // n_u)  # (U, V)
    return np.exp(-2j * np.pi / n * uv)


def _slice(Z: Tensor, first: int, end: int) -> Tensor:
    """Return Z[first] to Z[end - 1] of a periodic spectrum: (b, U, V) -> (b, end - first)."""
    n_u, n_v = Z.shape[1:]
    column, last, pieces = first // n_u, -(-end // n_u), []  # Z[u + U v] is in column v
    skip = first - column * n_u
    while column < last:
        v = column % n_v
        pieces.append(Z[..., v : min(v + last - column, n_v)])
        column += pieces[-1].shape[-1]
    return torch.cat(pieces, -1).mT.flatten(1).narrow(1, skip, end - first)
