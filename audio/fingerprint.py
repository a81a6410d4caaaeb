"""An acoustic fingerprint of recordings, and the search for near-identical pairs.

Let E[m, b] be the energy of band b = 0..32 (300 to 2000 Hz, equally spaced in log frequency) in
frame m = 0..M. Bit b = 0..31 of word m >= 1 is the sign of a difference over bands and frames:
    (E[m, b+1] - E[m, b]) - (E[m-1, b+1] - E[m-1, b]) > 0.
A factor on all E (level) changes no bit, nor does what hardly changes their order: a codec, another
sampling rate, a little noise. Words of frames below FLOOR, silence, are 0 and match nothing.

Two recordings u, v at an offset o (frame i of u is frame i - o of v) have the bit error
    e = sum_i popcount(u[i] xor v[i - o]) / (32 n)
over the n frames where both words are not 0. Unrelated speech has e of 0.35 to 0.5, copies at most
MAX_ERROR = 0.2. To try all offsets of all pairs takes too long, so candidates vote: a word of a
copy survives intact with probability (1 - e)^32 if bits were independent, 3 % at e = 0.1, and more
since errors come in clusters. Among the hundreds of frames of a copy some words are thus equal, at
the same o. Sorting all words of all recordings brings equal words side by side; each pair of them
is a vote for (u, v, o), and only candidates with MIN_VOTES votes are compared bit by bit.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 8000  # Hz
QUALITY = "LQ"  # of soxr's resampling: enough for bands below 2 kHz
FRAME = 2048  # samples, 256 ms
BLOCK = 1024  # frames at a time: long recordings need no more memory
HOP = 128  # samples, 16 ms: frames overlap so much that a shift by half a hop matters little
EDGES = np.geomspace(300, 2000, 34)  # Hz, of 33 bands that telephones and codecs keep
FLOOR = 1e-5  # of the loudest frame's energy: below is silence
MIN_FRAMES = 40  # compared at least, 0.64 s: shorter recordings agree by chance
MIN_SHARE = 0.5  # of the shorter recording that must be compared
MAX_ERROR = 0.2  # largest bit error of near-identical recordings
MIN_VOTES = 2  # equal words that propose an offset
MAX_HOLDERS = 20  # frames with one word that vote: a word that is everywhere says little


class Copy(NamedTuple):
    """A pair of near-identical recordings."""

    first: str
    second: str
    error: float  # bit error e


def fingerprint(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.uint32]:
    """Return a word of 32 bits per frame, 0 in silence: (T,) -> (M,).

    Playing speed changes the words: a copy at another speed is not recognised.

    Source:
        Haitsma & Kalker 2002, A Highly Robust Audio Fingerprinting System; theirs has frames of
        370 ms every 11.6 ms, for music; here they are shorter, for utterances of a second, and
        differences have the opposite sign.
    """
    signal = soxr.resample(waveform, sample_rate, SAMPLE_RATE, quality=QUALITY)
    if len(signal) < FRAME + HOP:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::HOP]  # (M + 1, FRAME)
    blocks = (frames[start : start + BLOCK] for start in range(0, len(frames), BLOCK))
    E = np.concatenate([_band_energies(block) for block in blocks])  # (M + 1, 33)
    bits = np.diff(np.diff(E, axis=1), axis=0) > 0  # (M, 32)
    words = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)
    energy = E.sum(1)[1:]  # (M,)
    words[energy <= FLOOR * energy.max()] = 0
    return words


def _band_energies(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the energy of each band: (frames, FRAME) -> (frames, 33)."""
    spectrum = np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32))
    power = spectrum.real**2 + spectrum.imag**2  # (frames, bins)
    edges = np.round(EDGES * FRAME / SAMPLE_RATE).astype(int)
    return np.add.reduceat(power, edges, axis=1)[:, :-1]


def near_copies(recordings: Mapping[str, NDArray[np.uint32]]) -> list[Copy]:
    """Return the pairs of near-identical recordings, at any offset to one another.

    Recordings with less than about a second of sound are too short to compare.

    Args:
        recordings: Words from `fingerprint` by the name of the recording.
    """
    names, words = list(recordings), list(recordings.values())
    errors: dict[tuple[int, int], float] = {}  # smallest over the offsets
    for u, v, offset in _candidates(words):
        error = bit_error(words[u], words[v], offset)
        if error <= min(MAX_ERROR, errors.get((u, v), 1.0)):
            errors[u, v] = error
    return [Copy(names[u], names[v], error) for (u, v), error in sorted(errors.items())]


def _candidates(words: Sequence[NDArray[np.uint32]]) -> list[tuple[int, int, int]]:
    """Return the (u, v, offset) that have enough votes."""
    recording = np.repeat(np.arange(len(words)), [len(w) for w in words])
    frame = np.concatenate([np.zeros(0, int), *(np.arange(len(w)) for w in words)])
    word = np.concatenate([*words, np.zeros(0, np.uint32)])
    not_silent = word != 0
    order = np.argsort(word[not_silent], kind="stable")
    recording, frame, word = (x[not_silent][order] for x in (recording, frame, word))
    votes = []
    for step in range(1, MAX_HOLDERS):  # distance of two equal words in the sorted list
        first = np.flatnonzero(word[step:] == word[:-step])
        if len(first) == 0:
            break
        second = first + step
        vote = [recording[first], recording[second], frame[first] - frame[second]]
        votes.append(np.stack(vote, 1)[recording[first] != recording[second]])
    if not votes:
        return []
    candidates, n_votes = np.unique(np.concatenate(votes), axis=0, return_counts=True)
    return [tuple(row) for row in candidates[n_votes >= MIN_VOTES].tolist()]


def bit_error(u: NDArray[np.uint32], v: NDArray[np.uint32], offset: int) -> float:
    """Return the bit error where frame i of u is frame i - offset of v; 1 for too few frames."""
    start, stop = max(0, offset), min(len(u), len(v) + offset)
    if stop <= start:
        return 1.0
    shorter = min(np.count_nonzero(u), np.count_nonzero(v))
    u, v = u[start:stop], v[start - offset : stop - offset]
    both = (u != 0) & (v != 0)
    if (n := int(both.sum())) < max(MIN_FRAMES, MIN_SHARE * shorter):
        return 1.0
    return float(np.bitwise_count(u[both] ^ v[both]).sum() / (32 * n))
