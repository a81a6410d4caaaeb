"""Sound and images of a recording as data URIs, for pages that are one file."""

import base64
import io

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from audio.reading import read_audio
from audio.segment import AudioSource
from evaluation.figures import spectrogram_png
from features import SpectrogramImages

AUDIO_RATE = 16_000  # Hz, of the sound in a page
FLAC_BLOCK = 4096  # samples in a block of libsndfile
LOSSLESS_SECONDS = 60  # of a longer sound a minute takes 1 MB, as MP3 a fifth of that


@torch.inference_mode()
def image_uris(
    source: AudioSource, front_end: SpectrogramImages, recording: str | None
) -> tuple[dict[str, str], float]:
    """Return both images, of the first crop where there are several, and how many seconds it has.

    Args:
        source: The recording.
        front_end: What makes the images.
        recording: Expected `Recording.hash`; None accepts any recording.

    Raises:
        BadAudio: It cannot be read, or is another recording.
    """
    waveform = torch.from_numpy(read_audio(source, front_end.input_rate, recording))
    crop = front_end.cut(waveform)[:1]
    uris = {
        name: data_uri("image/png", spectrogram_png(image[0, 0].numpy(), -front_end.top_db))
        for name, image in zip(("CQT", "Mel"), front_end(crop), strict=True)
    }
    return uris, crop.shape[1] / front_end.input_rate


def sound_uri(source: AudioSource, recording: str | None, seconds: float | None = None) -> str:
    """Return the sound at AUDIO_RATE.

    Args:
        source: The recording.
        recording: Expected `Recording.hash`; None accepts any recording.
        seconds: How much of its beginning; None is all.

    Raises:
        BadAudio: It cannot be read, or is another recording.
    """
    samples = read_audio(source, AUDIO_RATE, recording)
    if seconds is not None:
        samples = samples[: round(seconds * AUDIO_RATE)]
    return samples_uri(samples, AUDIO_RATE)


def samples_uri(samples: NDArray[np.float32], rate: int) -> str:
    """Return samples (T,) as sound at AUDIO_RATE: without loss, or as MP3 if there are many."""
    if rate != AUDIO_RATE:
        samples = soxr.resample(samples, rate, AUDIO_RATE, "HQ")
    kind, subtype, mime = "FLAC", "PCM_16", "audio/flac"
    if len(samples) <= FLAC_BLOCK:
        kind, mime = "WAV", "audio/wav"  # Chromium cannot play one block
    elif len(samples) > LOSSLESS_SECONDS * AUDIO_RATE and "MP3" in soundfile.available_formats():
        kind, subtype, mime = "MP3", "MPEG_LAYER_III", "audio/mpeg"
    packed = io.BytesIO()
    soundfile.write(packed, np.clip(samples, -1, 1), AUDIO_RATE, format=kind, subtype=subtype)
    return data_uri(mime, packed.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Return bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
