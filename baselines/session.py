"""Open the run of a baseline: the fusions' plan, splits and store, and a run folder of its own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.band_statistics import BandStatistics
from baselines.by_speaker import BySpeaker
from baselines.fitted import Fitted
from baselines.lstm import fit_lstm, with_differences
from baselines.majority import fit_majority, fit_mean
from baselines.network import Splits
from baselines.ssl_linear import fit_ssl_linear
from baselines.svm import fit_svm
from baselines.svr import fit_svr
from baselines.waveform_features import WaveformFeatures, mfcc_statistics
from config.baselines import READ_SPEECH, BaselineRun
from config.tasks import DISTRIBUTION, check_classes
from corpora.plan import check_listing, make_plan, plan_warnings
from corpora.utterance import Utterance
from storage.provenance import describe_environment, describe_process
from storage.run_folder import check_certificate, check_run_folder, open_run_folder, remove_run
from system.errors import InputError
from system.locks import lock
from system.signals import Stop
from training.beside import beside
from training.experiment import check_places, claimed, log_warnings
from training.session import Fold, Session, make_accelerator, open_store

NETWORKS = ("lstm", "ssl_linear")
OF_NETWORKS = ("global_batch", "precision", "deterministic")  # of environment.json


@dataclass(frozen=True)
class BaselineSession:
    """The opened run of a baseline.

    Args:
        config: Config of the run.
        session: Plan, store and folder, as those of a fusion.
        waveform_features: What it reads of waveforms, if it does.
    """

    config: BaselineRun
    session: Session
    waveform_features: WaveformFeatures | None = None

    def folds(self) -> Iterator[Fold]:
        """Yield the folds that the config asks for, with each seed."""
        return self.session.folds()

    def fit(self, fold: Fold) -> Fitted:
        """Fit on the fold's train split and choose on its dev split."""
        kind, n_classes, split = self.config.baseline.kind, len(fold.classes), fold.split
        if fold.task.kind == DISTRIBUTION:
            return fit_mean(fold.targets(split.train))
        if (scale := fold.task.scale) is not None:
            if kind == "majority":
                return fit_mean(fold.targets(split.train))
            return fit_svr(self._vectors_read, split.train, split.dev, scale)
        if kind == "majority":
            return fit_majority(fold.targets(split.train), n_classes)
        splits = Splits(split.train, split.dev, fold.targets, n_classes)
        device = self.session.accelerator.device
        if kind == "lstm":
            return fit_lstm(self._sequences_read, splits, fold.rng_seed, device)
        if kind == "ssl_linear":
            return fit_ssl_linear(self._states_read, splits, fold.rng_seed, device)
        return fit_svm(self._vectors_read, *splits)

    def _vectors_read(self, utterances: Sequence[Utterance]) -> NDArray:
        """Return the vectors that an SVM reads: (N, D)."""
        if self._by_speaker is None:
            return self._vectors(utterances)
        return np.concatenate(self._by_speaker(utterances))

    def _sequences_read(self, utterances: Sequence[Utterance]) -> list[NDArray]:
        """Return what the LSTM reads of each utterance: (T, 40) each."""
        if self._by_speaker is None:
            return self._sequences(utterances)
        return [frames.astype(np.float32) for frames in self._by_speaker(utterances)]

    def _states_read(self, utterances: Sequence[Utterance]) -> NDArray:
        """Return the pooled hidden states of each utterance: (N, L, D)."""
        if self._by_speaker is None:
            return self._states(utterances)
        flat = np.concatenate(self._by_speaker(utterances))  # (N, L * D)
        return flat.reshape(-1, *self._states(utterances[:1]).shape[1:])

    def _states(self, utterances: Sequence[Utterance]) -> NDArray:
        hashes = self._hashes(utterances)
        read = beside(self.session.sources, [u.id for u in utterances], hashes)["speech"]
        states: NDArray = read(np.arange(len(utterances))).float().numpy()
        return states

    @cached_property
    def _by_speaker(self) -> BySpeaker | None:
        """What standardises features by speaker; None without `train.normalize: speaker`."""
        if self.config.train is None:
            return None
        utterances = self.session.plan.utterances
        if self.config.baseline.kind == "lstm":
            return BySpeaker(utterances, self._sequences)
        if self.config.baseline.kind == "ssl_linear":
            return BySpeaker(utterances, lambda some: list(_flat(self._states(some))))
        return BySpeaker(utterances, lambda some: list(self._vectors(some)[:, None]))

    def _vectors(self, utterances: Sequence[Utterance]) -> NDArray:
        """Return one vector an utterance: (N, D)."""
        keys = self._hashes(utterances)
        if self.waveform_features is None:
            return self._band_statistics(keys)
        found: list[NDArray] = [self.waveform_features[key] for key in keys]
        if self.config.baseline.functionals == "mfcc":
            found = [mfcc_statistics(frames) for frames in found]
        return np.stack(found)

    def _sequences(self, utterances: Sequence[Utterance]) -> list[NDArray]:
        """Return the MFCC of each utterance with their differences: (T, 40) each."""
        assert self.waveform_features is not None
        keys = self._hashes(utterances)
        return [with_differences(self.waveform_features[key]) for key in keys]

    def _hashes(self, utterances: Sequence[Utterance]) -> list[str]:
        return [self.session.plan.hashes[utterance.audio] for utterance in utterances]

    @cached_property
    def _band_statistics(self) -> BandStatistics:
        return BandStatistics(self.session.store)


def _flat(states: NDArray) -> NDArray:
    """Return hidden states as one row each: (N, L, D) -> (N, 1, L * D)."""
    return states.reshape(len(states), 1, -1)


@contextmanager
def open_baseline(
    config: BaselineRun, command: Sequence[str], overwrite: bool = False, stop: Stop | None = None
) -> Iterator[BaselineSession]:
    """Certify the corpus, compute what the baseline reads, open the run folder.

    Args:
        config: Config of the run.
        command: Command line, for environment.json.
        overwrite: Remove an earlier run of this name, all but its ledger.
        stop: Flag, set by signals, that asks the run to end.

    Raises:
        InputError: The config, the corpus or the run folder cannot be used.
        RunError: Something could not be written, or another process works on the same run.
        KeyboardInterrupt: The process was asked to end; what was finished is kept.
    """
    stop, full = stop or Stop(), config.as_config()
    check_baseline(config, overwrite)
    store, accelerator = open_store(full), make_accelerator(full)  # refused before all is indexed
    folder = Path(full.run.root) / full.name
    with claimed(folder, full, overwrite):
        plan = make_plan(full, keep=True)
        session = Session(full, plan, store, accelerator, stop)
        features = _open_features(config)
        if config.reads_images:
            session = session.with_images()
        elif config.baseline.kind in READ_SPEECH:
            session = session.with_states(plan.utterances)
        elif features is not None:
            session = session.with_built(features.build, plan.utterances)
        session = replace(session, environment=_environment(session, config, command))
        with lock(folder / ".lock.opening", str(folder), blocking=True):
            if overwrite:
                remove_run(folder)
            check_run_folder(folder, config, overwrite)  # others may have begun meanwhile
            open_run_folder(folder, session.plan, session.environment, config)
        log_warnings(session.plan)
        stop.begun = True
        yield BaselineSession(config, session, features)


def _open_features(config: BaselineRun) -> WaveformFeatures | None:
    kind = "mfcc" if config.baseline.kind == "lstm" else config.baseline.functionals
    return None if kind is None else WaveformFeatures(Path(config.run.store), kind)


def dry_run(config: BaselineRun, overwrite: bool) -> str:
    """Check everything and make the plan; fit nothing, keep nothing. Return what a run would do.

    Raises:
        InputError: See `open_baseline`.
    """
    full = config.as_config()
    check_baseline(config, overwrite)
    session = Session(full, make_plan(full), open_store(full), make_accelerator(full))
    plan = session.plan
    if not overwrite:
        check_certificate(session.folder, plan)
    lines = [
        f"fold {split.fold}: train {len(split.train)}, dev {len(split.dev)}, "
        f"test {len(split.test)} utterances"
        for split in plan.wanted()
    ]
    n_seeds = len(config.run.seeds)
    return "\n".join(
        [
            f"baseline {config.baseline.kind}, certificate {plan.certificate['id']}, "
            f"{n_seeds} seed{'s' * (n_seeds > 1)}",
            *lines,
            *plan_warnings(plan),
            "Nothing was fitted.",
        ]
    )


def check_baseline(config: BaselineRun, overwrite: bool) -> None:
    """Check processes, run folder, places and tables; index no audio.

    Raises:
        InputError: One of them cannot be used.
        RunError: Something cannot be written.
    """
    kind = config.baseline.kind
    if kind in NETWORKS or (config.task == DISTRIBUTION and kind != "majority"):
        check_classes(config.task, f"the baseline {kind} is")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a baseline runs in one process: give the command without torchrun")
    full = config.as_config()
    check_run_folder(Path(full.run.root) / full.name, config, overwrite)
    check_places(full)
    check_listing(full)


def _environment(session: Session, config: BaselineRun, command: Sequence[str]) -> dict[str, Any]:
    """Return what made the run; batch and precision only where a network is trained."""
    train = session.config.train
    processes = [describe_process(session.accelerator.device)]
    found = describe_environment(
        command, processes, train.batch_size, train.precision, train.deterministic
    )
    own = ["scikit-learn", *["opensmile"] * (config.baseline.functionals == "egemaps")]
    packages = {**found["packages"], **{name: version(name) for name in own}}
    idle = () if config.baseline.kind in NETWORKS else OF_NETWORKS
    return {**{k: v for k, v in found.items() if k not in idle}, "packages": packages}
