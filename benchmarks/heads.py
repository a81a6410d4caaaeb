"""What a head on kept features costs: all of one fold and seed, for a corpus of RAVDESS' size.

    OMP_NUM_THREADS=1 python -m benchmarks.heads --json results/heads.json

The corpus is noise in a temporary folder: 24 speakers, 60 utterances of 8 classes each, 6 folds of
960, 240 and 240 utterances. Both branches (64 and 384 features) are trained for one epoch on small
images, since only the width of their features matters here. Then heads of each fusion are trained
as a run trains them, with checkpoints, history, curves, test and ledger; a summary follows each.
Beside them stands a plain loop of as many steps with the same head, which does nothing else.
Seconds are of wall clock and of this process's processor time; on a busy machine the latter counts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from accelerate.state import AcceleratorState

from benchmarks.front_end import machine
from config.loading import load_config
from config.schema import Config
from evaluation.summary import summarize
from system.cli import run_entry
from system.files import write_json
from training.build import build_loss, build_untrained
from training.experiment import open_run
from training.fold import run_fold

RATE = 16_000  # Hz
FUSIONS = ("concat", "gmu", "gmu_contrastive")
SPEAKERS, CLASSES, TAKES = 24, 8, 7.5  # 60 utterances of each speaker
CONFIG: dict[str, Any] = {
    "name": "origin",
    "corpus": {"name": "manifest", "labels": "all"},
    "protocol": {"split": "speaker-k-fold", "n_folds": 6},
    "features": {
        "sample_rate": RATE,
        "cqt": {"fmin": 200.0, "n_bins": 40, "bins_per_octave": 9, "hop_length": 256},
        "mel": {"n_fft": 512, "hop_length": 256, "n_mels": 32},
    },
    "model": {
        "fusion": "gmu",
        "cqt_backbone": "test_maxvit",
        "mel_backbone": "mvitv2_micro",
        "pretrained": False,
        "image_size": 32,
        "mlp_hidden_dim": 128,
    },
    "optim": {
        "optimizer": {"cqt": "adamw", "mel": "adamw", "head": "adamw"},
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_epochs": 1,
    },
    "train": {"epochs": 1, "clip_grad_norm": 1.0},
    "run": {"folds": [1], "device": "cpu", "workers": 0},
}


def write_corpus(folder: Path, speakers: int, takes: float) -> None:
    """Write noise of 0.2 s with a manifest; classes differ in level, so that something is learnt.

    Args:
        folder: Folder of the corpus, which is made.
        speakers: Number of speakers.
        takes: Utterances of each class and speaker, on average.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    rows = ["path,label,speaker"]
    for speaker in range(speakers):
        for i in range(round(CLASSES * takes)):
            name, label = f"{speaker:02d}_{i:03d}.wav", i % CLASSES
            time_ = np.arange(RATE // 5) / RATE
            tone = np.sin(2 * np.pi * (300 + 200 * label) * time_)
            sound = 0.1 * tone + 0.1 * draw.standard_normal(len(time_))
            soundfile.write(folder / name, sound.astype(np.float32), RATE)
            rows.append(f"{name},class{label},s{speaker:02d}")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")


def load(folder: Path, *overrides: str) -> Config:
    """Return the config of a run in a folder that has the corpus."""
    file = folder / "config.yaml"
    corpus = {"root": str(folder / "corpus"), "manifest": str(folder / "corpus/all.csv")}
    run = {"root": str(folder / "runs"), "store": str(folder / "store")}
    values = {**CONFIG, "corpus": {**CONFIG["corpus"], **corpus}}
    file.write_text(yaml.safe_dump({**values, "run": {**CONFIG["run"], **run}}))
    return load_config(file, overrides)


@contextmanager
def timed(into: list[tuple[float, float]]) -> Iterator[None]:
    """Append seconds of wall clock and of the processor."""
    start = time.perf_counter(), time.process_time()
    yield
    into.append((time.perf_counter() - start[0], time.process_time() - start[1]))


def measure(
    folder: Path,
    epochs: int,
    seeds: Sequence[int],
    speakers: int = SPEAKERS,
    takes: float = TAKES,
    around: Callable[[Callable[[], None]], None] = lambda work: work(),
) -> dict[str, Any]:
    """Return seconds of a head by fusion.

    Args:
        folder: Empty folder.
        epochs: Epochs of a head.
        seeds: Seeds of the heads; the first also computes the features and is left out.
        speakers: Speakers of the corpus.
        takes: Utterances of each class and speaker.
        around: Called with what trains all heads, for a profile.
    """
    write_corpus(folder / "corpus", speakers, takes)
    with open_run(load(folder), []) as session:
        for fold in session.folds():
            run_fold(fold)
    origin = folder / "runs/origin"
    common = [f"model.cqt_from={origin}", f"model.mel_from={origin}", "model.from_seed=0"]
    common += ["train.features=frozen", f"train.epochs={epochs}", f"run.seeds={list(seeds)}"]
    common += ["optim.optimizer.cqt=null", "optim.optimizer.mel=null"]
    found: dict[str, Any] = {}

    def train(fusion: str) -> None:
        heads: list[tuple[float, float]] = []
        summaries: list[tuple[float, float]] = []
        config = load(folder, *common, f"model.fusion={fusion}", f"name={fusion}")
        with open_run(config, []) as session:
            n_train = len(session.plan.wanted()[0].train)
            for fold in session.folds():
                with timed(heads):
                    run_fold(fold)
                with timed(summaries):
                    summarize(session.folder)
        plain: list[tuple[float, float]] = []
        for _ in range(2):  # the first warms up
            with timed(plain):
                plain_loop(config, epochs, n_train)
        rows = zip(("head", "plain loop", "summary"), (heads, plain, summaries), strict=True)
        found[fusion] = {
            f"{name}, s of {kind}": statistics.median(row[i] for row in values[1:])
            for name, values in rows
            for i, kind in enumerate(("wall clock", "processor"))
        }

    for fusion in FUSIONS:
        AcceleratorState._reset_state(reset_partial_state=True)
        around(lambda fusion=fusion: train(fusion))
    return found


def plain_loop(config: Config, epochs: int, n: int) -> None:
    """Train a head of a config on n random features, and do nothing else."""
    network = build_untrained(config, CLASSES)
    head, loss = network.head.train(), build_loss(config, torch.arange(CLASSES), CLASSES)
    features = [torch.randn(n, width) for width in network.widths().values()]
    targets, size = torch.arange(n) % CLASSES, config.train.batch_size
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        for batch in torch.randperm(n).split(size):
            output = head(*(feature[batch] for feature in features))
            optimizer.zero_grad()
            loss(output.logits, targets[batch], output.views).total.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()


def main() -> None:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=6, help="the first is left out")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    around: Callable[[Callable[[], None]], None] = lambda work: work()  # noqa: E731
    if arguments.profile:
        around = profiled
    with tempfile.TemporaryDirectory() as place:
        seeds = range(arguments.seeds)
        found = measure(Path(place), arguments.epochs, seeds, around=around)
    for fusion, row in found.items():
        shown = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        print(f"{fusion}: {shown}")
    if arguments.json is not None:
        numbers = f"--epochs {arguments.epochs} --seeds {arguments.seeds}"
        command = f"python -m benchmarks.heads {numbers} --json {arguments.json}"
        write_json(arguments.json, {"machine": machine(), "command": command, "seconds": found})


def profiled(work: Callable[[], None]) -> None:
    """Do some work and print which functions took processor time."""
    import cProfile
    import pstats

    profile = cProfile.Profile(time.process_time)
    profile.runcall(work)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    run_entry(main)
