"""A network that starts from a trained one, on the same or on other data (fine-tuning)."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.fusions import FUSIONS
from config.loading import flatten
from config.schema import Config
from model_gmu import IN_SPEECH, MaxMViTGMU
from models.settings import ModelSettings
from models.transfer import Transfer, plan_transfer
from storage.folders import describe_changes
from storage.model_card import read_card
from storage.tensors import load_tensors, tensor_shapes
from storage.trained_model import read_trained_model
from system.errors import InputError
from system.files import corrupt_file
from training.beside import source_facts, source_shapes
from training.distributed import from_first
from training.origin_leaks import origin_facts
from training.origins import WholeOrigin, some
from training.session import Fold

log = logging.getLogger(__name__)

# Features that say how files are read, not what images are: other data may be at another rate
OF_FILES = ("features.input_rate",)
# The same model may lie elsewhere, and the vectors of other recordings are in another file; cards
# of an earlier version do not say the precision
NAMES_ALONE = (
    *("speech.name", "speech.revision", "speech.precision"),
    *("file.file", "file.sha256"),
)


def check_model(config: Config, folder: Path, key: str) -> None:
    """Refuse a trained model whose images or backbones are not those of a config.

    Args:
        config: The config.
        folder: Folder of the model.
        key: `model.from=FOLDER`, for messages.

    Raises:
        InputError: It is of a baseline, or differs; one message lists in what.
        RunError: Its card is corrupt.
    """
    if config.model.from_seed is not None:
        raise InputError(
            f"model.from_seed={config.model.from_seed} has no effect with {key}, which is one "
            "model: set it to null, or name a run"
        )
    if folder.resolve().is_relative_to(Path(config.run.root, config.name).resolve()):
        raise InputError(f"{key} is of this run itself: give this run another `name`")
    card = read_card(folder)
    own = FUSIONS[config.model.fusion]
    if FUSIONS[card.model.fusion].reads_tokens and not own.reads_tokens:
        raise InputError(
            f"{key} is of {card.model.fusion}, whose branches end before the pooling that "
            f"{config.model.fusion} needs: name a model of a fusion that pools"
        )
    speaker = "speaker" if config.train.normalize == "speaker" else "not speaker"
    keys = ["image_size", "branches"]
    keys += [f"{branch}_backbone" for branch in ("cqt", "mel") if branch in config.model.reads]
    theirs = {f"model.{name}": getattr(card.model, name) for name in keys}
    now = {f"model.{name}": getattr(config.model, name) for name in keys}
    theirs |= flatten({"features": card.features.model_dump(exclude={"image_size"})})
    now |= flatten({"features": config.features.model_dump()})
    theirs["train.normalize"] = "speaker" if card.is_transductive else "not speaker"
    now["train.normalize"] = speaker
    if changes := describe_changes(theirs, now, OF_FILES):
        raise InputError(
            f"{key} reads other images or is another network:\n"
            + "\n".join(changes)
            + "\nChange them here, or name another model"
        )


def find_whole(fold: Fold, place: Path, weights: str) -> WholeOrigin:
    """Return the origin of a fold's network, with what it takes; say once what starts anew.

    Args:
        fold: The training.
        place: Folder of the model from which it starts.
        weights: SHA-256 of its weights.

    Raises:
        InputError: Its speech model or its vectors are others.
        RunError: A file there is corrupt.
    """
    model = read_trained_model(place)
    sources = fold.session.sources
    with torch.device("meta"):
        n_channels, shapes = fold.session.store.record[0], source_shapes(sources)
        settings = ModelSettings.from_config(
            fold.config.model, len(fold.classes), n_channels, shapes
        )
        own = MaxMViTGMU(settings).state_dict()
    theirs = model.card.settings()
    _check_sources(
        place,
        {**model.card.sources, "model": _beside_images(theirs, settings)},
        {**source_facts(sources), "model": _beside_images(settings, settings)},
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    transfer = _transfer(shapes, place / "model.safetensors", fold)
    facts = origin_facts(model)
    new = [*transfer.new, *["speech_model"] * (settings.trains_speech > theirs.trains_speech)]
    anew = f"; anew: {some(new)}" if new else ""
    kept = ", ".join(transfer.classes) or "no class"
    log.info("%s starts from %s: its last layer keeps %s%s", fold.name, place, kept, anew)
    unknown = facts.get("unknown", [])
    return WholeOrigin(
        run=model.name,
        fold=model.card.fold,
        seed=model.card.seed or 0,
        weights=weights,
        classes=list(transfer.classes),
        new=new,
        utterances=facts["utterances"],
        unknown=[Path(folder).name for folder in unknown],
    )


def _check_sources(place: Path, theirs: Mapping[Any, Any], own: Mapping[str, Any]) -> None:
    """Refuse a model that reads another speech model, or other layers of it."""
    if changes := describe_changes(flatten(dict(theirs)), flatten(dict(own)), NAMES_ALONE):
        raise InputError(
            f"model.from: {place} reads something else beside the images:\n"
            + "\n".join(changes)
            + "\nGive the same model.speech.* and vectors of that width, or name another model"
        )


def _beside_images(settings: ModelSettings, now: ModelSettings) -> dict[str, Any]:
    """Return what must be equal of two networks beside their images.

    What was trained of a speech model goes on; what was not may begin.

    Args:
        settings: Of one of them.
        now: Of the one that is to start.
    """
    trained = ("unfrozen_layers", "lora_rank", "lora_targets")
    names = ("pooling", "tokens", *trained)
    speech = {name: getattr(settings, f"speech_{name}") for name in names}
    if now.trains_speech and not settings.trains_speech:
        speech |= {name: getattr(now, f"speech_{name}") for name in trained}
    return {"speech": speech, "vector_width": settings.vector_width}


def start_whole(model: MaxMViTGMU, fold: Fold, file: Path) -> None:
    """Give a network the weights and statistics that it takes from a trained one.

    Args:
        model: The network.
        fold: Its training.
        file: Weights of the trained network.

    Raises:
        RunError: The weights are corrupt.
    """
    own = model.state_dict()
    transfer = _transfer({name: tuple(t.shape) for name, t in own.items()}, file, fold)
    theirs = from_first(partial(_read, file))
    model.load_state_dict(transfer.apply(own, theirs), strict=False)


def _transfer(shapes: dict[str, tuple[int, ...]], file: Path, fold: Fold) -> Transfer:
    """Decide what a network takes; refuse weights that are not of the branches of their card."""
    theirs, card = tensor_shapes(file), read_card(file.parent)
    transfer = plan_transfer(shapes, theirs, list(fold.classes), card.classes)
    anew = ("head.", IN_SPEECH)  # what is trained of a speech model may not have been before
    branches = [n for n in shapes if not n.startswith(anew)]
    if missing := sorted(set(branches) - set(transfer.tensors)):
        raise corrupt_file(file, f"it has no {missing[0]} of this shape", remove=file.parent)
    return transfer


def _read(file: Path) -> dict[str, Tensor]:
    weights = load_tensors(file)
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise corrupt_file(file, "NaN or infinite weights", remove=file.parent)
    return weights
