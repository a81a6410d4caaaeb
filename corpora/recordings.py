"""Index of recordings: facts, audio hashes and fingerprints, cached by file SHA-256."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_STORED

import numpy as np
from numpy.typing import NDArray

from audio.description import RecordingFacts
from audio.reading import BadAudio, Recording, in_parallel, inspect_audio
from system.files import atomic_write, corrupt_file, make_folder
from system.output import progress_bar

FILE = "recordings-4.npz"  # 4: raised when a `Recording`, or what counts as usable, changes
FACTS = {"seconds": "f", "rate": "i", "level": "f", "bandwidth": "f"}  # of `RecordingFacts`
KINDS = {"sha256": "U", "hash": "U", **FACTS, "lengths": "i", "words": "u"}  # of columns
SHOW_PROGRESS = 1000  # files and more get a progress bar
SAVE_EVERY = 1000  # files


def index_audio(
    paths: Sequence[Path], workers: int, folder: Path, keep: bool = False
) -> tuple[dict[Path, Recording], dict[Path, str]]:
    """Inspect audio files; those whose bytes are in the saved index are not decoded again.

    Args:
        paths: Audio files, each opened once.
        workers: Number of threads; 0 or 1 uses the caller's alone.
        folder: Folder of the index that `save_index` wrote; need not exist.
        keep: Save the index there, also if this call is interrupted.

    Returns:
        {path: recording} of the usable files and {path: reason} of the others.

    Raises:
        RunError: The saved index is corrupt, or it cannot be written.
    """
    known = _load(folder / FILE)
    recordings: dict[Path, Recording] = {}
    bad: dict[Path, str] = {}
    inspected = in_parallel(lambda path: inspect_audio(path, known), paths, workers)
    quiet = len(paths) < SHOW_PROGRESS
    try:
        with progress_bar(len(paths), "index audio", "file", hidden=quiet) as bar:
            for n, (path, result) in enumerate(inspected, start=1):
                if isinstance(result, BadAudio):
                    bad[path] = str(result)
                else:
                    recordings[path] = result
                if keep and n % SAVE_EVERY == 0:
                    save_index(recordings.values(), folder)
                bar.update()
    finally:
        if keep:
            save_index(recordings.values(), folder)
    return recordings, bad


def save_index(recordings: Iterable[Recording], folder: Path) -> None:
    """Add recordings to the index in a folder.

    Raises:
        RunError: It cannot be written; nothing was changed.
    """
    known = _load(folder / FILE)
    n_known = len(known)
    known |= {recording.file: recording for recording in recordings}
    if len(known) > n_known:
        make_folder(folder)
        _save(folder / FILE, known)


def _load(path: Path) -> dict[str, Recording]:
    """Read the index: {SHA-256 of a file: recording}."""
    if not path.exists():
        return {}
    try:
        columns = _read_columns(path)
        lengths, words = columns["lengths"], columns["words"]
        if (lengths < 0).any() or lengths.sum() != len(words):
            raise ValueError("its lengths do not add up to its words")
        split_words = np.split(words, np.cumsum(lengths)[:-1])  # per recording
        facts = zip(*(columns[name].tolist() for name in FACTS), strict=True)
        rows = zip(columns["hash"], facts, split_words, columns["sha256"], strict=True)
        recordings = [Recording(str(h), RecordingFacts(*f), w, str(file)) for h, f, w, file in rows]
        return {recording.file: recording for recording in recordings}
    except Exception as error:  # archive, header and array each fail in ways of their own
        raise corrupt_file(path, error) from error


def _read_columns(path: Path) -> dict[str, NDArray]:
    """Read the arrays; uncompressed, they take no more memory than the file says."""
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with np.load(path, allow_pickle=False) as archive:
        if any(entry.compress_type != ZIP_STORED for entry in archive.zip.infolist()):
            raise ValueError("it is compressed")
        columns = {name: archive[name] for name in KINDS}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind != KINDS[name]:
            raise ValueError(f"{name} is {column.dtype} of shape {column.shape}")
        if name in FACTS and not np.isfinite(column).all():
            raise ValueError(f"{name} is not finite")
    return columns


def _save(path: Path, known: Mapping[str, Recording]) -> None:
    """Write the whole index; if two processes write at once, the last one's file stays, intact."""
    recordings = list(known.values())
    columns = {
        "sha256": np.array(list(known)),
        "hash": np.array([recording.hash for recording in recordings]),
        **{n: np.array([getattr(one.facts, n) for one in recordings]) for n in FACTS},
        "lengths": np.array([len(recording.words) for recording in recordings]),
        "words": np.concatenate([recording.words for recording in recordings]),
    }
    needs = sum(column.nbytes for column in columns.values())
    with atomic_write(path, needs) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]
