"""What trackers know of a fold: names, id, hyperparameters; how a tracker run ends."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.effects import whole_key
from config.loading import flatten
from config.schema import Config
from storage.run_folder import FREE
from storage.tracker_files import tracked_run_id
from training.session import Fold

FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"  # of a tracker run
# Keys whose paths are cut to the last name
PATHS = (
    *("model.cqt_weights", "model.mel_weights"),
    *("model.cqt_from", "model.mel_from", "model.from"),
)


@dataclass(frozen=True)
class TrackedFold:
    """A fold as its trackers show it.

    Attributes:
        group: Name of the run.
        name: Name of the fold's folder.
        id: The same for each process that trains the fold, and for no other fold anywhere.
        root: `run.root`, where trackers keep local files without other settings.
        hyperparameters: From `hyperparameters`.
    """

    group: str
    name: str
    id: str
    root: Path
    hyperparameters: Mapping[str, str | int | float | bool]


def tracked_fold(fold: Fold) -> TrackedFold:
    """Return a fold as its trackers show it; draw the id of its run if it has none."""
    return TrackedFold(
        group=fold.config.name,
        name=fold.name,
        id=f"{tracked_run_id(fold.session.folder)}-{fold.name}",
        root=Path(fold.config.run.root),
        hyperparameters=hyperparameters(fold),
    )


def hyperparameters(fold: Fold) -> dict[str, str | int | float | bool]:
    """Return the config by dotted key, with fold and seed; no folder of this machine is in it.

    Keys that may differ when a run is resumed are left out: MLflow refuses another value. So are
    those that are null; lists are written as in a config.
    """
    return {**_values(fold.config), "fold": fold.split.fold, "seed": fold.seed}


def _values(config: Config) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {}
    for key, value in flatten(config.model_dump()).items():
        if value is not None and not whole_key(key).startswith(FREE):
            found[key] = Path(value).name if key in PATHS else _plain(value)
    return found


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)
