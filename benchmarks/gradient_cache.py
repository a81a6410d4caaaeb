"""Memory and time of a step with gradient caching: `python -m benchmarks.gradient_cache`.

Each case is a process of its own: its peak resident memory during the steps, beyond what it had
before them, and the fastest of its steps. The networks are those of the demo, the images noise.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from data import Batch
from model_gmu import MaxMViTGMU
from models.losses import FusionLoss
from models.settings import ModelSettings
from system.cli import run_entry
from system.files import write_json
from training.engine import train_step
from training.optim import Schedule, build_optimizers
from training.state import TrainingState

CASES = {  # batch, utterances that the backbones compute at once
    "batch 16": (16, None),
    "batch 128": (128, None),
    "batch 512 by 16": (512, 16),
}
STEPS = 2


def measure(size: int, backbone_batch: int | None, side: int) -> dict[str, float]:
    """Return MiB that the steps added to the peak, and seconds of the fastest."""
    torch.manual_seed(0)
    settings = ModelSettings(
        fusion="gmu_contrastive",
        n_classes=4,
        cqt_backbone="test_maxvit",
        mel_backbone="mvitv2_micro",
        image_size=side,
    )
    model, loss = MaxMViTGMU(settings), FusionLoss()
    optimizers = build_optimizers(model.parts(), dict.fromkeys(model.parts(), "adam"), 1e-3)
    state = TrainingState(
        model,
        loss,
        optimizers,
        Schedule(optimizers),
        Accelerator(cpu=True),
        backbone_batch=backbone_batch,
    )
    cqt, mel = torch.randn(2, size, 1, side, side)
    batch = Batch(torch.arange(size), cqt, mel, torch.arange(size) % 4)
    small = Batch(*(None if value is None else value[:4] for value in batch))
    train_step(state, [small])  # optimizers have their moments
    before, seconds = _peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        train_step(state, [batch])
        seconds.append(time.perf_counter() - start)
    return {"mib": _peak() - before, "seconds": min(seconds)}


def _peak() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    """Measure all cases and print them beside the batch of 16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--side", type=int, default=32, help="height and width of the images")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*CASES[arguments.case], arguments.side)))
        return
    found = {}
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.gradient_cache", "--case", case]
        command += ["--side", str(arguments.side)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[case] = json.loads(done.stdout.splitlines()[-1])
    least = found["batch 16"]
    for case, one in found.items():
        per_utterance = one["seconds"] / CASES[case][0] * CASES["batch 16"][0] / least["seconds"]
        one["memory_ratio"] = one["mib"] / least["mib"]
        one["time_ratio_per_utterance"] = per_utterance
        print(
            f"{case:16} {one['mib']:8.0f} MiB, {one['memory_ratio']:5.2f} times batch 16; "
            f"{per_utterance:.2f} times the time of an utterance"
        )
    if arguments.json:
        write_json(arguments.json, {"side": arguments.side, **found})


if __name__ == "__main__":
    run_entry(main)
