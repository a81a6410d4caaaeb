"""The learned weights of the layers of a speech model, from the weights of a fold."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.model_card import read_card

SCORES = "speech_branch.scores"  # in model.safetensors; see `models.speech.SpeechBranch`


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """Learned weights of the hidden states of a speech model.

    Attributes:
        layers: Numbers of the states, as `model.speech.layers` names them.
        weights: Weight of each state, by fold and seed; those of a model add up to 1.
    """

    layers: list[int]
    weights: dict[str, list[float]]


def read_layer_weights(folder: Path) -> dict[int, float]:
    """Return the weight of each hidden state, by its number in `model.speech.layers`.

    They add up to 1. Empty where the fold reads no speech model.

    Args:
        folder: Folder of a finished fold.

    Raises:
        RunError: A file of it is corrupt.
    """
    card = read_card(folder)
    if "speech" not in card.model.reads:
        return {}
    from storage.tensors import read_tensor  # slow: torch

    found = read_tensor(folder / "model.safetensors", SCORES)
    if found is None:
        return {}
    scores: NDArray[np.float64] = found.double().numpy()
    weights = np.exp(scores - scores.max())
    layers = card.sources.get("speech", {}).get("layers") or range(len(weights))
    return dict(zip(layers, (weights / weights.sum()).tolist(), strict=True))
