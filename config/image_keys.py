"""Keys of images and their backbones: without effect where a fusion reads no image."""

from collections.abc import Mapping
from typing import Any

from config.fusions import BRANCHES, FUSION, FUSIONS, IMAGES, ONE_BRANCH, branches_of

READ_AN_IMAGE = tuple(name for name in FUSIONS if ONE_BRANCH.get(name, IMAGES[0]) in IMAGES)
NORMALIZE = "train.normalize"
LORA_RANK, UNFROZEN = "model.speech.lora_rank", "model.speech.unfrozen_layers"
POOLING = "model.speech.pooling"
OF_SPEECH = (LORA_RANK, UNFROZEN, POOLING)  # what decides which keys a speech model uses
BACKBONE_BATCH = "train.backbone_batch"
# Of backbones, and of a speech model of which a part is trained
OF_TRAINED = ("optim.backbone_lr_scale", BACKBONE_BATCH, "train.gradient_checkpointing")
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
    "model.pretrained": True,
    "model.drop_path_rate": 0.0,
    "augment.freq_mask": 0.0,
    "augment.time_mask": 0.0,
    "augment.time_shift": 0.0,
    "augment.freq_shift": 0.0,
    "augment.level_db": None,
    "augment.gain_db": None,
    "augment.snr_db": None,
    "augment.speed": None,
    "augment.pitch": None,
    "train.images": "stored",
    NORMALIZE: True,  # or speaker, which names the protocol
    "train.compile": False,
    "train.channels_last": True,
    **dict(zip(OF_TRAINED, (1.0, None, False), strict=True)),
    "run.shards": None,
    "run.compile_cache": None,
}


def idle_without_images(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that have no effect because the fusion reads no image.

    Args:
        config: Dotted keys to values; without those that decide, no key is ruled out.

    >>> "train.images" in idle_without_images({"model.fusion": "speech_only"})
    True
    >>> idle_without_images({"model.fusion": "gmu", "model.branches": ["mel", "speech"]})
    []
    """
    if set(branches_of(config)) & set(IMAGES):
        return []
    used = (*used_by_speech(config), *([] if config.get(NORMALIZE) is False else [NORMALIZE]))
    return [key for key in IDLE_WITHOUT_IMAGES if key not in used]


def used_by_speech(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of backbones that a config's speech model uses, too.

    What is not given may be anything. Attention pooling reads all frames, of which
    `train.backbone_batch` says how many are in memory at once.

    >>> used_by_speech({"model.fusion": "speech_only", LORA_RANK: None, UNFROZEN: 2})[0]
    'optim.backbone_lr_scale'
    >>> used_by_speech({"model.fusion": "file_only"})
    ()
    """
    if "speech" not in branches_of(config):
        return ()
    if config.get(LORA_RANK, 1) or config.get(UNFROZEN, 1):
        return OF_TRAINED
    return (BACKBONE_BATCH,) if config.get(POOLING, "attention") == "attention" else ()


def idle_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of all keys without effect, by section; empty where an image is read.

    An earlier version stored other values of them with its runs.

    Args:
        stored: Sections of a stored config, unchecked.

    >>> found = idle_defaults({"model": {"fusion": "file_only"}})
    >>> found["train"]["images"], idle_defaults({"model": {"fusion": "gmu"}})
    ('stored', {})
    """
    model, train = _section(stored, "model"), _section(stored, "train")
    speech = _section(model, "speech")
    fusion, branches = model.get("fusion"), model.get("branches")
    chosen = {
        FUSION: fusion if isinstance(fusion, str) else None,
        BRANCHES: branches if isinstance(branches, list) else None,
        NORMALIZE: train.get("normalize"),
        **{key: speech.get(key.rpartition(".")[2]) for key in OF_SPEECH},
    }
    found: dict[str, Any] = {}
    for key in idle_without_images(chosen):
        *sections, name = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = IDLE_WITHOUT_IMAGES[key]
    return found


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def what_would_use(config: Mapping[str, Any], key: str) -> tuple[str, tuple[str, ...]]:
    """Return the key that leaves another without effect, and its values that would not.

    Args:
        config: Dotted keys to values.
        key: One of `idle_without_images`.
    """
    if key in OF_TRAINED and "speech" in branches_of(config):
        return LORA_RANK, (f"a number (or {UNFROZEN})",)
    if config.get(FUSION) in ONE_BRANCH:
        return FUSION, READ_AN_IMAGE
    return BRANCHES, tuple(f"[..., {branch}]" for branch in IMAGES)
