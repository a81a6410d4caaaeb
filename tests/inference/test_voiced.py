"""Voiced segments: the energy rule, Silero VAD, and lengths like those of training."""

import warnings

import numpy as np
import pytest
import soundfile
import torch

from audio.description import RecordingFacts
from audio.streaming import open_stream
from inference import voiced
from inference.voiced import (
    above_running_level,
    as_in_training,
    frame_levels,
    frame_size,
    joined,
    loud_level,
    voiced_runs,
    voiced_segments,
)
from storage.training_range import training_range

RATE = 16_000


def talk(*bursts, seconds=12.0, noise_db=-60.0, seed=0):
    """Return noise with bursts of (start, end, level in dB): (T,)."""
    rng = np.random.default_rng(seed)
    sound = 10 ** (noise_db / 20) * rng.standard_normal(round(seconds * RATE))
    for start, end, level in bursts:
        first, stop = round(start * RATE), round(end * RATE)
        sound[first:stop] += 10 ** (level / 20) * rng.standard_normal(stop - first)
    return sound.astype(np.float32)


@pytest.fixture
def write(tmp_path):
    def write(sound):
        path = tmp_path / "talk.wav"
        soundfile.write(path, sound, RATE, subtype="FLOAT")
        return path

    return write


def trained(shortest, longest):
    facts = [RecordingFacts(s, RATE, -20.0, 4000.0) for s in np.linspace(shortest, longest, 101)]
    return training_range(facts)


def test_bursts_are_found_with_margins_and_pauses_are_not(write):
    path = write(talk((1.0, 3.0, -20), (3.2, 4.0, -25), (8.0, 10.0, -30)))
    found, seconds = voiced_segments(path, "energy", None)
    assert seconds == 12.0
    assert np.ravel(found) == pytest.approx([0.9, 4.1, 7.9, 10.1], abs=0.04)  # a short pause joined


def test_a_softer_speaker_is_heard_again_after_the_loud_one_is_gone(write):
    """The running level falls by 0.1 dB a second: 30 dB softer is voiced 50 s later."""
    late = (70.0, 73.0, -40)
    path = write(talk((1.0, 9.0, -10), (10.0, 13.0, -40), late, seconds=75, noise_db=-70))
    found, _ = voiced_segments(path, "energy", trained(1, 20))
    assert np.ravel(found) == pytest.approx([0.9, 9.1, 69.9, 73.1], abs=0.05)


def test_the_running_level_is_the_recursion():
    levels = np.random.default_rng(0).normal(-40, 12, 500)
    expected, running = [], -10.0
    for level in levels:
        running = max(level, running - 0.1 * 0.032)
        expected.append(bool(level > running - 25 and level > -80))

    class Stream:
        rate = 1000

    blocks = np.split(levels, [3, 200, 201])
    found = np.concatenate(list(above_running_level(blocks, -10.0, 32, Stream())))
    assert found.tolist() == expected
    assert 0 < sum(expected) < 500


def test_levels_and_the_loud_level_are_those_of_the_frames():
    sound = np.random.default_rng(0).normal(0.3, 0.1, 32 * 1000).astype(np.float32)  # with offset
    sound[: 32 * 500] = 0.3
    levels = np.concatenate(list(frame_levels(np.split(sound, [10, 7777]), 32)))
    frames = sound.astype(float).reshape(-1, 32)
    centred = frames - frames.mean(1, keepdims=True)
    expected = 10 * np.log10(np.maximum(np.square(centred).mean(1), 1e-20))
    np.testing.assert_allclose(levels, expected, atol=1e-6)
    percentile = np.percentile(levels, 99)
    assert percentile - 0.1 <= loud_level(np.split(levels, [100])) <= percentile + 1.1
    assert loud_level([]) == -80


def test_runs_cross_blocks_and_short_ones_go():
    flags = [np.array(x, bool) for x in ([1, 1, 0], [], [0, 1], [1, 1], [0, 0, 1])]
    assert list(voiced_runs(flags, 0.5)) == [(0, 1), (2, 3.5), (4.5, 5)]
    runs = [(0.0, 1.0), (1.29, 2.0), (2.31, 2.4), (5.0, 5.2), (9.0, 9.09)]
    assert list(joined(runs)) == [(0.0, 2.0), (5.0, 5.2)]  # pauses 0.29, 0.31 s; 0.09 s is a blip
    assert list(joined([])) == []


def test_segments_are_widened_and_split_to_the_lengths_of_training():
    runs = [(0.05, 1.0), (2.0, 2.5), (10.0, 10.4), (20.0, 29.8)]
    found = list(as_in_training(runs, seconds=30.0, shortest=3.0, longest=5.0))
    assert np.array(found) == pytest.approx(
        np.array(
            [
                (0.0, 1.5),  # from the beginning to the middle of the pause
                (1.5, 3.75),  # 1.25 s more behind it, 0.5 s before it
                (8.7, 11.7),  # 3 s around its centre
                (19.9, 24.9),  # 10 s with its margins, in two
                (24.9, 29.9),
            ]
        )
    )


def test_training_decides_the_lengths_of_segments(write):
    path = write(talk((2.0, 2.5, -20), (5.0, 11.0, -20)))
    found, _ = voiced_segments(path, "energy", trained(2.0, 4.0))
    lengths = np.diff(found)[:, 0]
    assert len(found) == 3 and lengths.max() <= 4
    assert lengths[0] == pytest.approx(2.02, abs=0.01)  # the 1st percentile


def test_noise_alone_and_silence_have_no_surprises(write):
    assert voiced_segments(write(np.zeros(3 * RATE)), "energy", None) == ([], 3.0)
    found, _ = voiced_segments(write(talk(seconds=3)), "energy", None)
    assert np.ravel(found) == pytest.approx([0, 3], abs=0.1)  # nothing is louder than the noise


def test_silero_reads_frame_by_frame_what_it_says_of_the_whole(write, monkeypatch):
    """Its own loop over the file, and its own rule for beginning and end."""
    pytest.importorskip("silero_vad")
    from silero_vad import load_silero_vad

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        path = write(talk((1.0, 3.0, -20), (5.0, 6.0, -30)))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with open_stream(path, RATE) as stream:
                probabilities = voiced._load_silero()
                frames = np.concatenate(list(stream.blocks()))
        assert seen == []  # nothing is told to users who cannot change it
        assert torch.get_num_threads() == 2  # importing it sets one
    finally:
        torch.set_num_threads(before)
    n = len(frames) // 512
    found = [probabilities(frame) for frame in frames[: n * 512].reshape(n, 512)]
    whole = load_silero_vad().audio_forward(torch.from_numpy(frames[: n * 512]), RATE)[0]
    np.testing.assert_allclose(found, whole.numpy(), atol=1e-5)
    assert np.ptp(found) > 1e-3


def test_silero_is_on_from_a_half_and_off_below_a_third(write, monkeypatch):
    said = iter([0.4, 0.5, 0.36, 0.4, 0.34, 0.4, 0.6] + [0.0] * 400)
    monkeypatch.setattr(voiced, "_load_silero", lambda: lambda frame: next(said))
    with open_stream(write(talk(seconds=1)), RATE) as stream:
        flags = np.concatenate(list(voiced._silero(stream)))
    assert flags[:8].tolist() == [False, True, True, True, False, False, True, False]
    assert frame_size(48_000) == 1536
