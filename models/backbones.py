"""timm backbones: image sizes that fit, weights from timm or from a local file, a small MViTv2."""

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

HUB_TIMEOUT = 5  # seconds to find out whether the hub answers
BEHIND_TOKENS = ("head", "fc_norm", "attn_pool")  # timm's names

default_cfgs = generate_default_cfgs(  # timm looks for this name
    {"mvitv2_micro.untrained": {"first_conv": "patch_embed.proj", "classifier": "head.fc"}}
)


@register_model
def mvitv2_micro(pretrained: bool = False, **kwargs) -> MultiScaleVit:
    """MViTv2 small enough to train on a CPU: 2.6 M parameters, depths 1, 1, 2, 1, widths 48-384.

    Source:
        Li et al. 2022, the layout of MViTv2-T with fewer and narrower blocks; no weights exist.
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
    key: str,
) -> nn.Module:
    """Build a timm model that turns images into features.

    Args:
        name: timm's name of the model.
        image_size: Pixels, height and width.
        n_channels: Channels of the images; timm adapts the first layer of loaded weights.
        pretrained: Load timm's weights, from its cache or the hub.
        weights: A local file to load instead: .safetensors, or .pth that holds tensors only.
        key: `cqt` or `mel`, for messages.

    Shape:
        (B, n_channels, image_size, image_size) -> (B, num_features)

    Raises:
        InputError: No such model, a size it cannot take, or a file that is not its weights.
        RunError: The weights cannot be reached.
    """
    check_image_size(name, image_size, key)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": n_channels, "img_size": image_size}
    if weights is not None:
        return _from_file(name, Path(weights), key, options)
    if pretrained:
        _check_reachable(name, key)
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise RunError(_no_weights(name, key, str(error))) from error


def tokens(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a backbone sees at each place, before pooling: (B, C, H, W) -> (B, N, D).

    D is the model's `num_features`; class tokens are left out.

    Raises:
        ValueError: The model has no such tokens, see `check_tokens`.
    """
    found = model.forward_features(images)  # type: ignore[operator]
    width = model.num_features
    shape = tuple(getattr(found, "shape", ()))
    if len(shape) == 4 and shape[1] == width:  # (B, D, H, W): MaxViT and other convolutions
        found = found.flatten(2).mT
    elif len(shape) == 4 and shape[3] == width:  # (B, H, W, D): Swin
        found = found.flatten(1, 2)
    elif len(shape) != 3 or shape[2] != width:
        kind = shape or type(found).__name__
        raise ValueError(f"gives {kind} before pooling, not tokens of width {width}")
    return found[:, getattr(model, "num_prefix_tokens", 0) :]


def drop_head(model: nn.Module) -> nn.Module:
    """Remove what follows a backbone's tokens: nothing would train its weights."""
    for name, _ in list(model.named_children()):
        if name in BEHIND_TOKENS:
            setattr(model, name, nn.Identity())
    return model


def check_tokens(name: str, image_size: int, key: str) -> None:
    """Refuse a model that fits but has no tokens, without memory or arithmetic.

    Args:
        name: timm's name of the model.
        image_size: Pixels, height and width.
        key: `cqt` or `mel`, for messages.

    Raises:
        InputError: It has none.
    """
    check_image_size(name, image_size, key)
    if reason := _without_tokens(name, image_size):
        raise InputError(
            f"model.{key}_backbone={name!r} {reason}, which cross_attention needs: use a "
            "model of the MaxViT, MViTv2, ViT or Swin family"
        )


def check_image_size(name: str, image_size: int, key: str) -> None:
    """Refuse a name that timm does not have and a size that the model cannot divide."""
    if not timm.is_model(name):
        family = timm.list_models(f"*{'maxvit' if key == 'cqt' else 'mvitv2'}*")
        raise InputError(f"model.{key}_backbone={name!r} is no timm model; {nearest(name, family)}")
    reason = _misfit(name, image_size)
    if reason is not None and "img_size" in reason:
        raise InputError(
            f"model.{key}_backbone={name!r} takes no image size: use a model of the MaxViT, MViTv2 "
            "or another family that does"
        )
    if reason is not None:
        fits = next((s for s in _sizes_around(image_size) if _misfit(name, s) is None), None)
        hint = f"the nearest size that fits is {fits}" if fits else "no size near it fits"
        raise InputError(f"model.image_size={image_size} does not fit {name} ({reason}); {hint}")


@functools.cache
def _misfit(name: str, image_size: int) -> str | None:
    """Return why the model cannot take the size, or None; tried without memory or arithmetic."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0, img_size=image_size).eval()
            model(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        return str(error).splitlines()[0]
    return None


@functools.cache
def _without_tokens(name: str, image_size: int) -> str | None:
    """Return what a model has in the place of tokens, or None; without memory or arithmetic."""
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


def _from_file(name: str, file: Path, key: str, options: dict[str, Any]) -> nn.Module:
    if not file.is_file():
        raise InputError(f"model.{key}_weights: there is no file {file}")
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options
        )
    except Exception as error:  # an unpickler may raise anything at a foreign file
        reason = str(error).splitlines()[0].split(". ")[0]  # without torch's advice to trust it
        raise InputError(
            f"model.{key}_weights={file} does not hold the weights of {name} as tensors: {reason}"
        ) from error


def _check_reachable(name: str, key: str) -> None:
    """Fail within seconds, where the hub client would try for most of a minute."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(_no_weights(name, key, "timm has no weights for it"))
    if cfg.hf_hub_id:
        cached = huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, "model.safetensors")
        if isinstance(cached, str):  # else None, or a mark that the hub has no such file
            return
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise RunError(_no_weights(name, key, "HF_HUB_OFFLINE is set, they are not in the cache"))
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        raise RunError(_no_weights(name, key, f"the hub does not answer: {error}")) from error


def _no_weights(name: str, key: str, reason: str) -> str:
    return (
        f"no pretrained weights for {name} ({reason}). Two ways on: model.{key}_weights=FILE with "
        "weights downloaded elsewhere, or model.pretrained=false to train from scratch"
    )
