"""Time training steps of a config on random images: one of the processes of `experiments.slots`.

    python -m experiments.step_probe --config FILE [section.key=value ...]

It prints `ready`, waits for a line, computes for a few seconds and prints utterances a second and
its largest memory in bytes, as JSON. Optimizers are left out: they take a few percent.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from config.loading import load_config
from training.build import build_untrained
from training.session import make_accelerator

SECONDS = 5.0  # of the measurement
FEW = 2  # utterances of the step that warms up; batch norms take no fewer
KIB = 1024  # bytes; Linux counts memory in them, macOS in bytes
CLASSES = 4


def measure(config_file: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Return `utterances` a second and `bytes` of memory at most."""
    config = load_config(config_file, overrides)
    size, accelerator = config.model.image_size, make_accelerator(config)
    network = build_untrained(config, CLASSES).train()
    n_channels = len(network.cqt_mean)

    def step(n: int) -> float:
        start = time.monotonic()
        images = torch.randn(2, n, n_channels, size, size)
        with accelerator.autocast():
            logits = network(images[0], images[1]).logits
        F.cross_entropy(logits.float(), torch.arange(n) % CLASSES).backward()
        network.zero_grad()
        return time.monotonic() - start

    step(FEW)
    few = step(FEW)
    n = config.train.batch_size
    if few * n / FEW > SECONDS:  # of large networks two utterances are as telling
        n = FEW
    else:
        step(n)
    print("ready", flush=True)
    sys.stdin.readline()
    seconds = n_done = 0.0
    while seconds < SECONDS:
        seconds += step(n)
        n_done += n
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "utterances": n_done / seconds,
        "bytes": most * (1 if sys.platform == "darwin" else KIB),
    }


if __name__ == "__main__":
    file, *wishes = sys.argv[sys.argv.index("--config") + 1 :]
    print(json.dumps(measure(Path(file), wishes)))
