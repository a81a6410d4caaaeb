"""Audio files to mono waveforms. A file that cannot be used raises `BadAudio` with the reason."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio import fingerprint
from audio.channels import ChannelLevels
from audio.description import Description, RecordingFacts
from audio.impostors import what_else
from audio.opening import BadAudio, open_file
from audio.segment import MIN_SECONDS, AudioSource, Segment, as_segment

MAX_MINUTES = 60  # the images of an hour take 2.5 GB at the published settings
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz of a file: no recorder is outside of these
END_SLACK = 0.01  # s, by which a segment may end behind its file: lists round their times
# What libsndfile finds each sample of; MP3 and others it seeks to the nearest block or not at all
SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ALAW", "ULAW")  # subtypes, also of FLAC
MAX_PEAK = 1000.0  # 60 dB above full scale: some float files are loud, none is that loud
BLOCK = 2**18  # samples, over all channels, that are in memory at once
CHANGED = "has changed since it was indexed"
ONE_CHANNEL = "Save one channel as a file of its own (sox IN OUT remix 1) and use that"
BAD_FILE = 7  # libsndfile's code, also for MP3 without a frame; its own words suspect a pipe


class Recording(NamedTuple):
    """The identity of a recording: the same for all names and formats of its file.

    That of a segment is the identity of a file that holds this segment alone.
    """

    hash: str  # SHA-256 of sampling rate and samples: a WAV and a FLAC of it are equal
    facts: RecordingFacts
    words: NDArray[np.uint32]  # (frames,), see `fingerprint`
    file: str  # SHA-256 of the bytes of the file; of a segment, with its times behind it

    @property
    def file_hash(self) -> str:
        """SHA-256 of the bytes of the file."""
        return self.file.split()[0]

    @property
    def seconds(self) -> float:
        """Duration, s."""
        return self.facts.seconds


NOTHING_KNOWN: Mapping[str, Recording] = MappingProxyType({})


def read_audio(
    source: AudioSource, sample_rate: int, recording: str | None = None
) -> NDArray[np.float32]:
    """Read a file, or a segment of it, as mono at the given rate; channels are averaged.

    The rest of the file does not enter a segment: not its checks, not its resampled samples.

    Args:
        source: File of any format that libsndfile reads: WAV, FLAC, OGG and more. The content
            decides the format, not the name.
        sample_rate: Sampling rate of the result, Hz.
        recording: Expected `Recording.hash`; None accepts any recording.

    Shape:
        (T,) float32, in [-1, 1] for files of integers

    Raises:
        BadAudio: The file is unreadable, too short, too long, constant, absurdly loud, has samples
            that are NaN or infinite or channels that cancel, or is not the expected recording; or
            the segment reaches beyond it.
    """
    segment = as_segment(source)
    with open_file(segment.path) as file:
        return _decode(file, segment, sample_rate, recording)[0]


def read_samples(source: AudioSource, recording: str | None) -> tuple[NDArray[np.float32], int]:
    """Read a file or a segment as `read_audio` does, at its own rate: samples (T,), rate in Hz."""
    segment = as_segment(source)
    with open_file(segment.path) as file:
        return _decode(file, segment, None, recording)


def decode_audio(
    content: bytes, sample_rate: int, recording: str | None = None
) -> NDArray[np.float32]:
    """Decode the bytes of an audio file as `read_audio` reads a file: (T,)."""
    return _decode(BytesIO(content), Segment(Path()), sample_rate, recording)[0]


def _decode(
    file: FileIO | BytesIO, segment: Segment, sample_rate: int | None, recording: str | None
) -> tuple[NDArray[np.float32], int]:
    """Return a segment at a rate, None for that of the file, and the rate of the file."""
    with open_audio(file) as audio:
        sound = Sound(audio, segment)
        waveform = _resample(sound, sample_rate or sound.rate, "HQ")
    if recording not in (None, sound.hash):
        raise BadAudio(CHANGED)
    return waveform, sound.rate


def inspect_audio(source: AudioSource, known: Mapping[str, Recording] = NOTHING_KNOWN) -> Recording:
    """Identify the recording in a file or a segment of it, see `inspect_segments`.

    Raises:
        BadAudio: `read_audio` would refuse it, or the file was written to meanwhile.
    """
    [result] = inspect_segments([source], known)
    if isinstance(result, BadAudio):
        raise result
    return result


def inspect_segments(
    sources: Sequence[AudioSource], known: Mapping[str, Recording] = NOTHING_KNOWN
) -> list[Recording | BadAudio]:
    """Identify segments of one file, which is opened once; the whole file is one of them.

    Bytes are hashed, decoded, and hashed again through one handle: a file that another one
    replaces under its name stays what it was, and one that is overwritten in place is noticed.

    Args:
        sources: Segments as for `read_audio`, all of one file.
        known: Recordings by their `file`; what is found there is not decoded.

    Returns:
        The recording of each segment, or the reason for which `read_audio` would refuse it.

    Raises:
        BadAudio: The file cannot be opened, or it was written to meanwhile.
    """
    segments = [as_segment(source) for source in sources]
    with open_file(segments[0].path) as file:
        file_hash = _hash_bytes(file)
        names = [_name_in_index(file_hash, segment) for segment in segments]
        results = [
            known[name] if name in known else _identify(file, segment, name)
            for segment, name in zip(segments, names, strict=True)
        ]
        decoded = any(
            isinstance(result, Recording) and result.file not in known for result in results
        )
        if decoded and _hash_bytes(file) != file_hash:
            raise BadAudio("changed while it was read")
    return results


def _name_in_index(file_hash: str, segment: Segment) -> str:
    """Return `Recording.file`."""
    if segment == Segment(segment.path):
        return file_hash
    return f"{file_hash} {segment.start!r} {segment.end!r}"


def _identify(file: FileIO, segment: Segment, name: str) -> Recording | BadAudio:
    file.seek(0)
    try:
        with open_audio(file) as audio:
            description = Description(audio.samplerate)
            sound = Sound(audio, segment, description)
            narrow = _resample(sound, fingerprint.SAMPLE_RATE, fingerprint.QUALITY)
    except BadAudio as error:
        return error
    words = fingerprint.fingerprint(narrow, fingerprint.SAMPLE_RATE)
    return Recording(sound.hash, description.facts(), words, name)


class _Stream(soundfile.SoundFile):
    """A sound file that is read to its real end, wherever its header says that it ends."""

    def seekable(self) -> bool:
        """Return False, so that `read` does not stop where the header says."""
        return False


class Sound:
    """The samples of a segment in blocks, averaged over channels, hashed and checked as they pass.

    Args:
        audio: The file, at its beginning.
        segment: The part of the file; its times are rounded to samples.
        description: Takes in the samples too.
        hashed: Whether the samples are hashed.
    """

    def __init__(
        self,
        audio: soundfile.SoundFile,
        segment: Segment,
        description: Description | None = None,
        hashed: bool = True,
    ) -> None:
        self._hashed = hashed
        self.rate: int = audio.samplerate  # Hz
        self.n_samples = 0  # per channel, so far
        self._first = round(segment.start * self.rate)
        self._stop = None if segment.end is None else round(segment.end * self.rate)
        self._description = description
        self._audio = audio
        self._digest = hashlib.sha256(f"{self.rate} Hz".encode())
        self._low, self._high = np.inf, -np.inf
        self.levels = ChannelLevels(audio.channels)

    @property
    def hash(self) -> str:
        """`Recording.hash` of the samples read so far."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the mean of the channels: (t,) each; see `channel_blocks`."""
        for _, mono in self.channel_blocks():
            yield mono

    def channel_blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield the samples at the rate of the file, and their mean: (t, channels) and (t,) each.

        Raises:
            BadAudio: The samples cannot be used; raised at the first block that shows it.
        """
        skipped = self._skip()
        while len(samples := self._audio.read(self._size(), "float32", always_2d=True)):  # (t, ch)
            _check_samples(samples)
            mono = samples.mean(1) if samples.shape[1] > 1 else samples[:, 0] + np.float32(0)
            self.levels.add(samples, mono)
            if self._description is not None:
                self._description.add(mono)
            self.n_samples += len(mono)
            self._low = min(self._low, float(mono.min()))
            self._high = max(self._high, float(mono.max()))
            if self._hashed:
                self._digest.update(mono.astype("<f4", copy=False))  # mono has no -0
            if self.n_samples > MAX_MINUTES * 60 * self.rate:
                raise BadAudio(
                    f"is longer than {MAX_MINUTES} minutes: cut it into shorter recordings"
                )
            yield samples, mono
        self._check_end(skipped + self.n_samples)
        self._check_length_and_range()

    def _size(self) -> int:
        """Return the number of samples to read next."""
        size = BLOCK // self._audio.channels
        if self._stop is None:
            return size
        return min(size, self._stop - self._first - self.n_samples)

    def _skip(self) -> int:
        """Go to the first sample of the segment, or the end of the file; return its number.

        What cannot be found exactly is read up to there.
        """
        if self._first == 0:
            return 0
        if self._audio.subtype.startswith(SEEKABLE) and self._first <= self._audio.frames:
            self._audio.seek(self._first)
            return self._first
        skipped, size = 0, BLOCK // self._audio.channels
        while n := len(self._audio.read(min(size, self._first - skipped), "float32")):
            skipped += n
        return skipped

    def _check_end(self, position: int) -> None:
        """Refuse a segment that begins or ends behind its file, of which `position` is the end."""
        missing = max(self._first, self._stop or 0) - position
        if missing > (END_SLACK * self.rate if self.n_samples else 0):
            raise BadAudio(f"reaches beyond its file, which ends at {position / self.rate:.6g} s")

    def _check_length_and_range(self) -> None:
        if self.n_samples == 0:
            raise BadAudio("holds no samples")
        if self.n_samples < int(MIN_SECONDS * self.rate):
            shown = f"{1000 * self.n_samples / self.rate:.3g} ms"
            raise BadAudio(f"is too short: {shown}, where {1000 * MIN_SECONDS:g} ms are needed")
        weaker = self.levels.cancellation()
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


def _resample(sound: Sound, sample_rate: int, quality: str) -> NDArray[np.float32]:
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
def open_audio(file: FileIO | BytesIO) -> Iterator[soundfile.SoundFile]:
    """Decode an open file from its beginning, in the format that its content has.

    Raises:
        BadAudio: It holds something else, libsndfile cannot read it, or its sampling rate is out
            of range.
    """
    if reason := what_else(file):
        raise BadAudio(reason)
    try:
        place = file if isinstance(file, BytesIO) else file.fileno()
        with _Stream(place, closefd=False) as audio:
            if not MIN_RATE <= audio.samplerate <= MAX_RATE:
                allowed = f"{MIN_RATE} to {MAX_RATE} Hz are read"
                raise BadAudio(f"has a sampling rate of {audio.samplerate} Hz; {allowed}")
            yield audio
    except soundfile.LibsndfileError as error:
        reason = "no sound was found in it." if error.code == BAD_FILE else error.error_string
        raise BadAudio(f"cannot be read: {reason}") from error
