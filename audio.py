"""Audio files to mono waveforms; a file that cannot be used says so, and is never made zeros."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from fingerprint import fingerprint

MAX_PEAK = 1000.0  # 60 dB above full scale: some float files are loud, none is so loud


class BadAudio(Exception):
    """A file that is not usable audio; the message is the reason, without the path."""


class Recording(NamedTuple):
    """What tells a recording from others, whatever its file is called and however it is packed."""

    hash: str  # SHA-256 of rate and samples: of equal sound a WAV and a FLAC are one
    seconds: float
    words: NDArray[np.uint32]  # (frames,), see `fingerprint`
    file: str  # SHA-256 of the file's bytes


def read_audio(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """Read a file as mono at the given rate; channels are averaged.

    Args:
        path: Any format that libsndfile reads: WAV, FLAC, OGG and more.
        sample_rate: Hz of the result.

    Shape:
        (T,) float32, in [-1, 1] for files of whole numbers

    Raises:
        BadAudio: Unreadable, empty, or with samples that are no numbers or absurdly loud.
    """
    mono, rate = _read_mono(path)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    if len(mono) == 0:
        raise BadAudio(f"is shorter than one sample at {sample_rate} Hz")
    return np.ascontiguousarray(mono, dtype=np.float32)


def listen(path: Path) -> Recording:
    """Read a file and tell which recording it is.

    Args:
        path: As for `read_audio`.

    Raises:
        BadAudio: As `read_audio` would, but for clips shorter than one sample.
    """
    file = hash_file(path)
    mono, rate = _read_mono(path)
    digest = hashlib.sha256(f"{rate} Hz".encode())
    digest.update(mono.astype("<f4").tobytes())  # the mean has no -0
    return Recording(digest.hexdigest(), len(mono) / rate, fingerprint(mono, rate), file)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        BadAudio: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadAudio(f"cannot be read: {error.strerror or error}") from error


def in_parallel(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result) in order, with threads if workers > 1; a BadAudio is a result."""

    def attempt(item: Any) -> Any:
        try:
            return work(item)
        except BadAudio as error:
            return error

    if workers <= 1:
        yield from ((item, attempt(item)) for item in items)
        return
    with ThreadPoolExecutor(workers) as pool:  # reading, resampling and FFTs release the GIL
        yield from zip(items, pool.map(attempt, items), strict=True)


def _read_mono(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return the samples as they are in the file, channels averaged, and their rate in Hz."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)  # (T, channels)
    except (OSError, TypeError, soundfile.SoundFileError) as error:  # TypeError: headerless .raw
        raise BadAudio(f"cannot be read: {error}") from error
    if len(samples) == 0:
        raise BadAudio("holds no samples")
    if not np.isfinite(samples).all():
        raise BadAudio("holds samples that are NaN or infinite")
    if (peak := float(np.abs(samples).max())) > MAX_PEAK:
        raise BadAudio(f"holds samples up to {peak:.3g}, where full scale is 1")
    return samples.mean(1), rate
