"""Silent ends: the samples that librosa keeps, by hand, and as training and the store see them."""

import librosa
import numpy as np
import pytest
import torch

from audio.trim import FrameLevels, trim_silence
from data import WaveformDataset
from features import SpectrogramImages

RATE = 44_100


def burst(before: float, loud: float, after: float, noise: float = 0.0, seed: int = 0):
    """Return noise of amplitude 0.1 for `loud` seconds, between ends of amplitude `noise`."""
    rng = np.random.default_rng(seed)
    parts = [(before, noise), (loud, 0.1), (after, noise)]
    samples = [level * rng.standard_normal(round(s * RATE)) for s, level in parts]
    return torch.from_numpy(np.concatenate(samples).astype(np.float32))


@pytest.mark.parametrize("trim_db", [10.0, 30.0, 60.0])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 3e-3])
@pytest.mark.parametrize("shape", [(0.5, 1.0, 0.7), (0.0, 0.4, 0.2), (0.3, 0.05, 0.0)])
def test_librosa_keeps_the_same_samples(shape, noise, trim_db) -> None:
    waveform = burst(*shape, noise, seed=round(trim_db))
    kept, (start, end) = librosa.effects.trim(waveform.numpy(), top_db=trim_db)
    found = trim_silence(waveform, RATE, trim_db)
    assert torch.equal(found, waveform[start:end]) and len(kept) == len(found)


def test_equal_seconds_remain_at_every_rate() -> None:
    for rate in (8_000, 16_000, 48_000):
        t = torch.arange(2 * rate) / rate
        tone = torch.sin(2 * torch.pi * 440 * t) * ((t > 0.5) & (t < 1.5))
        assert len(trim_silence(tone, rate, 40.0)) / rate == pytest.approx(1.04, abs=0.02)


def test_only_the_ends_go() -> None:
    pause = torch.cat([burst(0.3, 0.2, 0.5), burst(0.5, 0.2, 0.3)])
    found = trim_silence(pause, RATE, 40.0)
    assert len(pause) - len(found) == pytest.approx(0.6 * RATE, abs=0.06 * RATE)


@pytest.mark.parametrize("waveform", [torch.zeros(9000), torch.zeros(0), torch.ones(1)])
def test_a_silent_or_tiny_recording_stays_whole(waveform) -> None:
    assert torch.equal(trim_silence(waveform, RATE, 40.0), waveform)


def test_none_keeps_all() -> None:
    waveform = burst(0.2, 0.2, 0.2)
    assert trim_silence(waveform, RATE, None) is waveform


def test_images_are_those_of_the_trimmed_recording() -> None:
    waveform = burst(0.5, 0.6, 0.4)
    trimming, plain = (SpectrogramImages(RATE, 32, trim_db=db) for db in (40.0, None))
    found = trimming(trimming.cut(waveform))
    expected = plain(trim_silence(waveform, RATE, 40.0)[None])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(found.mel, plain(plain.cut(waveform)).mel)


def test_crops_are_of_the_trimmed_recording() -> None:
    images = SpectrogramImages(RATE, 32, seconds=0.3, trim_db=40.0)
    assert len(images.cut(burst(0.5, 0.55, 0.5))) == 2  # 0.55 to 0.6 s; 6 with the ends


def test_training_trims_before_it_changes_the_waveform() -> None:
    waveform = burst(0.5, 0.6, 0.4)
    noisy = {"snr_db": [20.0, 20.0]}

    def read(source: object, rate: int, key: str) -> np.ndarray:
        return waveform.numpy()

    data = WaveformDataset(["a"], ["0" * 64], [0], RATE, None, noisy, 0, read, 40.0)
    assert int(data[(0, 0)].lengths[0]) == len(trim_silence(waveform, RATE, 40.0))


def test_levels_of_frames_do_not_depend_on_the_blocks() -> None:
    waveform = burst(0.2, 0.3, 0.1, 1e-3)
    whole, parts = FrameLevels(RATE), FrameLevels(RATE)
    whole.add(waveform)
    for block in waveform.split([1, 700, 9000, len(waveform) - 9701]):
        parts.add(block)
    assert torch.equal(parts.end(), whole.end())
