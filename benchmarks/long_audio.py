"""Measure time and memory of indexing a long recording and computing its images, as published.

python -m benchmarks.long_audio 30 60   # minutes; each in a process of its own, on one core
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from audio.reading import inspect_audio, read_audio
from benchmarks.candidates import PAPER
from benchmarks.front_end import machine
from features import SpectrogramImages
from system.cli import run_entry

RATE = 16_000  # Hz of the recordings
SETTINGS = {"sample_rate": PAPER.sample_rate, "input_rate": RATE, "image_size": 224}


def measure(minutes: float, file: Path) -> dict[str, float]:
    """Return seconds and peak memory in MB of both steps, beyond what the imports take."""
    torch.set_num_threads(1)
    images = SpectrogramImages(**SETTINGS)
    write_noise(file, minutes)
    before = peak_mb()
    index_seconds = seconds(lambda: inspect_audio(file))
    after_index = peak_mb()
    image_seconds = seconds(lambda: compute_images(images, file))
    return {
        "s to index": index_seconds,
        "MB to index": after_index - before,
        "s to compute images": image_seconds,
        "MB to compute images": peak_mb() - before,
    }


def write_noise(file: Path, minutes: float) -> None:
    """Write a WAV of noise, a minute at a time."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(file, "w", RATE, 1) as audio:
        remaining = round(minutes * 60 * RATE)  # samples
        while remaining > 0:
            audio.write(0.1 * rng.standard_normal(min(remaining, 60 * RATE)))
            remaining -= 60 * RATE


@torch.inference_mode()
def compute_images(images: SpectrogramImages, file: Path) -> None:
    """Compute both images of every crop of a file."""
    images(images.cut(torch.from_numpy(read_audio(file, images.input_rate))))


def seconds(work) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mb() -> float:
    """Return the peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="+")
    print(machine())
    spawn = multiprocessing.get_context("spawn")
    for minutes in parser.parse_args().minutes:
        with tempfile.TemporaryDirectory() as folder, spawn.Pool(1) as pool:
            figures = pool.apply(measure, (minutes, Path(folder) / "long.wav"))
        shown = ", ".join(f"{value:.1f} {name}" for name, value in figures.items())
        print(f"{minutes:g} minutes: {shown}")


if __name__ == "__main__":
    run_entry(main)
