"""Analysis windows and hops: what both transforms refuse alike."""

from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from errors import InputError


def get_window(window: Any, length: int, view: str) -> NDArray[np.float64]:
    """Return a periodic window.

    Args:
        window: Whatever `scipy.signal.get_window` takes: a name, or (name, parameter).
        length: Samples.
        view: `cqt` or `mel`, whose key a message names.

    Raises:
        InputError: scipy makes no such window.
    """
    try:
        return scipy.signal.get_window(window, length)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"features.{view}.window={window!r} is no window: allowed is what "
            "scipy.signal.get_window makes without further parameters, e.g. hann, hamming, "
            f"blackmanharris ({error})"
        ) from error


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
