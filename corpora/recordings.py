"""Which recordings a corpus holds: every file is heard once and known again by its bytes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_STORED

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audio.reading import BadAudio, Recording, hash_file, in_parallel, inspect_audio
from system.files import atomic_write, corrupt_file, make_folder

FILE = "recordings-2.npz"  # 2: what is usable, and what a `Recording` is; raised when that changes
COLUMNS = {"sha256": "U", "hash": "U", "seconds": "f", "lengths": "i", "words": "u"}  # and types
SHOW_PROGRESS = 1000  # files
KEEP_EVERY = 1000  # files


def index_audio(
    paths: Sequence[Path], workers: int, folder: Path, keep: bool = False
) -> tuple[dict[Path, Recording], dict[Path, str]]:
    """Return {path: recording} of the files, and {path: reason} of those that cannot be used.

    Args:
        paths: Audio files.
        workers: Threads; 0 or 1 is none beside the caller's.
        folder: Where `remember` wrote what was heard before.
        keep: Remember there what is heard now, also where this is broken off.

    Raises:
        RunError: What is kept there is corrupt, or nothing can be kept there.
    """
    known = _load(folder / FILE)

    def hear_one(path: Path) -> Recording:
        return known.get(hash_file(path)) or inspect_audio(path)

    recordings: dict[Path, Recording] = {}
    bad: dict[Path, str] = {}
    heard = in_parallel(hear_one, paths, workers)
    quiet = len(paths) < SHOW_PROGRESS
    try:
        bar = tqdm(heard, "audio", len(paths), unit="clip", disable=quiet)
        for n, (path, result) in enumerate(bar, start=1):
            if isinstance(result, BadAudio):
                bad[path] = str(result)
            else:
                recordings[path] = result
            if keep and n % KEEP_EVERY == 0:
                save_index(recordings.values(), folder)
    finally:
        if keep:
            save_index(recordings.values(), folder)
    return recordings, bad


def save_index(recordings: Iterable[Recording], folder: Path) -> None:
    """Keep what was heard for the next time, by the hash of each file's bytes.

    Raises:
        RunError: It cannot be written; nothing was changed.
    """
    known = _load(folder / FILE)
    n_known = len(known)
    known |= {one.file: one for one in recordings}
    if len(known) > n_known:
        make_folder(folder)
        _save(folder / FILE, known)


def _load(path: Path) -> dict[str, Recording]:
    if not path.exists():
        return {}
    try:
        kept = _columns(path)
        lengths, words = kept["lengths"], kept["words"]
        if (lengths < 0).any() or lengths.sum() != len(words):
            raise ValueError("its lengths are not those of its words")
        each = np.split(words, np.cumsum(lengths)[:-1])
        rows = zip(kept["hash"], kept["seconds"], each, kept["sha256"], strict=True)
        found = [Recording(str(h), float(s), w, str(file)) for h, s, w, file in rows]
        return {one.file: one for one in found}
    except Exception as error:  # packing, header and array each fail in ways of their own
        raise corrupt_file(path, error) from error


def _columns(path: Path) -> dict[str, NDArray]:
    """Read the arrays, which take no more memory than the file: it is not packed."""
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with np.load(path, allow_pickle=False) as kept:
        if any(one.compress_type != ZIP_STORED for one in kept.zip.infolist()):
            raise ValueError("it is packed")
        columns = {name: kept[name] for name in COLUMNS}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind != COLUMNS[name]:
            raise ValueError(f"{name} is {column.dtype} of shape {column.shape}")
    return columns


def _save(path: Path, known: Mapping[str, Recording]) -> None:
    """Write all; of two processes that write at once the last one's file stays, and is whole."""
    heard = list(known.values())
    columns = {
        "sha256": np.array(list(known)),
        "hash": np.array([one.hash for one in heard]),
        "seconds": np.array([one.seconds for one in heard]),
        "lengths": np.array([len(one.words) for one in heard]),
        "words": np.concatenate([one.words for one in heard]),
    }
    needs = sum(column.nbytes for column in columns.values())
    with atomic_write(path, needs) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]
