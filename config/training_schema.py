"""The sections `augment`, `optim` and `train` of the schema: how one fold is trained."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from config.section import Count, Fraction, Positive, Section

Decibel = Annotated[float, Field(ge=-20, le=100)]
Optimizer = Literal["adam", "radam", "adamw", "sgd"]
Scale = Annotated[float, Field(gt=0, le=1e6)]
NUMBER, EACH = "(a number)", "(each)"  # forms of backbone_lr_scale


def _no_number(value: Any) -> Any:
    """Refuse 0 and 1, which equal false and true."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError("must be true, false or speaker")
    return value


class AugmentConfig(Section):
    """Random changes of the training data, drawn anew in each epoch; 0 is off."""

    freq_mask: Fraction = 0.0
    """Largest masked fraction of the image height."""
    time_mask: Fraction = 0.0
    """Largest masked fraction of the image width."""
    time_shift: Fraction = 0.0
    """Largest shift, as a fraction of the image width."""
    freq_shift: Fraction = 0.0
    """Largest shift of both images up or down in frequency, as a fraction of the image height: the
    idea of another voice height or vocal tract. On the CQT a shift changes the pitch (0.05 is 4
    semitones of 84 bins, 12 an octave), on the Mel image it is only like such a change."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Mix images and targets of two utterances, with shares drawn from Beta(mixup, mixup)."""
    level_db: Annotated[float, Field(ge=0, le=60)] | None = None
    """Largest change of level, dB, of both images together, stored or computed, floored at -top_db;
    only with features.reference=full_scale. What an image has at its floor rises with the rest:
    there only gain_db, which changes the waveform, is exact."""
    gain_db: Annotated[float, Field(ge=0, le=60)] | None = None
    """Largest change of level of the waveform, dB; level_db changes the images instead. This and
    the three below only with train.images=computed."""
    snr_db: Annotated[list[Decibel], Field(min_length=2, max_length=2)] | None = None
    """Add white noise at a signal-to-noise ratio from this range, e.g. [10, 30]; null adds none."""
    speed: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Largest change of speed, which also changes pitch: 0.1 is 0.9 to 1.1."""
    pitch: Annotated[float, Field(ge=0, le=12)] | None = None
    """Largest change of pitch in semitones, at constant speed."""


class BranchOptimizers(Section):
    """The optimizer of each part of the model."""

    cqt: Optimizer | None = None
    """null is adam, or none with mel_only."""
    mel: Optimizer | None = None
    """null is radam, or none with cqt_only."""
    speech: Optimizer | None = None
    """Of a speech model of which a part is trained; null is adamw, or none without."""
    head: Optimizer = "adam"


class BranchScales(Section):
    """Learning rate of each backbone, as a multiple of `lr`."""

    cqt: Scale | None = None
    """null is 1, or none with mel_only."""
    mel: Scale | None = None
    """null is 1, or none with cqt_only."""
    speech: Scale | None = None
    """Of a speech model of which a part is trained; null is 1, or none without."""


def _form(value: Any) -> str:
    return EACH if isinstance(value, dict | BranchScales) else NUMBER


class OptimConfig(Section):
    """Optimizers and the learning-rate schedule."""

    optimizer: BranchOptimizers = BranchOptimizers()
    lr: Positive = 0.02
    """Learning rate of the head, and of the backbones before backbone_lr_scale."""
    backbone_lr_scale: Annotated[
        Annotated[Scale, Tag(NUMBER)] | Annotated[BranchScales, Tag(EACH)], Discriminator(_form)
    ] = 1.0
    """Learning rate of the backbones, and of a speech model that is trained, as a multiple of `lr`;
    or of each, {cqt: 0.5, mel: 2.0}. One that is given over a number (backbone_lr_scale.mel) leaves
    that number to the others."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Of matrices and kernels; biases, norms and the backbones' position tables have none."""
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Multiplies the learning rate at a plateau of dev UA."""
    plateau_patience: Annotated[int, Field(ge=0)] | None = None
    """Epochs without a better dev UA that are tolerated; the next one lowers the learning rate."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    """Lowest learning rate of the head; the backbones' is in proportion."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """Epochs of linear rise before the cosine; where they would be all epochs, half of those."""

    def branch_lr_scales(self) -> dict[str, float]:
        """Return the learning rate of each backbone, as a multiple of `lr`."""
        scale = self.backbone_lr_scale
        if not isinstance(scale, BranchScales):
            return dict.fromkeys(("cqt", "mel", "speech"), scale)
        return {"cqt": 1.0, "mel": 1.0, **scale.model_dump(exclude_none=True)}


class TrainConfig(Section):
    """Training of one fold."""

    epochs: Count = 50
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Utterances per step and process."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """What an epoch consists of: each training utterance once, or as many of them, each class
    equally often. Then those of small classes repeat, changed by augmentation each time anew, and
    of large classes some are left out, others in each epoch."""
    backbone_batch: Annotated[int, Field(ge=2)] | None = None
    """Utterances of a batch that the backbones compute at once, in two forward passes instead of
    one, with equal gradients; head and loss, and so NT-Xent, see all of batch_size. Batch norms of
    the backbones see these utterances alone. A speech model that is trained, and frames that
    attention pools, are computed so, too. null is the whole batch."""
    accumulate: Count = 1
    """Batches whose gradients are added up before each optimizer step. The contrastive loss sees
    one batch at a time: its negatives come from batch_size and processes, not from this."""
    sync_batch_norm: bool = False
    """True lets batch norms use the batches of all processes, so that several equal one with a
    batch as large as all of theirs; false leaves each process its own. Alone it changes nothing."""
    clip_grad_norm: Positive | None = None
    """Largest norm of the gradient; null does not clip."""
    patience: Count | None = None
    """Epochs without a better dev UA before training stops; null trains all epochs."""
    eval_batch_size: Count | None = None
    """Crops of a batch and process in dev and test evaluation; null is backbone_batch, else
    batch_size."""
    ema: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Decay of an average of the weights (EMA), which dev selects, test reads and the fold keeps in
    their place; smaller in the first steps. null keeps the weights themselves."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of matrix products and convolutions alike. tf32 rounds their inputs to 10 bits (NVIDIA, from
    compute capability 8.0 on; elsewhere as float32). MViTv2 overflows in float16: not offered."""
    gradient_checkpointing: bool = False
    """True keeps only what enters each block of the backbones, and of a speech model that is
    trained, and computes the blocks again in the backward pass: less memory for more time, with
    equal results."""
    compile: bool = False
    """True computes both backbones as graphs of torch.compile, training and evaluation alike. It
    takes minutes once, since `run.compile_cache` keeps the graphs for later jobs; whether steps are
    quicker, and after how many it pays, depends on network and machine: `--dry-run` says it. Needs
    a C++ compiler, or Triton on a GPU. Changes results within rounding."""
    checkpoint_epochs: Count | None = None
    """Epochs between checkpoints at an epoch's end. null takes every end before which saving took
    at most a tenth of the time. The first and the last are always saved. Does not change results,
    and may differ when a run is resumed."""
    checkpoint_minutes: Positive | None = None
    """Minutes between checkpoints within an epoch. null is 15, or more where saving would take more
    than a tenth of the time. Does not change results, and may differ when a run is resumed."""
    deterministic: bool = False
    """True stops at an operation that has no deterministic form on the device; false warns of it.
    Both take deterministic forms where there are some."""
    max_bad_steps: Annotated[int, Field(ge=0)] = 3
    """Consecutive steps that may be skipped because the loss or a gradient is NaN or infinite.
    After more, training returns to the last epoch's end and tries float32, or stops."""
    channels_last: bool = True
    """Memory format of the convolution kernels: channels last, or contiguous."""
    normalize: Annotated[Literal[True, False, "speaker"], BeforeValidator(_no_number)] = True
    """true subtracts the mean of the training images and divides by their deviation, per branch and
    channel; false passes dB to the networks; speaker standardises each row of each image by all
    utterances of its speaker, tested ones too, without their labels: a transductive protocol with
    an id of its own."""
    features: Literal["trained", "frozen"] = "trained"
    """Train the branches, or leave them as the runs of model.cqt_from and model.mel_from, or the
    model of model.from, have them: their features of all recordings are computed once, kept in
    run.store, and the head alone is trained on them."""
    images: Literal["stored", "computed"] = "stored"
    """Training images: read from the feature store, or computed from waveforms batch by batch on
    the training device. Evaluation always reads the store."""
