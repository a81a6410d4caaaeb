"""Prove that a bundle's ONNX graphs and PyTorch say the same of real recordings.

The graphs are that of the whole bundle, and those of its members' networks, which `predict.py`
runs. A difference is the largest over all recordings and outputs; of ratings, over half of their
scale.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio.opening import BadAudio
from audio.trim import trim_silence
from inference.bundle_card import write_card
from inference.bundle_file import (
    GRAPH,
    TOLERANCE,
    BundleFile,
    Verified,
    read_bundle,
    write_bundle,
)
from inference.emotion_model import EmotionModel
from inference.exporting import open_graph, run_graph
from inference.members import BUNDLE, MEMBERS, member_folders
from inference.network import has_network
from inference.sound import read_sound
from system.errors import RunError
from system.output import progress_bar

log = logging.getLogger(__name__)

PACKAGES = ("onnxruntime", "torch", "timm")
Outputs = tuple[NDArray, NDArray | None]  # probabilities or ratings (1, K), gate (1,)


def verify_bundle(folder: Path, files: Sequence[Path]) -> Verified:
    """Compare graphs and PyTorch, and write the figure into bundle.json and the card.

    Args:
        folder: The bundle.
        files: Recordings; those that are not usable audio are named and left out.

    Raises:
        InputError: It is not a bundle.
        RunError: They differ by more than TOLERANCE, no recording is usable, or a file of the
            bundle is corrupt.
    """
    bundle = read_bundle(folder)
    session = open_graph(folder / GRAPH)
    members = member_folders(folder)
    model = EmotionModel(members, onnx=False)
    quick = EmotionModel(members) if any(map(has_network, members)) else None
    _check_describes(folder, bundle, model)
    unit = 1 if model.scale is None else model.scale.half
    worst, gate, worst_of, same, n = 0.0, 0.0, "", 0, 0
    with progress_bar(len(files), "verify", "file") as bar:
        for file in files:
            bar.update()
            try:
                waveform = torch.from_numpy(read_sound(file, model.sample_rate).waveform)
            except BadAudio as error:
                log.warning("%s is left out: %s", file, error)
                continue
            trimmed = trim_silence(waveform, model.sample_rate, bundle.trim_db).numpy()
            probs, gates = model.outputs([waveform])
            graph = _graph_outputs(folder, session, trimmed)
            n += 1
            same += int(graph[0].argmax() == probs[0].argmax())
            networks = [] if quick is None else [quick.outputs([waveform])]
            for found, found_gate in [graph, *networks]:
                _check_alike(folder, (found, found_gate), (probs, gates))
                difference = float(np.abs(found - probs).max()) / unit
                if difference > worst:
                    worst, worst_of = difference, str(file)
                if gates is not None and found_gate is not None:
                    gate = max(gate, float(np.abs(found_gate - gates).max()))
    if not n:
        raise RunError(f"none of {len(files)} files is usable audio, so nothing was verified")
    verified = Verified(
        recordings=n,
        probs=worst,
        gate=gate if bundle.has_gate else None,
        same_label=same if bundle.scale is None else None,
        tolerance=TOLERANCE,
        holds=worst <= TOLERANCE and gate <= TOLERANCE,
        versions={package: version(package) for package in PACKAGES},
    )
    now = bundle.model_copy(update={"verified": verified})
    write_bundle(folder, now)
    write_card(folder, now)
    if not verified.holds:
        raise RunError(
            f"{folder}: ONNX Runtime and PyTorch differ by {worst:.2g} in a probability and "
            f"{gate:.2g} in the gate, where {TOLERANCE:g} is allowed (the worst is {worst_of}); "
            "the card says so. Export the run again with these versions"
        )
    return verified


def _graph_outputs(folder: Path, session: Any, waveform: NDArray) -> Outputs:
    """Return what the graph says of a waveform (T,).

    Raises:
        RunError: It cannot be run.
    """
    try:
        return run_graph(session, waveform[None])
    except ValueError as error:
        raise _other_graph(folder, error) from error


def _check_alike(folder: Path, found: Outputs, expected: Outputs) -> None:
    """Refuse outputs of another form than PyTorch's, or NaN.

    Raises:
        RunError: Says which.
    """
    (probs, gate), (known, known_gate) = found, expected
    if probs.shape != known.shape or (gate is None) != (known_gate is None):
        raise _other_graph(folder, "it has other outputs than the models in members/")
    if not all(np.isfinite(one).all() for one in found if one is not None):
        raise _other_graph(folder, "it gives NaN")


def _other_graph(folder: Path, reason: object) -> RunError:
    return RunError(
        f"{folder} has a graph that is not its own ({reason}): restore {GRAPH} and {MEMBERS}/ from "
        "a copy, or export the run again"
    )


def _check_describes(folder: Path, bundle: BundleFile, model: EmotionModel) -> None:
    """Refuse a bundle.json that says something else than the models; example.py believes it.

    Raises:
        RunError: Names what differs.
    """
    images = model.members[0].images
    is_other = {
        "classes": bundle.classes != list(model.classes),
        "sample_rate": bundle.sample_rate != model.sample_rate,
        "trim_db": bundle.trim_db != images.trim_db,
        "scale": bundle.scale != (None if model.scale is None else list(model.scale)),
        "has_gate": bundle.has_gate != model.members[0].model.fusion.gated,
    }
    if wrong := [name for name, other in is_other.items() if other]:
        raise RunError(
            f"{folder / BUNDLE} has another {', '.join(wrong)} than the models in members/: "
            "restore it from a copy, or export the run again"
        )
