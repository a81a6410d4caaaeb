"""The feature store: the two images of each recording, computed once, shared by all runs.

A store is a folder named after everything that decides a pixel: version and settings of the front
end. In it `cqt.f16` and `mel.f16` hold one record per recording, or one per crop where images show
crops of a fixed length; see `row_store.py` for the index and for interrupted builds.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from audio.parallel import in_parallel
from audio.reading import BadAudio, read_audio
from audio.segment import AudioSource
from storage.row_store import COMMIT_EVERY, Item, RowStore

IMAGES = ("cqt", "mel")


class FrontEnd(Protocol):
    """What computes images, as `features.SpectrogramImages` does."""

    version: int  # raised when equal settings give other images
    settings: dict[str, Any]
    input_rate: int  # Hz of the waveforms

    @property
    def record(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""

    def cut(self, waveform: Tensor) -> Tensor:
        """Cut a recording into its crops: (T,) -> (n, t)."""

    def __call__(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CQT and Mel images of crops: (n, t) -> 2 x (n, C, H, W)."""


class FeatureStore(RowStore):
    """Images by audio hash.

    Args:
        root: Folder that holds all stores.
        front_end: Computes the images; its version and settings name the store's folder.

    Raises:
        RunError: The files in the store's folder cannot be read.
    """

    def __init__(self, root: Path, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self.settings = front_end.settings
        described = {"front_end_version": front_end.version, **front_end.settings}
        super().__init__(root, "", described, IMAGES, front_end.record, np.float16, "features")

    def images(self, name: str) -> NDArray[np.float16]:
        """Return the memory-mapped images of `cqt` or `mel`: (rows, C, H, W).

        Raises:
            RunError: The file was removed or cut short; images that are already mapped stay valid.
        """
        return self._mapped(name)

    def statistics(self, rows: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and std of each image over some rows: 2 x ((C,), (C,)), dB."""
        return {name: mean_and_std(self.images(name), np.sort(rows)) for name in IMAGES}

    def compute(self, item: Item) -> list[NDArray]:
        """Return the images of (audio hash, file or segment): 2 x (n, C, H, W), float16."""
        key, source = item
        waveform = torch.from_numpy(read_audio(source, self._front_end.input_rate, key))
        with torch.inference_mode():
            pair = self._front_end(self._front_end.cut(waveform))
        return [images.to(torch.float16).numpy() for images in pair]

    def _build_chunk(
        self,
        chunk: Sequence[Item],
        workers: int,
        bad: dict[AudioSource, str],
        bar: tqdm,
    ) -> None:
        """Compute the images of a chunk and commit them; add unusable files to `bad`."""
        computed: list[tuple[str, list[NDArray]]] = []
        with _torch_threads(1 if workers > 1 else torch.get_num_threads()):
            for (key, source), result in in_parallel(self.compute, chunk, workers):
                bar.update()
                if isinstance(result, BadAudio):
                    bad[source] = str(result)
                else:
                    computed.append((key, result))
        self._append(computed)


class NoImages(FeatureStore):
    """In the place of the store where a run reads no image: one row of no pixels, of any recording.

    Nothing is computed, read or written.

    Args:
        settings: Settings of the images that would be read.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.record = settings, (1, 0, 0)
        self.rows = defaultdict(lambda: range(1))

    def build(self, sources: Mapping[str, AudioSource], workers: int) -> dict[AudioSource, str]:
        """Find no bad audio."""
        return {}

    def images(self, name: str) -> NDArray[np.float16]:
        """Return the row: (1, 1, 0, 0)."""
        return np.zeros((1, *self.record), np.float16)

    def statistics(self, rows: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return none."""
        return {}


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mean_and_std(images: Any, rows: NDArray) -> tuple[Tensor, Tensor]:
    """Return mean and std of rows of an array, added up in float64, a few at a time: 2 x (C,)."""
    total = squares = np.zeros(images.shape[1])  # (C,)
    for start in range(0, len(rows), COMMIT_EVERY):
        block = images[rows[start : start + COMMIT_EVERY]].astype(np.float64)  # (b, C, H, W)
        total = total + block.sum((0, 2, 3))
        squares = squares + np.square(block).sum((0, 2, 3))
    return moments(len(rows) * images.shape[2] * images.shape[3], total, squares)


def moments(n: int, total: NDArray, squares: NDArray) -> tuple[Tensor, Tensor]:
    """Return mean and std of n pixels from their sum and the sum of their squares: 2 x (C,)."""
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 1e-6))  # constant images have none
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
