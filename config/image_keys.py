"""Keys of how images are made, read and changed: without effect where a fusion reads no image."""

from collections.abc import Mapping
from typing import Any

from config.fusions import FUSIONS, IMAGES, ONE_BRANCH

FUSION, BRANCHES = "model.fusion", "model.branches"
READ_AN_IMAGE = tuple(name for name in FUSIONS if ONE_BRANCH.get(name, IMAGES[0]) in IMAGES)
# Their values then: the schema's defaults
IDLE_WITHOUT_IMAGES: dict[str, Any] = {
    "features.sample_rate": 44_100,
    "features.input_rate": None,
    "features.cqt.fmin": 32.70319566257483,
    "features.cqt.n_bins": 84,
    "features.cqt.bins_per_octave": 12,
    "features.cqt.hop_length": 512,
    "features.cqt.window": "hann",
    "features.cqt.filter_scale": 1.0,
    "features.mel.n_fft": 4096,
    "features.mel.hop_length": 256,
    "features.mel.n_mels": 128,
    "features.mel.fmin": 0.0,
    "features.mel.fmax": None,
    "features.mel.window": "hann",
    "features.mel.win_length": None,
    "features.top_db": 80.0,
    "features.reference": "clip",
    "features.channels": "static",
    "features.seconds": None,
    "features.trim_db": None,
    "model.image_size": 224,
    "augment.freq_mask": 0.0,
    "augment.time_mask": 0.0,
    "augment.time_shift": 0.0,
    "augment.freq_shift": 0.0,
    "train.images": "stored",
    "run.shards": None,
}


def idle_without_images(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that have no effect because the fusion reads no image.

    Args:
        config: Dotted keys to values; without those that decide, no key is ruled out.

    >>> "train.images" in idle_without_images({"model.fusion": "speech_only"})
    True
    >>> idle_without_images({"model.fusion": "gmu", "model.branches": ["mel", "speech"]})
    ()
    """
    fusion, named = config.get(FUSION), config.get(BRANCHES)
    branches = (ONE_BRANCH[fusion],) if fusion in ONE_BRANCH else named or IMAGES
    return () if set(branches) & set(IMAGES) else tuple(IDLE_WITHOUT_IMAGES)


def idle_defaults(model: Any) -> dict[str, Any]:
    """Return the defaults of all keys without effect, by section; empty where an image is read.

    An earlier version stored other values of them with its runs.

    Args:
        model: Section `model` of a stored config.

    >>> idle_defaults({"fusion": "file_only"})["train"], idle_defaults({"fusion": "gmu"})
    ({'images': 'stored'}, {})
    """
    found: dict[str, Any] = {}
    chosen = model if isinstance(model, Mapping) else {}
    for key in idle_without_images(
        {FUSION: chosen.get("fusion"), BRANCHES: chosen.get("branches")}
    ):
        *sections, name = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = IDLE_WITHOUT_IMAGES[key]
    return found


def what_reads_none(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the key because of which no image is read, and its values that would read one."""
    if config.get(FUSION) in ONE_BRANCH:
        return FUSION, READ_AN_IMAGE
    return BRANCHES, tuple(f"[..., {branch}]" for branch in IMAGES)
