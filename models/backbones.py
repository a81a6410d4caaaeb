"""timm backbones: names, image sizes and tokens checked before use, weights, a small MViTv2."""

import functools
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg, checkpoint_filter_fn
from torch import Tensor, nn

from system.errors import InputError, RunError, nearest

HUB_TIMEOUT = 5  # seconds that the hub has to answer
AFTER_TOKENS = ("head", "fc_norm", "attn_pool")  # timm's names for the layers behind the tokens

default_cfgs = generate_default_cfgs(  # timm finds it by this name
    {"mvitv2_micro.untrained": {"first_conv": "patch_embed.proj", "classifier": "head.fc"}}
)


@register_model
def mvitv2_micro(pretrained: bool = False, **kwargs: Any) -> MultiScaleVit:
    """Build an MViTv2 that trains on a CPU: 2.6 M parameters, depths 1, 1, 2, 1, widths 48-384.

    Source:
        Li et al. 2022, the layout of MViTv2-T with fewer and narrower blocks. There are no
        pretrained weights.
    """
    cfg = MultiScaleVitCfg(depths=(1, 1, 2, 1), embed_dim=48)
    return build_model_with_cfg(
        MultiScaleVit,
        "mvitv2_micro",
        pretrained,
        model_cfg=cfg,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 4), "feature_cls": "getter"},
        pretrained_strict=True,
        **kwargs,
    )


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
        InputError: The model is unknown, does not take this size, or the file is not its weights.
        RunError: The pretrained weights cannot be downloaded.
    """
    check_image_size(name, image_size, branch)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": n_channels, "img_size": image_size}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if weights is not None:
        return _from_file(name, Path(weights), branch, options)
    if pretrained:
        _check_reachable(name, branch)
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise RunError(_no_weights(name, branch, str(error))) from error


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
        features = features.flatten(2).mT
    elif len(shape) == 4 and shape[3] == width:  # (B, H, W, D): Swin
        features = features.flatten(1, 2)
    elif len(shape) != 3 or shape[2] != width:
        kind = shape or type(features).__name__
        raise ValueError(f"gives {kind} before pooling, not tokens of width {width}")
    patches: Tensor = features[:, getattr(model, "num_prefix_tokens", 0) :]
    return patches


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
    check_image_size(name, image_size, branch)
    if reason := _without_tokens(name, image_size):
        raise InputError(
            f"model.{branch}_backbone={name!r} {reason}, which cross_attention needs: use a "
            "model of the MaxViT, MViTv2, ViT or Swin family"
        )


def check_image_size(name: str, image_size: int, branch: str) -> None:
    """Refuse a name that timm does not have, and an image size that the model cannot divide."""
    if not timm.is_model(name):
        family = timm.list_models(f"*{'maxvit' if branch == 'cqt' else 'mvitv2'}*")
        raise InputError(
            f"model.{branch}_backbone={name!r} is not a timm model; {nearest(name, family)}"
        )
    reason = _misfit(name, image_size)
    if reason is not None and "img_size" in reason:
        raise InputError(
            f"model.{branch}_backbone={name!r} does not take an image size: use a model of the "
            "MaxViT, MViTv2 or another family that does"
        )
    if reason is not None:
        fits = next((s for s in _sizes_around(image_size) if _misfit(name, s) is None), None)
        hint = f"the nearest size that fits is {fits}" if fits else "no size near it fits"
        raise InputError(f"model.image_size={image_size} does not fit {name} ({reason}); {hint}")


@functools.cache
def _misfit(name: str, image_size: int) -> str | None:
    """Return why the model does not take the size, or None; tried without memory or arithmetic."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0, img_size=image_size).eval()
            model(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        return str(error).splitlines()[0]
    return None


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


def _sizes_around(image_size: int) -> Iterator[int]:
    for distance in range(1, 65):
        yield image_size + distance
        if image_size - distance >= 32:
            yield image_size - distance


def _from_file(name: str, file: Path, branch: str, options: dict[str, Any]) -> nn.Module:
    if not file.is_file():
        raise InputError(f"model.{branch}_weights: there is no file {file}")
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options
        )
    except Exception as error:  # unpickling a foreign file may raise anything
        reason = str(error).splitlines()[0].split(". ")[0]  # torch then advises to trust the file
        raise InputError(
            f"model.{branch}_weights={file} does not hold the weights of {name} as tensors: "
            f"{reason}"
        ) from error


def _check_reachable(name: str, branch: str) -> None:
    """Fail within seconds; the hub client alone would retry for most of a minute."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(_no_weights(name, branch, "timm has no weights for it"))
    if cfg.hf_hub_id:
        cached = huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, "model.safetensors")
        if isinstance(cached, str):  # else None, or a marker for a file that the hub lacks
            return
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise RunError(
            _no_weights(name, branch, "HF_HUB_OFFLINE is set and they are not in the cache")
        )
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        raise RunError(_no_weights(name, branch, f"the hub does not answer: {error}")) from error


def _no_weights(name: str, branch: str, reason: str) -> str:
    return (
        f"no pretrained weights for {name} ({reason}). Either set model.{branch}_weights=FILE to a "
        "file downloaded elsewhere, or model.pretrained=false to train from scratch"
    )
