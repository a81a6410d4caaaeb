"""Recordings as a model reads them: files of any format, or arrays."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio.at_rates import read_at_rates, resampled
from audio.conversion import readable
from audio.description import RecordingFacts, describe
from audio.opening import BadAudio
from audio.reading import MAX_MINUTES, MAX_PEAK, MAX_RATE, MIN_RATE
from audio.segment import MIN_SECONDS
from system.errors import InputError

FULL_SCALE = {"int16": 2**15, "int32": 2**31}


@dataclass(frozen=True)
class Sound:
    """A recording at the rates that a model reads, and what it was like before.

    Attributes:
        waveforms: (T,) by rate in Hz.
        facts: Of the recording as it lies in its file.
        hash: Audio hash; None if it was not asked for.
    """

    waveforms: Mapping[int, NDArray[np.float32]]
    facts: RecordingFacts
    hash: str | None = None

    @property
    def waveform(self) -> NDArray[np.float32]:
        """The waveform at the first rate: (T,)."""
        return next(iter(self.waveforms.values()))


def read_sound(path: Path, *rates: int, hashed: bool = False) -> Sound:
    """Read a file once, through ffmpeg where libsndfile does not read its format.

    Args:
        path: The file.
        rates: Rates of the waveforms, Hz.
        hashed: Whether the audio hash is computed.

    Raises:
        BadAudio: The file is not usable audio, or needs an ffmpeg that is missing.
    """
    with readable(path) as file:
        return Sound(*read_at_rates(file, rates, hashed))


def sound_of(waveform: NDArray[np.float32], rate: int, rates: Sequence[int]) -> Sound:
    """Return a waveform (T,) that is known to be usable as a recording.

    Args:
        waveform: Samples, mono.
        rate: Their rate, Hz.
        rates: Rates of the result, Hz.
    """
    return Sound({to: resampled(waveform, rate, to) for to in rates}, describe(waveform, rate))


def read_array(
    samples: Any, rate: int | None, rates: Sequence[int], number: int = 1, hashed: bool = False
) -> Sound:
    """Check and resample samples as `audio.reading` does those of a file.

    Args:
        samples: (T,), an array or a tensor, floating-point in [-1, 1], int16 or int32.
        rate: Their rate, Hz.
        rates: Rates of the result, Hz.
        number: Which array of the list it is, for messages.
        hashed: Whether the audio hash is computed: that of a file with these samples.

    Raises:
        InputError: They are of another kind or shape, or have no rate.
        BadAudio: They are not usable audio.
    """
    what = f"array {number}"
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if not isinstance(samples, np.ndarray):
        kind = type(samples).__name__
        raise InputError(f"a recording must be a path, an array or a tensor, got a {kind}")
    if samples.ndim != 1:
        raise InputError(
            f"{what} must be mono (T,), got shape {samples.shape}: average its channels"
        )
    if not isinstance(rate, Real):
        given = "" if rate is None else f", got {rate!r}"
        raise InputError(f"{what} needs sample_rate=, the rate of its samples in Hz{given}")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise InputError(f"sample_rate must be {MIN_RATE} to {MAX_RATE} Hz, got {rate}")
    if str(samples.dtype) in FULL_SCALE:
        samples = samples / FULL_SCALE[str(samples.dtype)]
    elif samples.dtype.kind != "f":
        raise InputError(f"{what} must be floating-point, int16 or int32, got {samples.dtype}")
    waveform = samples.astype(np.float32)
    _check(waveform, rate)
    facts = describe(waveform, rate)
    key = _hash(waveform, rate) if hashed else None
    return Sound({to: resampled(waveform, rate, to) for to in rates}, facts, key)


def _hash(waveform: NDArray[np.float32], rate: float) -> str:
    """Return `Recording.hash` of a mono file with these samples."""
    digest = hashlib.sha256(f"{int(rate)} Hz".encode())
    mono = waveform + np.float32(0)  # there is no -0
    digest.update(mono.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _check(waveform: NDArray[np.float32], rate: int) -> None:
    if len(waveform) < MIN_SECONDS * rate:
        found = f"{1000 * len(waveform) / rate:.3g} ms"
        raise BadAudio(f"is too short: {found}, where {1000 * MIN_SECONDS:g} ms are needed")
    if len(waveform) > MAX_MINUTES * 60 * rate:
        raise BadAudio(f"is longer than {MAX_MINUTES} minutes: cut it into shorter recordings")
    if not np.isfinite(waveform).all():
        raise BadAudio("holds samples that are NaN or infinite")
    if (peak := float(np.abs(waveform).max())) > MAX_PEAK:
        raise BadAudio(f"holds samples up to {peak:.3g}, where full scale is 1")
    if waveform.min() == waveform.max():
        raise BadAudio(f"holds no sound: every sample is {waveform[0]:.3g}")
