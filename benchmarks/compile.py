"""Compiled backbones beside eager ones: what compiling costs, and after how many steps it pays.

    python -m benchmarks.compile --config configs/ravdess_small_gmu.yaml --json results/compile.json

The same measurement runs in two processes with one cache folder, which is empty for the first: it
compiles, the second finds all graphs there. Each makes the graphs of one size of training batch and
of evaluation; then the second takes whole training steps, compiled and eager in turn, in one
process on one batch of random images. The quickest step of each kind counts.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.front_end import machine
from benchmarks.train_step import CLASSES, make_state
from config.loading import load_config
from config.schema import Config
from data import Batch
from models.compiled import Graphs
from system.cli import run_entry
from system.compilers import compiler_version
from system.files import write_json
from training.compiling import measure_compiling
from training.session import make_accelerator

WISHES = ["corpus.root=none", "train.compile=true"]


def measure(config: Config, rounds: int) -> dict[str, Any]:
    """Return what compiling costs this process, and the seconds of a step of each kind.

    Args:
        config: Gives networks, sizes, precision and the folder of the cache.
        rounds: Steps of each kind.
    """
    accelerator = make_accelerator(config)
    n, size = config.train.batch_size, config.model.image_size
    state = make_state(config, accelerator)
    state.model.graphs = Graphs(frozenset({n}), eval_size=n)  # type: ignore[assignment]
    channels = len(state.model.cqt_mean)  # type: ignore[arg-type]
    images = torch.randn(2, n, channels, size, size)
    batch = Batch(torch.arange(n), images[0], images[1], torch.arange(n) % CLASSES)
    costs = measure_compiling(state, batch.to(accelerator.device), [n], rounds)
    return {
        "device": str(accelerator.device),
        "compiler": compiler_version(accelerator.device.type),
        "machine": machine(),
        "graphs compiled": costs.first.compiled,
        "graphs from the cache": costs.first.cached,
        "seconds of compiling": costs.first.seconds,
        "seconds of a step": {"eager": costs.eager, "compiled": costs.compiled},
    }


def compare(argv: list[str], config: Config, rounds: int) -> dict[str, Any]:
    """Measure in two processes, with an empty cache and with a full one.

    Args:
        argv: Config and overrides of the measurement.
        config: The same, loaded.
        rounds: Steps of each kind in the second process.
    """
    with tempfile.TemporaryDirectory() as folder:
        wishes = [*argv, f"run.compile_cache={folder}", "--child"]
        cold, warm = (_child([*wishes, "--rounds", str(n)]) for n in (1, rounds))
    eager, compiled = warm["seconds of a step"]["eager"], warm["seconds of a step"]["compiled"]
    gain = eager - compiled
    costs = {"cold": cold["seconds of compiling"], "warm": warm["seconds of compiling"]}
    return {
        "command": shlex.join(["python", "-m", "benchmarks.compile", *sys.argv[1:]]),
        "utterances a step": config.train.batch_size,
        "image size": config.model.image_size,
        "precision": config.train.precision,
        **{key: warm[key] for key in ("device", "machine", "compiler", "seconds of a step")},
        "eager / compiled": eager / compiled,
        "seconds of compiling": costs,
        "graphs": {"compiled cold": cold["graphs compiled"], "warm": warm["graphs compiled"]},
        "pays after steps": {
            name: math.ceil(cost / gain) if gain > 0 else None for name, cost in costs.items()
        },
    }


def _child(words: list[str]) -> dict[str, Any]:
    """Measure in a process of its own; its last line is the result."""
    command = [sys.executable, "-m", "benchmarks.compile", *words]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, [*WISHES, *arguments.overrides])
    if arguments.child:
        print(json.dumps(measure(config, arguments.rounds)))
        return
    argv = ["--config", str(arguments.config), *arguments.overrides]
    figures = compare(argv, config, arguments.rounds)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if arguments.json is not None:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    run_entry(main)
