"""A session: config, plan, feature store, device and stop flag, opened once and handed on whole.

Training, dry run, tuning, range test and gate analysis each open one. `session.fold(split, seed)`
is one training in it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from audio.row_norm import SpeakerNorm
from audio.segment import AudioSource
from config.fusions import IMAGES
from config.schema import Config
from corpora.plan import Plan, without_bad_audio
from corpora.splits import Split
from corpora.utterance import Utterance
from data import Vectors
from evaluation.tasks import Task, make_task
from features import SpectrogramImages
from storage.feature_store import FeatureStore, NoImages
from storage.fold_folder import fold_name
from storage.provenance import describe_process
from storage.shards import Shards
from storage.speech_store import SpeechStore
from system.compilers import compiler_problem, use_compile_cache
from system.devices import choose_device
from system.errors import InputError
from system.signals import Stop
from training.beside import Sources, beside, built_at_once, check_vectors, open_sources
from training.speakers import SpeakerStatistics, speaker_statistics
from training.stream import open_shards

log = logging.getLogger(__name__)
# Gradients are views of what is sent, not copies; `static_graph` fails together with `no_sync`
DDP = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
# From {audio hash: source} and a number of threads to {source: reason} of what is bad
Build = Callable[[Mapping[str, AudioSource], int], Mapping[AudioSource, str]]


@dataclass(frozen=True)
class Session:
    """What everything that trains or evaluates needs.

    Args:
        config: Config of the run.
        plan: Utterances, splits and certificate.
        store: Feature store of the config's images; `NoImages` where none is read.
        accelerator: Device, precision and processes.
        stop: Flag, set by signals, that asks the run to end.
        environment: Command, commit, machine and versions, see `storage.provenance`.
        resume_with: Number of these processes, where they may resume what others have saved.
        shards: What training reads in place of audio files or the store, or None.
        opened: What the branches beside the images read; None opens what the config names.
    """

    config: Config
    plan: Plan
    store: FeatureStore
    accelerator: Accelerator
    stop: Stop = field(default_factory=Stop)
    environment: Mapping[str, Any] = field(default_factory=dict)
    resume_with: int | None = None
    shards: Shards | None = None
    opened: Sources | None = None

    @property
    def folder(self) -> Path:
        """Run folder."""
        return Path(self.config.run.root) / self.config.name

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.accelerator.is_main_process

    @property
    def sources(self) -> Sources:
        """What the branches beside the images read."""
        return open_sources(self.config) if self.opened is None else self.opened

    @cached_property
    def speakers(self) -> SpeakerStatistics | None:
        """Statistics of the speakers' images, which must be there; None without their use."""
        if self.config.train.normalize != "speaker" or isinstance(self.store, NoImages):
            return None
        device, workers = self.accelerator.device, self.config.run.workers
        return speaker_statistics(self.plan, self.store, self.shards, device, workers)

    def fold(self, split: Split, seed: int) -> "Fold":
        """Return one training: a split with a seed."""
        return Fold(self, split, seed)

    def folds(self) -> "Iterator[Fold]":
        """Yield the folds that the config asks for, with each seed."""
        for split in self.plan.wanted():
            for seed in self.config.run.seeds:
                yield self.fold(split, seed)

    def with_images(self) -> "Session":
        """Compute what is read and not kept yet, images and states; leave out audio that is bad."""
        session = self
        plan: Plan | None = None
        while session.plan is not plan:  # without what proved bad a split may be another
            plan = session.plan
            session = session.with_built(self.store.build, session.stored())
            session = session.with_states(built_at_once(self.config, self.sources, session.plan))
        check_vectors(session.sources, session.plan)
        return session

    def with_states(self, utterances: Sequence[Utterance]) -> "Session":
        """Compute the hidden states of utterances, where a speech model is a branch."""
        session = self
        for source in self.sources.values():
            if isinstance(source, SpeechStore):
                build = partial(source.build, device=self.accelerator.device)
                session = session.with_built(build, utterances)
        return session

    def with_built(self, build: Build, utterances: Sequence[Utterance]) -> "Session":
        """Compute something of recordings; leave out audio that proves bad, and its copies.

        Args:
            build: Computes it, of identical recordings once, see `FeatureStore.build`.
            utterances: Whose recordings.
        """
        hashes = self.plan.hashes
        found = build({hashes[u.audio]: u.audio for u in utterances}, self.config.run.workers)
        reasons = {hashes[source]: reason for source, reason in found.items()}
        copies = {
            source: f"is identical to a recording that {reasons[key]}"
            for source, key in hashes.items()
            if key in reasons
        }
        return replace(self, plan=without_bad_audio(self.plan, {**copies, **found}))

    def with_shards(self) -> "Session":
        """Open the shards that the config names, from which training reads."""
        return replace(self, shards=open_shards(self.config, self.plan, self.store))

    def stored(self) -> Sequence[Utterance]:
        """Return the utterances whose images are in the feature store: with shards, not train's."""
        if self.config.run.shards is None:
            return self.plan.utterances
        splits = self.plan.wanted()
        return list(dict.fromkeys(u for split in splits for u in (*split.dev, *split.test)))


@dataclass(frozen=True)
class Fold:
    """One training: one split of a session with one seed."""

    session: Session
    split: Split
    seed: int

    @property
    def config(self) -> Config:
        """Config of the run."""
        return self.session.config

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or dimensions, in the order of the outputs."""
        return tuple(self.session.plan.labels.classes)

    @property
    def name(self) -> str:
        """Name of the fold's folder."""
        return fold_name(self.split.fold, self.seed)

    @property
    def folder(self) -> Path:
        """Folder of the fold."""
        return self.session.folder / "folds" / self.name

    @property
    def number(self) -> int | None:
        """Number of the fold; None of a final model, which is of none."""
        return self.split.fold

    @property
    def title(self) -> str:
        """Name of the training for its progress bar: which fold of how many, and its seed."""
        n = len(self.session.plan.splits)  # a study has one alone
        return f"fold {self.split.fold}{f' of {n}' if n > 1 else ''}, seed {self.seed}"

    @property
    def rng_seed(self) -> int:
        """Seed of everything random in this fold."""
        sequence = np.random.SeedSequence((self.seed, self.split.fold))
        return int(sequence.generate_state(1)[0])

    def ids(self, utterances: Sequence[Utterance]) -> list[str]:
        """Return utterance ids."""
        return [utterance.id for utterance in utterances]

    def hashes(self, utterances: Sequence[Utterance]) -> list[str]:
        """Return audio hashes."""
        return [self.session.plan.hashes[utterance.audio] for utterance in utterances]

    def norm(self, utterances: Sequence[Utterance]) -> SpeakerNorm | None:
        """Return what standardises images by their speakers; None without `normalize: speaker`."""
        speakers = self.session.speakers
        return None if speakers is None else speakers.of(utterances)

    def beside(self, utterances: Sequence[Utterance]) -> Mapping[str, Vectors]:
        """Return what the branches beside the images read of some utterances."""
        recordings = [u.audio for u in utterances] if self.config.model.speech.is_trained else None
        ids, hashes = self.ids(utterances), self.hashes(utterances)
        workers, device = self.config.run.workers, self.session.accelerator.device
        return beside(self.session.sources, ids, hashes, recordings, workers, device)

    @property
    def task(self) -> Task:
        """What is predicted."""
        labels = self.session.plan.labels
        return make_task(labels.task, labels.classes, labels.scale)

    def targets(self, utterances: Sequence[Utterance]) -> list[Any]:
        """Return class indices, or ratings."""
        return self.task.targets(utterances)


def open_session(config: Config, plan: Plan, stop: Stop | None = None) -> Session:
    """Open a session whose images are in the feature store and in the shards, to train.

    Raises:
        InputError: Audio that proves bad may not be left out.
        RunError: The store cannot be read or written.
    """
    session = Session(config, plan, open_store(config), make_accelerator(config), stop or Stop())
    return session.with_shards().with_images()


def open_store(config: Config) -> FeatureStore:
    """Open the feature store of a config's images; it is created by the first build.

    Where no branch reads an image it holds none, and no front end is made.
    """
    if not set(config.model.reads) & set(IMAGES):
        return NoImages(feature_settings(config))
    return FeatureStore(Path(config.run.store), SpectrogramImages(**feature_settings(config)))


def feature_settings(config: Config) -> dict[str, Any]:
    """Return the arguments of `SpectrogramImages`, which also name the feature store."""
    return {**config.features.model_dump(), "image_size": config.model.image_size}


def make_accelerator(config: Config) -> Accelerator:
    """Return device, precision and processes; log which device it is, and why not a GPU.

    Raises:
        InputError: `run.device` is not there or cannot be used.
    """
    # cuBLAS reads it when CUDA starts; without it equal matrix products may differ
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = choose_device(config.run.device)
    choose_deterministic(config.train.deterministic, torch.device(device.name))
    choose_tf32(config.train.precision == "tf32" and has_tf32(torch.device(device.name)))
    if config.train.compile:
        prepare_compiler(config, torch.device(device.name).type)
    precision = "bf16" if config.train.precision == "bfloat16" else "no"
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if n_processes == 1 and device.name != "cpu":  # of several each takes the GPU of its rank
        os.environ["ACCELERATE_TORCH_DEVICE"] = device.name  # its constructor takes no device
        if device.name.startswith("cuda:"):
            torch.cuda.set_device(device.name)
    on_cpu = device.name == "cpu"
    accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu, kwargs_handlers=[DDP])
    if accelerator.is_main_process:
        _log_device(accelerator, config, device.reason)
    return accelerator


def prepare_compiler(config: Config, device: str) -> None:
    """Check that torch can compile here, and let it keep its graphs where the config says.

    Raises:
        InputError: The machine lacks what torch needs to compile for the device.
    """
    if problem := compiler_problem(device):
        raise InputError(f"train.compile=true: {problem}; or give train.compile=false")
    use_compile_cache(config.run.compile_folder)


def choose_deterministic(strict: bool, device: torch.device) -> None:
    """Take deterministic algorithms wherever torch has them.

    The fused forms of attention on CUDA are deterministic in strict mode alone: where torch only
    warns, their backward pass adds in any order. There the plain form is taken.

    Args:
        strict: `train.deterministic`: an operation without a deterministic form is an error.
        device: Device that computes.
    """
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    # Filling memory that is written anyway would only take time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.backends.cuda.enable_flash_sdp(strict)
        torch.backends.cuda.enable_mem_efficient_sdp(strict)
        torch.backends.cuda.enable_cudnn_sdp(strict)


def choose_tf32(wanted: bool) -> None:
    """Let float32 products and convolutions round alike: torch has TF32 in convolutions alone.

    The older switches: a process that used the newer ones (`fp32_precision`) cannot compile, since
    the compiler reads the older (pytorch issue 189955).
    """
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


def has_tf32(device: torch.device) -> bool:
    """Return whether a device computes in TF32: NVIDIA, from compute capability 8.0 on."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _log_device(accelerator: Accelerator, config: Config, reason: str) -> None:
    here = describe_process(accelerator.device)
    n = accelerator.num_processes
    log.info(
        "device: %s (%s), %s, %d thread%s%s%s",
        accelerator.device,
        here["device"],
        config.train.precision,
        here["threads"],
        "s" * (here["threads"] != 1),
        f", {n} processes" if n > 1 else "",
        f"; no GPU: {reason}" if reason else "",
    )
    if config.train.precision == "tf32" and not has_tf32(accelerator.device):
        log.warning("train.precision=tf32: this device has no TF32 and computes in float32")
