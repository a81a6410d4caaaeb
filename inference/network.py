"""The network of a member through ONNX Runtime: two to four times as fast as PyTorch on a CPU.

Only the network is in this graph: images to logits and gate. The front end stays PyTorch's, whose
FFTs are the fastest; the graph of a whole bundle is in `inference.graph`.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from inference.bundle_file import TOLERANCE
from model_gmu import MaxMViTGMU
from models.heads import FusionOutput
from system.errors import RunError, first_line
from system.extras import is_installed

FILE = "network.onnx"
OPSET = 20
CQT, MEL = "cqt", "mel"
TRACED = 2  # images
TRIED = (1, 3)  # images at once
MAX = 2**31 - 1


def stepwise(model: MaxMViTGMU) -> MaxMViTGMU:
    """Switch off timm's fused attention, for which torch's exporter writes a wrong graph."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return model


def quiet_exporter() -> None:
    """Silence torch's exporter, which tells each constant that it joins."""
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Outputs(nn.Module):
    """Logits (B, K), and the gate (B, D) of a gated fusion."""

    def __init__(self, model: MaxMViTGMU) -> None:
        super().__init__()
        self.model = stepwise(model)

    def forward(self, cqt: Tensor, mel: Tensor) -> tuple[Tensor, ...]:
        output = self.model(cqt, mel)
        return (output.logits,) if output.gate is None else (output.logits, output.gate)


def export_network(model: MaxMViTGMU, file: Path, external: bool) -> None:
    """Write the graph of a network, for batches of any size.

    Args:
        model: On the CPU; its attention layers are changed.
        file: Where to write.
        external: Whether weights go into a file beside it, which a graph above 2 GB needs.
    """
    size, channels = model.settings.image_size, model.settings.n_channels
    images = torch.zeros(TRACED, channels, size, size)
    free = {0: torch.export.Dim("batch", min=1, max=MAX)}
    quiet_exporter()
    torch.onnx.export(
        _Outputs(model).eval(),
        (images, images.clone()),
        file,
        dynamo=True,
        opset_version=OPSET,
        input_names=[CQT, MEL],
        dynamic_shapes=(free, free),
        external_data=external,
        verbose=False,
    )


def check_network(model: MaxMViTGMU, folder: Path) -> None:
    """Run the graph of a network on batches of several sizes, beside PyTorch.

    Args:
        model: On the CPU.
        folder: Folder of the member, with network.onnx.

    Raises:
        RunError: The graph cannot be opened.
        ValueError: It cannot be run, or the logits differ.
    """
    network, settings = OnnxNetwork(folder), model.settings
    rng = torch.Generator().manual_seed(0)
    for n in TRIED:
        shape = (2, n, settings.n_channels, settings.image_size, settings.image_size)
        images = -80 * torch.rand(shape, generator=rng)  # dB
        with torch.inference_mode():
            expected = model.eval()(*images).logits.softmax(1)
        try:
            found = network(*images).logits.softmax(1)
        except RunError as error:
            reason = first_line(error.__cause__ or error)
            raise ValueError(f"ONNX Runtime cannot run it: {reason}") from error
        if found.shape != expected.shape or not (found - expected).abs().max() <= TOLERANCE:
            raise ValueError(f"ONNX Runtime and PyTorch differ on {n} images")


def has_network(folder: Path) -> bool:
    """Return whether a member has such a graph, and ONNX Runtime is installed."""
    return (folder / FILE).is_file() and is_installed("onnxruntime")


class OnnxNetwork:
    """A network that is called as `MaxMViTGMU` is.

    Args:
        folder: Folder of the member.

    Raises:
        RunError: The graph is corrupt.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime  # an extra

        self._file = folder / FILE
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work
        try:
            self._session = onnxruntime.InferenceSession(
                self._file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own errors have no common base
            raise self._corrupt("is corrupt", error) from error
        self._inputs = {one.name for one in self._session.get_inputs()}  # one, of single branches

    def __call__(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        """Return logits and gate: 2 x (B, C, H, W) -> (B, K), (B, D)."""
        given = {CQT: cqt.numpy(), MEL: mel.numpy()}
        try:
            logits, *gate = self._session.run(None, {name: given[name] for name in self._inputs})
        except Exception as error:  # also a KeyError: it has another input
            raise self._corrupt("cannot be run", error) from error
        return FusionOutput(torch.from_numpy(logits), torch.from_numpy(gate[0]) if gate else None)

    def _corrupt(self, what: str, error: Exception) -> RunError:
        return RunError(
            f"{self._file} {what} ({first_line(error)}): remove it, then PyTorch runs the network; "
            "or export the run again"
        )
