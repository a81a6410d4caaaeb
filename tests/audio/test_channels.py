"""Channels that cancel where they are averaged, against values worked out by hand."""

import numpy as np
import pytest

from audio.channels import EQUAL_DB, ChannelLevels

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(40_000).astype(np.float32)
OTHER = RNG.standard_normal(40_000).astype(np.float32)


def cancellation(*channels: np.ndarray, n_blocks: int = 3) -> float | None:
    samples = np.stack(channels, 1).astype(np.float32)
    levels = ChannelLevels(len(channels))
    for block in np.array_split(samples, n_blocks):
        levels.add(block, block.mean(1))
    return levels.cancellation()


@pytest.mark.parametrize(
    ("second", "weaker"),
    [
        (-0.9, 26.02),  # mean 0.05: 20 log10(1 / 0.05)
        (-0.8, 20.0),  # mean 0.1
        (-0.999, 66.02),  # mean 0.0005
        (-1.25, 20.0),  # mean -0.125, loudest 1.25
    ],
)
def test_the_mean_of_opposite_channels_is_so_much_weaker(second, weaker):
    assert cancellation(NOISE, second * NOISE) == pytest.approx(weaker, abs=0.01)


@pytest.mark.parametrize("n_blocks", [1, 7])
def test_blocks_add_up_to_the_whole(n_blocks):
    assert cancellation(NOISE, -0.9 * NOISE, n_blocks=n_blocks) == pytest.approx(26.02, abs=0.01)


@pytest.mark.parametrize(
    "channels",
    [
        [NOISE],
        [NOISE, NOISE],
        [NOISE, OTHER],
        [NOISE, 0 * NOISE],
        [0 * NOISE] * 7 + [NOISE],  # the mean is 18 dB weaker, and nothing cancels
        [NOISE, -0.5 * NOISE],  # mean 0.25: 12 dB weaker, a fifth of unrelated channels' power
        [NOISE, -0.8 * NOISE + 0.6 * OTHER],  # correlation -0.8
        [0 * NOISE, 0 * NOISE],
        [NOISE + 9, NOISE - 9],  # constant offsets of opposite sign
    ],
)
def test_other_channels_do_not_cancel(channels):
    assert cancellation(*channels) is None


def test_a_constant_offset_does_not_hide_that_channels_cancel():
    found = cancellation(NOISE + 3, -0.9 * NOISE + 3)
    assert found == pytest.approx(26.02, abs=0.01)


@pytest.mark.parametrize(
    ("channels", "db"),
    [
        ((NOISE, OTHER), -3.01),  # half of the power of unrelated sound is shared
        ((NOISE, 0 * NOISE), -3.01),  # m = x / 2: 1/4 apart on both, of 1/2
        ((NOISE, -NOISE), 0.0),
        ((NOISE, NOISE + 0.1 * OTHER), -26.0),  # 0.05^2 apart on both
        ((NOISE, OTHER, NOISE + OTHER), 10 * np.log10(1 / 3)),
    ],
)
def test_what_channels_do_not_share(channels, db):
    """Of x, y, x + y the mean is 2/3 (x + y): 8/9 of power, and 4/3 on average: 1/3 is apart."""
    levels = ChannelLevels(len(channels))
    samples = np.stack(channels, 1).astype(np.float32)
    for block in np.array_split(samples, 3):
        levels.add(block, block.mean(1))
    assert levels.difference() == pytest.approx(db, abs=0.1)


def test_equal_channels_and_a_single_one_share_all():
    one, two = ChannelLevels(1), ChannelLevels(2)
    one.add(NOISE[:, None], NOISE)
    two.add(np.stack([NOISE, NOISE], 1), NOISE)
    assert one.difference() == EQUAL_DB and two.difference() < -120
