"""A trained model as one ONNX graph: waveforms of one length to probabilities and gate.

The front end comes once, the members side by side; the graph gives the mean of their calibrated
probabilities, as `inference.emotion_model` does. Batch and length are free.

Two things are other than in training, each for the export alone:
- `GraphImages` takes the place of `SpectrogramImages`, whose constants depend on the length.
- timm's attention layers compute softmax(Q K^T) V step by step (`fused_attn` off). torch's exporter
  lays out the fused operation for another batch than it gets: MaxViT then has no graph of a free
  batch, and MViTv2 one that takes a batch of 1.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from config.tasks import RatingScale
from inference.emotion_model import EmotionModel
from inference.graph_images import GraphImages
from inference.network import OPSET, quiet_exporter, stepwise
from inference.predictor import FoldModel

FLOOR = 5e-7  # probability, as evaluation.calibration
WAVEFORM, PROBS, GATE = "waveform", "probs", "gate"
MAX = 2**31 - 1
TRACED = 2, 2.5  # waveforms, and their length in crops or seconds, with which the graph is traced


class EnsembleGraph(nn.Module):
    """What is exported.

    Args:
        model: The trained model.

    Shape:
        (B, T) at `sample_rate` -> probabilities (B, K) or ratings (B, D); and gate (B,), if all
        members have one, of CQT against Mel
    """

    def __init__(self, model: EmotionModel) -> None:
        super().__init__()
        first = model.members[0]
        self.images = GraphImages(first.images)
        self.members = nn.ModuleList(stepwise(member.model) for member in model.members)
        self.temperatures = [one.temperature for one in model.calibrations]
        self.scale: RatingScale | None = model.scale
        self.has_gate = first.model.head.has_one_gate

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs."""
        images = self.images(waveform)
        n_waveforms = waveform.shape[0]
        outputs, gates = [], []
        for member, temperature in zip(self.members, self.temperatures, strict=True):
            found = member(*images)
            each = self._outputs(found.logits)  # (B n, K)
            mean = each.reshape(n_waveforms, -1, each.shape[1]).mean(1)  # (B, K) over crops
            outputs.append(_calibrated(mean, temperature))
            if self.has_gate:
                gates.append(found.gate.mean(1).reshape(n_waveforms, -1).mean(1))
        mean = torch.stack(outputs).mean(0)
        return (mean, torch.stack(gates).mean(0)) if self.has_gate else (mean,)

    def _outputs(self, logits: Tensor) -> Tensor:
        if self.scale is None:
            return logits.softmax(1)
        ratings: Tensor = self.scale.to_rating(logits)
        return ratings


def export_graph(model: EmotionModel, file: Path, external: bool, free_batch: bool = True) -> None:
    """Write model.onnx.

    Args:
        model: The trained model, on the CPU; its attention layers are changed.
        file: Where to write.
        external: Whether weights go into a file beside it, which a graph above 2 GB needs.
        free_batch: Whether the graph takes several waveforms; else it takes one.
    """
    graph = EnsembleGraph(model).eval()
    crop = model.members[0].images.crop_size or model.sample_rate
    waveform = torch.zeros(TRACED[0] if free_batch else 1, round(TRACED[1] * crop))
    free = {1: torch.export.Dim("samples", min=1, max=MAX)}
    if free_batch:
        free[0] = torch.export.Dim("batch", min=1, max=MAX)
    quiet_exporter()
    torch.onnx.export(
        graph,
        (waveform,),
        file,
        dynamo=True,
        opset_version=OPSET,
        input_names=[WAVEFORM],
        output_names=[PROBS, GATE][: 1 + graph.has_gate],
        dynamic_shapes=(free,),
        external_data=external,
        verbose=False,
    )


def _calibrated(probs: Tensor, temperature: float | None) -> Tensor:
    if temperature is None:
        return probs
    return (probs.clamp_min(FLOOR).log() / temperature).softmax(1)


def n_weights(members: Sequence[FoldModel]) -> int:
    """Return the number of weights of all members."""
    return sum(weight.numel() for m in members for weight in m.model.state_dict().values())
