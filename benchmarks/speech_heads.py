"""What training on stored hidden states costs beside a plain loop over tensors in memory.

    OMP_NUM_THREADS=1 python -m benchmarks.speech_heads --json results/speech_heads.json

The corpus is noise in a temporary folder: 36 speakers, 60 utterances of 8 classes each, of which a
fold trains on 1440 and selects on 360. Their states have the shape of WavLM-base, 13 x 768, from a
model with random weights. Trained are `speech_only`, and `gmu` with vectors of 768 beside speech,
as a run trains them: `fit`, with checks of every step, gradient norms, progress bar and, in some
rounds, checkpoints and dev evaluation. After each of its epochs comes one of the plain loop,
with the same modules, optimizer, loss and batches: states in float32 in memory, indexed, no checks;
where dev is evaluated, the plain loop counts its correct predictions. Figures are medians over
epochs of processor seconds; those of the run count all of its threads.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import Tensor

from benchmarks.front_end import machine, table
from benchmarks.heads import write_corpus
from config.loading import load_config
from corpora.plan import make_plan
from system.cli import run_entry
from system.files import write_json
from training.batches import TrainBatches
from training.build import build_training, eval_loader
from training.checkpoints import Checkpoints
from training.engine import fit
from training.saver import AFFORDABLE, Spacing
from training.session import Fold, open_session
from training.state import TrainingState

LAYERS, WIDTH = 12, 768  # of WavLM-base
SPEAKERS, TAKES = 36, 7.5
BATCH_SIZE = 32
FUSIONS = {"speech_only": {}, "gmu": {"branches": ["speech", "file"]}}


def write_model(folder: Path) -> None:
    """Write a model with WavLM-base's hidden states, narrow inside, so that it is quick."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def write_inputs(folder: Path, speakers: int, takes: float) -> None:
    """Write corpus, model and vectors."""
    write_corpus(folder / "corpus", speakers, takes)
    write_model(folder / "model")
    names = [file.stem for file in (folder / "corpus").glob("*.wav")]
    vectors = np.random.default_rng(0).normal(size=(len(names), WIDTH)).astype(np.float32)
    np.savez(folder / "vectors.npz", names=np.array(names), vectors=vectors)


def open_fold(folder: Path, fusion: str, epochs: int) -> Fold:
    """Return the first fold of a config, with all that it reads in the store."""
    corpus = {"name": "manifest", "labels": "all", "root": str(folder / "corpus")}
    model: dict[str, Any] = {
        "fusion": fusion,
        "dropout": 0.0,
        "speech": {"model": str(folder / "model")},
    }
    if "branches" in (own := FUSIONS[fusion]):
        model |= {**own, "vectors": str(folder / "vectors.npz")}
    values = {
        "name": fusion,
        "corpus": {**corpus, "manifest": str(folder / "corpus/all.csv")},
        "protocol": {"split": "speaker-k-fold", "n_folds": 6},
        "model": model,
        "optim": {"lr": 1e-3, "schedule": "constant"},
        "train": {"epochs": epochs, "batch_size": BATCH_SIZE},
        "run": {"device": "cpu", "workers": 0, "root": str(folder), "store": str(folder / "store")},
    }
    file = folder / f"{fusion}.yaml"
    file.write_text(yaml.safe_dump(values))
    config = load_config(file)
    return next(open_session(config, make_plan(config)).folds())


class PlainLoop:
    """The same head on tensors in memory, and nothing else.

    Args:
        fold: The training, whose network and batches it has.
    """

    def __init__(self, fold: Fold) -> None:
        network = build_training(fold, {}).state.model
        self.modules, self.reads = network, network.settings.reads  # type: ignore[union-attr]
        self.data = {"train": self._tensors(fold, "train"), "dev": self._tensors(fold, "dev")}
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=1e-3, fused=True)
        self.batches = TrainBatches(len(fold.split.train), BATCH_SIZE, fold.rng_seed)

    def _tensors(self, fold: Fold, part: str) -> tuple[dict[str, Tensor], Tensor]:
        utterances = getattr(fold.split, part)
        every = np.arange(len(utterances))
        read = {name: vectors(every).float() for name, vectors in fold.beside(utterances).items()}
        return read, torch.tensor(fold.targets(utterances))

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        network: Any = self.modules
        features = []
        for branch in self.reads:
            mean, std = getattr(network, f"{branch}_mean"), getattr(network, f"{branch}_std")
            feature = (inputs[branch] - mean) / std
            features.append(network.speech_branch(feature) if branch == "speech" else feature)
        logits: Tensor = network.head(*features).logits
        return logits

    def epoch(self, number: int, with_dev: bool) -> None:
        """Train an epoch, and count what is correct on dev."""
        self.batches.set_epoch(number)
        inputs, targets = self.data["train"]
        self.modules.train()
        for items in self.batches:
            rows = torch.tensor([i for _, i in items])
            logits = self._logits({branch: every[rows] for branch, every in inputs.items()})
            loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if not with_dev:
            return
        inputs, targets = self.data["dev"]
        self.modules.eval()
        n_correct = 0
        with torch.inference_mode():
            for rows in torch.arange(len(targets)).split(BATCH_SIZE):
                logits = self._logits({branch: every[rows] for branch, every in inputs.items()})
                n_correct += int((logits.argmax(1) == targets[rows]).sum())


def alternate(
    fold: Fold, epochs: int, with_dev: bool, folder: Path, spacing: Spacing = AFFORDABLE
) -> dict[str, float]:
    """Train a fold, and after each epoch one of the plain loop; return the median seconds."""
    state, loader, _ = build_training(fold, {})
    dev_loader = eval_loader(fold, fold.split.dev) if with_dev else None
    plain = PlainLoop(fold)
    seconds: dict[str, list[float]] = {"run": [], "plain loop": []}
    started = [time.process_time()]

    def after_epoch(record: dict[str, float], dev: Any) -> None:
        start = time.thread_time()
        plain.epoch(int(record["epoch"]) - 1, with_dev)
        of_plain, now = time.thread_time() - start, time.process_time()
        seconds["plain loop"].append(of_plain)
        seconds["run"].append(now - started[0] - of_plain)  # what threads write in between, too
        started[0] = now

    fit(state, loader, dev_loader, epochs, None, Checkpoints(folder), spacing, after_epoch)
    _check_alike(state, plain, loader)
    found = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {**found, "ratio": found["run"] / found["plain loop"]}


def _check_alike(state: TrainingState, plain: PlainLoop, loader: Any) -> None:
    """Make sure that both did the same: without dropout their weights are nearly equal."""
    own, others = state.model.state_dict(), plain.modules.state_dict()
    for name, tensor in own.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)


def measure(
    folder: Path, epochs: int, speakers: int = SPEAKERS, takes: float = TAKES
) -> list[dict[str, Any]]:
    """Return a row for each fusion, without and with dev."""
    write_inputs(folder, speakers, takes)
    rows = []
    for fusion in FUSIONS:
        AcceleratorState._reset_state(reset_partial_state=True)
        fold = open_fold(folder, fusion, epochs)
        for what, with_dev, spacing in (
            ("steps", False, Spacing(epochs)),  # a state at the end alone
            ("steps, checkpoints", False, AFFORDABLE),
            ("steps, checkpoints, dev", True, AFFORDABLE),
        ):
            place = folder / f"{fusion}, {what}"
            place.mkdir()
            found = alternate(fold, epochs, with_dev, place, spacing)
            rows.append({"fusion": fusion, "epoch of": what, **found})
    return rows


def main() -> None:
    """Print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30, help="the first is left out")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        rows = measure(Path(place), arguments.epochs)
    print(table(rows))
    if arguments.json is not None:
        command = f"python -m benchmarks.speech_heads --epochs {arguments.epochs}"
        facts = {"machine": machine(), "command": f"{command} --json {arguments.json}"}
        write_json(arguments.json, {**facts, "processor seconds": rows})


if __name__ == "__main__":
    run_entry(main)
