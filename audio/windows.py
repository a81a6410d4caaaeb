"""Analysis windows and hops: what both transforms refuse alike."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import InputError

MAX_TERM = 1000  # of the ratio of two rates


def get_window(window: Any, length: int, view: str) -> NDArray[np.float64]:
    """Return a periodic window.

    Args:
        window: Whatever `scipy.signal.get_window` takes: a name, or [name, parameter].
        length: Samples.
        view: `cqt` or `mel`, whose key a message names.

    Raises:
        InputError: scipy makes no such window.
    """
    import scipy.signal  # takes a second

    try:
        given = tuple(window) if isinstance(window, list) else window
        return scipy.signal.get_window(given, length)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"features.{view}.window={window!r} is no window: allowed is what "
            "scipy.signal.get_window makes, e.g. hann, hamming, blackmanharris or "
            f"[kaiser, 14.0] ({error})"
        ) from error


def check_rates(input_rate: int, sample_rate: int) -> None:
    """Refuse rates whose ratio has large terms: frames would fall on too many parts of a sample."""
    common = math.gcd(input_rate, sample_rate)
    if max(input_rate, sample_rate) // common > MAX_TERM:
        raise InputError(
            f"features.input_rate={input_rate} and features.sample_rate={sample_rate} have the "
            f"ratio {input_rate // common}:{sample_rate // common}: its terms must be at most "
            f"{MAX_TERM}, as between 8000, 16000, 22050, 24000, 44100 and 48000"
        )


def check_hop(view: str, hop_length: int, sample_rate: int) -> None:
    """Refuse a hop that leaves a second with fewer than four frames."""
    if hop_length > sample_rate / 4:
        raise InputError(
            f"features.{view}.hop_length={hop_length} is more than a quarter of a second at "
            f"{sample_rate} Hz: at most {sample_rate // 4}"
        )


def bandwidth(window: NDArray) -> float:
    """Return the equivalent noise bandwidth in FFT bins, as librosa counts it."""
    return float(len(window) * np.square(window).sum() / window.sum() ** 2)


def side_lobes(window: NDArray, tolerance: float) -> float:
    """Return how far from its centre a window's spectrum passes a part of its peak, in bins.

    Infinite for a window with steps at its ends, as Hamming's: longer ones go on for ever farther.
    """
    finer = 16  # points a bin
    spectrum = np.abs(np.fft.rfft(window, len(window) * finer))
    lobes = (np.flatnonzero(spectrum > tolerance * spectrum[0]).max() + 1) / finer
    return float(lobes) if lobes < len(window) // 2 - 1 else float("inf")
