"""Features that frozen branches give recordings: computed once, kept beside the feature store.

`branches/<key>.safetensors` in run.store holds the features of one branch for the recordings of one
fold: a row a crop, recordings in the order of their hashes. The key is made of all that decides a
value. Any of these files may be removed: what is needed is computed again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from storage.tensors import load_tensors, save_tensors
from system.files import corrupt_file

FOLDER, FEATURES = "branches", "features"
BRANCHES = ("cqt", "mel")


class KeptFeatures:
    """Features in the place of images, as `data.ImageDataset` reads them.

    Args:
        rows: Rows of each recording's crops, by audio hash, or audio hash and speaker.
        features: (rows, D) of each branch, or tokens (rows, N, D); a branch may be missing.
    """

    def __init__(self, rows: Mapping[str, range], features: Mapping[str, Tensor]) -> None:
        self.rows = rows
        nothing = np.zeros((n_rows(rows), 0), np.float32)  # of a branch that is not read
        self._features = {
            name: features[name].numpy() if name in features else nothing for name in BRANCHES
        }

    def images(self, name: str) -> NDArray[np.float32]:
        """Return the features of `cqt` or `mel`: (rows, D), or (rows, N, D)."""
        return self._features[name]


def in_order(rows: Mapping[str, range]) -> dict[str, range]:
    """Return rows for the same numbers of crops, counted from 0 in the order of names.

    >>> in_order({"b": range(7, 8), "a": range(2, 4)})
    {'a': range(0, 2), 'b': range(2, 3)}
    """
    found: dict[str, range] = {}
    first = 0
    for key in sorted(rows):
        found[key] = range(first, first + len(rows[key]))
        first = found[key].stop
    return found


def n_rows(rows: Mapping[str, range]) -> int:
    """Return the number of rows."""
    return max((place.stop for place in rows.values()), default=0)


def features_file(store: Path, facts: Mapping[str, Any], rows: Mapping[str, range]) -> Path:
    """Return the file for features that some facts decide.

    Args:
        store: Folder `run.store`.
        facts: What decides a value, ready for JSON.
        rows: From `in_order`.
    """
    crops = [[key, len(place)] for key, place in rows.items()]
    text = json.dumps({**facts, "recordings": crops}, sort_keys=True)
    return store / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def write_features(file: Path, features: Tensor) -> None:
    """Write the features of one branch, atomically."""
    save_tensors(file, {FEATURES: features})


def read_features(file: Path, n: int) -> Tensor:
    """Read the features of one branch.

    Args:
        file: From `features_file`.
        n: Number of rows that it must have.

    Raises:
        RunError: The file is corrupt.
    """
    features = load_tensors(file, of_fold=False).get(FEATURES)
    if features is None or len(features) != n or not bool(features.isfinite().all()):
        raise corrupt_file(file, f"it does not hold {n} rows of features")
    return features
