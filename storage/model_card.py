"""model.json: the settings that rebuild a fold's model and images, checked before use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from config.effects import idle_value, keys_without_effect
from config.fusions import FUSIONS
from config.image_keys import IDLE_WITHOUT_IMAGES
from config.schema import FeaturesConfig, ImageSize, ModelConfig, Width
from config.section import Count, Section
from config.speech_schema import Layer
from config.tasks import CLASS, RATINGS, TaskName
from corpora.stamps import TRANSDUCTIVE, is_transductive
from models.settings import ModelSettings
from storage.folders import CARD
from storage.training_range import TrainingRange
from system.errors import InputError
from system.files import MAX_CARD, MAX_CLASSES, MAX_WORD, corrupt_file, read_json, write_json
from system.text import short_repr, truncate

FINDINGS_SHOWN = 5

Name = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]


class CardModel(ModelConfig):
    """`ModelSettings` with the ranges of the schema; weights are read only from beside the card."""

    n_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    n_channels: Literal[1, 3]
    speech_shape: Annotated[list[Width], Field(min_length=2, max_length=2)] | None = None
    speech_pooling: Literal["mean", "attention"] | None = None
    speech_tokens: Count | None = None
    speech_layers: list[Layer] | None = None
    speech_unfrozen_layers: Count | None = None
    speech_lora_rank: Count | None = None
    speech_lora_targets: list[str] | None = None
    vector_width: Width | None = None
    pretrained: Literal[False] = False
    cqt_weights: None = None
    mel_weights: None = None
    cqt_from: None = None
    mel_from: None = None
    from_seed: None = None
    from_: None = Field(default=None, alias="from")
    frozen: Annotated[list[Any], Field(max_length=0)] = []
    vectors: None = None


class CardFeatures(FeaturesConfig):
    """Arguments of `SpectrogramImages`."""

    image_size: ImageSize


class BranchOrigin(Section):
    """The finished fold of another run whose branch a branch started from."""

    run: Name
    """Name of the run."""
    fold: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of its model.safetensors."""


class NetworkOrigin(Section):
    """The trained model from which the whole network started."""

    run: Name
    """Name of its run, or of its folder."""
    fold: Annotated[int, Field(ge=1)] | None
    """None of a final model."""
    seed: Annotated[int, Field(ge=0)]
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of its model.safetensors."""
    classes: list[Name]
    """Classes whose rows of the last layer it kept."""
    new: list[Name]
    """What started anew: modules, and rows of the last layer."""
    utterances: Annotated[int, Field(ge=0)]
    """Recordings that trained or selected it, and what it started from, as far as is known."""
    unknown: list[Name]
    """Models behind it of which nobody knows what trained them: no leak check could be made."""


class ModelCard(Section):
    """The whole file."""

    model: CardModel
    features: CardFeatures
    classes: Annotated[list[Name], Field(max_length=MAX_CLASSES)]
    protocol: str
    corpus: str | None = None
    certificate: str | None = None
    fold: int | None = None
    seed: int | None = None
    test_clips: str | None = None
    training_data: TrainingRange | None = None
    """None in folders of an earlier version."""
    transductive: str | None = None
    """What the protocol says of scores; None without `train.normalize: speaker`."""
    sources: dict[Literal["speech", "file"], dict[str, Any]] = {}
    """What the branches `speech` and `file` read: name and hash of the model, or of the file."""
    started_from: dict[Literal["cqt", "mel", "model"], BranchOrigin | NetworkOrigin] = {}
    """Branches that started from another run, or the whole network (`model`)."""
    task: TaskName = "class"
    """What the outputs are; not written of classes, as `scale`."""
    scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """[lowest, highest] rating; of ratings alone."""

    @property
    def is_transductive(self) -> bool:
        """Whether images must be standardised by their speakers before the model reads them."""
        return is_transductive(self.protocol)

    def settings(self) -> ModelSettings:
        """Return the settings of the network."""
        names = {field.name for field in fields(ModelSettings)}
        return ModelSettings(**self.model.model_dump(include=names))


def read_card(folder: Path) -> ModelCard:
    """Read and check the model card of a fold.

    Args:
        folder: Folder of the finished fold.

    Raises:
        InputError: The fold is of a baseline.
        RunError: The card is missing or corrupt; the message names each wrong key.
    """
    file = folder / CARD
    content = read_json(file, remove=folder, limit=MAX_CARD)
    if isinstance(content, dict) and "baseline" in content:
        raise InputError(f"{folder} is of a baseline, not of a network: name a fold of a fusion")
    value = read_json(
        file, "model", "classes", "features", "protocol", remove=folder, limit=MAX_CARD
    )
    try:
        card = ModelCard.model_validate(value)
    except ValidationError as error:
        raise corrupt_file(file, _explain(error), remove=folder) from error
    if problem := next(_contradictions(card), None):
        raise corrupt_file(file, problem, remove=folder)
    return card


def write_model_card(
    folder: Path,
    *,
    model: Mapping[str, Any],
    features: Mapping[str, Any],
    classes: Sequence[str],
    corpus: str,
    certificate: Mapping[str, Any],
    fold: int | None,
    seed: int,
    training_data: TrainingRange,
    started_from: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    task: str = CLASS,
    scale: Sequence[float] | None = None,
) -> None:
    """Write model.json.

    Args:
        folder: Folder of the fold.
        model: Fields of `ModelSettings`.
        features: Arguments of `SpectrogramImages`.
        classes: Class names, in the order of the targets.
        corpus: `corpus.name`.
        certificate: The split certificate of the run.
        fold: Fold number; None of a final model, which tests nothing.
        seed: Seed of the training.
        training_data: Range of the recordings of the training split.
        started_from: Origin of each branch that started from another run, or of the network.
        sources: What the branches `speech` and `file` read.
        task: Task of the run.
        scale: Scale of its ratings.
    """
    card = {
        "model": model,
        "classes": list(classes),
        "features": features,
        "corpus": corpus,
        "protocol": certificate["protocol"],
        "certificate": certificate["id"],
        "fold": fold,
        "seed": seed,
        "test_clips": None if fold is None else recordings_digest(certificate, fold),
        "training_data": training_data.model_dump(),
        **transductive_note(certificate),
        **({"sources": {k: dict(v) for k, v in sources.items()}} if sources else {}),
        **({"started_from": started_from} if started_from else {}),
        **({} if task == CLASS else {"task": task, "scale": scale}),
    }
    write_json(folder / CARD, card)


def write_baseline_card(
    folder: Path,
    *,
    baseline: Mapping[str, Any],
    classes: Sequence[str],
    corpus: str,
    certificate: Mapping[str, Any],
    fold: int,
    seed: int,
) -> None:
    """Write the model.json of a baseline, which has no network to rebuild.

    Args:
        folder: Folder of the fold.
        baseline: Its kind, and what was chosen on dev.
        classes: Class names, in the order of the targets.
        corpus: `corpus.name`.
        certificate: The split certificate of the run.
        fold: Fold number.
        seed: Seed of the fit.
    """
    card = {
        "baseline": dict(baseline),
        "classes": list(classes),
        "corpus": corpus,
        "protocol": certificate["protocol"],
        "certificate": certificate["id"],
        "fold": fold,
        "seed": seed,
        "test_clips": recordings_digest(certificate, fold),
        **transductive_note(certificate),
    }
    write_json(folder / CARD, card)


def recordings_digest(certificate: Mapping[str, Any], fold: int) -> str:
    """Return the digest of the recordings that a fold tests."""
    return next(f["test"]["recordings"] for f in certificate["folds"] if f["fold"] == fold)


def transductive_note(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Return what a model card says of a transductive protocol; nothing of others."""
    found = is_transductive(certificate["protocol"])
    return {"transductive": TRANSDUCTIVE} if found else {}


def _contradictions(card: ModelCard) -> Iterator[str]:
    """Yield what cannot be true of one model, though each value is valid alone."""
    model, classes, features = card.model, card.classes, card.features
    if len(classes) != model.n_classes:
        yield f"{len(classes)} classes, and a model of {model.n_classes}"
    if len(set(classes)) < len(classes):
        yield "a class is named twice"
    if features.image_size != model.image_size:
        yield "images and model differ in image_size"
    if model.n_channels != (3 if features.channels == "delta" else 1):
        yield "images and model differ in channels"
    if card.is_transductive != (card.transductive is not None):
        yield "protocol and transductive do not agree"
    if (card.task == RATINGS) != (card.scale is not None):
        yield "task and scale do not agree"
    if ("speech" in model.reads) != (model.speech_shape is not None):
        yield "model.branches and model.speech_shape do not agree"
    if ("file" in model.reads) != (model.vector_width is not None):
        yield "model.branches and model.vector_width do not agree"
    chosen = {"model.fusion": model.fusion, "model.branches": model.branches}
    if model.speech_lora_rank and model.speech_unfrozen_layers:
        yield "model.speech_lora_rank and model.speech_unfrozen_layers exclude each other"
    if model.speech_tokens and not (model.speech_shape and FUSIONS[model.fusion].reads_tokens):
        yield f"model.speech_tokens has no effect with {model.fusion}"
    if model.speech_tokens and model.speech_pooling == "attention":
        yield "model.speech_tokens and model.speech_pooling do not agree"
    if (
        model.speech_layers
        and model.speech_shape
        and len(model.speech_layers) != model.speech_shape[0]
    ):
        yield "model.speech_layers and model.speech_shape do not agree"
    for key in keys_without_effect(chosen):
        if key in IDLE_WITHOUT_IMAGES:  # an earlier version wrote its own values
            continue
        section, _, name = key.partition(".")
        if section == "model" and getattr(model, name, None) not in (None, idle_value(key)):
            yield f"{key} has no effect with {model.fusion}"


def _explain(error: ValidationError) -> str:
    """Return pydantic's first findings as one line."""
    findings = error.errors()
    words = [
        f"{truncate('.'.join(map(str, finding['loc'])))}: {finding['msg']}, "
        f"got {short_repr(finding['input'])}"
        for finding in findings[:FINDINGS_SHOWN]
    ]
    return "; ".join([*words, *["and more"] * (len(findings) > FINDINGS_SHOWN)])
