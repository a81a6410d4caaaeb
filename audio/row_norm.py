"""Standardise images by the mean and deviation of their speaker's rows, `train.normalize: speaker`.

    (image - mean[speaker, C, H]) / (std[speaker, C, H] + FLOOR)

A row is a frequency band. Its statistics are over all columns of all images of one speaker.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

# dB, about twice the step of float16 at -80 dB: the rounding of a silent band is not blown up
FLOOR = 0.1


class RowNorm(NamedTuple):
    """Mean and deviation of the rows of both images, dB: of S speakers, or of B images."""

    cqt_mean: Tensor  # (S, C, H)
    cqt_std: Tensor  # (S, C, H)
    mel_mean: Tensor  # (S, C, H)
    mel_std: Tensor  # (S, C, H)

    def of(self, index: Tensor) -> "RowNorm":
        """Return some rows of all four: (B,) -> (B, C, H) each."""
        return RowNorm(*(values[index] for values in self))

    def __call__(self, cqt: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise the images of B speakers: 2 x (B, C, H, W) in float32 -> the same shapes."""
        return (
            (cqt - self.cqt_mean[..., None]) / (self.cqt_std[..., None] + FLOOR),
            (mel - self.mel_mean[..., None]) / (self.mel_std[..., None] + FLOOR),
        )


class SpeakerNorm(NamedTuple):
    """The statistics of all speakers, and the speaker of each utterance of a split."""

    rows: RowNorm  # (S, C, H) each
    speakers: Tensor  # (N,) row of each utterance's speaker

    def of(self, utterances: Tensor) -> RowNorm:
        """Return the statistics of the speakers of utterances: (B,) -> (B, C, H) each."""
        return self.rows.of(self.speakers[utterances])


class RowSums:
    """Adds up the rows of images of S speakers in float64, one crop at a time.

    Args:
        n_speakers: S.
        record: Shape of an image, (C, H, W).
    """

    def __init__(self, n_speakers: int, record: Sequence[int]) -> None:
        self.n = np.zeros(n_speakers)  # columns
        self.totals = np.zeros((2, n_speakers, *record[:2]))  # both images, (S, C, H)
        self.squares = np.zeros_like(self.totals)

    def add(self, speaker: int, images: Sequence[NDArray]) -> bool:
        """Add the crops of one utterance; return whether all are finite, else add nothing.

        Args:
            speaker: Index of the speaker.
            images: CQT and Mel images, 2 x (n, C, H, W) in dB.
        """
        sums = [_sums(crop) for pair in zip(*images, strict=True) for crop in pair]
        if not all(np.isfinite(values).all() for values in sums):
            return False
        for i, (total, squares) in enumerate(sums):
            self.totals[i % 2, speaker] += total
            self.squares[i % 2, speaker] += squares
        self.n[speaker] += images[0].shape[0] * images[0].shape[3]
        return True

    def norm(self) -> RowNorm:
        """Return mean and deviation of each row, in float32."""
        n = self.n[:, None, None]
        mean = self.totals / n
        std = np.sqrt(np.maximum(self.squares / n - mean**2, 0))
        return RowNorm(*(from_numpy(x[i]).float() for i in range(2) for x in (mean, std)))


def _sums(crop: NDArray) -> NDArray[np.float64]:
    """Return the sum of each row, and that of its squares: (C, H, W) -> (2, C, H)."""
    image = crop.astype(np.float64)
    return np.stack([image.sum(2), np.square(image).sum(2)])
