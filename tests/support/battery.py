"""Kinds of good, odd and bad audio files: how each is made, and what must become of it.

All that is to be used holds the same tone, so that one check fits: 440 Hz, half of full scale, for
half a second, but for what a kind itself says.
"""

import gzip
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from audio.impostors import TEXT_MODE
from system.placeholders import LFS_POINTER
from tests.support.paths import ROOT

PITCH, LEVEL, SECONDS = 440.0, 0.5, 0.5  # Hz, of full scale, s
RATE = 16_000  # Hz
USED = "used"


class Kind(NamedTuple):
    """One kind of file."""

    name: str
    make: Callable[[Path], Path]  # writes it into a folder and returns where
    outcome: str = USED  # or words of the reason
    level: float = LEVEL  # of the tone, full scale is 1
    seconds: float = SECONDS
    slack: float = 1e-3  # by which the length may differ, s: codecs count in blocks


def tone(
    rate: int = RATE, seconds: float = SECONDS, channels: int = 1, level: float = LEVEL
) -> np.ndarray:
    """Return the tone on all channels: (T, channels)."""
    mono = level * np.sin(2 * np.pi * PITCH * np.arange(round(rate * seconds)) / rate)
    return np.repeat(mono[:, None], channels, 1)


def written(
    folder: Path, samples: np.ndarray, name: str = "a.wav", rate: int = RATE, **how: str
) -> Path:
    soundfile.write(folder / name, samples, rate, **how)
    return folder / name


def sound(name: str = "a.wav", rate: int = RATE, channels: int = 1, **how: str) -> Callable:
    return lambda folder: written(folder, tone(rate, channels=channels), name, rate, **how)


def floats(samples: np.ndarray | float) -> Callable:
    """Write samples as they are."""
    return lambda folder: written(folder, np.atleast_1d(samples), subtype="DOUBLE")


def with_sample(value: float) -> Callable:
    samples = tone()
    samples[5000] = value
    return floats(samples)


def content(what: bytes | str, name: str = "a.wav") -> Callable:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(what.encode() if isinstance(what, str) else what)
        return folder / name

    return make


def changed(make: Callable, change: Callable[[bytes], bytes]) -> Callable:
    """Write a file and change its bytes."""

    def make_changed(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make_changed


def put(place: int, form: str, *values: int) -> Callable[[bytes], bytes]:
    """Change some bytes of a header."""
    new = struct.pack(form, *values)
    return lambda old: old[:place] + new + old[place + len(new) :]


def claimed(n_samples: int) -> Callable[[bytes], bytes]:
    """Change how many samples the header of a FLAC tells of: 36 bits from the middle of byte 21."""

    def change(old: bytes) -> bytes:
        first = bytes([old[21] & 0xF0 | n_samples >> 32])
        return old[:21] + first + struct.pack(">I", n_samples & 0xFFFFFFFF) + old[26:]

    return change


def renamed(make: Callable, name: str | bytes) -> Callable:
    def make_renamed(folder: Path) -> Path:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        return make(folder).rename(path)

    return make_renamed


def linked(to: str | Path, name: str = "a.wav") -> Callable:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(to)
        return folder / name

    return make


def a_link_to_a_file(folder: Path) -> Path:
    return linked(sound("other.wav")(folder))(folder)


def a_folder(folder: Path) -> Path:
    (folder / "a.wav").mkdir()
    return folder / "a.wav"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.wav")
    return folder / "a.wav"


def a_socket(folder: Path) -> Path:
    here = os.getcwd()
    os.chdir(folder)  # addresses of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("a.wav")
    finally:
        os.chdir(here)
    return folder / "a.wav"


def forbidden(folder: Path) -> Path:
    path = sound()(folder)
    path.chmod(0)
    return path


def in_a_forbidden_folder(folder: Path) -> Path:
    (folder / "closed").mkdir()
    path = sound("closed/a.wav")(folder)
    path.parent.chmod(0)
    return path


def an_archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.wav", "w") as file:
        file.write(sound("in.wav")(folder))
    return folder / "a.wav"


def long(minutes: float, rate: int) -> Callable:
    return lambda folder: written(folder, tone(rate, 60 * minutes), rate=rate, subtype="PCM_U8")


def opposite(folder: Path) -> Path:
    return written(folder, tone(channels=2) * [1, -1], subtype="FLOAT")


def half(old: bytes) -> bytes:
    return old[: len(old) // 2]


def text_mode(old: bytes) -> bytes:
    """Return what a transfer in text mode makes of a file."""
    return old.replace(b"\n", b"\r\n")


def put_cr_before_lf(old: bytes) -> bytes:
    """Change samples so that the bytes look like a transfer in text mode, of unchanged length."""
    new = bytearray(old[:44] + old[44:].replace(b"\n", b"\v"))
    for place in range(1000, 3000, 100):
        new[place : place + 2] = b"\r\n"
    return bytes(new)


def leaving(share: float) -> Callable:
    """Write two channels whose mean has this share of the louder one's amplitude."""
    return lambda folder: written(folder, tone(channels=2) * [1, 2 * share - 1], subtype="FLOAT")


APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(999)
CANCEL = "has channels that cancel: their mean is"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 32044\n"
WAV, FLAC, OGG, MP3 = sound(), sound("a.flac"), sound("a.ogg"), sound("a.mp3")
OPUS = sound("a.opus", 48_000, format="OGG", subtype="OPUS")
LOSSY = partial(Kind, slack=0.06)
MALFORMED = "cannot be read: Supported file format but file is malformed"
UNKNOWN = "cannot be read: Format not recognised"

KINDS = [
    *(Kind(f"{rate} Hz", sound(rate=rate)) for rate in (1000, 8000, 11_025, 16_000, 22_050)),
    *(Kind(f"{rate} Hz", sound(rate=rate)) for rate in (44_100, 48_000, 96_000, 192_000, 768_000)),
    Kind("999 Hz", sound(rate=999), "has a sampling rate of 999 Hz; 1000 to 768000 Hz are read"),
    Kind(
        "a rate of 2 GHz", changed(WAV, put(24, "<I", 2**31 - 1)), "a sampling rate of 2147483647"
    ),
    Kind("a rate of 0 Hz", changed(WAV, put(24, "<I", 0)), "cannot be read: Internal error"),
    *(Kind(f"{n} channels", sound(channels=n)) for n in (2, 3, 4, 5, 6, 7, 8, 1024)),
    Kind("0 channels", changed(WAV, put(22, "<H", 0)), "cannot be read: Channel count is zero"),
    Kind("5000 channels", changed(WAV, put(22, "<H", 5000)), "cannot be read: Too many channels"),
    Kind(
        "sound on one of two channels", lambda f: written(f, tone(channels=2) * [1, 0]), level=0.25
    ),
    Kind("WAV of 8 bits", sound(subtype="PCM_U8")),
    Kind("WAV of 16 bits", sound(subtype="PCM_16")),
    Kind("WAV of 24 bits", sound(subtype="PCM_24")),
    Kind("WAV of 32 bits", sound(subtype="PCM_32")),
    Kind("WAV of 32-bit floats", sound(subtype="FLOAT")),
    Kind("WAV of 64-bit floats", sound(subtype="DOUBLE")),
    Kind("WAV, A-law", sound(rate=8000, subtype="ALAW")),
    Kind("WAV, mu-law", sound(rate=8000, subtype="ULAW")),
    LOSSY("WAV, IMA ADPCM", sound(subtype="IMA_ADPCM")),
    LOSSY("WAV, Microsoft ADPCM", sound(subtype="MS_ADPCM")),
    LOSSY("WAV, GSM 6.10", sound(rate=8000, subtype="GSM610")),
    Kind("WAV with an extensible header", sound(format="WAVEX")),
    Kind("RF64, the WAV of large files", sound(format="RF64")),
    Kind("W64, named .wav", sound(format="W64")),
    Kind("WAV of an unknown codec", changed(WAV, put(20, "<H", 0xAA55)), "cannot be read: "),
    Kind("FLAC of 16 bits", sound("a.flac", subtype="PCM_16")),
    Kind("FLAC of 24 bits", sound("a.flac", subtype="PCM_24")),
    Kind("FLAC, 8 channels", sound("a.flac", channels=8)),
    Kind("OGG Vorbis", OGG),
    Kind("OGG Vorbis, stereo", sound("a.ogg", 44_100, 2)),
    LOSSY("OGG Opus", OPUS),
    LOSSY("MP3", MP3),
    LOSSY("MP3, stereo", sound("a.mp3", 44_100, 2)),
    Kind("AIFF", sound("a.aiff")),
    Kind("FLAC, named .wav", renamed(FLAC, "a.wav")),
    Kind("OGG, named .wav", renamed(OGG, "b.wav")),
    Kind("WAV, named .flac", renamed(WAV, "a.flac")),
    Kind("WAV, named .mp3", renamed(WAV, "a.mp3")),
    Kind("an empty file", content(b""), "is empty: 0 bytes"),
    Kind("WAV, header only", changed(WAV, lambda old: old[:44]), "holds no samples"),
    Kind("WAV, cut in the header", changed(WAV, lambda old: old[:20]), "cannot be read: "),
    Kind("WAV, cut short", changed(WAV, half), seconds=SECONDS / 2),
    Kind("WAV, cut within a sample", changed(WAV, lambda old: old[:-1])),
    Kind("WAV whose sizes are 0", changed(WAV, put(40, "<I", 0)), "holds no samples"),
    Kind("WAV from a stream, sizes unknown", changed(WAV, put(40, "<I", 2**32 - 1))),
    Kind("WAV, each line feed made two bytes", changed(WAV, text_mode), TEXT_MODE),
    Kind(
        "WAV, each line feed made two bytes, one in its header",
        changed(lambda f: written(f, tone()[:7923]), text_mode),  # 15882 bytes = 0x3E0A
        TEXT_MODE,
    ),
    *(
        Kind(f"{form}, each line feed made two bytes", changed(make, text_mode), reason)
        for form, make, reason in (
            ("RF64", sound(format="RF64"), TEXT_MODE),
            ("W64", sound(format="W64"), TEXT_MODE),
            ("AIFF", sound("a.aiff"), TEXT_MODE),
            ("FLAC", FLAC, "cannot be read: "),
        )
    ),
    Kind("WAV in which CR is before each line feed", changed(WAV, put_cr_before_lf)),
    Kind("WAV with bytes behind its samples", changed(WAV, lambda old: old + b"junk" * 99)),
    Kind("FLAC, header only", changed(FLAC, lambda old: old[:60]), "cannot be read: "),
    Kind("FLAC, cut short", changed(FLAC, half), "cannot be read: "),
    Kind("FLAC from a stream, size unknown", changed(FLAC, claimed(0))),
    Kind("FLAC that tells of 2^36 samples", changed(FLAC, claimed(2**36 - 1))),
    Kind("OGG, cut short", changed(OGG, half), MALFORMED),
    Kind("MP3, cut short", changed(MP3, lambda old: old[:-300]), seconds=0.4, slack=0.1),
    Kind("text", content("no audio at all\n" * 99), UNKNOWN),
    Kind(
        "a web page",
        content("<!doctype html><title>404</title>"),
        "is a web page (HTML or XML), not audio",
    ),
    Kind("a web page, named .mp3", content("\n <HTML>" * 999, "a.mp3"), "is a web page"),
    Kind("a Git LFS pointer", content(LFS), LFS_POINTER),
    Kind("a Git LFS pointer, named .mp3", content(LFS, "a.mp3"), LFS_POINTER),
    Kind("a ZIP archive", an_archive, "is a ZIP archive: unpack it"),
    Kind("a gzip archive", content(gzip.compress(bytes(999))), "is a gzip archive: unpack it"),
    Kind(
        "what macOS writes beside a file",
        content(APPLE_DOUBLE),
        "holds what macOS keeps beside a file (._name), not the sound",
    ),
    Kind("an image", content(b"\x89PNG\r\n\x1a\n" + bytes(999)), UNKNOWN),
    Kind("an M4A", content(b"\0\0\0 ftypM4A " + bytes(999)), "is an MPEG-4 file (M4A, MP4)"),
    Kind("a WebM", content(b"\x1a\x45\xdf\xa3" + bytes(999)), "is a Matroska or WebM file"),
    Kind("a pickle", content(b"\x80\x04\x95\x10" + bytes(999)), UNKNOWN),
    Kind("zeros", content(bytes(9999)), UNKNOWN),
    Kind("random bytes", content(np.random.default_rng(0).bytes(9999)), UNKNOWN),
    Kind(
        "random bytes, named .mp3",
        content(np.random.default_rng(1).bytes(9999), "a.mp3"),
        "no sound was found in it",
    ),
    Kind("a NaN sample", with_sample(np.nan), "holds samples that are NaN or infinite"),
    Kind("an infinite sample", with_sample(np.inf), "holds samples that are NaN or infinite"),
    Kind(
        "a sample of minus infinity", with_sample(-np.inf), "holds samples that are NaN or infinite"
    ),
    Kind("a sample of 1e30", with_sample(1e30), "holds samples up to 1e+30, where full scale is 1"),
    Kind("20 dB over full scale", floats(10 * tone()), level=5.0),
    Kind("100 dB below full scale", floats(2e-5 * tone()), level=1e-5),
    Kind("clipped", floats(np.clip(4 * tone(), -LEVEL, LEVEL)), level=0.62),
    Kind("the tone on a constant", floats(tone() + 0.3)),
    Kind("silence", floats(np.zeros(8000)), "holds no sound: every sample is 0"),
    Kind("silence, FLAC", lambda f: written(f, np.zeros(8000), "a.flac"), "holds no sound"),
    Kind("a constant", floats(np.full(8000, 0.25)), "holds no sound: every sample is 0.25"),
    Kind(
        "two channels of opposite sign",
        opposite,
        "every sample is 0 where its channels are averaged",
    ),
    Kind("two channels whose mean has 5 % of the louder", leaving(0.05), f"{CANCEL} 26 dB weaker"),
    Kind("two channels whose mean has 15 % of the louder", leaving(0.15), f"{CANCEL} 16 dB weaker"),
    Kind("two channels whose mean has 30 % of the louder", leaving(0.3), level=0.3 * LEVEL),
    Kind("1 sample", floats(0.5), "is too short: 0.0625 ms, where 10 ms are needed"),
    Kind("9 ms", floats(tone(seconds=0.009)), "is too short: 9 ms, where 10 ms are needed"),
    Kind("10 ms", floats(tone(seconds=0.01)), seconds=0.01),
    Kind("30 minutes", long(30, 1000), seconds=1800),
    Kind("61 minutes", long(61, 1000), "is longer than 60 minutes: cut it into shorter recordings"),
    Kind("a folder", a_folder, "is a folder, not a file"),
    Kind("a link to a file", a_link_to_a_file),
    Kind("a broken link", linked("gone.wav"), "the link leads nowhere: No such file or directory"),
    Kind("a loop of links", linked("a.wav"), "cannot be read: Too many levels of symbolic links"),
    Kind("a pipe", a_pipe, "is a pipe, not a file"),
    Kind("a socket", a_socket, "is a socket, not a file"),
    Kind("a link to /dev/zero", linked("/dev/zero"), "is a device, not a file"),
    Kind("no permission", forbidden, "cannot be read: Permission denied"),
    Kind("a folder without permission", in_a_forbidden_folder, "cannot be read: Permission denied"),
    Kind(
        "no file", lambda folder: folder / "gone.wav", "cannot be read: No such file or directory"
    ),
    Kind("a name of 255 bytes", renamed(WAV, 251 * "a" + ".wav")),
    Kind("a name of 300 bytes", lambda f: f / (296 * "a" + ".wav"), "File name too long"),
    Kind("a name with a null character", lambda f: f / "a\0.wav", "cannot be read: embedded null"),
    Kind("a name in Unicode", renamed(WAV, "écoute-звук-音-🎧.wav")),
    Kind("a name with quotes, spaces and a star", renamed(WAV, "a 'b' \"c\" *.wav")),
    Kind("a name that is not UTF-8", renamed(WAV, b"\xff\xfe.wav"), "has a name that is not UTF-8"),
    Kind("a name with an upper-case suffix", renamed(WAV, "A.WAV")),
]

# What is no kind of file, what becomes of it, and the test that proves it.
SITUATIONS = [
    (
        "several bad files in a corpus",
        "refused, all named in one go, or left out and listed with `corpus.on_bad_audio=skip`",
        "tests/audio/test_bad_audio.py::test_all_bad_files_of_a_corpus_are_named_in_one_go",
    ),
    (
        "all files of a manifest or of IEMOCAP's labels missing",
        "refused before any audio is indexed, naming where they were searched",
        "tests/corpora/test_readers.py::test_manifest_whose_files_are_all_missing_names_where_they_were_"
        "searched",
    ),
    (
        "one file in two rows of a manifest",
        "used twice and counted as identical if the ids differ, else refused with both lines",
        "tests/audio/test_bad_audio.py::test_the_same_file_in_two_rows_is_one_recording",
    ),
    (
        "segments of one file",
        "each read as a file of its own; those that overlap may not be in two splits",
        "tests/corpora/test_segments.py::test_segments_that_touch_are_recordings_of_their_own",
    ),
    (
        "a segment of a file in any format that is used",
        "exactly its samples, whatever the rest of the file holds",
        "tests/audio/test_segment.py::test_a_segment_has_the_samples_of_its_place_in_every_format",
    ),
    (
        "a segment that ends up to 10 ms behind its file",
        "used to the end of the file: lists round their times",
        "tests/audio/test_segment.py::test_an_end_rounded_by_less_than_10_ms_is_the_end_of_the_file",
    ),
    (
        "a segment that reaches further beyond its file",
        "refused, with the end of the file",
        "tests/audio/test_segment.py::test_a_segment_that_its_file_does_not_hold_is_refused",
    ),
    (
        "names that differ in case alone",
        "used as two files; `a.wav` and `a.WAV` would have one id and are refused",
        "tests/audio/test_bad_audio.py::test_names_that_differ_in_case_are_two_files",
    ),
    (
        "a clip as WAV and as FLAC in a corpus folder",
        "refused: the id occurs twice",
        "tests/corpora/test_readers.py::test_the_same_clip_as_wav_and_flac_is_refused",
    ),
    (
        "a folder of a corpus without permission",
        "refused, named",
        "tests/audio/test_bad_audio.py::test_a_folder_without_permission_is_never_passed_over",
    ),
    (
        "a file that changes between indexing and computing its images",
        "refused, named; nothing is stored under the old recording",
        "tests/storage/test_feature_store.py::test_a_file_that_changed_since_it_was_indexed_is_named_and_not_stored",
    ),
    (
        "a file that changes in training, `train.images=computed`",
        "the run stops with its name, and resumes when it is restored",
        "tests/audio/test_bad_audio.py::test_a_file_that_changes_in_training_stops_a_run_that_reads_it_"
        "again",
    ),
    (
        "a file that is touched or packed otherwise, and sounds the same",
        "used",
        "tests/test_data.py::test_an_equal_recording_is_accepted",
    ),
    (
        "a file that changed when a run is given again",
        "the run is refused, since its certificate is of other recordings",
        "tests/training/test_experiment.py::test_a_corpus_that_changed_is_refused",
    ),
    (
        "a store cut short",
        "what is whole is used, the rest is made again",
        "tests/storage/test_feature_store.py::test_truncated_data_file_heals",
    ),
    (
        "a store without its images",
        "they are made again",
        "tests/storage/test_feature_store.py::test_a_store_without_its_images_makes_them_again",
    ),
    (
        "a store whose index ends in a torn line",
        "the line is cut, its images are made again",
        "tests/storage/test_feature_store.py::test_a_torn_last_line_counts_as_missing_and_is_cut",
    ),
    (
        "a store whose index is not as written",
        "refused with what to remove",
        "tests/storage/test_feature_store.py::test_an_index_that_is_not_as_written_is_reported",
    ),
    (
        "a store of another version of the front end, or of other settings",
        "kept beside the new one and not read",
        "tests/storage/test_feature_store.py::test_a_store_of_another_version_stays_and_is_not_read",
    ),
    (
        "a store that was moved into the place of another",
        "refused with what to remove",
        "tests/storage/test_feature_store.py::test_a_store_in_the_place_of_another_is_refused",
    ),
]


def page() -> str:
    """Return docs/AUDIO.md."""
    kinds = [f"| {kind.name} | {_shown(kind)} |" for kind in KINDS]
    others = [f"| {what} | {outcome} | `{test}` |" for what, outcome, test in SITUATIONS]
    return "\n".join(
        [
            "# Kinds of audio and what becomes of them",
            "",
            "Written by `python -m tests.support.battery` from what the tests try; a test",
            "holds page and tests together. A corpus and `predict.py` treat a file alike. Its",
            "content says which format a file has, its name only that it is audio: published",
            "corpora hold WAV and FLAC, a manifest may list OGG, Opus, MP3 and AIFF too. Refused",
            "files are named together, each with its reason. What is used and lies outside the",
            "model's training data (duration, sampling rate, bandwidth, level) is labelled and",
            "named by `predict.py`. A WAV or AIFF that lost bytes in a transfer in text mode",
            "cannot be told from one that was cut short, nor an MP3 that such a transfer damaged",
            "from an intact one: they are used.",
            "",
            f"| {len(KINDS)} kinds of file | outcome |",
            "|---|---|",
            *kinds,
            "",
            "| situation | outcome | test |",
            "|---|---|---|",
            *others,
            "",
        ]
    )


def _shown(kind: Kind) -> str:
    if kind.outcome != USED:
        return f"refused: {kind.outcome.strip(': ')}"
    return "used as far as it goes" if "cut short" in kind.name else USED


if __name__ == "__main__":
    (ROOT / "docs/AUDIO.md").write_text(page(), encoding="utf-8")
