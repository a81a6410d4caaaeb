"""Mel-STFT power, scaled as `librosa.feature.melspectrogram`, in blocks that fit the cache.

With hop H, frame length N = n_fft and window h, frame m is centred on sample m H, and x is 0
outside of the waveform. For FFT bin f and band b,
    X_m[f] = sum_n h[n] x[m H + n - N/2] exp(-2 pi i f n / N),    0 <= n < N, 0 <= f <= N/2,
    mel[b, m] = sum_f M[f, b] |X_m[f]|^2.
Filter b is a triangle of area 1 over three neighbouring edges g[b] < g[b+1] < g[b+2] in Hz, which
are equally spaced on Slaney's scale: linear to 1 kHz, logarithmic above.

M is nearly empty, so BANDS_AT_ONCE neighbouring bands share one matrix product over the bins that
they reach. |X|^2 is never formed: the FFT lies in memory as re, im, re, im, ...; its squares meet
each row of M twice,
    mel[b, m] = sum_f M[f, b] re^2 + M[f, b] im^2.
Frames go through FFT and products in blocks of as many as stay in the cache.

`full_scale` is the largest value of mel for a sine of amplitude 1. At frequency phi, in FFT bins,
|X[f]|^2 = |V(f - phi)|^2 / 4 with V the FFT of h; over phi, band b is thus the convolution of
M[f, b] with these lobes. It is evaluated on the FFT bins and halfway between them.
"""

from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from audio.windows import check_hop, check_positive, check_waveform, check_whole, get_window
from system.errors import InputError

CACHE = 2**18  # samples in a block: its frames, FFT and squares are 1 MB each and stay in the cache
GPU = 2**26  # the same on other devices: 256 MB
BANDS_AT_ONCE = 16  # neighbours share most of the FFT bins that they read


class Kernels(NamedTuple):
    """The constants of the transform for one type and device."""

    window: Tensor  # (N,) h
    bands: list[tuple[slice, Tensor]]  # per group: slice of re, im, re, ..., and M on it, doubled


class MelSTFT(nn.Module):
    """Mel power: Slaney's scale and area normalization, centred frames, zeros beyond the ends.

    Args:
        sample_rate: Sampling rate of the waveforms, Hz.
        n_fft: Samples per frame.
        hop_length: Samples between frames.
        n_mels: Number of bands.
        fmin: Lower edge of the lowest band, Hz.
        fmax: Upper edge of the highest band, Hz; None for half the sampling rate.
        window: Anything that `scipy.signal.get_window` takes.
        win_length: Samples of the window, centred in the frame; None for `n_fft`.

    Shape:
        (B, T) -> (B, n_mels, n_frames(T)); float64 for float64, otherwise float32, also under
        autocast

    Raises:
        InputError: The bands do not fit between `fmin` and half the sampling rate, a band contains
            no FFT bin, another setting is out of range, or a waveform is not (B, T) of a
            floating-point type.

    Source:
        Slaney 1998 (Auditory Toolbox) for the scale, as in librosa.

    >>> tone = torch.sin(2 * torch.pi * 440 / 16000 * torch.arange(16000))[None]
    >>> int(MelSTFT(16000, n_fft=1024, n_mels=40)(tone)[0, :, 30].argmax())  # 368 to 515 Hz
    5
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 4096,
        hop_length: int = 256,
        n_mels: int = 128,
        fmin: float = 0.0,
        fmax: float | None = None,
        window: Any = "hann",
        win_length: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("sample_rate", sample_rate), ("mel.n_fft", n_fft)):
            check_whole(f"features.{name}", value)
        check_whole("features.mel.n_mels", n_mels)
        check_whole("features.mel.win_length", n_fft if win_length is None else win_length)
        check_hop("mel", hop_length, sample_rate)
        check_positive("features.mel.fmin", fmin, or_zero=True)
        if fmax is not None:
            check_positive("features.mel.fmax", fmax)
        self.sample_rate, self.n_fft, self.hop_length = sample_rate, n_fft, hop_length
        top = sample_rate / 2 if fmax is None else fmax
        if not fmin < top <= sample_rate / 2:
            raise InputError(
                f"features.mel: fmin={fmin:g} Hz < fmax={top:g} Hz <= half of "
                f"features.sample_rate={sample_rate} must hold"
            )
        self.edges = mel_frequencies(n_mels + 2, fmin, top)  # (n_mels + 2,) g, Hz
        self._filters = _filters(self.edges, np.fft.rfftfreq(n_fft, 1 / sample_rate))
        empty = int((self._filters.max(0) == 0).sum())
        if empty:
            raise InputError(
                f"features.mel: {empty} of n_mels={n_mels} bands hold no FFT bin: "
                f"raise n_fft={n_fft} or lower n_mels"
            )
        if win_length is not None and win_length > n_fft:
            raise InputError(f"features.mel.win_length={win_length} is longer than n_fft={n_fft}")
        length = win_length or n_fft
        before = (n_fft - length) // 2  # zeros at both ends, as librosa
        self._window = np.pad(
            get_window(window, length, "mel"), (before, n_fft - length - before)
        )  # (n_fft,)
        self.full_scale = _full_scale(self._window, self._filters)  # power of a sine of amplitude 1
        self._kernels: dict[tuple[torch.device, torch.dtype], Kernels] = {}

    @property
    def window_and_filters(self) -> tuple[NDArray, NDArray]:
        """Return h (N,) and M (N // 2 + 1, n_mels), for another way to the same transform."""
        return self._window, self._filters

    def n_frames(self, n_samples: Any) -> Any:
        """Return the number of frames of a waveform of n_samples, an int or a tensor of ints."""
        return 1 + n_samples // self.hop_length

    def forward(self, waveform: Tensor) -> Tensor:
        """Return power."""
        check_waveform(waveform)
        if waveform.dtype != torch.float64:
            waveform = waveform.float()  # torch.fft has no bfloat16
        kernels = self._kernels_for(waveform.device, waveform.dtype)
        padded = F.pad(waveform, (self.n_fft // 2, self.n_fft - self.n_fft // 2))
        frames = padded.unfold(-1, self.n_fft, self.hop_length)  # (B, n, n_fft)
        frames = frames[:, : self.n_frames(index(waveform.shape[-1]))]  # a constant if compiled
        samples = CACHE if waveform.device.type == "cpu" else GPU
        blocks = frames.split(max(samples // (len(waveform) * self.n_fft), 1), 1)
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.cat([_mel_power(block, kernels) for block in blocks], 1).mT

    def _kernels_for(self, device: torch.device, dtype: torch.dtype) -> Kernels:
        key = (device, dtype)
        if key not in self._kernels:
            make = self._make_kernels
            if torch.compiler.is_compiling():  # a decorator would import the compiler always
                make = torch.compiler.disable(make)
            self._kernels[key] = make(device, dtype)
        return self._kernels[key]

    @torch.inference_mode(False)  # else a later backward pass could not use them
    def _make_kernels(self, device: torch.device, dtype: torch.dtype) -> Kernels:
        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(array).to(device, dtype)

        bands = []
        for i in range(0, self._filters.shape[1], BANDS_AT_ONCE):
            group = self._filters[:, i : i + BANDS_AT_ONCE]
            used = np.flatnonzero(group.any(1))
            first, end = int(used[0]), int(used[-1]) + 1
            doubled = group[first:end].repeat(2, 0)  # for real and imaginary parts
            bands.append((slice(2 * first, 2 * end), tensor(doubled)))
        return Kernels(tensor(self._window), bands)


def mel_frequencies(n: int, fmin: float, fmax: float) -> NDArray[np.float64]:
    """Return n frequencies in Hz, equally spaced on Slaney's scale: linear to 1 kHz, then log.

    >>> mel_frequencies(4, 0, 1000).round(1).tolist()
    [0.0, 333.3, 666.7, 1000.0]
    """
    lowest, highest = (  # 15 mels to 1 kHz, 27 mels from there to 6.4 kHz
        3 * f / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4) for f in (fmin, fmax)
    )
    mels = np.linspace(lowest, highest, n)
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def _mel_power(frames: Tensor, kernels: Kernels) -> Tensor:
    """Return the Mel power of frames: (B, n, n_fft) -> (B, n, n_mels)."""
    X = torch.fft.rfft(frames * kernels.window)  # (B, n, F)
    squares = torch.view_as_real(X).square().flatten(-2).flatten(0, 1)  # (B * n, 2F) re^2, im^2
    power = torch.cat([squares[:, reached] @ M for reached, M in kernels.bands], 1)
    return power.reshape(*frames.shape[:2], -1)


def _full_scale(window: NDArray, filters: NDArray) -> float:
    """Return the largest Mel power of a sine of amplitude 1, on an FFT bin or halfway to the next.

    Shape:
        (N,), (F, n)
    """
    from scipy.signal import fftconvolve  # a second of CPU time

    lobes = np.abs(np.fft.fftshift(np.fft.fft(window, 2 * len(window)))) ** 2 / 4  # half bins
    powers = (fftconvolve(filters, lobes[offset::2, None], axes=0) for offset in (0, 1))
    return float(max(power.max() for power in powers))


def _filters(edges: NDArray, bins: NDArray) -> NDArray:
    """Return M, triangles of area 1 over neighbouring edges: (n + 2,), (F,) Hz -> (F, n)."""
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rise = (bins[:, None] - low) / (centre - low)
    fall = (high - bins[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
