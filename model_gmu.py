"""Two backbones and the head that joins them: concatenation, GMU, or contrastive GMU.

Polarity of the gate, everywhere: **1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2**.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones import create_backbone

FUSIONS = ("concat", "gmu", "gmu_contrastive")


class FusionOutput(NamedTuple):
    """What every fusion returns; None where it has no such thing."""

    logits: Tensor  # (B, K)
    gate: Tensor | None  # (B, D), 1 = CQT, 0 = Mel
    z_cqt: Tensor | None  # (B, P), unnormalised view for the contrastive loss
    z_mel: Tensor | None  # (B, P)


class GMU(nn.Module):
    """Gated Multimodal Unit: a gate for each unit chooses between the two branches.

    h_cqt = tanh(W_c feat_cqt + b_c), h_mel = tanh(W_m feat_mel + b_m)
    gate = sigmoid(W_g [h_cqt; h_mel] + b_g), fused = gate * h_cqt + (1 - gate) * h_mel

    Args:
        cqt_features: Width of feat_cqt.
        mel_features: Width of feat_mel.
        hidden_dim: D, units of the fused vector.
        gate_input: `projected`: the gate reads h_cqt and h_mel; `features`: it reads the features.

    Shape:
        (B, cqt_features), (B, mel_features) -> fused, gate, h_cqt, h_mel, each (B, D)

    Source:
        Arevalo et al. 2017, equation 1, gate on the features and without biases. GloMER's gate
        reads the projections: our default.
    """

    def __init__(
        self, cqt_features: int, mel_features: int, hidden_dim: int, gate_input: str = "projected"
    ) -> None:
        super().__init__()
        self.gate_input = gate_input
        self.project_cqt = nn.Linear(cqt_features, hidden_dim)
        self.project_mel = nn.Linear(mel_features, hidden_dim)
        width = 2 * hidden_dim if gate_input == "projected" else cqt_features + mel_features
        self.gate = nn.Linear(width, hidden_dim)

    def forward(self, feat_cqt: Tensor, feat_mel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fused, gate, h_cqt, h_mel."""
        h_cqt = torch.tanh(self.project_cqt(feat_cqt))  # (B, D)
        h_mel = torch.tanh(self.project_mel(feat_mel))  # (B, D)
        read = (h_cqt, h_mel) if self.gate_input == "projected" else (feat_cqt, feat_mel)
        gate = torch.sigmoid(self.gate(torch.cat(read, 1)))  # (B, D)
        return gate * h_cqt + (1 - gate) * h_mel, gate, h_cqt, h_mel


class FusionHead(nn.Module):
    """Join the features of both branches and classify.

    Args:
        cqt_features: Width of feat_cqt.
        mel_features: Width of feat_mel.
        n_classes: K.
        fusion: One of `FUSIONS`.
        hidden_dim: Units of the GMU; None is the wider branch.
        gate_input: See `GMU`.
        projection_dim: P, width of the contrastive views.
        mlp_hidden_dim: Units of the classifier's hidden layer.
        dropout: Before the last layer.

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
        projection_dim: int | None = None,
        mlp_hidden_dim: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.gmu: GMU | None = None
        self.view_cqt: nn.Module | None = None
        self.view_mel: nn.Module | None = None
        width = cqt_features + mel_features
        if fusion != "concat":
            width = hidden_dim or max(cqt_features, mel_features)
            self.gmu = GMU(cqt_features, mel_features, width, gate_input or "projected")
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

    def forward(self, feat_cqt: Tensor, feat_mel: Tensor) -> FusionOutput:
        """Return logits, and gate and views where the fusion has them."""
        if self.gmu is None:
            fused = torch.cat([feat_cqt, feat_mel], 1)  # (B, D_cqt + D_mel)
            return FusionOutput(self.classify(fused), None, None, None)
        fused, gate, h_cqt, h_mel = self.gmu(feat_cqt, feat_mel)  # (B, D) each
        logits = self.classify(fused)  # (B, K)
        if self.view_cqt is None or self.view_mel is None:
            return FusionOutput(logits, gate, None, None)
        return FusionOutput(logits, gate, self.view_cqt(h_cqt), self.view_mel(h_mel))


class MaxMViTGMU(nn.Module):
    """Pictures to emotion: normalization, two backbones, fusion head.

    Args:
        n_classes: K.
        fusion: One of `FUSIONS`.
        cqt_backbone: timm name for the CQT picture.
        mel_backbone: timm name for the Mel-STFT picture.
        image_size: Pixels, height and width.
        n_channels: Channels of each picture.
        pretrained: Load timm's weights for branches without a file.
        cqt_weights: Local weights file of the CQT backbone.
        mel_weights: Local weights file of the Mel backbone.
        fusion_hidden_dim: See `FusionHead`.
        gate_input: See `GMU`.
        projection_dim: See `FusionHead`.
        mlp_hidden_dim: See `FusionHead`.
        dropout: See `FusionHead`.

    Shape:
        cqt, mel (B, C, H, W) in dB -> FusionOutput
    """

    cqt_mean: Tensor
    cqt_std: Tensor
    mel_mean: Tensor
    mel_std: Tensor

    def __init__(
        self,
        n_classes: int,
        fusion: str,
        cqt_backbone: str,
        mel_backbone: str,
        image_size: int = 224,
        n_channels: int = 1,
        pretrained: bool = False,
        cqt_weights: str | None = None,
        mel_weights: str | None = None,
        fusion_hidden_dim: int | None = None,
        gate_input: str | None = None,
        projection_dim: int | None = None,
        mlp_hidden_dim: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.settings = {  # rebuilds the model around saved weights
            name: value
            for name, value in locals().items()
            if name not in ("self", "__class__", "pretrained", "cqt_weights", "mel_weights")
        }
        self.cqt_branch = create_backbone(
            cqt_backbone, image_size, n_channels, pretrained, cqt_weights, "cqt"
        )
        self.mel_branch = create_backbone(
            mel_backbone, image_size, n_channels, pretrained, mel_weights, "mel"
        )
        self.head = FusionHead(
            int(self.cqt_branch.num_features),  # type: ignore[arg-type]
            int(self.mel_branch.num_features),  # type: ignore[arg-type]
            n_classes,
            fusion,
            fusion_hidden_dim,
            gate_input,
            projection_dim,
            mlp_hidden_dim,
            dropout,
        )
        self.float32: frozenset[str] = frozenset()  # of cqt, mel, head: computed so in autocast
        for branch in ("cqt", "mel"):  # of the training split, see `set_normalization`
            self.register_buffer(f"{branch}_mean", torch.zeros(n_channels, 1, 1))
            self.register_buffer(f"{branch}_std", torch.ones(n_channels, 1, 1))

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        """Return logits, gate and views of a batch of pictures."""
        feat_cqt, feat_mel = self.features(cqt, mel)  # (B, D_cqt), (B, D_mel)
        if "head" not in self.float32:
            return self.head(feat_cqt, feat_mel)
        with torch.autocast(cqt.device.type, enabled=False):
            return self.head(feat_cqt.float(), feat_mel.float())

    def features(self, cqt: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the branches see: (B, C, H, W) x 2 -> (B, D_cqt), (B, D_mel)."""
        cqt = (cqt - self.cqt_mean) / self.cqt_std
        mel = (mel - self.mel_mean) / self.mel_std
        return self._branch("cqt", self.cqt_branch, cqt), self._branch("mel", self.mel_branch, mel)

    def _branch(self, name: str, branch: nn.Module, picture: Tensor) -> Tensor:
        if name not in self.float32:
            return branch(picture)
        with torch.autocast(picture.device.type, enabled=False):
            return branch(picture)

    def set_normalization(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take mean and std (C,) in dB of the training pictures; they travel with the weights."""
        for branch, (mean, std) in statistics.items():
            getattr(self, f"{branch}_mean").copy_(mean[:, None, None])
            getattr(self, f"{branch}_std").copy_(std[:, None, None])

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of `cqt`, `mel` and `head`, for the optimizers."""
        modules = {"cqt": self.cqt_branch, "mel": self.mel_branch, "head": self.head}
        return {name: list(module.parameters()) for name, module in modules.items()}


def rebuild(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MaxMViTGMU:
    """Return the model that `settings` (of a model.json) describe, with its saved weights."""
    model = MaxMViTGMU(**settings)
    model.load_state_dict(dict(weights))
    return model.eval()


def misfit(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return how saved weights differ from the model of `settings`, or None; takes no memory.

    Args:
        settings: Arguments of `MaxMViTGMU`.
        shapes: Of the weights, by name.
    """
    with torch.device("meta"):
        model = MaxMViTGMU(**settings)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            here, there = (found.get(name, "none") for found in (wanted, shapes))
            return f"{name}: the model has {here}, the weights have {there}"
    return None


def _projection_head(width: int, projection_dim: int) -> nn.Module:
    """Two layers, as Chen et al. 2020 found better than one."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_dim))
