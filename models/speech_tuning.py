"""A pretrained speech model of which a part is trained: its top layers, or adapters (LoRA).

LoRA adds to a matrix W (D x E) of the model a product of two thin ones, and trains these alone:

    W x  ->  W x + B A x,   A (R x E) random at first, B (D x R) zero: nothing changes at first

A state dict holds what is trained. What is not comes from the model's own files, which model.json
names with their hash.

Source:
    Hu et al. 2021 (LoRA). There the product is scaled by alpha / R, and alpha is the first R that
    is tried; here the scale is 1 for each R.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.recompute import recompute_blocks
from models.settings import ModelSettings
from models.speech import Frames
from models.speech_states import SpeechModel
from system.errors import InputError
from system.extras import check_extra

LAYERS = "layers"  # transformers' name for what a transformer consists of
FEED_FORWARD = (("intermediate_dense", "output_dense"), ("fc1", "fc2"))  # usual names; Whisper's
PROBE_SECONDS = 0.5


class Waves(NamedTuple):
    """Waveforms of unlike lengths, at the rate of a speech model."""

    samples: Tensor  # (B, t), zeros behind a recording's end
    lengths: Tensor  # (B,) samples

    def alone(self) -> list[Any]:
        """Return the waveform of each recording: B x (t,) on the CPU."""
        lengths = self.lengths.tolist()
        return [row[:n].cpu().numpy() for row, n in zip(self.samples, lengths, strict=True)]


class TunedSpeech(nn.Module):
    """A speech model with a part that is trained; the rest computes as in evaluation.

    Its state dict holds the trained parameters alone, and loads them where the others stay. Batch
    norms keep the statistics of pretraining.

    Args:
        model: The speech model, which stays as it is and must: a copy is changed, which shares its
            memory but for what is trained.
        settings: What is trained (`speech_unfrozen_layers`, or `speech_lora_rank` and
            `speech_lora_targets`), and what is read (`speech_layers`, `speech_pooling`,
            `speech_tokens`).

    Shape:
        `Waves` -> means (B, L, D), or of N spans (B, N, L, D), or `Frames` with attention pooling

    Raises:
        InputError: There are not so many layers, no such targets, or some that have no effect.
    """

    def __init__(self, model: SpeechModel, settings: ModelSettings) -> None:
        super().__init__()
        self.layers = model.check_layers(settings.speech_layers)
        if (last := model.n_states - 1) not in self.layers:
            raise InputError(
                f"model.speech.layers={self.layers}: what is trained in {model.name} needs the "
                f"last hidden state, {last}, among them"
            )
        self.pooling, self.tokens = settings.speech_pooling, settings.speech_tokens
        n_layers = settings.speech_unfrozen_layers or 0
        self.model = _copy(model, _top_layers(model, n_layers))
        if settings.speech_lora_rank is not None:
            targets = settings.speech_lora_targets
            self._parts = [add_lora(self.model, settings.speech_lora_rank, targets)]
        else:
            self._parts = _top_layers(self.model, n_layers)
            for layer in self._parts:
                layer.requires_grad_(True)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        self._kept = [name for name in self.state_dict() if name not in trained]
        self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fill_in)  # type: ignore[no-untyped-call]
        self.train()  # as every new module; the model that was copied is in evaluation

    def forward(self, waves: Waves) -> Tensor | Frames:
        """Return the hidden states of recordings, or their means."""
        if self.tokens:
            return self.model.spans(waves.alone(), self.tokens, self.layers)
        if self.pooling == "attention":
            return Frames(*self.model(waves.alone(), self.layers))
        return self.model.means(waves.alone(), self.layers)

    def train(self, mode: bool = True) -> "TunedSpeech":
        """Switch what is trained to training or evaluation; the rest stays in evaluation."""
        super().train(False)
        self.training = mode
        for part in self._parts:
            for module in part.modules():
                module.training = mode and not isinstance(module, _BatchNorm)
        return self

    def checkpoint_gradients(self) -> None:
        """Let each layer keep its input alone in training, and compute it again."""
        recompute_blocks(self.model.network, LAYERS)

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def tuned(model: SpeechModel | None, settings: ModelSettings) -> TunedSpeech | None:
    """Return a speech model of which a part is trained, where settings say so and one is given."""
    return None if model is None or not settings.trains_speech else TunedSpeech(model, settings)


def _copy(model: SpeechModel, trained: Sequence[nn.Module]) -> SpeechModel:
    """Copy a model, but neither parameters outside of `trained` nor buffers: they share memory.

    They are tensors of their own all the same, so that one network alone moves to another device or
    type. In evaluation no buffer changes.
    """
    own = {id(parameter) for part in trained for parameter in part.parameters()}
    memo: dict[int, Any] = {id(buffer): buffer.detach() for buffer in model.buffers()}
    for parameter in model.parameters():
        if id(parameter) not in own:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return deepcopy(model, memo).requires_grad_(False).eval()


def add_lora(model: SpeechModel, rank: int, targets: Sequence[str] | None = None) -> nn.Module:
    """Add adapters to linear layers of a speech model; return its network.

    Args:
        model: Frozen; its network is changed in place.
        rank: R of the adapters.
        targets: Names of linear layers, each in all layers of the transformer; None is those of the
            feed-forward part.

    Raises:
        InputError: There are none of a name, or an adapter there has no effect.
    """
    check_extra("adapters of a speech model (LoRA)", "peft", "speech")
    from peft import LoraConfig, inject_adapter_in_model

    network: nn.Module = model.network
    names = linear_layers(network)
    if targets is None:
        targets = next(pair for pair in FEED_FORWARD if set(pair) <= set(names))
    allowed = f"the linear layers of {model.name} are {', '.join(names)}"
    if unknown := [target for target in targets if target not in names]:
        raise InputError(f"model.speech.lora_targets={list(targets)}: {allowed}, not {unknown[0]}")
    where = "|".join(sorted(targets))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=rf".*\blayers\..*\.({where})")
    inject_adapter_in_model(config, network)
    if torch.is_grad_enabled() and (idle := _without_effect(model)):  # not of a trained one
        able = next(pair for pair in FEED_FORWARD if set(pair) <= set(names))
        raise InputError(
            f"model.speech.lora_targets={list(targets)}: an adapter at {', '.join(idle)} has no "
            f"effect in {model.name}, whose network takes the weights past the layer (so does "
            f"transformers' WavLM in its attention). Name those of the feed-forward part: "
            f"{', '.join(able)}"
        )
    return network


def linear_layers(network: nn.Module) -> list[str]:
    """Return the last names of the linear layers within the layers of a transformer."""
    found = [
        name.rsplit(".", 1)[-1]
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and "layers." in name
    ]
    return sorted(set(found))


def _without_effect(model: SpeechModel) -> list[str]:
    """Return the names of adapted layers whose adapter gets no gradient."""
    n = max(int(PROBE_SECONDS * model.sample_rate), model.min_samples)
    tone = np.sin(np.arange(n, dtype=np.float32) * 0.1)
    states, _ = model([tone])
    if states.requires_grad:  # else no adapter has an effect
        states.square().sum().backward()
    idle: set[str] = set()
    for name, parameter in model.network.named_parameters():
        if ".lora_B." in name and parameter.grad is None:
            idle.add(name.split(".lora_B.")[0].rsplit(".", 1)[-1])
    for parameter in model.network.parameters():
        parameter.grad = None
    return sorted(idle)


def _top_layers(model: SpeechModel, n: int) -> list[nn.Module]:
    """Return the last n layers of a transformer."""
    network: Any = model.network
    layers = list(getattr(network, "encoder", network).layers)
    if n > len(layers):
        raise InputError(
            f"model.speech.unfrozen_layers={n}: {model.name} has {len(layers)} layers; give a "
            "smaller number"
        )
    return layers[len(layers) - n :]


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take what is not trained out of a state dict."""
    for name in module._kept:  # type: ignore[union-attr]
        state.pop(prefix + name, None)


def _fill_in(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put what is not trained into a state dict that is loaded."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state |= {prefix + name: own[name] for name in module._kept}  # type: ignore[union-attr]
