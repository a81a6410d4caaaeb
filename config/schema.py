"""The schema of a run: every section and key, its type, range, unit and default.

A key is accepted only where it has an effect: `ONLY_WITH` lists the keys that belong to one choice
of another key, with the value they take there when left at null.
"""

from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field

from config.signal_schema import AugmentConfig, Count, FeaturesConfig, Fraction, Positive, Section

Temperature = Annotated[float, Field(ge=1e-4, le=1e4)]  # beyond it float32 has no softmax
ImageSize = Annotated[int, Field(ge=32, le=1024)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Optimizer = Literal["adam", "radam", "adamw", "sgd"]
Fusion = Literal[
    "concat",
    "mean",
    "sum",
    "gmu",
    "gmu_contrastive",
    "cross_attention",
    "cqt_only",
    "mel_only",
]


class CorpusConfig(Section):
    """Which recordings, and what their labels mean."""

    name: Literal["iemocap", "esd", "ravdess", "emodb", "cremad", "manifest"]
    root: str
    """Folder of the corpus; for a manifest, the folder its paths start from."""
    manifest: str | None = None
    """CSV or JSONL file with path, label, speaker; only for `name: manifest`."""
    absolute_paths: bool | None = None
    """Let the manifest name files outside `root` (absolute, ~, or with ..); null is false."""
    labels: str | list[str]
    """Name of a label set, e.g. iemocap4-exc; for a manifest `all` or a list of class names."""
    subset: str = "all"
    """`all` or a named part: improvised, scripted (IEMOCAP); english, mandarin (ESD)."""
    expect_published_counts: bool | None = None
    """Stop when the class counts differ from those published for the label set; null is true."""
    on_bad_audio: Literal["error", "skip"] = "error"
    """Stop at unreadable files, or leave them out and list them in the run folder."""


class ProtocolConfig(Section):
    """Who is trained on, who selects, who is tested."""

    split: Literal[
        "leave-one-session-out", "leave-one-speaker-out", "speaker-k-fold", "random-utterance"
    ]
    dev: Literal["session", "speaker", "fold", "speakers", "random"] | None = None
    """What makes up the dev split; null is the usual one of the split."""
    n_folds: Annotated[int, Field(ge=3)] | None = None
    """Number of folds of speaker-k-fold and random-utterance."""
    allow_speaker_overlap: bool = False
    """Needed for random-utterance, whose scores say nothing about unheard speakers."""
    text_groups: Annotated[int, Field(ge=2)] | None = None
    """Deal the texts to so many groups and test each apart, a fold for each part and group: no text
    that is tested is trained or selected on; null counts shared texts and lets them be."""
    near_identical: Literal["refuse", "count"] = "refuse"
    """Stop when recordings in two parts of a fold are nearly the same, or count and list them."""


class ModelConfig(Section):
    """Two backbones and the head that joins them."""

    fusion: Fusion
    fusion_hidden_dim: Width | None = None
    """Units of the joined vector; null is the width of the wider branch."""
    gate_input: Literal["projected", "features"] | None = None
    """What the gate reads: tanh projections (GloMER) or features (Arevalo et al. 2017)."""
    gate: Literal["vector", "scalar"] | None = None
    """A gate for each unit, or one for all of them."""
    projection_dim: Width | None = None
    """Width of the views that the contrastive loss compares."""
    attention_heads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Heads of the attention between the branches; must divide the width of the joined vector."""
    match_parameters: bool | None = None
    """Widen the classifier (concat) or the projections (mean, sum) until the head has as many
    parameters as that of gmu with the same settings (concat: of the usual width); null is false."""
    cqt_backbone: str | None = None
    """timm's name; null is maxvit_base_tf_224, or no branch for mel_only."""
    mel_backbone: str | None = None
    """timm's name; null is mvitv2_base, or no branch for cqt_only."""
    pretrained: bool = True
    """Start from timm's weights; a branch with a weights file of its own takes that."""
    cqt_weights: str | None = None
    """Local weights file (.safetensors, or .pth holding tensors only)."""
    mel_weights: str | None = None
    image_size: ImageSize = 224
    """Pixels, height and width."""
    mlp_hidden_dim: Width = 512
    dropout: Fraction = 0.2
    """Before the last layer, and of the attention between the branches."""


class LossConfig(Section):
    """Cross-entropy, and what the contrastive fusion adds."""

    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of cross-entropy: none, or inverse to the class counts of the training split."""
    alpha: Annotated[float, Field(ge=0, le=1.5)] | None = None
    """Weight of the consistency and diversity terms."""
    diversity: Literal["minimised", "maximised"] | None = None
    """What is done to the distance of the views: minimised as in GloMER's code, which pulls them
    together, or maximised, as the term's name says."""
    temperature: Temperature | None = None
    """Divides the similarities of views; small is hard on the nearest negatives."""
    temperature_range: Annotated[list[Temperature], Field(min_length=2, max_length=2)] | None = None
    """[lowest, highest]: the temperature is learned within them, from `temperature`; null keeps
    it as it is."""
    nt_xent: Literal["simclr", "cross_modal", "symmetric"] | None = None
    """Who looks for its partner where: all views among all (Chen et al. 2020), the CQT views among
    the Mel views (GloMER's code), or that and its opposite (Radford et al. 2021)."""
    same_class: Literal["negatives", "ignored", "positives"] | None = None
    """What other clips of a clip's class are: pushed apart as all others (NT-Xent), left out, or
    partners as well (supervised contrastive, Khosla et al. 2020)."""


class BranchOptimizers(Section):
    """The optimizer of each part."""

    cqt: Optimizer | None = None
    """null is adam, or none where there is no such branch."""
    mel: Optimizer | None = None
    """null is radam, or none where there is no such branch."""
    head: Optimizer = "adam"


class OptimConfig(Section):
    """Optimizers and the learning-rate schedule."""

    optimizer: BranchOptimizers = BranchOptimizers()
    lr: Positive = 0.02
    backbone_lr_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Learning rate of both backbones, as a multiple of `lr`."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    plateau_patience: Annotated[int, Field(ge=0)] | None = None
    """Epochs without a better dev UA that are borne; the rate falls at the next one."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """Epochs of linear rise before the cosine."""


class TrainConfig(Section):
    """One fold's training."""

    epochs: Count = 50
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Clips a process a step."""
    accumulate: Count = 1
    """Batches whose gradients are added up before a step."""
    clip_grad_norm: Positive | None = None
    patience: Count | None = None
    """Epochs without a better dev UA before training stops; null trains all epochs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float16 is not offered: MViTv2 overflows in it."""
    checkpoint_minutes: Positive | None = 15.0
    """Minutes between two saved states within an epoch, beside the one at each epoch's end; null is
    none. It changes no result and may differ when a run is resumed."""
    max_bad_steps: Annotated[int, Field(ge=0)] = 3
    """Steps in a row that are skipped because the loss or gradient is NaN or infinite; at the next
    one training goes back to the last epoch's end and tries float32, or stops with the cause."""
    channels_last: bool = True
    normalize: bool = True
    """Subtract the mean of the training split's images and divide by their deviation, a view and
    channel each; false gives the networks dB."""
    images: Literal["stored", "computed"] = "stored"
    """Training images: from the feature store, or from waveforms, a batch at a time, on the
    training device. Evaluation always reads the store."""


class RunConfig(Section):
    """Where and what to run; nothing here changes a fold's result."""

    root: str = "runs"
    store: str = "runs/features"
    """Folder of the feature store, shared by all runs."""
    folds: list[Count] | None = None
    """Folds to run, e.g. [1, 2]; null is all of them."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes that load data, and threads that build the feature store; 0 is neither."""
    device: Literal["auto", "cpu"] = "auto"


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run folder."""
    corpus: CorpusConfig
    protocol: ProtocolConfig
    features: FeaturesConfig = FeaturesConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()


class Only(NamedTuple):
    """A key that works only with some values of another key."""

    controller: str
    values: tuple[Any, ...]
    default: Any  # taken where it works and is null


PUBLISHED = ("iemocap", "esd", "ravdess", "emodb", "cremad")
GATED = ("gmu", "gmu_contrastive", "cross_attention")
UNGATED = tuple(fusion for fusion in get_args(Fusion) if fusion not in GATED)
PROJECTED = ("mean", "sum", *GATED)
CONTRASTIVE = ("gmu_contrastive",)
READ_CQT = tuple(fusion for fusion in get_args(Fusion) if fusion != "mel_only")
READ_MEL = tuple(fusion for fusion in get_args(Fusion) if fusion != "cqt_only")
ONLY_WITH = {
    "corpus.manifest": Only("corpus.name", ("manifest",), None),
    "corpus.absolute_paths": Only("corpus.name", ("manifest",), False),
    "corpus.expect_published_counts": Only("corpus.name", PUBLISHED, True),
    "protocol.n_folds": Only("protocol.split", ("speaker-k-fold", "random-utterance"), 5),
    "augment.gain_db": Only("train.images", ("computed",), 0.0),
    "augment.snr_db": Only("train.images", ("computed",), None),
    "augment.speed": Only("train.images", ("computed",), 0.0),
    "augment.pitch": Only("train.images", ("computed",), 0.0),
    "model.fusion_hidden_dim": Only("model.fusion", PROJECTED, None),
    "model.gate_input": Only("model.fusion", GATED, "projected"),
    "model.gate": Only("model.fusion", GATED, "vector"),
    "model.projection_dim": Only("model.fusion", CONTRASTIVE, 128),
    "model.attention_heads": Only("model.fusion", ("cross_attention",), 4),
    "model.match_parameters": Only("model.fusion", ("concat", "mean", "sum"), False),
    "model.cqt_backbone": Only("model.fusion", READ_CQT, "maxvit_base_tf_224"),
    "model.mel_backbone": Only("model.fusion", READ_MEL, "mvitv2_base"),
    "model.cqt_weights": Only("model.fusion", READ_CQT, None),
    "model.mel_weights": Only("model.fusion", READ_MEL, None),
    "loss.alpha": Only("model.fusion", CONTRASTIVE, 0.3),
    "loss.diversity": Only("model.fusion", CONTRASTIVE, "minimised"),
    "loss.temperature": Only("model.fusion", CONTRASTIVE, 0.07),
    "loss.temperature_range": Only("model.fusion", CONTRASTIVE, None),
    "loss.nt_xent": Only("model.fusion", CONTRASTIVE, "simclr"),
    "loss.same_class": Only("model.fusion", CONTRASTIVE, "negatives"),
    "optim.optimizer.cqt": Only("model.fusion", READ_CQT, "adam"),
    "optim.optimizer.mel": Only("model.fusion", READ_MEL, "radam"),
    "optim.plateau_factor": Only("optim.schedule", ("plateau",), 0.1),
    "optim.plateau_patience": Only("optim.schedule", ("plateau",), 2),
    "optim.min_lr": Only("optim.schedule", ("plateau", "cosine"), 1e-6),
    "optim.warmup_epochs": Only("optim.schedule", ("cosine",), 0.0),
}
