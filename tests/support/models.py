"""Small networks for tests."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from config.fusions import IMAGES, fusions_that
from model_gmu import MaxMViTGMU
from models.settings import ModelSettings
from storage.tensors import save_tensors
from system.files import write_json

SMALL: dict[str, Any] = {
    "n_classes": 4,
    "cqt_backbone": "test_maxvit",
    "mel_backbone": "mvitv2_micro",
    "image_size": 32,
}
FEATURES: dict[str, Any] = {
    "sample_rate": 16_000,
    "image_size": 32,
    "cqt": {"hop_length": 256},
    "mel": {"n_fft": 512, "hop_length": 128, "n_mels": 32},
}
OF_IMAGES = fusions_that(lambda fusion: set(fusion.branches) <= set(IMAGES))


def small_model(fusion: str = "gmu", **changes: Any) -> MaxMViTGMU:
    """Return an untrained network of the smallest backbones."""
    return MaxMViTGMU(ModelSettings(fusion=fusion, **{**SMALL, **changes}))


def write_small_fold(folder: Path, fusion: str = "gmu", **card: Any) -> Path:
    """Write an untrained fold of three classes that labels recordings at 16 kHz."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True, parents=True)
    model = small_model(fusion, n_classes=3)
    save_tensors(folder / "model.safetensors", model.state_dict())
    known = {"model": asdict(model.settings), "classes": ["a", "b", "c"], "features": FEATURES}
    write_json(folder / "model.json", known | {"protocol": "p"} | card)
    return folder
