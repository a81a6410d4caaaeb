"""Costs of a training at any scale: what was measured on one core, and what follows for GPUs.

A step on a GPU is estimated twice: its FLOPs at the card's peak rate, and the bytes that its
operations move at the peak rate of the card's memory. The larger is a lower bound of its time as
long as torch runs the operations one by one, since both rates are peaks. How the stages flow
together is simulated by `benchmarks/queueing.py`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.queueing import Flow, Station, simulate

BACKWARD = 2  # times the FLOPs of forward: gradients of inputs and of weights
HALF = 0.5  # bytes of bfloat16, of float32's
ADAM = 7 * 4  # bytes a parameter that a step reads and writes: gradient, weight, two moments
STATE = 3 * 4 + 4  # bytes a parameter in a state: weights, two moments, best weights
GRADIENT = 4  # bytes a parameter that is averaged over GPUs, float32
TIMM = 1 / (1 / 730 + 1 / 1145)  # utterances/s forward through both, RTX 4090: timm's own table

NODE = 8  # GPUs
WORKERS = 8  # processes that load, for each GPU
PREFETCH = 2  # batches a worker, DataLoader's default
NVLINK = 300e9  # bytes/s of one direction within a node of A100
PCI = 25e9  # bytes/s from the host, of 32e9 at the peak of PCIe 4.0 x 16
SPREAD = 0.02  # standard deviation of a GPU's step, of its mean
OVERLAPPED = 2 / 3  # share of a step that is backward, beside which gradients are averaged
GROUPS = 300  # steps that are simulated
SPACING = 10  # times the seconds of a state's copy and write between two states


class Card(NamedTuple):
    """Peak rates of a GPU, dense products, from the vendor's data sheet."""

    bfloat16: float  # FLOP/s
    bandwidth: float  # bytes/s


CARDS = {
    "RTX 4090": Card(165.2e12, 1.008e12),
    "A100 80 GB SXM": Card(312e12, 2.039e12),
    "H100 SXM": Card(989.4e12, 3.35e12),
}
REFERENCE, TIMMS = "A100 80 GB SXM", "RTX 4090"  # the second is the card of timm's table


class Corpus(NamedTuple):
    """How much there is of a corpus."""

    hours: float
    utterance: float  # seconds, mean


CORPORA = {
    "IEMOCAP, 4 classes": Corpus(6.989, 6.989 * 3600 / 5531),
    "MSP-Podcast": Corpus(400, (237 + 56 / 60) * 3600 / 151_654),  # mean of release 1.11
    "100,000 h": Corpus(100_000, 4.5),
}


class Setting(NamedTuple):
    """Where images come from, and what the GPUs share."""

    images: str  # stored or computed
    source: str
    mount: float | None  # bytes/s that all nodes share; None: each has its own memory or disk
    n_gpus: int
    network: float  # bytes/s of a node


DISK = "store read, this disk"  # the stage, and the source of images that no memory holds
SLOW, FAST = 12.5e9, 200e9  # a node's network: 100 Gbit/s, and 8 x 200 Gbit/s
SETTINGS = (
    Setting("stored", "memory", None, 1, FAST),
    Setting("stored", DISK, None, 1, FAST),
    Setting("stored", "mount, 1 GB/s", 1e9, 1, FAST),
    Setting("computed", "mount, 1 GB/s", 1e9, 1, FAST),
    Setting("stored", "memory", None, 64, FAST),
    Setting("stored", "memory", None, 64, SLOW),
    Setting("stored", "mount, 1 GB/s", 1e9, 64, FAST),
    Setting("stored", "mount, 10 GB/s", 10e9, 64, FAST),
    Setting("computed", "mount, 1 GB/s", 1e9, 64, FAST),
    Setting("computed", "mount, 10 GB/s", 10e9, 64, FAST),
)


class Measured:
    """Seconds and bytes of `benchmarks/stages.py`, an utterance.

    Args:
        found: What it wrote.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.found = found
        self.rows = {row["stage"]: row for row in found["stages"]}
        self.work = found["published pair"]
        self.batch: int = found["batch_size"]
        self.image_bytes: int = found["image_bytes"]
        self.flac = found["bytes_a_second"]["flac"] * found["utterance_seconds"]

    def seconds(self, stage: str, utterance: float | None = None) -> float:
        """Return the mean of a stage, for another mean length if one is given."""
        row, scale = self.rows[stage], 1.0
        if utterance is not None:
            scale = utterance / self.found["utterance_seconds"]
        return scale * row["seconds"] / row["utterances"]

    def batch_spread(self, stage: str) -> float:
        """Return the standard deviation of a batch; utterances vary independently."""
        row = self.rows[stage]
        return row["sd"] * math.sqrt(self.batch / row["utterances"])

    def state(self) -> tuple[float, float]:
        """Return the seconds of copy and write of a state of the published pair."""
        largest = max(self.found["states"], key=lambda row: row["bytes"])
        scale = STATE * self.work["parameters"] / largest["bytes"]
        return scale * largest["copy_s"], scale * largest["write_s"]

    def step(self, card: Card) -> tuple[float, float]:
        """Return the least seconds an utterance of a bfloat16 step: by FLOPs, and by bytes."""
        flops = (1 + BACKWARD) * self.work["forward_flops"]
        optimizer = ADAM * self.work["parameters"] / self.batch
        moved = HALF * self.work["step_bytes"] + optimizer
        return flops / card.bfloat16, moved / card.bandwidth

    def forward(self, card: Card) -> tuple[float, float]:
        """Return the same of forward alone."""
        moved = HALF * self.work["forward_bytes"]
        return self.work["forward_flops"] / card.bfloat16, moved / card.bandwidth

    def front_end(self, card: Card) -> float:
        """Return the least seconds of both images on a GPU: by bytes, float32."""
        return self.found["front_end_bytes"] / card.bandwidth


def stations(measured: Measured, setting: Setting, card: Card) -> list[Station]:
    """Return the pipeline of a setting; a job is a batch of one GPU."""
    n, g = measured.batch, setting.n_gpus
    is_stored = setting.images == "stored"
    stage = setting.source if setting.source == DISK else "store read, cached"
    stage = stage if is_stored else "read FLAC"
    read = measured.image_bytes if is_stored else measured.flac
    step = n * (max(measured.step(card)) + (0 if is_stored else measured.front_end(card)))
    step += n * read / PCI if is_stored else 0.0  # waveforms are smaller
    copy, write = measured.state()
    averaging = _averaging(GRADIENT * measured.work["parameters"], g, setting.network)

    def together(slowest: float) -> float:
        return max(slowest, (1 - OVERLAPPED) * slowest + averaging)

    places = g * WORKERS * PREFETCH
    load = Station(
        "workers", n * measured.seconds(stage), measured.batch_spread(stage), g * WORKERS, places
    )
    every = math.ceil(SPACING * (copy + write) / together(step))
    last = Station("GPUs", step, SPREAD * step, 1, None, g, together, every, copy)
    if setting.mount is None:
        return [load, last]
    return [Station("mount", n * read / setting.mount, 0.0, 1, places), load, last]


def _averaging(n_bytes: float, n_gpus: int, network: float) -> float:
    """Return the seconds of a ring within each node, and then one of the nodes."""
    in_node, nodes = min(n_gpus, NODE), -(-n_gpus // NODE)
    within = 2 * (in_node - 1) / in_node * n_bytes / NVLINK
    return within + 2 * (nodes - 1) / nodes * n_bytes / network


def flow(measured: Measured, setting: Setting) -> Flow:
    """Simulate a setting on the reference card; rates are of utterances."""
    found = simulate(stations(measured, setting, CARDS[REFERENCE]), GROUPS * setting.n_gpus)
    return found._replace(per_second=measured.batch * found.per_second)
