"""Measure how long a save holds training up: written by a thread from a copy, or directly.

python -m benchmarks.checkpoints --out results/checkpoints.json
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.front_end import machine
from storage.tensors import save_state
from system.cli import run_entry
from system.files import write_json
from system.signals import Stop
from training.checkpoints import Checkpoints, Place
from training.saver import CheckpointSaver, Spacing

TENSORS = 120  # of a million values each: 480 MB


def work(matrix: torch.Tensor) -> float:
    """Compute for a while in place of training; return its seconds."""
    start = time.perf_counter()
    for _ in range(100):
        matrix = (matrix @ matrix).tanh()
    return time.perf_counter() - start


def one_round(folder: Path, epoch: int, state: dict[str, torch.Tensor]) -> dict[str, float]:
    """Save directly and by a thread; return seconds."""
    place = Place(epoch, 0, 0)
    start = time.perf_counter()
    save_state(folder / "direct.safetensors", state)
    direct = time.perf_counter() - start
    saver = CheckpointSaver(
        Checkpoints(folder), Spacing(1), Stop(), Accelerator(cpu=True), lambda: (state, place)
    )
    matrix = torch.randn(700, 700)
    alone = work(matrix)
    start = time.perf_counter()
    saver.save()
    held = time.perf_counter() - start
    beside = work(matrix)
    saver.finish()
    return {
        "direct_s": direct,
        "thread_s": held,
        "held_share": held / direct,
        "slowdown_beside": beside / alone,
    }


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    state = {f"tensor{i}": torch.randn(1000, 1000) for i in range(TENSORS)}
    with tempfile.TemporaryDirectory() as folder:
        rounds = [one_round(Path(folder), i, state) for i in range(1, arguments.rounds + 1)]
    found = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    size = sum(tensor.nbytes for tensor in state.values())
    print(f"{machine()}; a state of {size / 1e6:.0f} MB, median of {len(rounds)} rounds")
    print(
        f"a save holds training up for {found['thread_s']:.2f} s with a thread, "
        f"{found['direct_s']:.2f} s without: {100 * found['held_share']:.0f} %"
    )
    print(f"computing beside the write takes {found['slowdown_beside']:.2f} times as long")
    if arguments.out:
        write_json(
            arguments.out,
            {
                "command": "python -m benchmarks.checkpoints",
                "machine": machine(),
                "state_bytes": size,
                "rounds": rounds,
                "median": found,
            },
        )


if __name__ == "__main__":
    run_entry(main)
