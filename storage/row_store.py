"""Rows by audio hash: files of records of one size, and an index that says whose they are.

A store is a folder named after everything that decides a record. Its data files hold the records
of all recordings, one or more for each, and `index.json` has one line for each recording: its
audio hash and rows. Records are synced before the lines that name them are appended, so an
interrupted build resumes from the last whole line.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from tqdm import tqdm

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

INDEX = "index.json"
SETTINGS = "settings.json"
TO_BE_REWRITTEN = -1  # bytes of an index whose lines are not those of the rows in memory
COMMIT_EVERY = 64  # recordings between two writes to the index
COMMIT_BYTES = 64e6  # of their files: long ones have many rows, all in memory until then
BYTE_RATE = 96_000  # bytes/s of a segment, about: 16 bits at 48 kHz

Item = tuple[str, AudioSource]  # audio hash, and what to read


class RowStore:
    """Records by audio hash; a subclass computes them and knows their shapes.

    Args:
        root: Folder that holds all stores.
        prefix: Begins the name of the store's folder.
        described: Everything that decides a record, as JSON; its hash names the folder.
        names: Data files; each has one record for each row.
        record: Shape of a record.
        dtype: Type of its numbers.
        title: What is computed, for progress and messages.

    Attributes:
        rows: Rows of each recording, by audio hash.
        record_bytes: Bytes of a record.

    Raises:
        RunError: The files in the store's folder cannot be read.
    """

    def __init__(
        self,
        root: Path,
        prefix: str,
        described: dict[str, Any],
        names: Sequence[str],
        record: tuple[int, ...],
        dtype: DTypeLike,
        title: str,
    ) -> None:
        self.record = record
        self._described, self._names, self._title = described, names, title
        self._dtype = np.dtype(dtype)
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = root / f"{prefix}{key}"
        self.record_bytes = self._dtype.itemsize * int(np.prod(record))
        self.rows: dict[str, range] = {}
        self._n_rows = 0  # in the data files, as far as the index names them
        self._index_bytes = 0  # of the index, as it was read or written
        self._check_settings()
        self._read_index()

    def emptied(self, root: Path) -> Self:
        """Return a store of such records in another folder, where there are none."""
        other = copy(self)
        other.folder = root / self.folder.name
        other.rows, other._n_rows, other._index_bytes = {}, 0, 0
        return other

    def build(self, sources: Mapping[str, AudioSource], workers: int) -> dict[AudioSource, str]:
        """Compute the missing rows; a second builder waits for the first.

        Args:
            sources: {audio hash: file or segment}; opened only if its rows are missing.
            workers: Number of threads; 0 or 1 uses the caller's alone.

        Returns:
            {source: reason} of those that are not usable audio or have changed since they were
            indexed; the rows of all others are in the store.

        Raises:
            RunError: The folder cannot be written; finished rows are kept.
        """
        if all(key in self.rows for key in sources):
            return {}
        make_folder(self.folder.parent)
        make_folder(self.folder, inside=self.folder.parent)
        if not (self.folder / SETTINGS).exists():
            write_json(self.folder / SETTINGS, self._described)
        with self._locked():
            self._read_index()
            self._write_index({})  # lost rows leave the index before they are reused
            missing = [item for item in sources.items() if item[0] not in self.rows]
            missing.sort(key=lambda item: _size(item[1]))  # like lengths share what is prepared
            bad: dict[AudioSource, str] = {}
            with progress_bar(len(missing), self._title, "file", hidden=not missing) as bar:
                for chunk in _chunks_to_commit(missing):
                    self._build_chunk(chunk, workers, bad, bar)
            return bad

    def _build_chunk(
        self, chunk: Sequence[Item], workers: int, bad: dict[AudioSource, str], bar: tqdm
    ) -> None:
        """Compute the rows of a chunk and append them; add unusable files to `bad`."""
        raise NotImplementedError

    def _mapped(self, name: str) -> NDArray[Any]:
        """Return a data file, memory-mapped: (rows, *record).

        Raises:
            RunError: The file was removed or cut short; what is already mapped stays valid.
        """
        shape = (self._n_rows, *self.record)
        try:
            with open_regular(self._data_file(name)) as file:
                return np.memmap(file, self._dtype, "r", shape=shape)  # type: ignore[call-overload]
        except (OSError, ValueError) as error:  # ValueError: it is shorter than its rows
            raise corrupt_file(self._data_file(name), error, self.folder) from error

    def _append(self, computed: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> None:
        """Write records after the last row in the index, then the index.

        Args:
            computed: Audio hashes, and the records of each data file: (n, *record) each.
        """
        first = self._n_rows
        start = first * self.record_bytes
        try:
            for v, name in enumerate(self._names):
                file = self._data_file(name)
                self._write_records(file, start, [records[v] for _, records in computed])
        except OSError as error:
            for name in self._names:
                _cut_back(self._data_file(name), start)
            needs = sum(part.nbytes for _, records in computed for part in records)
            what = f"cannot write {file} of the feature store"
            raise disk_error(what, self.folder, error, needs, "Finished rows are kept") from error
        new: dict[str, range] = {}
        for key, records in computed:
            new[key] = range(first, first + len(records[0]))
            first = new[key].stop
        self._write_index(new)

    def _write_records(self, path: Path, start: int, records: Sequence[NDArray[Any]]) -> None:
        """Write records from a byte on and sync them: the index must never be ahead of them."""
        with open_owned(path, "r+b") as file:
            if file.seek(0, os.SEEK_END) < start:  # the gap would read as zeros
                raise corrupt_file(path, "it lost rows during the build", self.folder)
            file.seek(start)
            for of_one in records:  # not joined: frames of an hour fit in memory once
                write_all(file, np.ascontiguousarray(of_one).view(np.uint8).data)
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
        sizes = [f.stat().st_size if f.exists() else 0 for f in map(self._data_file, self._names)]
        n_complete = min(sizes) // self.record_bytes
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
        """Refuse a folder that was moved here by hand: its rows have other settings."""
        file = self.folder / SETTINGS
        if file.exists() and read_json(file) != json.loads(json.dumps(self._described)):
            raise corrupt_file(file, "its rows were made with other settings", self.folder)

    def _data_file(self, name: str) -> Path:
        return self.folder / f"{name}.f{8 * self._dtype.itemsize}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the data files and hold the store's lock."""
        try:
            for path in map(self._data_file, self._names):
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
