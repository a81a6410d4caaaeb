"""Label recordings with a trained model: `from inference import load`."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.emotion_model import EmotionModel


def load(
    path: str | Path,
    device: str = "cpu",
    calibrated: bool = True,
    speech_model: str | Path | None = None,
    vectors: str | Path | None = None,
) -> "EmotionModel":
    """Load the model of a run, fold, final model or bundle, see `inference.emotion_model.load`."""
    from inference.emotion_model import load  # slow: torch, timm

    return load(path, device, calibrated, speech_model, vectors)
