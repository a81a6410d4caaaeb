"""Section `model.speech` of a config: a pretrained speech model as a branch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from config.section import Section, each_once

Layer = Annotated[int, Field(ge=0, le=200)]


class SpeechConfig(Section):
    """A pretrained speech model of the package transformers."""

    model: str | None = None
    """Folder of a saved model, or its name on the hub, e.g. microsoft/wavlm-base-plus: wav2vec 2.0
    (also conformers), HuBERT, WavLM, UniSpeech(-SAT), Data2VecAudio, or Whisper, whose encoder is
    read."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is main."""
    layers: Annotated[list[Layer], AfterValidator(each_once)] | None = None
    """Hidden states whose weighted sum is read, with weights that are trained: 0 is what enters the
    first layer, 1 what leaves it. null is all."""
    precision: Literal["float16", "float32"] | None = None
    """In which hidden states are kept; states of some large models exceed float16."""
    pooling: Literal["mean", "attention"] | None = None
    """From frames to one vector: their mean, or a mean whose weights a trained query gives."""
    tokens: Annotated[int, Field(ge=2, le=512)] | None = None
    """Tokens of a recording that cross-attention reads: means over as many equal spans of its
    frames. null is one token, the vector of pooling."""
    unfrozen_layers: Annotated[int, Field(ge=1, le=96)] | None = None
    """Top layers of the transformer that are trained; null trains none. A model of which something
    is trained is computed in each step, from the waveforms."""
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Rank of adapters (LoRA, package peft) that are trained in all layers; null has none."""
    lora_targets: Annotated[list[str], AfterValidator(each_once)] | None = None
    """Linear layers that get an adapter, by the last word of their names; null is those of the
    feed-forward part. In WavLM an adapter in the attention would have no effect, and is refused."""

    @property
    def is_trained(self) -> bool:
        """Whether a part of it is trained."""
        return bool(self.unfrozen_layers or self.lora_rank)
