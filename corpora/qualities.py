"""Quality of all recordings of a corpus, cached beside the audio index."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from audio.opening import BadAudio
from audio.parallel import in_parallel
from audio.quality import Quality, measure_quality
from audio.reading import Recording
from audio.segment import AudioSource
from corpora.recordings import read_columns, write_columns
from system.files import corrupt_file, make_folder
from system.output import progress_bar

FILE = "qualities-1.npz"  # 1: raised when a `Quality` changes
NUMBERS = {  # of `Quality`: kind of each column
    **{"peak": "f", "flat_tops": "i", "offset": "f", "silence_start": "f", "silence_end": "f"},
    **{"cutoff": "f", "channels": "i", "difference": "f"},
}
SHOW_PROGRESS = 200  # recordings and more get a progress bar


def measure_qualities(
    recordings: Mapping[AudioSource, Recording], workers: int, folder: Path
) -> tuple[dict[AudioSource, Quality], dict[AudioSource, str]]:
    """Measure recordings; those whose bytes are in the saved file are not decoded again.

    Args:
        recordings: Indexed recordings.
        workers: Number of threads; 0 or 1 uses the caller's alone.
        folder: Folder of the audio index, where what was measured is saved, also if this call is
            interrupted.

    Returns:
        {source: quality}, and {source: reason} of those that changed since they were indexed.

    Raises:
        RunError: The saved file is corrupt, or it cannot be written.
    """
    known = _load(folder / FILE)
    n_known = len(known)
    missing = [source for source, one in recordings.items() if one.file not in known]
    changed: dict[AudioSource, str] = {}
    measured = in_parallel(
        lambda source: measure_quality(source, recordings[source].hash), missing, workers
    )
    quiet = len(missing) < SHOW_PROGRESS
    try:
        with progress_bar(len(missing), "measure audio", "recording", hidden=quiet) as bar:
            for source, result in measured:
                if isinstance(result, BadAudio):
                    changed[source] = str(result)
                else:
                    known[recordings[source].file] = result
                bar.update()
    finally:
        if len(known) > n_known:
            make_folder(folder)
            _save(folder / FILE, known)
    there = {source: one for source, one in recordings.items() if source not in changed}
    return {source: known[one.file] for source, one in there.items()}, changed


def _load(path: Path) -> dict[str, Quality]:
    """Read the saved qualities by `Recording.file`."""
    if not path.exists():
        return {}
    try:
        columns = read_columns(path, {"name": "U", **NUMBERS}, NUMBERS)
        rows = zip(*(columns[name].tolist() for name in Quality._fields), strict=True)
        files: Sequence[str] = columns["name"].tolist()
        return {file: Quality(*row) for file, row in zip(files, rows, strict=True)}
    except Exception as error:  # archive, header and array each fail in ways of their own
        raise corrupt_file(path, error) from error


def _save(path: Path, known: Mapping[str, Quality]) -> None:
    columns = {
        name: np.array([getattr(quality, name) for quality in known.values()])
        for name in Quality._fields
    }
    write_columns(path, {"name": np.array(list(known)), **columns})
