"""Recognise files that are named as audio and hold something else, or damaged audio."""

from io import BytesIO, FileIO

from system.placeholders import LFS_POINTER, LFS_START

HEAD = 4096  # bytes that are looked at
CONVERT = "which is not read: convert it to WAV or FLAC"
NOT_AUDIO = {  # first bytes: what the file is
    LFS_START: LFS_POINTER,
    b"\x00\x05\x16\x07": (
        "holds what macOS keeps beside a file (._name), not the sound: use the file without ._"
    ),
    b"PK\x03\x04": "is a ZIP archive: unpack it",
    b"\x1f\x8b": "is a gzip archive: unpack it",
    b"\x1a\x45\xdf\xa3": f"is a Matroska or WebM file, {CONVERT}",
}
WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")
TEXT_MODE = (
    "has two bytes (CR LF) for each line feed, from a transfer in text mode: copy it again in "
    "binary mode"
)
SURE = 4  # line feeds, all behind a carriage return: by chance one in 256 is


def what_else(file: FileIO | BytesIO) -> str | None:
    """Return what a file is that its first bytes show not to be intact audio, else None.

    Args:
        file: Open file, at its beginning afterwards if nothing was found.
    """
    file.seek(0)
    head = file.read(HEAD)
    if is_text_mode(file, head):
        return TEXT_MODE
    file.seek(0)
    for start, words in NOT_AUDIO.items():
        if head.startswith(start):
            return words
    if head.lstrip().lower().startswith(WEB_PAGE):
        return "is a web page (HTML or XML), not audio: download the file itself"
    if head[4:8] == b"ftyp":
        return f"is an MPEG-4 file (M4A, MP4), {CONVERT}"
    return None


def is_text_mode(file: FileIO | BytesIO, head: bytes) -> bool:
    r"""Whether a transfer in text mode wrote \r\n for each \n of a WAV, RF64, W64 or AIFF.

    Then each line feed is behind a carriage return, and without these the file is as long as its
    header says.

    Args:
        file: Open file; its position changes.
        head: Its first bytes.
    """
    size = _size_by_header(head.replace(b"\r\n", b"\n"))  # it may hold a line feed too
    if size is None:
        return False
    spare = file.seek(0, 2) - size
    if spare < SURE - 1:  # a byte that pads the last chunk may be missing
        return False
    file.seek(0)
    n, last = 0, b""
    while block := file.read(2**16):
        found = block.count(b"\n")
        if found != (last[-1:] + block).count(b"\r\n"):
            return False
        n, last = n + found, block
    return n >= SURE and abs(n - spare) <= 1


def _size_by_header(head: bytes) -> int | None:
    """Return the bytes that a file has by its header; None for a format that does not say."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return int.from_bytes(head[4:8], "big") + 8
    if head[:4] == b"RF64" and head[8:16] == b"WAVEds64":
        return int.from_bytes(head[20:28], "little") + 8
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return int.from_bytes(head[16:24], "little")
    return None
