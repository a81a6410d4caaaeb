"""model.json: what rebuilds a fold's model and images, believed only as far as it can be true."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from config.schema import ONLY_WITH, FeaturesConfig, ImageSize, ModelConfig, Section
from system.files import MAX_CARD, MAX_CLASSES, MAX_WORD, corrupt_file, read_json
from system.text import short_repr, truncate

FILE = "model.json"
FINDINGS_SHOWN = 5

Name = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]


class CardModel(ModelConfig):
    """Arguments of `MaxMViTGMU`; weights come from beside the card and from nowhere else."""

    n_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    n_channels: Literal[1, 3]
    pretrained: Literal[False] = False
    cqt_weights: None = None
    mel_weights: None = None


class CardFeatures(FeaturesConfig):
    """Arguments of `SpectrogramImages`."""

    image_size: ImageSize


class ModelCard(Section):
    """A whole card."""

    model: CardModel
    features: CardFeatures
    classes: Annotated[list[Name], Field(max_length=MAX_CLASSES)]
    protocol: str
    corpus: str | None = None
    certificate: str | None = None
    fold: int | None = None
    seed: int | None = None
    test_clips: str | None = None

    def of_model(self) -> dict[str, Any]:
        """Return the arguments of `MaxMViTGMU`."""
        return self.model.model_dump(exclude={"pretrained", "cqt_weights", "mel_weights"})


def read_card(folder: Path) -> ModelCard:
    """Read the card of a fold, with the ranges of the schema.

    Args:
        folder: Of the fold.

    Raises:
        RunError: It is missing or not as a run writes it; names each wrong key.
    """
    file = folder / FILE
    value = read_json(
        file, "model", "classes", "features", "protocol", remove=folder, limit=MAX_CARD
    )
    try:
        card = ModelCard.model_validate(value)
    except ValidationError as error:
        raise corrupt_file(file, _explain(error), remove=folder) from error
    n_classes, n_channels = card.model.n_classes, 3 if card.features.channels == "delta" else 1
    problems = {
        f"{len(card.classes)} classes, and a model of {n_classes}": len(card.classes) != n_classes,
        "a class is named twice": len(set(card.classes)) < len(card.classes),
        "images and model differ in image_size": (
            card.features.image_size != card.model.image_size
        ),
        "images and model differ in channels": n_channels != card.model.n_channels,
        **_without_effect(card.model),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise corrupt_file(file, problem, remove=folder)
    return card


def _without_effect(model: CardModel) -> dict[str, bool]:
    """Return for each key that its fusion does not read whether it is set nevertheless."""
    values = model.model_dump()
    return {
        f"{key} has no effect with {model.fusion}": values[key.removeprefix("model.")] is not None
        for key, only in ONLY_WITH.items()
        if only.controller == "model.fusion"
        and key.startswith("model.")
        and model.fusion not in only.values
    }


def _explain(error: ValidationError) -> str:
    findings = error.errors()
    words = [
        f"{truncate('.'.join(map(str, one['loc'])))}: {one['msg']}, got {short_repr(one['input'])}"
        for one in findings[:FINDINGS_SHOWN]
    ]
    return "; ".join([*words, *["and more"] * (len(findings) > FINDINGS_SHOWN)])
