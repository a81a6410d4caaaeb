"""Time a whole training beside a plain loop: librosa in `__getitem__`, float32, contiguous images.

    python -m benchmarks.plain_loop --corpus DIR --json results/plain_loop.json

The plain loop is written as public implementations of this model are: each epoch reads every file
anew, computes both spectrograms by librosa, resizes them and steps with one Adam; dev is evaluated
after each epoch. Ours is `train_gmu.py` with an empty feature store, as a process of its own, start
and test evaluation included. Both train the same two backbones with the same head, batch size,
number of loader processes and utterances: the first speakers of RAVDESS, split alike.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.front_end import machine
from config.loading import load_config
from config.schema import Config
from corpora.plan import make_plan
from corpora.utterance import Utterance
from storage.provenance import git_commit
from system.cli import run_entry
from system.errors import RunError
from system.files import write_json
from training.build import build_untrained

HERE = Path(__file__).resolve().parent.parent
CONFIG = HERE / "configs/ravdess_small_gmu.yaml"
SPEAKERS = 8


class LibrosaImages(Dataset):
    """Both images of each utterance, computed when they are asked for."""

    def __init__(self, utterances: list[Utterance], classes: list[str], config: Config) -> None:
        self.utterances, self.classes = utterances, classes
        self.rate, self.size = config.features.sample_rate, config.model.image_size

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        utterance = self.utterances[i]
        y, sr = librosa.load(str(utterance.audio), sr=self.rate)
        cqt = librosa.amplitude_to_db(np.abs(librosa.cqt(y, sr=sr)), ref=np.max)
        power = librosa.feature.melspectrogram(y=y, sr=sr, n_fft=4096, hop_length=256)
        mel = librosa.power_to_db(power, ref=np.max)
        target = self.classes.index(utterance.label)
        return self._resized(cqt), self._resized(mel), target

    def _resized(self, db: np.ndarray) -> Tensor:
        image = torch.from_numpy(db).float()[None, None]
        return F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True)[0]


def plain(config: Config, epochs: int) -> None:
    """Train and evaluate the config's network in a plain loop, on the splits of fold 1."""
    plan = make_plan(config)
    split, classes = plan.splits[0], list(plan.labels.classes)
    model = build_untrained(config, len(classes)).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    train, dev = (
        DataLoader(
            LibrosaImages(list(part), classes, config),
            batch_size=config.train.batch_size,
            shuffle=part is split.train,
            num_workers=config.run.workers,
        )
        for part in (split.train, split.dev)
    )
    for _ in range(epochs):
        model.train()
        for cqt, mel, targets in train:
            optimizer.zero_grad()
            F.cross_entropy(model(cqt, mel).logits, targets).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for cqt, mel, _ in dev:
                model(cqt, mel)


def first_speakers(corpus: Path, n: int, folder: Path) -> Path:
    """Link the folders of the first n speakers of RAVDESS into a folder and return it."""
    folder.mkdir()
    speakers = sorted(path for path in corpus.resolve().glob("Actor_*") if path.is_dir())
    if len(speakers) < n:
        raise RunError(f"{corpus} holds {len(speakers)} folders Actor_*, {n} are needed")
    for path in speakers[:n]:
        (folder / path.name).symlink_to(path)
    return folder


def seconds(words: list[str]) -> float:
    """Return the wall time of a command.

    Raises:
        RunError: It failed.
    """
    start = time.perf_counter()
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RunError(f"{shlex.join(words)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def measure(corpus: Path, n_speakers: int, epochs: int) -> dict[str, Any]:
    """Return the seconds of both trainings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = first_speakers(corpus, n_speakers, folder / "corpus")
        wishes = [
            *(f"corpus.root={root}", "corpus.expect_published_counts=false"),
            *(f"protocol.n_folds={n_speakers // 2}", "run.folds=[1]", f"train.epochs={epochs}"),
            *(f"run.root={folder / 'runs'}", f"run.store={folder / 'features'}"),
        ]
        ours = ["train_gmu.py", "--config", str(CONFIG), *wishes]
        theirs = ["-m", "benchmarks.plain_loop", "--plain", *wishes]
        found = {"ours": seconds([sys.executable, *ours])}
        return found | {"plain loop": seconds([sys.executable, *theirs])}


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="folder of RAVDESS")
    parser.add_argument("--speakers", type=int, default=SPEAKERS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plain", nargs="+", metavar="KEY=VALUE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        config = load_config(CONFIG, arguments.plain)
        return plain(config, config.train.epochs)
    if arguments.corpus is None:
        parser.error("--corpus DIR: where RAVDESS is")
    on = machine()
    found = measure(arguments.corpus, arguments.speakers, arguments.epochs)
    ratio = found["plain loop"] / found["ours"]
    print(on)
    print({name: round(value, 1) for name, value in found.items()})
    print(f"ours is {ratio:.1f} times as fast")
    if arguments.json:
        command = f"python -m benchmarks.plain_loop --corpus DIR --speakers {arguments.speakers}"
        figures = {"command": f"{command} --epochs {arguments.epochs}", "commit": git_commit()}
        figures |= {"machine": on, "seconds": found, "times as fast": ratio}
        write_json(arguments.json, figures)
    return None


if __name__ == "__main__":
    run_entry(main)
