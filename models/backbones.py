"""timm backbones: names, image sizes and tokens checked before use, weights, two small MViTv2."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import DropPath, resample_abs_pos_embed
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    register_model,
    split_model_name_tag,
)
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg, checkpoint_filter_fn
from torch import Tensor, nn

from config.fusions import FUSIONS
from models.settings import ModelSettings
from models.weights import AFTER_TOKENS, find_weights, load_backbone
from system.errors import InputError, first_line, nearest

REFUSALS = (  # how models refuse a size, a bare assert among them
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
WITHOUT_WORDS = "the model refuses this size and gives no reason"
CLASS_TOKEN = "cls_token"  # in timm's names of parameters

UNTRAINED = {"first_conv": "patch_embed.proj", "classifier": "head.fc"}

default_cfgs = generate_default_cfgs(  # timm finds them by these names
    {"mvitv2_micro.untrained": UNTRAINED, "mvitv2_mini.untrained": UNTRAINED}
)


class GlorotMultiScaleVit(MultiScaleVit):
    """An MViTv2 whose first weights fit its width (Glorot and Bengio 2010).

    timm draws those of all linear layers with a deviation of 0.02. The outputs of a layer with d
    inputs of deviation 1 then have one of 0.02 sqrt(d): 0.1 at d = 32, so that blocks hardly change
    the sum to which they are added.
    """

    def _init_weights(self, m: nn.Module) -> None:
        super()._init_weights(m)
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)


@register_model
def mvitv2_micro(pretrained: bool = False, **kwargs: Any) -> MultiScaleVit:
    """Build an MViTv2 that trains on a CPU: 2.6 M parameters, depths 1, 1, 2, 1, widths 48-384.

    Source:
        Li et al. 2022, the layout of MViTv2-T with fewer and narrower blocks. There are no
        pretrained weights.
    """
    cfg = MultiScaleVitCfg(depths=(1, 1, 2, 1), embed_dim=48)
    return _build_mvitv2(MultiScaleVit, "mvitv2_micro", cfg, pretrained, kwargs)


@register_model
def mvitv2_mini(pretrained: bool = False, **kwargs: Any) -> MultiScaleVit:
    """Build a smaller MViTv2, which trains from scratch: 0.5 M parameters, widths 32, 64, 128.

    Its depths are 1, 2, 2. Its first weights are scaled to its width (Glorot), and each token has
    a learned position.
    """
    cfg = MultiScaleVitCfg(depths=(1, 2, 2), embed_dim=32, use_abs_pos=True)
    return _build_mvitv2(GlorotMultiScaleVit, "mvitv2_mini", cfg, pretrained, kwargs)


def _build_mvitv2(
    kind: type[MultiScaleVit],
    name: str,
    cfg: MultiScaleVitCfg,
    pretrained: bool,
    options: dict[str, Any],
) -> MultiScaleVit:
    n_stages = len(cfg.depths)
    return build_model_with_cfg(
        kind,
        name,
        pretrained,
        model_cfg=cfg,
        pretrained_filter_fn=_fit_positions,
        feature_cfg={"out_indices": options.pop("out_indices", n_stages), "feature_cls": "getter"},
        pretrained_strict=True,
        **options,
    )


def _fit_positions(state: dict[str, Tensor], model: MultiScaleVit) -> dict[str, Tensor]:
    """Resize learned positions to a model's image size; timm leaves out the absolute ones."""
    state = checkpoint_filter_fn(state, model)
    given = state.get("pos_embed")  # (1, tokens, D)
    if model.pos_embed is not None and given is not None:
        sides = [math.isqrt(positions.shape[1]) for positions in (given, model.pos_embed)]
        if sides[0] ** 2 == given.shape[1]:
            state["pos_embed"] = resample_abs_pos_embed(given, [sides[1]] * 2, num_prefix_tokens=0)
    return state


def create_backbone(
    name: str,
    image_size: int,
    n_channels: int,
    pretrained: bool,
    weights: str | None,
    branch: str,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Build a timm model that maps images to pooled features.

    Args:
        name: Name of the timm model.
        image_size: Height and width in pixels.
        n_channels: Channels of the images; timm adapts the first layer of loaded weights.
        pretrained: Load timm's weights, from its cache or the hub.
        weights: Local file to load instead: .safetensors, or .pth with tensors only.
        branch: `cqt` or `mel`, for messages.
        drop_path_rate: Stochastic depth in training; 0 leaves the model's own layers.

    Shape:
        (B, n_channels, image_size, image_size) -> (B, num_features)

    Raises:
        InputError: The model is unknown, does not take this size, or the file does not fill it.
        RunError: The pretrained weights cannot be downloaded, or the cached file is damaged.
    """
    check_backbone(name, image_size, branch)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": n_channels, "img_size": image_size}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    found = find_weights(name, pretrained, weights, branch)
    return (
        timm.create_model(name, **options) if found is None else load_backbone(name, found, options)
    )


def build_backbone(
    settings: ModelSettings, branch: str, pretrained: bool, weights: str | None
) -> nn.Module | None:
    """Build the backbone of an image branch, or nothing where the fusion does not read it.

    Args:
        settings: Settings of the network.
        branch: `cqt` or `mel`.
        pretrained: Start from timm's weights.
        weights: Local weights file.

    Raises:
        InputError: No backbone is named, or it does not fit.
    """
    backbone: str | None = getattr(settings, f"{branch}_backbone")
    reads_tokens = FUSIONS[settings.fusion].reads_tokens
    if branch not in settings.reads:
        return None
    if backbone is None:
        raise InputError(
            f"{settings.fusion} reads the {branch} branch: set model.{branch}_backbone"
        )
    if reads_tokens:
        check_tokens(backbone, settings.image_size, branch)
    size, n_channels = settings.image_size, settings.n_channels
    rate = settings.drop_path_rate
    try:
        model = create_backbone(backbone, size, n_channels, pretrained, weights, branch, rate)
        ignored = rate > 0 and not any(isinstance(m, DropPath) for m in model.modules())
    except TypeError:  # not an argument of this model
        if not rate:
            raise
        ignored = True
    if ignored:
        raise InputError(
            f"model.drop_path_rate={rate:g} has no effect on {backbone}, which has no "
            "stochastic depth: set it to 0, or use models of the MaxViT and MViTv2 families"
        )
    return drop_head(model) if reads_tokens else model


def pooled(model: nn.Module, images: Tensor) -> Tensor:
    """Return a backbone's pooled features: (B, C, H, W) -> (B, D)."""
    features: Tensor = model(images)
    return features


def tokens(model: nn.Module, images: Tensor) -> Tensor:
    """Return a backbone's features at each place, before pooling: (B, C, H, W) -> (B, N, D).

    D is the model's `num_features`. Class tokens are removed.

    Raises:
        ValueError: The model has no such tokens, see `check_tokens`.
    """
    features = model.forward_features(images)  # type: ignore[operator]
    width = model.num_features
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) == 4 and shape[1] == width:  # (B, D, H, W): MaxViT and other convolutions
        return features.flatten(2).mT
    if len(shape) == 4 and shape[3] == width:  # (B, H, W, D): Swin
        return features.flatten(1, 2)
    if len(shape) != 3 or shape[2] != width:
        raise ValueError(f"gives {_shape(features)} before pooling, not tokens of width {width}")
    n_prefix = getattr(model, "num_prefix_tokens", None)
    if n_prefix is None and any(CLASS_TOKEN in key for key, _ in model.named_parameters()):
        raise ValueError("does not say which of its tokens are class tokens")
    return features[:, n_prefix or 0 :]


def drop_head(model: nn.Module) -> nn.Module:
    """Remove the layers behind the tokens, because no loss would train their weights."""
    for name, _ in list(model.named_children()):
        if name in AFTER_TOKENS:
            setattr(model, name, nn.Identity())
    return model


def check_tokens(name: str, image_size: int, branch: str) -> None:
    """Refuse a model that has no tokens; needs no memory and no arithmetic.

    Args:
        name: Name of the timm model.
        image_size: Height and width in pixels.
        branch: `cqt` or `mel`, for messages.

    Raises:
        InputError: The model has no tokens, is unknown, or does not take this size.
    """
    check_backbone(name, image_size, branch)
    if reason := _without_tokens(name, image_size):
        raise InputError(
            f"model.{branch}_backbone={name!r} {reason}, which cross_attention needs: use a "
            "model of the MaxViT, MViTv2, ViT or Swin family"
        )


def check_name(name: str, branch: str) -> None:
    """Refuse a name or tag that timm does not have."""
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(name):
        family = timm.list_models(f"*{'maxvit' if branch == 'cqt' else 'mvitv2'}*")
        raise InputError(
            f"model.{branch}_backbone={name!r} is not a timm model; {nearest(name, family)}"
        )
    tagged = get_arch_pretrained_cfgs(architecture)
    if "." in name and name not in tagged:  # the tag may be empty
        raise InputError(
            f"model.{branch}_backbone={name!r}: timm knows {architecture}, but not with the tag "
            f"{tag!r}; {nearest(name, tagged)}"
        )


def check_backbone(name: str, image_size: int, branch: str) -> None:
    """Refuse an unknown name, an image size that does not fit, and features of another shape.

    Args:
        name: Name of the timm model.
        image_size: Height and width in pixels.
        branch: `cqt` or `mel`, for messages.

    Raises:
        InputError: One of these, with what fits.
    """
    check_name(name, branch)
    trial = _try(name, image_size)
    if trial.error is not None and "img_size" in trial.error:
        raise InputError(
            f"model.{branch}_backbone={name!r} does not take an image size: use a model of the "
            "MaxViT, MViTv2 or another family that does"
        )
    if trial.error is not None:
        fits = next((s for s in _sizes_around(image_size) if not _try(name, s).error), None)
        hint = f"the nearest size that fits is {fits}" if fits else "no size near it fits"
        raise InputError(
            f"model.image_size={image_size} does not fit {name} ({trial.error}); {hint}"
        )
    if trial.output != f"(1, {trial.width})":
        raise InputError(
            f"model.{branch}_backbone={name!r} gives {trial.output} for one image, not "
            f"(1, {trial.width}), a vector of its num_features: use a model of the MaxViT, MViTv2 "
            "or another family that does"
        )


class _Trial(NamedTuple):
    """What a model does with one image."""

    error: str | None
    output: str = ""  # shape, or type
    width: int = 0  # num_features


@functools.cache
def _try(name: str, image_size: int) -> _Trial:
    """Return what the model does with an image of the size; no memory, no arithmetic."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0, img_size=image_size).eval()
            output = model(torch.zeros(1, 3, image_size, image_size))
    except REFUSALS as error:
        return _Trial(first_line(error) if str(error).strip() else WITHOUT_WORDS)
    return _Trial(None, _shape(output), int(model.num_features))  # type: ignore[arg-type]


@functools.cache
def _without_tokens(name: str, image_size: int) -> str | None:
    """Return what a model has instead of tokens, or None; tried without memory or arithmetic."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0, img_size=image_size).eval()
            tokens(model, torch.zeros(1, 3, image_size, image_size))
    except ValueError as error:
        return str(error)
    return None


def _shape(features: Any) -> str:
    return str(tuple(features.shape)) if isinstance(features, Tensor) else type(features).__name__


def _sizes_around(image_size: int) -> Iterator[int]:
    for distance in range(1, 65):
        yield image_size + distance
        if image_size - distance >= 32:
            yield image_size - distance
