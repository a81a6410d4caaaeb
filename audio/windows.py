"""Analysis windows, and the checks of settings and waveforms that both transforms share.

Of a window h of N samples, with H(nu) its spectrum at nu cycles per sample and 1/N an FFT bin:
- Its equivalent noise bandwidth is that of a rectangular filter which passes as much white noise
  and has the same peak, in bins (Parseval's theorem gives the sum over h):
      N integral |H(nu)|^2 dnu / |H(0)|^2 = N sum h^2 / (sum h)^2.    1.5 for Hann
- Zero padding to N K samples gives H at K points per bin. The last point where |H| exceeds a part
  of |H(0)| says how far side lobes reach. They fall faster, the smoother the window ends: a window
  with steps at its ends (Hamming) has lobes that fall as 1/nu and reach all of the spectrum.
"""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from system.errors import InputError

MAX_TERM = 1000  # of the ratio of two rates
SMALLEST_SUM = 1e-9  # of a window, as part of that of its magnitudes: a tone must not vanish


def get_window(window: Any, length: int, section: str) -> NDArray[np.float64]:
    """Return a periodic window.

    Args:
        window: Anything that `scipy.signal.get_window` takes: a name, or [name, parameter].
        length: Number of samples.
        section: `cqt` or `mel`: the config section that an error message names.

    Raises:
        InputError: scipy has no such window, or its values are not finite or have the sum 0.
    """
    import scipy.signal  # a second of CPU time

    try:
        given = tuple(window) if isinstance(window, list) else window
        with np.errstate(all="ignore"):
            values: NDArray[np.float64] = scipy.signal.get_window(given, length)
            power, size = np.square(values).sum(), np.abs(values).sum()
        if not (np.isfinite(power) and abs(values.sum()) > SMALLEST_SUM * size):
            raise ValueError("its values are not finite, or their sum is 0")
        return values
    except (ValueError, TypeError, OverflowError, LookupError) as error:
        raise InputError(
            f"features.{section}.window={window!r} is not a window: scipy.signal.get_window must "
            f"know it, e.g. hann, hamming, blackmanharris or [kaiser, 14.0] ({error})"
        ) from error


def check_whole(name: str, value: Any) -> None:
    """Refuse a setting that is not a whole number of 1 or more."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of 1 or more, got {value!r}")


def check_positive(name: str, value: Any, or_zero: bool = False) -> None:
    """Refuse a setting that is not a finite number above 0, or one of 0 or more."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf or (value == 0 and not or_zero):
        allowed = "of 0 or more" if or_zero else "above 0"
        raise InputError(f"{name} must be a finite number {allowed}, got {value!r}")


def check_waveform(waveform: Tensor) -> None:
    """Refuse what is not a batch of floating-point waveforms; integers have another full scale."""
    if not isinstance(waveform, Tensor):
        got = type(waveform).__name__
    elif waveform.ndim == 2 and waveform.is_floating_point() and len(waveform):
        return
    else:
        got = f"{tuple(waveform.shape)} of {waveform.dtype}"
    raise InputError(
        "waveform must be a tensor (B, T) of a floating-point type, B >= 1, with samples in "
        f"[-1, 1], got {got}"
    )


def check_rates(input_rate: int, sample_rate: int) -> None:
    """Refuse rates whose ratio has large terms: frames would start at too many sample fractions."""
    check_whole("features.sample_rate", sample_rate)
    check_whole("features.input_rate", input_rate)
    common = math.gcd(input_rate, sample_rate)
    if max(input_rate, sample_rate) // common > MAX_TERM:
        raise InputError(
            f"features.input_rate={input_rate} and features.sample_rate={sample_rate} have the "
            f"ratio {input_rate // common}:{sample_rate // common}: its terms must be at most "
            f"{MAX_TERM}, as between 8000, 16000, 22050, 24000, 44100 and 48000"
        )


def check_hop(section: str, hop_length: int, sample_rate: int) -> None:
    """Refuse a hop that leaves a second with fewer than four frames."""
    check_whole(f"features.{section}.hop_length", hop_length)
    if hop_length > sample_rate / 4:
        raise InputError(
            f"features.{section}.hop_length={hop_length} is more than a quarter of a second at "
            f"{sample_rate} Hz: at most {sample_rate // 4}"
        )


def bandwidth(window: NDArray) -> float:
    """Return the equivalent noise bandwidth in FFT bins, as `librosa.filters.window_bandwidth`."""
    return float(len(window) * np.square(window).sum() / window.sum() ** 2)


def side_lobes(window: NDArray, tolerance: float) -> float:
    """Return how far a window's side lobes reach, in bins from its centre.

    Args:
        window: Samples of the window.
        tolerance: Part of the peak below which lobes do not count.

    Returns:
        Bins; infinite where the lobes reach half of the sampling rate, as Hamming's do, since those
        of a longer window would reach still more bins.
    """
    K = 16  # points per bin
    spectrum = np.abs(np.fft.rfft(window, len(window) * K))
    lobes = (np.flatnonzero(spectrum > tolerance * spectrum[0]).max() + 1) / K
    return float(lobes) if lobes < len(window) // 2 - 1 else float("inf")
