"""Measure what watching for collapse costs: steps and dev passes with it beside those without.

python -m benchmarks.watching
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from accelerate import Accelerator

from benchmarks.front_end import machine
from benchmarks.resilience import N_CLASSES, SIDE, make_batch
from data import Batch
from model_gmu import MaxMViTGMU
from models.losses import FusionLoss
from models.settings import ModelSettings
from system.cli import run_entry
from training.engine import train_step
from training.evaluate import Predictions, evaluate
from training.optim import Schedule, build_optimizers
from training.state import TrainingState


def make_state(cqt_backbone: str, mel_backbone: str) -> TrainingState:
    """Return a state of the contrastive fusion, of which most is watched."""
    settings = ModelSettings(
        n_classes=N_CLASSES,
        fusion="gmu_contrastive",
        cqt_backbone=cqt_backbone,
        mel_backbone=mel_backbone,
        image_size=SIDE,
    )
    model = MaxMViTGMU(settings)
    optimizers = build_optimizers(model.parts(), dict.fromkeys(model.parts(), "adam"), 1e-6)
    return TrainingState(
        model, FusionLoss(), optimizers, Schedule(optimizers), Accelerator(cpu=True)
    )


def unwatched_step(state: TrainingState, batch: Batch) -> None:
    """Take a step whose gradients are not measured."""
    with mock.patch.object(state.monitor, "gradient_norms", dict):
        train_step(state, [batch])


def dev_pass(state: TrainingState, batches: list[Batch]) -> Predictions:
    """Predict some batches as an epoch's end does."""
    return evaluate(state.wrapped, batches, state.accelerator)


def watched_pass(state: TrainingState, batches: list[Batch]) -> None:
    """Predict them, and measure gate, embeddings and views."""
    with state.monitor.recording():
        gate = dev_pass(state, batches).gate
    state.monitor.epoch_measures(gate, state.accelerator)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time that it takes, which does not count what else the machine does."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(
    watched: Callable[[], object], plain: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Return the median ratio of pairs and its quartiles; which of a pair is first alternates."""
    found = []
    for i in range(rounds + 1):
        if i % 2:
            found.append(seconds(watched) / seconds(plain))
        else:
            below = seconds(plain)
            found.append(seconds(watched) / below)
    low, middle, high = statistics.quantiles(found[1:], n=4)  # the first warms up
    return middle, low, high


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cqt", nargs="?", default="test_maxvit", help="timm model")
    parser.add_argument("mel", nargs="?", default="mvitv2_micro", help="timm model")
    parser.add_argument("--batch", type=int, default=16, help="utterances in a batch")
    parser.add_argument("--dev", type=int, default=16, help="batches of the dev split")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    state, batch = make_state(arguments.cqt, arguments.mel), make_batch(arguments.batch)
    n = arguments.batch
    dev = [batch._replace(utterance=torch.arange(i * n, i * n + n)) for i in range(arguments.dev)]
    rounds = arguments.rounds
    step = ratio(lambda: train_step(state, [batch]), lambda: unwatched_step(state, batch), rounds)
    whole = ratio(
        lambda: watched_pass(state, dev), lambda: dev_pass(state, dev), max(rounds // 3, 2)
    )
    print(machine())
    print(f"{arguments.cqt} + {arguments.mel}, {SIDE} pixels, {n} utterances")
    for name, (middle, low, high) in (("step", step), (f"dev pass of {n * len(dev)}", whole)):
        print(f"a watched {name} takes {middle:.3f} plain ones, quartiles {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    run_entry(main)
