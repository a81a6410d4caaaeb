"""How much the channels of a recording differ, and whether they cancel where they are averaged."""

import numpy as np
from numpy.typing import NDArray

EQUAL_DB = -300.0  # channels that are the same, or a single one
CANCELLED = 0.1  # of the mean's power without correlation; two equal channels: correlation -0.9


class ChannelLevels:
    """Levels of all channels and of their mean, added up block by block.

    Args:
        n_channels: Number of channels.
    """

    def __init__(self, n_channels: int) -> None:
        self._n_samples = 0
        self._sums = np.zeros((2, n_channels + 1))  # of samples and of squares; last: of the mean

    def add(self, samples: NDArray[np.float32], mono: NDArray[np.float32]) -> None:
        """Add a block: (t, channels) and its mean (t,)."""
        if samples.shape[1] == 1:
            return
        self._n_samples += len(samples)
        for block, columns in ((samples, slice(0, -1)), (mono[:, None], slice(-1, None))):
            wide = block.astype(np.float64)
            self._sums[:, columns] += wide.sum(0), np.square(wide).sum(0)

    def cancellation(self) -> float | None:
        """Return by how many dB the mean is weaker than the loudest channel, where they cancel.

        Channels cancel where their mean has less than a tenth of the power that channels of
        unrelated sound would leave, sum(P_c) / C^2. That is 10 dB beyond what happens by itself;
        sound on one channel of many is not affected. A constant offset does not count.
        """
        if not self._n_samples:
            return None
        mean, square = self._sums / self._n_samples  # (C + 1,), (C + 1,)
        *powers, left = np.maximum(square - mean**2, 0)
        unrelated = sum(powers) / len(powers) ** 2
        if left >= CANCELLED * unrelated:
            return None
        return float(10 * np.log10(max(powers) / max(left, 1e-30)))

    def difference(self) -> float:
        """Return the power of what channels do not share, against their mean power, in dB.

        That is mean_c(|x_c - m|^2) / mean_c(|x_c|^2) with the mean m of all channels x_c, each
        without its offset: EQUAL_DB for equal channels, -3 dB for two of unrelated sound, or where
        one of two is silent.
        """
        if not self._n_samples:
            return EQUAL_DB
        mean, square = self._sums / self._n_samples  # (C + 1,), (C + 1,)
        *powers, shared = np.maximum(square - mean**2, 0)
        whole = sum(powers) / len(powers)
        apart = (whole - shared) / whole if whole > 0 else 0.0
        return float(10 * np.log10(max(apart, 10 ** (EQUAL_DB / 10))))
