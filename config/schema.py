"""The schema of a config: every section and key with its type, range, unit and default.

A key is accepted only where it has an effect, see `config.effects`. The texts below the keys are
what editors show: `python -m scripts.make_schema` writes them to configs/schema.json.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from config.corpus_schema import CorpusConfig
from config.fusions import FUSIONS, ONE_BRANCH, SOURCES, branches_of
from config.section import Count, Fraction, Positive, Section, each_once
from config.speech_schema import SpeechConfig
from config.tasks import TaskName
from config.trackers import TRACKERS
from config.training_schema import AugmentConfig, OptimConfig, TrainConfig

Window = str | list[str | float]
Temperature = Annotated[float, Field(ge=1e-4, le=1e4)]  # beyond it float32 has no softmax
BranchName = Literal["cqt", "mel"]
SourceName = Literal["cqt", "mel", "speech", "file"]
ImageSize = Annotated[int, Field(ge=32, le=1024)]
Width = Annotated[int, Field(ge=1, le=65_536)]


def _known_device(name: str) -> str:
    if not re.fullmatch(DEVICE, name):
        raise ValueError("must be auto, cpu, cuda, cuda:0, cuda:1, ... or mps")
    return name


DEVICE = r"^(auto|cpu|mps|cuda(:(0|[1-9]\d?))?)$"
DeviceName = Annotated[
    str, AfterValidator(_known_device), Field(json_schema_extra={"pattern": DEVICE})
]
if TYPE_CHECKING:
    FusionName = str
    TrackerName = str
else:
    FusionName = Literal[tuple(FUSIONS)]
    TrackerName = Literal[TRACKERS]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ProtocolConfig(Section):
    """Which utterances train, select (dev) and test the model."""

    split: Literal[
        "leave-one-session-out",
        "leave-one-speaker-out",
        "speaker-k-fold",
        "random-utterance",
        "given",
        "cross-corpus",
    ]
    """How folds are made; `given` takes them from `folds`, or from the manifest's column `split` or
    `fold`; `cross-corpus` tests each test corpus of a list in turn."""
    folds: str | None = None
    """A table that comes with the code (configs/folds), a CSV, JSON or Parquet, or a folder of
    lists of train and test (EmoBox, s3prl, SpeechBrain); only with `split: given`."""
    dev: Literal["session", "speaker", "fold", "speakers", "dialogs", "random", "given"] | None = (
        None
    )
    """What the dev split consists of; null is the usual choice for the split."""
    n_folds: Annotated[int, Field(ge=3)] | None = None
    """Number of folds; only with speaker-k-fold and random-utterance."""
    allow_speaker_overlap: bool = False
    """Required for random-utterance, and for `folds` that share speakers: their scores say nothing
    about unseen speakers."""
    text_groups: Annotated[int, Field(ge=2)] | None = None
    """Split the sentences into this many groups, and make one fold for each part and group: no
    tested sentence is trained or selected on. null allows shared sentences and counts them."""
    near_identical: Literal["refuse", "count"] = "refuse"
    """Stop if recordings in two parts of a fold are nearly identical, or count and list them."""


class CqtConfig(Section):
    """Constant-Q transform, with librosa's parameter names."""

    fmin: Annotated[float, Field(ge=1)] = 32.70319566257483
    """Hz; the default is the note C1."""
    n_bins: Annotated[int, Field(ge=1, le=2000)] = 84
    bins_per_octave: Annotated[int, Field(ge=2, le=200)] = 12
    hop_length: Count = 512
    """Samples."""
    window: Window = "hann"
    """Any of scipy.signal.get_window: a name, or a list of name and parameters."""
    filter_scale: Positive = 1.0
    """Scales the length of the wavelets: below 1 is sharper in time, above 1 in frequency."""


class MelConfig(Section):
    """Mel-STFT, with librosa's parameter names."""

    n_fft: Annotated[int, Field(ge=16, le=131_072)] = 4096
    """Samples."""
    hop_length: Count = 256
    """Samples."""
    n_mels: Annotated[int, Field(ge=4, le=2000)] = 128
    fmin: Annotated[float, Field(ge=0)] = 0.0
    """Hz."""
    fmax: Positive | None = None
    """Hz; null is half the sample rate."""
    window: Window = "hann"
    """Any of scipy.signal.get_window: a name, or a list of name and parameters."""
    win_length: Count | None = None
    """Length of the window in samples; null is n_fft."""


class FeaturesConfig(Section):
    """From a waveform to two images in dB."""

    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = 44_100
    """Hz; hop_length and n_fft count samples at this rate. Images reach up to half of it."""
    input_rate: Annotated[int, Field(ge=4000, le=192_000)] | None = None
    """Hz at which audio is read, e.g. 16000 for a 16 kHz corpus, and then resampled on the device;
    null is sample_rate."""
    cqt: CqtConfig = CqtConfig()
    mel: MelConfig = MelConfig()
    top_db: Positive = 80.0
    """dB kept below the reference."""
    reference: Literal["clip", "full_scale"] = "clip"
    """What 0 dB is: the recording's own maximum (removes its level), or a full-scale tone."""
    channels: Literal["static", "delta"] = "static"
    """One channel, or three: static, delta and delta-delta."""
    seconds: Annotated[float, Field(ge=0.1, le=60)] | None = None
    """Length of a crop: training takes one at random, evaluation averages over all crops; null
    stretches each recording to the image width."""
    trim_db: Annotated[float, Field(ge=10, le=120)] | None = None
    """Leave out silence at both ends of a recording: frames this many dB below its loudest one.
    null keeps all."""


def _joined(branches: list[str]) -> list[str]:
    """Return what is joined in the order of `SOURCES`: another order is the same network.

    Raises:
        ValueError: One is there twice, or there are less than two.
    """
    if len(each_once(branches)) < 2:
        alone = ", ".join(ONE_BRANCH)
        raise ValueError(f"must name two or more; one alone is a model.fusion: {alone}")
    return [branch for branch in SOURCES if branch in branches]


class ModelConfig(Section):
    """The branches, and the fusion head that joins them."""

    fusion: FusionName
    """How the head joins the features of the branches, or which single branch it reads."""
    branches: Annotated[list[SourceName], AfterValidator(_joined)] | None = None
    """What is joined, two or more of: the images (cqt, mel), a pretrained speech model (speech),
    vectors of your own (file). null is [cqt, mel]."""
    speech: SpeechConfig = SpeechConfig()
    vectors: str | None = None
    """File of the branch `file`: a vector for each recording, .npz or .safetensors, named by
    utterance id or audio hash."""
    fusion_hidden_dim: Width | None = None
    """Width of the fused vector; null is the width of the wider branch."""
    gate_input: Literal["projected", "features"] | None = None
    """What the gate reads: the tanh projections, or the features, as in GloMER's code."""
    gate: Literal["vector", "scalar"] | None = None
    """One gate for each unit of the fused vector, or one for all units."""
    projection: Literal["separate", "shared"] | None = None
    """Projection heads of the views: one for each branch, on the tanh projections; or one shared by
    both, with a layer norm, on the pooled features (GloMER's code), whose widths must be equal."""
    projection_dim: Width | None = None
    """Width of the views that the contrastive loss compares."""
    attention_heads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Heads of the cross-modal attention; must divide the width of the fused vector."""
    match_parameters: bool | None = None
    """Widen the classifier (concat) or the projections (mean, sum) until the head has as many
    parameters as gmu's with the same settings (concat: of the default width); null is false."""
    cqt_backbone: str | None = None
    """Name of a timm model; null is maxvit_base_tf_224, or no branch with mel_only."""
    mel_backbone: str | None = None
    """Name of a timm model; null is mvitv2_base, or no branch with cqt_only."""
    pretrained: bool = True
    """Start from timm's weights; a branch with a local weights file, or from another run, loads
    these instead."""
    cqt_weights: str | None = None
    """Local weights file (.safetensors, or .pth with tensors only)."""
    mel_weights: str | None = None
    """Local weights file, as for cqt_weights."""
    cqt_from: str | None = None
    """Folder of a run from whose CQT branch this one starts, fold by fold: fold 3 from the weights
    of fold 3 there. Both runs must have the same folds (certificate), images and backbone."""
    mel_from: str | None = None
    """Folder of a run with a Mel branch, as for cqt_from."""
    from_seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of those runs from which all seeds start; null is the same seed there as here."""
    from_: str | None = Field(default=None, alias="from")
    """Folder of a trained model from which the whole network starts, for more training on the same
    or on other data: a run of the same folds (fold by fold, as for cqt_from), the folder of one of
    its folds, or a final model (scripts/fit_all.py). Its images and backbones must be the same. The
    last layer keeps the classes that both have; what does not fit starts anew and is named."""
    frozen: Annotated[list[BranchName], AfterValidator(each_once)] = []
    """Branches, [cqt, mel] or one of them, that stay as they start: no gradients, batch norms and
    dropout as in evaluation. train.features=frozen is quicker where both do and nothing is
    augmented."""
    image_size: ImageSize = 224
    """Height and width in pixels."""
    mlp_hidden_dim: Width = 512
    """Units of the classifier's hidden layer."""
    dropout: Fraction = 0.2
    """Before the last layer, and on the weights of the cross-modal attention."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth of both backbones: how often the last block is skipped in training, earlier
    blocks less often."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Branches that the fusion reads, in their order."""
        return branches_of({"model.fusion": self.fusion, "model.branches": self.branches})

    @property
    def started(self) -> dict[str, str]:
        """Folder of the run from which each branch starts, without branches that do not."""
        folders = {"cqt": self.cqt_from, "mel": self.mel_from}
        return {branch: folder for branch, folder in folders.items() if folder is not None}

    @property
    def loaded_later(self) -> Collection[str]:
        """Branches whose first weights are those of a run or of a trained model."""
        return tuple(self.started) if self.from_ is None else self.reads

    @model_serializer(mode="wrap")
    def _with_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write `from`, which is no name in Python, under its key."""
        return {key.removesuffix("_"): value for key, value in dump(self).items()}


class LossConfig(Section):
    """Cross-entropy, and the terms that the contrastive fusions add."""

    label_smoothing: Fraction = 0.0
    """Label smoothing of the cross-entropy."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Focal loss (Lin et al. 2017): multiplies the cross-entropy of each utterance by
    (1 - p)^focal_gamma, with p the probability of its target; 0 is plain cross-entropy. dev_loss
    stays plain, as without label smoothing and class weights."""
    class_weights: Literal["none", "balanced"] = "none"
    """Class weights of the cross-entropy: none, or inverse to the training counts."""
    alpha: Annotated[float, Field(ge=0, le=1.5)] | None = None
    """Weight of the consistency and diversity terms; NT-Xent stays at 0, see nt_xent_weight."""
    alpha_on: Literal["views", "features"] | None = None
    """Where these two terms act: on the views, or on the pooled features that the GMU reads
    (GloMER's code), whose widths must be equal."""
    diversity: Literal["minimised", "maximised"] | None = None
    """Whether the distance between both branches is minimised as in GloMER's code, which pulls them
    together, or maximised as the name of the term suggests."""
    temperature: Temperature | None = None
    """Divides the similarities of views; a small value stresses the nearest negatives."""
    temperature_range: Annotated[list[Temperature], Field(min_length=2, max_length=2)] | None = None
    """[lowest, highest]: learn the temperature within this range, starting from `temperature`; null
    keeps it fixed."""
    nt_xent: Literal["simclr", "cross_modal", "symmetric"] | None = None
    """Which views search for their partner, and where: all views among all (Chen et al. 2020), CQT
    views among Mel views (GloMER's code), or both directions (Radford et al. 2021)."""
    nt_xent_weight: Annotated[float, Field(ge=0, le=100)] | None = None
    """Weight of NT-Xent; at 0 it is only logged."""
    nt_xent_warmup_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs over which this weight rises in equal steps, from 0 in the first; where they would be
    all epochs, half of those."""
    contrast: Literal["pairs", "cqt", "mel", "speech", "file"] | None = None
    """Which branches the three terms compare where there are more than two: all pairs, or one
    branch with each of the others."""
    same_class: Literal["negatives", "ignored", "positives"] | None = None
    """How to treat other utterances of the same class: as negatives (NT-Xent), not at all, or as
    further positives (supervised contrastive, Khosla et al. 2020)."""


class RunConfig(Section):
    """Where and what to run; nothing here changes a fold's result."""

    root: str = "runs"
    """Folder of the run folders."""
    store: str = "runs/features"
    """Folder of the feature store, shared by all runs."""
    compile_cache: str | None = None
    """Folder of compiled graphs, shared by all runs, with `train.compile`; null is `compiled`
    beside run.store. Code in it is executed: nobody else should be able to write there."""
    shards: str | None = None
    """Folder of shards (scripts/write_shards.py) from which training reads: its audio with
    train.images=computed, its images with train.images=stored. Then the feature store holds dev and
    test alone. null reads audio files and feature store; the results are the same."""
    folds: list[Count] | None = None
    """Folds to run, e.g. [1, 2]; null runs all."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    """Seeds to run; each trains every fold once."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes that load data, and threads that build the feature store; 0 uses none."""
    device: DeviceName = "auto"
    """`auto` takes a GPU if torch can use one, and says so if not; cpu, cuda, cuda:1 (the second
    GPU) and mps are refused where they are not there."""

    trackers: Annotated[list[TrackerName], AfterValidator(each_once)] = ["tensorboard"]
    """What gets the epochs of each fold beside its history.csv, and its scores: tensorboard (events
    in the fold's folder), csv (epochs.csv, one table of all folds), wandb, mlflow (both of the
    extra `trackers`)."""

    @property
    def compile_folder(self) -> Path:
        """Folder of compiled graphs."""
        beside = Path(self.store).parent / "compiled"
        return beside if self.compile_cache is None else Path(self.compile_cache)


class Config(Section):
    """A whole run."""

    name: RunName
    """Name of the run folder."""
    task: TaskName = "class"
    """What is predicted: the class of an utterance; its valence, arousal and dominance; or the
    distribution of its raters' votes over the classes."""
    corpus: CorpusConfig
    protocol: ProtocolConfig
    features: FeaturesConfig = FeaturesConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
