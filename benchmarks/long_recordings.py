"""Measure time and memory of the timeline of a long recording.

python -m benchmarks.long_recordings MODEL --minutes 10 60 600 --json results/long_recordings.json

Each length is labelled in a process of its own, on one thread, with all files of a timeline. The
sound is noise at 16 kHz whose level rises and falls, a minute of it again and again: it is made in
a temporary folder, 115 MB an hour.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.front_end import machine
from storage.model_card import read_card
from system.cli import run_entry
from system.files import write_json

RATE = 16_000  # Hz
LOUDEST, SOFTEST = 0.2, 0.001  # standard deviation of the noise
BURST = 8  # s from one loud stretch to the next


def write_sound(file: Path, minutes: float) -> None:
    """Write a WAV of noise, a minute at a time; RF64 where it is too long for WAV."""
    time_s = np.arange(60 * RATE) / RATE
    level = np.where(time_s % BURST < BURST / 2, LOUDEST, SOFTEST)
    minute = (level * np.random.default_rng(0).standard_normal(len(time_s))).astype(np.float32)
    with soundfile.SoundFile(file, "w", RATE, 1, "PCM_16", format="RF64") as audio:
        remaining = round(minutes * 60 * RATE)  # samples
        while remaining > 0:
            audio.write(minute[:remaining])
            remaining -= len(minute)


def measure(folder: str, minutes: float, options: dict[str, Any]) -> dict[str, Any]:
    """Return seconds, and peak memory of the process in MB, before and with the long recording."""
    import torch  # in the child alone

    from inference.cuts import Cuts
    from inference.emotion_model import load
    from inference.long_recordings import write_timelines

    torch.set_num_threads(1)
    model, cuts = load(folder), Cuts(**options)
    with tempfile.TemporaryDirectory() as place:
        short, long = Path(place, "short.wav"), Path(place, "long.wav")
        write_sound(short, 1)
        write_sound(long, minutes)
        write_timelines(model, [short], cuts, Path(place, "out"))
        before, start = peak_mb(), time.perf_counter()
        write_timelines(model, [long], cuts, Path(place, "out"))
        seconds = time.perf_counter() - start
        csv_file = next(Path(place, "out").rglob("long.wav.csv"))
        parts = csv_file.read_text().count("\n") - 1
    return {
        "minutes": minutes,
        "parts": parts,
        "seconds": seconds,
        "real_time_factor": seconds / (60 * minutes),
        "MB after a minute": before,
        "MB": peak_mb(),
    }


def peak_mb() -> float:
    """Return the peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Print a line for each length; write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a finished fold")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60])
    parser.add_argument("--window", type=float, default=3.0)
    parser.add_argument("--hop", type=float, default=1.0)
    parser.add_argument("--segments", help="rule; in the place of windows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    card, about = read_card(arguments.model), machine()
    print(about)
    options: dict[str, Any] = {"window": arguments.window, "hop": arguments.hop}
    if arguments.segments:
        options = {"segments": arguments.segments}
    spawn = multiprocessing.get_context("spawn")
    found = []
    for minutes in arguments.minutes:
        with spawn.Pool(1) as pool:
            found.append(pool.apply(measure, (str(arguments.model), minutes, options)))
        shown = ", ".join(f"{value:.4g} {name}" for name, value in found[-1].items())
        print(shown, flush=True)
    if arguments.json:
        settings = card.settings()
        model = {
            key: getattr(settings, key)
            for key in ("fusion", "cqt_backbone", "mel_backbone", "image_size")
        }
        write_json(
            arguments.json,
            {"machine": about, "model": model, "cuts": options, "recordings": found},
        )


if __name__ == "__main__":
    run_entry(main)
