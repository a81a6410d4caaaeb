"""Measure what each fusion costs: parameters, operations, the time of a training step, memory.

    python -m benchmarks.fusions                     # small backbones; a few minutes
    python -m benchmarks.fusions --backbones paper   # the published ones, with random weights
    python -m benchmarks.fusions --json FILE         # also into FILE, beside the other backbones

Steps of a fusion and of gmu alternate, so that both meet the same load of the machine; the step
time is the median of their ratios, on a CPU in processor time of one thread. FLOPs are those of
matrix products and convolutions, two for each multiplication with its addition.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from model_gmu import MaxMViTGMU
from models.heads import n_parameters
from models.losses import FusionLoss
from models.settings import ModelSettings
from scripts.write_tables import costs_markdown
from storage.provenance import git_commit, processor
from system.cli import run_entry
from system.files import read_json, write_json
from training.optim import build_optimizers

ROOT = Path(__file__).resolve().parent.parent

N_CLASSES = 4
OPTIMIZERS = {"cqt": "adam", "mel": "radam", "head": "adam"}  # as published
REFERENCE = "gmu"
FUSIONS: dict[str, dict[str, Any]] = {
    "concat": {"fusion": "concat"},
    "concat, matched": {"fusion": "concat", "match_parameters": True},
    "mean": {"fusion": "mean"},
    "mean, matched": {"fusion": "mean", "match_parameters": True},
    "sum": {"fusion": "sum"},
    "sum, matched": {"fusion": "sum", "match_parameters": True},
    "gmu": {"fusion": "gmu"},
    "gmu, scalar gate": {"fusion": "gmu", "gate": "scalar"},
    "gmu, gate on features": {"fusion": "gmu", "gate_input": "features"},
    "gmu_contrastive": {"fusion": "gmu_contrastive"},
    "cross_attention": {"fusion": "cross_attention"},
    "cross_attention_contrastive": {"fusion": "cross_attention_contrastive"},
    "cqt_only": {"fusion": "cqt_only"},
    "mel_only": {"fusion": "mel_only"},
}


class Networks(NamedTuple):
    """The two backbones and what belongs to them."""

    cqt: str
    mel: str
    side: int  # pixels
    mlp_hidden_dim: int
    batch: int  # utterances of a training step, of paper so few that a CPU holds them


BACKBONES = {
    "small": Networks("test_maxvit", "mvitv2_micro", 64, 128, 16),
    "paper": Networks("maxvit_base_tf_224", "mvitv2_base", 224, 512, 2),
}


class Images(NamedTuple):
    """A batch of noise."""

    cqt: Tensor  # (B, 1, H, W)
    mel: Tensor  # (B, 1, H, W)
    targets: Tensor  # (B,)


class Candidate(NamedTuple):
    """A fusion with what trains it."""

    model: MaxMViTGMU
    optimizers: Sequence[Optimizer]

    def loss(self, batch: Images) -> Tensor:
        """Return the loss of a batch."""
        output = self.model.train()(batch.cqt, batch.mel)
        return FusionLoss()(output.logits, batch.targets, output.views).total

    def step(self, batch: Images) -> None:
        """Train on a batch, and wait for the device."""
        self.loss(batch).backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if batch.cqt.is_cuda:
            torch.cuda.synchronize()


def build(networks: Networks, settings: dict[str, Any]) -> MaxMViTGMU:
    """Return an untrained network."""
    model_settings = ModelSettings(
        n_classes=N_CLASSES,
        cqt_backbone=networks.cqt,
        mel_backbone=networks.mel,
        image_size=networks.side,
        mlp_hidden_dim=networks.mlp_hidden_dim,
        **settings,
    )
    return MaxMViTGMU(model_settings)


def candidate(networks: Networks, settings: dict[str, Any], device: str) -> Candidate:
    """Return a fusion ready to train on the device."""
    model = build(networks, settings).to(device)
    return Candidate(model, build_optimizers(model.parts(), OPTIMIZERS, 1e-6))


def images(networks: Networks, n: int, device: str) -> Images:
    """Return images of noise for n utterances."""
    cqt, mel = torch.randn(2, n, 1, networks.side, networks.side, device=device)
    return Images(cqt, mel, torch.arange(n, device=device) % N_CLASSES)


def size(model: MaxMViTGMU, clip: Images) -> dict[str, int]:
    """Return parameters, and the FLOPs of one utterance in evaluation, of the head and of all."""
    model.eval()
    seen: list[Any] = []
    branches = flops(lambda: seen.append(model.features(clip.cqt, clip.mel)))
    head = flops(lambda: model.fuse(seen[0]))
    return {
        "head_parameters": n_parameters(model.head),
        "parameters": n_parameters(model),
        "head_flops": head,
        "flops": branches + head,
    }


@torch.no_grad()
def flops(work: Callable[[], object]) -> int:
    """Return the FLOPs of matrix products and convolutions; those of attention are such products.

    The counter knows no fused attention of CPUs, so that attention is done in steps here.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def step_ratios(one: Candidate, reference: Candidate, batch: Images, n: int) -> list[list[float]]:
    """Return [seconds of one, of the reference] for n pairs of steps; both have made steps."""
    return [[seconds(it, batch) for it in (one, reference)] for _ in range(n)]


def seconds(one: Candidate, batch: Images) -> float:
    """Return how long a training step takes: of a CPU what it works, others may have it between."""
    clock = time.perf_counter if batch.cqt.is_cuda else time.process_time
    start = clock()
    one.step(batch)
    return clock() - start


def memory(one: Candidate, batch: Images, before: int) -> int:
    """Return the bytes of a training step.

    Args:
        one: Training that has made a step, so that its optimizers have their state.
        batch: Batch to train on.
        before: Bytes on a GPU that are not of this fusion.
    """
    if batch.cqt.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        one.step(batch)
        return torch.cuda.max_memory_allocated() - before
    kept = list(one.model.parameters())
    state = [
        value
        for optimizer in one.optimizers
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    # a gradient is as large as its parameter
    return saved_bytes(lambda: one.loss(batch), kept) + n_bytes([*kept, *kept, *state])


def saved_bytes(work: Callable[[], object], known: Sequence[Tensor] = ()) -> int:
    """Return the bytes that are kept for backward, each storage once.

    Args:
        work: Returns what backward would start from.
        known: Tensors that are counted elsewhere.
    """
    mine = {tensor.untyped_storage().data_ptr() for tensor in known}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _kept = work()  # a storage that is let go may be taken again and counted as one
    return sum(found.values())


def n_bytes(tensors: Sequence[Tensor]) -> int:
    """Return the bytes of the values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure(networks: Networks, steps: int, device: str, batch_size: int) -> dict[str, Any]:
    """Return a row for each fusion, and what they were measured with."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of several the waiting for one another would count
    reference = candidate(networks, FUSIONS[REFERENCE], device)
    batch = images(networks, batch_size, device)
    reference.step(batch)
    rows, of_reference = [], []
    for name, settings in FUSIONS.items():
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        one = candidate(networks, settings, device)
        one.step(batch)
        pairs = step_ratios(one, reference, batch, steps)
        ratios = sorted(a / b for a, b in pairs)  # gmu beside another gmu shows the noise
        of_reference += [b for _, b in pairs]
        rows.append(
            {
                "name": name,
                **size(one.model, images(networks, 1, device)),
                "step": statistics.median(ratios),
                "step_range": [ratios[0], ratios[-1]],
                "memory": memory(one, batch, before),
            }
        )
        print(f"{name}: {statistics.median(ratios):.2f}", file=sys.stderr, flush=True)
        del one  # before the next one takes its memory
    return {
        "networks": {**networks._asdict(), "batch": batch_size},
        "steps": steps,
        "step_seconds": statistics.median(of_reference),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "memory_is": "allocated" if device == "cuda" else "kept",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "git_commit": git_commit(),
        "rows": rows,
    }


def main() -> None:
    """Print the table, and record it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbones", choices=BACKBONES, default="small")
    parser.add_argument("--steps", type=int, default=9, help="of each fusion, beside the first")
    parser.add_argument(
        "--batch", type=int, help="utterances in a batch; default: 16 small, 2 paper"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="record it, too")
    arguments = parser.parse_args()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    networks = BACKBONES[arguments.backbones]
    found = measure(networks, arguments.steps, device, arguments.batch or networks.batch)
    print(costs_markdown(arguments.backbones, found))
    if arguments.json:
        recorded = read_json(arguments.json) if arguments.json.exists() else {}
        write_json(arguments.json, recorded | {arguments.backbones: found})


if __name__ == "__main__":
    run_entry(main)
