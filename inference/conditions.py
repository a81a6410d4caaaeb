"""Changes of the sound of test utterances: noise, level, telephone, low-pass, speed."""

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from audio.augment import augment_waveform

MU = 255  # of G.711


class Condition(NamedTuple):
    """One change of the test utterances."""

    name: str
    kind: str  # clean, noise, gain, low-pass or speed
    value: float = 0.0  # SNR in dB, gain in dB, cutoff in Hz, or speed factor
    mu_law: bool = False  # 8 bits a sample at twice the cutoff


CONDITIONS = (
    Condition("clean", "clean"),
    Condition("noise 30 dB", "noise", 30.0),
    Condition("noise 20 dB", "noise", 20.0),
    Condition("noise 10 dB", "noise", 10.0),
    Condition("noise 0 dB", "noise", 0.0),
    Condition("gain -20 dB", "gain", -20.0),
    Condition("gain -6 dB", "gain", -6.0),
    Condition("gain +6 dB", "gain", 6.0),
    Condition("telephone (4 kHz, mu-law)", "low-pass", 4000.0, mu_law=True),
    Condition("low-pass 2 kHz", "low-pass", 2000.0),
    Condition("speed 0.9", "speed", 0.9),
    Condition("speed 1.1", "speed", 1.1),
)


def change(
    waveform: NDArray[np.float32], sample_rate: int, condition: Condition, seed: int
) -> NDArray[np.float32]:
    """Apply a condition to the waveform of an utterance.

    Noise is white up to half the sample rate, at a ratio to the mean power of the utterance. Gain
    clips at full scale, as a recorder does. Low-pass resamples to twice the cutoff and back, for
    the telephone through 8 bits a sample at 8 kHz. Speed changes the pitch, too.

    Args:
        waveform: Samples of one utterance, full scale 1.
        sample_rate: Sample rate in Hz.
        condition: One of `CONDITIONS`.
        seed: Seed of the noise.

    Shape:
        (T,) -> (T,), with speed (about T / speed,)

    Source:
        ITU-T G.711 for the telephone, by the continuous mu-law that the standard approximates in
        straight pieces; the telephone's high-pass at 300 Hz is left out. Ko et al. 2015 for speed.
    """
    if condition.kind == "clean":
        return waveform
    if condition.kind == "noise":
        ratio = (condition.value, condition.value)
        return augment_waveform(waveform, sample_rate, (0, 0, seed), snr_db=ratio)
    if condition.kind == "gain":
        return np.clip(waveform * np.float32(10 ** (condition.value / 20)), -1, 1)
    if condition.kind == "speed":
        return soxr.resample(waveform, condition.value, 1.0)
    low = soxr.resample(waveform, sample_rate, 2 * condition.value)
    if condition.mu_law:
        low = through_mu_law(low)
    back = soxr.resample(low, 2 * condition.value, sample_rate)[: len(waveform)]
    return np.pad(back, (0, len(waveform) - len(back)))


def through_mu_law(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quantize to 8 bits a sample, sign and 127 mu-law levels: (T,) -> (T,).

    >>> through_mu_law(np.float32([0, 1, -2])).tolist()
    [0.0, 1.0, -1.0]
    """
    level = np.log1p(MU * np.minimum(np.abs(waveform), 1)) / np.log1p(MU)  # 0..1
    kept = np.expm1(np.round(127 * level) / 127 * np.log1p(MU)) / MU
    return np.copysign(kept, waveform).astype(np.float32)
