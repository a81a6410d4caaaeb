"""The two pictures: against direct sums, against librosa, and by properties of signals."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cqt as cqt_module
from cqt import CQT
from errors import InputError
from features import SpectrogramImages
from mel_stft import MelSTFT

RATE = 16_000  # Hz
SMALL = {
    "sample_rate": RATE,
    "image_size": 32,
    "cqt": {"hop_length": 256, "n_bins": 60},
    "mel": {"n_fft": 512, "hop_length": 128, "n_mels": 40},
}
TONE_CQT = CQT(RATE, 256, 65.41, 72)


@pytest.fixture(scope="module")
def images():
    return SpectrogramImages(**SMALL)


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples)


def tone(frequency, n_samples=RATE, rate=RATE, amplitude=0.5):
    phase = 2 * torch.pi * frequency / rate * torch.arange(n_samples, dtype=torch.float64)
    return (amplitude * torch.sin(phase)).float()


def speech_like(seconds=1.0, rate=RATE):
    """Return a voice-like sound: harmonics of a gliding pitch, and a little noise."""
    t = torch.arange(int(seconds * rate)) / rate
    phase = 2 * torch.pi * (120 * t + 20 * t**2)
    voice = sum(torch.sin(k * phase) / k for k in range(1, 20))
    return 0.2 * voice + 0.005 * torch.from_numpy(noise(len(t), 1)).float()


def one(module, waveform):
    return module(waveform[None], torch.tensor([len(waveform)]))


# Constant-Q


def direct_cqt(x, rate, hop, fmin, n_bins, bins_per_octave):
    """Sum sqrt(l_k) * x[n] * conj(w_k[n - m * hop]) in float64, one bin and frame at a time."""
    ratio = 2 ** (2 / bins_per_octave)
    q_factor = (ratio + 1) / (ratio - 1)
    result = np.zeros((n_bins, 1 + len(x) // hop))
    for k in range(n_bins):
        f = fmin * 2 ** (k / bins_per_octave)
        length = q_factor * rate / f
        n = np.arange(-length // 2, length // 2).astype(int)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(len(n)) / len(n))
        wavelet = window / window.sum() * np.exp(2j * np.pi * f / rate * n)
        for m in range(result.shape[1]):
            at = m * hop + n
            inside = (at >= 0) & (at < len(x))
            product = x[at[inside]] * wavelet[inside].conj()
            result[k, m] = np.sqrt(length) * abs(product.sum())
    return result


@pytest.mark.parametrize(
    ("rate", "hop", "fmin", "n_bins", "per_octave", "seconds"),
    [
        (16_000, 256, 65.41, 72, 12, 0.6),
        (44_100, 512, 32.70, 84, 12, 0.3),  # the paper's settings
        (44_100, 512, 32.70, 84, 12, 0.05),  # shorter than most wavelets
        (22_050, 300, 110.0, 50, 24, 0.4),  # a hop that is no power of two
        (8_000, 64, 200.0, 12, 3, 0.25),  # short wavelets, wider than the spectrum's rows
        (16_000, 1, 500.0, 6, 12, 0.05),
    ],
)
def test_the_cqt_is_the_direct_sum(rate, hop, fmin, n_bins, per_octave, seconds):
    x = noise(int(rate * seconds))
    expected = direct_cqt(x, rate, hop, fmin, n_bins, per_octave)
    found = CQT(rate, hop, fmin, n_bins, per_octave)(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * expected.max()


def test_the_cqt_is_librosas_within_its_own_approximation():
    x = noise(2 * 22_050).astype(np.float32) + tone(440, 2 * 22_050, 22_050).numpy()
    expected = np.abs(librosa.cqt(x, sr=22_050, hop_length=512, pad_mode="constant"))
    found = CQT(22_050)(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == expected.shape
    # librosa downsamples between octaves; its filters cost it up to a per cent.
    assert np.abs(found - expected).max() <= 0.015 * expected.max()


def test_the_cqt_is_nnaudios():
    cqt = pytest.importorskip("nnAudio.features.cqt")
    x = torch.from_numpy(noise(RATE)).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = cqt.CQT1992v2(
            sr=RATE, hop_length=256, fmin=65.41, n_bins=48, pad_mode="constant", verbose=False
        )
    ours = CQT(RATE, 256, 65.41, 48)
    theirs = reference(x, normalization_type="librosa")[0].numpy()[:, : 1 + RATE // 256]
    # nnAudio defines Q as 1 / (2^(1/12) - 1), 3 % less than librosa: shapes agree, levels nearly.
    found = ours(x[None])[0].numpy()
    assert np.corrcoef(found.ravel(), theirs.ravel())[0, 1] > 0.98


@given(k=st.integers(0, 71), cents=st.floats(-30, 30))
@settings(max_examples=20, deadline=None)
def test_a_tone_lands_in_its_bin(k, cents):
    frequency = 65.41 * 2 ** (k / 12 + cents / 1200)
    middle = TONE_CQT(tone(frequency)[None])[0, :, 31]
    assert int(middle.argmax()) == k


def test_kernels_are_kept_for_a_few_lengths_and_stay_out_of_the_weights(images):
    cqt = CQT(RATE, 256, 440.0, 12)
    for n in range(1, 12):
        cqt(torch.zeros(1, 4000 * n))
    assert len(cqt._kernels) == 8
    one(images, tone(440))
    assert not any("kernel" in name or "cqt" in name for name in images.state_dict())


def test_results_do_not_depend_on_the_clips_before(images):
    first = one(SpectrogramImages(**SMALL), speech_like())
    for n in (100, 5000, 30_000):
        one(images, tone(300, n))
    again = one(images, speech_like())
    assert torch.equal(first.cqt, again.cqt) and torch.equal(first.mel, again.mel)


# Mel-STFT


@pytest.mark.parametrize("settings", [{}, {"fmin": 50.0, "fmax": 7000.0}])
def test_the_mel_power_is_librosas(settings):
    x = noise(RATE).astype(np.float32)
    found = MelSTFT(RATE, n_fft=1024, hop_length=160, n_mels=64, **settings)(
        torch.from_numpy(x)[None]
    )[0]
    expected = librosa.feature.melspectrogram(
        y=x, sr=RATE, n_fft=1024, hop_length=160, n_mels=64, pad_mode="constant", **settings
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_a_tone_lands_in_its_mel_band():
    centres = librosa.mel_frequencies(42, fmin=0, fmax=RATE / 2)[1:-1]
    mel = MelSTFT(RATE, n_fft=2048, hop_length=160, n_mels=40)
    for band in (3, 10, 25, 39):
        assert int(mel(tone(centres[band])[None])[0, :, 50].argmax()) == band


# Settings that cannot be


@pytest.mark.parametrize("rate", [4000, 8000, 16_000, 22_050])
def test_too_many_bins_are_refused_and_the_number_told_fits(rate):
    with pytest.raises(InputError, match="n_bins=120 reaches .* at most") as caught:
        CQT(rate, n_bins=120)
    fits = int(str(caught.value).split("at most ")[1].split()[0])
    CQT(rate, n_bins=fits)
    with pytest.raises(InputError):
        CQT(rate, n_bins=fits + 1)


def test_no_bin_that_fits_is_told_too():
    with pytest.raises(InputError, match="at most 0 bins"):
        CQT(8000, fmin=5000.0, n_bins=1)


@pytest.mark.parametrize(
    "settings", [{"fmax": 8001.0}, {"fmin": 8000.0}, {"fmin": 500.0, "fmax": 500.0}]
)
def test_mel_bands_outside_the_spectrum_are_refused(settings):
    with pytest.raises(InputError, match="features.mel"):
        MelSTFT(RATE, **settings)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mel_bands_without_a_bin_are_refused():
    with pytest.raises(InputError, match="hold no FFT bin"):
        MelSTFT(RATE, n_fft=256, n_mels=128)


@pytest.mark.parametrize("lengths", [[0], [101]])
def test_lengths_outside_the_waveform_are_refused(images, lengths):
    with pytest.raises(ValueError, match="lengths must be in 1..100"):
        images(torch.zeros(1, 100), torch.tensor(lengths))


# Pictures


@pytest.mark.parametrize("channels", ["static", "delta"])
def test_peer_14_pictures_are_square_of_the_image_size_after_one_resize(channels, monkeypatch):
    sizes = []
    resize = torch.nn.functional.interpolate
    monkeypatch.setattr(
        "features.F.interpolate", lambda x, size, **k: sizes.append(size) or resize(x, size, **k)
    )
    module = SpectrogramImages(**SMALL, channels=channels)
    for picture in one(module, speech_like()):
        assert picture.shape == (1, module.n_channels, 32, 32)
        assert picture.dtype == torch.float32
    assert sizes == [(32, 32)] * 2  # one for each picture


def test_row_0_is_the_lowest_frequency(images):
    low, middle, high = (
        [int(p[0, 0].mean(-1).argmax()) for p in one(images, tone(f))] for f in (40, 300, 900)
    )
    assert low[0] < 3 and low[1] == 0  # rows of the CQT and of the Mel picture
    assert low[0] < middle[0] < high[0] and low[1] < middle[1] < high[1]


def test_time_runs_from_left_to_right(images):
    waveform = torch.cat([torch.zeros(RATE), tone(500)])
    for picture in one(images, waveform):
        assert picture[0, 0, :, 20:].amax() > -10 and picture[0, 0, :, :10].amax() < -60


def test_20_db_more_shift_a_full_scale_picture_by_20():
    module = SpectrogramImages(**SMALL, reference="full_scale", top_db=200.0)
    loud, quiet = one(module, speech_like()), one(module, speech_like() / 10)
    for a, b in zip(loud, quiet, strict=True):
        torch.testing.assert_close(a - b, torch.full_like(a, 20.0), rtol=0, atol=0.01)


@pytest.mark.parametrize("gain", [0.001, 0.1, 10.0])
def test_level_leaves_a_clip_picture_unchanged(images, gain):
    for a, b in zip(one(images, speech_like()), one(images, gain * speech_like()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)


def test_0_db_is_the_clips_maximum_or_a_full_scale_tone():
    settings = SMALL | {"image_size": 60}  # as many rows as bins: the resize mixes none
    settings["mel"] = SMALL["mel"] | {"n_mels": 60, "n_fft": 1024}
    clip = SpectrogramImages(**settings)
    full_scale = SpectrogramImages(**settings, reference="full_scale")
    frequencies = [32.70319566257483] + [k * RATE / 4096 for k in range(60, 90)]  # 1/4 FFT bin
    tones = torch.stack([tone(f, 4 * RATE) for f in frequencies])
    lengths = torch.full((len(tones),), 4 * RATE)
    for picture in clip(tones / 10, lengths):
        assert float(picture[0].amax()) == pytest.approx(0, abs=0.1)
    for picture in full_scale(2 * tones, lengths):
        assert float(picture.amax()) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("reference", ["clip", "full_scale"])
@pytest.mark.parametrize("amplitude", [0.0, 1e-12])
def test_silence_is_finite_and_at_the_floor(reference, amplitude):
    module = SpectrogramImages(**SMALL, reference=reference, top_db=60.0)
    for picture in one(module, torch.full((RATE,), amplitude)):
        torch.testing.assert_close(picture, torch.full_like(picture, -60.0))


def test_no_value_is_below_the_floor_or_above_the_reference(images):
    for picture in one(images, speech_like()):
        assert picture.amin() >= -80 - 1e-4 and picture.amax() <= 1e-4


def test_a_delay_of_one_hop_shifts_by_one_frame():
    x = torch.nn.functional.pad(speech_like(0.3), (2000, 4000))
    for module in (CQT(RATE, 256, n_bins=60), MelSTFT(RATE, 512, 256, 40)):
        here, later = module(x[None]), module(x.roll(256)[None])
        tolerance = 1e-4 * float(here.max())
        torch.testing.assert_close(later[..., 1:], here[..., :-1], rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("channels", ["static", "delta"])
def test_a_batch_equals_one_at_a_time_whatever_lies_beyond_the_lengths(channels):
    module = SpectrogramImages(**SMALL, channels=channels)
    lengths = torch.tensor([RATE, 700, 9001, 1])
    batch = torch.full((4, RATE), 0.9)  # garbage that must not be seen
    for row, n in zip(batch, lengths.tolist(), strict=True):
        row[:n] = speech_like()[:n] + 0.01
    together = module(batch, lengths)
    for i, n in enumerate(lengths.tolist()):
        for both, alone in zip(together, one(module, batch[i, :n]), strict=True):
            torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=0.02)


@pytest.mark.parametrize("n_samples", [1, 2, 160, 255, 256, 257])
@pytest.mark.parametrize("channels", ["static", "delta"])
def test_very_short_clips_have_pictures(n_samples, channels):
    module = SpectrogramImages(**SMALL, channels=channels)
    for picture in one(module, tone(500, n_samples) + 0.1):
        assert picture.shape[-2:] == (32, 32) and picture.isfinite().all()


def test_delta_is_static_and_its_slopes():
    static = SpectrogramImages(**SMALL)
    module = SpectrogramImages(**SMALL, channels="delta")
    assert (static.n_channels, module.n_channels) == (1, 3)
    fading = speech_like(2.0) * 10 ** (-torch.arange(2 * RATE) / RATE)  # 20 dB a second
    for picture, plain in zip(one(module, fading), one(static, fading), strict=True):
        torch.testing.assert_close(picture[:, :1], plain)
    steady = tone(500, 2 * RATE) * 10 ** (-torch.arange(2 * RATE) / RATE)
    slope = one(module, steady).cqt[0, 1, :, 10:20].amin()
    assert float(slope) == pytest.approx(-20 * 256 / RATE, rel=0.1)  # dB a frame
    assert one(module, steady).cqt[0, 2, :, 12:20].abs().amax() < 0.1


def test_pictures_are_float32_whatever_autocast_and_the_waveform_say(images):
    rounded = speech_like().bfloat16()
    plain = one(images, rounded.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for waveform in (rounded.float(), rounded, rounded.double()):
            for found, expected in zip(one(images, waveform), plain, strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)  # compares dtypes too


def test_gradients_flow_back_to_the_waveform_from_both_pictures(images):
    for picture in range(2):
        waveform = speech_like().requires_grad_()
        one(images, waveform)[picture].mean().backward()
        assert waveform.grad.isfinite().all() and waveform.grad.abs().max() > 0


class Forgetful(dict):
    """A cache from which another thread drops everything at once."""

    def __setitem__(self, key, value):
        pass


def test_kernels_that_another_thread_drops_are_still_used():
    cqt = CQT(8000, hop_length=64, fmin=200.0, n_bins=12)
    clip = torch.from_numpy(noise(2000))[None]
    kept = cqt(clip)
    cqt._kernels = Forgetful()
    torch.testing.assert_close(cqt(clip), kept)


def test_threads_share_a_small_kernel_cache_without_harm(monkeypatch):
    monkeypatch.setattr(cqt_module, "BUCKETS", 1)
    cqt = CQT(8000, hop_length=64, fmin=200.0, n_bins=12)
    clips = [torch.from_numpy(noise(400 * (1 + i % 6), seed=i))[None] for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cqt, clips))
    for clip, ours in zip(clips, found, strict=True):
        torch.testing.assert_close(ours, cqt(clip))
    assert len(cqt._kernels) <= 4  # at most one more for each thread that was at it
