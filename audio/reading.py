"""Audio files to mono waveforms. A file that cannot be used raises `BadAudio` with the reason."""

import errno
import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio import fingerprint
from audio.channels import ChannelLevels
from audio.description import Description, RecordingFacts
from audio.impostors import what_else

MIN_SECONDS = 0.01  # less is not even one period of a low voice
MAX_MINUTES = 60  # the images of an hour take 2.5 GB at the published settings
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz of a file: no recorder is outside of these
MAX_PEAK = 1000.0  # 60 dB above full scale: some float files are loud, none is that loud
BLOCK = 2**18  # samples, over all channels, that are in memory at once
CHANGED = "has changed since it was indexed"
ONE_CHANNEL = "Save one channel as a file of its own (sox IN OUT remix 1) and use that"
BAD_FILE = 7  # libsndfile's code, also for MP3 without a frame; its own words suspect a pipe
NOT_A_FILE = {  # opening these would block, or read forever
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFIFO: "is a pipe, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


class BadAudio(Exception):
    """A file that is not usable audio; the message is the reason, without the path."""


class Recording(NamedTuple):
    """The identity of a recording: the same for all names and formats of its file."""

    hash: str  # SHA-256 of sampling rate and samples: a WAV and a FLAC of it are equal
    facts: RecordingFacts
    words: NDArray[np.uint32]  # (frames,), see `fingerprint`
    file: str  # SHA-256 of the bytes of the file

    @property
    def seconds(self) -> float:
        """Duration, s."""
        return self.facts.seconds


NOTHING_KNOWN: Mapping[str, Recording] = MappingProxyType({})


def read_audio(path: Path, sample_rate: int, recording: str | None = None) -> NDArray[np.float32]:
    """Read a file as mono at the given rate; channels are averaged.

    Args:
        path: File of any format that libsndfile reads: WAV, FLAC, OGG and more. The content
            decides the format, not the name.
        sample_rate: Sampling rate of the result, Hz.
        recording: Expected `Recording.hash`; None accepts any recording.

    Shape:
        (T,) float32, in [-1, 1] for files of integers

    Raises:
        BadAudio: The file is unreadable, too short, too long, constant, absurdly loud, has samples
            that are NaN or infinite, has channels that cancel, or holds another recording than
            expected.
    """
    with _open_file(path) as file, _open_audio(file) as audio:
        sound = _Sound(audio)
        waveform = _resample(sound, sample_rate, "HQ")
    if recording not in (None, sound.hash):
        raise BadAudio(CHANGED)
    return waveform


def read_and_describe(path: Path, sample_rate: int) -> tuple[NDArray[np.float32], RecordingFacts]:
    """Read a file as `read_audio` does: (T,), and the facts of the recording in it."""
    with _open_file(path) as file, _open_audio(file) as audio:
        description = Description(audio.samplerate)
        waveform = _resample(_Sound(audio, description), sample_rate, "HQ")
    return waveform, description.facts()


def inspect_audio(path: Path, known: Mapping[str, Recording] = NOTHING_KNOWN) -> Recording:
    """Identify the recording in a file, which is opened once.

    Bytes are hashed, decoded, and hashed again through one handle: a file that another one
    replaces under its name stays what it was, and one that is overwritten in place is noticed.

    Args:
        path: File as for `read_audio`.
        known: Recordings by the SHA-256 of their files; a file found there is not decoded.

    Raises:
        BadAudio: `read_audio` would refuse the file, or it was written to meanwhile.
    """
    with _open_file(path) as file:
        file_hash = _hash_bytes(file)
        if file_hash in known:
            return known[file_hash]
        with _open_audio(file) as audio:
            description = Description(audio.samplerate)
            sound = _Sound(audio, description)
            narrow = _resample(sound, fingerprint.SAMPLE_RATE, fingerprint.QUALITY)
        words = fingerprint.fingerprint(narrow, fingerprint.SAMPLE_RATE)
        if _hash_bytes(file) != file_hash:
            raise BadAudio("changed while it was read")
    return Recording(sound.hash, description.facts(), words, file_hash)


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
    """A sound file that is read to its real end, wherever its header says that it ends."""

    def seekable(self) -> bool:
        """Return False, so that `read` does not stop where the header says."""
        return False


class _Sound:
    """The samples of a file in blocks, averaged over channels, hashed and checked as they pass.

    Args:
        audio: The file, at its beginning.
        description: Takes in the samples too.
    """

    def __init__(self, audio: soundfile.SoundFile, description: Description | None = None) -> None:
        self.rate: int = audio.samplerate  # Hz
        self.n_samples = 0  # per channel, so far
        self._description = description
        self._audio = audio
        self._digest = hashlib.sha256(f"{self.rate} Hz".encode())
        self._low, self._high = np.inf, -np.inf
        self._levels = ChannelLevels(audio.channels)

    @property
    def hash(self) -> str:
        """`Recording.hash` of the samples read so far."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the samples at the rate of the file: (t,) each.

        Raises:
            BadAudio: The samples cannot be used; raised at the first block that shows it.
        """
        size = BLOCK // self._audio.channels
        while len(samples := self._audio.read(size, "float32", always_2d=True)):  # (t, channels)
            _check_samples(samples)
            mono = samples.mean(1)
            self._levels.add(samples, mono)
            if self._description is not None:
                self._description.add(mono)
            self.n_samples += len(mono)
            self._low = min(self._low, float(mono.min()))
            self._high = max(self._high, float(mono.max()))
            self._digest.update(mono.astype("<f4", copy=False))  # the mean has no -0
            if self.n_samples > MAX_MINUTES * 60 * self.rate:
                raise BadAudio(
                    f"is longer than {MAX_MINUTES} minutes: cut it into shorter recordings"
                )
            yield mono
        self._check_length_and_range()

    def _check_length_and_range(self) -> None:
        if self.n_samples == 0:
            raise BadAudio("holds no samples")
        if self.n_samples < int(MIN_SECONDS * self.rate):
            shown = f"{1000 * self.n_samples / self.rate:.3g} ms"
            raise BadAudio(f"is too short: {shown}, where {1000 * MIN_SECONDS:g} ms are needed")
        weaker = self._levels.cancellation()
        if self._low == self._high:
            mean = " where its channels are averaged" if self._audio.channels > 1 else ""
            way = f". {ONE_CHANNEL}" if weaker is not None else ""
            raise BadAudio(f"holds no sound: every sample is {self._low:.3g}{mean}{way}")
        if weaker is not None:
            raise BadAudio(
                f"has channels that cancel: their mean is {weaker:.0f} dB weaker than the loudest. "
                + ONE_CHANNEL
            )


def _check_samples(samples: NDArray[np.float32]) -> None:
    if not np.isfinite(samples).all():
        raise BadAudio("holds samples that are NaN or infinite")
    if (peak := float(np.abs(samples).max())) > MAX_PEAK:
        raise BadAudio(f"holds samples up to {peak:.3g}, where full scale is 1")


def _resample(sound: _Sound, sample_rate: int, quality: str) -> NDArray[np.float32]:
    """Return the whole sound at another rate; beside the result only one block is in memory."""
    if sound.rate == sample_rate:
        return np.concatenate(list(sound.blocks()))
    stream = soxr.ResampleStream(sound.rate, sample_rate, 1, "float32", quality)
    blocks = [stream.resample_chunk(block) for block in sound.blocks()]
    return np.concatenate([*blocks, stream.resample_chunk(np.zeros(0, np.float32), last=True)])


def _hash_bytes(file: FileIO) -> str:
    """Return the SHA-256 of a file's bytes, and go back to its beginning."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    return digest


@contextmanager
def _open_audio(file: FileIO) -> Iterator[soundfile.SoundFile]:
    """Decode an open file from its beginning, in the format that its content has.

    Raises:
        BadAudio: It holds something else, libsndfile cannot read it, or its sampling rate is out
            of range.
    """
    if reason := what_else(file):
        raise BadAudio(reason)
    try:
        with _Stream(file.fileno(), closefd=False) as audio:
            if not MIN_RATE <= audio.samplerate <= MAX_RATE:
                allowed = f"{MIN_RATE} to {MAX_RATE} Hz are read"
                raise BadAudio(f"has a sampling rate of {audio.samplerate} Hz; {allowed}")
            yield audio
    except soundfile.LibsndfileError as error:
        reason = "no sound was found in it." if error.code == BAD_FILE else error.error_string
        raise BadAudio(f"cannot be read: {reason}") from error


@contextmanager
def _open_file(path: Path) -> Iterator[FileIO]:
    """Open a regular file that is not empty; no other function here opens a file.

    Unbuffered, so that its position is also that of the file descriptor which libsndfile reads.

    Raises:
        BadAudio: The path is not such a file, or reading fails.
    """
    try:
        _check_is_file(path)
        with path.open("rb", buffering=0) as file:
            yield file
    except OSError as error:
        broken = error.errno == errno.ENOENT and path.is_symlink()
        link = "the link leads nowhere: " if broken else ""
        raise BadAudio(f"cannot be read: {link}{error.strerror or error}") from error


def _check_is_file(path: Path) -> None:
    try:
        str(path).encode()
        status = path.stat()
    except UnicodeEncodeError as error:
        raise BadAudio("has a name that is not UTF-8: rename it") from error
    except ValueError as error:  # a null character, which no file name can have
        raise BadAudio(f"cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadAudio(NOT_A_FILE.get(stat.S_IFMT(status.st_mode), "is not a regular file"))
    if status.st_size == 0:
        raise BadAudio("is empty: 0 bytes")
