"""How long a state of a training takes to save, on the disk of the run."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from config.schema import Config
from storage.tensors import copy_state, write_state
from training.state import TrainingState


def time_save(state: TrainingState, config: Config) -> tuple[float, float]:
    """Return the seconds of a state's copy and of its write, to a file that is removed again."""
    start = time.perf_counter()
    copy = copy_state(state.state_dict())
    copied = time.perf_counter()
    with temporary_folder(config) as folder:
        write_state(Path(folder, "state.safetensors"), copy)
        written = time.perf_counter()
    return copied - start, written - copied


def temporary_folder(config: Config) -> "TemporaryDirectory[str]":
    """Return a folder on the disk of the run, which is removed again."""
    run = Path(config.run.root, config.name)
    place = next(folder for folder in (run.parent, *run.absolute().parents) if folder.is_dir())
    return TemporaryDirectory(dir=place, prefix=".dry-run.")
