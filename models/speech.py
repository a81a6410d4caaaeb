"""A pretrained speech transformer as a source of a fusion: its loading, and its branch.

`speech_files.py` finds the files, `speech_states.py` runs recordings through the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.speech_files import CONFIG, SpeechFiles, find_speech_files
from models.speech_states import WAVEFORM, SpeechModel, WaveformModel, WhisperModel
from system.errors import first_line
from system.extras import check_extra

WHISPER = "whisper"
MIN_RATE = 1000  # Hz, below any speech model's
SPECAUGMENT = "masked_spec_embed"  # used in pretraining alone; fine-tuned models may lack it
# Settings in config.json that would load other files, packages or code
NOT_FOLLOWED = (
    "quantization_config",
    "fusion_config",
    "attn_implementation",
    "_attn_implementation",
)


def load_speech_model(name: str, revision: str | None = None) -> SpeechModel:
    """Load a speech model of transformers, frozen, in float32 and in evaluation mode.

    Weights are read from safetensors, or else from a pickle as tensors alone; no code of a model's
    folder is ever executed. Masks and dropped layers of pretraining are off in training, too.

    Args:
        name: A folder, or a name on the hub: wav2vec2, HuBERT, WavLM, UniSpeech, UniSpeech-SAT,
            Data2VecAudio, wav2vec2-Conformer, or Whisper, of which the encoder alone is loaded.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        InputError: The extra `speech` is missing; the folder holds no such model; weights are
            missing, of other shapes or cannot be read.
        RunError: The model is not in the hub's cache and cannot be downloaded.
    """
    check_extra("a pretrained speech model", "transformers", "speech")
    files = find_speech_files(name, revision)
    settings = {k: v for k, v in files.config().items() if k not in NOT_FOLLOWED}
    kind = settings.get("model_type")
    if kind not in (*WAVEFORM, WHISPER):
        raise files.refuse(
            f"its model_type is {kind!r}. Allowed: {', '.join((*WAVEFORM, WHISPER))}"
        )
    settings |= {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False}
    settings |= {"add_adapter": False}  # fewer frames, for a decoder
    with _quiet():
        network = _load(files, kind, settings)
        extractor = _extractor(files, kind)
    make = WhisperModel if kind == WHISPER else WaveformModel
    return make(files, network, extractor).eval().requires_grad_(False)


def _load(files: SpeechFiles, kind: str, settings: dict[str, Any]) -> Any:
    """Build the network and fill all its tensors."""
    from transformers import MODEL_MAPPING, AutoConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    tensors = files.tensors()
    try:
        config = AutoConfig.for_model(**settings)
        network_class: Any = WhisperEncoder if kind == WHISPER else MODEL_MAPPING[type(config)]
        if kind == WHISPER:
            tensors = _encoder_alone(tensors)
        network, about = network_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused below, by their names
            output_loading_info=True,
        )
    except Exception as error:  # checks of settings and of weights fail in many ways
        raise files.refuse(f"transformers cannot build it ({first_line(error)})") from error
    _check_filled(files, network, about)
    for name, tensor in network.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise files.refuse(f"its weights are damaged: {name} has NaN or infinite values")
    return network


def _encoder_alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of Whisper's encoder by its own names; those of the decoder are left."""
    names = {name: name.removeprefix("model.") for name in tensors}
    return {
        new.removeprefix("encoder."): tensors[name]
        for name, new in names.items()
        if new.startswith("encoder.")
    }


def _check_filled(files: SpeechFiles, network: nn.Module, about: dict[str, Any]) -> None:
    """Refuse weights that leave a tensor of the network at random values."""
    n = len(network.state_dict())
    if missing := sorted(set(about["missing_keys"]) - {SPECAUGMENT}):
        raise files.refuse(
            f"{len(missing)} of its {n} tensors are not in the weights, the first is {missing[0]}"
        )
    for name, there, here in sorted(about["mismatched_keys"]):
        raise files.refuse(
            f"{name} has the shape {tuple(there)} in the weights, but {tuple(here)} by {CONFIG}"
        )
    if about["error_msgs"]:
        raise files.refuse(f"its weights do not fit: {about['error_msgs'][0]}")


def _extractor(files: SpeechFiles, kind: str) -> Any:
    """Return the feature extractor of transformers, which holds the sampling rate."""
    from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    wanted = WhisperFeatureExtractor if kind == WHISPER else Wav2Vec2FeatureExtractor
    try:
        found = wanted.from_pretrained(files.folder, local_files_only=True)
    except Exception as error:  # whatever is wrong in the file
        raise files.refuse(f"{files.extractor} cannot be read ({first_line(error)})") from error
    rate = found.sampling_rate
    if not isinstance(rate, int) or rate < MIN_RATE:
        raise files.refuse(
            f"{files.extractor} has sampling_rate {rate!r}, which must be in Hz, {MIN_RATE} or more"
        )
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the bars and tables of transformers: what matters in them is refused here."""
    import transformers

    logs: Any = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


class Frames(NamedTuple):
    """Hidden states of recordings of unlike lengths; what lies behind a length has no effect."""

    hidden: Tensor  # (B, T, L, D)
    lengths: Tensor  # (B,) true frames

    def means(self) -> Tensor:
        """Return the mean over the frames of each recording: (B, L, D)."""
        inside = torch.arange(self.hidden.shape[1], device=self.hidden.device)
        inside = inside < self.lengths[:, None]  # (B, T)
        sums = torch.where(inside[:, :, None, None], self.hidden.float(), 0).sum(1)
        return sums / self.lengths[:, None, None]


class SpeechBranch(nn.Module):
    """Hidden states to one vector or some tokens: a learned sum of layers, and pooling.

    Args:
        n_states: L, number of hidden states.
        width: D of a hidden state.
        pooling: `mean`: the states are means over frames already; `attention`: they are frames,
            which one learned query weighs.
        tokens: N, means over as many spans of each recording; None is its one mean.

    Shape:
        mean: (B, L, D) -> (B, D), or (B, N, L, D) -> (B, N, D)
        attention: (B, T, L, D) and lengths (B,) -> (B, D)

    Source:
        The weights of layers: Yang et al. 2021 (SUPERB). Attention pooling: Safari et al. 2020,
        with the scores divided by sqrt(D). All weights start equal, so both begin as plain means.
    """

    def __init__(
        self,
        n_states: int,
        width: int,
        pooling: Literal["mean", "attention"],
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.num_features, self.tokens = width, tokens
        self.scores = nn.Parameter(torch.zeros(n_states))
        self.query = nn.Parameter(torch.zeros(width)) if pooling == "attention" else None

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the vector of each recording, or its tokens.

        Args:
            states: Means (B, L, D) or (B, N, L, D), or frames (B, T, L, D), see `pooling`.
            lengths: True frames of each recording, at least 1; what lies behind has no effect.

        Raises:
            ValueError: The states are not those of the pooling, or lengths are missing.
        """
        rows = ["T"] if self.query is not None else [self.tokens] if self.tokens else []
        expected = ["B", *rows, len(self.scores), self.num_features]
        fits = [wanted in ("B", "T", n) for wanted, n in zip(expected, states.shape, strict=False)]
        if states.dim() != len(expected) or not all(fits):
            raise ValueError(
                f"states have the shape {tuple(states.shape)}; expected "
                f"({', '.join(map(str, expected))})"
            )
        weights = self.scores.softmax(0)  # (L,)
        if self.query is None:
            return torch.einsum("...ld,l->...d", states.to(weights.dtype), weights)
        if lengths is None:
            raise ValueError("attention pooling needs the lengths of the recordings")
        inside = torch.arange(states.shape[1], device=states.device) < lengths[:, None]  # (B, T)
        states = torch.where(inside[:, :, None, None], states, 0)  # NaN times 0 would be NaN
        frames = torch.einsum("btld,l->btd", states.to(weights.dtype), weights)
        scores = frames @ self.query / self.num_features**0.5  # (B, T)
        attention = scores.masked_fill(~inside, -torch.inf).softmax(1)
        return torch.einsum("btd,bt->bd", frames, attention)

    def layer_weights(self) -> list[float]:
        """Return the weight of each hidden state, which add up to 1."""
        return [float(weight) for weight in self.scores.detach().softmax(0)]
