"""Fusion heads: from the features of n sources to logits, one small class per fusion.

Every head maps feat_s (B, D_s) of the sources s that are read to one `FusionOutput`. They come in
one order: cqt, mel, speech, file.

    concat           fused = [feat_1; ...; feat_n]                       (B, D_1 + ... + D_n)
    projections      h_s   = tanh(W_s feat_s + b_s)                      (B, D)
    mean, sum        fused = (h_1 + ... + h_n) / n, or h_1 + ... + h_n   (B, D)
    gmu              gate  = softmax over sources of [W_g [h_1; ...; h_n] + b_g; 0]   (B, n, D)
                     fused = sum over s of gate_s * h_s                  (B, D)
    gmu_contrastive  gmu, and a view z_s of each source                  (B, P)
    cross_attention  gmu on features that attended to the other sources; reads tokens (B, N_s, D_s)
    cross_attention_contrastive  both: gmu_contrastive on the features of cross_attention
    cqt_only, mel_only, speech_only, file_only   fused = feat_s of the only source

    logits = classifier(fused)                                           (B, K)

Two sources give a sigmoid, the softmax of one logit and 0. Their gate is the share of the first:

    gate  = sigmoid(W_g [h_cqt; h_mel] + b_g)                            (B, D), or (B, 1)
    fused = gate * h_cqt + (1 - gate) * h_mel                            (B, D)

Polarity of that gate, everywhere: **1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2**. Of more
sources, gate[:, s] is the share of source s, and the shares sum to 1.

The views of a contrastive head, by `model.projection`:

    separate   z_s = p_s(h_s);     p_s: Linear, ReLU, Linear
    shared     z_s = p(feat_s);    p: Linear, ReLU, LayerNorm, Linear

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
from config.fusions import BRANCH_TITLES, FUSIONS, IMAGES, SOURCES, fusions_that
from models.attention import CrossAttention
from models.gmu import GMU, ForcedGate, Projections, Widths
from models.settings import ModelSettings
from system.errors import InputError


class FusionOutput(NamedTuple):
    """Output of every head; None where the fusion does not have a value."""

    logits: Tensor  # (B, K)
    gate: Tensor | None = None  # (B, D) of two sources, (B, n, D) of more; scalar: D is 1
    views: tuple[Tensor, ...] | None = None  # n x (B, P), unnormalised, for the contrastive loss
    pooled: tuple[Tensor, ...] | None = None  # n x (B, D_s), features for the contrastive loss


class FusionHead(nn.Module):
    """Base of all heads: `head(*features)` takes the features of the sources, in their order.

    Args:
        widths: Width of each source's features, by branch name, in the order of the sources.
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
        self.branches = tuple(widths)  # names of the sources
        self.gmu = None
        self.classify = nn.Sequential(
            nn.Linear(self.build_fusion(widths, settings), settings.mlp_hidden_dim),
            nn.BatchNorm1d(settings.mlp_hidden_dim),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.mlp_hidden_dim, settings.n_classes),
        )

    @property
    def has_one_gate(self) -> bool:
        """Whether its gate weighs CQT against Mel alone, as files and labels show a gate."""
        return self.gmu is not None and self.branches == IMAGES

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the layers before the classifier, and return the width of the fused vector."""
        raise NotImplementedError


class ConcatHead(FusionHead):
    """fused = [feat_1; ...; feat_n], as of two sources in MaxMViT-MLP."""

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Return the sum of the widths."""
        return sum(widths.values())

    def forward(self, *features: Tensor) -> FusionOutput:
        """Return logits."""
        return FusionOutput(self.classify(torch.cat(features, 1)))


class SingleHead(ConcatHead):
    """fused = feat_s of the only source."""

    def forward(self, feature: Tensor) -> FusionOutput:  # type: ignore[override]
        """Return logits."""
        return FusionOutput(self.classify(feature))


class MeanHead(FusionHead):
    """fused = (h_1 + ... + h_n) / n, a GMU whose shares are equal."""

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the projections."""
        hidden_dim = settings.fusion_hidden_dim or max(widths.values())
        self.projections = Projections(widths, hidden_dim)
        return hidden_dim

    def forward(self, *features: Tensor) -> FusionOutput:
        """Return logits."""
        first, *others = self.projections.project(features)  # (B, D) each
        return FusionOutput(self.classify(sum(others, first) / len(features)))


class SumHead(MeanHead):
    """fused = h_1 + ... + h_n."""

    def forward(self, *features: Tensor) -> FusionOutput:
        """Return logits."""
        first, *others = self.projections.project(features)  # (B, D) each
        return FusionOutput(self.classify(sum(others, first)))


class GMUHead(FusionHead):
    """fused = sum over s of gate_s * h_s."""

    gmu: GMU

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the GMU."""
        hidden_dim = settings.fusion_hidden_dim or max(widths.values())
        gate_input = settings.gate_input or usual_value("model.gate_input")
        gate = settings.gate or usual_value("model.gate")
        self.gmu = GMU(widths, hidden_dim, gate_input, gate)
        return hidden_dim

    def forward(self, *features: Tensor, forced_gate: ForcedGate | None = None) -> FusionOutput:
        """Return logits and gate; `forced_gate` overrides the gate, for interventions."""
        fused, gate, *_ = self.gmu(*features, forced_gate=forced_gate)
        return FusionOutput(self.classify(fused), gate)


class ContrastiveHead(GMUHead):
    """A GMU, and a view of each source for the contrastive loss.

    Source:
        GloMER's code has the shared projection head. The default is one head for each source, on
        its h_s.
    """

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the GMU and the projection heads."""
        hidden_dim = super().build_fusion(widths, settings)
        projection_dim = settings.projection_dim or usual_value("model.projection_dim")
        self.shared = settings.projection == "shared"
        if self.shared:
            check_equal_widths(widths, "model.projection=shared")
            self.view = _shared_projection_head(max(widths.values()), projection_dim)
        else:
            for branch in widths:
                self.add_module(f"view_{branch}", _projection_head(hidden_dim, projection_dim))
        return hidden_dim

    def forward(self, *features: Tensor, forced_gate: ForcedGate | None = None) -> FusionOutput:
        """Return all of a `FusionOutput`; `forced_gate` overrides the gate, for interventions."""
        fused, gate, *hidden = self.gmu(*features, forced_gate=forced_gate)
        logits = self.classify(fused)  # (B, K)
        if self.shared:
            views = tuple(self.view(feature) for feature in features)  # n x (B, P)
        else:
            views = tuple(  # n x (B, P)
                self.get_submodule(f"view_{branch}")(h)
                for branch, h in zip(self.branches, hidden, strict=True)
            )
        return FusionOutput(logits, gate, views, features)


class CrossAttentionHead(GMUHead):
    """A GMU on features that attended to the other sources; reads tokens."""

    def build_fusion(self, widths: Widths, settings: ModelSettings) -> int:
        """Build the attention and the GMU."""
        hidden_dim = settings.fusion_hidden_dim or max(widths.values())
        heads = settings.attention_heads or usual_value("model.attention_heads")
        self.attention = CrossAttention(widths, hidden_dim, heads, settings.dropout)
        return super().build_fusion(dict.fromkeys(widths, hidden_dim), settings)

    def forward(self, *tokens: Tensor, forced_gate: ForcedGate | None = None) -> FusionOutput:
        """Return what `GMUHead` or `ContrastiveHead` does, of n x (B, N_s, D_s) or (B, D_s)."""
        features = self.attention(*tokens)  # n x (B, D)
        return super().forward(*features, forced_gate=forced_gate)


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
    "cqt_only": SingleHead,
    "mel_only": SingleHead,
    "speech_only": SingleHead,
    "file_only": SingleHead,
}


def build_head(widths: Widths, settings: ModelSettings) -> FusionHead:
    """Build the head of `settings.fusion`, widened to gmu's size if `match_parameters` is set.

    Args:
        widths: Width of the features of each branch that is read, by name, in the order of
            `SOURCES`.
        settings: Settings of the whole network.

    Raises:
        ValueError: The fusion is unknown, has no width to match with, or does not read these
            branches.
        InputError: The attention heads do not divide the width, or a shared projection head would
            read features of two widths.
    """
    if settings.fusion not in HEADS:
        raise ValueError(f"fusion must be one of {', '.join(HEADS)}, got {settings.fusion!r}")
    _check_branches(widths, settings.fusion)
    if settings.match_parameters:
        settings = _match_gmu(widths, settings)
    return HEADS[settings.fusion](widths, settings)


def check_equal_widths(widths: Widths, setting: str) -> None:
    """Refuse features of several widths where a setting compares them.

    Args:
        widths: Width of each source's pooled features, by branch name.
        setting: `section.key=value` that compares them, for the message.

    Raises:
        InputError: The widths differ.
    """
    if len(set(widths.values())) > 1:
        each = [f"the {BRANCH_TITLES[name]} branch has {width}" for name, width in widths.items()]
        raise InputError(
            f"{setting} needs pooled features of one width, and {', '.join(each)}: take branches "
            "of equal width, model.fusion=cross_attention_contrastive, which gives all the same "
            f"width, or leave {setting.partition('=')[0]} at its default"
        )


def n_parameters(module: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())


def _check_branches(widths: Widths, fusion: str) -> None:
    """Refuse branches that the fusion does not read, or in another order than `SOURCES`."""
    facts, given = FUSIONS[fusion], tuple(widths)
    if facts.joins:
        fits = len(given) > 1 and given == tuple(name for name in SOURCES if name in given)
        wanted = f"two or more of {', '.join(SOURCES)}, in this order"
    else:
        fits, wanted = given == facts.branches, facts.branches[0]
    if not fits:
        raise ValueError(f"{fusion} reads {wanted}, got {', '.join(given) or 'none'}")


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
