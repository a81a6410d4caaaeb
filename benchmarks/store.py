"""Measure the feature store: recordings per second beside librosa, and the memory of an epoch.

python -m benchmarks.store path/to/RAVDESS              # 180 recordings
python -m benchmarks.store path/to/RAVDESS --clips 0    # all recordings
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from audio.reading import inspect_audio
from benchmarks.candidates import PAPER, librosa_images, noise
from benchmarks.front_end import machine, table
from data import ImageDataset, TrainBatches
from features import SpectrogramImages
from storage.feature_store import FeatureStore
from system.cli import run_entry

ROUNDS = 3  # alternating, so that all see the same machine
SETTINGS = {"sample_rate": PAPER.sample_rate, "image_size": 224, "channels": "static"}
WORKERS = 2
BATCH_SIZE = 16
STORES = (500, 4000)  # recordings


def build_seconds(paths: Mapping[str, Path], workers: int) -> float:
    """Return how long building an empty store takes."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), SpectrogramImages(**SETTINGS))
        start = time.perf_counter()
        bad = store.build(paths, workers)
        assert not bad, bad
        return time.perf_counter() - start


def librosa_seconds(paths: Sequence[Path]) -> float:
    """Return how long WORKERS processes take for the same images by librosa, once warm."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(WORKERS + 1)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process imports NumPy
    try:
        with spawn.Pool(WORKERS, warm_up, (ready, paths[0])) as pool:
            ready.wait()
            start = time.perf_counter()
            n_done = sum(1 for _ in pool.imap_unordered(librosa_clip, paths))
            assert n_done == len(paths)
            return time.perf_counter() - start
    finally:
        del os.environ["OMP_NUM_THREADS"]
        os.environ |= {"OMP_NUM_THREADS": before} if before else {}


def warm_up(ready: Barrier, path: Path) -> None:
    """Warm up a process that runs librosa, and wait for the others."""
    torch.set_num_threads(1)
    librosa_clip(path)
    ready.wait()


def librosa_clip(path: Path) -> list[NDArray[np.float16]]:
    """Return what the store keeps of a recording, by librosa: 2 x (1, H, W)."""
    samples, _ = librosa.load(path, sr=PAPER.sample_rate, res_type="soxr_hq")
    return [image[0].half().numpy() for image in librosa_images(samples, PAPER)]


def epoch_memory(n_clips: int) -> float:
    """Return the MB of private memory that an epoch over a store of n_clips recordings adds."""
    with tempfile.TemporaryDirectory() as folder:
        signal = noise(0.1, PAPER.sample_rate)[0].numpy()
        files = [Path(folder) / f"{i}.wav" for i in range(n_clips)]
        for i, file in enumerate(files):  # the same noise at different levels
            level = 1 - i / (2 * n_clips)
            soundfile.write(file, level * signal, PAPER.sample_rate, subtype="FLOAT")
        paths = {inspect_audio(file).hash: file for file in files}
        FeatureStore(Path(folder), SpectrogramImages(**SETTINGS)).build(paths, WORKERS)
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process that did not build
            return pool.apply(one_epoch, (Path(folder), list(paths)))


def one_epoch(folder: Path, hashes: Sequence[str]) -> float:
    """Read a whole store once, shuffled; return the MB that this process grew by."""
    before = peak = own_memory()
    store = FeatureStore(folder, SpectrogramImages(**SETTINGS))
    dataset = ImageDataset(store, hashes, [0] * len(hashes))
    for batch in TrainBatches(len(hashes), BATCH_SIZE, seed=0):
        dataset.__getitems__(batch)
        peak = max(peak, own_memory())
    return peak - before


def own_memory() -> float:
    """Return the private memory of this process, MB; mapped files do not count."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def clips_per_second(paths: Mapping[str, Path]) -> dict[str, float]:
    """Return the median recordings per second of each way to compute images."""
    ways: dict[str, Callable[[], float]] = {
        "ours, one thread": lambda: build_seconds(paths, 0),
        f"ours, {WORKERS} threads": lambda: build_seconds(paths, WORKERS),
        f"librosa, {WORKERS} processes": lambda: librosa_seconds(list(paths.values())),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(way())
    return {name: len(paths) / statistics.median(rounds) for name, rounds in seconds.items()}


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder with recordings")
    parser.add_argument("--clips", type=int, default=180, help="number of recordings; 0 is all")
    arguments = parser.parse_args()
    host = machine()
    files = sorted(p for p in arguments.root.rglob("*") if p.suffix in (".wav", ".flac"))
    paths = {inspect_audio(path).hash: path for path in files[: arguments.clips or None]}
    rates = clips_per_second(paths)
    beside = rates[f"librosa, {WORKERS} processes"]
    print(f"{host}; {len(paths)} recordings, 224 pixels, medians of {ROUNDS} alternating rounds\n")
    print(table([{"what": n, "per second": r, "ratio": r / beside} for n, r in rates.items()]))
    memory = [{"recordings": n, "MB that an epoch adds": epoch_memory(n)} for n in STORES]
    print(f"\n{table(memory)}")


if __name__ == "__main__":
    run_entry(main)
