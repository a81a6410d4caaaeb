"""Band statistics of the stored images: mean and deviation over time of each frequency band."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from storage.feature_store import IMAGES, FeatureStore


class BandStatistics:
    """Features of recordings that are in a feature store.

    For both images, CQT and Mel, and each of their channels: the mean over time of every row, then
    the standard deviations. Of a recording with several crops, the mean over the crops.

    Args:
        store: Feature store that has the recordings.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._known: dict[str, NDArray] = {}  # audio hash -> (D,)

    def __call__(self, hashes: Sequence[str]) -> NDArray:
        """Return the features of recordings by their audio hashes: (N, D)."""
        images = [self._store.images(name) for name in IMAGES]
        for key in dict.fromkeys(hashes):
            if key not in self._known:
                place = self._store.rows[key]
                crops = [view[place.start : place.stop] for view in images]
                self._known[key] = np.concatenate([band_statistics(view) for view in crops])
        return np.stack([self._known[key] for key in hashes])


def band_statistics(crops: NDArray) -> NDArray:
    """Return means and standard deviations of the rows, mean over crops: (n, C, H, W) -> (2CH,)."""
    images = crops.astype(np.float64)
    parts = [images.mean(3), images.std(3)]  # (n, C, H) each
    return np.concatenate([part.mean(0).ravel() for part in parts])
