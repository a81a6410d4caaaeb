"""A training step beside the bare forward and backward of its two backbones.

    python -m benchmarks.train_step --config configs/ravdess_small_gmu.yaml --json FILE

Ours is `train_unseen`, as an epoch takes it: head, loss, norms, clipping, optimizers, and what the
host reads from the device. Bare is the same two networks of timm, the sum of their features and its
backward pass, at the same precision. Both alternate in one process on the same random images.

Counted in a step: operations that torch dispatches (views left out), which on a GPU launch about
one kernel each; and waits of the host for the device: values read one by one (`item`) and transfers
of `read`. On a CPU nothing waits, but the steps are taken as on a GPU, so that they can be counted.
"""

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.front_end import machine
from config.loading import load_config
from config.schema import Config
from data import Batch
from model_gmu import MaxMViTGMU
from system.cli import run_entry
from system.files import write_json
from training import engine
from training.build import build_loss, build_untrained
from training.optim import Schedule, build_optimizers
from training.session import make_accelerator
from training.state import LOOK_EVERY, TrainingState

CLASSES = 8
READ = "aten::_local_scalar_dense"  # what `item` and `bool` of a tensor become


class Count(TorchDispatchMode):
    """Counts the operations that are dispatched inside a block.

    Args:
        on_host: Addresses of tensors that are in host memory on a GPU, too.
    """

    def __init__(self, on_host: set[int]) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.on_host = on_host

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operation, unless it is a view."""
        name = func._schema.name
        if not func.is_view and not (name == READ and args[0].data_ptr() in self.on_host):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def make_state(config: Config, accelerator: Accelerator) -> TrainingState:
    """Return the training of a config, without corpus."""
    network = build_untrained(config, CLASSES).to(accelerator.device)
    loss = build_loss(config, torch.arange(CLASSES), CLASSES).to(accelerator.device)
    parts, names = network.parts(), config.optim.optimizer.model_dump(exclude_none=True)
    parts["head"] = [*parts["head"], *loss.parameters()]
    optimizers = build_optimizers(parts, names, 1e-6)
    state = TrainingState(
        network,
        loss,
        optimizers,
        Schedule(optimizers),
        accelerator,
        clip_grad_norm=config.train.clip_grad_norm,
        ema=config.train.ema,
    )
    state.look_every = LOOK_EVERY
    return state


def bare_step(model: MaxMViTGMU, batch: Batch, accelerator: Accelerator) -> None:
    """Forward and backward of both backbones alone."""
    with accelerator.autocast():
        features = [
            branch(image)
            for branch, image in ((model.cqt_branch, batch.cqt), (model.mel_branch, batch.mel))
            if isinstance(branch, nn.Module)
        ]
    total: Tensor = sum(feature.float().sum() for feature in features)  # type: ignore[assignment]
    total.backward()
    for parameter in model.parameters():
        parameter.grad = None


def measure(config: Config, steps: int, rounds: int) -> dict[str, Any]:
    """Return seconds of a step, ours and bare, and counts of a step of ours.

    Args:
        config: Gives networks, sizes, precision, optimizers and clipping.
        steps: Steps of a block; both kinds of blocks alternate.
        rounds: Blocks of each kind; the quickest counts.
    """
    accelerator = make_accelerator(config)
    device, n = accelerator.device, config.train.batch_size
    state = make_state(config, accelerator)
    channels, size = len(state.model.cqt_mean), config.model.image_size  # type: ignore[arg-type]
    images = torch.randn(2, n, channels, size, size)
    batch = Batch(torch.arange(n), images[0], images[1], torch.arange(n) % CLASSES).to(device)

    def ours() -> None:
        windows = iter([[batch]] * steps)
        while engine.train_unseen(state, windows):
            pass

    def bare() -> None:
        for _ in range(steps):
            bare_step(state.model, batch, accelerator)  # type: ignore[arg-type]

    engine.train_step(state, [batch])
    ours()
    bare()
    seconds = {"ours": float("inf"), "bare": float("inf")}
    for _ in range(rounds):
        for name, block in (("ours", ours), ("bare", bare)):
            seconds[name] = min(seconds[name], _timed(block, device) / steps)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train_step", *sys.argv[1:]]),
        "utterances a step": n,
        "precision": config.train.precision,
        "machine": machine(),
        "device": str(device),
        "seconds": seconds,
        "ours / bare": seconds["ours"] / seconds["bare"],
        **_counts(ours, steps, _steps_on_host(state)),
    }


def _steps_on_host(state: TrainingState) -> set[int]:
    """Return the addresses of the step counters that torch keeps in host memory: of plain forms."""
    plain = [o for o in state.optimizers if not o.defaults.get("fused")]
    return {kept["step"].data_ptr() for o in plain for kept in o.state.values() if "step" in kept}


def _counts(ours: Callable[[], None], steps: int, on_host: set[int]) -> dict[str, float]:
    """Return operations and waits of a step."""
    transfers = []
    read = engine.read

    def counted(taken: Any) -> Any:
        transfers.append(len(taken))
        with torch.utils._python_dispatch._disable_current_modes():  # a transfer is one wait
            return read(taken)

    engine.read = counted
    try:
        with Count(on_host) as count:
            ours()
    finally:
        engine.read = read
    waits = count.names[READ] + len(transfers)
    return {"operations a step": count.names.total() / steps, "waits a step": waits / steps}


def _timed(block: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    block()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=LOOK_EVERY, help="of a block")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, ["corpus.root=none", *arguments.overrides])
    figures = measure(config, arguments.steps, arguments.rounds)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if arguments.json is not None:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    run_entry(main)
