"""Windows start every hop, the last one ends with the sound; memory holds a few of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.opening import BadAudio
from audio.streaming import SoundStream
from inference.prediction import SILENCE
from inference.windows import Ring, pieces, windows

RATE = 100  # Hz


def stream(n, block=7):
    """A stream whose samples are their own numbers, so that a window shows where it is from."""
    samples = np.arange(n, dtype=np.float32)[:, None] / 1000
    return SoundStream((samples[i : i + block] for i in range(0, n, block)), RATE)


def test_a_hop_that_is_no_whole_number_of_samples_does_not_drift():
    found = limits(windows(stream(400), 1.0, 1 / 3))
    assert found == [(x, round(x + 1, 6)) for x in (0, 0.33, 0.67, 1, 1.33, 1.67, 2, 2.33, 2.67, 3)]


def limits(cuts):
    return [(round(cut.start, 6), round(cut.end, 6)) for cut in cuts]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (6.0, [(0, 3), (1, 4), (2, 5), (3, 6)]),
        (5.4, [(0, 3), (1, 4), (2, 5), (2.4, 5.4)]),  # moved back
        (3.0, [(0, 3)]),
        (3.01, [(0, 3), (0.01, 3.01)]),
        (2.0, [(0, 2)]),  # shorter than a window
    ],
)
def test_windows_worked_by_hand(seconds, expected):
    assert limits(windows(stream(round(seconds * RATE)), 3.0, 1.0)) == expected


@given(
    n=st.integers(2, 400),
    size=st.integers(1, 60),
    hop=st.integers(1, 60),
    block=st.integers(1, 500),
)
def test_windows_have_one_length_cover_everything_and_hold_their_samples(n, size, hop, block):
    hop = min(hop, size)
    found = list(windows(stream(n, block), size / RATE, hop / RATE))
    assert len(found) == 1 + max(math.ceil((n - size) / hop), 0)
    covered = 0
    for i, cut in enumerate(found):
        first, stop = round(cut.start * RATE), round(cut.end * RATE)
        assert first <= covered < stop and stop - first == min(size, n)
        assert first == i * hop or (cut is found[-1] and stop == n)
        np.testing.assert_array_equal(cut.waveform, np.arange(first, stop, dtype=np.float32) / 1000)
        covered = stop
    assert covered == n


def test_a_window_comes_before_the_sound_behind_it_is_read():
    read = []

    def blocks():
        for i in range(10):
            read.append(i)
            yield np.full((50, 1), i / 10, np.float32)

    found = windows(SoundStream(blocks(), RATE), 1.0, 0.5)
    next(found)
    assert read == [0, 1]  # a second of sound is two blocks


def test_memory_holds_a_window_and_a_block_however_long_the_sound(monkeypatch):
    held = []
    add = Ring.add

    def watch(ring, block):
        add(ring, block)
        held.append(ring.end - ring.first)

    monkeypatch.setattr(Ring, "add", watch)
    n_windows = sum(1 for _ in windows(stream(500_000, 64), 3.0, 1.0))
    assert n_windows == 4998
    assert max(held) <= 2 * 300 + 64  # a window, its hop, and a block
    held.clear()
    spans = [(10.0 * i, 10.0 * i + 3) for i in range(500)]
    assert limits(pieces(stream(500_000, 64), spans)) == spans
    assert max(held) <= 300 + 2 * 64


def test_silence_and_flaws_are_the_problem_of_their_windows_alone():
    sound = np.random.default_rng(0).normal(0, 0.1, (600, 1)).astype(np.float32)
    sound[100:210] = 0.5  # constant from 1.0 to 2.1 s
    sound[450] = np.nan
    found = list(windows(SoundStream(iter([sound]), RATE), 1.0, 1.0))
    assert [cut.problem for cut in found] == [
        None,
        SILENCE,
        None,
        None,
        "holds samples that are NaN or infinite at 4.50 s",
        None,
    ]


@pytest.mark.parametrize("n", [0, 1])
def test_too_little_sound_is_refused(n):
    found = SoundStream(iter([np.zeros((n, 1), np.float32)] if n else []), 16_000)
    with pytest.raises(BadAudio, match="holds no samples|is too short: 0.0625 ms"):
        list(windows(found, 3.0, 1.0))


def test_pieces_reach_the_end_although_times_are_rounded():
    assert limits(pieces(stream(300), [(0.5, 1.0), (2.0, 3.004)])) == [(0.5, 1.0), (2.0, 3.0)]
