"""The feature store: each clip's two images, computed once, memory-mapped, shared by all runs.

A store is a folder named after everything that shapes a image: front-end version and settings.
In it `cqt.f16` and `mel.f16` hold one record a clip, or one a crop where images have a fixed
length, and `index.json` says which audio (by the hash of its bytes) lies in which rows. Records are
written before the index that names them is renamed into place, so a build that is interrupted
continues from the last index.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from audio.reading import BadAudio, in_parallel, read_audio
from features import FRONT_END_VERSION, SpectrogramImages
from system.files import corrupt_file, disk_error, make_folder, read_json, write_all, write_json
from system.locks import lock

VIEWS = ("cqt", "mel")
COMMIT_EVERY = 64  # clips between two writes of the index
COMMIT_BYTES = 64e6  # of their files: long clips have many crops, and all are held till then


class FeatureStore:
    """Images by audio hash.

    Args:
        root: Folder of all stores.
        settings: Arguments of `SpectrogramImages`; with the front-end version they name the store.

    Raises:
        InputError: The settings contradict each other.
        RunError: What is in the folder cannot be read.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self._described = {"front_end_version": FRONT_END_VERSION, **settings}
        key = hashlib.sha256(json.dumps(self._described, sort_keys=True).encode()).hexdigest()[:16]
        self.settings, self.folder = dict(settings), root / key
        self._images = SpectrogramImages(**settings)
        size = self._images.image_size
        self.record = (self._images.n_channels, size, size)  # (C, H, W)
        self.rows: dict[str, range] = {}
        self._check_settings()
        self._read_index()

    def build(self, paths: Mapping[str, Path], workers: int) -> dict[Path, str]:
        """Compute the images that are missing; a second builder waits for the first.

        Args:
            paths: {audio hash: file}.
            workers: Threads; 0 or 1 is none beside the caller's.

        Returns:
            {path: reason} of files that are not usable audio, or not the recordings that they
            were; all others are in the store.

        Raises:
            RunError: The folder cannot be written; what was finished is kept.
        """
        if all(key in self.rows for key in paths):
            return {}
        make_folder(self.folder)
        if not (self.folder / "settings.json").exists():
            write_json(self.folder / "settings.json", self._described)
        with self._locked():
            self._read_index()
            self._write_index(self.rows)  # rows lost are unnamed before their places are reused
            missing = [(key, path) for key, path in paths.items() if key not in self.rows]
            missing.sort(key=lambda item: _size(item[1]))  # clips of like length share CQT kernels
            bad: dict[Path, str] = {}
            bar = tqdm(total=len(missing), desc="features", unit="clip", disable=not missing)
            with bar, _torch_threads(1 if workers > 1 else torch.get_num_threads()):
                for chunk in _commits(missing):
                    self._build_chunk(chunk, workers, bad, bar)
            return bad

    def view(self, name: str) -> NDArray[np.float16]:
        """Return the memory-mapped images of `cqt` or `mel`: (rows, C, H, W).

        Raises:
            RunError: They were removed or cut short; what is mapped stays.
        """
        shape = (self._n_rows(), *self.record)
        try:
            return np.memmap(self._data_file(name), np.float16, "r", shape=shape)
        except (OSError, ValueError) as error:  # ValueError: it is shorter than its rows
            raise corrupt_file(self._data_file(name), error, self.folder) from error

    def statistics(self, rows: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and std of each view over some rows: 2 x ((C,), (C,)), dB."""
        return {name: _mean_and_std(self.view(name), np.sort(rows)) for name in VIEWS}

    def _build_chunk(
        self, chunk: Sequence[tuple[str, Path]], workers: int, bad: dict[Path, str], bar: tqdm
    ) -> None:
        computed: list[tuple[str, list[NDArray]]] = []

        def compute(item: tuple[str, Path]) -> list[NDArray]:
            key, path = item
            waveform = torch.from_numpy(read_audio(path, self._images.input_rate, key))
            with torch.inference_mode():
                pair = self._images(self._images.cut(waveform))
            return [images.to(torch.float16).numpy() for images in pair]  # 2 x (n, C, H, W)

        for (key, path), result in in_parallel(compute, chunk, workers):
            bar.update()
            if isinstance(result, BadAudio):
                bad[path] = str(result)
            else:
                computed.append((key, result))
        self._append(computed)

    def _append(self, computed: Sequence[tuple[str, Sequence[NDArray]]]) -> None:
        """Write records behind the last row that the index names, then the index."""
        first = self._n_rows()
        start = first * self._record_bytes
        try:
            for v, name in enumerate(VIEWS):
                file = self._data_file(name)
                self._write_records(file, start, [images[v] for _, images in computed])
        except OSError as error:
            for name in VIEWS:
                _cut_back(self._data_file(name), start)
            needs = sum(view.nbytes for _, images in computed for view in images)
            what = f"cannot write {file} of the feature store"
            raise disk_error(
                what, self.folder, error, needs, "What was finished is kept"
            ) from error
        rows = dict(self.rows)
        for key, images in computed:
            rows[key] = range(first, first + len(images[0]))
            first = rows[key].stop
        self._write_index(rows)

    def _write_records(self, file: Path, start: int, records: Sequence[NDArray]) -> None:
        """Write records from a byte on and sync them: the index must never be ahead of them."""
        with file.open("r+b", buffering=0) as there:
            if there.seek(0, os.SEEK_END) < start:  # rows that others read would become zeros
                raise corrupt_file(file, "rows of it went meanwhile", self.folder)
            there.seek(start)
            write_all(there, b"".join(record.tobytes() for record in records))
            there.truncate()
            os.fsync(there.fileno())

    def _n_rows(self) -> int:
        return max((rows.stop for rows in self.rows.values()), default=0)

    def _write_index(self, rows: dict[str, range]) -> None:
        places = {key: [place.start, place.stop] for key, place in rows.items()}
        write_json(self.folder / "index.json", places)
        self.rows = rows

    def _read_index(self) -> None:
        """Read the index; rows that the data files do not hold whole count as missing."""
        index = self.folder / "index.json"
        if not index.exists():
            return
        sizes = [f.stat().st_size if f.exists() else 0 for f in map(self._data_file, VIEWS)]
        whole = min(sizes) // self._record_bytes
        try:
            places = {key: _rows(*place) for key, place in read_json(index).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise corrupt_file(index, f"rows are not as written: {error}", self.folder) from error
        self.rows = {key: rows for key, rows in places.items() if rows.stop <= whole}

    def _check_settings(self) -> None:
        """Refuse a folder that was put here by hand: its images are others."""
        file = self.folder / "settings.json"
        if file.exists() and read_json(file) != json.loads(json.dumps(self._described)):
            raise corrupt_file(file, "its images were made with other settings", self.folder)

    @property
    def _record_bytes(self) -> int:
        return 2 * int(np.prod(self.record))  # float16

    def _data_file(self, view: str) -> Path:
        return self.folder / f"{view}.f16"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            for path in map(self._data_file, VIEWS):
                path.touch()
        except OSError as error:
            raise disk_error(f"cannot open {path} to write", self.folder, error) from error
        with lock(self.folder / "lock", f"the feature store {self.folder}", blocking=True):
            yield


def _rows(first: int, stop: int) -> range:
    """Return the rows of a clip.

    >>> _rows(2, 4)
    range(2, 4)
    """
    if not 0 <= first < stop:
        raise ValueError(f"{first} to {stop}")
    return range(first, stop)


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 if it is out of reach: reading it will say so."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _cut_back(file: Path, size: int) -> None:
    """Give back the room of what was not written to its end; never lengthen a file by zeros."""
    with suppress(OSError):  # of a lost disk; the first error is the one to tell
        if file.stat().st_size > size:
            os.truncate(file, size)


def _commits(missing: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    """Cut what is missing into what is computed between two writes of the index."""
    chunk: list[tuple[str, Path]] = []
    total = 0
    for key, path in missing:
        total += _size(path)
        if chunk and (len(chunk) == COMMIT_EVERY or total > COMMIT_BYTES):
            yield chunk
            chunk, total = [], _size(path)
        chunk.append((key, path))
    if chunk:
        yield chunk


def _chunks(items: Sequence) -> Iterator[Sequence]:
    return (items[i : i + COMMIT_EVERY] for i in range(0, len(items), COMMIT_EVERY))


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mean_and_std(images: NDArray, rows: NDArray) -> tuple[Tensor, Tensor]:
    """Add up in float64, a few records at a time: the store may be larger than memory."""
    total = squares = np.zeros(images.shape[1])  # (C,)
    for some in _chunks(rows.tolist()):
        block = images[some].astype(np.float64)  # (b, C, H, W)
        total = total + block.sum((0, 2, 3))
        squares = squares + np.square(block).sum((0, 2, 3))
    n = len(rows) * images.shape[2] * images.shape[3]
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 1e-6))  # a corpus of silence has no spread
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
