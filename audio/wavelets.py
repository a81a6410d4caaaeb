"""The wavelets of the constant-Q transform, in time and in frequency, in float64.

At b bins per octave, bin k has the centre nu_k = fmin 2^(k/b) / sample_rate cycles per sample. Its
wavelet is a window v of l_k samples times a complex sine, with L1 norm sqrt(l_k):
    w_k[n] = sqrt(l_k) v[n] exp(2 pi i nu_k n) / sum |v|,    -l_k/2 <= n < l_k/2,
    l_k = Q / nu_k,    Q = filter_scale (a + 1) / (a - 1),    a = 2^(2/b).
Its spectrum W_k is the window's, moved to nu_k. The main lobe of a window of l samples, and all
side lobes above TOLERANCE, reach s bins of width 1/l to either side (s is 54 for Hann, infinite for
Hamming, which has steps at its ends). So W_k is kept on
    nu_k - s/l_k  to  nu_k + s/l_k  cycles per sample,    s/l_k = `reach`:
the longer the wavelet, the narrower. In a block of P = q H samples W_k[f] has f = nu P, and lies in
row r = floor(f/q) = floor(nu H): the rows of a bin do not depend on the length of the block.
There W_k[f] is, but for TOLERANCE, the FFT of every d-th sample of w_k times d, whose copies of the
spectrum are 1/d apart: an FFT of P/d points instead of P (`_step` chooses d).

Per frame a bin costs l_k multiplications as a matrix product, and as many as it has rows, about
2 reach H, by aliasing (`cqt.py`). A matrix product does PRODUCT_SPEED multiplications in the time
of one of the aliasing. So bins with l_k < PRODUCT_SPEED * rows, the high ones, are direct, and the
others aliased.
Neighbouring bins form a group: one matrix as long as the longest of them, or one band of rows.
"""

from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.windows import (
    bandwidth,
    check_hop,
    check_positive,
    check_whole,
    get_window,
    side_lobes,
)
from system.errors import InputError

TOLERANCE = 2e-6  # of a spectrum's peak, -114 dB: values below are left out
MAX_WAVELET = 30  # seconds
CACHE = 2**16  # products that the aliasing computes at once
PRODUCT_SPEED = 60  # multiplications of a matrix product in the time of one of the aliasing


class Group(NamedTuple):
    """Neighbouring bins that are computed together."""

    first: int
    end: int  # last bin + 1
    is_direct: bool  # computed by a matrix product with frames, not by aliasing the spectrum


class Wavelets:
    """The wavelets w_k of all bins.

    Args:
        sample_rate: Sampling rate, Hz.
        hop_length: H, samples between frames; affects only grouping and layout.
        fmin: Centre of the lowest bin, Hz.
        n_bins: Number of bins.
        bins_per_octave: Bins per octave; sets Q.
        window: Anything that `scipy.signal.get_window` takes.
        filter_scale: Multiplies Q.

    Raises:
        InputError: The highest bin does not fit below half the sample rate, or another setting is
            out of range.

    Source:
        `librosa.filters.wavelet`, L1 norm, multiplied by the square root of the length.
    """

    def __init__(
        self,
        sample_rate: int,
        hop_length: int,
        fmin: float,
        n_bins: int,
        bins_per_octave: int,
        window: Any,
        filter_scale: float,
    ) -> None:
        check_whole("features.sample_rate", sample_rate)
        check_hop("cqt", hop_length, sample_rate)
        check_whole("features.cqt.n_bins", n_bins)
        check_whole("features.cqt.bins_per_octave", bins_per_octave)
        check_positive("features.cqt.fmin", fmin)
        check_positive("features.cqt.filter_scale", filter_scale)
        self.sample_rate, self.hop_length, self.window = sample_rate, hop_length, window
        self.bins_per_octave = bins_per_octave
        self.frequencies = fmin * 2.0 ** (np.arange(n_bins) / bins_per_octave)  # (n_bins,) Hz
        ratio = 2.0 ** (2 / bins_per_octave)
        self.q_factor = filter_scale * (ratio + 1) / (ratio - 1)
        self.lengths = self.q_factor * sample_rate / self.frequencies  # (n_bins,) l_k, samples
        is_even = self.lengths % 2 == 0  # exactly: librosa would centre these elsewhere
        self.lengths[is_even] = np.nextafter(self.lengths[is_even], np.inf)
        shape = get_window(window, 4096, "cqt")
        self._windows: dict[int, tuple[NDArray[np.float64], int]] = {}  # 3 MB as published
        self._check(bandwidth(shape))
        lobes = side_lobes(shape, TOLERANCE)  # s
        self.reach = np.minimum(lobes / self.lengths, 1)  # (n_bins,) cycles per sample; 1 is all

    def _check(self, noise_bandwidth: float) -> None:
        longest = self.lengths[0] / self.sample_rate  # seconds
        if longest > MAX_WAVELET:
            raise InputError(
                f"features.cqt: the wavelet of the lowest bin is {longest:.3g} s long, longer than "
                f"{MAX_WAVELET} s: raise fmin={self.frequencies[0]:g} Hz, or lower bins_per_octave "
                "or filter_scale"
            )
        reach = self.frequencies * (1 + 0.5 * noise_bandwidth / self.q_factor)  # (n_bins,) Hz
        fits = int((reach <= self.sample_rate / 2).sum())
        if fits < len(reach):
            raise InputError(
                f"features.cqt.n_bins={len(reach)} reaches {reach[-1]:.6g} Hz, above half of "
                f"features.sample_rate={self.sample_rate}: at most {fits} bins fit with "
                f"fmin={self.frequencies[0]:.2f} Hz, bins_per_octave={self.bins_per_octave} and "
                f"this filter_scale, which makes them {1 / self.q_factor:.2g} of their centre wide"
            )

    def groups(self, may_be_direct: bool) -> list[Group]:
        """Return the bins, low to high, in groups that are quick to compute together.

        A direct group makes a matrix of 32 columns, or of little more than an octave; an aliased
        group has bins whose bands mostly overlap.
        """
        octaves = min(np.log2(1 + self.reach[0] * self.lengths[0] / self.q_factor), 1)
        size = max(int(self.bins_per_octave * octaves), 1)
        size_direct = min(16, -(-4 * self.bins_per_octave // 3))
        groups, end = [], len(self.lengths)
        while end > 0:
            first = max(end - size_direct, 0)
            rows = max(min(2 * self.reach[first], 1) * self.hop_length, 2)
            is_direct = may_be_direct and bool(self.lengths[first] < PRODUCT_SPEED * rows)
            first = first if is_direct else max(end - size, 0)
            groups.append(Group(first, end, is_direct))
            end = first
        return groups[::-1]

    def parts(self, group: Group, q: int, n_samples: int) -> list[Group]:
        """Split a group so that the products of each part with the spectrum stay in the cache."""
        low, high = self.rows(group, q, n_samples)
        n = max(CACHE // ((high - low) * q), 1)
        starts = range(group.first, group.end, n)
        return [Group(k, min(k + n, group.end), group.is_direct) for k in starts]

    def rows(self, group: Group, q: int, n_samples: int) -> tuple[int, int]:
        """Return the first and last + 1 row r in which the spectra of a group are kept."""
        nu = self.frequencies[group.first : group.end] / self.sample_rate  # (n,)
        reach = self.reach[group.first : group.end]
        low = int(np.floor((nu - reach).min() * self.hop_length))
        high = int(np.floor((nu + reach).max() * self.hop_length)) + 1
        if n_samples != q * self.hop_length:
            limit = ceil(min(n_samples / q, self.hop_length) / 2)  # half of the lower rate
            low, high = max(low, -limit), min(high, limit)
        return low, min(high, low + self.hop_length)  # once around

    def matrix(self, group: Group) -> NDArray[np.float64]:
        """Return conj(w_k) of a group, centred: (L, 2n), real parts, then imaginary parts."""
        half = ceil(self.lengths[group.first] / 2)
        matrix = np.zeros((group.end - group.first, 2 * half), complex)
        for row, k in zip(matrix, range(group.first, group.end), strict=True):
            window, before = self._window(k)
            angles = 2 * np.pi * self.frequencies[k] / self.sample_rate * np.arange(-before, half)
            row[half - before :][: len(window)] = window * np.exp(-1j * angles[: len(window)])
        return np.concatenate([matrix.real, matrix.imag]).T.copy()

    def band(self, group: Group, q: int, n_samples: int) -> tuple[int, NDArray]:
        """Return the bands B_k of a group, in rows of q points.

        A window that begins at 0, as Hann's does, makes w_k symmetric about n = -1/2. Counted from
        there, by the factors exp(i pi nu_k) and exp(-i pi f / P), its spectrum is real:

            B_k[f] = conj(W_k[f] exp(i pi nu_k) exp(-i pi f / P)).

        Args:
            group: Bins of the band.
            q: Frames of the block that is transformed.
            n_samples: Input samples of the block. If they are not P = q hop_length, the waveform
                has another rate than the wavelets, and B_k is 0 above half of either rate.

        Shape:
            lowest r, (n, rows, q), real if the spectra are; f = r q + j is f / P cycles per sample
        """
        from scipy.fft import fft  # half a second of CPU time

        nu = self.frequencies[group.first : group.end] / self.sample_rate  # (n,)
        low, high = self.rows(group, q, n_samples)
        n_points = q * self.hop_length  # P
        step = self._step(group, low, high, n_points)  # d
        f = np.arange(low * q, high * q)  # (rows * q,)
        half_sample = np.exp(-1j * np.pi / n_points * f)
        circles = np.zeros((len(nu), n_points // step), complex)  # n = 0, d, 2 d, ...
        for circle, k, nu_k in zip(circles, range(group.first, group.end), nu, strict=True):
            window, before = self._window(k)
            first = before // step  # kept samples with n < 0
            kept = window[before % step :: step]
            n = step * np.arange(-first, len(kept) - first)
            kept = kept * np.exp(2j * np.pi * (nu_k - low / self.hop_length) * n)  # row low is at 0
            kept *= step * np.exp(1j * np.pi * nu_k)
            circle[: len(kept) - first] = kept[first:]
            circle[len(circle) - first :] = kept[:first]
        band = fft(circles, overwrite_x=True)[:, : len(f)]
        band *= half_sample
        np.conjugate(band, out=band)
        if n_samples != n_points:
            band[:, 2 * np.abs(f) >= min(n_samples, n_points)] = 0
        is_real = np.abs(band.imag).max() <= TOLERANCE * np.abs(band.real).max()
        return low, (band.real.copy() if is_real else band).reshape(len(nu), high - low, q)

    def _step(self, group: Group, low: int, high: int, n_points: int) -> int:
        """Return d, the samples from one that the FFTs of a group's wavelets read to the next.

        Every d-th sample times d has the spectrum W_k plus its copies 1/d, 2/d, ... apart. In the
        rows of the group, these copies must be twice as far from their centre as `reach`.
        """
        nu = self.frequencies[group.first : group.end] / self.sample_rate  # (n,)
        first, last = min(low / self.hop_length, nu[0]), max(high / self.hop_length, nu[-1])
        most = 1 / (last - first + 2 * self.reach[group.first])
        return max((d for d in range(1, int(most) + 1) if n_points % d == 0), default=1)

    def _window(self, k: int) -> tuple[NDArray[np.float64], int]:
        """Return sqrt(l_k) v / sum |v| on librosa's support, and its samples with n < 0."""
        if k not in self._windows:
            length = self.lengths[k]
            n = np.arange(-length // 2, length // 2)  # (L,)
            window = get_window(self.window, len(n), "cqt")
            self._windows[k] = window * (np.sqrt(length) / np.abs(window).sum()), -int(n[0])
        return self._windows[k]
