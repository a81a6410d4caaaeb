"""Configs of baselines: what such a run keeps of a fusion's config, and its own section.

A baseline takes corpus, protocol, `run` and, where it reads images, `features` and
`model.image_size` from a fusion's config, so both have the same splits; and `train.normalize` where
it is `speaker`: then features are standardised by speaker, too. Every other key of the fusion's
config has no effect: its value is not checked, and the run folder does not store it.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import ValidationError, model_validator

from config.loading import (
    flatten,
    load_config,
    load_stored_config,
    parse_override,
    read_stored,
)
from config.messages import explain
from config.schema import (
    Config,
    CorpusConfig,
    FeaturesConfig,
    ImageSize,
    ModelConfig,
    ProtocolConfig,
    RunConfig,
    RunName,
)
from config.section import Section
from config.speech_schema import SpeechConfig
from config.tasks import TaskName
from config.training_schema import TrainConfig
from system.errors import InputError, nearest
from system.extras import check_extra, is_installed

log = logging.getLogger(__name__)

Kind = Literal["majority", "svm_images", "svm_functionals", "lstm", "ssl_linear"]
Functionals = Literal["egemaps", "mfcc"]
KINDS: tuple[str, ...] = get_args(Kind)
FUNCTIONALS: tuple[str, ...] = get_args(Functionals)
CHEAP = ("majority", "svm_images")  # seconds a fold, on what the fusions read anyway
SHARED = ("corpus", "protocol", "run")  # sections that every baseline takes from a fusion's config
OF_TRAINING = (
    "run.compile_cache",
    "run.shards",
    "run.trackers",
)  # keys of these with an effect on fusions alone
NORMALIZE = "train.normalize"  # its value `speaker` makes another protocol, of baselines too
READ_IMAGES = ("svm_images",)
READ_SPEECH = ("ssl_linear",)  # seconds a fold, too, where hidden states are kept
OF_SPEECH = (  # keys that have an effect on these
    *("model.branches", "model.speech.model", "model.speech.revision"),
    *("model.speech.layers", "model.speech.precision"),
)
AUTO = "auto"  # of --functionals


class BaselineConfig(Section):
    """Which simple method stands beside the fusions."""

    kind: Kind
    """The class frequencies of training (of ratings and votes their mean); an SVM (of ratings an
    SVR) on the images' band statistics or on functionals of the waveform; a small LSTM on MFCC; or
    a linear layer on the weighted hidden states of a speech model (SUPERB's form)."""
    functionals: Functionals | None = None
    """What svm_functionals reads: openSMILE's eGeMAPSv02 (extra `classic`), or statistics of MFCC;
    null with other kinds."""

    @model_validator(mode="after")
    def _check_effect(self) -> Self:
        if (self.functionals is None) == (self.kind == "svm_functionals"):
            needed = "egemaps or mfcc" if self.functionals is None else "null"
            raise ValueError(f"functionals must be {needed} with kind {self.kind}")
        return self


class SpeechModelConfig(Section):
    """The section of a fusion's section `model` that decides the hidden states."""

    speech: SpeechConfig


class ImageConfig(Section):
    """The one key of a fusion's section `model` that decides the images."""

    image_size: ImageSize
    """Height and width in pixels."""


class BySpeakerConfig(Section):
    """The one value of a fusion's section `train` that is a protocol of its own."""

    normalize: Literal["speaker"]
    """Standardise features by the utterances of their speaker, without labels."""


class BaselineRun(Section):
    """A whole run of a baseline."""

    name: RunName
    task: TaskName = "class"
    corpus: CorpusConfig
    protocol: ProtocolConfig
    features: FeaturesConfig | None = None
    """Only where it reads images, as `model`; that of a speech model has the section `speech`."""
    model: ImageConfig | SpeechModelConfig | None = None
    train: BySpeakerConfig | None = None
    """Only with `train.normalize: speaker`."""
    baseline: BaselineConfig
    run: RunConfig

    @property
    def reads_images(self) -> bool:
        """Whether it reads the feature store."""
        return self.baseline.kind in READ_IMAGES

    def as_config(self) -> Config:
        """Return a config with these sections, as plan and feature store read it."""
        model = ModelConfig(fusion="concat")  # not built
        if isinstance(self.model, ImageConfig):
            model = ModelConfig(fusion="concat", image_size=self.model.image_size)
        elif isinstance(self.model, SpeechModelConfig):
            model = ModelConfig(fusion="speech_only", speech=self.model.speech)
        return Config(
            name=self.name,
            task=self.task,
            corpus=self.corpus,
            protocol=self.protocol,
            features=self.features or FeaturesConfig(),
            model=model,
            train=TrainConfig() if self.train is None else TrainConfig(normalize="speaker"),
            run=self.run,
        )


def load_baseline(
    path: Path, kind: str, functionals: Functionals | None, overrides: Sequence[str] = ()
) -> BaselineRun:
    """Read a fusion's config as that of a baseline.

    Args:
        path: Config of a fusion.
        kind: Kind of the baseline.
        functionals: What `svm_functionals` reads; None with other kinds.
        overrides: Of keys that have an effect on this kind. Without `name=` the run is named after
            the config, with the kind in the place of the fusion: ravdess_small_svm_images.

    Raises:
        InputError: See `load_config`; or an override has no effect on a baseline.
    """
    keys = {key for override in overrides for key in flatten(parse_override(override))}
    for key in sorted(keys):
        if not concerns(key, kind):
            raise InputError(f"{key} has no effect on the baseline {kind}: leave it out")
    config = load_config(path, [*overrides, *_without_idle_keys(kind)])
    sections: dict[str, Any] = {key: getattr(config, key) for key in ("task", *SHARED)}
    if kind in READ_IMAGES:
        sections["features"] = config.features
        sections["model"] = ImageConfig(image_size=config.model.image_size)
    if kind in READ_SPEECH:
        if "speech" not in config.model.reads:
            raise InputError(
                f"the baseline {kind} reads the speech model of the branch `speech`, and {path} "
                "has none: add speech to model.branches, and model.speech.model"
            )
        speech = config.model.speech.model_copy(update={"pooling": "mean"})
        sections["model"] = SpeechModelConfig(speech=speech)
    if config.train.normalize == "speaker":
        sections["train"] = BySpeakerConfig(normalize="speaker")
    fusion = config.model.fusion
    name = config.name if "name" in keys else f"{config.name.removesuffix(f'_{fusion}')}_{kind}"
    baseline = BaselineConfig.model_validate({"kind": kind, "functionals": functionals})
    return BaselineRun(name=name, baseline=baseline, **sections)


def choose_functionals(kind: str, wanted: str) -> Functionals | None:
    """Return what `svm_functionals` reads, resolved once so that a run never mixes two.

    Args:
        kind: Kind of the baseline.
        wanted: egemaps, mfcc, or auto: eGeMAPS where opensmile is installed.

    Raises:
        InputError: Another kind reads no functionals, or opensmile is wanted and missing.
    """
    if kind != "svm_functionals":
        if wanted != AUTO:
            raise InputError(f"--functionals has an effect with --kind svm_functionals, not {kind}")
        return None
    if wanted == "egemaps":
        check_extra("--functionals egemaps", "opensmile", "classic")
    if wanted == "mfcc" or not is_installed("opensmile"):
        if wanted == AUTO:
            log.warning(
                "opensmile is not installed (extra `classic`: pip install -r "
                "requirements-classic.txt): statistics of MFCC take the place of eGeMAPS"
            )
        return "mfcc"
    return "egemaps"


def concerns(key: str, kind: str) -> bool:
    """Return whether a key of a fusion's config has an effect on a baseline.

    >>> concerns("corpus.root", "majority"), concerns("optim.lr", "majority")
    (True, False)

    `train.normalize` is one of them on every kind, since `speaker` is a protocol of its own.
    """
    section = key.partition(".")[0]
    if kind in READ_IMAGES and (section == "features" or key == "model.image_size"):
        return True
    if kind in READ_SPEECH and key in OF_SPEECH:
        return True
    return key in ("name", "task", NORMALIZE) or (section in SHARED and key not in OF_TRAINING)


def _without_idle_keys(kind: str) -> list[str]:
    """Return overrides that set what has no effect on a baseline to its default.

    So no such key is refused beside the others: they may be right only with an override that was
    meant for fusions. `model.fusion`, part of the run's name, stays.
    """
    fields = Config.model_fields.items()
    optional = {name: field.default for name, field in fields if not field.is_required()}
    sections = {name: value for name, value in optional.items() if isinstance(value, Section)}
    sections["model"] = ModelConfig(fusion="concat")
    defaults = flatten({name: section.model_dump() for name, section in sections.items()})
    idle = [key for key in defaults if not concerns(key, kind) and key != "model.fusion"]
    return [f"{key}={json.dumps(defaults[key])}" for key in idle]


def check_kind(kind: str) -> None:
    """Refuse a kind that does not exist.

    Raises:
        InputError: Names the nearest.
    """
    if kind not in KINDS:
        raise InputError(f"there is no baseline {kind!r}: {nearest(kind, KINDS)}")


def dump_run(config: Config | BaselineRun) -> str:
    """Return the complete config of a run as YAML, which `load_stored_run` reads back."""
    return yaml.safe_dump(_values(config), sort_keys=False, allow_unicode=True)


def run_values(config: Config | BaselineRun) -> dict[str, Any]:
    """Return the values of a run's config by dotted key; of a baseline, those that it has."""
    return flatten(_values(config))


def _values(config: Config | BaselineRun) -> dict[str, Any]:
    values = {key: value for key, value in config.model_dump().items() if value is not None}
    if isinstance(config, BaselineRun):
        values["baseline"] = config.baseline.model_dump(exclude_none=True)
    return values


def load_stored_run(path: Path) -> Config | BaselineRun:
    """Read the config.yaml that a run wrote, of a fusion or of a baseline.

    Raises:
        InputError: See `load_config`.
    """
    values = read_stored(path)
    if "baseline" not in values:
        return load_stored_config(path)
    try:
        return BaselineRun.model_validate(values)
    except ValidationError as error:
        sources = dict.fromkeys(flatten(values), str(path))
        raise InputError(explain(error, sources, str(path), False)) from None
