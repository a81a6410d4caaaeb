"""Shards: a corpus in a few tar files, of audio or of images, read at random places.

A shard is a tar file in webdataset's layout. A sample's key is the hash of its audio, since
webdataset ends a key at its first dot and merges what then has equal keys. Its members are

    <hash>.flac or <hash>.wav              mono, at the rate of the recording, without loss
    <hash>.cqt.npy and <hash>.mel.npy      or its images instead: (crops, C, H, W) float16, dB
    <hash>.json                            utterance, speaker, label
    __meta__/split_certificate.json        of the splits that the shards were written for
    __meta__/index.json                    facts of the shard; place of each member in the file,
                                           and the CRC32 of each of its images
    __meta__/end.json                      place of the index: the last block that is not zeros

webdataset skips `__meta__`. With the index any member is one read: the order of a training, and
so its scores, are those of one that reads files or the feature store.
"""

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audio.reading import BadAudio, decode_audio
from storage.feature_store import IMAGES, mean_and_std
from system.errors import InputError, RunError
from system.files import MAX_TABLE
from system.regular import open_regular

VERSION = 2  # of the layout
AUDIO_FORMATS = ("flac", "wav")
FORMATS = (*AUDIO_FORMATS, "images")
NAME = re.compile(r"shard-(?P<number>\d{5})-of-(?P<total>\d{5})\.tar")
MOST = 99_999  # shards
META, CERTIFICATE, INDEX, END = "__meta__", "split_certificate.json", "index.json", "end.json"
BLOCK = 512  # bytes of a block of a tar file; a member begins with its header, one block
TAIL = 64 * BLOCK  # bytes in which the last member is found: tar fills up to 20 blocks with zeros
KEPT_OPEN = 200  # shards; of more than these, each read opens the file


class Shard(NamedTuple):
    """The name of a shard: which of how many."""

    number: int  # from 1
    total: int

    @property
    def file(self) -> str:
        """File name.

        >>> Shard(3, 24).file
        'shard-00003-of-00024.tar'
        """
        return f"shard-{self.number:05d}-of-{self.total:05d}.tar"


class Member(NamedTuple):
    """A file in a shard."""

    shard: Path
    name: str
    offset: int  # bytes
    size: int  # bytes
    sums: Sequence[int] = ()  # CRC32 of each image; audio has its hash instead

    def __str__(self) -> str:
        return f"{self.shard} ({self.name})"


class Shards:
    """All shards of a folder.

    Args:
        folder: The folder.

    Raises:
        InputError: It holds no shards or not all, or they were not written as one set.
        RunError: A shard is corrupt.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, FileIO] = {}
        self.members: dict[str, Member] = {}
        facts: dict[Path, dict[str, Any]] = {}
        for path in list_shards(folder):
            index = read_index(path)
            members = index.pop("members")
            self.members |= {name: Member(path, name, *place) for name, place in members.items()}
            facts[path] = {key: value for key, value in index.items() if key in OF_ALL}
        first, *others = facts
        for path in others:
            if facts[path] != facts[first]:
                raise InputError(
                    f"the shards {first} and {path} were written with different settings "
                    f"({_differences(facts[first], facts[path])}): keep those of one command"
                )
        self.facts = facts[first]

    @property
    def has_images(self) -> bool:
        """Whether the shards hold images, not audio."""
        return self.facts["format"] == "images"

    def audio(self, hashes: Sequence[str]) -> list[Member]:
        """Return the audio file of each recording.

        Raises:
            InputError: Some are in no shard.
        """
        found = [
            next((m for f in AUDIO_FORMATS if (m := self.members.get(f"{key}.{f}"))), None)
            for key in hashes
        ]
        self._check_found(hashes, [member is not None for member in found])
        return [member for member in found if member is not None]

    def read_audio(self, member: Member, sample_rate: int, recording: str) -> NDArray[np.float32]:
        """Read an audio file as `audio.reading.read_audio` does: (T,).

        Raises:
            RunError: It is not the expected recording.
        """
        content = self.read(member, member.offset, member.size)
        try:
            return decode_audio(content, sample_rate, recording)
        except BadAudio as error:
            raise corrupt_shard(member.shard, f"{member.name} {error}") from error

    def images(self, hashes: Sequence[str]) -> "ShardImages":
        """Return the images of some recordings.

        Raises:
            InputError: Some are in no shard.
        """
        pairs = [[self.members.get(f"{key}.{name}.npy") for name in IMAGES] for key in hashes]
        self._check_found(hashes, [None not in pair for pair in pairs])
        return ShardImages(self, hashes)

    def read(self, member: Member, offset: int, size: int) -> bytes:
        """Read bytes of a member; threads and forked processes may share the shards.

        Raises:
            RunError: They are not there.
        """
        try:
            if (file := self._open.get(member.shard)) is not None:
                content = os.pread(file.fileno(), size, offset)
            else:
                content = self._read_opened(member.shard, offset, size)
        except OSError as error:
            raise corrupt_shard(member.shard, error) from error
        if len(content) < size:
            raise corrupt_shard(member.shard, f"it ends before {member.name} does")
        return content

    def _read_opened(self, path: Path, offset: int, size: int) -> bytes:
        file = open_regular(path)
        if len(self._open) < KEPT_OPEN and self._open.setdefault(path, file) is file:
            return os.pread(file.fileno(), size, offset)
        with file:
            return os.pread(file.fileno(), size, offset)

    def _check_found(self, hashes: Sequence[str], found: Sequence[bool]) -> None:
        missing = [key for key, is_there in zip(hashes, found, strict=True) if not is_there]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(hashes)} recordings are in no shard of {self.folder}, for "
                f"example {missing[0]}: {WRITE_AGAIN}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files: a process that is not forked opens its own."""
        return {**self.__dict__, "_open": {}}


class ShardImages:
    """The images of some recordings in shards, in the place of a feature store.

    Args:
        shards: Shards of images.
        hashes: Audio hash of each recording.
    """

    def __init__(self, shards: Shards, hashes: Iterable[str]) -> None:
        self.shards = shards
        self.record: tuple[int, ...] = tuple(shards.facts["record"])
        self.rows: dict[str, range] = {}
        n_rows = 0
        for key in dict.fromkeys(hashes):
            n = len(shards.members[f"{key}.{IMAGES[0]}.npy"].sums)
            self.rows[key] = range(n_rows, n_rows + n)
            n_rows += n

    def images(self, name: str) -> "ImageRows":
        """Return the images of `cqt` or `mel`."""
        members = [self.shards.members[f"{key}.{name}.npy"] for key in self.rows]
        return ImageRows(self.shards, members, [len(r) for r in self.rows.values()], self.record)

    def statistics(self, rows: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and std of each image over some rows: 2 x ((C,), (C,)), dB."""
        return {name: mean_and_std(self.images(name), np.sort(rows)) for name in IMAGES}


class ImageRows:
    """An array (rows, C, H, W) of float16 that is read from shards when it is indexed."""

    def __init__(
        self,
        shards: Shards,
        members: Sequence[Member],
        counts: Sequence[int],
        record: Sequence[int],
    ) -> None:
        self.shards, self.members = shards, members
        self.shape = (sum(counts), *record)
        self._first = np.cumsum([0, *counts])  # row of each member
        self._n_bytes = 2 * int(np.prod(record))

    def __getitem__(self, rows: int | NDArray[np.int_]) -> NDArray[np.float16]:
        """Return some rows: (n,) -> (n, C, H, W); one row is n = 1."""
        content = b"".join(self._read(int(row)) for row in np.atleast_1d(rows))
        return np.frombuffer(bytearray(content), np.float16).reshape(-1, *self.shape[1:])

    def _read(self, row: int) -> bytes:
        i = int(np.searchsorted(self._first, row, "right")) - 1
        member = self.members[i]
        nth = row - int(self._first[i + 1])  # from the end, after the header: -1 is the last
        place = member.offset + member.size + nth * self._n_bytes
        content = self.shards.read(member, place, self._n_bytes)
        if zlib.crc32(content) != member.sums[nth]:
            raise corrupt_shard(member.shard, f"{member.name} has changed since it was written")
        return content


def list_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder, of which none is missing.

    Raises:
        InputError: There is none, one is missing, or there are several sets.
    """
    names = sorted(path.name for path in folder.glob("shard-*.tar")) if folder.is_dir() else []
    found = [match for name in names if (match := NAME.fullmatch(name))]
    if not found:
        raise InputError(f"no shards in run.shards={folder}: {WRITE}")
    totals = {int(match["total"]) for match in found}
    if len(totals) > 1:
        raise InputError(
            f"{folder} holds shards of {' and of '.join(map(str, sorted(totals)))}: keep one set"
        )
    total = totals.pop()
    numbers = {int(match["number"]) for match in found}
    if missing := [i for i in range(1, total + 1) if i not in numbers]:
        shown = ", ".join(map(str, missing[:10])) + ", ..." * (len(missing) > 10)
        raise InputError(
            f"{len(missing)} of {total} shards are missing in {folder} ({shown}): write them with "
            f"`python -m scripts.write_shards ... --shard {missing[0]}/{total}`"
        )
    return [folder / name for name in names if NAME.fullmatch(name)]


def image_sums(content: bytes, record: Sequence[int]) -> list[int]:
    """Return the CRC32 of each image of a .npy file.

    Args:
        content: The file: a header that is shorter than an image, then images of float16.
        record: Shape of an image, (C, H, W).
    """
    n_bytes = 2 * int(np.prod(record))
    starts = range(len(content) % n_bytes, len(content), n_bytes)
    return [zlib.crc32(content[start : start + n_bytes]) for start in starts]


def read_index(path: Path) -> dict[str, Any]:
    """Read the index of a shard: its facts, and `members`, {name: (offset, size, sums)}.

    `sums` holds the CRC32 of each image; of audio there is none.

    Raises:
        RunError: The shard is corrupt, cut short or of another version.
    """
    try:
        with open_regular(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            tail = os.pread(file.fileno(), TAIL, max(0, n_bytes - TAIL)).rstrip(b"\0")
            last = json.loads(tail[(len(tail) - 1) // BLOCK * BLOCK :])
            offset, size = last["index"]
            if not 0 < size <= MAX_TABLE:
                raise ValueError(f"its index has {size} bytes")
            index = json.loads(os.pread(file.fileno(), size, offset))
        if index["version"] != VERSION:
            raise ValueError(f"it is of version {index['version']}, where {VERSION} is read")
        if missing := [key for key in OF_ALL if key not in index]:
            raise ValueError(f"no {', '.join(missing)} in its index")
        places = index["members"].values()
        if not all(0 < at and 0 < length and at + length <= n_bytes for at, length, _ in places):
            raise ValueError("its index names places outside of it")
        of_image = int(2 * np.prod(index["record"] if index["format"] == "images" else n_bytes))
        if not all(length // max(1, of_image) == len(sums) for _, length, sums in places):
            raise ValueError("its index has another number of CRC32 than of images")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt_shard(path, error) from error
    return index


def corrupt_shard(path: Path, reason: object) -> RunError:
    """Build the error for a shard that cannot be read."""
    if isinstance(reason, KeyError | TypeError | AttributeError | RecursionError):
        reason = "its last member is not the place of its index"
    return RunError(
        f"the shard {path} is corrupt or cut short ({reason}): remove it, {WRITE_AGAIN}, and run "
        "the same command again"
    )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {one[key]}, {other[key]}" for key in one if one[key] != other[key])


# Facts that all shards of a set share
OF_ALL = ("version", "format", "certificate", "protocol", "features", "record", "total")
WRITE = "write them with `python -m scripts.write_shards --config CONFIG --to FOLDER`"
WRITE_AGAIN = "write it again with `python -m scripts.write_shards`"
