"""Voiced segments: the energy rule, Silero VAD, and lengths like those of training."""

import importlib.util
import sys
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
    file_levels,
    frame_levels,
    frame_size,
    joined,
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


def test_a_softer_speaker_is_found_once_the_loud_one_is_gone_for_a_while(write):
    """50 dB softer: not voiced at once, but when the running level has fallen by 6 dB."""
    late = (70.0, 73.0, -60)
    path = write(talk((1.0, 9.0, -10), (10.0, 13.0, -60), late, seconds=75, noise_db=-79))
    found, _ = voiced_segments(path, "energy", trained(1, 20))
    assert np.ravel(found) == pytest.approx([0.9, 9.1, 69.9, 73.1], abs=0.05)


def test_noise_just_below_speech_is_not_voiced(write):
    path = write(talk((1.0, 3.0, -20), (6.0, 8.0, -35), noise_db=-50))
    found, _ = voiced_segments(path, "energy", None)
    assert np.ravel(found) == pytest.approx([0.9, 3.1, 5.9, 8.1], abs=0.04)


@pytest.mark.parametrize("soft", [-48.0, -75.0, -20.0])
def test_the_energy_rule_is_the_recursion(soft):
    levels = np.random.default_rng(0).normal(-40, 12, 500)
    expected, running = [], -10.0
    for level in levels:
        running = max(level, running - 0.25)
        threshold = min(max(soft + 8, running - 45), running - 20)
        expected.append(bool(level > threshold and level > -80))
    blocks = np.split(levels, [3, 200, 201])
    found = np.concatenate(list(above_running_level(blocks, soft, -10.0, 0.25)))
    assert found.tolist() == expected
    assert 0 < sum(expected) < 500


def test_levels_are_those_of_the_frames():
    sound = np.random.default_rng(0).normal(0.3, 0.1, 32 * 1000).astype(np.float32)  # with offset
    sound[: 32 * 500] = 0.3
    levels = np.concatenate(list(frame_levels(np.split(sound, [10, 7777]), 32)))
    frames = sound.astype(float).reshape(-1, 32)
    centred = frames - frames.mean(1, keepdims=True)
    expected = 10 * np.log10(np.maximum(np.square(centred).mean(1), 1e-20))
    np.testing.assert_allclose(levels, expected, atol=1e-6)
    there = levels[levels > -80]
    assert len(there) == 500  # silence does not count
    for found, share in zip(file_levels(np.split(levels, [100])), (10, 99), strict=True):
        assert 0 <= found - np.percentile(there, share, method="inverted_cdf") < 1
    assert file_levels([]) == file_levels([levels[:500]])


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
    if importlib.util.find_spec("silero_vad") is None:
        pytest.skip("the extra vad is not installed")
    for name in [name for name in sys.modules if name.startswith("silero_vad")]:
        monkeypatch.delitem(sys.modules, name)
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
    from silero_vad import load_silero_vad

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
