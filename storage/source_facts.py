"""What model.json says of the sources beside the images, checked before use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from config.section import Section
from storage.folders import CARD
from storage.model_card import ModelCard
from system.files import corrupt_file

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SpeechFacts(Section):
    """The speech model of a run, and how its hidden states were kept."""

    name: str
    """Folder or name on the hub, as in the training."""
    revision: str | None = None
    """Of a model of the hub."""
    model: Sha256
    """Identity of its files."""
    sample_rate: Annotated[int, Field(ge=1)]
    """Rate of its waveforms, Hz."""
    piece_seconds: Annotated[int | float, Field(gt=0)]  # 60 stays 60: its text names the store
    normalizes: bool | None = None
    """Whether it reads waveforms of unit variance; None of models without such a setting."""
    layers: Annotated[list[int], Field(min_length=1)]
    precision: Literal["float16", "float32"] = "float16"
    """Type of the states that were kept; cards of an earlier version do not say."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides hidden states, as `SpeechModel.settings`."""
        known = self.model_dump(include={"model", "sample_rate", "piece_seconds", "normalizes"})
        return {key: value for key, value in known.items() if value is not None}


@dataclass(frozen=True, eq=False)
class KnownModel:
    """In the place of a speech model of which all hidden states are kept: nothing is loaded.

    Args:
        facts: What the card of a fold says of it.
        width: D of a hidden state.
    """

    facts: SpeechFacts
    width: int

    @property
    def name(self) -> str:
        """Folder or name on the hub, as in the training."""
        return self.facts.name

    @property
    def revision(self) -> str | None:
        """Of a model of the hub."""
        return self.facts.revision

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its hidden states."""
        return self.facts.settings

    def check_layers(self, layers: Sequence[int] | None) -> list[int]:
        """Return the hidden states that were kept."""
        return self.facts.layers


def speech_facts(card: ModelCard, folder: Path) -> SpeechFacts:
    """Return the facts of a fold's speech model.

    Args:
        card: Card of a fold that reads `speech`.
        folder: Folder of the fold.

    Raises:
        RunError: The card has none, or they are not those of its network.
    """
    try:
        facts = SpeechFacts.model_validate(card.sources.get("speech"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["sources", "speech", *map(str, first["loc"])])
        raise corrupt_file(folder / CARD, f"{place}: {first['msg']}", remove=folder) from error
    shape = card.model.speech_shape
    if shape is None or len(facts.layers) != shape[0]:
        reason = f"sources.speech has {len(facts.layers)} layers, model.speech_shape {shape}"
        raise corrupt_file(folder / CARD, reason, remove=folder)
    own = card.model.speech_layers  # None is all, or of a model that was not trained
    if own is not None and list(own) != facts.layers:
        reason = f"sources.speech has layers {facts.layers}, model.speech_layers {list(own)}"
        raise corrupt_file(folder / CARD, reason, remove=folder)
    return facts
