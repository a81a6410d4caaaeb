"""The head that joins two branches: baselines, gates, cross-modal attention, and the classifier.

Polarity of the gate, everywhere: **1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2**.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from system.errors import InputError

FUSIONS = (
    "concat",
    "mean",
    "sum",
    "gmu",
    "gmu_contrastive",
    "cross_attention",
    "cqt_only",
    "mel_only",
)
GATED = ("gmu", "gmu_contrastive", "cross_attention")
MATCHED = ("concat", "mean", "sum")  # may have as many parameters as gmu
ONE_BRANCH = {"cqt_only": "cqt", "mel_only": "mel"}


class FusionOutput(NamedTuple):
    """What every fusion returns; None where it has no such thing."""

    logits: Tensor  # (B, K)
    gate: Tensor | None  # (B, D), or (B, 1) of a scalar gate; 1 = CQT, 0 = Mel
    z_cqt: Tensor | None  # (B, P), unnormalised view for the contrastive loss
    z_mel: Tensor | None  # (B, P)


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
    """Gated Multimodal Unit: a gate for each unit chooses between the two branches.

    h_cqt = tanh(W_c feat_cqt + b_c), h_mel = tanh(W_m feat_mel + b_m)
    gate = sigmoid(W_g [h_cqt; h_mel] + b_g), fused = gate * h_cqt + (1 - gate) * h_mel

    Args:
        cqt_features: Width of feat_cqt.
        mel_features: Width of feat_mel.
        hidden_dim: D, units of the fused vector.
        gate_input: `projected`: the gate reads h_cqt and h_mel; `features`: it reads the features.
        gate: `vector`: a gate for each unit; `scalar`: one for all, (B, 1).

    Shape:
        (B, cqt_features), (B, mel_features) -> fused, gate, h_cqt, h_mel, each (B, D); a scalar
        gate is (B, 1)

    Source:
        Arevalo et al. 2017, equation 1, gate on the features and without biases. GloMER's gate
        reads the projections: our default.
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
        self, feat_cqt: Tensor, feat_mel: Tensor, forced: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fused, gate, h_cqt, h_mel; `forced` takes the place of the gate's own values."""
        h_cqt, h_mel = self.project(feat_cqt, feat_mel)  # (B, D) each
        read = (h_cqt, h_mel) if self.gate_input == "projected" else (feat_cqt, feat_mel)
        gate = torch.sigmoid(self.gate(torch.cat(read, 1)))  # (B, D) or (B, 1)
        if forced is not None:
            gate = torch.full_like(gate, forced)
        return gate * h_cqt + (1 - gate) * h_mel, gate, h_cqt, h_mel


class CrossAttention(nn.Module):
    """Each branch's tokens look at the other's, then both are averaged over their tokens.

    t_cqt = W_c LN(tokens_cqt) + b_c, t_mel = W_m LN(tokens_mel) + b_m
    a_cqt = t_cqt + Attention(query t_cqt, keys and values t_mel), and a_mel the other way round

    The norms come first since the published MaxViT has its own behind the pooling: its tokens are
    some 20 times as long as those of MViTv2, and would drive the tanh behind them to its ends.

    Args:
        cqt_features: Width of the CQT tokens.
        mel_features: Width of the Mel tokens.
        hidden_dim: D, must be divisible by `heads`.
        heads: Of each attention.
        dropout: Of the attention weights.

    Raises:
        InputError: It is not.

    Shape:
        (B, N, cqt_features), (B, M, mel_features) -> (B, D), (B, D)

    Source:
        Lu et al. 2019 (ViLBERT), co-attention in both directions, one layer and without its
        feed-forward block; attention by torch's own module. What the GMU makes of it is ours.
    """

    def __init__(
        self, cqt_features: int, mel_features: int, hidden_dim: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        if hidden_dim % heads:
            raise InputError(
                f"model.attention_heads={heads} must divide the width of the joined vector, "
                f"{hidden_dim} (model.fusion_hidden_dim, or the wider branch): choose another"
            )
        self.norm_cqt = nn.LayerNorm(cqt_features)
        self.norm_mel = nn.LayerNorm(mel_features)
        self.embed_cqt = nn.Linear(cqt_features, hidden_dim)
        self.embed_mel = nn.Linear(mel_features, hidden_dim)
        self.cqt_reads_mel = nn.MultiheadAttention(hidden_dim, heads, dropout, batch_first=True)
        self.mel_reads_cqt = nn.MultiheadAttention(hidden_dim, heads, dropout, batch_first=True)

    def forward(self, tokens_cqt: Tensor, tokens_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each branch is after it has read the other."""
        t_cqt = self.embed_cqt(self.norm_cqt(tokens_cqt))  # (B, N, D)
        t_mel = self.embed_mel(self.norm_mel(tokens_mel))  # (B, M, D)
        read_cqt, _ = self.cqt_reads_mel(t_cqt, t_mel, t_mel, need_weights=False)  # (B, N, D)
        read_mel, _ = self.mel_reads_cqt(t_mel, t_cqt, t_cqt, need_weights=False)  # (B, M, D)
        return (t_cqt + read_cqt).mean(1), (t_mel + read_mel).mean(1)  # (B, D) each


class FusionHead(nn.Module):
    """Join the features of both branches and classify.

    `concat` sets the features side by side; `mean` and `sum` join tanh projections without a gate
    (`mean` is a GMU whose gate is 0.5); `cqt_only` and `mel_only` read one branch.

    Args:
        cqt_features: Width of feat_cqt, 0 for `mel_only`.
        mel_features: Width of feat_mel, 0 for `cqt_only`.
        n_classes: K.
        fusion: One of `FUSIONS`.
        hidden_dim: D, units of the joined vector where branches are projected (not in `concat` and
            single branches); None is the width of the wider branch.
        gate_input: See `GMU`.
        gate: See `GMU`.
        projection_dim: P, width of the contrastive views.
        attention_heads: See `CrossAttention`.
        match_parameters: Widen `concat` (its classifier), `mean` or `sum` (their projections)
            until the head has as many parameters as that of `gmu` with the other settings, up to
            one unit of width.
        mlp_hidden_dim: Units of the classifier's hidden layer.
        dropout: Before the last layer, and of the attention weights.

    Shape:
        (B, cqt_features), (B, mel_features) -> `FusionOutput`; `cross_attention` reads tokens,
        (B, N, cqt_features), (B, M, mel_features). A single branch gets None for the other.

    Raises:
        ValueError: No such fusion, or parameters are to match in one that has nothing to widen.

    Source:
        Classifier and concatenation: MaxMViT-MLP. Projection heads on the branches: GloMER.
    """

    def __init__(
        self,
        cqt_features: int,
        mel_features: int,
        n_classes: int,
        fusion: str,
        hidden_dim: int | None = None,
        gate_input: str | None = None,
        gate: str | None = None,
        projection_dim: int | None = None,
        attention_heads: int | None = None,
        match_parameters: bool | None = None,
        mlp_hidden_dim: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.fusion = fusion
        sizes = (cqt_features, mel_features)
        width = hidden_dim or max(sizes)
        if match_parameters:
            width, mlp_hidden_dim = _match_gmu(fusion, sizes, n_classes, width, mlp_hidden_dim)
        self.gmu: GMU | None = None
        self.projections: Projections | None = None
        self.attention: CrossAttention | None = None
        self.view_cqt: nn.Module | None = None
        self.view_mel: nn.Module | None = None
        if fusion == "cross_attention":
            self.attention = CrossAttention(*sizes, width, attention_heads or 4, dropout)
            sizes = (width, width)
        if fusion in GATED:
            self.gmu = GMU(*sizes, width, gate_input or "projected", gate or "vector")
        elif fusion in ("mean", "sum"):
            self.projections = Projections(*sizes, width)
        else:
            width = cqt_features + mel_features
        if fusion == "gmu_contrastive":
            self.view_cqt = _projection_head(width, projection_dim or 128)
            self.view_mel = _projection_head(width, projection_dim or 128)
        self.classify = nn.Sequential(
            nn.Linear(width, mlp_hidden_dim),
            nn.BatchNorm1d(mlp_hidden_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_hidden_dim, n_classes),
        )

    def forward(
        self, feat_cqt: Tensor | None, feat_mel: Tensor | None, forced_gate: float | None = None
    ) -> FusionOutput:
        """Return logits, and gate and views where the fusion has them.

        Args:
            feat_cqt: Features or tokens of the CQT branch.
            feat_mel: Features or tokens of the Mel branch.
            forced_gate: Takes the place of the gate, to see what hangs on it.

        Raises:
            ValueError: A branch is missing, or there is no gate to force.
        """
        if forced_gate is not None and self.gmu is None:
            raise ValueError(f"{self.fusion} has no gate to force")
        if self.fusion in ONE_BRANCH:
            only = feat_cqt if ONE_BRANCH[self.fusion] == "cqt" else feat_mel
            return FusionOutput(self.classify(only), None, None, None)
        if feat_cqt is None or feat_mel is None:
            raise ValueError(f"{self.fusion} needs both branches")
        if self.attention is not None:
            feat_cqt, feat_mel = self.attention(feat_cqt, feat_mel)  # (B, D) each
        if self.gmu is None:
            return FusionOutput(self.classify(self._join(feat_cqt, feat_mel)), None, None, None)
        fused, gate, h_cqt, h_mel = self.gmu(feat_cqt, feat_mel, forced_gate)  # (B, D) each
        logits = self.classify(fused)  # (B, K)
        if self.view_cqt is None or self.view_mel is None:
            return FusionOutput(logits, gate, None, None)
        return FusionOutput(logits, gate, self.view_cqt(h_cqt), self.view_mel(h_mel))

    def _join(self, feat_cqt: Tensor, feat_mel: Tensor) -> Tensor:
        if self.projections is None:
            return torch.cat([feat_cqt, feat_mel], 1)  # (B, D_cqt + D_mel)
        h_cqt, h_mel = self.projections.project(feat_cqt, feat_mel)  # (B, D) each
        return (h_cqt + h_mel) / 2 if self.fusion == "mean" else h_cqt + h_mel


def n_parameters(module: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def _match_gmu(
    fusion: str, sizes: tuple[int, int], n_classes: int, width: int, mlp_hidden_dim: int
) -> tuple[int, int]:
    """Return `width` and `mlp_hidden_dim` at which a head is as large as that of the GMU."""
    if fusion not in MATCHED:
        raise ValueError(f"only {', '.join(MATCHED)} can match parameters, got {fusion!r}")

    def widths(free: int) -> tuple[int, int]:
        return (width, free) if fusion == "concat" else (free, mlp_hidden_dim)

    def count(fusion: str, width: int, mlp_hidden_dim: int) -> int:
        with torch.device("meta"):  # takes no memory
            head = FusionHead(*sizes, n_classes, fusion, width, mlp_hidden_dim=mlp_hidden_dim)
        return n_parameters(head)

    wanted = count("gmu", width, mlp_hidden_dim)
    one, two = (count(fusion, *widths(free)) for free in (1, 2))  # linear in the free width
    return widths(max(1, 1 + round((wanted - one) / (two - one))))


def _projection_head(width: int, projection_dim: int) -> nn.Module:
    """Two layers, as Chen et al. 2020 found better than one."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_dim))
