"""Windows and settings: periodic, measured as librosa does, refused by the name of their key."""

import math
import re

import librosa
import numpy as np
import pytest
import torch

from audio.cqt import CQT
from audio.mel_stft import MelSTFT
from audio.windows import bandwidth, check_hop, get_window, side_lobes
from features import SpectrogramImages
from system.errors import InputError

WHOLE, POSITIVE = "a whole number of 1 or more", "a finite number above 0"
OUT_OF_RANGE = [  # transform, argument, values, what is allowed
    (CQT, "sample_rate", (0, -1, 16000.0), WHOLE),
    (CQT, "input_rate", (0, -8000, 8000.5), WHOLE),
    (CQT, "hop_length", (0, -1, 256.5, True), WHOLE),
    (CQT, "n_bins", (0, -1, 12.0), WHOLE),
    (CQT, "bins_per_octave", (0, -12, 12.5), WHOLE),
    (CQT, "fmin", (0, -1.0, math.nan, math.inf, "55"), POSITIVE),
    (CQT, "filter_scale", (0, -1.0, math.nan, math.inf), POSITIVE),
    (MelSTFT, "sample_rate", (0, -1, 16000.0), WHOLE),
    (MelSTFT, "hop_length", (0, -1, 256.5), WHOLE),
    (MelSTFT, "n_fft", (0, -1, 512.0), WHOLE),
    (MelSTFT, "n_mels", (0, -1, 12.0), WHOLE),
    (MelSTFT, "win_length", (0, -1, 400.0), WHOLE),
    (MelSTFT, "fmin", (-1.0, math.nan, math.inf, "x", None), "a finite number of 0 or more"),
    (SpectrogramImages, "input_rate", (0, -8000), WHOLE),
    (SpectrogramImages, "image_size", (0, 32.0), WHOLE),
    (SpectrogramImages, "top_db", (0, -80.0, math.inf), POSITIVE),
    (SpectrogramImages, "seconds", (0, -1.0, math.nan), POSITIVE),
    (SpectrogramImages, "reference", ("max", None), "one of"),
    (SpectrogramImages, "channels", ("deltas", 3), "one of"),
]


@pytest.mark.parametrize(
    ("transform", "name", "value", "allowed"),
    [(kind, name, value, allowed) for kind, name, row, allowed in OUT_OF_RANGE for value in row],
)
def test_a_setting_out_of_range_is_refused_by_name_value_and_what_is_allowed(
    transform, name, value, allowed
):
    settings = {"sample_rate": 16_000, name: value}
    words = rf"[a-z.]*\b{name} must be {allowed}.*, got {re.escape(repr(value))}$"
    with pytest.raises(InputError, match=words):
        transform(**settings)


@pytest.mark.parametrize("transform", [CQT, MelSTFT, SpectrogramImages])
@pytest.mark.parametrize(
    "waveform",
    [
        torch.ones(1, 8000, dtype=torch.int16),
        torch.ones(1, 8000, dtype=torch.complex64),
        torch.ones(1, 8000, dtype=torch.bool),
        torch.ones(8000),
        torch.ones(1, 2, 8000),
    ],
    ids=lambda x: f"{tuple(x.shape)} {x.dtype}",
)
def test_a_waveform_of_another_type_or_shape_is_refused(transform, waveform):
    module = transform(16_000, **({"fmin": 200.0, "n_bins": 24} if transform is CQT else {}))
    words = rf"\(B, T\) of a floating-point type.* got {re.escape(str(tuple(waveform.shape)))}"
    with pytest.raises(InputError, match=f"waveform must be a tensor {words} of {waveform.dtype}"):
        module(waveform)


@pytest.mark.parametrize("length", [1, 2, 17, 400])
def test_windows_are_periodic(length):
    expected = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    if length > 1:
        np.testing.assert_allclose(get_window("hann", length, "mel"), expected, atol=1e-15)
    assert get_window(("kaiser", 14.0), length, "cqt").shape == (length,)


@pytest.mark.parametrize("window", ["foo", "kaiser", ("hann", 1, 2, 3), None, 3j])
@pytest.mark.parametrize("section", ["cqt", "mel"])
def test_what_scipy_does_not_make_is_refused_by_its_key(window, section):
    with pytest.raises(InputError, match=f"features.{section}.window=.* is not a window: .*hann"):
        get_window(window, 16, section)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "window",
    [
        *(["gaussian", 0.0], ["kaiser", math.nan], ["kaiser", 1e9]),  # NaN
        *(["general_hamming", 0.0], ["general_hamming", 1e300]),  # the sum 0, too large a power
        ["chebwin", 1e9],  # overflows
    ],
    ids=str,
)
@pytest.mark.parametrize("transform", [CQT, MelSTFT])
def test_a_window_that_cannot_measure_a_tone_is_refused_in_one_message(transform, window):
    words = rf"features.*\.window={re.escape(repr(window))} is not a window"
    with pytest.raises(InputError, match=words):
        transform(44_100, window=window)


@pytest.mark.parametrize("rate", [8000, 22_050])
@pytest.mark.parametrize("section", ["cqt", "mel"])
def test_a_hop_of_a_quarter_of_a_second_is_the_longest(rate, section):
    longest = rate // 4
    check_hop(section, longest, rate)
    with pytest.raises(InputError, match=f"{section}.hop_length={longest + 1} .* most {longest}$"):
        check_hop(section, longest + 1, rate)


@pytest.mark.parametrize("window", ["hann", "hamming", "blackmanharris", "boxcar"])
def test_the_bandwidth_is_librosas(window):
    expected = librosa.filters.window_bandwidth(window, 1000)
    assert bandwidth(get_window(window, 1000, "cqt")) == pytest.approx(
        expected, rel=1e-3
    )  # of 1000 samples


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 2e-6])
def test_side_lobes_end_where_hanns_formula_stays_below_the_tolerance(tolerance):
    b = np.arange(1.5, 600, 1)  # bins: the tops of the lobes
    peaks = np.abs(np.sinc(b) / (1 - b**2))
    last = b[peaks > tolerance].max()
    found = side_lobes(get_window("hann", 8192, "cqt"), tolerance)
    assert found == pytest.approx(last, abs=0.6)
