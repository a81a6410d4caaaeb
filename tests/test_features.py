"""The two images: their scale, their edges, and where they run: compiled and exported."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchaudio
from torch import nn

from audio.cqt import CQT
from features import RESAMPLER, SpectrogramImages
from models.compiled import forget_graphs
from system.errors import InputError
from tests.support.models import small_model
from tests.support.paths import ROOT

RATE = 16_000  # Hz
SMALL = {
    "sample_rate": RATE,
    "image_size": 32,
    "cqt": {"hop_length": 256, "n_bins": 60},
    "mel": {"n_fft": 512, "hop_length": 128, "n_mels": 40},
}


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


def test_results_do_not_depend_on_the_clips_before(images):
    first = one(SpectrogramImages(**SMALL), speech_like())
    for n in (100, 5000, 30_000):
        one(images, tone(300, n))
    again = one(images, speech_like())
    assert torch.equal(first.cqt, again.cqt) and torch.equal(first.mel, again.mel)


@pytest.mark.parametrize("lengths", [[0], [101], [5, 5]])
def test_lengths_outside_the_waveform_are_refused(images, lengths):
    with pytest.raises(ValueError, match="there must be 1 lengths in 1..100"):
        images(torch.zeros(1, 100), torch.tensor(lengths))


@pytest.mark.parametrize("shape", [(100,), (0, 100), (2, 0), (1, 1, 100)])
def test_a_waveform_of_another_shape_is_refused(images, shape):
    with pytest.raises(ValueError, match=r"waveform must be (a tensor )?\(B, T\)"):
        images(torch.zeros(shape))


@pytest.mark.parametrize("input_rate", [15_999, 44_099])
def test_rates_without_a_common_factor_are_refused(input_rate):
    for module in (SpectrogramImages, CQT):
        with pytest.raises(InputError, match=f"{input_rate}:16000.*at most 1000"):
            module(RATE, input_rate=input_rate)


@pytest.mark.parametrize("channels", ["static", "delta"])
def test_peer_14_images_are_square_of_the_image_size_after_one_resize(channels, monkeypatch):
    sizes = []
    resize = torch.nn.functional.interpolate
    monkeypatch.setattr(
        "features.F.interpolate", lambda x, size, **k: sizes.append(size) or resize(x, size, **k)
    )
    module = SpectrogramImages(**SMALL, channels=channels)
    for image in one(module, speech_like()):
        assert image.shape == (1, module.n_channels, 32, 32)
        assert image.dtype == torch.float32
    assert sizes == [(32, 32)] * 2  # one for each image


def test_every_bin_leaves_its_mark_when_many_share_a_row():
    module = SpectrogramImages(**SMALL | {"image_size": 6}, top_db=10.0)
    tones = torch.stack([tone(f) for f in module.cqt.frequencies[10:50]])
    marks = 10 + module(tones).cqt[:, 0, :, 3].sum(1) / 6  # dB above the floor, over all rows
    assert marks.min() > 0.5 * marks.max()


def test_row_0_is_the_lowest_frequency(images):
    low, middle, high = (
        [int(p[0, 0].mean(-1).argmax()) for p in one(images, tone(f))] for f in (40, 300, 900)
    )
    assert low[0] < 3 and low[1] == 0  # rows of the CQT and of the Mel image
    assert low[0] < middle[0] < high[0] and low[1] < middle[1] < high[1]


def test_time_runs_from_left_to_right(images):
    waveform = torch.cat([torch.zeros(RATE), tone(500)])
    for image in one(images, waveform):
        assert image[0, 0, :, 20:].amax() > -10 and image[0, 0, :, :10].amax() < -60


def test_20_db_more_shift_a_full_scale_image_by_20():
    module = SpectrogramImages(**SMALL, reference="full_scale", top_db=200.0)
    loud, quiet = one(module, speech_like()), one(module, speech_like() / 10)
    for a, b in zip(loud, quiet, strict=True):
        torch.testing.assert_close(a - b, torch.full_like(a, 20.0), rtol=0, atol=0.01)


@pytest.mark.parametrize("gain", [0.001, 0.1, 10.0])
def test_level_leaves_a_clip_image_unchanged(images, gain):
    for a, b in zip(one(images, speech_like()), one(images, gain * speech_like()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)


@pytest.mark.parametrize("window", ["hann", "hamming"])
def test_0_db_is_the_clips_maximum_or_a_full_scale_tone(window):
    settings = SMALL | {"image_size": 60}  # as many rows as bins: the resize mixes none
    settings["cqt"] = SMALL["cqt"] | {"window": window}
    settings["mel"] = SMALL["mel"] | {"n_mels": 60, "n_fft": 1024, "window": window}
    clip = SpectrogramImages(**settings)
    full_scale = SpectrogramImages(**settings, reference="full_scale")
    frequencies = [32.70319566257483] + [k * RATE / 4096 for k in range(60, 90)]  # 1/4 FFT bin
    tones = torch.stack([tone(f, 4 * RATE) for f in frequencies])
    lengths = torch.full((len(tones),), 4 * RATE)
    for image in clip(tones / 10, lengths):
        assert float(image[0].amax()) == pytest.approx(0, abs=0.1)
    for image in full_scale(2 * tones, lengths):
        assert float(image.amax()) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("reference", ["clip", "full_scale"])
@pytest.mark.parametrize("amplitude", [0.0, 1e-12])
def test_silence_is_finite_and_at_the_floor(reference, amplitude):
    module = SpectrogramImages(**SMALL, reference=reference, top_db=60.0)
    for image in one(module, torch.full((RATE,), amplitude)):
        torch.testing.assert_close(image, torch.full_like(image, -60.0))


def test_no_value_is_below_the_floor_or_above_the_reference(images):
    for image in one(images, speech_like()):
        assert image.amin() >= -80 - 1e-4 and image.amax() <= 1e-4


@pytest.mark.parametrize("channels", ["static", "delta"])
def test_a_batch_equals_one_at_a_time_whatever_lies_beyond_the_lengths(channels):
    module = SpectrogramImages(**SMALL, channels=channels)
    assert_batch_is_one_by_one(module, [RATE, 700, 9001, 1], garbage=float("nan"))


def assert_batch_is_one_by_one(module, lengths, garbage):
    batch = torch.full((len(lengths), RATE), garbage)  # must not be seen behind the clips
    for row, n in zip(batch, lengths, strict=True):
        row[:n] = speech_like()[:n] + 0.01
    together = module(batch, torch.tensor(lengths))
    for i, n in enumerate(lengths):
        for both, alone in zip(together, one(module, batch[i, :n]), strict=True):
            torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=0.02)


@pytest.mark.parametrize("n_samples", [1, 2, 160, 255, 256, 257])
@pytest.mark.parametrize("channels", ["static", "delta"])
def test_very_short_clips_have_images(n_samples, channels):
    module = SpectrogramImages(**SMALL, channels=channels)
    for image in one(module, tone(500, n_samples) + 0.1):
        assert image.shape[-2:] == (32, 32) and image.isfinite().all()


def test_delta_is_static_and_its_slopes():
    static = SpectrogramImages(**SMALL)
    module = SpectrogramImages(**SMALL, channels="delta")
    assert (static.n_channels, module.n_channels) == (1, 3)
    fading = speech_like(2.0) * 10 ** (-torch.arange(2 * RATE) / RATE)  # 20 dB a second
    for image, plain in zip(one(module, fading), one(static, fading), strict=True):
        torch.testing.assert_close(image[:, :1], plain)
    steady = tone(500, 2 * RATE) * 10 ** (-torch.arange(2 * RATE) / RATE)
    slope = one(module, steady).cqt[0, 1, :, 10:20].amin()
    assert float(slope) == pytest.approx(-20 * 256 / RATE, rel=0.1)  # dB a frame
    assert one(module, steady).cqt[0, 2, :, 12:20].abs().amax() < 0.1


def test_images_are_float32_whatever_autocast_and_the_waveform_say(images):
    rounded = speech_like().bfloat16()
    plain = one(images, rounded.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for waveform in (rounded.float(), rounded, rounded.double()):
            for found, expected in zip(one(images, waveform), plain, strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0)  # compares dtypes too


def test_gradients_flow_back_to_the_waveform_from_both_images(images):
    for image in range(2):
        waveform = speech_like().requires_grad_()
        one(images, waveform)[image].mean().backward()
        assert waveform.grad.isfinite().all() and waveform.grad.abs().max() > 0


def test_images_have_no_weights(images):
    one(images, tone(440))
    assert not list(images.parameters()) and not images.state_dict()


# Clips of another rate


NATIVE = {  # of 16 kHz, computed as at 44.1 kHz
    "sample_rate": 44_100,
    "image_size": 32,
    "input_rate": RATE,
    "cqt": {"hop_length": 512, "fmin": 100.0, "n_bins": 60},
    "mel": {"n_fft": 1024, "hop_length": 512, "n_mels": 40},
}


def test_clips_of_another_rate_have_the_images_of_the_resampled_clips():
    x = speech_like(0.7)
    resampled = torchaudio.functional.resample(x, RATE, 44_100, **RESAMPLER)
    native, other = SpectrogramImages(**NATIVE), SpectrogramImages(**NATIVE | {"input_rate": None})
    for found, expected in zip(one(native, x), one(other, resampled), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_a_cqt_needs_no_resampled_copy():
    x = speech_like(0.7)
    resampled = torchaudio.functional.resample(x, RATE, 44_100, **RESAMPLER)
    found = CQT(44_100, input_rate=RATE).power(x[None])
    expected = CQT(44_100).power(resampled[None])
    assert found.shape == expected.shape
    in_db = [10 * torch.log10((p / expected.max()).clamp_min(1e-8)) for p in (found, expected)]
    difference = (in_db[0] - in_db[1]).abs()  # largest at the clip's ends, where copies ring
    assert difference.mean() < 0.005 and difference.max() < 1


def test_a_batch_of_another_rate_equals_one_at_a_time():
    module = SpectrogramImages(**NATIVE)
    assert_batch_is_one_by_one(module, [RATE, 700, 9001, 1, 557], garbage=float("inf"))


# What is loaded when

HEAVY = ("torch._dynamo", "scipy.signal", "scipy.fft", "torchaudio")


def loaded_after(statements):
    """Return which heavy modules a fresh process has loaded after some statements."""
    report = f"import sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    command = [sys.executable, "-c", f"{statements}\n{report}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_the_front_end_loads_no_library_that_only_spectra_need():
    assert loaded_after("import features, audio.augment").split() == []


def test_images_are_computed_without_loading_the_compiler():
    first_images = f"images = SpectrogramImages(**{SMALL}); images(torch.randn(1, 4000))"
    loaded = loaded_after(f"import torch; from features import SpectrogramImages; {first_images}")
    assert "torch._dynamo" not in loaded and "scipy.signal" in loaded


# Elsewhere than in eager mode


class Whole(nn.Module):
    """From waveforms to logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.images = SpectrogramImages(**SMALL)
        self.model = small_model("gmu", mlp_hidden_dim=16)

    def forward(self, waveform):
        images = self.images(waveform)
        return *images, self.model(*images).logits


def speech_batch():
    return torch.stack([speech_like(0.5), 0.1 * speech_like(0.5).flip(0)])


def test_all_lengths_are_as_if_none_was_given(images):
    batch = speech_batch()
    for plain, with_lengths in zip(
        images(batch), images(batch, torch.tensor([8000] * 2)), strict=True
    ):
        torch.testing.assert_close(plain, with_lengths, rtol=0, atol=1e-4)


def test_the_front_end_compiles_as_one_graph(images):
    batch = speech_batch()
    expected = images(batch)  # makes the kernels
    try:
        found = torch.compile(images, fullgraph=True)(batch)
    finally:
        forget_graphs()
    for compiled, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-3)  # dB


def test_every_length_compiles_to_a_graph_of_its_own(images):
    graphs = []

    def note(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(images, fullgraph=True, backend=note)
    try:
        for n in (9000, 12_345, 16_000, 9000):
            batch = speech_like()[None, :n].repeat(2, 1)
            eager = images(batch)  # makes the kernels
            for found, expected in zip(compiled(batch), eager, strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    finally:
        forget_graphs()
    assert len(graphs) == 3


def test_front_end_and_model_run_in_onnx_runtime(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    whole, batch = Whole().eval(), speech_batch()
    file = tmp_path / "whole.onnx"
    torch.onnx.export(whole, (batch,), file, dynamo=True, opset_version=20, verbose=False)
    assert not whole.images.cqt._kernels  # stand-ins for tensors are not kept
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    other = torch.stack([tone(500, 8000), speech_like(0.5) / 2])  # not what was traced
    with torch.no_grad():
        *images, logits = whole(other)
    *found, found_logits = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    for runtime, eager in zip(found, images, strict=True):
        np.testing.assert_allclose(runtime, eager.numpy(), rtol=0, atol=0.05)  # dB
    np.testing.assert_allclose(found_logits, logits.numpy(), rtol=0, atol=1e-3)
