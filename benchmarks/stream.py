"""Measure the memory of a stream of training batches from shards, many times a corpus long.

    python -m benchmarks.stream --config configs/ravdess_small_gmu.yaml corpus.root=/path/to/ravdess
    python -m benchmarks.stream ... --passes 100 --utterances 36 --json results/stream.json

Writes shards of the corpus to a temporary folder, and reads training batches from them as a run
with `train.images=computed` does, with gain and speed changed anew in each pass, so that no pass
can be served from what an earlier one left. Resident memory (RSS) is read after each pass, in a
process that did nothing else; nothing is trained. By default it streams 100 passes over 36
utterances; `--utterances 0` is all, which takes hours on two cores.
"""

import argparse
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.front_end import machine
from config.loading import load_config
from config.schema import Config
from corpora.plan import make_plan
from storage.provenance import git_commit
from storage.shard_writer import Content, rows_of_shard, write_shard
from storage.shards import Shard
from system.cli import run_entry
from system.files import make_folder, write_json
from training.build import make_train_loader, make_waveforms
from training.session import Session, make_accelerator, open_store

CHANGES = (
    "train.images=computed",
    "features.reference=full_scale",
    "augment.gain_db=6",
    "augment.speed=0.1",
    "run.device=cpu",
)
SHARDS = 4
SETTLED = 0.2  # share of the passes after which memory is compared with that at the end


def write(config: Config) -> int:
    """Index the corpus and write its shards; return its number of utterances."""
    plan = make_plan(config, keep=True)
    content = Content("flac", plan.certificate, open_store(config))
    for number in range(1, SHARDS + 1):
        shard = Shard(number, SHARDS)
        rows = rows_of_shard(plan.utterances, plan.hashes, shard)
        write_shard(Path(str(config.run.shards)), shard, rows, content, config.run.workers)
    return len(plan.utterances)


def stream(config: Config, n_passes: int, n_utterances: int) -> Iterator[dict[str, float]]:
    """Stream passes over some utterances; yield memory and time after each.

    Args:
        config: Config whose `run.shards` hold the corpus.
        n_passes: Number of passes.
        n_utterances: Number of utterances, drawn from the whole corpus; 0 is all.
    """
    plan, store = make_plan(config), open_store(config)
    some = np.random.default_rng(0).permutation(len(plan.utterances))[: n_utterances or None]
    split = replace(plan.splits[0], train=tuple(plan.utterances[i] for i in sorted(some)))
    fold = Session(config, plan, store, make_accelerator(config)).with_shards().fold(split, 0)
    loader = make_train_loader(fold, make_waveforms(fold))
    start = time.perf_counter()
    for epoch in range(n_passes):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        n = sum(len(batch.targets) for batch in loader)
        assert n == len(some)
        yield {"MB": resident_mb(), "s": time.perf_counter() - start}


def summary(measured: Sequence[dict[str, float]], n_utterances: int) -> dict[str, Any]:
    """Return how memory went: once settled, at the end, at most, and its trend by least squares.

    The allocator keeps the blocks of some batches or gives them back, so that memory goes up and
    down between passes. What a leak would raise is the least of each tenth of the passes.
    """
    memory = np.array([row["MB"] for row in measured])
    first = int(SETTLED * len(memory))
    rest = memory[first:]
    tenths = np.array_split(memory, min(10, len(memory)))
    slope = float(np.polyfit(np.arange(len(rest)), rest, 1)[0]) if len(rest) > 1 else 0.0
    return {
        "passes": len(memory),
        "utterances": n_utterances,
        "MB after the first pass": float(memory[0]),
        f"MB after {first + 1} passes": float(rest[0]),
        "MB at the end": float(memory[-1]),
        "MB at most": float(memory.max()),
        "MB at least, by tenths": [round(float(t.min()), 1) for t in tenths],
        f"MB per pass after {first + 1}": slope,
        "s": measured[-1]["s"],
    }


def alone() -> Pool:
    """Return a process that holds nothing of what was done before."""
    return multiprocessing.get_context("spawn").Pool(1)


def resident_mb() -> float:
    """Return the resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    """Print memory after each pass, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--utterances", type=int, default=36, help="0 is all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON, too")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_intermixed_args()
    words = [re.sub("^corpus.root=.*", "corpus.root=/path/to/ravdess", w) for w in sys.argv[1:]]
    command = f"python -m benchmarks.stream {' '.join(words)}"
    facts = {"machine": machine(), "git_commit": git_commit(), "command": command}
    with tempfile.TemporaryDirectory() as folder:
        places = [f"run.shards={folder}/shards", f"run.store={folder}/store"]
        config = load_config(arguments.config, [*arguments.overrides, *CHANGES, *places])
        with alone() as process:  # its memory is not that of the stream
            n_all = process.apply(write, (config,))
        n = min(arguments.utterances, n_all) or n_all
        measured: list[dict[str, float]] = []
        for row in stream(config, arguments.passes, n):
            measured.append(row)
            print(f"pass {len(measured)}: {row['MB']:.1f} MB", flush=True)
            if arguments.json:  # after each pass: what was streamed when it was ended is recorded
                make_folder(arguments.json.parent)
                memory = {"MB by pass": [round(row["MB"], 1) for row in measured]}
                write_json(arguments.json, facts | summary(measured, n) | memory)
    print("\n".join(f"{name}: {value}" for name, value in summary(measured, n).items()))


if __name__ == "__main__":
    run_entry(main)
