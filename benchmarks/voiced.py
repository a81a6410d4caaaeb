"""Measure how well both rules find the utterances of made conversations in noise.

python -m benchmarks.voiced data/ravdess/Actor_23 data/ravdess/Actor_24

Utterances, in random order and without their silent ends, are joined by pauses of 0.5 to 5 s, and
noise is added. Recall and precision are of seconds; an utterance is lost if less than 30 % of it is
in a segment. Times of segments include their margins, pauses within an utterance count as voiced.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from audio.reading import read_audio
from audio.trim import trim_silence
from benchmarks.front_end import machine
from corpora.audio_files import list_tree
from inference.cuts import RULES
from inference.voiced import Span, voiced_segments
from system.cli import run_entry

RATE = 16_000  # Hz
TRIM_DB = 40.0
PAUSE = (0.5, 5.0)  # s
NOISE_DB = (-75, -65, -55, -45)  # dBFS
LOST = 0.3  # of an utterance
STEP = 0.01  # s


def write_conversation(file: Path, sources: Sequence[Path], noise_db: float) -> list[Span]:
    """Write utterances with pauses in noise; return where they are, in s."""
    rng = np.random.default_rng(0)
    parts, spans, n = [], [], 0
    for source in rng.permutation(np.array(sources, dtype=object)):
        waveform = torch.from_numpy(read_audio(source, RATE))
        utterance = trim_silence(waveform, RATE, TRIM_DB).numpy()
        pause = round(rng.uniform(*PAUSE) * RATE)
        parts += [np.zeros(pause, np.float32), utterance]
        spans.append(((n + pause) / RATE, (n + pause + len(utterance)) / RATE))
        n += pause + len(utterance)
    noise = 10 ** (noise_db / 20) * rng.standard_normal(n)
    soundfile.write(file, np.concatenate(parts) + noise, RATE, subtype="FLOAT")
    return spans


def scores(
    spans: Sequence[Span], found: Sequence[Span], seconds: float
) -> tuple[float, float, int]:
    """Return recall, precision and the number of lost utterances.

    >>> scores([(0.0, 2.0), (4.0, 6.0)], [(1.0, 4.0)], 6.0)
    (0.25, 0.3333333333333333, 1)
    """
    there, voiced = _flags(spans, seconds), _flags(found, seconds)
    both = int((there & voiced).sum())
    parts = [voiced[round(start / STEP) : round(end / STEP)] for start, end in spans]
    lost = sum(bool(part.mean() < LOST) for part in parts)
    return both / int(there.sum()), both / max(int(voiced.sum()), 1), lost


def _flags(spans: Sequence[Span], seconds: float) -> NDArray[np.bool_]:
    flags = np.zeros(round(seconds / STEP), bool)
    for start, end in spans:
        flags[round(start / STEP) : round(end / STEP)] = True
    return flags


def main() -> None:
    """Print a line for each noise and rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of utterances")
    parser.add_argument("--most", type=int, default=60, help="utterances of each folder")
    arguments = parser.parse_args()
    sources = [file for folder in arguments.folders for file in list_tree(folder).audio]
    sources = sources[:: max(len(sources) // (arguments.most * len(arguments.folders)), 1)]
    print(machine())
    print("noise, dBFS | rule | recall | precision | lost utterances")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "conversation.wav")
        for noise_db in NOISE_DB:
            spans = write_conversation(file, sources, noise_db)
            for rule in RULES:
                found, seconds = voiced_segments(file, rule, None)
                recall, precision, lost = scores(spans, found, seconds)
                shown = f"{recall:.2f} | {precision:.2f} | {lost} of {len(spans)}"
                print(f"{noise_db} | {rule} | {shown}", flush=True)


if __name__ == "__main__":
    run_entry(main)
