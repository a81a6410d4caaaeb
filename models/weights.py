"""First weights of a backbone: found before anything is read, and used only if all of them fit.

timm resizes position tables and the first layer of a file to the model, and keeps what a file lacks
at random values. Here a file is refused unless it fills every tensor of the backbone.
"""

import argparse
import functools
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

from system.errors import InputError, RunError, first_line

HUB_TIMEOUT = 5  # seconds that the hub has to answer
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # names of weights on timm's hub
AFTER_TOKENS = ("head", "fc_norm", "attn_pool")  # timm's names for the layers behind the tokens
PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.")  # of wrappers
# Keys under which training programs keep the weights; averaged weights first, as timm does.
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model")

log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """A file with the first weights of a branch."""

    file: Path
    branch: str  # cqt or mel
    is_cached: bool  # downloaded from a hub; else model.<branch>_weights names it

    def refuse(self, name: str, reason: str) -> Exception:
        """Return the error for a file that does not hold the weights of the model `name`."""
        words = f"does not hold the weights of {name}: {reason}"
        if not self.is_cached:
            return InputError(f"model.{self.branch}_weights={self.file} {words}")
        blob = self.file.resolve()  # the hub's cache links to it: removing the link changes nothing
        return RunError(
            f"the cached file {blob} {words}. Remove it and give the same command again, which "
            f"downloads it anew, or set model.{self.branch}_weights to another file"
        )


def find_weights(name: str, pretrained: bool, file: str | None, branch: str) -> Weights | None:
    """Find the first weights of a backbone, and download them if need be; reads nothing else.

    Args:
        name: Name of a timm model.
        pretrained: Take timm's weights, from a cache or the hub.
        file: Local file to take instead.
        branch: `cqt` or `mel`, for messages.

    Returns:
        None for a backbone that starts at random.

    Raises:
        InputError: There is no such file, or timm has no weights for the model.
        RunError: The weights cannot be downloaded.
    """
    if file is not None:
        if not Path(file).is_file():
            raise InputError(f"model.{branch}_weights: there is no file {file}")
        return Weights(Path(file), branch, is_cached=False)
    if not pretrained:
        return None
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(_no_weights(name, branch, "timm has no weights for it"))
    hub_id, url = cfg.hf_hub_id, str(cfg.url or "")
    cached = _cached(hub_id, url)
    if cached is None:
        _check_reachable(name, branch, huggingface_hub.constants.ENDPOINT if hub_id else url)
        try:
            cached = _download(hub_id, url)
        except Exception as error:  # the hub's client and its HTTP library raise many kinds
            raise RunError(_no_weights(name, branch, first_line(error))) from error
    return Weights(cached, branch, is_cached=True)


def load_backbone(name: str, weights: Weights, options: Mapping[str, Any]) -> nn.Module:
    """Build a timm model whose tensors all come from a file.

    Args:
        name: Name of the timm model.
        weights: The file: safetensors, or a pickle with tensors only.
        options: Arguments of `timm.create_model`; without classes, so that the model has no
            classifier that the file would have to fill.

    Raises:
        InputError: A local file does not hold all weights of the model.
        RunError: A cached file does not.
    """
    try:
        tensors = read_tensors(weights.file)
    except Exception as error:  # unpickling a foreign file may raise anything
        reason = first_line(error).split(". ")[0]  # torch then advises to trust the file
        raise weights.refuse(name, f"it cannot be read as tensors ({reason})") from error
    with torch.device("meta"):
        expected = timm.create_model(name, **options).state_dict()
    tensors, prefix = _without_prefix(tensors, expected)
    missing = [key for key in _floats(expected) if key not in tensors]
    if not missing:
        _refuse_larger(name, weights, tensors, expected)
    try:
        filled = _build(name, {k: _as_nan(v) for k, v in tensors.items()}, options).state_dict()
        model = _build(name, tensors, options)
    except Exception as error:  # timm's converters of other formats fail in many ways
        reason = _missing(missing, expected) if missing else _mismatch(error)
        raise weights.refuse(name, reason) from error
    # A tensor that stays a number although all in the file are NaN does not come from the file.
    if random := [key for key, value in _floats(filled).items() if not bool(value.isnan().all())]:
        raise weights.refuse(name, _missing(random, expected))
    _report(name, weights, prefix, tensors, expected)
    return model


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; no code in it is executed.

    Raises:
        Exception: It cannot be read, or holds other things; a pickle may raise anything.
    """
    if file.suffix == ".safetensors":
        return load_file(file)
    with torch.serialization.safe_globals([argparse.Namespace]):  # in timm's own checkpoints
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    while isinstance(loaded, dict) and (key := next((k for k in NESTED if k in loaded), None)):
        _log_once(f"{file}: the weights under {key!r} are read")
        loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by name")
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{', '.join(others[:5])} in it are not tensors")
    if not loaded:
        raise ValueError("it is empty")
    return {str(key): value for key, value in loaded.items()}


def _without_prefix(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors with the prefix removed with which most names fit, and that prefix."""
    found, prefixes = (tensors, ""), [""]
    for prefix in prefixes:
        inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if len(inner.keys() & expected.keys()) > len(found[0].keys() & expected.keys()):
            found = inner, prefix
        starts = {p for p in PREFIXES for key in inner if key.startswith(p)}
        prefixes += [prefix + p for p in sorted(starts)] if prefix.count(".") < 3 else []
    return found


def _refuse_larger(
    name: str, weights: Weights, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuse a file with further layers in a part that the model has: it is another network."""
    parts = {key.partition(".")[0] for key in expected} - set(AFTER_TOKENS)
    learned = [key for key in tensors if key.endswith((".weight", ".bias"))]
    more = [key for key in learned if key not in expected and key.partition(".")[0] in parts]
    if more:
        raise weights.refuse(
            name, f"{len(more)} tensors in it have no place in the model, the first is {more[0]}"
        )


def _build(name: str, tensors: dict[str, Tensor], options: Mapping[str, Any]) -> nn.Module:
    """Return timm's model with timm's own conversion of the tensors."""
    overlay = {"state_dict": dict(tensors), "custom_load": False}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    about: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    about.pop("state_dict", None)  # a second copy of all weights
    return model


def _as_nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights: integers are counters and index tables, which the model makes itself."""
    return {key: value for key, value in tensors.items() if value.is_floating_point()}


def _missing(keys: list[str], expected: Mapping[str, Tensor]) -> str:
    n = len(_floats(expected))
    return f"{len(keys)} of the model's {n} tensors are not in it, the first is {keys[0]}"


def _mismatch(error: Exception) -> str:
    """Return torch's first line about shapes, or the whole reason."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.startswith("size mismatch")), first_line(error))


def _report(
    name: str,
    weights: Weights,
    prefix: str,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    """Log what was changed to make the file fit, and what in it was not used."""
    said = []
    if prefix:
        said.append(f"prefix {prefix!r} of its names removed")
    common = [key for key in expected if key in tensors]
    if changed := [key for key in common if tensors[key].shape != expected[key].shape]:
        theirs, ours = (tuple(of[changed[0]].shape) for of in (tensors, expected))
        said.append(f"fitted by timm: {len(changed)}, first {changed[0]} from {theirs} to {ours}")
    unused = [key for key in _floats(tensors) if key not in expected]
    if common and unused:
        said.append(f"not used: {len(unused)}, first {unused[0]}")
    if said:
        _log_once(f"weights of {name} from {weights.file}: {'; '.join(said)}")


@functools.cache
def _log_once(line: str) -> None:
    """Log a line; every fold and seed loads the same file."""
    log.info("%s", line)


def _cached(hub_id: str | None, url: str) -> Path | None:
    """Return the file of timm's weights if it was downloaded before."""
    if not hub_id:
        file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        return file if file.is_file() else None
    repository, _, revision = hub_id.partition("@")
    for name in HUB_FILES:
        found = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):  # else None, or a marker for a file that the hub lacks
            return Path(found)
    return None


def _download(hub_id: str | None, url: str) -> Path:
    """Download timm's weights into the cache of the hub."""
    if not hub_id:
        file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file))
        return file
    repository, _, revision = hub_id.partition("@")
    download = functools.partial(
        huggingface_hub.hf_hub_download, repository, revision=revision or None
    )
    safe, pickled = HUB_FILES
    try:
        return Path(download(safe))
    except EntryNotFoundError:
        return Path(download(pickled))


def _check_reachable(name: str, branch: str, address: str) -> None:
    """Fail within seconds; the hub client alone would retry for most of a minute."""
    if reason := why_unreachable(address):
        raise RunError(_no_weights(name, branch, reason))


def why_unreachable(address: str) -> str | None:
    """Return why nothing can be downloaded from an address; None if it answers within seconds."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and they are not in the cache"
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return None  # it answers
    except OSError as error:
        return f"the hub does not answer: {error}"
    return None


def _no_weights(name: str, branch: str, reason: str) -> str:
    return (
        f"no pretrained weights for {name} ({reason}). Either set model.{branch}_weights=FILE to a "
        "file downloaded elsewhere, or model.pretrained=false to train from scratch"
    )
