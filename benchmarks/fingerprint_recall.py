"""Measure which changed copies of recordings the fingerprint finds, and how far others are apart.

python -m benchmarks.fingerprint_recall FOLDER [--clips 120]    # WAV or FLAC, e.g. RAVDESS
"""

import argparse
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from audio import fingerprint
from benchmarks.front_end import machine, table
from system.cli import run_entry

ROOT = Path(__file__).resolve().parent.parent

Sound = tuple[NDArray[np.float32], int]  # (T,), Hz
PAIRS = 20_000  # unrelated
OFFSETS = range(-30, 31, 3)  # frames
NOISE_SEED = 1


def noisy(sound: Sound, snr_db: float) -> Sound:
    """Add white noise."""
    samples, rate = sound
    noise = np.random.default_rng(NOISE_SEED).standard_normal(len(samples)).astype(np.float32)
    return samples + noise * np.sqrt(np.mean(samples**2) / 10 ** (snr_db / 10)), rate


def mp3(sound: Sound) -> Sound:
    """Encode and decode."""
    packed = io.BytesIO()
    soundfile.write(packed, *sound, format="MP3")
    packed.seek(0)
    return soundfile.read(packed, dtype="float32")


def cut(sound: Sound, start: float, stop: float) -> Sound:
    """Keep a part, from 0 to 1."""
    samples, rate = sound
    return samples[int(start * len(samples)) : int(stop * len(samples))], rate


CHANGES: Mapping[str, Callable[[Sound], Sound]] = {
    "a fifth of the level": lambda s: (s[0] * 0.2, s[1]),
    "clipped, 18 dB over": lambda s: (np.clip(s[0] * 8, -1, 1), s[1]),
    "16 kHz": lambda s: (soxr.resample(s[0], s[1], 16_000), 16_000),
    "8 kHz": lambda s: (soxr.resample(s[0], s[1], 8_000), 8_000),
    "MP3": mp3,
    "noise at 20 dB": lambda s: noisy(s, 20),
    "noise at 10 dB": lambda s: noisy(s, 10),
    "0.137 s off the start": lambda s: (s[0][int(0.137 * s[1]) :], s[1]),
    "the middle 60 %": lambda s: cut(s, 0.2, 0.8),
    "start off, MP3, 20 dB": lambda s: noisy(mp3(cut(s, 0.05, 1)), 20),
    "1 % faster": lambda s: (s[0], int(1.01 * s[1])),
    "3 % faster": lambda s: (s[0], int(1.03 * s[1])),
}


def recall(sounds: Sequence[Sound], change: Callable[[Sound], Sound]) -> tuple[float, int]:
    """Return the share of copies that are found, and the number of false pairs."""
    originals = {f"{i}": fingerprint.fingerprint(*sound) for i, sound in enumerate(sounds)}
    copies = {
        f"{i} again": fingerprint.fingerprint(*change(sound)) for i, sound in enumerate(sounds)
    }
    pairs = fingerprint.near_copies({**originals, **copies})
    n_right = sum(pair.second == f"{pair.first} again" for pair in pairs)
    return n_right / len(sounds), len(pairs) - n_right


def least_error(words: Sequence[NDArray[np.uint32]]) -> float:
    """Return the smallest bit error of unrelated recordings, over pairs and offsets."""
    rng = np.random.default_rng(0)
    pairs = [rng.choice(len(words), 2, replace=False) for _ in range(PAIRS)]
    return min(fingerprint.bit_error(words[i], words[j], by) for i, j in pairs for by in OFFSETS)


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, metavar="FOLDER")
    parser.add_argument("--clips", type=int, default=120, help="number of recordings to change")
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.root.rglob("*") if p.suffix in (".wav", ".flac"))
    sounds = [(x.mean(1), rate) for x, rate in (read(file) for file in files)]
    start = time.perf_counter()
    words = [fingerprint.fingerprint(*sound) for sound in sounds]
    middle = time.perf_counter()
    pairs = fingerprint.near_copies(dict(zip(map(str, files), words, strict=True)))
    seconds = time.perf_counter() - middle
    some = sounds[:: max(1, len(sounds) // arguments.clips)]
    recalls = {name: recall(some, change) for name, change in CHANGES.items()}
    print(f"{machine()}; {len(files)} recordings, {len(some)} of them changed\n")
    rows = [
        {"change": n, "found": share, "others": n_false} for n, (share, n_false) in recalls.items()
    ]
    print(table(rows))
    print(f"\n{len(pairs)} pairs in the corpus itself; found in {seconds:.2f} s")
    print(f"{(middle - start) / len(files) * 1e3:.1f} ms per fingerprint")
    print(f"unrelated recordings differ in at least {least_error(words):.3f} of the bits")


def read(path: Path) -> tuple[NDArray[np.float32], int]:
    """Read a file: (T, channels), Hz."""
    return soundfile.read(path, dtype="float32", always_2d=True)


if __name__ == "__main__":
    run_entry(main)
