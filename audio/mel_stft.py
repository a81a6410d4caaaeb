"""Mel-STFT power, scaled as `librosa.feature.melspectrogram`, in blocks that fit the cache."""

from operator import index
from typing import Any, NamedTuple

import numpy as np
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from audio.windows import check_hop, get_window
from system.errors import InputError

CACHE = 2**20  # samples of frames that are transformed at once: 4 MB stay in a processor's cache
GPU = 2**26  # the same elsewhere: 256 MB
BANDS_AT_ONCE = 16  # neighbours share most of the FFT bins that they read


class Kernels(NamedTuple):
    """What `MelSTFT` multiplies with, for one type and device."""

    window: Tensor  # (n_fft,)
    bands: list[tuple[slice, Tensor]]  # part of the interleaved spectrum, (part, bands) on it


class MelSTFT(nn.Module):
    """Mel power: Slaney's scale and area normalization, centred frames, zeros beyond the ends.

    Args:
        sample_rate: Hz.
        n_fft: Samples of a frame.
        hop_length: Samples between frames.
        n_mels: Number of bands.
        fmin: Hz, lower edge of the lowest band.
        fmax: Hz, upper edge of the highest; None is half the sample rate.
        window: Whatever `scipy.signal.get_window` takes.
        win_length: Samples of the window, centred in the frame; None is `n_fft`.

    Shape:
        (B, T) -> (B, n_mels, n_frames(T)); float64 for float64, otherwise float32, also under
        autocast

    Raises:
        InputError: The bands do not fit between `fmin` and half the sample rate, one of them holds
            no FFT bin, or another setting is out of range.

    Source:
        Slaney 1998 (Auditory Toolbox) for the scale, as in librosa.

    >>> tone = torch.sin(2 * torch.pi * 440 / 16000 * torch.arange(16000))[None]
    >>> int(MelSTFT(16000, n_fft=1024, n_mels=40)(tone)[0, :, 30].argmax())
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
        self.sample_rate, self.n_fft, self.hop_length = sample_rate, n_fft, hop_length
        top = sample_rate / 2 if fmax is None else fmax
        if not fmin < top <= sample_rate / 2:
            raise InputError(
                f"features.mel: fmin={fmin:g} Hz < fmax={top:g} Hz <= half of "
                f"features.sample_rate={sample_rate} must hold"
            )
        check_hop("mel", hop_length, sample_rate)
        self.edges = mel_frequencies(n_mels + 2, fmin, top)  # (n_mels + 2,) Hz
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
        self.full_scale = _largest_answer(self._window, self._filters)  # power of a sine of 1
        self._kernels: dict[tuple[torch.device, torch.dtype], Kernels] = {}

    def n_frames(self, n_samples: Any) -> Any:
        """Return the frames of waveforms of so many samples, an int or a tensor of them."""
        return 1 + n_samples // self.hop_length

    def forward(self, waveform: Tensor) -> Tensor:
        """Return power."""
        if waveform.dtype != torch.float64:
            waveform = waveform.float()  # torch.fft has no bfloat16
        kernels = self._kernels_for(waveform.device, waveform.dtype)
        padded = F.pad(waveform, (self.n_fft // 2, self.n_fft - self.n_fft // 2))
        frames = padded.unfold(-1, self.n_fft, self.hop_length)  # (B, n, n_fft)
        frames = frames[:, : self.n_frames(index(waveform.shape[-1]))]  # compiled once a length
        samples = CACHE if waveform.device.type == "cpu" else GPU
        blocks = frames.split(max(samples // (len(waveform) * self.n_fft), 1), 1)
        with torch.autocast(waveform.device.type, enabled=False):
            return torch.cat([_mel_power(block, kernels) for block in blocks], 1).mT

    def _kernels_for(self, device: torch.device, dtype: torch.dtype) -> Kernels:
        key = (device, dtype)
        if key not in self._kernels:
            self._kernels[key] = self._make_kernels(device, dtype)
        return self._kernels[key]

    @torch.compiler.disable
    @torch.inference_mode(False)  # else a later backward pass could not use them
    def _make_kernels(self, device: torch.device, dtype: torch.dtype) -> Kernels:
        def tensor(array: NDArray) -> Tensor:
            return torch.from_numpy(array).to(device, dtype)

        bands = []
        for i in range(0, self._filters.shape[1], BANDS_AT_ONCE):
            group = self._filters[:, i : i + BANDS_AT_ONCE]
            used = np.flatnonzero(group.any(1))
            first, end = int(used[0]), int(used[-1]) + 1
            twice = group[first:end].repeat(2, 0)  # for real and imaginary parts
            bands.append((slice(2 * first, 2 * end), tensor(twice)))
        return Kernels(tensor(self._window), bands)


def mel_frequencies(n: int, fmin: float, fmax: float) -> NDArray[np.float64]:
    """Return n frequencies in Hz, equally spaced on Slaney's scale: linear to 1 kHz, then log."""
    lowest, highest = (
        3 * f / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4) for f in (fmin, fmax)
    )
    mels = np.linspace(lowest, highest, n)
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def _mel_power(frames: Tensor, kernels: Kernels) -> Tensor:
    """Return the Mel power of frames: (B, n, n_fft) -> (B, n, n_mels)."""
    spectrum = torch.fft.rfft(frames * kernels.window)  # (B, n, F)
    squares = torch.view_as_real(spectrum).square().flatten(-2).flatten(0, 1)  # (B * n, 2F)
    power = torch.cat([squares[:, part] @ weights for part, weights in kernels.bands], 1)
    return power.reshape(*frames.shape[:2], -1)


def _largest_answer(window: NDArray, filters: NDArray) -> float:
    """Return the largest power that a sine of amplitude 1 has, on an FFT bin or between two."""
    lobes = np.abs(np.fft.fftshift(np.fft.fft(window, 2 * len(window)))) ** 2 / 4  # half bins
    answers = (
        scipy.signal.fftconvolve(filters, lobes[offset::2, None], axes=0) for offset in (0, 1)
    )
    return float(max(answer.max() for answer in answers))


def _filters(edges: NDArray, bins: NDArray) -> NDArray:
    """Return triangles over neighbouring edges, of area 1: (n + 2,), (F,) Hz -> (F, n)."""
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rise = (bins[:, None] - low) / (centre - low)
    fall = (high - bins[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
