"""The feature store: the two images of each recording, computed once, shared by all runs.

A store is a folder named after everything that decides a pixel: version and settings of the front
end. In it `cqt.f16` and `mel.f16` hold one record per recording, or one per crop where images show
crops of a fixed length. `index.json` has one line for each recording: its audio hash and rows.
Records are synced before the lines that name them are appended, so an interrupted build resumes
from the last whole line.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from audio.parallel import in_parallel
from audio.reading import BadAudio, read_audio
from audio.segment import AudioSource, as_segment
from storage.store_index import index_lines, is_of_older_version, read_rows
from system.files import (
    MAX_TABLE,
    append,
    corrupt_file,
    disk_error,
    make_folder,
    read_json,
    read_text,
    write_all,
    write_json,
    write_text,
)
from system.locks import lock
from system.output import progress_bar
from system.owned import open_owned
from system.regular import open_regular

IMAGES = ("cqt", "mel")
INDEX = "index.json"
TO_BE_REWRITTEN = -1  # bytes of an index whose lines are not those of the rows in memory
COMMIT_EVERY = 64  # recordings between two writes to the index
COMMIT_BYTES = 64e6  # of their files: long ones have many crops, all in memory until then
BYTE_RATE = 96_000  # bytes/s of a segment, about: 16 bits at 48 kHz

Item = tuple[str, AudioSource]  # audio hash, and what to read


class FrontEnd(Protocol):
    """What computes images, as `features.SpectrogramImages` does."""

    version: int  # raised when equal settings give other images
    settings: dict[str, Any]
    input_rate: int  # Hz of the waveforms

    @property
    def record(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""

    def cut(self, waveform: Tensor) -> Tensor:
        """Cut a recording into its crops: (T,) -> (n, t)."""

    def __call__(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CQT and Mel images of crops: (n, t) -> 2 x (n, C, H, W)."""


class FeatureStore:
    """Images by audio hash.

    Args:
        root: Folder that holds all stores.
        front_end: Computes the images; its version and settings name the store's folder.

    Raises:
        RunError: The files in the store's folder cannot be read.
    """

    def __init__(self, root: Path, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self.settings, self.record = front_end.settings, front_end.record
        self._described = {"front_end_version": front_end.version, **front_end.settings}
        key = hashlib.sha256(json.dumps(self._described, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = root / key
        self._record_bytes = 2 * int(np.prod(self.record))  # float16
        self.rows: dict[str, range] = {}
        self._n_rows = 0  # in the data files, as far as the index names them
        self._index_bytes = 0  # of the index, as it was read or written
        self._check_settings()
        self._read_index()

    def build(self, sources: Mapping[str, AudioSource], workers: int) -> dict[AudioSource, str]:
        """Compute the missing images; a second builder waits for the first.

        Args:
            sources: {audio hash: file or segment}; opened only if its images are missing.
            workers: Number of threads; 0 or 1 uses the caller's alone.

        Returns:
            {source: reason} of those that are not usable audio or have changed since they were
            indexed; the images of all others are in the store.

        Raises:
            RunError: The folder cannot be written; finished images are kept.
        """
        if all(key in self.rows for key in sources):
            return {}
        make_folder(self.folder.parent)
        make_folder(self.folder, inside=self.folder.parent)
        if not (self.folder / "settings.json").exists():
            write_json(self.folder / "settings.json", self._described)
        with self._locked():
            self._read_index()
            self._write_index({})  # lost rows leave the index before they are reused
            missing = [item for item in sources.items() if item[0] not in self.rows]
            missing.sort(key=lambda item: _size(item[1]))  # like lengths share CQT kernels
            bad: dict[AudioSource, str] = {}
            bar = progress_bar(len(missing), "features", "file", hidden=not missing)
            with bar, _torch_threads(1 if workers > 1 else torch.get_num_threads()):
                for chunk in _chunks_to_commit(missing):
                    self._build_chunk(chunk, workers, bad, bar)
            return bad

    def images(self, name: str) -> NDArray[np.float16]:
        """Return the memory-mapped images of `cqt` or `mel`: (rows, C, H, W).

        Raises:
            RunError: The file was removed or cut short; images that are already mapped stay valid.
        """
        shape = (self._n_rows, *self.record)
        try:
            with open_regular(self._data_file(name)) as file:
                return np.memmap(file, np.float16, "r", shape=shape)  # type: ignore[call-overload]
        except (OSError, ValueError) as error:  # ValueError: it is shorter than its rows
            raise corrupt_file(self._data_file(name), error, self.folder) from error

    def statistics(self, rows: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and std of each image over some rows: 2 x ((C,), (C,)), dB."""
        return {name: mean_and_std(self.images(name), np.sort(rows)) for name in IMAGES}

    def compute(self, item: Item) -> list[NDArray]:
        """Return the images of (audio hash, file or segment): 2 x (n, C, H, W), float16."""
        key, source = item
        waveform = torch.from_numpy(read_audio(source, self._front_end.input_rate, key))
        with torch.inference_mode():
            pair = self._front_end(self._front_end.cut(waveform))
        return [images.to(torch.float16).numpy() for images in pair]

    def _build_chunk(
        self,
        chunk: Sequence[Item],
        workers: int,
        bad: dict[AudioSource, str],
        bar: tqdm,
    ) -> None:
        """Compute the images of a chunk and commit them; add unusable files to `bad`."""
        computed: list[tuple[str, list[NDArray]]] = []
        for (key, source), result in in_parallel(self.compute, chunk, workers):
            bar.update()
            if isinstance(result, BadAudio):
                bad[source] = str(result)
            else:
                computed.append((key, result))
        self._append(computed)

    def _append(self, computed: Sequence[tuple[str, Sequence[NDArray]]]) -> None:
        """Write records after the last row in the index, then the index."""
        first = self._n_rows
        start = first * self._record_bytes
        try:
            for v, name in enumerate(IMAGES):
                file = self._data_file(name)
                self._write_records(file, start, [images[v] for _, images in computed])
        except OSError as error:
            for name in IMAGES:
                _cut_back(self._data_file(name), start)
            needs = sum(image.nbytes for _, images in computed for image in images)
            what = f"cannot write {file} of the feature store"
            raise disk_error(what, self.folder, error, needs, "Finished images are kept") from error
        new: dict[str, range] = {}
        for key, images in computed:
            new[key] = range(first, first + len(images[0]))
            first = new[key].stop
        self._write_index(new)

    def _write_records(self, path: Path, start: int, records: Sequence[NDArray]) -> None:
        """Write records from a byte on and sync them: the index must never be ahead of them."""
        with open_owned(path, "r+b") as file:
            if file.seek(0, os.SEEK_END) < start:  # the gap would read as zeros
                raise corrupt_file(path, "it lost rows during the build", self.folder)
            file.seek(start)
            write_all(file, b"".join(record.tobytes() for record in records))
            file.truncate()
            os.fsync(file.fileno())

    def _write_index(self, new: Mapping[str, range]) -> None:
        """Append lines to the index; write it anew if it is not what was read or written last."""
        index, lines = self.folder / INDEX, index_lines(new)
        n_bytes = index.stat().st_size if index.exists() else 0
        if n_bytes != self._index_bytes:  # torn, with lost rows, removed or of an older version
            lines = index_lines({**self.rows, **new})
            write_text(index, lines)
            n_bytes = 0
        elif new:
            append(index, lines.encode())
        self._index_bytes = n_bytes + len(lines)
        self._take(new)

    def _read_index(self) -> None:
        """Read the index; rows that the data files do not hold completely count as missing."""
        index = self.folder / INDEX
        if not index.exists():
            return
        sizes = [f.stat().st_size if f.exists() else 0 for f in map(self._data_file, IMAGES)]
        n_complete = min(sizes) // self._record_bytes
        try:
            text = read_text(index, MAX_TABLE, errors="replace")  # a torn end may be anything
        except (OSError, ValueError) as error:
            raise corrupt_file(index, error) from error
        try:
            rows = read_rows(text)
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise corrupt_file(index, f"rows are not as written: {error}", self.folder) from error
        self.rows, self._n_rows = {}, 0
        self._take({key: place for key, place in rows.items() if place.stop <= n_complete})
        is_whole = len(self.rows) == len(rows) and not is_of_older_version(text)
        self._index_bytes = text.rfind("\n") + 1 if is_whole else TO_BE_REWRITTEN

    def _take(self, rows: Mapping[str, range]) -> None:
        """Add rows to those in memory."""
        self.rows.update(rows)
        self._n_rows = max([self._n_rows, *(place.stop for place in rows.values())])

    def _check_settings(self) -> None:
        """Refuse a folder that was moved here by hand: its images have other settings."""
        file = self.folder / "settings.json"
        if file.exists() and read_json(file) != json.loads(json.dumps(self._described)):
            raise corrupt_file(file, "its images were made with other settings", self.folder)

    def _data_file(self, image: str) -> Path:
        return self.folder / f"{image}.f16"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the data files and hold the store's lock."""
        try:
            for path in map(self._data_file, IMAGES):
                open_owned(path, "a+b").close()
        except OSError as error:
            raise disk_error(f"cannot open {path} to write", self.folder, error) from error
        with lock(self.folder / "lock", f"the feature store {self.folder}", blocking=True):
            yield


def _size(source: AudioSource) -> float:
    """Return about the bytes of a recording, 0 if it cannot be reached: reading it will say why."""
    segment = as_segment(source)
    try:
        n_bytes = segment.path.stat().st_size
    except OSError:
        return 0
    return (
        n_bytes if segment.end is None else min(n_bytes, BYTE_RATE * (segment.end - segment.start))
    )


def _cut_back(file: Path, size: int) -> None:
    """Free the space of an unfinished write; never lengthen a file with zeros."""
    with suppress(OSError):  # on a lost disk the first error is the one to report
        if file.stat().st_size > size:
            os.truncate(file, size)


def _chunks_to_commit(missing: Sequence[Item]) -> Iterator[list[Item]]:
    """Split the missing recordings into what is computed between two writes of the index."""
    chunk: list[Item] = []
    total = 0.0  # bytes
    for item in missing:
        total += _size(item[1])
        if chunk and (len(chunk) == COMMIT_EVERY or total > COMMIT_BYTES):
            yield chunk
            chunk, total = [], _size(item[1])
        chunk.append(item)
    if chunk:
        yield chunk


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mean_and_std(images: Any, rows: NDArray) -> tuple[Tensor, Tensor]:
    """Return mean and std of rows of an array, added up in float64, a few at a time: 2 x (C,)."""
    total = squares = np.zeros(images.shape[1])  # (C,)
    for start in range(0, len(rows), COMMIT_EVERY):
        block = images[rows[start : start + COMMIT_EVERY]].astype(np.float64)  # (b, C, H, W)
        total = total + block.sum((0, 2, 3))
        squares = squares + np.square(block).sum((0, 2, 3))
    return moments(len(rows) * images.shape[2] * images.shape[3], total, squares)


def moments(n: int, total: NDArray, squares: NDArray) -> tuple[Tensor, Tensor]:
    """Return mean and std of n pixels from their sum and the sum of their squares: 2 x (C,)."""
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 1e-6))  # constant images have none
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
