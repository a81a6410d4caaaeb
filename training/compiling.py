"""Which batches of a training run by compiled graphs, what compiling costs, and when it pays."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from config.schema import Config
from data import Batch
from models.compiled import Cost, Graphs, compile_cost, forget_graphs
from training.batches import TrainBatches
from training.engine import train_step
from training.gradient_cache import chunk_count
from training.state import TrainingState

ROUNDS = 3  # of steps of each kind, which alternate; the quickest counts


def batch_sizes(batches: TrainBatches) -> set[int]:
    """Return the sizes of a process's training batches: two at most."""
    divisor, n_batches = batches.divisor, batches.n_batches
    n = -(-batches.n // divisor)
    rows = {n // n_batches, -(-n // n_batches)}  # of `divisor` utterances each
    return {-(-row * divisor // batches.world) for row in rows}


def training_graphs(config: Config, batches: TrainBatches, eval_size: int) -> Graphs:
    """Return the graphs of a training: of its batches' two sizes, and of evaluation.

    Args:
        config: Config of the run.
        batches: Batches of the training split.
        eval_size: Crops of an evaluation batch.
    """
    sizes, at_once = batch_sizes(batches), config.train.backbone_batch
    if at_once is not None:
        sizes = {
            chunk
            for size in sizes
            for count in [chunk_count(size, at_once)]
            for chunk in (size // count, -(-size // count))
        }
    return Graphs(frozenset(sizes), eval_size, chunked=at_once is not None)


@dataclass(frozen=True)
class CompileCosts:
    """Measured on one process."""

    first: Cost  # of all graphs of a training
    cached: Cost  # again, from the cache
    compiled: float  # seconds of a step
    eager: float

    def describe(self, folder: Path, steps_per_epoch: int) -> str:
        """Say what compiling costs and after how many steps it pays."""
        words = f"{self.cached.seconds:.1f} s from the cache {folder}"
        costs = [self.cached.seconds]
        if self.first.compiled:
            words = f"{self.first.seconds:.1f} s the first time, {words}"
            costs.insert(0, self.first.seconds)
        words += f"; a step {self.compiled:.3f} s, eager {self.eager:.3f} s: "
        gain = self.eager - self.compiled
        if gain <= 0:
            return f"{words}it does not pay here, train.compile=false is as quick"
        steps = " and ".join(f"{math.ceil(cost / gain)}" for cost in costs)
        return f"{words}it pays after {steps} steps, an epoch has {steps_per_epoch}"


def measure_compiling(
    state: TrainingState, batch: Batch, sizes: Iterable[int], rounds: int = ROUNDS
) -> CompileCosts:
    """Make all graphs of a training, and compare its steps with eager ones.

    Args:
        state: The training; its weights are moved.
        batch: Batch on its device, of the largest size.
        sizes: Sizes of the training batches.
        rounds: Steps of each kind that are timed.
    """
    ordered = sorted(sizes)
    first = cached = _make_graphs(state, batch, ordered)
    if first.compiled:
        forget_graphs()
        cached = _make_graphs(state, batch, ordered)
    graphs = state.model.graphs
    seconds = {True: math.inf, False: math.inf}
    try:
        for is_first in (True, *[False] * rounds):
            for is_eager in seconds:
                state.model.graphs = None if is_eager else graphs  # type: ignore[assignment]
                taken = _timed_step(state, batch)
                if not is_first:
                    seconds[is_eager] = min(seconds[is_eager], taken)
    finally:
        state.model.graphs = graphs
    return CompileCosts(first, cached, seconds[False], seconds[True])


def _make_graphs(state: TrainingState, batch: Batch, sizes: Iterable[int]) -> Cost:
    before = compile_cost()
    for n in sizes:
        train_step(state, [batch.take(slice(n))])
    state.wrapped.eval()
    with torch.inference_mode(), state.evaluated():
        state.wrapped(*batch.take(slice(1)).inputs)
    return compile_cost().since(before)


def _timed_step(state: TrainingState, batch: Batch) -> float:
    start = time.perf_counter()
    train_step(state, [batch])
    if state.accelerator.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start
