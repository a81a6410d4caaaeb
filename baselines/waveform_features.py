"""Features of the waveform, read at one stated rate: MFCC and openSMILE's eGeMAPSv02.

openSMILE's functionals change with the sampling rate alone, so every recording is resampled to
`RATE`, whatever the corpus was recorded at. Neither normalises the level.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from tqdm import tqdm

from audio.mel_stft import MelSTFT
from audio.parallel import in_parallel
from audio.reading import BadAudio, read_audio
from audio.segment import AudioSource
from storage.tensors import load_tensors, save_tensors
from system.files import make_folder
from system.locks import lock
from system.output import progress_bar

RATE = 16_000  # Hz
N_FFT, HOP_LENGTH = 512, 256  # samples: 32 and 16 ms
N_MELS, N_MFCC = 40, 20
TOP_DB, LEAST_POWER = 80.0, 1e-10  # as librosa.power_to_db
PERCENTILES = (10, 90)
COMMIT_EVERY = 1024  # recordings between two writes

Compute = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class WaveformFeatures:
    """Features by audio hash, computed once and kept below `run.store`.

    Args:
        store: `run.store`.
        kind: `mfcc` (20 coefficients a frame) or `egemaps` (88 functionals).
    """

    version = 1  # raised when a kind gives other values

    def __init__(self, store: Path, kind: str) -> None:
        self._folder = store / f"baselines-{kind}-{RATE}-{self.version}"
        self._file = self._folder / "features.safetensors"
        self._kind = kind
        self._known: dict[str, NDArray] = {}

    def build(self, sources: Mapping[str, AudioSource], workers: int) -> dict[AudioSource, str]:
        """Compute what is missing; a second builder waits for the first.

        Args:
            sources: {audio hash: file or segment}.
            workers: Number of threads; 0 or 1 uses the caller's alone.

        Returns:
            {source: reason} of those that are not usable audio, or have changed.

        Raises:
            RunError: The folder cannot be written, or its file is corrupt.
        """
        make_folder(self._folder.parent)
        make_folder(self._folder, inside=self._folder.parent)
        bad: dict[AudioSource, str] = {}
        with lock(self._folder / "lock", str(self._folder), blocking=True):
            if self._file.exists():
                self._known = {k: v.numpy() for k, v in load_tensors(self._file).items()}
            missing = [item for item in sources.items() if item[0] not in self._known]
            bar = progress_bar(len(missing), self._kind, "file", hidden=not missing)
            with bar:
                for start in range(0, len(missing), COMMIT_EVERY):
                    self._compute(missing[start : start + COMMIT_EVERY], workers, bad, bar)
        return bad

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        """Return the features of a recording by its audio hash: (T, 20) or (88,)."""
        return self._known[key]

    def _compute(
        self, items: list[Any], workers: int, bad: dict[AudioSource, str], bar: tqdm
    ) -> None:
        compute = COMPUTE[self._kind]()

        def work(item: tuple[str, AudioSource]) -> NDArray[np.float32]:
            return compute(read_audio(item[1], RATE, item[0]))

        for (key, source), result in in_parallel(work, items, workers):
            bar.update()
            if isinstance(result, BadAudio):
                bad[source] = str(result)
            else:
                self._known[key] = result
        save_tensors(self._file, {k: torch.from_numpy(v) for k, v in self._known.items()})


def mfcc() -> Compute:
    """Return what computes mel-frequency cepstral coefficients: (T,) -> (frames, 20).

    **Source:** as librosa.feature.mfcc with n_fft 512, hop_length 256, n_mels 40: the orthonormal
    DCT-II of the Mel-STFT in dB, floored 80 dB below the recording's maximum.
    """
    mel = MelSTFT(RATE, N_FFT, HOP_LENGTH, N_MELS)

    def compute(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            power = mel(torch.from_numpy(waveform)[None])[0].numpy()  # (40, frames)
        level = 10 * np.log10(np.maximum(power, LEAST_POWER))
        level = np.maximum(level, level.max() - TOP_DB)
        found: NDArray[np.float32] = dct(level, axis=0, norm="ortho")[:N_MFCC].T
        return np.ascontiguousarray(found, dtype=np.float32)

    return compute


def egemaps() -> Compute:
    """Return what computes openSMILE's eGeMAPSv02 functionals: (T,) -> (88,).

    **Source:** Eyben et al. 2016, as the package opensmile has it.
    """
    import opensmile  # of extra `classic`

    local = threading.local()  # one extractor a thread

    def compute(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(local, "smile"):
            level = opensmile.FeatureLevel.Functionals
            local.smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, level)
        values = local.smile.process_signal(waveform, RATE).to_numpy()[0]  # (88,)
        if not np.isfinite(values).all():
            raise BadAudio("is too short or too quiet for openSMILE's functionals")
        return values.astype(np.float32)

    return compute


COMPUTE: dict[str, Callable[[], Compute]] = {"mfcc": mfcc, "egemaps": egemaps}


def mfcc_statistics(frames: NDArray) -> NDArray[np.float64]:
    """Return statistics of MFCC and of their differences from frame to frame, and the length.

    Mean, standard deviation, 10th and 90th percentile of each: (frames, 20) -> (161,).
    """
    values = frames.astype(np.float64)
    moves = np.diff(values, axis=0) if len(values) > 1 else np.zeros_like(values)
    parts = [
        part
        for track in (values, moves)
        for part in (track.mean(0), track.std(0), *np.percentile(track, PERCENTILES, axis=0))
    ]
    return np.concatenate([*parts, [len(values) * HOP_LENGTH / RATE]])
