"""The whole network: normalization, two backbones, and the head that joins them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones import check_tokens, create_backbone, drop_head, tokens
from models.heads import ONE_BRANCH, FusionHead, FusionOutput
from system.errors import InputError

Features = tuple[Tensor | None, Tensor | None]  # (B, D_cqt), (B, D_mel), or tokens (B, N, D)


class MaxMViTGMU(nn.Module):
    """Images to emotion: normalization, two backbones, fusion head.

    Args:
        n_classes: K.
        fusion: One of `fusion.FUSIONS`.
        cqt_backbone: timm name for the CQT image; None for `mel_only`.
        mel_backbone: timm name for the Mel-STFT image; None for `cqt_only`.
        image_size: Pixels, height and width.
        n_channels: Channels of each image.
        pretrained: Load timm's weights for branches without a file.
        cqt_weights: Local weights file of the CQT backbone.
        mel_weights: Local weights file of the Mel backbone.
        fusion_hidden_dim: See `FusionHead`, as for all that follow.
        gate_input: What the gate reads.
        gate: Vector or scalar.
        projection_dim: Width of the views.
        attention_heads: Of the cross-modal attention.
        match_parameters: As many in the head as in that of `gmu`.
        mlp_hidden_dim: Units of the classifier's hidden layer.
        dropout: Before the last layer.

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
        cqt_backbone: str | None,
        mel_backbone: str | None,
        image_size: int = 224,
        n_channels: int = 1,
        pretrained: bool = False,
        cqt_weights: str | None = None,
        mel_weights: str | None = None,
        fusion_hidden_dim: int | None = None,
        gate_input: str | None = None,
        gate: str | None = None,
        projection_dim: int | None = None,
        attention_heads: int | None = None,
        match_parameters: bool | None = None,
        mlp_hidden_dim: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.settings = {  # rebuilds the model around saved weights
            name: value
            for name, value in locals().items()
            if name not in ("self", "__class__", "pretrained", "cqt_weights", "mel_weights")
        }
        self.reads_tokens = fusion == "cross_attention"
        common = (image_size, n_channels, pretrained)
        self.cqt_branch = _build_branch(fusion, "cqt", cqt_backbone, cqt_weights, *common)
        self.mel_branch = _build_branch(fusion, "mel", mel_backbone, mel_weights, *common)
        self.head = FusionHead(
            _width(self.cqt_branch),
            _width(self.mel_branch),
            n_classes,
            fusion,
            fusion_hidden_dim,
            gate_input,
            gate,
            projection_dim,
            attention_heads,
            match_parameters,
            mlp_hidden_dim,
            dropout,
        )
        self.float32: frozenset[str] = frozenset()  # of cqt, mel, head: computed so in autocast
        for branch in ("cqt", "mel"):  # of the training split, see `set_normalization`
            self.register_buffer(f"{branch}_mean", torch.zeros(n_channels, 1, 1))
            self.register_buffer(f"{branch}_std", torch.ones(n_channels, 1, 1))

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        """Return logits, gate and views of a batch of images."""
        return self.fuse(self.features(cqt, mel))

    def features(self, cqt: Tensor, mel: Tensor) -> Features:
        """Return what the branches see: (B, C, H, W) x 2 -> (B, D_cqt), (B, D_mel).

        Tokens (B, N, D) where the fusion reads them; None for a branch that is not there.
        """
        return (
            self._look("cqt", self.cqt_branch, cqt, self.cqt_mean, self.cqt_std),
            self._look("mel", self.mel_branch, mel, self.mel_mean, self.mel_std),
        )

    def fuse(self, features: Features, forced_gate: float | None = None) -> FusionOutput:
        """Return what the head makes of features, also with a gate of our own.

        Raises:
            ValueError: The fusion has no gate to force.
        """
        feat_cqt, feat_mel = features
        if "head" not in self.float32:
            return self.head(feat_cqt, feat_mel, forced_gate)
        with torch.autocast(self.cqt_mean.device.type, enabled=False):
            wide = (None if f is None else f.float() for f in (feat_cqt, feat_mel))
            return self.head(*wide, forced_gate)

    def _look(
        self, name: str, branch: nn.Module | None, image: Tensor, mean: Tensor, std: Tensor
    ) -> Tensor | None:
        if branch is None:
            return None
        image = (image - mean) / std
        look = partial(tokens, branch) if self.reads_tokens else branch
        if name not in self.float32:
            return look(image)
        with torch.autocast(image.device.type, enabled=False):
            return look(image)

    def set_normalization(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take mean and std (C,) in dB of the training images; they travel with the weights."""
        for branch, (mean, std) in statistics.items():
            getattr(self, f"{branch}_mean").copy_(mean[:, None, None])
            getattr(self, f"{branch}_std").copy_(std[:, None, None])

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of `cqt`, `mel` and `head`, as far as there are such parts."""
        modules = {"cqt": self.cqt_branch, "mel": self.mel_branch, "head": self.head}
        return {name: list(m.parameters()) for name, m in modules.items() if m is not None}


def check_settings(settings: Mapping[str, Any], n_classes: int = 2) -> None:
    """Refuse settings of which no model can be made; takes no memory and reads no weights.

    Args:
        settings: Section `model` of a config.
        n_classes: K.

    Raises:
        InputError: A backbone, an image size or a number of heads that does not fit.
    """
    untrained = {"pretrained": False, "cqt_weights": None, "mel_weights": None}
    with torch.device("meta"):
        MaxMViTGMU(n_classes, **{**settings, **untrained})


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


def _build_branch(
    fusion: str,
    key: str,
    backbone: str | None,
    weights: str | None,
    image_size: int,
    n_channels: int,
    pretrained: bool,
) -> nn.Module | None:
    """Build the backbone of a branch, or nothing where the fusion reads the other branch alone."""
    if ONE_BRANCH.get(fusion, key) != key:
        return None
    if backbone is None:
        raise InputError(f"{fusion} reads the {key} branch: set model.{key}_backbone")
    if fusion == "cross_attention":
        check_tokens(backbone, image_size, key)
    model = create_backbone(backbone, image_size, n_channels, pretrained, weights, key)
    return drop_head(model) if fusion == "cross_attention" else model


def _width(branch: nn.Module | None) -> int:
    return 0 if branch is None else int(branch.num_features)  # type: ignore[arg-type]
