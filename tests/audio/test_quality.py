"""Quality of made recordings, worked out by hand."""

import tracemalloc
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from audio.quality import FLAT, FlatTops, Quality, measure_quality
from audio.reading import BadAudio, inspect_audio
from audio.segment import Segment
from tests.audio.test_fingerprint import RATE, speech


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.wav"


def sine(amplitude: float = 0.5, hertz: float = 441.0, seconds: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def test_a_clean_recording_has_nothing(file: Path) -> None:
    samples = speech(1) - speech(1).mean()
    found = measure_quality(write(file, samples))
    assert found == Quality(
        peak=pytest.approx(np.abs(samples).max(), abs=1e-7),
        flat_tops=0,
        offset=pytest.approx(0, abs=1e-5),
        silence_start=0.0,
        silence_end=found.silence_end,
        cutoff=RATE / 2,
        channels=1,
        difference=-300.0,
    )


def test_each_half_period_of_a_clipped_sine_has_a_flat_top(file: Path) -> None:
    """10 periods of 160 samples, clipped at half of the amplitude: a third of each is flat."""
    samples = np.clip(sine(0.8, 100, 0.1), -0.4, 0.4)
    found = measure_quality(write(file, samples, subtype="PCM_16"))
    assert found.flat_tops == 20 and found.peak == pytest.approx(0.4, abs=1e-4)
    assert measure_quality(write(file, 0.5 * samples)).flat_tops == 20  # scaled down afterwards
    assert measure_quality(write(file, sine(0.8, 101.3, 0.1))).flat_tops == 0


def test_one_clipped_channel_of_two_is_found(file: Path) -> None:
    clean = 0.3 * speech(1)[: RATE // 10]
    both = np.stack([clean, np.clip(sine(0.8, 100, 0.1), -0.4, 0.4)], 1)
    assert measure_quality(write(file, both)).flat_tops == 20


def by_hand(channel: np.ndarray) -> int:
    """Count runs of FLAT and more samples at the largest value, and at the smallest."""
    n = 0
    for extreme in (channel.max(), channel.min()):
        run = 0
        for at in [*(channel == extreme), False]:
            n += not at and run >= FLAT
            run = run + 1 if at else 0
    return n


@pytest.mark.parametrize("seed", range(20))
def test_flat_tops_do_not_depend_on_the_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(-3, 4, (400, 2)).astype(np.float32)
    samples[rng.random(400) < 0.5] = 3 * (1 if seed % 2 else -1)
    flat = FlatTops(2)
    for block in np.split(samples, np.sort(rng.integers(1, 400, 6))):
        if len(block):
            flat.add(block)
    assert flat.count.sum() == sum(by_hand(channel) for channel in samples.T)
    assert flat.extremes.tolist() == [samples.max(0).tolist(), samples.min(0).tolist()]


def test_a_plateau_below_a_later_peak_does_not_count() -> None:
    flat = FlatTops(1)
    for top in (1.0, 2.0, 1.0):
        flat.add(np.float32([[0.0], [top], [top], [top], [0.0], [-top], [0.0]]))
    assert flat.count.tolist() == [[1], [0]] and flat.extremes.tolist() == [[2.0], [-2.0]]


def test_the_offset_is_a_share_of_the_rms(file: Path) -> None:
    """0.1 beside a sine of amplitude 0.5, whose RMS is 0.5 / sqrt 2."""
    found = measure_quality(write(file, sine(0.5, 400) + 0.1))
    assert found.offset == pytest.approx(0.1 / (0.5 / np.sqrt(2)), rel=1e-4)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_silence_is_what_librosa_would_trim(file: Path, rate: int) -> None:
    rng = np.random.default_rng(0)
    parts = [(0.5, 1e-4), (1.0, 0.1), (0.7, 1e-4)]
    samples = np.concatenate([a * rng.standard_normal(round(s * rate)) for s, a in parts])
    found = measure_quality(write(file, samples, rate))
    frame, hop = round(2048 / 44_100 * rate), round(512 / 44_100 * rate)
    _, (start, end) = librosa.effects.trim(samples, top_db=40, frame_length=frame, hop_length=hop)
    assert found.silence_start == pytest.approx(start / rate, abs=1 / rate)
    assert found.silence_end == pytest.approx((len(samples) - end) / rate, abs=1 / rate)
    assert (found.silence_start, found.silence_end) == pytest.approx((0.5, 0.7), abs=0.05)


def test_channels_are_counted_and_compared(file: Path) -> None:
    """Two channels of unrelated sound share half of their power; equal ones all of it."""
    rng = np.random.default_rng(0)
    one, other = 0.1 * rng.standard_normal((2, 5 * RATE))
    found = measure_quality(write(file, np.stack([one, other], 1)))
    assert found.channels == 2 and found.difference == pytest.approx(-3.01, abs=0.1)
    equal = measure_quality(write(file, np.stack([one, one], 1), subtype="PCM_16"))
    assert equal.channels == 2 and equal.difference < -150
    half = measure_quality(write(file, np.stack([one, 0 * one], 1)))
    assert half.difference == pytest.approx(-3.01, abs=0.01)
    # 0.01 of other sound on one channel of two: (0.01 / 2)^2 on both, of 1
    little = measure_quality(write(file, np.stack([one, one + 0.01 * other], 1)))
    assert little.difference == pytest.approx(10 * np.log10(0.005**2), abs=0.1)


def test_a_segment_is_measured_alone(file: Path) -> None:
    loud, soft = 0.9 * speech(1, 1.0), 0.1 * speech(2, 1.0)
    write(file, np.concatenate([loud, soft]))
    assert measure_quality(Segment(file, 1.0)).peak == pytest.approx(np.abs(soft).max())


def test_another_recording_than_expected_is_refused(file: Path) -> None:
    known = inspect_audio(write(file, speech(1))).hash
    assert measure_quality(file, known) == measure_quality(file)
    write(file, speech(2))
    with pytest.raises(BadAudio, match="has changed"):
        measure_quality(file, known)


def test_a_silent_recording_is_not_all_silent_ends(file: Path) -> None:
    """Frames of equal level: none is far below the loudest."""
    found = measure_quality(write(file, 1e-5 * np.random.default_rng(0).standard_normal(RATE)))
    assert (found.silence_start, found.silence_end) == (0, 0)


def test_memory_does_not_grow_with_the_length(file: Path) -> None:
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(file, "w", 8000, 1, "PCM_16") as sound:
        for _ in range(40):
            sound.write(0.1 * rng.standard_normal(2**18))  # 84 MB as float64, 22 minutes
    tracemalloc.start()
    measure_quality(file)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 30e6
