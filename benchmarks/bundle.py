"""Measure what int8 does to the graph of a fold: size, speed, and UA on dev.

    python -m benchmarks.bundle runs/NAME/folds/fold-1_seed-0 --json results/bundle.json  # minutes

The fold's graph is exported in float32, and quantised to int8 as ONNX Runtime does without
calibration data: weights ahead, activations as they come; once the networks alone, once the front
end with them. All label the recordings of the fold's dev split one at a time on one thread, in
turns; a recording is labelled ROUNDS times and the quickest counts. Nothing is tested, so that the
ledger of the run stays as it is.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio.reading import read_audio
from audio.trim import trim_silence
from benchmarks.front_end import machine
from config.tasks import check_classes
from evaluation.metrics import scores
from inference.emotion_model import EmotionModel
from inference.exporting import open_graph, run_graph, write_graph
from storage.provenance import git_commit
from storage.run_folder import read_run
from system.cli import run_entry
from system.errors import InputError
from system.files import make_folder, write_json

ROUNDS = 3
FLOAT16 = 10  # in ONNX
INT8, NETWORKS = "int8", "int8 networks"


def quantise(file: Path, to: Path, whole: bool) -> None:
    """Write the graph with int8 weights for matrix products and convolutions.

    Args:
        file: The graph.
        to: Where to write.
        whole: Whether the front end is quantised, too: what leads to the rounding to float16.
    """
    import onnx  # extras
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(file).graph.node
    makers = {output: node for node in nodes for output in node.output}
    rest = [node for node in nodes if node.op_type == "Cast" and _is_half(node)]
    front: dict[str, Any] = {}
    while rest:
        node = rest.pop()
        if node.name not in front:
            front[node.name] = node
            rest += [makers[name] for name in node.input if name in makers]
    excluded = [] if whole else list(front)
    quantize_dynamic(file, to, weight_type=QuantType.QInt8, nodes_to_exclude=excluded)


def _is_half(node: Any) -> bool:
    return any(one.name == "to" and one.i == FLOAT16 for one in node.attribute)


def label(
    sessions: dict[str, Any], waveforms: list[NDArray[np.float32]]
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Return probabilities (n, K) and seconds (n,) of each graph."""
    probs: dict[str, list[NDArray]] = {name: [] for name in sessions}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for waveform in waveforms:
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                start = time.perf_counter()
                found, _ = run_graph(session, waveform[None])
                times[name].append(time.perf_counter() - start)
                if len(times[name]) == 1:
                    probs[name].append(found[0])
        for name, measured in times.items():
            seconds[name].append(min(measured))
    return (
        {name: np.stack(rows) for name, rows in probs.items()},
        {name: np.array(values) for name, values in seconds.items()},
    )


def measure(fold: Path, n: int | None) -> dict[str, Any]:
    """Return the figures of all graphs of a fold.

    Args:
        fold: Folder of a finished fold inside of its run.
        n: Number of dev recordings, evenly taken; None takes all.
    """
    run = read_run(fold.resolve().parents[1])
    result = next((one for one in run.folds if one.folder.name == fold.name), None)
    if result is None:
        raise InputError(f"{fold} is not a fold of {run.folder} that every seed has finished")
    check_classes(result.task, "this benchmark is")
    model = EmotionModel([fold])
    step = max(len(result.dev.utterances) // n, 1) if n else 1
    rows = range(0, len(result.dev.utterances), step)
    rate, trim_db = model.sample_rate, model.members[0].images.trim_db
    waveforms = [
        trim_silence(
            torch.from_numpy(read_audio(run.audio_file(result.dev.utterances[i]), rate)),
            rate,
            trim_db,
        ).numpy()
        for i in rows
    ]
    targets = [int(result.dev.targets[i]) for i in rows]
    with tempfile.TemporaryDirectory() as folder:
        names = ("float32", NETWORKS, INT8)
        files = {name: Path(folder, f"{i}.onnx") for i, name in enumerate(names)}
        write_graph(model, files["float32"], False)
        for name in (NETWORKS, INT8):
            quantise(files["float32"], files[name], name == INT8)
        sessions = {name: open_graph(file, 1) for name, file in files.items()}
        probs, seconds = label(sessions, waveforms)
        sizes = {name: file.stat().st_size for name, file in files.items()}
    return {
        name: {
            "megabytes": sizes[name] / 1e6,
            "ms": 1000 * float(np.median(seconds[name])),
            "ua": scores(targets, probs[name].argmax(1).tolist(), len(run.classes))["ua"],
            "largest_difference": float(np.abs(probs[name] - probs["float32"]).max()),
            "recordings": len(targets),
        }
        for name in files
    }


def main() -> int:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fold", type=Path, metavar="FOLD", help="folder of a finished fold")
    parser.add_argument("--n", type=int, help="number of dev recordings; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)  # ONNX Runtime tells each tensor
    found = measure(arguments.fold, arguments.n)
    print("| weights | MB | ms a recording | UA on dev | largest difference |")
    print("|---|---:|---:|---:|---:|")
    for name, one in found.items():
        print(
            f"| {name} | {one['megabytes']:.1f} | {one['ms']:.0f} | {100 * one['ua']:.1f} | "
            f"{one['largest_difference']:.3f} |"
        )
    if arguments.json:
        make_folder(arguments.json.parent)
        some = "" if arguments.n is None else f"--n {arguments.n} "
        command = f"python -m benchmarks.bundle FOLD {some}--json {arguments.json.name}"
        facts = {"command": command, "git_commit": git_commit(), "machine": machine()}
        write_json(
            arguments.json, {**facts, "run": arguments.fold.resolve().parents[1].name, **found}
        )
    return 0


if __name__ == "__main__":
    run_entry(main)
