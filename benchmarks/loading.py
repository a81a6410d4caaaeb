"""Measure real pipelines of a DataLoader and a training, beside what the simulation says of them.

The loader's processes decode utterances and compute their images; this process trains the small
networks, or only takes the batches. The simulation knows the seconds of both parts, measured one
after the other before, and the loader's places. It knows nothing of what the processes hand over
or of cores that they share, so what both say differs by just that. In other pipelines both sides
sleep for times that are drawn: those need no cores, so that more workers than cores can be tried.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from audio.reading import inspect_audio
from benchmarks.queueing import WARM_UP, Station, simulate
from benchmarks.train_step import make_state
from config.schema import Config
from data import Batch, WaveformDataset, _identity
from features import SpectrogramImages
from system.signals import ignore_signals
from training.batches import TrainBatches
from training.engine import train_step
from training.session import make_accelerator

BATCH = 8  # utterances
PASSES = 2  # over the utterances, in one epoch of the loader
PREFETCH = 2  # batches a worker, DataLoader's default
N_CLASSES = 4
SIMULATED = 4000  # batches
PIPELINES = (("train", 0), ("train", 1), ("take", 1), ("take", 2))  # what is done, workers
ROUNDS = 2  # the quickest counts
LOAD, STEP = (0.04, 0.02), (0.015, 0.005)  # seconds of sleep and their standard deviation
ASLEEP = (1, 2, 3, 6)  # workers
SLEEPS = 200  # batches


class ComputedImages(WaveformDataset):
    """Utterances that are decoded and turned into images where they are loaded."""

    front_end: SpectrogramImages

    def __getitems__(self, items: Sequence[Any]) -> Batch:  # type: ignore[override]
        """Return the images of some utterances."""
        found = super().__getitems__(items)
        with torch.inference_mode():
            images = self.front_end(found.waveform, found.lengths)
        halves = (image.half().clone() for image in images)  # as stored; clones outlive inference
        return Batch(found.utterance, *halves, found.targets)


class Parts(NamedTuple):
    """What the parts of a pipeline take, each alone: (batches,) seconds."""

    load: NDArray
    train: NDArray


def compare_pipelines(
    paths: Sequence[Path], front_end: SpectrogramImages, small: Config
) -> list[dict[str, Any]]:
    """Return a row for each pipeline: what flows a second, measured and simulated; utterances.

    Args:
        paths: Audio files of the utterances; each is loaded `PASSES` times.
        front_end: Computes the images.
        small: Config of networks that are small enough to train here.
    """
    dataset = _dataset(paths, front_end)
    train = _trainer(small, front_end.image_size)
    parts = _measure_parts(dataset, train)
    rows = []
    for what, workers in PIPELINES:
        consume = train if what == "train" else _take
        found = [_measured(dataset, _batches(dataset), consume, workers) for _ in range(ROUNDS)]
        simulated = _simulated(parts, what == "train", workers)
        rows.append(_row("decode, images", what, workers, BATCH * max(found), BATCH * simulated))
    return [*rows, *sleeping_pipelines()]


def sleeping_pipelines() -> list[dict[str, Any]]:
    """Return the same rows, of batches a second, for loaders and consumers that sleep."""
    rng = np.random.default_rng(0)
    load, step = (rng.gamma((m / s) ** 2, s**2 / m, SLEEPS) for m, s in (LOAD, STEP))
    rows = []
    for workers in ASLEEP:
        batches = [[i] for i in range(SLEEPS)]
        measured = _measured(Asleep(load), batches, lambda i: time.sleep(step[i]), workers)
        simulated = _simulated(Parts(load, step), True, workers)
        names = (f"sleep {1e3 * mean:.0f} ms" for mean, _ in (LOAD, STEP))
        rows.append(_row(*names, workers, measured, simulated))
    return rows


def _row(
    loader: str, consumer: str, workers: int, measured: float, simulated: float
) -> dict[str, Any]:
    return {
        "a worker": loader,
        "the training process": consumer,
        "workers": workers,
        "measured": measured,
        "simulated": simulated,
        "simulated / measured": simulated / measured,
    }


class Asleep(Dataset):
    """Batches of one number that take a while.

    Args:
        seconds: How long each takes: (n,).
    """

    def __init__(self, seconds: NDArray) -> None:
        self.seconds = seconds

    def __getitems__(self, items: Sequence[int]) -> int:
        """Sleep, and return the number."""
        [i] = items
        time.sleep(self.seconds[i])
        return i


def _dataset(paths: Sequence[Path], front_end: SpectrogramImages) -> ComputedImages:
    hashes = [inspect_audio(path).hash for path in paths] * PASSES
    targets = [i % N_CLASSES for i in range(len(hashes))]
    files = list(paths) * PASSES
    dataset = ComputedImages(files, hashes, targets, front_end.input_rate, None, {})
    dataset.front_end = front_end
    return dataset


def _trainer(small: Config, side: int) -> Callable[[Batch], object]:
    """Return what takes a training step on a batch of images of any size."""
    accelerator = make_accelerator(small)
    state = make_state(small, accelerator)
    step = side // small.model.image_size

    def train(batch: Batch) -> None:
        cqt, mel = (image[..., ::step, ::step] for image in (batch.cqt, batch.mel))
        size = slice(small.model.image_size)
        train_step(state, [batch._replace(cqt=cqt[..., size, size], mel=mel[..., size, size])])

    return train


def _take(batch: Batch) -> None:
    """Do nothing with a batch."""


def _batches(dataset: ComputedImages) -> TrainBatches:
    return TrainBatches(len(dataset), BATCH, seed=0)


def _measure_parts(dataset: ComputedImages, train: Callable[[Batch], object]) -> Parts:
    """Measure loading and training in turn, as a loader without workers does."""
    taken = []
    for _ in range(ROUNDS):
        for items in _batches(dataset):
            start = time.perf_counter()
            batch = dataset.__getitems__(items)
            loaded = time.perf_counter()
            train(batch)
            taken.append((loaded - start, time.perf_counter() - loaded))
    rounds = np.array(taken).reshape(ROUNDS, -1, 2)  # (rounds, batches, parts)
    return Parts(*rounds.min(0).T)


def _measured(
    dataset: Dataset, batches: Any, consume: Callable[[Any], object], workers: int
) -> float:
    """Return the batches a second of a real loader, after its warm-up."""
    loader: Iterable[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        prefetch_factor=PREFETCH if workers else None,
    )
    ends = []
    for batch in loader:
        consume(batch)
        ends.append(time.perf_counter())
    first = int(WARM_UP * len(ends))
    return (len(ends) - first) / (ends[-1] - ends[first - 1])


def _simulated(parts: Parts, trains: bool, workers: int) -> float:
    """Return the batches a second of the same by simulation."""
    if not workers:  # one after the other
        return 1 / float(sum(part.mean() for part in parts))
    load = Station("load", parts.load.mean(), parts.load.std(), workers, PREFETCH * workers)
    train = Station("train", parts.train.mean(), parts.train.std())
    stations = [load, train if trains else Station("take", 0.0)]
    return simulate(stations, SIMULATED).per_second
