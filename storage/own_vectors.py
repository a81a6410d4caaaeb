"""Vectors of the user's own, one for each recording: the branch `file`.

`.safetensors` holds a vector (D,) under each name. `.npz` does, too, or holds two arrays: `names`
(N,) and `vectors` (N, D). A name is an utterance id, or the audio hash of a recording (the column
`audio` of utterances.csv in a run folder): a hash names the recording whatever it is called.
"""

import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from system.errors import InputError
from system.files import read_bytes
from system.regular import file_sha256

NAMES, VECTORS = "names", "vectors"  # the two arrays of an .npz
MAX_BYTES = 8 * 2**30
SHOWN = 3  # names in a message
SUFFIXES = (".npz", ".safetensors")


class OwnVectors:
    """The vectors of a file, in memory.

    Args:
        path: The file, .npz or .safetensors.
        option: Key or option that names it, for messages.

    Attributes:
        sha256: SHA-256 of the file.

    Raises:
        InputError: It cannot be read, or holds something else than finite vectors of one width.
    """

    def __init__(self, path: Path, option: str = "model.vectors") -> None:
        self.path, self._option = path, option
        if path.suffix not in SUFFIXES:
            given = self if path.name else f"{option} is empty, and"
            raise InputError(f"{given} must be a {' or '.join(SUFFIXES)}")
        try:
            self.sha256 = file_sha256(path)
            self._vectors = _joined(_read(path))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
            raise InputError(f"{self} cannot be read: {error}") from error
        self.width: int = len(next(iter(self._vectors.values())))

    def __str__(self) -> str:
        return f"{self._option}={self.path}"

    def find(self, names: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vector under the first of some names that the file has: (D,); None if none."""
        return next((self._vectors[name] for name in names if name in self._vectors), None)

    def of(self, ids: Sequence[str], hashes: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of utterances: (N, D).

        Args:
            ids: Utterance ids.
            hashes: Audio hash of each.

        Raises:
            InputError: Some have none.
        """
        self.check(ids, hashes)
        names = zip(ids, hashes, strict=True)
        return np.stack([self._vectors[id if id in self._vectors else key] for id, key in names])

    def check(self, ids: Sequence[str], hashes: Sequence[str]) -> None:
        """Refuse utterances without a vector.

        Args:
            ids: Utterance ids.
            hashes: Audio hash of each.

        Raises:
            InputError: There are some.
        """
        names = zip(ids, hashes, strict=True)
        if missing := [id for id, key in names if not {id, key} & self._vectors.keys()]:
            first = ", ".join(missing[:SHOWN]) + ", ..." * (len(missing) > SHOWN)
            own = ", ".join(list(self._vectors)[:SHOWN])
            raise InputError(
                f"{self} has no vector for {len(missing)} of {len(ids)} utterances ({first}): add "
                f"them under the utterance id or the audio hash. Names in the file: {own}, ..."
            )


def _read(path: Path) -> Mapping[str, NDArray]:
    content = read_bytes(path, MAX_BYTES)
    if path.suffix == ".safetensors":
        try:
            return load(content)
        except KeyError as error:  # a type that numpy lacks
            raise ValueError(f"it holds {error.args[0]}, write float32") from error
    if not zipfile.is_zipfile(BytesIO(content)):
        raise ValueError("it is not an .npz file, as numpy.savez writes it")
    with np.load(BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if set(arrays) == {NAMES, VECTORS}:
        names, vectors = arrays[NAMES], arrays[VECTORS]
        if names.ndim != 1 or vectors.ndim != 2 or len(names) != len(vectors):
            raise ValueError(
                f"{NAMES} and {VECTORS} must be (N,) and (N, D), got {names.shape} and "
                f"{vectors.shape}"
            )
        if len(set(names.tolist())) < len(names):
            raise ValueError(f"{NAMES} holds a name twice")
        return dict(zip(map(str, names.tolist()), vectors, strict=True))
    return arrays


def _joined(vectors: Mapping[str, NDArray]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors as float32.

    Raises:
        ValueError: There are none, or some are not finite, not (D,), or of another width.
    """
    if not vectors:
        raise ValueError("it is empty")
    width = next(iter(vectors.values())).shape
    found = {}
    for name, one in vectors.items():
        if one.ndim != 1 or one.shape != width or not len(one) or one.dtype.kind not in "fiu":
            raise ValueError(
                f"{name} is {one.dtype} {one.shape}, the first one {width}: all must be numbers "
                "(D,) of one width"
            )
        with np.errstate(over="ignore"):  # it is refused below
            found[name] = one.astype(np.float32)
        if not np.isfinite(found[name]).all():
            raise ValueError(
                f"{name} holds NaN or infinite values: compute it anew, or leave its recording out "
                "of the corpus"
            )
    return found
