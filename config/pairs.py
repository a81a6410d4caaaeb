"""Values of config keys that are valid alone but not together."""

from collections.abc import Iterator

from config.effects import OWN
from config.messages import refuse
from config.schema import Config
from config.several import check_several, each_corpus, of_corpus
from config.tasks import CLASS, RATINGS, SCALES
from system.errors import InputError

Finding = tuple[tuple[str, ...], str]  # keys, and what is wrong with their values
WANTED = {
    "speech": "the folder of a saved model of transformers, or its name on the hub",
    "file": "an .npz or .safetensors with a vector for each recording",
}


def check_pairs(config: Config) -> None:
    """Refuse values that are valid alone but not together.

    Raises:
        InputError: One message that names the keys, and what to change.
    """
    optim, train = config.optim, config.train
    if optim.plateau_patience is not None and train.patience is not None:
        lowered_after = optim.plateau_patience + 1  # bad epochs; torch waits one more
        if train.patience <= lowered_after:
            raise InputError(
                f"train.patience={train.patience} would stop training before the learning rate is "
                f"lowered, because optim.plateau_patience={optim.plateau_patience}: set "
                f"train.patience to {lowered_after + 1} or more"
            )
    if train.backbone_batch is not None and train.backbone_batch >= train.batch_size:
        raise InputError(
            f"train.backbone_batch={train.backbone_batch} must be less than train.batch_size="
            f"{train.batch_size}, which it divides: lower it, or set it to null"
        )
    _check_compile(config)
    _check_branches(config)
    _check_started(config)
    _check_heads(config)
    _check_contrast(config)
    _check_task(config)
    snr = config.augment.snr_db
    if snr is not None and snr[0] > snr[1]:
        raise InputError(f"augment.snr_db must be [lowest, highest], got {snr}")
    if optim.min_lr is not None and optim.min_lr > optim.lr:
        raise InputError(f"optim.min_lr={optim.min_lr:g} is above optim.lr={optim.lr:g}")
    check_several(config)
    for key, own in each_corpus(config).items():
        with of_corpus(key):
            _check_corpus(own)
    for name, items in (("run.folds", config.run.folds), ("run.seeds", config.run.seeds)):
        if items is not None and (not items or len(set(items)) < len(items)):
            raise InputError(f"{name} must list at least one number and none twice, got {items}")


def without_effect(config: Config) -> Iterator[Finding]:
    """Yield what has no effect with several other keys, each of which would give it one."""
    model, cache = config.model, config.run.compile_cache
    if cache is not None and not config.train.compile:
        yield (
            ("run.compile_cache",),
            f"run.compile_cache={cache} has no effect with train.compile=false: set it to null, or "
            "train.compile to true",
        )
    if model.from_seed is not None and not set(model.loaded_later) & set(model.reads):
        yield (
            ("model.from_seed",),
            f"model.from_seed={model.from_seed} has no effect without model.cqt_from, "
            "model.mel_from or model.from: set it to null, or name the run from which a branch "
            "starts",
        )


def outweighed(config: Config) -> Iterator[Finding]:
    """Yield values whose effect another takes; runs of earlier versions may have them."""
    loss = config.loss
    if config.augment.gain_db and config.features.reference == "clip":
        yield (
            ("augment.gain_db",),
            f"augment.gain_db={config.augment.gain_db:g} has no effect with features.reference="
            "clip, which removes the level: set it to 0, or set features.reference=full_scale",
        )
    for key in ("nt_xent_warmup_epochs", "temperature_range"):
        if loss.nt_xent_weight == 0 and (value := getattr(loss, key)):
            yield (
                (f"loss.{key}", "loss.nt_xent_weight"),
                f"loss.{key}={value} has no effect with loss.nt_xent_weight=0, which takes NT-Xent "
                "out of the loss: leave one of the two out",
            )
    if loss.nt_xent_weight == 0 and loss.alpha == 0:
        yield (
            ("loss.nt_xent_weight", "loss.alpha"),
            "loss.nt_xent_weight=0 and loss.alpha=0 leave nothing of the contrastive loss, and the "
            "projection heads untrained: set model.fusion=gmu or cross_attention, or one of the "
            "two",
        )
    if loss.alpha == 0 and loss.diversity == "maximised":
        yield (
            ("loss.diversity", "loss.alpha"),
            "loss.diversity=maximised has no effect with loss.alpha=0, which takes L_con and L_div "
            "out of the loss: leave one of the two out",
        )


def check_effect(config: Config) -> None:
    """Refuse values whose effect another takes.

    Raises:
        InputError: One message that names the keys, and what to change.
    """
    refuse([line for _, line in outweighed(config)])


def _check_compile(config: Config) -> None:
    """Refuse what cannot be compiled."""
    train = config.train
    for key, why in (
        ("gradient_checkpointing", "a compiled graph decides itself what it keeps"),
        ("sync_batch_norm", "its processes wait for one another within a graph"),
    ):
        if train.compile and getattr(train, key):
            raise InputError(
                f"train.compile=true and train.{key}=true exclude each other ({why}): set one of "
                "the two to false"
            )


def _check_branches(config: Config) -> None:
    """Refuse branches that lack what they read, or that a key does not go with."""
    model, reads = config.model, config.model.reads
    for branch, key, value in (
        ("speech", "model.speech.model", model.speech.model),
        ("file", "model.vectors", model.vectors),
    ):
        if branch in reads and value is None:
            joins = f"model.branches={model.branches}"
            asks = f"model.fusion={model.fusion}" if model.branches is None else joins
            raise InputError(f"{asks} reads {branch}, which needs {key}: {WANTED[branch]}")
        if branch in reads and config.train.features == "frozen":
            raise InputError(
                f"train.features=frozen keeps the features of image branches: leave {branch} out "
                "of model.branches, or give train.features=trained and model.frozen for the images"
            )
    _check_speech(config)
    if (anchor := config.loss.contrast) not in (None, "pairs", *reads):
        raise InputError(
            f"loss.contrast={anchor} is no branch of this fusion, which joins {', '.join(reads)}: "
            "name one of these, or pairs"
        )


def _check_speech(config: Config) -> None:
    """Refuse settings of the speech model that exclude each other."""
    speech, mixup = config.model.speech, config.augment.mixup
    if speech.layers == []:
        raise InputError("model.speech.layers must name one layer or more, or be null for all")
    if speech.lora_targets == []:
        raise InputError("model.speech.lora_targets must name one or more, or be null")
    if speech.lora_rank and speech.unfrozen_layers:
        raise InputError(
            f"model.speech.lora_rank={speech.lora_rank} and model.speech.unfrozen_layers="
            f"{speech.unfrozen_layers} train a speech model in two ways: set one of them to null"
        )
    if speech.tokens and speech.pooling == "attention":
        raise InputError(
            f"model.speech.tokens={speech.tokens} are means over spans of frames, and "
            "model.speech.pooling=attention makes one vector of them: set tokens to null, or "
            "pooling to mean"
        )
    if "speech" in config.model.reads and mixup and speech.pooling == "attention":
        raise InputError(
            f"augment.mixup={mixup:g} mixes vectors, and model.speech.pooling=attention reads "
            "frames: set one of the two to 0 or mean"
        )
    if mixup and speech.is_trained:
        raise InputError(
            f"augment.mixup={mixup:g} mixes vectors, and a speech model of which a part is trained "
            "reads waveforms: set it to 0, or model.speech.lora_rank and unfrozen_layers to null"
        )


def _check_started(config: Config) -> None:
    """Refuse two origins of one branch, the seed of none, and random branches that stay so."""
    model = config.model
    _check_from(config)
    for branch, folder in model.started.items():
        if (file := getattr(model, f"{branch}_weights")) is not None:
            raise InputError(
                f"model.{branch}_from={folder} and model.{branch}_weights={file} both say where "
                "the branch starts: set one of the two to null"
            )
    if config.train.features == "frozen":
        missing = [b for b in model.reads if b not in model.loaded_later]
        if missing:
            keys = " and ".join(f"model.{branch}_from" for branch in missing)
            raise InputError(
                f"train.features=frozen trains the head alone: name the run whose branches it "
                f"reads by {keys}, or set train.features to trained; model.from names a trained "
                "model with all branches"
            )


def _check_from(config: Config) -> None:
    """Refuse two origins of one network, and frozen branches that are random or not there."""
    model = config.model
    if model.from_ is not None:
        for key in ("cqt_from", "mel_from", "cqt_weights", "mel_weights"):
            if (value := getattr(model, key)) is not None:
                raise InputError(
                    f"model.from={model.from_} and model.{key}={value} both say where a branch "
                    "starts: set one of the two to null"
                )
    for branch in model.frozen:
        if branch not in model.reads:
            raise InputError(
                f"model.frozen={model.frozen}: {model.fusion} has no {branch} branch: leave it out"
            )
        has_file = getattr(model, f"{branch}_weights") is not None
        if not (branch in model.loaded_later or has_file or model.pretrained):
            raise InputError(
                f"model.frozen={model.frozen}: the {branch} branch would stay at random weights. "
                f"Say where it starts by model.from, model.{branch}_from, model.{branch}_weights "
                "or model.pretrained=true, or leave it out"
            )


def _check_heads(config: Config) -> None:
    """Refuse attention heads that do not divide a given width; a backbone's is checked later."""
    width, heads = config.model.fusion_hidden_dim, config.model.attention_heads
    if width is not None and heads is not None and width % heads:
        raise InputError(
            f"model.attention_heads={heads} must divide model.fusion_hidden_dim={width}: "
            "change one of the two"
        )


def _check_contrast(config: Config) -> None:
    """Refuse keys of the contrastive loss that exclude one another."""
    loss = config.loss
    if config.augment.mixup and loss.same_class not in (None, "negatives"):
        raise InputError(
            f"loss.same_class={loss.same_class} needs utterances of one class each, but augment."
            f"mixup={config.augment.mixup:g} mixes two: set loss.same_class to negatives or "
            "augment.mixup to 0"
        )
    if (between := loss.temperature_range) is not None and loss.temperature is not None:
        if not between[0] < loss.temperature < between[1]:
            raise InputError(
                f"loss.temperature={loss.temperature:g} must lie between the two values of "
                f"loss.temperature_range={between}, lowest first: learning starts there"
            )


def _check_corpus(config: Config) -> None:
    """Refuse a manifest that is missing or taken, and a scale that is."""
    if (config.corpus.manifest is None) == (config.corpus.name == "manifest"):
        raise InputError(
            "corpus.manifest must be set to a table (CSV, TSV, JSONL, JSON, Parquet) with path, "
            "label and speaker"
        )
    if config.task == RATINGS:
        _check_scale(config)


def _check_task(config: Config) -> None:
    """Refuse keys that only classes give a meaning."""
    loss = config.loss
    if config.task == CLASS:
        return
    for key, value, idle in (
        ("loss.label_smoothing", loss.label_smoothing, 0.0),
        ("loss.focal_gamma", loss.focal_gamma, 0.0),
        ("loss.class_weights", loss.class_weights, "none"),
        ("loss.same_class", loss.same_class, "negatives"),
        ("train.sampling", config.train.sampling, "shuffled"),
    ):
        if value not in (idle, None):
            raise InputError(
                f"{key}={value} needs one class for each utterance, which task={config.task} does "
                f"not have: set it to {idle}"
            )


def _check_scale(config: Config) -> None:
    """Refuse a scale of ratings that is missing or taken."""
    corpus = config.corpus
    if corpus.name in SCALES:
        if corpus.scale is not None:
            low, high = SCALES[corpus.name]
            raise InputError(
                f"corpus.scale={corpus.scale} has no effect on {corpus.name}, whose ratings go "
                f"from {low:g} to {high:g}: set it to null"
            )
    elif corpus.name not in OWN:
        raise InputError(
            f"task={config.task} needs ratings, which {corpus.name} does not have: use "
            f"{', '.join(SCALES)}, or a manifest or folder with columns valence, arousal and "
            "dominance"
        )
    elif corpus.scale is None:
        raise InputError(
            "task=dimensions needs corpus.scale, the lowest and the highest rating that raters "
            "could give, e.g. [1, 7]"
        )
    elif corpus.scale[0] >= corpus.scale[1]:
        raise InputError(f"corpus.scale must be [lowest, highest], got {corpus.scale}")
