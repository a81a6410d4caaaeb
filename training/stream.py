"""Training from shards: whether they fit the run, and the statistics of their images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.parallel import in_parallel
from config.schema import Config
from corpora.plan import Plan
from data import WaveformDataset
from features import SpectrogramImages
from storage.feature_store import IMAGES, FeatureStore, moments
from storage.shards import Shards, list_shards, read_index
from system.errors import InputError

CHUNK = 64  # recordings whose sums wait to be added
Sums = tuple[int, NDArray, NDArray]  # pixels, their sum (C,), the sum of their squares (C,)


def check_shards(config: Config) -> None:
    """Refuse shards that no run of the config can read, before any audio is indexed.

    Raises:
        InputError: Some are missing, hold what `train.images` does not read, or lie in the run
            folder.
        RunError: The first is corrupt.
    """
    if config.run.shards is None:
        return
    shards, folder = Path(config.run.shards), Path(config.run.root) / config.name
    if shards.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"run.shards={shards} lies in the run folder {folder}, which --overwrite removes: "
            "change name or move the shards"
        )
    _check_format(config, read_index(list_shards(shards)[0]))


def open_shards(config: Config, plan: Plan, store: FeatureStore) -> Shards | None:
    """Open the shards of `run.shards`; None where the config names none.

    Args:
        config: Config of the run.
        plan: Its utterances and splits, for which the shards must have been written.
        store: Names the settings that images must have.

    Raises:
        InputError: The shards are not those of the run.
        RunError: A shard is corrupt.
    """
    if config.run.shards is None:
        return None
    shards = Shards(Path(config.run.shards))
    facts = shards.facts
    # A tuning plan has no test utterances, and so a certificate of its own
    key = "certificate" if plan.has_test else "protocol"
    own = plan.certificate["id" if plan.has_test else "protocol"]
    if facts[key] != own:
        raise InputError(
            f"run.shards={shards.folder}: the shards were written for {key} {facts[key]}, and this "
            f"run has {own}: other utterances, labels or splits, or train.normalize=speaker in one "
            "alone. Name their shards, or write some with this config"
        )
    _check_format(config, facts)
    if shards.has_images and facts["features"] != store.folder.name:
        raise InputError(
            f"run.shards={shards.folder}: its images were made with other settings of features or "
            "model.image_size, or another version: write shards with this config"
        )
    return shards


def _check_format(config: Config, facts: Mapping[str, Any]) -> None:
    has_images, images = facts["format"] == "images", config.train.images
    if has_images != (images == "stored"):
        held, other = ("images", "stored") if has_images else ("audio", "computed")
        raise InputError(
            f"run.shards={config.run.shards} holds {held}, which train.images={images} does not "
            f"read: set train.images={other}, or write shards with another --format"
        )


def waveform_statistics(
    waveforms: WaveformDataset, images: SpectrogramImages, device: torch.device, workers: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[int]]:
    """Return mean and std of the images of all crops, as the feature store has them.

    Args:
        waveforms: Unchanged recordings.
        images: Computes their images.
        device: Device that computes them.
        workers: Number of threads; 0 or 1 uses the caller's alone.

    Returns:
        2 x ((C,), (C,)), dB; and the utterances whose images are not finite.
    """
    images = images.to(device)

    def add_up(i: int) -> list[Sums]:
        waveform = waveforms[(0, i)].waveform[0]
        with torch.inference_mode():
            pair = images(images.cut(waveform).to(device))
        stored = [image.half().cpu().double() for image in pair]  # (n, C, H, W)
        return [
            (x.numel() // x.shape[1], x.sum((0, 2, 3)).numpy(), x.square().sum((0, 2, 3)).numpy())
            for x in stored
        ]

    zero = np.zeros(images.n_channels)
    sums: list[Sums] = [(0, zero, zero) for _ in IMAGES]
    bad: list[int] = []
    for start in range(0, len(waveforms), CHUNK):
        chunk = range(start, min(start + CHUNK, len(waveforms)))
        for i, parts in in_parallel(add_up, chunk, workers):
            if not all(np.isfinite(total).all() for _, total, _ in parts):
                bad.append(i)
            sums = [(n + m, s + t, q + r) for (n, s, q), (m, t, r) in zip(sums, parts, strict=True)]
    return {name: moments(*values) for name, values in zip(IMAGES, sums, strict=True)}, bad
