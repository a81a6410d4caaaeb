"""Measure the feature store: recordings per second beside librosa, and the memory of an epoch.

python -m benchmarks.store path/to/RAVDESS              # 180 recordings
python -m benchmarks.store path/to/RAVDESS --clips 0    # all recordings
python -m benchmarks.store --index 100000               # no audio: the index alone
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from audio.reading import inspect_audio
from benchmarks.candidates import PAPER, librosa_images, noise
from benchmarks.front_end import machine, table
from data import ImageAugment, ImageDataset
from features import SpectrogramImages
from storage.feature_store import COMMIT_EVERY, IMAGES, FeatureStore
from storage.store_index import index_lines, read_rows
from system.cli import run_entry
from system.files import read_json, write_json
from training.batches import TrainBatches

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


def index_seconds(n: int) -> list[dict[str, object]]:
    """Time the index of a store of n recordings, and the JSON object that it was before.

    Returns:
        Rows of opening the store, and of committing the next recordings; medians of ROUNDS.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), SpectrogramImages(**SETTINGS))
        store.folder.mkdir()
        for name in IMAGES:  # sparse files: rows count, not what is in them
            with (store.folder / f"{name}.f16").open("wb") as file:
                file.truncate((n + ROUNDS * COMMIT_EVERY) * store.record_bytes)
        keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
        rows = {key: range(i, i + 1) for i, key in enumerate(keys)}
        store._write_index(rows)
        older = Path(folder) / "older.json"
        write_json(older, {key: [place.start, place.stop] for key, place in rows.items()})
        seconds: dict[str, list[float]] = {"open": [], "commit": []}
        before: dict[str, list[float]] = {"open": [], "commit": []}
        for i in range(ROUNDS):
            before["open"].append(timed(lambda: open_older(older)))
            seconds["open"].append(timed(lambda: open_and_check(Path(folder), n)))
            new = {f"{i}-{j}": range(n + j, n + j + 1) for j in range(COMMIT_EVERY)}
            all_rows = {**rows, **new}
            before["commit"].append(timed(lambda rows=all_rows: write_older(older, rows)))
            again = FeatureStore(Path(folder), SpectrogramImages(**SETTINGS))
            seconds["commit"].append(timed(lambda new=new, store=again: store._write_index(new)))
    result: list[dict[str, object]] = []
    for what in seconds:
        old, now = statistics.median(before[what]), statistics.median(seconds[what])
        result.append({"what": what, "older s": old, "s": now, "ratio": old / now})
    return result


class _NoImages:
    """A store of recordings whose images lie nowhere, to see what their names take."""

    def __init__(self, rows: Mapping[str, range]) -> None:
        self.rows = rows

    def images(self, name: str) -> np.ndarray:
        """Return images without pixels."""
        return np.empty((len(self.rows), 0))


def index_costs(n: int) -> dict[str, float]:
    """Return what a recording takes to be known to a process: in the index, and in a dataset."""
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    text = index_lines({key: range(i, i + 1) for i, key in enumerate(keys)})
    tracemalloc.start()
    store: Any = _NoImages(read_rows(text))
    in_index = tracemalloc.get_traced_memory()[0]
    dataset = ImageDataset(store, keys, [0] * n, ImageAugment())
    both = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(dataset) == n
    return {
        "recordings": n,
        "index_s": min(timed(lambda: read_rows(text)) for _ in range(ROUNDS)) / n,
        "index_bytes": in_index / n,
        "dataset_s": min(
            timed(lambda: ImageDataset(store, keys, [0] * n, ImageAugment())) for _ in range(ROUNDS)
        )
        / n,
        "dataset_bytes": (both - in_index) / n,
        "file_bytes": len(text) / n,
    }


def open_and_check(root: Path, n: int) -> None:
    """Open a store of at least n recordings."""
    assert len(FeatureStore(root, SpectrogramImages(**SETTINGS)).rows) >= n


def open_older(file: Path) -> None:
    """Open an index as the store did when it was one JSON object."""
    rows = {key: range(*place) for key, place in read_json(file).items()}
    assert rows and all(place.stop for place in rows.values())


def write_older(file: Path, rows: Mapping[str, range]) -> None:
    """Commit recordings as the store did when its index was one JSON object."""
    write_json(file, {key: [place.start, place.stop] for key, place in rows.items()})


def timed(work: Callable[[], None]) -> float:
    """Return how long work takes, seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", help="folder with recordings")
    parser.add_argument("--index", type=int, metavar="N", help="time the index of N recordings")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with --index: write JSON, too")
    parser.add_argument("--clips", type=int, default=180, help="number of recordings; 0 is all")
    arguments = parser.parse_args()
    host = machine()
    if arguments.index:
        rows = index_seconds(arguments.index)
        print(f"{host}; index of {arguments.index} recordings, medians of {ROUNDS} rounds\n")
        print(table(rows))
        if arguments.out:
            result = {"machine": host, "recordings": arguments.index, "rows": rows}
            arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return
    if arguments.root is None:
        parser.error("name a folder with recordings, or give --index")
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
