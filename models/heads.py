"""Fusion heads: from the features of both branches to logits, one small class per fusion.

Every head maps feat_cqt (B, D_cqt) and feat_mel (B, D_mel) to one `FusionOutput`:

    concat           fused = [feat_cqt; feat_mel]                        (B, D_cqt + D_mel)
    projections      h_cqt = tanh(W_c feat_cqt + b_c)                    (B, D)
                     h_mel = tanh(W_m feat_mel + b_m)                    (B, D)
    mean, sum        fused = (h_cqt + h_mel) / 2, or h_cqt + h_mel       (B, D)
    gmu              gate  = sigmoid(W_g [h_cqt; h_mel] + b_g)           (B, D), or (B, 1)
                     fused = gate * h_cqt + (1 - gate) * h_mel           (B, D)
    gmu_contrastive  gmu, and views z_cqt, z_mel                         (B, P)
    cross_attention  gmu on features that attended to the other branch; reads tokens (B, N, D_cqt)
    cross_attention_contrastive  both: gmu_contrastive on the features of cross_attention
    cqt_only         fused = feat_cqt;  mel_only: fused = feat_mel

    logits = classifier(fused)                                           (B, K)

The views of a contrastive head, by `model.projection`:

    separate   z_cqt = p_cqt(h_cqt),  z_mel = p_mel(h_mel);  p: Linear, ReLU, Linear
    shared     z_cqt = p(feat_cqt),   z_mel = p(feat_mel);   p: Linear, ReLU, LayerNorm, Linear

Polarity of the gate, everywhere: **1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2**.

timm pools a published MaxViT by tanh(Linear(LayerNorm(mean of the tokens))), layers of its ImageNet
classifier, so feat_cqt lies in (-1, 1). feat_mel of MViTv2 is a plain norm of the mean, and so is
feat_cqt of `test_maxvit`. The widths of a branch therefore say little about its part in a gate that
reads the features, or in the sum that concat's first layer forms.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from config.effects import usual_value
from config.fusions import FUSIONS, fusions_that
from models.attention import CrossAttention
from models.gmu import GMU, Projections
from models.settings import ModelSettings
from system.errors import InputError

Widths = tuple[int, int]  # D_cqt and D_mel, 0 for a branch that the fusion does not read


class FusionOutput(NamedTuple):
    """Output of every head; None where the fusion does not have a value."""

    logits: Tensor  # (B, K)
    gate: Tensor | None = None  # (B, D), or (B, 1) of a scalar gate
    z_cqt: Tensor | None = None  # (B, P), unnormalised view for the contrastive loss
    z_mel: Tensor | None = None  # (B, P)
    feat_cqt: Tensor | None = None  # (B, D_cqt), pooled features for the contrastive loss
    feat_mel: Tensor | None = None  # (B, D_mel)


class FusionHead(nn.Module):
    """Base of all heads, each of which has `forward(feat_cqt, feat_mel) -> FusionOutput`.

    Args:
        widths: D_cqt and D_mel, 0 for a branch that the fusion does not read.
        settings: Settings of the whole network.

    Source:
        The classifier behind every fused vector is that of MaxMViT-MLP: dense layer, batch norm,
        dropout, classification layer. Its text names no activation; the ReLU is added here, as in
        both public codes of it (iamdinhthuan, Huu2412). GloMER's classifier has two hidden layers
        with layer norms instead.
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
        GloMER's code has the shared projection head. The default is one head for each branch, on
        h_cqt and h_mel.
    """

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the GMU and the projection heads."""
        hidden_dim = super().build_fusion(widths, settings)
        projection_dim = settings.projection_dim or usual_value("model.projection_dim")
        self.shared = settings.projection == "shared"
        if self.shared:
            check_equal_widths(widths, "model.projection=shared")
            self.view = _shared_projection_head(widths[0], projection_dim)
        else:
            self.view_cqt = _projection_head(hidden_dim, projection_dim)
            self.view_mel = _projection_head(hidden_dim, projection_dim)
        return hidden_dim

    def forward(
        self, feat_cqt: Tensor, feat_mel: Tensor, forced_gate: float | None = None
    ) -> FusionOutput:
        """Return all of a `FusionOutput`; `forced_gate` overrides the gate, for interventions."""
        fused, gate, h_cqt, h_mel = self.gmu(feat_cqt, feat_mel, forced_gate)
        logits = self.classify(fused)  # (B, K)
        if self.shared:
            z_cqt, z_mel = self.view(feat_cqt), self.view(feat_mel)  # (B, P), (B, P)
        else:
            z_cqt, z_mel = self.view_cqt(h_cqt), self.view_mel(h_mel)  # (B, P), (B, P)
        return FusionOutput(logits, gate, z_cqt, z_mel, feat_cqt, feat_mel)


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
        """Return what `GMUHead` or `ContrastiveHead` does, of (B, N, D_cqt), (B, M, D_mel)."""
        feat_cqt, feat_mel = self.attention(tokens_cqt, tokens_mel)  # (B, D), (B, D)
        return super().forward(feat_cqt, feat_mel, forced_gate)


class CrossAttentionContrastiveHead(CrossAttentionHead, ContrastiveHead):
    """Cross-attention, then a GMU and the views: `CrossAttentionHead` calls `ContrastiveHead`.

    Source:
        The order of GloMER's code, which with `model.projection=shared` and
        `model.gate_input=features` is followed but for the layers around the attention: see
        README, differences from the papers.
    """


HEADS: dict[str, type[FusionHead]] = {  # names as in FUSIONS
    "concat": ConcatHead,
    "mean": MeanHead,
    "sum": SumHead,
    "gmu": GMUHead,
    "gmu_contrastive": ContrastiveHead,
    "cross_attention": CrossAttentionHead,
    "cross_attention_contrastive": CrossAttentionContrastiveHead,
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
        InputError: The attention heads do not divide the width, or a shared projection head would
            read features of two widths.
    """
    if settings.fusion not in HEADS:
        raise ValueError(f"fusion must be one of {', '.join(HEADS)}, got {settings.fusion!r}")
    if settings.match_parameters:
        settings = _match_gmu(widths, settings)
    return HEADS[settings.fusion](widths, settings)


def check_equal_widths(widths: Widths, setting: str) -> None:
    """Refuse features of two widths where a setting compares them.

    Args:
        widths: Widths of the pooled features of both branches.
        setting: `section.key=value` that compares them, for the message.

    Raises:
        InputError: The widths differ.
    """
    if widths[0] != widths[1]:
        raise InputError(
            f"{setting} needs pooled features of one width, and the CQT branch has {widths[0]}, "
            f"the Mel branch {widths[1]}: take backbones of equal width, "
            "model.fusion=cross_attention_contrastive, which gives both the same width, or leave "
            f"{setting.partition('=')[0]} at its default"
        )


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


def _shared_projection_head(width: int, projection_dim: int) -> nn.Module:
    """Return the layers of GloMER's projection head: (B, D) -> (B, P)."""
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, projection_dim)
    )
