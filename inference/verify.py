"""Prove that a bundle's ONNX graphs and PyTorch say the same of real recordings.

The graphs are that of the whole bundle, and those of its members' networks, which `predict.py`
runs. A difference is the largest over all recordings and outputs; of ratings, over half of their
scale.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
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
from inference.emotion_model import EmotionModel, load
from inference.exporting import open_graph, run_graph
from inference.members import BUNDLE, MEMBERS, member_folders
from inference.network import has_network
from inference.sound import read_sound
from storage.fold_folder import WEIGHTS
from system.errors import RunError
from system.output import progress_bar
from system.regular import file_sha256
from system.text import count_of

log = logging.getLogger(__name__)

PACKAGES = ("onnxruntime", "torch", "timm")
Outputs = tuple[NDArray, NDArray | None]  # probabilities or ratings (1, K), gate (1,)


def verify_without_graph(
    folder: Path,
    files: Sequence[Path],
    speech_model: str | None = None,
    vectors: Path | None = None,
) -> str:
    """Check a bundle that has no graph: its weights, its speech model, and labels of recordings.

    Args:
        folder: The bundle.
        files: Recordings; those that cannot be labelled are named and left out.
        speech_model: As of `inference.load`.
        vectors: As of `inference.load`.

    Returns:
        What was found.

    Raises:
        InputError: It is not a bundle, or an option does not fit it.
        RunError: Weights are not those of bundle.json, a label is NaN, or there is none.
    """
    bundle = read_bundle(folder)
    model = load(folder, speech_model=speech_model, vectors=vectors)
    _check_describes(folder, bundle, model)
    weights = {one.name: one.weights for one in bundle.members}
    for member in model.members:
        if file_sha256(member.folder / WEIGHTS) != weights[member.folder.name]:
            raise RunError(
                f"{member.folder / WEIGHTS} is not the file that {BUNDLE} names: restore it from a "
                "copy, or export the run again"
            )
    n = 0
    for one in model.predict_each(files):
        if one.problem is not None:
            log.warning("%s is left out: %s", one.name, one.problem)
        elif not np.isfinite(list(one.probs.values())).all():
            raise RunError(f"{folder} gives NaN for {one.name}: export the run again")
        n += one.problem is None
    if not n:
        raise RunError(f"none of {len(files)} files can be labelled, so nothing was verified")
    speech = model.members[0].speech
    read = "" if speech is None else f", the speech model {speech.model.name} is that of training"
    return f"{folder}: the weights are those of {BUNDLE}{read}, {count_of(n, 'recording')} labelled"


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
    found = _Differences(1 if model.scale is None else model.scale.half)
    with progress_bar(len(files), "verify", "file") as bar:
        for file in files:
            bar.update()
            try:
                waveform = torch.from_numpy(read_sound(file, model.sample_rate).waveform)
            except BadAudio as error:
                log.warning("%s is left out: %s", file, error)
                continue
            trimmed = trim_silence(waveform, model.sample_rate, bundle.trim_db).numpy()
            expected = model.outputs([waveform])
            others = [_graph_outputs(folder, session, trimmed)]
            others += [] if quick is None else [quick.outputs([waveform])]
            for outputs in others:
                _check_alike(folder, outputs, expected)
            found.add(file, others, expected)
    if not found.n:
        raise RunError(f"none of {len(files)} files is usable audio, so nothing was verified")
    verified = Verified(
        recordings=found.n,
        probs=found.probs,
        gate=found.gate if bundle.has_gate else None,
        same_label=found.same if bundle.scale is None else None,
        tolerance=TOLERANCE,
        holds=found.probs <= TOLERANCE and found.gate <= TOLERANCE,
        versions={package: version(package) for package in PACKAGES},
    )
    now = bundle.model_copy(update={"verified": verified})
    write_bundle(folder, now)
    write_card(folder, now)
    if not verified.holds:
        raise RunError(
            f"{folder}: ONNX Runtime and PyTorch differ by {found.probs:.2g} in a probability "
            f"and {found.gate:.2g} in the gate, where {TOLERANCE:g} is allowed (the worst is "
            f"{found.worst}); "
            "the card says so. Export the run again with these versions"
        )
    return verified


@dataclass
class _Differences:
    """How far outputs differ over recordings.

    Attributes:
        unit: Divides differences of outputs.
        n: Recordings.
        same: Recordings to which the graph of the bundle gives the same label.
        probs: Largest difference of an output.
        gate: Largest difference of a gate.
        worst: File with the largest difference of an output.
    """

    unit: float
    n: int = 0
    same: int = 0
    probs: float = 0.0
    gate: float = 0.0
    worst: str = ""

    def add(self, file: Path, found: Sequence[Outputs], expected: Outputs) -> None:
        """Count a recording: its outputs by both graphs, that of the bundle first."""
        self.n += 1
        self.same += int(found[0][0].argmax() == expected[0].argmax())
        for probs, gate in found:
            difference = float(np.abs(probs - expected[0]).max()) / self.unit
            if difference > self.probs:
                self.probs, self.worst = difference, str(file)
            if gate is not None and expected[1] is not None:
                self.gate = max(self.gate, float(np.abs(gate - expected[1]).max()))


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
        "has_gate": bundle.has_gate != model.members[0].model.head.has_one_gate,
    }
    if wrong := [name for name, other in is_other.items() if other]:
        raise RunError(
            f"{folder / BUNDLE} has another {', '.join(wrong)} than the models in members/: "
            "restore it from a copy, or export the run again"
        )
