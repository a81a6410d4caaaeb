"""Write the ONNX graph of a model, and prove by running it that it takes any batch and length."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle_file import GRAPH, TOLERANCE, BundleFile
from inference.emotion_model import EmotionModel
from inference.graph import GATE, PROBS, WAVEFORM, export_graph
from system.errors import RunError
from system.files import make_folder, write_text

log = logging.getLogger(__name__)

TRIED = ((1, 1.0), (2, 3.3), (5, 0.7))  # waveforms, and their seconds
DECAY = 0.95  # from sample to sample of noise
AUDONNX = "audonnx"  # folder
MODEL_YAML = "model.yaml"


def write_graph(model: EmotionModel, file: Path, external: bool) -> bool:
    """Write the graph of a model, and run it.

    Args:
        model: The trained model, on the CPU.
        file: Where to write.
        external: Whether weights go into a file beside it.

    Returns:
        Whether the graph takes several waveforms at once; an architecture without a graph of a
        free batch gets one that takes one at a time.

    Raises:
        RunError: ONNX Runtime computes something else than PyTorch, or nothing.
    """
    expected = [_pytorch(model, _noise(n, seconds, model)) for n, seconds in TRIED]
    for free_batch in (True, False):
        try:
            export_graph(model, file, external, free_batch)
            _check(model, file, expected, free_batch)
        except (
            RunError,
            RuntimeError,
            ValueError,
        ) as error:  # torch.onnx.OnnxExporterError among them
            if not free_batch:
                raise RunError(f"this model cannot be exported: {_first(error)}") from error
            log.warning("the graph takes one recording at a time: %s", _first(error))
        else:
            return free_batch
    return False


def run_graph(session: Any, waveforms: NDArray[np.float32]) -> tuple[NDArray, NDArray | None]:
    """Return outputs (B, K) and gates (B,) or None of waveforms (B, T).

    Raises:
        ValueError: ONNX Runtime cannot run it.
    """
    try:
        probs, *gate = session.run(None, {WAVEFORM: waveforms})
    except Exception as error:  # its own errors have no common base
        raise ValueError(f"ONNX Runtime cannot run it: {_first(error)}") from error
    return probs, gate[0] if gate else None


def open_graph(file: Path, threads: int | None = None) -> Any:
    """Return a session of ONNX Runtime on the CPU.

    Raises:
        RunError: The file is missing or corrupt.
    """
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no common base
        raise RunError(
            f"{file} is missing or corrupt ({_first(error)}): restore it from a copy, or export "
            "the run again"
        ) from error


def write_audonnx(folder: Path, bundle: BundleFile) -> None:
    """Write audonnx/, for `audonnx.load(folder / "audonnx")`.

    audonnx reshapes a signal to the shape of the input, which may leave one dimension free: the
    graph there is the same with a batch of 1.
    """
    import onnx  # an extra

    own = folder / AUDONNX
    make_folder(own)
    graph = onnx.load(folder / GRAPH, load_external_data=False)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, own / GRAPH)
    if (data := folder / f"{GRAPH}.data").exists():
        shutil.copyfile(data, own / data.name)
    labels = "".join(f"    - {_quoted(name)}\n" for name in bundle.classes)
    text = f"$audonnx.core.model.Model==1.0.1:\n  path: {GRAPH}\n  labels:\n    {PROBS}:\n{labels}"
    text += f"    {GATE}:\n    - {GATE}\n" if bundle.has_gate else ""
    write_text(own / MODEL_YAML, f"{text}  transform: null\n")


def _check(
    model: EmotionModel,
    file: Path,
    expected: list[tuple[NDArray, NDArray | None]],
    free_batch: bool,
) -> None:
    """Compare the graph with PyTorch on noise.

    Raises:
        ValueError: They differ.
    """
    session = open_graph(file)
    for (n, seconds), (probs, gates) in zip(TRIED, expected, strict=True):
        waveforms = _noise(n, seconds, model)
        parts = [waveforms] if free_batch else np.split(waveforms, n)
        found = [run_graph(session, part) for part in parts]
        unit = 1 if model.scale is None else model.scale.half
        differences = [np.abs(np.concatenate([one[0] for one in found]) - probs).max() / unit]
        if gates is not None:
            differences.append(np.abs(np.concatenate([one[1] for one in found]) - gates).max())
        if not max(differences) <= 10 * TOLERANCE:  # noise lies at the edge of float16's steps
            raise ValueError(
                f"ONNX Runtime and PyTorch differ by {max(differences):.2g} on {n} x {seconds} s"
            )


def _noise(n: int, seconds: float, model: EmotionModel) -> NDArray[np.float32]:
    """Return noise whose spectrum falls, as speech's does, without silent ends: (n, T)."""
    rng = np.random.default_rng(0)
    n_samples = round(seconds * model.sample_rate)
    echo = DECAY ** np.arange(100)
    noise = np.stack([np.convolve(rng.standard_normal(n_samples), echo, "same") for _ in range(n)])
    scaled: NDArray[np.float32] = (0.3 * noise / np.abs(noise).max()).astype(np.float32)
    return scaled


def _pytorch(model: EmotionModel, waveforms: NDArray) -> tuple[NDArray, NDArray | None]:
    return model.outputs([torch.from_numpy(one) for one in waveforms])


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
