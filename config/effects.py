"""Which keys have an effect, given the values of others: asked and answered here alone."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from config.fusions import (
    BRANCHES,
    FUSIONS,
    GATED,
    ONE_BRANCH,
    SOURCES,
    branches_of,
    fusions_that,
)
from config.image_keys import (
    IDLE_WITHOUT_IMAGES,
    LORA_RANK,
    UNFROZEN,
    idle_without_images,
    used_by_speech,
    what_would_use,
)


class Condition(NamedTuple):
    """Says that a key has an effect only with some values of another key."""

    controller: str  # the other key
    values: tuple[str, ...]  # of the controller
    default: Any  # taken where the key has an effect and is null


COUNTED = (  # corpora with published counts
    *("iemocap", "esd", "ravdess", "emodb", "cremad"),
    *("savee", "tess", "emovo", "nemo", "aesdd", "urdu", "meld"),
)
PUBLISHED = (*COUNTED, "msppodcast")  # corpora that have a reader
OWN = ("manifest", "folder")  # corpora whose words the user says
CLASSES_KEY = "corpus.classes (of a manifest or folder: corpus.labels)"  # what leaves classes out
SEVERAL = "several"  # `corpus.name` of a list of corpora
MAPPINGS = ("corpus.columns", "corpus.label_map")  # keys whose value is a mapping, no section
PROJECTED = fusions_that(lambda fusion: fusion.projects)
TOKENS = fusions_that(lambda fusion: fusion.reads_tokens)
CONTRASTIVE = fusions_that(lambda fusion: fusion.contrastive)
MATCHED = fusions_that(lambda fusion: fusion.widens)
BRANCH_SCALES = "optim.backbone_lr_scale"  # a number, or a mapping with a key for each branch
JOINING = tuple(name for name in FUSIONS if name not in ONE_BRANCH)
READ_CQT, READ_MEL, READ_SPEECH, READ_FILE = (
    tuple(name for name in FUSIONS if name in JOINING or ONE_BRANCH[name] == branch)
    for branch in SOURCES
)
SPEECH_KEYS: dict[str, Any] = dict.fromkeys(  # of `model.speech`, with what null stands for
    ("model", "revision", "layers", "tokens", "unfrozen_layers", "lora_rank", "lora_targets")
)
SPEECH_KEYS |= {"precision": "float16", "pooling": "mean"}
ONLY_WITH = {
    "corpus.manifest": Condition("corpus.name", ("manifest",), None),
    "corpus.layout": Condition("corpus.name", ("folder",), None),
    "corpus.columns": Condition("corpus.name", OWN, None),
    "corpus.label_map": Condition("corpus.name", OWN, None),
    "corpus.absolute_paths": Condition("corpus.name", OWN, False),
    "corpus.classes": Condition("corpus.name", PUBLISHED, None),
    "corpus.unannotated_speakers": Condition("corpus.name", ("msppodcast",), "exclude"),
    "corpus.expect_published_counts": Condition("corpus.name", COUNTED, True),
    "corpus.scale": Condition("task", ("dimensions",), None),
    "protocol.folds": Condition("protocol.split", ("given",), None),
    "protocol.n_folds": Condition("protocol.split", ("speaker-k-fold", "random-utterance"), 5),
    "augment.level_db": Condition("features.reference", ("full_scale",), 0.0),
    "augment.gain_db": Condition("train.images", ("computed",), 0.0),
    "augment.snr_db": Condition("train.images", ("computed",), None),
    "augment.speed": Condition("train.images", ("computed",), 0.0),
    "augment.pitch": Condition("train.images", ("computed",), 0.0),
    BRANCHES: Condition("model.fusion", JOINING, ["cqt", "mel"]),
    **{
        f"model.speech.{key}": Condition("model.fusion", READ_SPEECH, default)
        for key, default in SPEECH_KEYS.items()
    },
    "model.speech.tokens": Condition("model.fusion", TOKENS, None),
    "model.vectors": Condition("model.fusion", READ_FILE, None),
    "model.fusion_hidden_dim": Condition("model.fusion", PROJECTED, None),
    "model.gate_input": Condition("model.fusion", GATED, "projected"),
    "model.gate": Condition("model.fusion", GATED, "vector"),
    "model.projection": Condition("model.fusion", CONTRASTIVE, "separate"),
    "model.projection_dim": Condition("model.fusion", CONTRASTIVE, 128),
    "model.attention_heads": Condition("model.fusion", TOKENS, 4),
    "model.match_parameters": Condition("model.fusion", MATCHED, False),
    "model.cqt_backbone": Condition("model.fusion", READ_CQT, "maxvit_base_tf_224"),
    "model.mel_backbone": Condition("model.fusion", READ_MEL, "mvitv2_base"),
    "model.cqt_weights": Condition("model.fusion", READ_CQT, None),
    "model.mel_weights": Condition("model.fusion", READ_MEL, None),
    "model.cqt_from": Condition("model.fusion", READ_CQT, None),
    "model.mel_from": Condition("model.fusion", READ_MEL, None),
    "loss.alpha": Condition("model.fusion", CONTRASTIVE, 0.3),
    "loss.alpha_on": Condition("model.fusion", CONTRASTIVE, "views"),
    "loss.diversity": Condition("model.fusion", CONTRASTIVE, "minimised"),
    "loss.temperature": Condition("model.fusion", CONTRASTIVE, 0.07),
    "loss.temperature_range": Condition("model.fusion", CONTRASTIVE, None),
    "loss.nt_xent": Condition("model.fusion", CONTRASTIVE, "simclr"),
    "loss.nt_xent_weight": Condition("model.fusion", CONTRASTIVE, 1.0),
    "loss.nt_xent_warmup_epochs": Condition("model.fusion", CONTRASTIVE, 0),
    "loss.contrast": Condition("model.fusion", CONTRASTIVE, "pairs"),
    "loss.same_class": Condition("model.fusion", CONTRASTIVE, "negatives"),
    "optim.optimizer.cqt": Condition("model.fusion", READ_CQT, "adam"),
    "optim.optimizer.mel": Condition("model.fusion", READ_MEL, "radam"),
    "optim.optimizer.speech": Condition("model.fusion", READ_SPEECH, "adamw"),
    "optim.backbone_lr_scale.cqt": Condition("model.fusion", READ_CQT, 1.0),
    "optim.backbone_lr_scale.mel": Condition("model.fusion", READ_MEL, 1.0),
    "optim.backbone_lr_scale.speech": Condition("model.fusion", READ_SPEECH, 1.0),
    "optim.plateau_factor": Condition("optim.schedule", ("plateau",), 0.1),
    "optim.plateau_patience": Condition("optim.schedule", ("plateau",), 2),
    "optim.min_lr": Condition("optim.schedule", ("plateau", "cosine"), 1e-6),
    "optim.warmup_epochs": Condition("optim.schedule", ("cosine",), 0.0),
}
FEATURES, FROZEN = "train.features", "frozen"
FROZEN_BRANCHES = "model.frozen"
# Keys of how images and backbones are trained: with frozen features they have no effect, and must
# have these values
IDLE_IF_FROZEN: dict[str, Any] = {
    "augment.freq_mask": 0.0,
    "augment.time_mask": 0.0,
    "augment.time_shift": 0.0,
    "augment.freq_shift": 0.0,
    "augment.level_db": None,
    "augment.gain_db": None,
    "augment.snr_db": None,
    "augment.speed": None,
    "augment.pitch": None,
    "augment.mixup": 0.0,
    "model.cqt_weights": None,
    "model.mel_weights": None,
    "model.drop_path_rate": 0.0,
    FROZEN_BRANCHES: [],
    "optim.optimizer.cqt": None,
    "optim.optimizer.mel": None,
    BRANCH_SCALES: 1.0,
    f"{BRANCH_SCALES}.cqt": None,
    f"{BRANCH_SCALES}.mel": None,
    "train.images": "stored",
    "train.backbone_batch": None,
    "train.gradient_checkpointing": False,
    "train.compile": False,
    "run.compile_cache": None,
    "run.shards": None,
}


# Keys without effect, and their values, where all branches that a fusion reads are in model.frozen
IDLE_IF_ALL_FROZEN: dict[str, Any] = {
    "model.drop_path_rate": 0.0,
    BRANCH_SCALES: 1.0,
    "train.backbone_batch": None,
    "train.gradient_checkpointing": False,
}
OF_TRAINED_SPEECH = ("optim.optimizer.speech", f"{BRANCH_SCALES}.speech")
# Keys that have an effect only where a branch is among `model.branches`
OF_BRANCH = {
    **{
        branch: (
            *(f"model.{branch}_{word}" for word in ("backbone", "weights", "from")),
            *(f"optim.optimizer.{branch}", f"{BRANCH_SCALES}.{branch}"),
        )
        for branch in ("cqt", "mel")
    },
    "speech": (*(f"model.speech.{w}" for w in SPEECH_KEYS), *OF_TRAINED_SPEECH),
    "file": ("model.vectors",),
}
OF_ONE_CORPUS = r"^corpus\.(corpora\.)?(?!(corpora|columns|label_map)\.)[^.]+\."


def has_effect(config: Mapping[str, Any], key: str) -> bool:
    """Return whether a key has an effect in a config.

    Args:
        config: Dotted keys to values; the keys that decide must be among them.
        key: Dotted key; keys that depend on no other always have an effect.

    >>> has_effect({"model.fusion": "gmu"}, "loss.alpha")
    False
    >>> has_effect({"model.fusion": "gmu"}, "optim.lr")
    True
    >>> has_effect({"train.features": "frozen"}, "augment.mixup")
    False
    >>> has_effect({"model.frozen": ["cqt"]}, "optim.optimizer.cqt")
    False
    """
    if config.get(FEATURES) == FROZEN and key in IDLE_IF_FROZEN:
        return False
    if key in (*_idle_by_frozen(config), *_idle_by_choice(config), *idle_without_images(config)):
        return False
    condition = ONLY_WITH.get(key)
    return condition is None or config.get(condition.controller) in condition.values


def keys_without_effect(values: Mapping[str, Any]) -> list[str]:
    """Return the keys that some given values rule out; values that are not given rule out none.

    >>> keys_without_effect({"optim.schedule": "constant", "optim.lr": 1e-3})[:2]
    ['optim.plateau_factor', 'optim.plateau_patience']
    """
    ruled_out = [
        key
        for key, condition in ONLY_WITH.items()
        if condition.controller in values and not has_effect(values, key)
    ]
    more = (*_idle_by_choice(values), *_idle_by_frozen(values), *idle_without_images(values))
    ruled_out += [key for key in dict.fromkeys(more) if key not in ruled_out]
    if values.get(FEATURES) != FROZEN:
        return ruled_out
    return [*ruled_out, *(key for key in IDLE_IF_FROZEN if key not in ruled_out)]


def idle_value(key: str) -> Any:
    """Return the value that a key must have where it has no effect.

    >>> idle_value("loss.alpha"), idle_value("augment.mixup")
    (None, 0.0)
    """
    return IDLE_IF_FROZEN.get(key, IDLE_WITHOUT_IMAGES.get(key))


def is_speech_trained(config: Mapping[str, Any]) -> bool:
    """Return whether a part of the speech model is trained, given dotted keys."""
    return bool(config.get(LORA_RANK) or config.get(UNFROZEN))


def _idle_by_choice(config: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the keys of branches that are not read or not trained, and what rules each out."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    if config.get(LORA_RANK, 0) is None:
        found["model.speech.lora_targets"] = (LORA_RANK, ("a number",))
        if config.get(UNFROZEN, 0) is None:
            found |= dict.fromkeys(OF_TRAINED_SPEECH, (LORA_RANK, (f"a number (or {UNFROZEN})",)))
    if config.get("model.fusion", JOINING[0]) in JOINING and BRANCHES in config:
        read = branches_of(config)
        for branch in [branch for branch in OF_BRANCH if branch not in read]:
            found |= dict.fromkeys(OF_BRANCH[branch], (BRANCHES, (f"[..., {branch}]",)))
    return found


def _idle_by_frozen(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that have no effect because of `model.frozen`."""
    frozen = config.get(FROZEN_BRANCHES) or ()
    if not frozen:
        return []
    keys = [f"{key}.{one}" for key in ("optim.optimizer", BRANCH_SCALES) for one in frozen]
    is_all = "model.fusion" in config and set(branches_of(config)) <= {*frozen, "speech", "file"}
    used = used_by_speech(config) if is_all else tuple(IDLE_IF_ALL_FROZEN)
    return [*keys, *(key for key in IDLE_IF_ALL_FROZEN if key not in used)]


def what_rules_out(values: Mapping[str, Any], key: str) -> tuple[str, tuple[str, ...]]:
    """Return the key that leaves another without effect, and its values that would not.

    Args:
        values: Dotted keys to values.
        key: One of `keys_without_effect`.

    >>> what_rules_out({"optim.schedule": "cosine"}, "optim.plateau_factor")
    ('optim.schedule', ('plateau',))
    >>> what_rules_out({"train.features": "frozen"}, "augment.mixup")
    ('train.features', ('trained',))
    """
    if values.get(FEATURES) == FROZEN and key in IDLE_IF_FROZEN:
        return FEATURES, ("trained",)
    if key in _idle_by_frozen(values):
        return FROZEN_BRANCHES, ("[]",)
    if key in idle_without_images(values):
        return what_would_use(values, key)
    condition = ONLY_WITH[key]
    if key in (found := _idle_by_choice(values)) and not (
        condition.controller in values and values[condition.controller] not in condition.values
    ):
        return found[key]
    return condition.controller, condition.values


def deciding_key(key: str) -> str | None:
    """Return the key that decides whether this one has an effect, or None.

    >>> deciding_key("loss.alpha"), deciding_key("optim.lr")
    ('model.fusion', None)
    """
    condition = ONLY_WITH.get(key)
    return None if condition is None else condition.controller


def usual_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the keys that have an effect in a config and are null there.

    >>> usual_values({"model.fusion": "gmu", "model.gate": None, "model.projection_dim": None})
    {'model.gate': 'vector'}
    """
    return {
        key: condition.default
        for key, condition in ONLY_WITH.items()
        if key in config and config[key] is None and has_effect(config, key)
    }


def usual_value(key: str) -> Any:
    """Return the value that a key takes where it has an effect and is null, or 0 or false.

    >>> usual_value("loss.alpha"), usual_value("augment.mixup")
    (0.3, 0.0)
    """
    condition = ONLY_WITH.get(key)
    return idle_value(key) if condition is None else condition.default


def with_branch_scales(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with a rate for each branch, also where one number stands for both.

    >>> list(with_branch_scales({"model.fusion": "cqt_only", BRANCH_SCALES: 0.1}).values())
    ['cqt_only', 0.1, None]
    """
    values = dict(config)
    if BRANCH_SCALES in values:
        number, branches = values.pop(BRANCH_SCALES), branches_of(values)
        for branch in ("cqt", "mel", *(["speech"] if is_speech_trained(values) else [])):
            values[f"{BRANCH_SCALES}.{branch}"] = number if branch in branches else None
    return values


def whole_key(key: str) -> str:
    """Return the key that one of several corpora shares with a corpus alone.

    Args:
        key: Dotted key as a config stores it, or as the command line has it.

    >>> whole_key("corpus.corpora.esd.root"), whole_key("corpus.esd.root"), whole_key("run.root")
    ('corpus.root', 'corpus.root', 'run.root')
    """
    return re.sub(OF_ONE_CORPUS, "corpus.", key)


def overlap(key: str, other: str) -> bool:
    """Return whether two keys are one, or one is a part of the other.

    >>> overlap("optim.backbone_lr_scale", "optim.backbone_lr_scale.mel"), overlap("a.b", "a.bc")
    (True, False)
    """
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
