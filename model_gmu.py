"""MaxMViT-GMU: two images of one recording, two backbones, one fusion head, emotion logits.

    cqt (B, C, H, W) in dB -> normalise -> MaxViT -> feat_cqt (B, D_cqt) -+
                                                                          +-> head -> logits (B, K)
    mel (B, C, H, W) in dB -> normalise -> MViTv2 -> feat_mel (B, D_mel) -+     gate, views

`model.branches` may add, or put in the place of an image,

    speech (B, L, D_s), pooled hidden states of a pretrained speech model -> weighted sum (B, D_s);
        for cross-attention also of N spans (B, N, L, D_s)                -> tokens (B, N, D_s);
        waveforms (B, t) -> hidden states, where a part of the speech model is trained
    file (B, D_f), vectors of the user's own                              -> as they are  (B, D_f)

The heads and their formulas stand in `models.heads`.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from config.fusions import FUSIONS, IMAGES, SOURCES
from config.schema import ModelConfig
from models.backbones import build_backbone, pooled, tokens
from models.compiled import Graphs
from models.heads import ForcedGate, FusionOutput, build_head, check_equal_widths
from models.recompute import recompute_blocks
from models.settings import NO_SHAPES, ModelSettings
from models.speech import Frames, SpeechBranch
from models.speech_states import SpeechModel
from models.speech_tuning import Waves, tuned
from system.errors import InputError

IN_SPEECH = "speech_model."  # names of the tensors in a speech model that is trained
# Of both images, or of all SOURCES; None where it is not read: (B, D), or tokens (B, N, D)
Features = tuple[Tensor | None, ...]


class MaxMViTGMU(nn.Module):
    """Two backbones and the fusion head that joins them.

    Args:
        settings: Saved with the weights.
        pretrained: Start from timm's weights in branches without a local file.
        cqt_weights: Local weights file of the CQT backbone.
        mel_weights: Local weights file of the Mel backbone.
        started: Branches whose weights are loaded later, from another run: none are read here.
        frozen: Branches that are not trained, and compute as in evaluation.
        speech_model: The speech model of which a part is trained; without it the network has no
            such part, and serves to compare shapes.

    Shape:
        cqt, mel (B, C, H, W) in dB -> FusionOutput

    Raises:
        InputError: A backbone, image size, weights file or number of heads does not fit.
    """

    cqt_mean: Tensor
    cqt_std: Tensor
    mel_mean: Tensor
    mel_std: Tensor

    def __init__(
        self,
        settings: ModelSettings,
        *,
        pretrained: bool = False,
        cqt_weights: str | None = None,
        mel_weights: str | None = None,
        started: Collection[str] = (),
        frozen: Collection[str] = (),
        speech_model: SpeechModel | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.fusion, self.reads = FUSIONS[settings.fusion], settings.reads
        self.sources = SOURCES if set(self.reads) - set(IMAGES) else IMAGES
        cqt, mel = (pretrained and branch not in started for branch in ("cqt", "mel"))
        self.cqt_branch = build_backbone(settings, "cqt", cqt, cqt_weights)
        self.mel_branch = build_backbone(settings, "mel", mel, mel_weights)
        shapes: dict[str, Sequence[int]] = dict.fromkeys(IMAGES, (settings.n_channels, 1, 1))
        self.speech_branch: SpeechBranch | None = None
        if "speech" in self.reads:
            n_states, width = shapes["speech"] = settings.speech_shape or (0, 0)
            pooling, tokens = settings.speech_pooling or "mean", settings.speech_tokens
            self.speech_branch = SpeechBranch(n_states, width, pooling, tokens)
        self.speech_model = tuned(speech_model, settings)
        self.head = build_head(self.widths(), settings)
        self.frozen = frozenset(frozen)
        for branch in self.frozen:
            getattr(self, f"{branch}_branch").requires_grad_(False).eval()
        self.float32: frozenset[str] = frozenset()  # parts (cqt, mel, head) without autocast
        self.graphs: Graphs | None = None  # of the backbones, with train.compile
        if "file" in self.reads:
            shapes["file"] = (settings.vector_width or 0,)
        for branch, shape in shapes.items():  # statistics of training: of images in dB
            self.register_buffer(f"{branch}_mean", torch.zeros(*shape))
            self.register_buffer(f"{branch}_std", torch.ones(*shape))

    @classmethod
    def from_config(
        cls,
        model: ModelConfig,
        n_classes: int,
        n_channels: int = 1,
        shapes: Mapping[str, Sequence[int]] = NO_SHAPES,
        speech_model: SpeechModel | None = None,
    ) -> Self:
        """Build the network of section `model`, with the first weights that it names.

        Args:
            model: Section `model` of a config.
            n_classes: Number of classes.
            n_channels: Channels of each image.
            shapes: (L, D) of `speech` and (D,) of `file`, of the branches that are read.
            speech_model: The speech model, where a part of it is trained.
        """
        return cls(
            ModelSettings.from_config(model, n_classes, n_channels, shapes),
            pretrained=model.pretrained,
            cqt_weights=model.cqt_weights,
            mel_weights=model.mel_weights,
            started=model.loaded_later,
            frozen=model.frozen,
            speech_model=speech_model,
        )

    def forward(
        self, cqt: Tensor, mel: Tensor, speech: Any = None, file: Tensor | None = None
    ) -> FusionOutput:
        """Return logits, gate and views.

        Shape:
            (B, C, H, W), (B, C, H, W), (B, L, D_s) or `Frames` or `Waves`, (B, D_f) -> FusionOutput
        """
        return self.fuse(self.features(cqt, mel, speech, file))  # (B, K), (B, D), ...

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; frozen branches stay in evaluation."""
        super().train(mode)
        for branch in self.frozen:
            getattr(self, f"{branch}_branch").eval()
        return self

    def features(
        self, cqt: Tensor, mel: Tensor, speech: Any = None, file: Tensor | None = None
    ) -> Features:
        """Return the features of each source; None for a branch that the fusion does not read.

        Shape:
            As of `forward` -> (B, D) of each; tokens (B, N, D) of images, and of speech with
            `model.speech.tokens`, where the fusion reads tokens

        Raises:
            ValueError: The input of a branch that is read is missing.
        """
        given = dict(zip(SOURCES, (cqt, mel, speech, file), strict=True))
        if missing := [branch for branch in self.reads if given[branch] is None]:
            raise ValueError(f"{self.settings.fusion} needs the {missing[0]} input")
        return tuple(self.encode(b, given[b]) if b in self.reads else None for b in self.sources)

    def encode(self, branch: str, image: Tensor) -> Tensor:
        """Return the features of one branch: (B, C, H, W) -> (B, D), or tokens (B, N, D).

        Args:
            branch: One of SOURCES, which the fusion reads.
            image: In dB; hidden states or vectors of `speech` and `file`.
        """
        if branch not in IMAGES:
            return self._encode_vectors(branch, image)
        mean, std, backbone = (
            getattr(self, f"{branch}_{name}") for name in ("mean", "std", "branch")
        )
        image = (image - mean) / std  # (B, C, H, W)
        with self._precision(branch):
            encode = tokens if self.fusion.reads_tokens else pooled
            if self.graphs is None:
                return encode(backbone, image)
            return self.graphs.encode(encode, backbone, image)

    def fuse(self, features: Features, forced_gate: ForcedGate | None = None) -> FusionOutput:
        """Return the head's output for features.

        Args:
            features: From `features`, or changed by an intervention.
            forced_gate: Overrides the gate, for interventions, see `GMU.forward`: a share each.

        Raises:
            ValueError: A branch is missing, or there is no gate to force.
        """
        given = dict(zip(self.sources, features, strict=True))
        read: list[Tensor] = []
        for branch in self.reads:
            if (feature := given[branch]) is None:
                raise ValueError(f"{self.settings.fusion} needs the {branch} features")
            read.append(feature.float() if "head" in self.float32 else feature)
        if forced_gate is not None and not self.fusion.gated:
            raise ValueError(f"{self.settings.fusion} has no gate to force")
        forced = {} if forced_gate is None else {"forced_gate": forced_gate}
        with self._precision("head"):
            output: FusionOutput = self.head(*read, **forced)
        return output

    def set_normalization(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take mean and std of training inputs, (C,) in dB of images; the weights hold them."""
        for branch, (mean, std) in statistics.items():
            own = getattr(self, f"{branch}_mean")
            own.copy_(mean.reshape(own.shape))
            getattr(self, f"{branch}_std").copy_(std.reshape(own.shape))

    def checkpoint_gradients(self) -> None:
        """Let each block of what is trained keep its input alone in training, and compute it again.

        Raises:
            InputError: A backbone has no blocks.
        """
        if self.speech_model is not None:
            self.speech_model.checkpoint_gradients()
        for branch in [branch for branch in IMAGES if branch in self.reads]:
            if not recompute_blocks(getattr(self, f"{branch}_branch")):
                name = getattr(self.settings, f"{branch}_backbone")
                raise InputError(
                    f"train.gradient_checkpointing=true: model.{branch}_backbone={name!r} has no "
                    "blocks under timm's name: set it to false, or use a model of the MaxViT, "
                    "MViTv2, ViT or Swin family"
                )

    def widths(self) -> dict[str, int]:
        """Return the width of the features of each branch that is read, in their order."""
        speech = 0 if self.settings.speech_shape is None else self.settings.speech_shape[1]
        vectors = self.settings.vector_width or 0
        every = (_width(self.cqt_branch), _width(self.mel_branch), speech, vectors)
        named = dict(zip(SOURCES, every, strict=True))
        return {branch: named[branch] for branch in self.reads}

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of `cqt`, `mel`, `speech` and `head`, of what is trained of them.

        A frozen branch is not, nor one that the fusion does not read.
        """
        modules = {"cqt": self.cqt_branch, "mel": self.mel_branch, "speech": self.speech_model}
        found = {
            name: [p for p in module.parameters() if p.requires_grad]
            for name, module in {**modules, "head": self.head}.items()
            if module is not None and name not in self.frozen
        }
        if self.speech_branch is not None:  # weights of layers and a query, at the head's rate
            found["head"] += self.speech_branch.parameters()
        return found

    def without_decay(self) -> list[nn.Parameter]:
        """Return the parameters that timm's models exempt from weight decay: position tables."""
        spared: list[nn.Parameter] = []
        for branch in (self.cqt_branch, self.mel_branch):
            if branch is not None and hasattr(branch, "no_weight_decay"):
                names = branch.no_weight_decay()  # type: ignore[operator]
                spared += [p for name, p in branch.named_parameters() if name in names]
        return spared

    def _encode_vectors(self, branch: str, given: Any) -> Tensor:
        """Return the features of `speech` or `file`: (B, D), or tokens (B, N, D)."""
        mean, std = getattr(self, f"{branch}_mean"), getattr(self, f"{branch}_std")
        if isinstance(given, Waves):
            if self.speech_model is None:
                raise ValueError("waveforms need the speech model, which this network lacks")
            with self._precision("speech"):
                given = self.speech_model(given)  # (B, L, D), or `Frames`
        states, lengths = given if isinstance(given, Frames) else (given, None)
        with self._precision("head"):
            vectors: Tensor = (states - mean) / std  # (B, D), (B, L, D), or frames (B, T, L, D)
            if self.speech_branch is not None and branch == "speech":
                vectors = self.speech_branch(vectors, lengths)
        return vectors

    def _precision(self, part: str) -> AbstractContextManager[object]:
        """Switch autocast off where a part has to compute in float32."""
        if part not in self.float32:
            return nullcontext()
        return torch.autocast(self.cqt_mean.device.type, enabled=False)


def check_settings(
    model: ModelConfig,
    alpha_on: str | None = None,
    n_classes: int = 2,
    gradient_checkpointing: bool = False,
    shapes: Mapping[str, Sequence[int]] = NO_SHAPES,
) -> None:
    """Refuse section `model` if no network can be built from it; needs no memory, reads no weights.

    Args:
        model: Section `model` of a config.
        alpha_on: `loss.alpha_on` of the same config.
        n_classes: Number of classes.
        gradient_checkpointing: `train.gradient_checkpointing` of the same config.
        shapes: See `MaxMViTGMU.from_config`.

    Raises:
        InputError: A backbone, an image size or a number of heads does not fit, the loss would
            compare features of two widths, or a backbone has no blocks to compute again.
    """
    with torch.device("meta"):
        network = MaxMViTGMU(ModelSettings.from_config(model, n_classes, shapes=shapes))
    if alpha_on == "features" and not network.fusion.reads_tokens:
        check_equal_widths(network.widths(), "loss.alpha_on=features")
    if gradient_checkpointing:
        network.checkpoint_gradients()


def rebuild(
    settings: ModelSettings, weights: Mapping[str, Tensor], speech_model: SpeechModel | None = None
) -> MaxMViTGMU:
    """Return the trained network of a fold, in evaluation mode.

    Args:
        settings: From model.json.
        weights: Of the fold; of a speech model, which is given, only what was trained.
        speech_model: Where a part of it was trained.
    """
    with torch.no_grad():
        model = MaxMViTGMU(settings, speech_model=speech_model)
    model.load_state_dict(dict(weights))
    return model.eval()


def misfit(settings: ModelSettings, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the first difference between saved weights and the network, or None.

    Args:
        settings: From model.json; the network is built without memory.
        shapes: Shape of each saved tensor by name; those in a speech model are not compared.
    """
    with torch.device("meta"):
        model = MaxMViTGMU(settings)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if settings.trains_speech and name.startswith(IN_SPEECH):
            continue
        if expected.get(name) != shapes.get(name):
            of_model, of_weights = expected.get(name, "none"), shapes.get(name, "none")
            return f"{name}: the model has {of_model}, the weights have {of_weights}"
    return None


def _width(branch: nn.Module | None) -> int:
    return 0 if branch is None else int(branch.num_features)  # type: ignore[arg-type]
