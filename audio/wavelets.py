"""The wavelets of the constant-Q transform, in time and in frequency, in float64."""

from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.windows import bandwidth, check_hop, get_window, side_lobes
from system.errors import InputError

TOLERANCE = 2e-6  # of a wavelet's peak in frequency, -114 dB: what stays below it is left out
MAX_WAVELET = 30  # seconds
CACHE = 2**16  # products that the fold computes at once
PRODUCT_SPEED = 60  # multiplications of a matrix product in the time of one of the fold


class Group(NamedTuple):
    """Neighbouring bins that are computed together."""

    first: int
    end: int  # last bin + 1
    is_direct: bool  # by a matrix product with the waveform's frames, not by its spectrum


class Wavelets:
    """One wavelet a bin: a window of length Q * sample_rate / frequency times a complex sine.

    Args:
        sample_rate: Hz.
        hop_length: Samples between frames; decides only how the wavelets are grouped and stored.
        fmin: Hz, centre of the lowest bin.
        n_bins: Number of bins.
        bins_per_octave: Bins an octave; sets Q.
        window: Whatever `scipy.signal.get_window` takes.
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
        self.sample_rate, self.hop_length, self.window = sample_rate, hop_length, window
        self.bins_per_octave = bins_per_octave
        self.frequencies = fmin * 2.0 ** (np.arange(n_bins) / bins_per_octave)  # (n_bins,) Hz
        ratio = 2.0 ** (2 / bins_per_octave)
        self.q_factor = filter_scale * (ratio + 1) / (ratio - 1)
        self.lengths = self.q_factor * sample_rate / self.frequencies  # (n_bins,) samples
        is_even = self.lengths % 2 == 0  # to the last bit: centred elsewhere than all others
        self.lengths[is_even] = np.nextafter(self.lengths[is_even], np.inf)
        shape = get_window(window, 4096, "cqt")
        self._check(bandwidth(shape))
        lobes = side_lobes(shape, TOLERANCE)
        self.reach = np.minimum(lobes / self.lengths, 1)  # (n_bins,) cycles a sample; 1 is all

    def _check(self, noise_bandwidth: float) -> None:
        check_hop("cqt", self.hop_length, self.sample_rate)
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

        Direct groups make matrices of 32 columns, or of little more than an octave; the others are
        of bins whose bands mostly overlap.
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

    def pieces(self, group: Group, q: int, n_samples: int) -> list[Group]:
        """Return a group in parts whose products with the spectrum stay in the cache."""
        low, high = self.rows(group, q, n_samples)
        n = max(CACHE // ((high - low) * q), 1)
        starts = range(group.first, group.end, n)
        return [Group(k, min(k + n, group.end), group.is_direct) for k in starts]

    def rows(self, group: Group, q: int, n_samples: int) -> tuple[int, int]:
        """Return the first and last + 1 row of q points in which a group's spectra are not 0."""
        centres = self.frequencies[group.first : group.end] / self.sample_rate  # (n,)
        reach = self.reach[group.first : group.end]
        low = int(np.floor((centres - reach).min() * self.hop_length))
        high = int(np.floor((centres + reach).max() * self.hop_length)) + 1
        if n_samples != q * self.hop_length:
            limit = ceil(min(n_samples / q, self.hop_length) / 2)
            low, high = max(low, -limit), min(high, limit)
        return low, min(high, low + self.hop_length)  # once around

    def matrix(self, group: Group) -> NDArray[np.float64]:
        """Return a group's conjugate wavelets, centred: (L, 2n), real parts, then imaginary."""
        half = ceil(self.lengths[group.first] / 2)
        matrix = np.zeros((group.end - group.first, 2 * half), complex)
        for row, k in zip(matrix, range(group.first, group.end), strict=True):
            wavelet, before = self._wavelet(k)
            row[half - before :][: len(wavelet)] = wavelet.conj()
        return np.concatenate([matrix.real, matrix.imag]).T.copy()

    def band(self, group: Group, q: int, n_samples: int) -> tuple[int, NDArray]:
        """Return a group's conjugate spectra where they are not negligible, in rows of q points.

        Wavelets are symmetric about half a sample before 0 if their window begins at 0, as Hann's.
        Counted from there their spectra are real, and returned so.

        Args:
            group: The bins.
            q: Frames of the block that is transformed.
            n_samples: Samples of the block; other than `q * hop_length` if the waveform has another
                rate than the wavelets, and then nothing lies above half of either rate.

        Shape:
            lowest row, (n, R, q); row r, place j is (r * q + j) / (q * hop_length) cycles a sample
        """
        from scipy.fft import fft  # takes half a second

        centres = self.frequencies[group.first : group.end] / self.sample_rate  # (n,)
        low, high = self.rows(group, q, n_samples)
        n_points = q * self.hop_length
        j = np.arange(low * q, high * q)  # (R * q,)
        half_sample = np.exp(-1j * np.pi / n_points * j)
        band = np.empty((len(centres), len(j)), complex)
        for row, k, centre in zip(band, range(group.first, group.end), centres, strict=True):
            wavelet, before = self._wavelet(k)
            circle = np.zeros(n_points, complex)
            circle[: len(wavelet)] = wavelet * np.exp(1j * np.pi * centre)
            spectrum = fft(np.roll(circle, -before))[j % n_points]
            row[:] = (spectrum * half_sample).conj()
        if n_samples != n_points:
            band[:, 2 * np.abs(j) >= min(n_samples, n_points)] = 0
        is_real = np.abs(band.imag).max() <= TOLERANCE * np.abs(band.real).max()
        return low, (band.real.copy() if is_real else band).reshape(len(centres), high - low, q)

    def _wavelet(self, k: int) -> tuple[NDArray[np.complex128], int]:
        """Return a wavelet on librosa's support, and how many of its samples lie before 0."""
        length = self.lengths[k]
        n = np.arange(-length // 2, length // 2)  # (L,)
        wavelet = np.exp(2j * np.pi * self.frequencies[k] / self.sample_rate * n)
        wavelet *= get_window(self.window, len(n), "cqt")
        return wavelet * (np.sqrt(length) / np.abs(wavelet).sum()), -int(n[0])
