"""Small networks for tests."""

from typing import Any

from model_gmu import MaxMViTGMU
from models.settings import ModelSettings

SMALL: dict[str, Any] = {
    "n_classes": 4,
    "cqt_backbone": "test_maxvit",
    "mel_backbone": "mvitv2_micro",
    "image_size": 32,
}


def small_model(fusion: str = "gmu", **changes: Any) -> MaxMViTGMU:
    """Return an untrained network of the smallest backbones."""
    return MaxMViTGMU(ModelSettings(fusion=fusion, **{**SMALL, **changes}))
