"""The schema of the signal, sections `features` and `augment`, and the base of all sections."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]  # float32 ends at 3e38
Decibel = Annotated[float, Field(ge=-20, le=100)]
Window = str | list[str | float]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Strict: unknown keys and wrong types are refused, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class CqtConfig(Section):
    """Constant-Q transform, librosa's parameter names."""

    fmin: Annotated[float, Field(ge=1)] = 32.70319566257483
    """Hz, the note C1."""
    n_bins: Annotated[int, Field(ge=1, le=2000)] = 84
    bins_per_octave: Annotated[int, Field(ge=2, le=200)] = 12
    hop_length: Count = 512
    """Samples."""
    window: Window = "hann"
    """Any of scipy.signal.get_window: a name, or a list of name and parameters."""
    filter_scale: Positive = 1.0
    """Length of the wavelets: below 1 sharper in time, above 1 in frequency."""


class MelConfig(Section):
    """Mel-STFT, librosa's parameter names."""

    n_fft: Annotated[int, Field(ge=16, le=131_072)] = 4096
    """Samples."""
    hop_length: Count = 256
    """Samples."""
    n_mels: Annotated[int, Field(ge=4, le=2000)] = 128
    fmin: Annotated[float, Field(ge=0)] = 0.0
    """Hz."""
    fmax: Positive | None = None
    """Hz; null is half the sample rate."""
    window: Window = "hann"
    """Any of scipy.signal.get_window: a name, or a list of name and parameters."""
    win_length: Count | None = None
    """Samples of the window; null is n_fft."""


class FeaturesConfig(Section):
    """From a waveform to two images in dB."""

    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = 44_100
    """Hz in which hop_length and n_fft are counted; up to half of it is seen."""
    input_rate: Annotated[int, Field(ge=4000, le=192_000)] | None = None
    """Hz at which clips are read, e.g. 16000 for a corpus at 16 kHz, and from which they are
    resampled on the device; null is sample_rate."""
    cqt: CqtConfig = CqtConfig()
    mel: MelConfig = MelConfig()
    top_db: Positive = 80.0
    """dB kept below the reference."""
    reference: Literal["clip", "full_scale"] = "clip"
    """0 dB is the clip's own maximum (its level is removed), or a full-scale tone (kept)."""
    channels: Literal["static", "delta"] = "static"
    """One channel, or static + delta + delta-delta."""
    seconds: Annotated[float, Field(ge=0.1, le=60)] | None = None
    """Length of a image: training sees a crop, evaluation averages over all; null stretches."""


class AugmentConfig(Section):
    """Changes in training, drawn anew for each clip and epoch; 0 is off."""

    freq_mask: Fraction = 0.0
    """Largest part of the height that is masked."""
    time_mask: Fraction = 0.0
    """Largest part of the width that is masked."""
    time_shift: Fraction = 0.0
    """Largest shift, as a part of the width."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Images and targets of two clips are mixed in parts drawn from Beta(mixup, mixup)."""
    gain_db: Annotated[float, Field(ge=0, le=60)] | None = None
    """Largest change of level; only with train.images=computed, as the three below."""
    snr_db: Annotated[list[Decibel], Field(min_length=2, max_length=2)] | None = None
    """White noise between these two signal-to-noise ratios, e.g. [10, 30]; null is none."""
    speed: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Largest change of speed, pitch with it: 0.1 is 0.9 to 1.1."""
    pitch: Annotated[float, Field(ge=0, le=12)] | None = None
    """Largest change of pitch in semitones, at the same speed."""
