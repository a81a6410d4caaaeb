"""Quality of a recording: clipping, offset, silent ends, channels, and where its spectrum ends."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audio.description import Description
from audio.opening import open_file
from audio.reading import CHANGED, BadAudio, Sound, open_audio
from audio.segment import AudioSource, as_segment
from audio.trim import FrameLevels, loud_frames

SILENCE_DB = 40.0  # dB below the loudest frame: silent
FLAT = 3  # samples in a row at the largest or smallest value make a flat top


class Quality(NamedTuple):
    """Quality of a recording as it lies in its file."""

    peak: float  # largest magnitude of a sample in any channel; full scale is 1
    flat_tops: int  # places that stay at the extreme of their channel for FLAT samples or more
    offset: float  # mean of the samples, as a share of the RMS around it
    silence_start: float  # s before the first frame less than SILENCE_DB below the loudest
    silence_end: float  # s after the last one
    cutoff: float  # Hz at which a filter ended the sound; half the rate where none did
    channels: int
    difference: float  # dB of what channels do not share, see `ChannelLevels.difference`


def measure_quality(source: AudioSource, recording: str | None = None) -> Quality:
    """Measure a file or a segment of it in blocks; memory does not grow with its length.

    Args:
        source: Audio file, or a segment of it.
        recording: Expected `Recording.hash`; None accepts any recording.

    Raises:
        BadAudio: `read_audio` would refuse it.
    """
    segment = as_segment(source)
    with open_file(segment.path) as file, open_audio(file) as audio:
        description, levels = Description(audio.samplerate), FrameLevels(audio.samplerate)
        flat = FlatTops(audio.channels)
        sound = Sound(audio, segment, description)
        total = 0.0
        for samples, mono in sound.channel_blocks():
            levels.add(torch.from_numpy(mono))
            flat.add(samples)
            total += float(mono.sum(dtype=np.float64))
    if recording not in (None, sound.hash):
        raise BadAudio(CHANGED)
    rms = 10 ** (description.facts().level / 20)
    start, end = _silent_ends(levels, sound.n_samples)
    return Quality(
        peak=float(np.abs(flat.extremes).max()),
        flat_tops=int(flat.count.sum()),
        offset=total / sound.n_samples / rms,
        silence_start=start / sound.rate,
        silence_end=end / sound.rate,
        cutoff=description.cutoff(),
        channels=audio.channels,
        difference=sound.levels.difference(),
    )


def _silent_ends(levels: FrameLevels, n_samples: int) -> tuple[int, int]:
    """Return the silent samples at both ends, as `trim_silence` cuts them off."""
    loud = loud_frames(levels.end(), SILENCE_DB)
    if loud is None:
        return 0, 0
    return loud[0] * levels.hop, max(n_samples - (loud[1] + 1) * levels.hop, 0)


class FlatTops:
    """Places where a channel stays at its largest or smallest value, counted block by block.

    Clipping leaves flat tops, also where the level was lowered afterwards. Sound that was not
    clipped hardly stays at its one extreme. Lossy coding rounds flat tops off: they are not found.

    Args:
        n_channels: Number of channels.
    """

    def __init__(self, n_channels: int) -> None:
        self._tail = np.full((FLAT, n_channels), np.nan, np.float32)  # counted from the next block
        self.extremes = np.zeros((2, n_channels), np.float32)  # largest and smallest so far
        self.count = np.zeros((2, n_channels), int)  # of flat tops at each extreme

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add the next samples: (t, channels)."""
        joined = np.concatenate([self._tail, samples])
        for i, sign in enumerate((1, -1)):
            extreme = (sign * samples).max(0)  # (channels,)
            grown = extreme > sign * self.extremes[i]
            self.count[i, grown] = 0
            self.extremes[i, grown] = sign * extreme[grown]
            at = joined == self.extremes[i]
            starts = ~at[:-FLAT]
            for later in range(1, FLAT + 1):  # a flat top begins behind a sample that is elsewhere
                starts &= at[later : len(at) - FLAT + later]
            self.count[i] += starts.sum(0)
        self._tail = joined[-FLAT:]
