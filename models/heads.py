"""Fusion heads: from the features of both branches to logits, one small class per fusion.

Every head maps feat_cqt (B, D_cqt) and feat_mel (B, D_mel) to one `FusionOutput`:

    concat           fused = [feat_cqt; feat_mel]                        (B, D_cqt + D_mel)
    projections      h_cqt = tanh(W_c feat_cqt + b_c)                    (B, D)
                     h_mel = tanh(W_m feat_mel + b_m)                    (B, D)
    mean, sum        fused = (h_cqt + h_mel) / 2, or h_cqt + h_mel       (B, D)
    gmu              gate  = sigmoid(W_g [h_cqt; h_mel] + b_g)           (B, D), or (B, 1)
                     fused = gate * h_cqt + (1 - gate) * h_mel           (B, D)
    gmu_contrastive  gmu, and views z_cqt, z_mel of h_cqt, h_mel         (B, P)
    cross_attention  gmu on features that attended to the other branch; reads tokens (B, N, D_cqt)
    cqt_only         fused = feat_cqt;  mel_only: fused = feat_mel

    logits = classifier(fused)                                           (B, K)

Polarity of the gate, everywhere: **1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2**.

timm's published MaxViT ends in a tanh, so feat_cqt lies in (-1, 1); feat_mel of MViTv2 does not.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from config.effects import usual_value
from config.fusions import FUSIONS, fusions_that
from models.attention import CrossAttention
from models.settings import ModelSettings

Widths = tuple[int, int]  # D_cqt and D_mel, 0 for a branch that the fusion does not read


class FusionOutput(NamedTuple):
    """Output of every head; None where the fusion does not have a value."""

    logits: Tensor  # (B, K)
    gate: Tensor | None = None  # (B, D), or (B, 1) of a scalar gate
    z_cqt: Tensor | None = None  # (B, P), unnormalised view for the contrastive loss
    z_mel: Tensor | None = None  # (B, P)


class Projections(nn.Module):
    """tanh projections of both branches to one width D."""

    def __init__(self, cqt_features: int, mel_features: int, hidden_dim: int) -> None:
        super().__init__()
        self.project_cqt = nn.Linear(cqt_features, hidden_dim)
        self.project_mel = nn.Linear(mel_features, hidden_dim)

    def project(self, feat_cqt: Tensor, feat_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return h_cqt and h_mel: (B, cqt_features), (B, mel_features) -> (B, D), (B, D)."""
        return torch.tanh(self.project_cqt(feat_cqt)), torch.tanh(self.project_mel(feat_mel))


class GMU(Projections):
    """Gated Multimodal Unit: for each unit a gate weighs the two branches.

    Args:
        cqt_features: Width of feat_cqt.
        mel_features: Width of feat_mel.
        hidden_dim: D, width of the fused vector.
        gate_input: `projected`: the gate reads h_cqt and h_mel; `features`: it reads the features.
        gate: `vector`: one gate for each unit; `scalar`: one for all units.

    Shape:
        (B, cqt_features), (B, mel_features) -> fused, gate, h_cqt, h_mel, each (B, D); a scalar
        gate is (B, 1)

    Source:
        Arevalo et al. 2017, equation 1, whose gate reads the features and has no biases, as (with
        a bias) does GloMER's public code. The default here reads the projections.
    """

    def __init__(
        self,
        cqt_features: int,
        mel_features: int,
        hidden_dim: int,
        gate_input: str = "projected",
        gate: str = "vector",
    ) -> None:
        super().__init__(cqt_features, mel_features, hidden_dim)
        self.gate_input = gate_input
        width = 2 * hidden_dim if gate_input == "projected" else cqt_features + mel_features
        self.gate = nn.Linear(width, hidden_dim if gate == "vector" else 1)

    def forward(
        self, feat_cqt: Tensor, feat_mel: Tensor, forced_gate: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fused, gate, h_cqt, h_mel; `forced_gate` overrides the gate's values."""
        h_cqt, h_mel = self.project(feat_cqt, feat_mel)  # (B, D), (B, D)
        gate_input = (h_cqt, h_mel) if self.gate_input == "projected" else (feat_cqt, feat_mel)
        gate = torch.sigmoid(self.gate(torch.cat(gate_input, 1)))  # (B, D) or (B, 1)
        if forced_gate is not None:
            gate = torch.full_like(gate, forced_gate)
        fused = gate * h_cqt + (1 - gate) * h_mel  # (B, D)
        return fused, gate, h_cqt, h_mel


class FusionHead(nn.Module):
    """Base of all heads, each of which has `forward(feat_cqt, feat_mel) -> FusionOutput`.

    Args:
        widths: D_cqt and D_mel, 0 for a branch that the fusion does not read.
        settings: Settings of the whole network.

    Source:
        The classifier behind every fused vector is that of MaxMViT-MLP.
    """

    gmu: GMU | None  # None in heads without a gate

    def __init__(self, widths: Widths, settings: ModelSettings) -> None:
        super().__init__()
        self.gmu = None
        self.classify = nn.Sequential(
            nn.Linear(self.build_fusion(widths, settings), settings.mlp_hidden_dim),
            nn.BatchNorm1d(settings.mlp_hidden_dim),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.mlp_hidden_dim, settings.n_classes),
        )

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the layers before the classifier, and return the width of the fused vector."""
        raise NotImplementedError


class ConcatHead(FusionHead):
    """fused = [feat_cqt; feat_mel], as in MaxMViT-MLP."""

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Return D_cqt + D_mel."""
        return sum(widths)

    def forward(self, feat_cqt: Tensor, feat_mel: Tensor) -> FusionOutput:
        """Return logits."""
        return FusionOutput(self.classify(torch.cat([feat_cqt, feat_mel], 1)))


class CqtHead(ConcatHead):
    """fused = feat_cqt, without a Mel branch."""

    def forward(self, feat_cqt: Tensor, feat_mel: Tensor | None) -> FusionOutput:
        """Return logits; feat_mel is not read."""
        return FusionOutput(self.classify(feat_cqt))


class MelHead(ConcatHead):
    """fused = feat_mel, without a CQT branch."""

    def forward(self, feat_cqt: Tensor | None, feat_mel: Tensor) -> FusionOutput:
        """Return logits; feat_cqt is not read."""
        return FusionOutput(self.classify(feat_mel))


class MeanHead(FusionHead):
    """fused = (h_cqt + h_mel) / 2, a GMU whose gate is 0.5."""

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the projections."""
        hidden_dim = settings.fusion_hidden_dim or max(widths)
        self.projections = Projections(*widths, hidden_dim)
        return hidden_dim

    def forward(self, feat_cqt: Tensor, feat_mel: Tensor) -> FusionOutput:
        """Return logits."""
        h_cqt, h_mel = self.projections.project(feat_cqt, feat_mel)  # (B, D), (B, D)
        return FusionOutput(self.classify((h_cqt + h_mel) / 2))


class SumHead(MeanHead):
    """fused = h_cqt + h_mel."""

    def forward(self, feat_cqt: Tensor, feat_mel: Tensor) -> FusionOutput:
        """Return logits."""
        h_cqt, h_mel = self.projections.project(feat_cqt, feat_mel)  # (B, D), (B, D)
        return FusionOutput(self.classify(h_cqt + h_mel))


class GMUHead(FusionHead):
    """fused = gate * h_cqt + (1 - gate) * h_mel."""

    gmu: GMU

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the GMU."""
        hidden_dim = settings.fusion_hidden_dim or max(widths)
        gate_input = settings.gate_input or usual_value("model.gate_input")
        gate = settings.gate or usual_value("model.gate")
        self.gmu = GMU(*widths, hidden_dim, gate_input, gate)
        return hidden_dim

    def forward(
        self, feat_cqt: Tensor, feat_mel: Tensor, forced_gate: float | None = None
    ) -> FusionOutput:
        """Return logits and gate; `forced_gate` overrides the gate, for interventions."""
        fused, gate, _, _ = self.gmu(feat_cqt, feat_mel, forced_gate)
        return FusionOutput(self.classify(fused), gate)


class ContrastiveHead(GMUHead):
    """A GMU, and a view of each branch for the contrastive loss.

    Source:
        GloMER's code has one projection head, shared by both modalities, on the pooled features;
        here each branch has its own, on h_cqt or h_mel.
    """

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the GMU and the projection heads."""
        hidden_dim = super().build_fusion(widths, settings)
        projection_dim = settings.projection_dim or usual_value("model.projection_dim")
        self.view_cqt = _projection_head(hidden_dim, projection_dim)
        self.view_mel = _projection_head(hidden_dim, projection_dim)
        return hidden_dim

    def forward(
        self, feat_cqt: Tensor, feat_mel: Tensor, forced_gate: float | None = None
    ) -> FusionOutput:
        """Return logits, gate and views; `forced_gate` overrides the gate, for interventions."""
        fused, gate, h_cqt, h_mel = self.gmu(feat_cqt, feat_mel, forced_gate)
        logits = self.classify(fused)  # (B, K)
        return FusionOutput(logits, gate, self.view_cqt(h_cqt), self.view_mel(h_mel))


class CrossAttentionHead(GMUHead):
    """A GMU on features that attended to the other branch; reads tokens."""

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the attention and the GMU."""
        hidden_dim = settings.fusion_hidden_dim or max(widths)
        heads = settings.attention_heads or usual_value("model.attention_heads")
        self.attention = CrossAttention(*widths, hidden_dim, heads, settings.dropout)
        return super().build_fusion((hidden_dim, hidden_dim), settings)

    def forward(
        self, tokens_cqt: Tensor, tokens_mel: Tensor, forced_gate: float | None = None
    ) -> FusionOutput:
        """Return logits and gate of (B, N, D_cqt), (B, M, D_mel)."""
        feat_cqt, feat_mel = self.attention(tokens_cqt, tokens_mel)  # (B, D), (B, D)
        return super().forward(feat_cqt, feat_mel, forced_gate)


HEADS: dict[str, type[FusionHead]] = {  # names as in FUSIONS
    "concat": ConcatHead,
    "mean": MeanHead,
    "sum": SumHead,
    "gmu": GMUHead,
    "gmu_contrastive": ContrastiveHead,
    "cross_attention": CrossAttentionHead,
    "cqt_only": CqtHead,
    "mel_only": MelHead,
}


def build_head(widths: Widths, settings: ModelSettings) -> FusionHead:
    """Build the head of `settings.fusion`, widened to gmu's size if `match_parameters` is set.

    Args:
        widths: D_cqt and D_mel; 0 for a branch that the fusion does not read.
        settings: Settings of the whole network.

    Raises:
        ValueError: The fusion is unknown, or has no width to match with.
        InputError: The attention heads do not divide the width.
    """
    if settings.fusion not in HEADS:
        raise ValueError(f"fusion must be one of {', '.join(HEADS)}, got {settings.fusion!r}")
    if settings.match_parameters:
        settings = _match_gmu(widths, settings)
    return HEADS[settings.fusion](widths, settings)


def n_parameters(module: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())


def _match_gmu(widths: Widths, settings: ModelSettings) -> ModelSettings:
    """Return settings with which the head has as many parameters as gmu's, within one unit."""
    widens = FUSIONS[settings.fusion].widens
    if widens is None:
        can = ", ".join(fusions_that(lambda fusion: fusion.widens))
        raise ValueError(f"only {can} can match parameters, got {settings.fusion!r}")

    def changed(**changes: Any) -> ModelSettings:
        return replace(settings, match_parameters=None, **changes)

    def count(**changes: Any) -> int:
        with torch.device("meta"):  # takes no memory
            return n_parameters(build_head(widths, changed(**changes)))

    target = count(fusion="gmu")
    one, two = count(**{widens: 1}), count(**{widens: 2})  # linear in this width
    return changed(**{widens: max(1, 1 + round((target - one) / (two - one)))})


def _projection_head(width: int, projection_dim: int) -> nn.Module:
    """Return two layers, which Chen et al. 2020 found better than one: (B, D) -> (B, P)."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_dim))
