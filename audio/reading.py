"""Audio files to mono waveforms; a file that cannot be used says so, and is never made zeros."""

import errno
import hashlib
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio import fingerprint

MIN_SECONDS = 0.01  # less is not even one period of a low voice
MAX_MINUTES = 60  # an hour's images as published take 2.5 GB
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz of a file: what lies outside was no recorder's
MAX_PEAK = 1000.0  # 60 dB above full scale: some float files are loud, none is so loud
BLOCK = 2**18  # samples of all channels together that are in memory at once
CHANGED = "has changed since it was heard"
BAD_FILE = 7  # libsndfile's code, for MP3 without a frame too; its words suspect a pipe
NO_FILE = {  # opening them would wait, or read for ever
    stat.S_IFDIR: "is a folder, no file",
    stat.S_IFIFO: "is a pipe, no file",
    stat.S_IFSOCK: "is a socket, no file",
    stat.S_IFCHR: "is a device, no file",
    stat.S_IFBLK: "is a device, no file",
}


class BadAudio(Exception):
    """A file that is not usable audio; the message is the reason, without the path."""


class Recording(NamedTuple):
    """What tells a recording from others, whatever its file is called and however it is packed."""

    hash: str  # SHA-256 of rate and samples: of equal sound a WAV and a FLAC are one
    seconds: float
    words: NDArray[np.uint32]  # (frames,), see `fingerprint`
    file: str  # SHA-256 of the file's bytes


def read_audio(path: Path, sample_rate: int, recording: str | None = None) -> NDArray[np.float32]:
    """Read a file as mono at the given rate; channels are averaged.

    Args:
        path: Any format that libsndfile reads: WAV, FLAC, OGG and more. Its content says which.
        sample_rate: Hz of the result.
        recording: Hash of the recording that it must be; None takes what is there.

    Shape:
        (T,) float32, in [-1, 1] for files of whole numbers

    Raises:
        BadAudio: Unreadable, too short, too long, without sound, with samples that are no numbers
            or absurdly loud, or another recording.
    """
    with _opened(path) as file:
        sound = _Sound(file)
        waveform = _resampled(sound, sample_rate, "HQ")
    if recording not in (None, sound.hash):
        raise BadAudio(CHANGED)
    return waveform


def inspect_audio(path: Path) -> Recording:
    """Read a file and tell which recording it is.

    Args:
        path: As for `read_audio`.

    Raises:
        BadAudio: As `read_audio` would.
    """
    file_hash = hash_file(path)
    with _opened(path) as file:
        sound = _Sound(file)
        narrow = _resampled(sound, fingerprint.SAMPLE_RATE, fingerprint.QUALITY)
    words = fingerprint.fingerprint(narrow, fingerprint.SAMPLE_RATE)
    if hash_file(path) != file_hash:
        raise BadAudio("changed while it was read")
    return Recording(sound.hash, sound.n_samples / sound.rate, words, file_hash)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        BadAudio: It cannot be read, or is no file.
    """
    with _open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


class _Stream(soundfile.SoundFile):
    """A sound file read on to its end, wherever its header says that it ends."""

    def seekable(self) -> bool:
        """Keep `read` from going by the header."""
        return False


class _Sound:
    """The samples of a file in blocks, averaged over channels; what they are is noted in passing.

    Args:
        file: At its beginning.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        self.rate: int = file.samplerate  # Hz
        self.n_samples = 0  # a channel
        self._file = file
        self._digest = hashlib.sha256(f"{self.rate} Hz".encode())
        self._low, self._high = np.inf, -np.inf

    @property
    def hash(self) -> str:
        """Of rate and samples, those that were read so far."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the samples as they are in the file: (t,) each.

        Raises:
            BadAudio: As soon as it is known.
        """
        size = BLOCK // self._file.channels
        while len(samples := self._file.read(size, "float32", always_2d=True)):  # (t, channels)
            _check_numbers(samples)
            mono = samples.mean(1)
            self.n_samples += len(mono)
            self._low = min(self._low, float(mono.min()))
            self._high = max(self._high, float(mono.max()))
            self._digest.update(mono.astype("<f4", copy=False))  # the mean has no -0
            if self.n_samples > MAX_MINUTES * 60 * self.rate:
                raise BadAudio(f"is longer than {MAX_MINUTES} minutes: cut it into clips")
            yield mono
        self._check_whole()

    def _check_whole(self) -> None:
        if self.n_samples == 0:
            raise BadAudio("holds no samples")
        if self.n_samples < int(MIN_SECONDS * self.rate):
            shown = f"{1000 * self.n_samples / self.rate:.3g} ms"
            raise BadAudio(f"is too short: {shown}, where {1000 * MIN_SECONDS:g} ms are needed")
        if self._low == self._high:
            mean = " where its channels are averaged" if self._file.channels > 1 else ""
            raise BadAudio(f"holds no sound: every sample is {self._low:.3g}{mean}")


def _check_numbers(samples: NDArray[np.float32]) -> None:
    if not np.isfinite(samples).all():
        raise BadAudio("holds samples that are NaN or infinite")
    if (peak := float(np.abs(samples).max())) > MAX_PEAK:
        raise BadAudio(f"holds samples up to {peak:.3g}, where full scale is 1")


def _resampled(sound: _Sound, sample_rate: int, quality: str) -> NDArray[np.float32]:
    """Return the whole sound at another rate; but for the result only a block is in memory."""
    if sound.rate == sample_rate:
        return np.concatenate(list(sound.blocks()))
    stream = soxr.ResampleStream(sound.rate, sample_rate, 1, "float32", quality)
    blocks = [stream.resample_chunk(block) for block in sound.blocks()]
    return np.concatenate([*blocks, stream.resample_chunk(np.zeros(0, np.float32), last=True)])


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file by what is in it, and turn what goes wrong while it is open into reasons.

    Raises:
        BadAudio: It cannot be read.
    """
    try:
        with _open_file(path) as file, _Stream(file.fileno(), closefd=False) as audio:
            if not MIN_RATE <= audio.samplerate <= MAX_RATE:
                allowed = f"{MIN_RATE} to {MAX_RATE} Hz are read"
                raise BadAudio(f"has a sampling rate of {audio.samplerate} Hz; {allowed}")
            yield audio
    except soundfile.LibsndfileError as error:
        reason = "no sound was found in it." if error.code == BAD_FILE else error.error_string
        raise BadAudio(f"cannot be read: {reason}") from error


@contextmanager
def _open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a file that is one and has something in it.

    Raises:
        BadAudio: It is not, or cannot be read.
    """
    try:
        _refuse_what_is_no_file(path)
        with path.open("rb") as file:
            yield file
    except OSError as error:
        broken = error.errno == errno.ENOENT and path.is_symlink()
        link = "the link leads nowhere: " if broken else ""
        raise BadAudio(f"cannot be read: {link}{error.strerror or error}") from error


def _refuse_what_is_no_file(path: Path) -> None:
    try:
        str(path).encode()
        status = path.stat()
    except UnicodeEncodeError as error:
        raise BadAudio("has a name that is no UTF-8, as our tables are: rename it") from error
    except ValueError as error:  # a name that no file can have
        raise BadAudio(f"cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadAudio(NO_FILE.get(stat.S_IFMT(status.st_mode), "is no file"))
    if status.st_size == 0:
        raise BadAudio("is empty: 0 bytes")
