"""The Mel-STFT power: against librosa, and by properties of signals."""

import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio import mel_stft
from audio.cqt import CQT
from audio.mel_stft import MelSTFT, mel_frequencies
from system.errors import InputError
from tests.support.paths import ROOT

RATE = 16_000  # Hz
SMALL = {"sample_rate": RATE, "n_fft": 512, "hop_length": 128, "n_mels": 40}
RAVDESS = Path(os.environ.get("MAXMVIT_RAVDESS") or ROOT.parent / "shared" / "data" / "ravdess")
GRID = [
    {"sample_rate": 44_100},  # the paper's settings
    {"sample_rate": RATE, "n_fft": 1024, "hop_length": 160, "n_mels": 64},
    {"sample_rate": RATE, "n_fft": 1024, "n_mels": 64, "fmin": 50.0, "fmax": 7000.0},
    {"sample_rate": 22_050, "n_fft": 1023, "hop_length": 257, "n_mels": 40},
    {"sample_rate": RATE, "n_fft": 1025, "hop_length": 100, "n_mels": 40, "win_length": 401},
    {"sample_rate": RATE, "n_fft": 1000, "n_mels": 40, "win_length": 999, "fmin": 300.0},
    {"sample_rate": 48_000, "n_fft": 2048, "hop_length": 300, "win_length": 1200, "n_mels": 80},
    {"sample_rate": RATE, "n_fft": 1024, "hop_length": 4000, "n_mels": 17},  # the longest hop
    {"sample_rate": 8000, "n_fft": 256, "hop_length": 1, "n_mels": 1},
    *(
        {"sample_rate": 8000, "n_fft": 512, "hop_length": 80, "n_mels": 33, "window": window}
        for window in ("hamming", "blackmanharris", "boxcar", ("kaiser", 14.0))
    ),
]


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples)


def tone(frequency, n_samples=RATE, rate=RATE, amplitude=0.5):
    phase = 2 * torch.pi * frequency / rate * torch.arange(n_samples, dtype=torch.float64)
    return (amplitude * torch.sin(phase)).float()


def batch(*clips, dtype=torch.float32):
    return torch.from_numpy(np.stack(clips)).to(dtype)


# librosa


@pytest.mark.parametrize("seconds", [1 / 8000, 0.05, 1.0])
@pytest.mark.parametrize("sizes", GRID)
def test_the_mel_power_is_librosas(sizes, seconds):
    x, module = noise(int(sizes["sample_rate"] * seconds)), MelSTFT(**sizes)
    names = {name: value for name, value in sizes.items() if name != "sample_rate"}
    names = {"n_fft": 4096, "hop_length": 256, "n_mels": 128} | names
    expected = librosa.feature.melspectrogram(
        y=x, sr=sizes["sample_rate"], pad_mode="constant", **names
    )
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        found = module(batch(x, dtype=dtype))[0]
        assert found.dtype == dtype
        assert found.shape == (names["n_mels"], 1 + len(x) // names["hop_length"])
        assert found.shape[1] - expected.shape[1] in (0, sizes.get("n_fft", 0) % 2)
        found = found[:, : expected.shape[1]].numpy()  # librosa pads odd frames by one less
        np.testing.assert_allclose(found, expected, rtol=tolerance)  # its filters are float32


@pytest.mark.skipif(not RAVDESS.is_dir(), reason=f"no RAVDESS in {RAVDESS}; set MAXMVIT_RAVDESS")
def test_the_mel_power_of_speech_is_librosas():
    for path in sorted(RAVDESS.glob("Actor_*/*.flac"))[::240]:
        clip, rate = soundfile.read(path, always_2d=True)
        expected = librosa.feature.melspectrogram(
            y=clip[:, 0], sr=rate, n_fft=4096, hop_length=256, pad_mode="constant"
        )
        found = MelSTFT(rate)(batch(clip[:, 0]))[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9 * expected.max())


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "fmin", "fmax"),
    [
        (44_100, 4096, 128, 0.0, None),
        (RATE, 1023, 40, 300.0, 7000.0),
        (8000, 512, 30, 1500.0, None),
    ],
)
def test_filters_are_librosas(rate, n_fft, n_mels, fmin, fmax):
    module = MelSTFT(rate, n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    expected = librosa.filters.mel(
        sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, dtype=np.float64
    )
    np.testing.assert_allclose(module._filters.T, expected, rtol=1e-9, atol=1e-15)
    edges = librosa.mel_frequencies(n_mels + 2, fmin=fmin, fmax=fmax or rate / 2)
    np.testing.assert_allclose(module.edges, edges, rtol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0, 8000), (200, 900), (1000, 4000), (999.9, 1000.1)])
def test_mel_frequencies_are_librosas(low, high):
    found = mel_frequencies(50, low, high)
    np.testing.assert_allclose(found, librosa.mel_frequencies(50, fmin=low, fmax=high), rtol=1e-12)


# Properties


def test_a_tone_lands_in_its_band():
    centres = librosa.mel_frequencies(42, fmin=0, fmax=RATE / 2)[1:-1]
    mel = MelSTFT(RATE, n_fft=2048, hop_length=160, n_mels=40)
    for band, centre in enumerate(centres):
        assert int(mel(tone(centre)[None])[0, :, 50].argmax()) == band


@given(gain=st.floats(1e-4, 1e4))
@settings(max_examples=10, deadline=None)
def test_power_scales_with_the_square_of_the_clip(gain):
    module, x = MelSTFT(**SMALL), batch(noise(1000), dtype=torch.float64)
    torch.testing.assert_close(module(gain * x), gain**2 * module(x))


@pytest.mark.parametrize("n_hops", [1, 3])
def test_a_delay_of_one_hop_shifts_by_one_frame(n_hops):
    x = np.pad(noise(2000), (640, 640))
    here, later = MelSTFT(**SMALL)(batch(x, np.roll(x, n_hops * 128)))
    torch.testing.assert_close(later[:, n_hops:], here[:, :-n_hops])


def test_silence_and_its_gradient_are_zero():
    x = torch.zeros(1, 2000, requires_grad=True)
    found = MelSTFT(**SMALL)(x)
    found.sum().backward()
    assert found.max() == 0 and x.grad.abs().max() == 0


@pytest.mark.parametrize("cache", [1, 5 * 512, 2**20])
def test_a_batch_equals_one_at_a_time_in_blocks_of_any_size(cache, monkeypatch):
    clips = [batch(gain * noise(9000, i)) for i, gain in enumerate((1, 9, 3))]
    alone = [MelSTFT(**SMALL)(clip)[0] for clip in clips]
    monkeypatch.setattr(mel_stft, "CACHE", cache)
    for together, clip in zip(MelSTFT(**SMALL)(torch.cat(clips)), alone, strict=True):
        torch.testing.assert_close(together, clip, rtol=1e-5, atol=1e-6)


def test_results_do_not_depend_on_the_clips_before():
    module, x = MelSTFT(**SMALL), batch(noise(8000))
    for n in (1, 3000, 30_000):
        module(batch(noise(n), dtype=torch.float64)), module(batch(noise(n)))
    assert torch.equal(module(x), MelSTFT(**SMALL)(x))


@pytest.mark.parametrize("cache", [1, 2**20])
def test_gradients_are_those_of_finite_differences(cache, monkeypatch):
    monkeypatch.setattr(mel_stft, "CACHE", cache)
    module = MelSTFT(RATE, n_fft=32, hop_length=20, n_mels=3)
    x = batch(noise(60), noise(60, 1), dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(module, x)


def test_kernels_made_under_inference_mode_serve_training():
    module, x = MelSTFT(**SMALL), batch(noise(1000))
    with torch.inference_mode():
        module(x)
    x.requires_grad_()
    module(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_kernels_stay_out_of_the_weights():
    module = MelSTFT(**SMALL)
    module(batch(noise(1000)))
    assert not list(module.parameters()) and not module.state_dict()


def test_low_precision_is_raised_to_float32():
    x, module = batch(noise(1000)).bfloat16(), MelSTFT(**SMALL)
    assert torch.equal(module(x), module(x.float()))


@pytest.mark.parametrize("window", ["hann", "hamming"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"win_length": 400},
        {"fmin": 300.0, "n_mels": 30},
        {"fmin": 46.875, "fmax": 703.125, "n_mels": 20},  # bands centred between two FFT bins
    ],
)
def test_full_scale_is_the_largest_answer_to_a_sine(window, sizes):
    module = MelSTFT(**SMALL | sizes, window=window)
    frequencies = np.arange(4, 4 * 256 - 4) * RATE / 2048  # quarter FFT bins
    tones = torch.stack([tone(f, 1536, amplitude=1.0) for f in frequencies])
    largest = module(tones)[..., 4:-4].amax() / module.full_scale
    assert 10 * largest.log10() == pytest.approx(0, abs=0.1)


# Settings that cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fmax": 8001.0}, "features.mel: fmin=0 Hz < fmax=8001 Hz <= half of .*=16000"),
        ({"fmin": 8000.0}, "features.mel: fmin=8000 Hz < fmax=8000 Hz"),
        ({"fmin": 500.0, "fmax": 500.0}, "features.mel: fmin=500 Hz < fmax=500 Hz"),
        ({"n_fft": 256}, "features.mel: 13 of n_mels=128 bands hold no FFT bin"),
        ({"win_length": 4097}, "features.mel.win_length=4097 is longer than n_fft=4096"),
        ({"hop_length": 4001}, "features.mel.hop_length=4001 .* 16000 Hz: at most 4000"),
        ({"window": "foo"}, "features.mel.window='foo' is not a window"),
        ({"window": "kaiser"}, "features.mel.window='kaiser'"),  # without its parameter
        ({"window": ["gaussian", 0]}, "window=.*its values are not finite"),
        ({"window": []}, r"features.mel.window=\[\] is not a window"),
        ({"fmin": "x"}, "features.mel.fmin must be a finite number of 0 or more, got 'x'"),
        ({"fmin": None}, "features.mel.fmin must be .* got None"),
        ({"fmax": "x"}, "features.mel.fmax must be a finite number above 0, got 'x'"),
        ({"fmax": True}, "features.mel.fmax must be .* got True"),
        ({"fmax": np.complex64(9)}, "features.mel.fmax must be .* got "),
        ({"fmax": float("nan")}, "features.mel.fmax must be .* got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MelSTFT(RATE, **settings)


@pytest.mark.parametrize(
    ("waveform", "got"),
    [(np.zeros((1, 9)), "got ndarray"), (torch.zeros(0, 9), r"got \(0, 9\) of torch.float32")],
)
@pytest.mark.parametrize("module", [MelSTFT(RATE), CQT(RATE, n_bins=60)])
def test_what_is_no_batch_of_waveforms_is_refused(module, waveform, got):
    with pytest.raises(InputError, match=f"waveform must be a tensor .* {got}"):
        module(waveform)


@pytest.mark.parametrize("settings", [{"win_length": 4096}, {"hop_length": 4000}, {"fmax": 8000.0}])
def test_settings_at_the_edge_are_taken(settings):
    assert MelSTFT(RATE, **settings)(batch(noise(5000))).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    module, clip = MelSTFT(RATE, 512, 128, 40), torch.from_numpy(noise(RATE))[None].to(dtype)
    expected = module(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(clip), expected, rtol=0, atol=0)  # compares dtypes too
    assert expected.dtype == torch.float32
