"""What a fusion head reads of a split, and how interventions change it."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config.fusions import SOURCES
from model_gmu import Features


class HeadInputs(NamedTuple):
    """The inputs of the fusion head for a split, a row for each of M crops of N utterances.

    The crops of an utterance follow each other.
    """

    utterance: NDArray  # (M,) index of the utterance of each crop
    features: Features  # (M, D) each, or tokens (M, T, D); None for a branch that is not there

    def of(self, branch: str) -> Tensor:
        """Return the features of one branch."""
        feature = dict(zip(SOURCES, self.features, strict=False)).get(branch)
        if feature is None:
            raise ValueError(f"there is no {branch} branch")
        return feature

    def replaced(self, branch: str, feature: Tensor) -> "HeadInputs":
        """Return a copy with other features of one branch; a single row is used for all crops."""
        features = dict(zip(SOURCES, self.features, strict=False))
        features[branch] = feature.expand_as(self.of(branch))
        return HeadInputs(self.utterance, tuple(features.values()))

    def resampled(self, branch: str, sources: NDArray) -> "HeadInputs":
        """Return a copy in which one branch has the features of other utterances.

        Crop j gets crop j modulo n of the source, which has n crops.

        Args:
            branch: One of SOURCES, which is there.
            sources: (N,) index of the utterance that gives each utterance its features.
        """
        starts = np.unique(self.utterance, return_index=True)[1]  # (N,)
        n_crops = np.diff(starts, append=len(self.utterance))
        nth = np.arange(len(self.utterance)) - starts[self.utterance]
        source = sources[self.utterance]  # (M,)
        rows = torch.from_numpy(starts[source] + nth % n_crops[source])
        return self.replaced(branch, self.of(branch)[rows])


def over_crops(values: NDArray, utterance: NDArray) -> NDArray:
    """Return the mean over the crops of each utterance: (M, ...) -> (N, ...)."""
    starts = np.unique(utterance, return_index=True)[1]
    n_crops = np.diff(starts, append=len(utterance))
    total = np.add.reduceat(values, starts, axis=0)
    return total / n_crops.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
