"""Settings of a network, which rebuild it for saved weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Self

from config.fusions import branches_of
from config.schema import ModelConfig

FIRST_WEIGHTS = frozenset(  # keys of ModelConfig
    {
        *("pretrained", "cqt_weights", "mel_weights", "cqt_from", "mel_from", "from_seed"),
        *("from_", "frozen", "speech", "vectors"),
    }
)
NO_SHAPES: Mapping[str, Sequence[int]] = MappingProxyType({})
BACKBONES = ("cqt_backbone", "mel_backbone")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings of `MaxMViTGMU`, saved in model.json beside the weights.

    A setting that has no effect with the fusion is None, see `config.effects`.

    Attributes:
        n_classes: Number of classes K.
        fusion: A name of `config.fusions.FUSIONS`.
        branches: Branches that the fusion joins; None of a fusion of one branch, and in model.json
            of earlier versions, is both images.
        speech_shape: (L, D) of the speech model's hidden states, layers and width; None without.
        speech_pooling: From frames to a vector: `mean` or `attention`; None without.
        speech_tokens: Its tokens of a recording, for cross-attention; None is one, the vector.
        speech_layers: Hidden states that are read of a speech model that is trained; None is all.
        speech_unfrozen_layers: Its top layers that are trained; None without.
        speech_lora_rank: Rank of the adapters that are trained in it; None without.
        speech_lora_targets: Linear layers that have an adapter; None is the feed-forward ones.
        vector_width: D of the vectors of the branch `file`; None without.
        cqt_backbone: timm model for the CQT image.
        mel_backbone: timm model for the Mel-STFT image.
        image_size: Height and width of the images in pixels.
        n_channels: Channels of each image.
        fusion_hidden_dim: D, width of the fused vector; None is the width of the wider branch.
        gate_input: `projected` (default): the gate reads h_cqt and h_mel; `features`: it reads
            feat_cqt and feat_mel.
        gate: `vector` (default): one gate for each unit; `scalar`: one for all units.
        projection: `separate` (default): a projection head for each branch; `shared`: one for both.
        projection_dim: P, width of the contrastive views (default 128).
        attention_heads: Heads of the cross-modal attention (default 4).
        match_parameters: Widen the head to as many parameters as gmu's, within one unit.
        mlp_hidden_dim: Units of the classifier's hidden layer.
        dropout: Probability before the last layer and on attention weights.
        drop_path_rate: Stochastic depth of the backbones in training.
    """

    n_classes: int
    fusion: str
    branches: Sequence[str] | None = None
    speech_shape: Sequence[int] | None = None
    speech_pooling: Literal["mean", "attention"] | None = None
    speech_tokens: int | None = None
    speech_layers: Sequence[int] | None = None
    speech_unfrozen_layers: int | None = None
    speech_lora_rank: int | None = None
    speech_lora_targets: Sequence[str] | None = None
    vector_width: int | None = None
    cqt_backbone: str | None = None
    mel_backbone: str | None = None
    image_size: int = 224
    n_channels: int = 1
    fusion_hidden_dim: int | None = None
    gate_input: str | None = None
    gate: str | None = None
    projection: str | None = None
    projection_dim: int | None = None
    attention_heads: int | None = None
    match_parameters: bool | None = None
    mlp_hidden_dim: int = 512
    dropout: float = 0.2
    drop_path_rate: float = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        """Branches that the fusion reads, in their order."""
        return branches_of({"model.fusion": self.fusion, "model.branches": self.branches})

    @property
    def trains_speech(self) -> bool:
        """Whether a part of the speech model is trained, so that the network holds it."""
        return bool(self.speech_unfrozen_layers or self.speech_lora_rank)

    @property
    def what_is_trained(self) -> str | None:
        """What of a speech model is trained, in words; None without."""
        if self.speech_lora_rank:
            return f"adapters (LoRA) of rank {self.speech_lora_rank} in its layers"
        n = self.speech_unfrozen_layers
        return f"its top {f'{n} layers' if n > 1 else 'layer'}" if n else None

    @classmethod
    def from_config(
        cls,
        model: ModelConfig,
        n_classes: int,
        n_channels: int = 1,
        shapes: Mapping[str, Sequence[int]] = NO_SHAPES,
    ) -> Self:
        """Return the settings of section `model`; where first weights come from is not one.

        Args:
            model: Section `model` of a config.
            n_classes: Number of classes.
            n_channels: Channels of each image.
            shapes: (L, D) of `speech` and (D,) of `file`, of the branches that are read.
        """
        values = model.model_dump(include=set(ModelConfig.model_fields) - FIRST_WEIGHTS)
        if "speech" in model.reads:
            values |= {"speech_shape": list(shapes["speech"])}
            speech = model.speech
            values |= {"speech_pooling": speech.pooling, "speech_tokens": speech.tokens}
            if speech.is_trained:
                names = ("layers", "unfrozen_layers", "lora_rank", "lora_targets")
                values |= {f"speech_{name}": getattr(speech, name) for name in names}
        if "file" in model.reads:
            values |= {"vector_width": shapes["file"][0]}
        return cls(n_classes=n_classes, n_channels=n_channels, **values)
