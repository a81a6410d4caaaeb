"""A timeline says of each window what `predict` says of the same samples."""

import numpy as np
import pytest
import soundfile

from audio.reading import read_audio
from inference import load
from inference.cuts import Cuts
from inference.prediction import SILENCE, to_frame
from inference.timeline import at_once, timeline
from system.errors import InputError
from tests.support.models import write_small_fold

RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_small_fold(tmp_path_factory.mktemp("fold")))


def noise(seconds, rate=RATE, seed=0):
    """Return noise whose level and colour change: (T,)."""
    time = np.arange(round(seconds * rate)) / rate
    sound = np.random.default_rng(seed).normal(0, 1, len(time))
    return (0.05 * (1.2 + np.sin(2 * time)) * sound * np.cos(700 * time**2)).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    def write(sound, rate=RATE, name="talk.wav"):
        soundfile.write(tmp_path / name, sound, rate, subtype="FLOAT")
        return tmp_path / name

    return write


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_window_is_labelled_as_the_same_samples_cut_out(model, write, rate):
    path = write(noise(3.4, rate), rate)
    found = list(timeline(model, path, 1.0, 0.5))
    waveform = read_audio(path, RATE)
    times = [(part.start, part.end) for part in found]
    assert times == pytest.approx(
        np.array([(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3), (2.4, 3.4)]), abs=2 / RATE
    )
    cut = [waveform[round(RATE * start) : round(RATE * end)] for start, end in times]
    for part, one in zip(found, model.predict(cut, RATE), strict=True):
        assert list(part.probs.values()) == pytest.approx(list(one.probs.values()), abs=1e-5)
        assert part.gate == pytest.approx(one.gate, abs=1e-5)
        assert part.name == str(path) and part.problem is None
    spread = np.ptp([list(part.probs.values()) for part in found], axis=0)
    assert spread.max() > 1e-4  # windows differ by more than the tolerance


def test_the_default_hop_is_a_third_and_batches_change_nothing(model, write, monkeypatch):
    path = write(noise(2.0))
    found = list(timeline(model, path, 0.6))
    assert [round(part.start, 6) for part in found] == [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
    monkeypatch.setattr("inference.timeline.BATCH_SECONDS", 0.1)
    for one, part in zip(timeline(model, path, 0.6), found, strict=True):
        assert list(one.probs.values()) == pytest.approx(list(part.probs.values()), abs=1e-5)
    monkeypatch.undo()
    assert [at_once(Cuts(window)) for window in (0.5, 10, 3600)] == [16, 6, 1]


def test_silence_and_nan_are_problems_of_their_windows(model, write):
    sound = noise(5.0)
    sound[RATE : 2 * RATE] = 0
    sound[round(3.5 * RATE)] = np.inf
    found = list(timeline(model, write(sound), 1.0, 1.0))
    assert [part.problem for part in found] == [
        None,
        SILENCE,
        None,
        "holds samples that are NaN or infinite at 3.50 s",
        None,
    ]
    assert found[1].emotion is None and found[1].probs == {}
    frame = to_frame(found)
    assert list(frame.columns[:3]) == ["name", "start", "end"]
    assert frame["start"].tolist() == [0, 1, 2, 3, 4]


def test_a_file_that_ends_in_garbage_keeps_its_windows(model, write, monkeypatch):
    path = write(noise(10.0))
    monkeypatch.setattr("audio.streaming.BLOCK", RATE)
    read = soundfile.SoundFile.read

    def failing(file, *args, **kwargs):
        if file.tell() >= 4 * RATE:
            raise soundfile.LibsndfileError(2)
        return read(file, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", failing)
    *found, last = timeline(model, path, 2.0, 1.0)
    assert [part.start for part in found] == [0, 1, 2] and all(part.emotion for part in found)
    assert (last.start, last.end) == (4.0, 4.0) and last.problem.startswith("cannot be read")


def test_what_is_no_audio_has_one_line_with_the_reason(model, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    for cuts in ({"window": 1.0}, {"segments": "energy"}):
        (only,) = timeline(model, bad, **cuts)
        assert only.problem.startswith("cannot be read") and only.start == only.end == 0
        assert list(timeline(model, bad, **cuts, skip=1)) == []


def test_parts_that_are_skipped_are_those_at_the_beginning(model, write):
    path = write(noise(3.0))
    whole = list(timeline(model, path, 1.0, 0.5))
    rest = list(timeline(model, path, 1.0, 0.5, skip=3))
    assert [part.start for part in rest] == [part.start for part in whole[3:]] != []


def test_voiced_segments_are_labelled_as_the_same_samples_cut_out(model, write):
    sound = 0.001 * noise(9.0)
    sound[RATE : 3 * RATE] = noise(2.0, seed=1)
    sound[5 * RATE : 7 * RATE] = noise(2.0, seed=2)
    path = write(sound)
    parts = timeline(model, path, segments="energy")
    found = list(parts)
    assert [(part.start, part.end) for part in found] == pytest.approx(
        np.array([(0.9, 3.1), (4.9, 7.1)]), abs=0.05
    )
    assert parts.seconds == 9.0  # also behind the last segment
    waveform = read_audio(path, RATE)
    for part in found:
        one = model.predict(waveform[round(RATE * part.start) : round(RATE * part.end)], RATE)
        assert list(part.probs.values()) == pytest.approx(list(one.probs.values()), abs=1e-5)


def test_a_file_without_voice_is_silence(model, write):
    (only,) = timeline(model, write(np.zeros(2 * RATE)), segments="energy")
    assert (only.start, only.end, only.problem) == (0, 2.0, SILENCE)


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        ({}, "give --window 3 --hop 1"),
        ({"hop": 1.0}, "--hop needs --window"),
        ({"window": 0.05}, "the window must be 0.1 to 3600 seconds, got 0.05"),
        ({"window": float("nan")}, "the window must be"),
        ({"window": 3.0, "hop": 0.0}, "the hop must be 0.01 seconds to the window's 3"),
        ({"window": 3.0, "hop": 3.5}, "so that nothing is left out, got 3.5"),
        ({"window": 3.0, "segments": "energy"}, "leave --window and --hop out"),
        ({"hop": 3.0, "segments": "energy"}, "leave --window and --hop out"),
        ({"segments": "energie"}, "segments must be one of energy, silero"),
    ],
)
def test_a_mistake_is_told_before_anything_is_read(model, cuts, said):
    with pytest.raises(InputError, match=said):
        timeline(model, "/nowhere.wav", **cuts)


def test_silero_that_is_missing_is_named_with_its_extra(model, monkeypatch):
    monkeypatch.setattr("system.extras.is_installed", lambda package: False)
    with pytest.raises(InputError, match=r"silero_vad.*requirements-vad.txt"):
        timeline(model, "/nowhere.wav", segments="silero")
