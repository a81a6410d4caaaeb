"""Index of recordings: facts, audio hashes and fingerprints, cached by file and segment."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_STORED

import numpy as np
from numpy.typing import NDArray

from audio.description import RecordingFacts
from audio.parallel import in_parallel
from audio.reading import BadAudio, Recording, inspect_audio, inspect_segments
from audio.segment import AudioSource, as_segment
from system.files import atomic_write, corrupt_file, make_folder
from system.output import progress_bar

FILE = "recordings-5.npz"  # 5: raised when a `Recording`, or what counts as usable, changes
FACTS = {"seconds": "f", "rate": "i", "level": "f", "bandwidth": "f"}  # of `RecordingFacts`
KINDS = {"sha256": "U", "hash": "U", **FACTS, "lengths": "i", "words": "u"}  # of columns
SHOW_PROGRESS = 1000  # files and more get a progress bar
SAVE_EVERY = 1000  # files, then half of those so far: what is written grows as the index does


def index_audio(
    sources: Sequence[AudioSource], workers: int, folder: Path, keep: bool = False
) -> tuple[dict[AudioSource, Recording], dict[AudioSource, str]]:
    """Inspect audio files; those whose bytes are in the saved index are not decoded again.

    Args:
        sources: Audio files and segments of them; each file is opened once.
        workers: Number of threads; 0 or 1 uses the caller's alone.
        folder: Folder of the index that `save_index` wrote; need not exist.
        keep: Save the index there, also if this call is interrupted.

    Returns:
        {source: recording} of the usable ones and {source: reason} of the others.

    Raises:
        RunError: The saved index is corrupt, or it cannot be written.
    """
    known = _load(folder / FILE)
    of_file: dict[Path, dict[AudioSource, None]] = defaultdict(dict)  # each source once, in order
    for source in sources:
        of_file[as_segment(source).path][source] = None
    groups = [list(group) for group in of_file.values()]
    recordings: dict[AudioSource, Recording] = {}
    bad: dict[AudioSource, str] = {}
    inspected = in_parallel(lambda group: _inspect(group, known), groups, workers)
    quiet, due = len(groups) < SHOW_PROGRESS, SAVE_EVERY
    try:
        with progress_bar(len(groups), "index audio", "file", hidden=quiet) as bar:
            for n, (group, results) in enumerate(inspected, start=1):
                if isinstance(results, BadAudio):
                    results = [results] * len(group)
                for source, result in zip(group, results, strict=True):
                    if isinstance(result, BadAudio):
                        bad[source] = str(result)
                    else:
                        recordings[source] = result
                if keep and n == due:
                    save_index(recordings.values(), folder)
                    due += max(SAVE_EVERY, n // 2)
                bar.update()
    finally:
        if keep:
            save_index(recordings.values(), folder)
    return recordings, bad


def _inspect(
    group: Sequence[AudioSource], known: Mapping[str, Recording]
) -> list[Recording | BadAudio]:
    """Inspect the segments of one file."""
    if len(group) == 1:
        return [inspect_audio(group[0], known)]
    return inspect_segments(group, known)


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
    """Read the index: {`Recording.file`: recording}."""
    if not path.exists():
        return {}
    try:
        columns = read_columns(path, KINDS, FACTS)
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


def read_columns(
    path: Path, kinds: Mapping[str, str], finite: Iterable[str] = ()
) -> dict[str, NDArray]:
    """Read arrays of one dimension; uncompressed, they take no more memory than the file says.

    Args:
        path: An .npz file.
        kinds: Kind of NumPy's dtype by the name of each array.
        finite: Arrays that hold neither NaN nor infinity.

    Raises:
        ValueError: The file holds something else; NumPy raises other errors for corrupt ones.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with np.load(path, allow_pickle=False) as archive:
        if any(entry.compress_type != ZIP_STORED for entry in archive.zip.infolist()):
            raise ValueError("it is compressed")
        columns = {name: archive[name] for name in kinds}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind != kinds[name]:
            raise ValueError(f"{name} is {column.dtype} of shape {column.shape}")
    for name in finite:
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"{name} is not finite")
    return columns


def write_columns(path: Path, columns: Mapping[str, NDArray]) -> None:
    """Write arrays atomically as an .npz file."""
    needs = sum(column.nbytes for column in columns.values())
    with atomic_write(path, needs) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


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
    write_columns(path, columns)
