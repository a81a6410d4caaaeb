"""Measure what surviving costs: a checked training step beside a bare one, a state saved and read.

python -m benchmarks.resilience
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.front_end import machine
from data import Batch
from model_gmu import MaxMViTGMU
from models.losses import FusionLoss
from models.settings import ModelSettings
from storage.tensors import copy_state
from system.cli import run_entry
from training.checkpoints import Checkpoints
from training.engine import train_step
from training.optim import Schedule, build_optimizers
from training.state import TrainingState

SIDE = 96  # pixels; small, so that what is measured is not lost in the networks' time
N_CLASSES = 8


def make_state(cqt_backbone: str, mel_backbone: str) -> TrainingState:
    """Return a state of the gated fusion with untrained networks on the CPU."""
    settings = ModelSettings(
        n_classes=N_CLASSES,
        fusion="gmu",
        cqt_backbone=cqt_backbone,
        mel_backbone=mel_backbone,
        image_size=SIDE,
    )
    model = MaxMViTGMU(settings)
    optimizers = build_optimizers(model.parts(), dict.fromkeys(model.parts(), "adam"), 1e-6)
    return TrainingState(
        model, FusionLoss(), optimizers, Schedule(optimizers), Accelerator(cpu=True)
    )


def make_batch(n: int) -> Batch:
    """Return n images of noise, twice."""
    cqt, mel = torch.randn(2, n, 1, SIDE, SIDE)
    return Batch(torch.arange(n), cqt, mel, torch.arange(n) % N_CLASSES)


def bare_step(state: TrainingState, batch: Batch) -> None:
    """Do what a step does, without checking that the result is finite."""
    state.wrapped.train()
    output = state.wrapped(batch.cqt, batch.mel)
    state.criterion(output.logits, batch.targets, None).total.backward()
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def step_ratio(state: TrainingState, batch: Batch, rounds: int) -> tuple[float, float]:
    """Return a checked step in bare ones, median of pairs, and the median bare step in seconds."""
    pairs = [
        (seconds(lambda: train_step(state, [batch])), seconds(lambda: bare_step(state, batch)))
        for _ in range(rounds + 1)
    ][1:]  # the first warms up
    ratio = statistics.median(checked / bare for checked, bare in pairs)
    return ratio, statistics.median(bare for _, bare in pairs)


def state_seconds(state: TrainingState) -> tuple[float, float, int]:
    """Return how long saving and loading a state take, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        saving = seconds(
            lambda: checkpoints.save(copy_state(state.state_dict()), state.progress.place)
        )
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        loading = seconds(lambda: state.load_state_dict(checkpoints.load() or {}))
    return saving, loading, size


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cqt", nargs="?", default="test_maxvit", help="timm model")
    parser.add_argument("mel", nargs="?", default="mvitv2_micro", help="timm model")
    parser.add_argument("--batch", type=int, default=16, help="utterances in a batch")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    state = make_state(arguments.cqt, arguments.mel)
    ratio, bare = step_ratio(state, make_batch(arguments.batch), arguments.rounds)
    saving, loading, size = state_seconds(state)
    print(machine())
    print(f"{arguments.cqt} + {arguments.mel}, {SIDE} pixels, {arguments.batch} utterances")
    print(f"a checked step takes {ratio:.3f} bare ones, median of {arguments.rounds} pairs")
    print(f"a state has {size / 1e6:.0f} MB; saving it takes {saving / bare:.2f} bare steps,")
    print(f"loading it {loading / bare:.2f}")


if __name__ == "__main__":
    run_entry(main)
