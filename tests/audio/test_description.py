"""Facts of made tones, worked out by hand, and of noise against scipy."""

import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr

from audio.description import BLOCK, FRAME, Description, RecordingFacts, describe
from tests.support.paths import ROOT

RATE = 16_000
RAVDESS = Path(os.environ.get("MAXMVIT_RAVDESS") or ROOT.parent / "shared" / "data" / "ravdess")
BIN = RATE / 1024  # Hz


def tone(bins: float, amplitude: float = 0.5, n: int = 160 * 1024) -> np.ndarray:
    wave = amplitude * np.sin(2 * np.pi * bins * BIN * np.arange(n) / RATE)
    return wave.astype(np.float32)


def test_facts_of_a_tone_worked_out_by_hand() -> None:
    """A Hann window spreads a tone on bin k to k - 1, k, k + 1 with powers 1/4, 1, 1/4."""
    facts = describe(tone(100), RATE)
    assert (facts.seconds, facts.rate) == (10.24, 16_000)
    assert facts.level == pytest.approx(10 * np.log10(0.5**2 / 2), abs=1e-3)  # -9.03 dBFS
    assert facts.bandwidth == 101 * 15.625


@pytest.mark.parametrize(("weak", "top"), [(0.1, 301), (0.02, 51)])
def test_bandwidth_counts_what_holds_a_thousandth_of_the_energy(weak: float, top: int) -> None:
    """1 % of the energy on bin 300 counts, of which 1/6 on bin 301; 0.04 % does not."""
    both = tone(50) + tone(300, 0.5 * weak)
    assert describe(both, RATE).bandwidth == top * BIN


def test_an_offset_changes_neither_level_nor_bandwidth() -> None:
    weak = tone(100, 0.01)  # 0.06 % of the energy of the offset
    plain, moved = describe(weak, RATE), describe(weak + np.float32(0.3), RATE)
    assert moved.level == pytest.approx(plain.level, abs=1e-3)
    assert moved.bandwidth == plain.bandwidth


def test_twenty_db_less_is_twenty_db_less_at_the_same_bandwidth() -> None:
    loud, soft = describe(tone(100), RATE), describe(tone(100, 0.05), RATE)
    assert loud.level - soft.level == pytest.approx(20, abs=1e-3)
    assert loud.bandwidth == soft.bandwidth


@pytest.mark.parametrize("cutoff", [900, 3400, 7000])
def test_bandwidth_of_filtered_noise_agrees_with_scipy(cutoff: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 100_000)
    filtered = scipy.signal.sosfilt(scipy.signal.butter(8, cutoff, fs=RATE, output="sos"), noise)
    power = scipy.signal.welch(filtered, RATE, "hann", FRAME, 0)[1]
    power[[0, -1]] *= 2  # scipy doubles the bins between
    energy = np.cumsum(power)
    expected = np.argmax(energy >= 0.999 * energy[-1]) * BIN
    found = describe(filtered.astype(np.float32), RATE).bandwidth
    assert found == pytest.approx(expected, abs=BIN)
    assert found == pytest.approx(cutoff, rel=0.5)


def test_facts_do_not_depend_on_the_blocks() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32)
    whole, parts = describe(wave, RATE), Description(RATE)
    for block in np.split(wave, [1, 700, 1724, 1725, 30_000]):
        parts.add(block)
    assert parts.facts() == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("n", [10, 160, 1023])
def test_less_than_a_frame_is_described_too(n: int) -> None:
    facts = describe(tone(256, n=n), RATE)  # 4 kHz
    assert isinstance(facts, RecordingFacts)
    assert facts.seconds == n / RATE and facts.level == pytest.approx(-9.03, abs=1)
    assert 4000 <= facts.bandwidth <= 4000 + 3 * RATE / n


def cutoff(wave: np.ndarray, rate: int = RATE) -> float:
    description = Description(rate)
    description.add(wave.astype(np.float32))
    return description.cutoff()


@pytest.mark.parametrize("edge", [2000, 3400, 5000, 7000])
def test_a_steep_filter_is_found_where_scipy_made_it(edge: float) -> None:
    """Falls by half of its 60 dB in dB near the edge of an elliptic low-pass."""
    noise = np.random.default_rng(0).normal(0, 0.1, 100_000)
    steep = scipy.signal.ellip(10, 1, 60, edge, fs=RATE, output="sos")
    assert cutoff(scipy.signal.sosfilt(steep, noise)) == pytest.approx(edge, rel=0.04, abs=3 * BIN)


@pytest.mark.parametrize("seed", range(5))
def test_what_fades_by_itself_has_no_cutoff(seed: int) -> None:
    """White noise, and noise that falls by 12 dB an octave as voices do."""
    noise = np.random.default_rng(seed).normal(0, 0.1, 100_000)
    fading = scipy.signal.sosfilt(scipy.signal.butter(2, 500, fs=RATE, output="sos"), noise)
    assert cutoff(noise) == cutoff(fading + 1e-4 * noise) == RATE / 2
    assert cutoff(np.zeros(100_000)) == cutoff(noise[:10]) == RATE / 2
    assert cutoff(noise, 1000) == 500  # no bin above LOWEST_CUTOFF


@pytest.mark.parametrize(("low", "high"), [(8000, 44_100), (8000, 16_000), (16_000, 48_000)])
def test_resampling_upwards_is_found(low: int, high: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * low)
    upsampled = soxr.resample(np.round(32_767 * noise) / 32_767, low, high)
    found = cutoff(np.round(32_767 * upsampled) / 32_767, high)
    assert found == pytest.approx(low / 2, rel=0.05, abs=3 * high / FRAME)


@pytest.mark.skipif(not RAVDESS.is_dir(), reason=f"no RAVDESS in {RAVDESS}; set MAXMVIT_RAVDESS")
def test_filters_are_found_in_every_recording_and_none_where_there_is_none() -> None:
    """Every ninth recording, as it is and after lower rates and MP3; 16 bits in between."""

    def rounded(wave: np.ndarray) -> np.ndarray:
        return np.round(32_767 * wave) / 32_767

    found: dict[str, list[float]] = {}
    for path in sorted(RAVDESS.glob("Actor_*/*.flac"))[::9]:
        wave, rate = soundfile.read(path, always_2d=True)
        wave = wave.mean(1)
        found.setdefault("as recorded", []).append(cutoff(wave, rate))
        for low, high in ((8000, 16_000), (8000, 44_100), (16_000, 44_100)):
            narrow = rounded(soxr.resample(wave, rate, low))
            after = cutoff(rounded(soxr.resample(narrow, low, high)), high)
            found.setdefault(f"{low} Hz in {high}", []).append(after / (low / 2))
        packed = io.BytesIO()
        soundfile.write(packed, soxr.resample(wave, rate, 44_100), 44_100, format="MP3")
        found.setdefault("MP3", []).append(
            cutoff(soundfile.read(io.BytesIO(packed.getvalue()))[0], 44_100)
        )
    for kind, values in found.items():
        print(f"{kind}: {len(values)} recordings, {min(values):.4g} to {max(values):.4g}")
    assert min(found.pop("as recorded")) > 21_000
    assert max(found.pop("MP3")) < 18_500
    assert all(0.94 < value < 1.03 for values in found.values() for value in values)


def test_memory_does_not_grow_with_the_length() -> None:
    description, block = Description(RATE), np.ones(BLOCK, np.float32)
    tracemalloc.start()
    for _ in range(20):  # 84 MB in float32
        description.add(block)
        largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 16 * block.nbytes < 20 * block.nbytes
