"""The front end of the graph makes the images of `SpectrogramImages`, without FFTs."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchaudio.functional import compute_deltas

from features import SpectrogramImages, crops
from inference.graph_images import GraphImages, _crops, _with_deltas, resize_matrix, two_steps

RATE = 16_000
SMALL = {"sample_rate": RATE, "image_size": 48}
SETTINGS = {
    "usual": SMALL,
    "full scale": {**SMALL, "reference": "full_scale", "top_db": 60.0},
    "deltas, other lengths of FFT and hop": {
        **SMALL,
        "channels": "delta",
        "mel": {"n_fft": 500, "hop_length": 160, "n_mels": 40, "fmin": 50.0},
        "cqt": {"hop_length": 160, "n_bins": 60, "window": "hamming"},
    },
    "from 8 kHz": {**SMALL, "input_rate": 8000, "mel": {"win_length": 2048, "fmax": 4000.0}},
    "crops from 22.05 kHz": {**SMALL, "input_rate": 22_050, "seconds": 0.5},
}


def speech_like(seconds: float, rate: int) -> torch.Tensor:
    """Harmonics that come and go, and some noise: (T,)."""
    t = torch.arange(round(seconds * rate)) / rate
    rng = torch.Generator().manual_seed(0)
    voice = sum(torch.sin(2 * torch.pi * 140 * k * t + k) / k for k in range(1, 25))
    noise = 0.01 * torch.randn(len(t), generator=rng)
    return 0.1 * voice * (0.5 + 0.5 * torch.sin(2 * torch.pi * 3 * t)) + noise


@pytest.mark.parametrize("seconds", [0.05, 1.0, 3.3])
@pytest.mark.parametrize("name", SETTINGS)
def test_images_are_those_of_training_but_for_a_step_of_float16(name, seconds):
    images = SpectrogramImages(**SETTINGS[name])
    waveform = speech_like(seconds, images.input_rate)
    expected = images(images.cut(waveform))
    for found, exact in zip(GraphImages(images)(waveform[None]), expected, strict=True):
        rounded = exact.half().float()
        assert found.shape == rounded.shape
        assert (found == found.half().float()).all()
        assert (found - rounded).abs().max() <= 2**-4  # a step of float16 at -64 to -128 dB
        assert (found - rounded).abs().mean() < 5e-4  # few pixels take one


def test_a_batch_gets_what_each_gets_alone():
    images = GraphImages(SpectrogramImages(**SETTINGS["crops from 22.05 kHz"]))
    one, two = speech_like(1.2, 22_050), speech_like(1.2, 22_050).flip(0) / 3
    together = images(torch.stack([one, two]))
    alone = [images(each[None]) for each in (one, two)]
    for i in range(2):
        joined = torch.cat([pair[i] for pair in alone])
        assert len(joined) == 6  # three crops each
        assert (together[i] - joined).abs().max() <= 2**-4


@pytest.mark.parametrize("n", [4096, 500, 480, 13])
def test_two_steps_are_an_fft(n):
    steps = two_steps(n)
    samples = np.random.default_rng(n).standard_normal(n)
    blocks = samples.reshape(steps.n_u, steps.n_v)
    parts = (steps.first @ blocks).reshape(2, steps.n_u, steps.n_v)
    by_u = np.concatenate([parts[0], parts[1]], 1)  # (u, 2V)
    both = np.einsum("uv,uvw->uw", by_u, steps.second)
    spectrum = both[:, : steps.n_w] + 1j * both[:, steps.n_w :]
    expected = np.fft.fft(samples)
    for u in range(steps.n_u):
        for w in range(steps.n_w):
            assert spectrum[u, w] == pytest.approx(expected[u + steps.n_u * w], abs=1e-9)


@pytest.mark.parametrize("n", [5, 48, 64, 101, 640])
def test_resizing_is_pytorchs(n):
    rows = torch.randn(1, 1, 7, n, generator=torch.Generator().manual_seed(n))
    expected = F.interpolate(rows, (7, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(rows @ resize_matrix(n, 48), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9, 13, 14, 15, 18, 101])
def test_crops_start_where_those_of_training_do(n):
    waveform = torch.arange(1.0, n + 1)
    assert torch.equal(_crops(waveform[None], 4)[0], crops(waveform, 4))


def test_slopes_are_torchaudios():
    db = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    delta = compute_deltas(db)
    expected = torch.stack([db, delta, compute_deltas(delta)], 1)
    torch.testing.assert_close(_with_deltas(db), expected)
