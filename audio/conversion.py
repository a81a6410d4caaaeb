"""M4A, WebM and others that libsndfile does not read, through an installed ffmpeg."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audio.opening import BadAudio, open_file
from system.text import truncate

HEAD = 16  # bytes that name a format
STARTS = {
    b"\x1a\x45\xdf\xa3": "a Matroska or WebM file",
    b"#!AMR": "an AMR file",
    b"\x30\x26\xb2\x75": "a Windows Media file (WMA)",
}
INSTALL = (
    "which is read through ffmpeg, and there is no ffmpeg on the PATH: install it "
    "(apt install ffmpeg, brew install ffmpeg), or convert the file to WAV or FLAC"
)


def foreign_format(path: Path) -> str | None:
    """Return what a file is that only ffmpeg reads; None for other files.

    Raises:
        BadAudio: The file cannot be opened.
    """
    with open_file(path) as file:
        head = file.read(HEAD)
    if head[4:8] == b"ftyp":
        return "an MPEG-4 file (M4A, MP4)"
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:  # layer 0: not MP3
        return "an AAC file"
    return next((name for start, name in STARTS.items() if head.startswith(start)), None)


@contextmanager
def readable(path: Path, seconds: float | None = None) -> Iterator[Path]:
    """Yield a file with the sound of a file that libsndfile reads: itself, or a temporary WAV.

    The WAV has the rate and the channels of the first audio stream, as float32. It lies in the
    folder for temporary files while the block runs.

    Args:
        path: The file.
        seconds: How much of its beginning goes into a temporary WAV; None is all.

    Raises:
        BadAudio: The file cannot be opened, needs an ffmpeg that is missing or broken, or
            ffmpeg fails.
    """
    name = foreign_format(path)
    if name is None:
        yield path
        return
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise BadAudio(f"is {name}, {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="maxmvit-") as folder:
        wav = Path(folder, "sound.wav")
        # Local files alone: a playlist inside a container must not open an address
        read = ["-nostdin", "-v", "error", "-protocol_whitelist", "file"]
        read += [] if seconds is None else ["-t", f"{seconds:g}"]
        read += ["-i", f"file:{path}"]
        write = ["-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav", str(wav)]
        try:
            done = subprocess.run([ffmpeg, *read, *write], capture_output=True, check=False)
        except OSError as error:
            raise BadAudio(f"is {name}, and {ffmpeg} cannot be run: {error}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise BadAudio(f"is {name}, and ffmpeg cannot read it: {truncate(said[-1])}")
        yield wav
