"""What the branch `file` reads of new recordings: vectors of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio.opening import BadAudio
from storage.own_vectors import OwnVectors
from system.errors import InputError

WAYS = (
    "give a file with predict.py --vectors FILE or load(path, vectors=FILE), or vectors with "
    "predict(recording, vectors=...)"
)


class VectorReader:
    """Finds the vector of each recording.

    Args:
        folder: Folder of a model, for messages.
        width: D of the vectors that it reads.
        path: File of vectors in a format of `model.vectors`; None is none.

    Raises:
        InputError: The file cannot be read, or its vectors have another width.
    """

    def __init__(self, folder: Path, width: int, path: Path | None) -> None:
        self.folder, self.width = folder, width
        self.own = None if path is None else OwnVectors(path, "vectors")
        if self.own is not None and self.own.width != width:
            raise InputError(
                f"{self.own} has vectors of {self.own.width} numbers, and {folder} reads {width}: "
                "give those that are made as the vectors of its training"
            )

    def check(self) -> None:
        """Refuse to look up vectors without a file, with an InputError."""
        if self.own is None:
            raise InputError(f"{self.folder} reads a vector for each recording: {WAYS}")

    def of_recording(self, key: str, path: Path | None) -> Tensor:
        """Return the vector of a recording: (D,).

        Args:
            key: Its audio hash.
            path: Its file: the whole path, the file's name, and that without its ending may be
                names of vectors, in this order behind the hash.

        Raises:
            BadAudio: The file of vectors has none.
            InputError: There is no file of vectors.
        """
        self.check()
        assert self.own is not None
        names = [key] if path is None else [key, str(path), path.name, path.stem]
        if (found := self.own.find(names)) is None:
            called = "" if path is None else f", {path.name} or {path.stem}"
            raise BadAudio(
                f"has no vector in {self.own}, neither under its audio hash {key}{called}"
            )
        return torch.from_numpy(found)

    def given(self, vectors: Any, n: int) -> list[Tensor]:
        """Return vectors that a caller gave: n x (D,).

        Args:
            vectors: Numbers (n, D), or (D,) where n is 1.
            n: Number of recordings.

        Raises:
            InputError: They are of another shape, or not finite.
        """
        try:
            values = np.asarray(vectors, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"vectors= must be numbers (D,) of each recording: {error}") from error
        values = values[None] if values.ndim == 1 and n == 1 else values
        if values.shape != (n, self.width):
            raise InputError(
                f"vectors= must be ({n}, {self.width}), a vector for each recording, got "
                f"{values.shape}"
            )
        if not np.isfinite(values).all():
            raise InputError("vectors= holds values that are NaN or infinite")
        return list(torch.from_numpy(values))


def vectors_of(reader: VectorReader | None, vectors: Any, n: int) -> Sequence[Tensor | None]:
    """Return the vectors that a caller gave for n recordings, None for those to be looked up.

    Raises:
        InputError: They have no effect, are not n vectors of the model's width, or there is no
            file to look them up in.
    """
    if vectors is None:
        if reader is not None:
            reader.check()
        return [None] * n
    if reader is None:
        raise InputError("vectors= has no effect: this model reads none. Leave it out")
    return reader.given(vectors, n)
