"""Band statistics by hand."""

import numpy as np
import pytest

from baselines.band_statistics import band_statistics


def test_means_and_deviations_of_each_band_are_averaged_over_crops():
    first = [[[1.0, 3.0], [0.0, 0.0]]]  # (C, H, W): one channel, two bands, two frames
    second = [[[5.0, 5.0], [0.0, 8.0]]]
    crops = np.array([first, second], dtype=np.float16)
    assert band_statistics(crops) == pytest.approx([(2 + 5) / 2, (0 + 4) / 2, (1 + 0) / 2, 2.0])


def test_every_channel_has_its_bands():
    assert band_statistics(np.zeros((1, 3, 8, 5), np.float16)).shape == (2 * 3 * 8,)
