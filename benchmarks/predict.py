"""Time labelling beside a plain loop: librosa's features, the network in PyTorch, one clip a step.

    python -m benchmarks.predict FOLD RECORDINGS --json results/predict.json

The plain loop is what public implementations do with a trained model: for each file `librosa.load`,
`librosa.cqt` and `melspectrogram` with librosa's defaults beside the fold's own hops, dB, resize,
and the fold's network on a batch of one. Ours is what `predict.py` runs: of the fold by PyTorch,
and of a bundle exported from it, whose networks ONNX Runtime runs. All take the same files, those
of 3 to 5 s, in turns, so that a busy machine slows all alike; ratios are medians over rounds. The
parts are timed on one and on two threads.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
from torch.nn import functional as F

from benchmarks.front_end import machine
from inference.bundle import export_bundle, find_source
from inference.emotion_model import AT_ONCE, EmotionModel, load
from inference.inputs import find_recordings
from inference.sound import read_sound
from storage.provenance import git_commit
from system.cli import run_entry
from system.errors import InputError
from system.files import write_json

SECONDS = 3.0, 5.0  # of a clip
CLIPS, ROUNDS = 64, 5


class PlainLoop:
    """Labels one file after the other, without anything of this repository but the network."""

    def __init__(self, model: EmotionModel) -> None:
        fold = model.members[0]
        self.model, self.images = fold.model, fold.images
        self.rate = model.sample_rate

    @torch.inference_mode()
    def label(self, file: Path) -> int:
        """Return the class of a file."""
        settings = self.images.settings
        y, rate = librosa.load(file, sr=self.rate)
        if self.images.trim_db is not None:
            y, _ = librosa.effects.trim(y, top_db=self.images.trim_db)
        cqt = np.abs(librosa.cqt(y, sr=rate, **settings["cqt"]))
        mel = {"n_fft": 4096, "hop_length": 256, **settings["mel"]}
        power = librosa.feature.melspectrogram(y=y, sr=rate, **mel)
        images = librosa.amplitude_to_db(cqt, ref=np.max), librosa.power_to_db(power, ref=np.max)
        return int(self.model(*(self._resized(db) for db in images)).logits.argmax())

    def _resized(self, db: np.ndarray) -> torch.Tensor:
        image = torch.from_numpy(db).float()[None, None]
        size = (self.images.image_size,) * 2
        return F.interpolate(image, size, mode="bilinear", antialias=True)


def clips_in(recordings: Path) -> list[Path]:
    """Return the first files of 3 to 5 s.

    Raises:
        InputError: There are too few.
    """
    found = []
    for file in find_recordings([str(recordings)]):
        if SECONDS[0] <= soundfile.info(file).duration <= SECONDS[1]:
            found.append(file)
        if len(found) == CLIPS:
            return found
    raise InputError(f"{recordings} has {len(found)} recordings of 3 to 5 s, {CLIPS} are needed")


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each work in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def throughput(plain: PlainLoop, models: dict[str, EmotionModel], files: list[Path]) -> dict:
    """Return clips a second, and the ratio to the plain loop, of whole files to labels."""

    def all_of(model: EmotionModel) -> Callable[[], object]:
        def work() -> None:
            torch.set_num_threads(1)  # as predict.py does for more than one file
            list(model.predict_each(files))
            torch.set_num_threads(n_threads)

        return work

    n_threads = torch.get_num_threads()
    works: dict[str, Callable[[], object]] = {
        "plain loop": lambda: [plain.label(file) for file in files]
    }
    works |= {name: all_of(model) for name, model in models.items()}
    return compared(in_turns(works, ROUNDS), len(files))


def latency(plain: PlainLoop, models: dict[str, EmotionModel], files: list[Path]) -> dict:
    """Return the same for one file at a time, each from its path to its label."""
    works: dict[str, Callable[[], object]] = {
        "plain loop": lambda: [plain.label(file) for file in files]
    }
    for name, model in models.items():
        works[name] = lambda model=model: [model.predict(file) for file in files]  # type: ignore[misc]
    return compared(in_turns(works, ROUNDS), len(files))


def compared(seconds: dict[str, list[float]], n: int) -> dict[str, dict[str, float]]:
    """Return milliseconds a clip, and how many times as fast as the plain loop."""
    plain = np.array(seconds["plain loop"])
    return {
        name: {
            "ms a clip": 1000 * float(np.median(values)) / n,
            "times as fast": float(np.median(plain / np.array(values))),
        }
        for name, values in seconds.items()
    }


@torch.inference_mode()
def parts(models: dict[str, EmotionModel], files: list[Path], threads: int) -> dict[str, float]:
    """Return milliseconds a clip of each part, alone and in batches of AT_ONCE."""
    torch.set_num_threads(threads)
    eager, fast = (models[name].members[0] for name in ("PyTorch", "ONNX Runtime"))
    rate = models["PyTorch"].sample_rate
    waveforms = [torch.from_numpy(read_sound(file, rate).waveform) for file in files]
    images = [eager.images_of(waveform) for waveform in waveforms]
    batches = [
        tuple(torch.cat(some) for some in zip(*images[i : i + AT_ONCE], strict=True))
        for i in range(0, len(images), AT_ONCE)
    ]
    compiled = torch.compile(eager.model)
    seconds = in_turns(
        {
            "read and resample": lambda: [read_sound(file, rate) for file in files],
            "images": lambda: [eager.images_of(waveform) for waveform in waveforms],
            "network, eager, one": lambda: [eager.model(*pair) for pair in images],
            "network, compiled, one": lambda: [compiled(*pair) for pair in images],
            "network, ONNX Runtime, one": lambda: [fast.network(*pair) for pair in images],
            f"network, eager, {AT_ONCE}": lambda: [eager.model(*some) for some in batches],
            f"network, compiled, {AT_ONCE}": lambda: [compiled(*some) for some in batches],
            f"network, ONNX Runtime, {AT_ONCE}": lambda: [fast.network(*b) for b in batches],
        },
        rounds=3,
    )
    return {name: 1000 * float(np.median(s)) / len(files) for name, s in seconds.items()}


def measure(fold: Path, recordings: Path) -> dict[str, Any]:
    """Return all figures."""
    files = clips_in(recordings)
    duration = float(np.mean([soundfile.info(file).duration for file in files]))
    n_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        export_bundle(find_source(fold, bundle), bundle)
        models = {"PyTorch": load(fold), "ONNX Runtime": load(bundle)}
        plain = PlainLoop(models["PyTorch"])
        many, one = throughput(plain, models, files), latency(plain, models, files[:16])
        found: dict[str, Any] = {
            "seconds a clip": duration,
            "throughput": many,
            "latency": one,
            "real-time factor": {
                name: figures["ms a clip"] / 1000 / duration for name, figures in many.items()
            },
        }
        for threads in (1, 2):
            found[f"parts, {threads} threads, ms a clip"] = parts(models, files[:32], threads)
        torch.set_num_threads(n_threads)
    return found


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fold", type=Path, metavar="FOLD", help="folder of a finished fold")
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS", help="folder of audio")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    on = machine()
    found = measure(arguments.fold, arguments.recordings)
    print(on)
    for title, figures in found.items():
        print(f"{title}: {figures}")
    if arguments.json:
        command = f"python -m benchmarks.predict {arguments.fold} {arguments.recordings.name}"
        write_json(
            arguments.json, {"command": command, "commit": git_commit(), "machine": on, **found}
        )


if __name__ == "__main__":
    run_entry(main)
