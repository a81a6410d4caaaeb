"""Prove that a bundle's ONNX graph and PyTorch say the same of real recordings.

A difference is the largest over all recordings and outputs; of ratings, over half of their scale.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from audio.opening import BadAudio
from audio.trim import trim_silence
from inference.bundle_card import write_card
from inference.bundle_file import GRAPH, TOLERANCE, Verified, read_bundle, write_bundle
from inference.emotion_model import EmotionModel
from inference.exporting import open_graph, run_graph
from inference.members import member_folders
from inference.sound import read_sound
from system.errors import RunError
from system.output import progress_bar

log = logging.getLogger(__name__)

PACKAGES = ("onnxruntime", "torch", "timm")


def verify_bundle(folder: Path, files: Sequence[Path]) -> Verified:
    """Compare graph and PyTorch, and write the figure into bundle.json and the card.

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
    model = EmotionModel(member_folders(folder), onnx=False)
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
            found, found_gate = run_graph(session, trimmed[None])
            probs, gates = model.outputs([waveform])
            n += 1
            same += int(found[0].argmax() == probs[0].argmax())
            difference = float(np.abs(found - probs).max()) / unit
            if not difference <= worst:  # NaN is the worst
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
