"""Measure the speech store: cost of building it, peak memory, and epochs on what it keeps.

    OMP_NUM_THREADS=1 python -m benchmarks.speech_store --json results/speech_store.json

The model is made here with random weights: wav2vec2's convolutions (7 x 512) and 4 layers of width
256, where wav2vec2-base has 12 of 768: a published model costs more, so the ratio of epochs is a
lower bound for it. Recordings are noise of 1 to 4 s at 16 kHz in a temporary folder. Epochs train
the weights of layers and a linear classifier, on kept means and on means that are computed in each
epoch from waveforms in memory; both alternate. Peak memory is that of a process that builds.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.reading import inspect_audio, read_audio
from benchmarks.front_end import machine, table
from models.speech import SpeechBranch, load_speech_model
from models.speech_states import SpeechModel
from storage.speech_store import SpeechStore
from system.cli import run_entry
from system.files import write_json

RATE = 16_000  # Hz
LAYERS, WIDTH = 4, 256
CLASSES, BATCH_SIZE = 4, 16
ROUNDS = 4  # alternating; the first warms up
POOLINGS = ("mean", "attention")


def save_model(folder: Path) -> None:
    """Write the model of this benchmark, whose mask hides padding, and its feature extractor."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def write_recordings(folder: Path, n: int) -> float:
    """Write n recordings of noise; return their hours."""
    folder.mkdir()
    draw, seconds = np.random.default_rng(0), 0.0
    for i in range(n):
        length = 1 + 3 * (i % 16) / 15  # s; the same lengths for any n
        noise = 0.1 * draw.standard_normal(round(length * RATE))
        soundfile.write(folder / f"{i}.wav", noise, RATE)
        seconds += length
    return seconds / 3600


def hashes(folder: Path) -> dict[str, Path]:
    """Return the recordings of a folder by their hash."""
    return {inspect_audio(file).hash: file for file in sorted(folder.glob("*.wav"))}


def build(place: Path, recordings: str, pooling: Any) -> dict[str, Any]:
    """Build an empty store in this process; return seconds, bytes and the peak memory in MB."""
    torch.set_num_threads(1)
    model, sources = load_speech_model(str(place / "model")), hashes(place / recordings)
    with tempfile.TemporaryDirectory() as folder:
        store = SpeechStore(Path(folder), model, pooling)
        before = peak_mb()
        start = time.perf_counter(), time.process_time()
        bad = store.build(sources, 0)
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        assert not bad and len(store.rows) == len(sources), bad
        size = sum(file.stat().st_size for file in store.folder.iterdir())
    return {
        "pooling": pooling,
        "recordings": len(sources),
        "seconds": seconds[0],
        "processor seconds": seconds[1],
        "MB before": before,
        "peak MB": peak_mb(),
        "MB on disk": size / 1e6,
    }


def peak_mb() -> float:
    """Return the peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def builds(place: Path, hours: Mapping[str, float]) -> list[dict[str, Any]]:
    """Build stores of few and of many recordings, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for pooling in POOLINGS:
        for recordings, n_hours in hours.items():
            with spawn.Pool(1) as pool:
                row = pool.apply(build, (place, recordings, pooling))
            row["hours"] = n_hours
            row["processor s / hour"] = row["processor seconds"] / n_hours
            rows.append(row)
    return rows


def epochs(place: Path, recordings: str) -> dict[str, float]:
    """Return the median seconds of an epoch on kept means, and on means computed in it."""
    torch.set_num_threads(1)
    model, sources = load_speech_model(str(place / "model")), hashes(place / recordings)
    waveforms = [read_audio(file, RATE) for file in sources.values()]
    with tempfile.TemporaryDirectory() as folder:
        store = SpeechStore(Path(folder), model)
        assert not store.build(sources, 0)
        rows = [store.rows[key].start for key in sources]

        def kept(batch: list[int]) -> Tensor:
            return torch.from_numpy(store.means([rows[i] for i in batch])).float()

        @torch.inference_mode()
        def computed(batch: list[int]) -> Tensor:
            return model.means([waveforms[i] for i in batch]).clone()

        ways: dict[str, Callable[[list[int]], Tensor]] = {"kept": kept, "computed": computed}
        assert (kept([0, 1]) - computed([0, 1])).abs().max() < 1e-2
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter(), time.process_time()
                epoch(model, way, len(rows))
                taken = time.perf_counter() - start[0], time.process_time() - start[1]
                seconds[name].append(taken)
    found = {
        f"{name}, s of {kind}": statistics.median(taken[i] for taken in rounds[1:])
        for name, rounds in seconds.items()
        for i, kind in enumerate(("wall clock", "processor"))
    }
    for kind in ("wall clock", "processor"):
        found[f"ratio of {kind}"] = found[f"computed, s of {kind}"] / found[f"kept, s of {kind}"]
    return found


def epoch(model: SpeechModel, means: Callable[[list[int]], Tensor], n: int) -> None:
    """Train weights of layers and a linear classifier for one epoch, shuffled."""
    torch.manual_seed(0)
    branch = SpeechBranch(model.n_states, model.width, "mean")
    classifier = nn.Linear(branch.num_features, CLASSES)
    optimizer = torch.optim.AdamW([*branch.parameters(), *classifier.parameters()], lr=1e-3)
    for batch in torch.randperm(n).split(BATCH_SIZE):
        states = torch.as_tensor(means(batch.tolist()))
        loss = F.cross_entropy(classifier(branch(states)), batch % CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Print Markdown tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=64, help="and four times as many")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    about, n = machine(), arguments.recordings
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        save_model(place / "model")
        hours = {"few": write_recordings(place / "few", n)}
        hours["many"] = write_recordings(place / "many", 4 * n)
        rows, of_epochs = builds(place, hours), epochs(place, "few")
    print(f"{about}; a model of {LAYERS} layers of width {WIDTH} with random weights\n")
    print(table(rows))
    print(f"\n{table([of_epochs])}")
    if arguments.json is not None:
        command = f"python -m benchmarks.speech_store --recordings {n} --json {arguments.json}"
        found = {
            "machine": about,
            "command": command,
            "model": {"layers": LAYERS, "width": WIDTH, "weights": "random"},
            "builds": rows,
            "epochs": {"recordings": n, **of_epochs},
        }
        write_json(arguments.json, found)


if __name__ == "__main__":
    run_entry(main)
