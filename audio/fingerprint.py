"""A cheap acoustic fingerprint, and which recordings are nearly the same by it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 8000  # Hz
QUALITY = "LQ"  # of resampling, soxr's word: enough for bands below 2 kHz
FRAME = 2048  # samples, 256 ms
BLOCK = 1024  # frames at a time: long recordings need no more memory
HOP = 128  # samples, 16 ms: frames overlap so much that an offset between two hops matters little
EDGES = np.geomspace(300, 2000, 34)  # Hz, of 33 bands: telephones and codecs keep them
FLOOR = 1e-5  # of the loudest frame's power: what is below is silence and compares to nothing
MIN_FRAMES = 40  # compared at least, 0.64 s: shorter clips agree by chance
MIN_SHARE = 0.5  # of the shorter clip that must be compared
MAX_ERROR = 0.2  # part of the bits that may differ; unrelated speech differs in 0.35 to 0.5
MIN_VOTES = 2  # frames with equal words that propose an offset
MAX_HOLDERS = 20  # frames with one word that are followed up: a word that is everywhere says little


class Copy(NamedTuple):
    """Two recordings that are nearly the same."""

    first: str
    second: str
    error: float  # part of the bits that differ


def fingerprint(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.uint32]:
    """Return a word of 32 bits a frame, 0 where there is silence: (T,) -> (frames,).

    A bit says whether the energy difference of two neighbouring bands rises from one frame to the
    next. Level, coding, sampling rate and a little noise hardly change it; playing speed does.

    Source:
        Haitsma & Kalker 2002, A Highly Robust Audio Fingerprinting System; theirs has frames of
        370 ms every 11.6 ms, for music; ours are shorter, for clips of a second.
    """
    signal = soxr.resample(waveform, sample_rate, SAMPLE_RATE, quality=QUALITY)
    if len(signal) < FRAME + HOP:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::HOP]  # (frames + 1, FRAME)
    blocks = (frames[start : start + BLOCK] for start in range(0, len(frames), BLOCK))
    bands = np.concatenate([_band_energies(block) for block in blocks])  # (frames + 1, 33)
    rises = np.diff(np.diff(bands, axis=1), axis=0) > 0  # (frames, 32)
    words = np.packbits(rises, axis=1).view(">u4")[:, 0].astype(np.uint32)
    loud = bands.sum(1)[1:]
    words[loud <= FLOOR * loud.max()] = 0
    return words


def _band_energies(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the energy of each band: (frames, FRAME) -> (frames, 33)."""
    spectrum = np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32))
    power = spectrum.real**2 + spectrum.imag**2  # (frames, bins)
    edges = np.round(EDGES * FRAME / SAMPLE_RATE).astype(int)
    return np.add.reduceat(power, edges, axis=1)[:, :-1]


def near_copies(recordings: Mapping[str, NDArray[np.uint32]]) -> list[Copy]:
    """Return the pairs of recordings that are nearly the same, at any offset to one another.

    Frames with equal words propose an offset, and the bits of all frames at that offset decide.
    Clips shorter than about a second are too short to tell.

    Args:
        recordings: Name of each recording, and its words from `fingerprint`.
    """
    names, words = list(recordings), list(recordings.values())
    best: dict[tuple[int, int], float] = {}
    for first, second, offset in _proposals(words):
        error = bit_error(words[first], words[second], offset)
        if error <= min(MAX_ERROR, best.get((first, second), 1.0)):
            best[first, second] = error
    return [Copy(names[i], names[j], error) for (i, j), error in sorted(best.items())]


def _proposals(words: Sequence[NDArray[np.uint32]]) -> list[tuple[int, int, int]]:
    """Return (first, second, offset) of recordings with some equal words at one offset."""
    clip = np.repeat(np.arange(len(words)), [len(each) for each in words])
    frame = np.concatenate([np.zeros(0, int), *(np.arange(len(each)) for each in words)])
    every = np.concatenate([*words, np.zeros(0, np.uint32)])
    kept = every != 0
    order = np.argsort(every[kept], kind="stable")
    clip, frame, every = clip[kept][order], frame[kept][order], every[kept][order]
    pairs = []
    for step in range(1, MAX_HOLDERS):  # neighbours at this distance that hold the same word
        same = np.flatnonzero(every[step:] == every[:-step])
        if len(same) == 0:
            break
        a, b = same, same + step
        offset = frame[a] - frame[b]
        pairs.append(np.stack([clip[a], clip[b], offset], 1)[clip[a] != clip[b]])
    if not pairs:
        return []
    found, votes = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    return [tuple(row) for row in found[votes >= MIN_VOTES].tolist()]


def bit_error(first: NDArray[np.uint32], second: NDArray[np.uint32], offset: int) -> float:
    """Return the part of bits that differ where frame i meets frame i - offset, 1 if too few."""
    start, stop = max(0, offset), min(len(first), len(second) + offset)
    if stop <= start:
        return 1.0
    pair = first[start:stop], second[start - offset : stop - offset]
    both = (pair[0] != 0) & (pair[1] != 0)
    shorter = min(np.count_nonzero(first), np.count_nonzero(second))
    if (n := int(both.sum())) < max(MIN_FRAMES, MIN_SHARE * shorter):
        return 1.0
    return float(np.bitwise_count(pair[0][both] ^ pair[1][both]).sum() / (32 * n))
