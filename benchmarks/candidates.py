"""What `front_end.py` compares and how it is timed: transforms of four libraries, in rounds.

In each of ROUNDS rounds every candidate is called several times in a row, so that its data are in
the cache, as in a loop over a corpus. Its time is the least over rounds of the median over calls:
other programs only make it longer.
Inputs are seeded noise: no time depends on the content. "Bare FFTs" are the FFTs of our method
alone, a lower bound of its time.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import librosa
import nnAudio.features
import numpy as np
import soxr
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from audio import mel_stft
from audio.cqt import CQT
from features import SpectrogramImages


class Setting(NamedTuple):
    """Settings of both transforms."""

    sample_rate: int  # Hz
    cqt: dict[str, Any]
    mel: dict[str, Any]


PAPER = Setting(
    44_100,
    {"hop_length": 512, "n_bins": 84, "bins_per_octave": 12},
    {"n_fft": 4096, "hop_length": 256, "n_mels": 128},
)
SETTINGS = {
    "paper, 44.1 kHz": PAPER,
    "16 kHz": Setting(
        16_000,
        {"hop_length": 256, "n_bins": 84, "bins_per_octave": 12},
        {"n_fft": 1024, "hop_length": 160, "n_mels": 128},
    ),
}
RESAMPLED = "16 kHz recordings at the paper's settings"
FMIN = 32.70319566257483  # Hz, C1
TOP_DB = 80.0
IMAGE_SIZE = 224  # pixels
SECONDS = 4.5
ROUNDS = 11
WARM_UP = 2  # rounds before the first that counts: kernels, FFT plans, numba
REPEATS = 15  # calls of a candidate in a round; the first does not count
PATIENCE = 200.0  # ms: a slower candidate is called only twice
NN_AUDIO = ("CQT1992v2", "CQT2010v2")  # VQT is not faster, and CQT1992 takes 50 s to build
RFFT, QUICKEST = "bare FFTs (torch.fft.rfft)", "bare FFTs (quickest form)"

Candidates = dict[str, Callable[[], Any]]


def noise(seconds: float, sample_rate: int) -> Tensor:
    """Return (1, T) seeded noise."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(1, round(seconds * sample_rate), generator=generator)


def images(*powers: Tensor) -> list[Tensor]:
    """Set 0 dB, cut the floor, resize with plain torch: (1, F, n) each -> (1, 1, H, W) each."""
    in_db = [10 * torch.log10(power.clamp_min(1e-10)) for power in powers]
    return [resize((db - db.amax()).clamp_min(-TOP_DB)) for db in in_db]


def resize(db: Tensor) -> Tensor:
    """Resize as `SpectrogramImages` does: (1, F, n) -> (1, 1, H, W)."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return F.interpolate(db[:, None], size, mode="bilinear", antialias=True)


def librosa_cqt(samples: NDArray[np.float32], setting: Setting) -> NDArray[np.float32]:
    """Return librosa's CQT magnitudes."""
    return np.abs(librosa.cqt(samples, sr=setting.sample_rate, fmin=FMIN, **setting.cqt))


def librosa_mel(samples: NDArray[np.float32], setting: Setting) -> NDArray[np.float32]:
    """Return librosa's Mel power."""
    return librosa.feature.melspectrogram(y=samples, sr=setting.sample_rate, **setting.mel)


def librosa_images(samples: NDArray[np.float32], setting: Setting) -> list[Tensor]:
    """Return both images by librosa: (T,) -> 2 x (1, 1, H, W)."""
    cqt = librosa.amplitude_to_db(librosa_cqt(samples, setting), ref=np.max, top_db=TOP_DB)
    mel = librosa.power_to_db(librosa_mel(samples, setting), ref=np.max, top_db=TOP_DB)
    return [resize(torch.from_numpy(db)[None]) for db in (cqt, mel)]


LIBROSA: dict[str, Callable] = {"cqt": librosa_cqt, "mel": librosa_mel, "both": librosa_images}


def nn_audio_cqts(setting: Setting) -> dict[str, Any]:
    """Return nnAudio's transforms by name."""
    settings = {"fmin": FMIN, "verbose": False} | setting.cqt
    return {
        f"nnAudio {name}": getattr(nnAudio.features, name)(setting.sample_rate, **settings)
        for name in NN_AUDIO
    }


class Recording:
    """A waveform and the candidates for its transforms, by transform and name."""

    def __init__(self, seconds: float, setting: Setting) -> None:
        self.setting, self.x = setting, noise(seconds, setting.sample_rate)  # (1, T)
        self.ours = SpectrogramImages(setting.sample_rate, IMAGE_SIZE, setting.cqt, setting.mel)
        theirs, lengths = (self.x[0].numpy(), setting), torch.tensor([self.x.numel()])
        ours: dict[str, Callable] = {
            "cqt": self.ours.cqt,
            "mel": self.ours.mel,
            "both": partial(self.ours, lengths=lengths),
        }
        self.pairs: dict[str, Candidates] = {
            name: {"ours": partial(work, self.x), "librosa": partial(LIBROSA[name], *theirs)}
            for name, work in ours.items()
        }

    def measure_all(self) -> dict[str, dict[str, float]]:
        """Return milliseconds; both images are made with the fastest of nnAudio's CQTs, too."""
        rate = self.setting.sample_rate
        bare_cqt, bare_mel = self._bare_cqt(), self._bare_mel()
        cqts = nn_audio_cqts(self.setting)
        theirs = {name: partial(cqt, self.x) for name, cqt in cqts.items()}
        cqt = measure(self.pairs["cqt"] | theirs | bare_cqt)
        nn_mel = nnAudio.features.MelSpectrogram(rate, **self.setting.mel, verbose=False)
        mel: Any = torchaudio.transforms.MelSpectrogram(
            rate, norm="slaney", mel_scale="slaney", **self.setting.mel
        )
        mels = {"nnAudio": partial(nn_mel, self.x), "torchaudio": partial(mel, self.x)}
        fastest = min(cqts, key=cqt.__getitem__)
        both: Candidates = {
            f"{fastest}, torchaudio": lambda: images(cqts[fastest](self.x) ** 2, mel(self.x)),
            RFFT: lambda: (bare_cqt[RFFT](), bare_mel[RFFT]()),
            QUICKEST: lambda: (bare_cqt[QUICKEST](), bare_mel[QUICKEST]()),
        }
        return {
            "cqt": cqt,
            "mel": measure(self.pairs["mel"] | mels | bare_mel),
            "both": measure(self.pairs["both"] | both),
        }

    def _bare_cqt(self) -> Candidates:
        """One forward FFT of the padded waveform, one inverse FFT per bin."""
        ours = self.ours.cqt
        n_blocks, q = ours._layout(ours.n_frames(self.x.shape[-1]))
        block = torch.randn(n_blocks, q * ours.hop_length)
        folded = torch.randn(n_blocks, len(ours.frequencies), q, dtype=torch.complex64)
        steps = ours._kernels_for(q, block.device, block.dtype).twiddles.shape
        half = torch.view_as_complex(block.unflatten(-1, (*steps, 2)))  # (b, U, V), as in `_fold`
        return {
            RFFT: lambda: (torch.fft.rfft(block), torch.fft.ifft(folded)),
            QUICKEST: lambda: (torch.fft.fft(torch.fft.fft(half, dim=1)), torch.fft.ifft(folded)),
        }

    def _bare_mel(self) -> Candidates:
        """FFTs of all frames at once, or of as many as fit the cache."""
        ours = self.ours.mel
        frames = torch.randn(ours.n_frames(self.x.shape[-1]), ours.n_fft)
        blocks = frames.split(max(mel_stft.CACHE // ours.n_fft, 1))
        return {
            RFFT: lambda: torch.fft.rfft(frames),
            QUICKEST: lambda: [torch.fft.rfft(block) for block in blocks],
        }


def resampled() -> dict[str, Candidates]:
    """Return candidates that compute 16 kHz recordings at the paper's settings."""
    waveform, images = noise(SECONDS, 16_000), SpectrogramImages(PAPER.sample_rate)
    as_it_is = CQT(PAPER.sample_rate, input_rate=16_000)
    on_device = SpectrogramImages(PAPER.sample_rate, input_rate=16_000)

    def soxr_first() -> Tensor:
        return torch.from_numpy(soxr.resample(waveform[0].numpy(), 16_000, PAPER.sample_rate))[None]

    def lengths(waveform: Tensor) -> Tensor:
        return torch.tensor([waveform.numel()])

    return {
        "cqt": {
            "ours": lambda: as_it_is(waveform),
            "soxr, then ours": lambda: images.cqt(soxr_first()),
            "soxr, then librosa": lambda: librosa_cqt(soxr_first()[0].numpy(), PAPER),
        },
        "both": {
            "ours": lambda: on_device(waveform, lengths(waveform)),
            "soxr, then ours": lambda: images(waveform := soxr_first(), lengths(waveform)),
        },
    }


def measure(candidates: Candidates, rounds: int | None = None) -> dict[str, float]:
    """Return the milliseconds of each, the least over alternating rounds, ROUNDS or as given."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.inference_mode():
        for _ in range(WARM_UP + (rounds or ROUNDS)):
            for name, work in candidates.items():
                found[name].append(in_a_row(work))
    return {name: min(times[WARM_UP:]) for name, times in found.items()}


def in_a_row(work: Callable[[], Any]) -> float:
    """Return the median milliseconds of some calls, the first left out."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < REPEATS and sum(times) < PATIENCE):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])
