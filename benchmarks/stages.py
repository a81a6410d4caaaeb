"""Measure what each stage of a training costs an utterance, on one core.

    python -m benchmarks.stages path/to/recordings --json results/stages.json   # 2 to 4 minutes
    python -m benchmarks.stages                    # noise in the place of recordings

Recordings are joined and cut anew into utterances whose lengths vary as those of a corpus do. The
stages are the functions that training uses. Each utterance (or batch, or chunk of the store) is
measured some times in a row and the least counts, so that neighbours of this process and kernels
that are made for a new length do not; mean and standard deviation are over the utterances.
`benchmarks/scaling.py` computes with the figures.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from audio.reading import inspect_audio, read_audio
from benchmarks.candidates import noise
from benchmarks.front_end import machine, table
from benchmarks.loading import compare_pipelines
from benchmarks.store import index_costs
from benchmarks.train_step import make_state
from benchmarks.work import front_end_bytes, network_work
from config.loading import load_config
from config.schema import Config
from data import Batch, ImageDataset
from features import SpectrogramImages
from storage.feature_store import COMMIT_EVERY, IMAGES, FeatureStore
from storage.provenance import git_commit
from storage.tensors import copy_state, write_state
from system.cli import run_entry
from system.files import make_folder, write_json
from training.engine import train_step
from training.evaluate import evaluate
from training.session import feature_settings, make_accelerator

PAPER = "configs/iemocap_finetune_gmu.yaml"  # images: 16 kHz in, published settings, 224 pixels
SMALL = "configs/ravdess_small_gmu.yaml"  # networks small enough to train here
MEAN, SD = 4.5, 2.25  # seconds of an utterance, gamma distributed; IEMOCAP's mean is 4.55
SHORTEST = 0.5  # seconds
ROUNDS = 3  # the least counts
STEPS = 6
STATES = (50, 200, 800)  # MB
INDEXED = 50_000  # recordings


class Utterances(NamedTuple):
    """One recording of each in two formats, shortest first as a store is built."""

    wav: list[Path]
    flac: list[Path]
    seconds: NDArray  # (n,)

    @property
    def hashes(self) -> dict[str, Path]:
        """Return {audio hash: file}, as a store is asked to build."""
        return {inspect_audio(path).hash: path for path in self.flac}


def make_utterances(source: Path | None, folder: Path, n: int, rate: int) -> Utterances:
    """Write n utterances, of the recordings below `source` or of noise.

    Raises:
        SystemExit: There are no recordings below `source`.
    """
    rng = np.random.default_rng(0)
    seconds = np.sort(rng.gamma((MEAN / SD) ** 2, SD**2 / MEAN, n))
    seconds = np.maximum(seconds * MEAN / seconds.mean(), SHORTEST)
    sizes = np.round(seconds * rate).astype(int)
    signal = _joined(source, int(sizes.sum()), rate)
    made = Utterances([], [], sizes / rate)
    for i, samples in enumerate(np.split(signal, sizes.cumsum()[:-1])):
        for kind, paths in (("wav", made.wav), ("flac", made.flac)):
            path = folder / f"{i}.{kind}"
            soundfile.write(path, samples, rate, subtype="PCM_16")
            paths.append(path)
    return made


def _joined(source: Path | None, n: int, rate: int) -> NDArray:
    """Return n samples of recordings one behind the other, from all over the folder."""
    if source is None:
        return noise(n / rate, rate)[0].numpy()[:n]
    files = sorted(path for path in source.rglob("*") if path.suffix in (".wav", ".flac"))
    if not files:
        raise SystemExit(f"there are no .wav or .flac files below {source}")
    parts: list[NDArray] = []
    while sum(map(len, parts)) < n:
        parts.append(read_audio(files[len(parts) * 37 % len(files)], rate))
    return np.concatenate(parts)[:n]


def least(
    work: Callable[[Any], object],
    items: Sequence[Any],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.process_time,
) -> NDArray:
    """Return the least seconds for each item over some calls in a row: (n,).

    Args:
        work: What is measured.
        items: Its arguments, one a call.
        rounds: Calls of each.
        clock: `process_time`, since one thread works; `perf_counter` where a disk is waited for.
    """
    taken = np.empty((len(items), rounds))
    for item, seconds in zip(items, taken, strict=True):
        for i in range(rounds):
            start = clock()
            work(item)
            seconds[i] = clock() - start
    return taken.min(1)


def stage(name: str, seconds: NDArray, utterances: int = 1) -> dict[str, Any]:
    """Return a row of the result.

    Args:
        name: What was done.
        seconds: What each measurement took.
        utterances: Utterances of one measurement: a batch, or a chunk of the store.
    """
    return {
        "stage": name,
        "utterances": utterances,
        "seconds": float(seconds.mean()),
        "sd": float(seconds.std()),
        "measured": len(seconds),
    }


def front_ends(config: Config) -> tuple[SpectrogramImages, SpectrogramImages]:
    """Return the front end of a config, and the one for recordings that are resampled before."""
    settings = feature_settings(config)
    return SpectrogramImages(**settings), SpectrogramImages(**settings | {"input_rate": None})


@torch.inference_mode()
def audio_stages(made: Utterances, config: Config) -> Iterator[dict[str, Any]]:
    """Measure indexing, reading, resampling and images."""
    front_end, full_rate = front_ends(config)
    rate, high = front_end.input_rate, front_end.sample_rate
    yield stage("index: hash and fingerprint", least(inspect_audio, made.flac))
    yield stage("read WAV", least(lambda path: read_audio(path, rate), made.wav))
    yield stage("read FLAC", least(lambda path: read_audio(path, rate), made.flac))
    yield stage("read FLAC and resample", least(lambda path: read_audio(path, high), made.flac))
    waveforms = [torch.from_numpy(read_audio(path, rate)) for path in made.flac]
    longer = [torch.from_numpy(read_audio(path, high)) for path in made.flac]
    yield stage("resample on the device", least(lambda w: front_end.resample(w[None]), waveforms))
    images = least(lambda w: front_end(front_end.cut(w)), waveforms)
    yield stage("resample on the device, both images", images)
    yield stage("both images", least(lambda w: full_rate(full_rate.cut(w)), longer))


def store_stages(
    made: Utterances, config: Config, folder: Path, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Measure writing a store, and reading batches of it; leave it in `folder`."""
    store = FeatureStore(folder, front_ends(config)[0])
    hashes = made.hashes
    store.build(hashes, 0)
    images = [store.images(name) for name in IMAGES]
    rows = [store.rows[key].start for key in hashes]
    chunk = [(key, [image[row : row + 1] for image in images]) for key, row in _some(hashes, rows)]
    taken = []
    for i in range(2 * ROUNDS):
        new = [(f"{key}{i}", pair) for key, pair in chunk]
        taken.append(least(lambda new=new: store._append(new), [new], 1, time.perf_counter))
    yield stage("store write", np.concatenate(taken)[1:], len(chunk))

    keys = list(store.rows)
    order = np.random.default_rng(0).permutation(len(keys))
    batches = [
        [(0, int(i)) for i in b] for b in np.split(order, range(batch_size, len(keys), batch_size))
    ]
    batches = [batch for batch in batches if len(batch) == batch_size]
    dataset = ImageDataset(store, keys, [0] * len(keys))
    yield stage("store read, cached", least(dataset.__getitems__, batches), batch_size)
    del dataset, images, chunk  # a mapped page cannot leave the cache
    cold = np.array([_read_cold(folder, front_ends(config)[0], keys, b) for b in batches])
    yield stage("store read, this disk", cold, batch_size)


def _read_cold(
    folder: Path, front_end: SpectrogramImages, keys: Sequence[str], batch: Sequence[Any]
) -> float:
    """Return the seconds in which a batch is read that the system does not hold in memory."""
    store = FeatureStore(folder, front_end)
    for name in IMAGES:
        _leave_cache(store.folder / f"{name}.f16")
    dataset = ImageDataset(store, keys, [0] * len(keys))
    return float(least(dataset.__getitems__, [batch], 1, time.perf_counter)[0])


def _some(hashes: dict[str, Path], rows: Sequence[int]) -> list[tuple[str, int]]:
    """Return as many hashes with their rows as are committed at once; they may repeat."""
    pairs = list(zip(hashes, rows, strict=True))
    return [
        (f"{key}-{i}", row) for i, (key, row) in enumerate((pairs * COMMIT_EVERY)[:COMMIT_EVERY])
    ]


def _leave_cache(path: Path) -> None:
    """Ask the system to forget what it holds of a file in memory."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def network_stages(config: Config) -> Iterator[dict[str, Any]]:
    """Measure copying a batch, a training step and an evaluation forward of small networks."""
    accelerator = make_accelerator(config)
    state = make_state(config, accelerator)
    n, size = config.train.batch_size, config.model.image_size
    channels = len(state.model.cqt_mean)  # type: ignore[arg-type]

    def batches(side: int) -> list[Batch]:
        images = torch.randn(2, n, channels, side, side).half()
        return [Batch(torch.arange(n), *images, torch.arange(n) % 4)] * STEPS

    large = batches(224)
    copy = least(lambda batch: batch.to(accelerator.device), large)
    yield stage("copy to the device, widen", copy, n)
    small = batches(size)
    train_step(state, [small[0]])
    yield stage("training step, small pair", least(lambda b: train_step(state, [b]), small), n)
    forward = least(lambda batch: evaluate(state.wrapped, [batch], accelerator), small)
    yield stage("evaluation forward, small pair", forward, n)


def checkpoint_stages(folder: Path) -> list[dict[str, float]]:
    """Measure the copy and the write of states by size, one after the other."""
    rows = []
    for megabytes in STATES:
        n = megabytes // 4
        state: dict[str, Tensor] = {f"tensor{i}": torch.randn(1_000_000) for i in range(n)}
        copy = least(lambda state: copy_state(state), [state], 2)
        kept = copy_state(state)
        write = least(
            lambda kept: write_state(folder / "state.safetensors", kept),
            [kept],
            2,
            time.perf_counter,
        )
        rows.append({"bytes": 4e6 * n, "copy_s": float(copy[0]), "write_s": float(write[0])})
    return rows


def measure(source: Path | None, n: int) -> dict[str, Any]:
    """Return all figures."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    paper, small = (load_config(Path(name), ["corpus.root=none"]) for name in (PAPER, SMALL))
    front_end = front_ends(paper)[0]
    batch_size = paper.train.batch_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_utterances(source, folder, n, front_end.input_rate)
        rows = [*audio_stages(made, paper)]
        rows += [*store_stages(made, paper, folder / "store", batch_size), *network_stages(small)]
        states = checkpoint_stages(folder)
        pipelines = compare_pipelines(made.flac, front_end, small)
        sizes = {
            kind: sum(path.stat().st_size for path in getattr(made, kind))
            for kind in ("wav", "flac")
        }
    waveform = noise(MEAN, front_end.input_rate)[0]
    return {
        "audio": "noise" if source is None else source.name,
        "utterances": n,
        "utterance_seconds": float(made.seconds.mean()),
        "utterance_seconds_sd": float(made.seconds.std()),
        "batch_size": batch_size,
        "bytes_a_second": {kind: size / made.seconds.sum() for kind, size in sizes.items()},
        "image_bytes": len(IMAGES) * 2 * int(np.prod(front_end.record)),
        "front_end_bytes": front_end_bytes(front_end, waveform),
        "stages": rows,
        "states": states,
        "index": index_costs(INDEXED),
        "published pair": network_work("paper"),
        "pipelines": pipelines,
    }


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path, nargs="?", help="folder with WAV or FLAC files")
    parser.add_argument("--utterances", type=int, default=64, help="at least two batches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    if arguments.json:
        make_folder(arguments.json.parent)  # fails now, not minutes later
    words = [
        w if Path(w) != arguments.recordings else f"path/to/{Path(w).name}" for w in sys.argv[1:]
    ]
    figures: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.stages", *words]),
        "commit": git_commit(),
        "machine": machine(),
    }
    with threadpool_limits(1):  # of NumPy and SciPy
        figures |= measure(arguments.recordings, arguments.utterances)
    print(f"{figures['machine']}; one thread\n")
    for name in ("stages", "states", "pipelines"):
        print(f"{table(figures[name])}\n")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    run_entry(main)
