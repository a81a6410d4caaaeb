"""One recording at several rates: a file is read once, and each rate is resampled from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from audio.description import Description, RecordingFacts
from audio.opening import open_file
from audio.reading import Sound, open_audio
from audio.segment import Segment

QUALITY = "HQ"  # as of `read_audio`


class AtRates(NamedTuple):
    """What one reading of a file gives."""

    waveforms: dict[int, NDArray[np.float32]]  # (T,) by rate, Hz
    facts: RecordingFacts
    hash: str | None  # `Recording.hash`


def read_at_rates(path: Path, rates: Sequence[int], hashed: bool = False) -> AtRates:
    """Read a file at some rates; at each the waveform is that of `read_audio`.

    Args:
        path: The file.
        rates: Sampling rates of the results, Hz.
        hashed: Whether the recording's hash is computed.

    Raises:
        BadAudio: `read_audio` would refuse the file.
    """
    with open_file(path) as file, open_audio(file) as audio:
        description = Description(audio.samplerate)
        sound = Sound(audio, Segment(path), description, hashed)
        streams = {
            rate: soxr.ResampleStream(sound.rate, rate, 1, "float32", QUALITY)
            for rate in rates
            if rate != sound.rate
        }
        parts: dict[int, list[NDArray[np.float32]]] = {rate: [] for rate in rates}
        for block in sound.blocks():
            for rate, found in parts.items():
                found.append(streams[rate].resample_chunk(block) if rate in streams else block)
        for rate, stream in streams.items():
            parts[rate].append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    waveforms = {rate: np.concatenate(parts[rate]) for rate in parts}
    return AtRates(waveforms, description.facts(), sound.hash if hashed else None)


def resampled(waveform: NDArray[np.float32], rate: float, to: int) -> NDArray[np.float32]:
    """Return a waveform (T,) at another rate; itself at the same."""
    if rate == to:
        return waveform
    found: NDArray[np.float32] = soxr.resample(waveform, rate, to, QUALITY)
    return found
