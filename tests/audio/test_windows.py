"""Windows and hops: periodic, measured as librosa does, refused by the name of their key."""

import librosa
import numpy as np
import pytest

from audio.windows import bandwidth, check_hop, get_window, side_lobes
from system.errors import InputError


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
