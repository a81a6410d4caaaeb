"""Tuning: search values of a config on the dev split of one fold; test audio stays unopened.

Each trial trains the fold as a run would, with the run's own seed; its score is the best dev UA of
its epochs. Any number of processes may work on a study; what one leaves another resumes.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.effects import whole_key
from config.loading import dump_config, flatten, load_config, load_stored_config, with_new_names
from config.pairs import check_effect
from config.schema import Config
from config.trackers import refuse_trackers_by_fold
from corpora.stamps import stamps
from experiments.jobs import Failure, Job, run_jobs
from experiments.search_space import Space, as_overrides, read_space, trial_overrides
from experiments.slots import slot_environments
from experiments.storages import SQLITE, Store, check_storage
from experiments.study import (
    COMPLETE,
    DIVERGED,
    FAILED,
    INVALID,
    PRUNED,
    SAMPLER,
    Study,
    release,
    store_errors,
)
from experiments.tuning_report import best_first, describe_study, draw_figures, write_results
from models.settings import BACKBONES, FIRST_WEIGHTS
from storage.folders import CONFIG, STUDY, describe_changes
from system.errors import InputError, RunError, first_line
from system.files import make_folder, read_json, write_json, write_text
from system.locks import lock
from system.signals import Stop
from system.temporary import remove_leftovers

if TYPE_CHECKING:
    from optuna import Trial

    from corpora.plan import Plan

log = logging.getLogger(__name__)

# Keys that may differ when a study is resumed
FREE = (
    *("run.root", "run.store", "run.compile_cache", "run.shards", "run.workers", "run.device"),
    *("run.trackers", "optuna", "corpus.root", "corpus.manifest", "protocol.folds"),
    "train.checkpoint_",
)
# Keys of section `model` that decide which first weights are read
NETWORK = {f"model.{key}" for key in (*FIRST_WEIGHTS, *BACKBONES, "fusion", "image_size")}
WAIT = 2.0  # seconds between two checks of trials that other processes train


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    Args:
        config: Config of one fold and one seed.
        space: Distribution of each varied key.
        command: Command that resumes the tuning, without a number of workers.
        storage: Where the trials are: `sqlite`, `journal`, or a URL of PostgreSQL.
    """

    config: Config
    space: Space
    command: Sequence[str]
    storage: str = SQLITE

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return Path(self.config.run.root) / f"{self.config.name}_tuning"


def load_tuning(
    config_file: str,
    space_file: str,
    overrides: Sequence[str],
    command: Sequence[str],
    storage: str = SQLITE,
) -> Tuning:
    """Read config and space, and check them against the study if it exists.

    Raises:
        InputError: Config, space or storage is wrong or not the study's.
    """
    check_storage(storage)
    config = load_config(config_file, overrides)
    refuse_trackers_by_fold(config.run.trackers, "tune.py")
    folds, seeds = config.run.folds or [1], config.run.seeds
    for name, items in (("run.folds", folds), ("run.seeds", seeds)):
        if len(items) != 1:
            raise InputError(
                f"a study tunes on one fold with one seed, got {name}={items}: {name}=[{items[0]}]?"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a trial is one process: start tune.py itself, with --workers N")
    space, left_out = read_space(Path(space_file), config_file, overrides)
    for line in left_out:
        log.info("%s", line)
    config = load_config(config_file, [*overrides, *as_overrides({"run.folds": folds})])
    tuning = Tuning(config, space, command, storage)
    _check_study(tuning)
    # These import torch: after what is cheap to check
    from training.experiment import check_model, check_places
    from training.stream import check_shards

    check_places(config)
    check_shards(config)
    if not NETWORK & space.keys():  # else each trial checks its own network
        check_model(config)
    return tuning


def tune(tuning: Tuning, n_trials: int, n_workers: int, stop: Stop) -> str:
    """Train trials until a number of them is finished; write the results, and return a summary.

    Args:
        tuning: Config and search space.
        n_trials: Number of finished trials in the study, over all processes.
        n_workers: Processes that train; 1 is this one.
        stop: Flag, set by signals, that asks the tuning to end.

    Raises:
        InputError: The corpus is wrong, or not the study's.
        RunError: All workers failed, or no trial is complete in the end.
        KeyboardInterrupt: The process was asked to end; everything done so far is saved.
    """
    plan = open_folder(tuning)
    config, values = tuning.config, flatten(tuning.config.model_dump())
    chosen = config.run.seeds[0], config.train.epochs, tuning.storage
    study = Study(tuning.folder, tuning.space, *chosen, values)
    failures: Sequence[Failure] = ()
    with store_errors(study.store):
        if n_workers == 1:
            Worker(tuning, plan, study, stop).train_trials(n_trials)
        else:
            failures = start_workers(tuning, study, n_trials, n_workers)
        write_results(study, tuning.command)
        draw_figures(study)
        if study.n_finished() < n_trials:
            reasons = [f"  {job.title}: {reason} (in {job.log})" for job, reason in failures]
            raise RunError("\n".join(["all workers ended before the trials were done:", *reasons]))
        summary = describe_study(study)
        if not best_first(study.results()):
            raise RunError(summary)
        return "\n".join([*stamps(plan.certificate["protocol"], False), summary])


def open_folder(tuning: Tuning) -> "Plan":
    """Index train and dev utterances, and begin the folder of the study or check it.

    Raises:
        InputError: The corpus is wrong, or not the study's; or the shards are not the corpus's.
        RunError: A file cannot be written, or a shard is corrupt.
    """
    from corpora.plan import make_tuning_plan
    from training.session import open_store
    from training.stream import open_shards
    from training.warm_start import check_origins

    plan = make_tuning_plan(tuning.config, keep=True)
    check_origins(tuning.config, plan)
    open_shards(tuning.config, plan, open_store(tuning.config))  # else the first trial would fail
    folder, data = tuning.folder, plan.certificate["id"]
    make_folder(folder)
    with lock(folder / ".lock.opening", str(folder), blocking=True):
        _check_study(tuning, data)  # another process may have begun it meanwhile
        remove_leftovers(folder)
        if not (folder / CONFIG).exists():
            write_json(folder / STUDY, _record(tuning, data))
            write_text(folder / CONFIG, dump_config(tuning.config))  # last: now it is a study
    return plan


@dataclass(frozen=True)
class WorkerJob(Job):
    """A process that trains trials until the study has all of them."""

    study: Study
    n_trials: int

    @property
    def finished(self) -> bool:
        """Whether the study has all its trials."""
        return self.study.n_finished() >= self.n_trials


def start_workers(tuning: Tuning, study: Study, n_trials: int, n_workers: int) -> list[Failure]:
    """Run this command in several processes at once; return those that failed."""
    logs = tuning.folder / "logs"
    make_folder(logs, inside=tuning.folder)
    command = (sys.executable, *tuning.command[1:])
    n_workers = max(1, min(n_workers, n_trials - study.n_finished()))
    jobs = []
    for i in range(1, n_workers + 1):
        file = logs / f"{socket.gethostname()}-{os.getpid()}-{i}.log"
        jobs.append(WorkerJob(f"worker {i}", command, logs, file, study, n_trials))
    return run_jobs(jobs, slot_environments(n_workers, tuning.config.run.device))


class Worker:
    """A process that trains trials, one after the other."""

    def __init__(self, tuning: Tuning, plan: "Plan", study: Study, stop: Stop) -> None:
        from training.session import make_accelerator

        self.tuning, self.plan, self.study, self.stop = tuning, plan, study, stop
        self.accelerator = make_accelerator(tuning.config)

    def train_trials(self, n_trials: int) -> None:
        """Train trials until a number of them is finished, here or by other processes.

        Raises:
            RunError: What would end every trial: a full disk, corrupt data, an unreachable store.
            KeyboardInterrupt: The process was asked to end; the running trial keeps its state.
        """
        while self.study.n_finished() < n_trials:
            with self.study.claim(n_trials) as trial:
                if trial is not None:
                    self._train_and_finish(trial)
            if trial is None:
                time.sleep(WAIT)

    def _train_and_finish(self, trial: "Trial") -> None:
        """Train one trial, finish it, and update the results of the study."""
        from optuna.exceptions import OptunaError, TrialPruned
        from sqlalchemy.exc import SQLAlchemyError

        from training.checkpoints import Checkpoints
        from training.device_errors import OutOfMemory
        from training.divergence import Diverged

        dev_ua, reason = None, ""
        try:
            state, dev_ua = COMPLETE, self._train(trial)
            log.info("trial %d: dev UA %.4f", trial.number, dev_ua)
        except TrialPruned as pruned:
            state, reason = PRUNED, str(pruned)
        except InputError as error:
            state, reason = INVALID, str(error)
        except OutOfMemory as error:
            state, reason = FAILED, first_line(error.__cause__ or error)
        except (RunError, KeyboardInterrupt, OptunaError, SQLAlchemyError) as error:
            cause = error.__cause__
            if not isinstance(cause, Diverged) or cause.is_data:
                release(trial)
                raise
            state, reason = DIVERGED, str(cause)
        finally:
            self.accelerator.free_memory()
        with self.stop.deferred():
            self.study.finish(trial, state, dev_ua, reason)
            Checkpoints(self.study.trial_folder(trial.number) / "state").remove()
            write_results(self.study, self.tuning.command)

    def _train(self, trial: "Trial") -> float:
        """Train one trial to its end; return its best dev UA.

        Raises:
            optuna.TrialPruned: It is worse than the median of the complete trials.
            InputError: Its values contradict one another.
            RunError: It diverged, or what would end every trial.
        """
        from training.fold import train_fold
        from training.same_sources import keep_study_sources
        from training.session import Session, open_store

        folder = self.study.trial_folder(trial.number)
        for place in (folder, folder / "state"):
            remove_leftovers(place)
        values = trial.params
        log.info("trial %d: %s", trial.number, ", ".join(f"{k}={v}" for k, v in values.items()))
        name = f"{self.tuning.config.name}_trial-{trial.number}"
        config = trial_config(self.tuning, values, name)
        write_text(folder / CONFIG, dump_config(config))
        plan, store = replace(self.plan, config=config), open_store(config)
        session = Session(config, plan, store, self.accelerator, self.stop)
        try:
            keep_study_sources(self.study.folder, session)
            session = session.with_shards().with_images()
        except InputError as error:
            raise RunError(str(error)) from error  # every trial would fail alike
        fold = session.fold(session.plan.splits[0], config.run.seeds[0])
        progress = train_fold(
            fold, folder, lambda now: self.study.report(trial, now.best_score, now.epoch)
        )
        return progress.best_score


def trial_config(tuning: Tuning, values: Mapping[str, Any], name: str) -> Config:
    """Return the config of a trial.

    Raises:
        InputError: Its values contradict one another.
    """
    config = flatten(tuning.config.model_dump())
    free = {key: value for key, value in config.items() if whole_key(key).startswith(FREE)}
    overrides = [*as_overrides(free | {"name": name}), *trial_overrides(values, config)]
    trial = load_stored_config(tuning.folder / CONFIG, overrides)
    check_effect(trial)
    return trial


def _record(tuning: Tuning, data: str) -> dict[str, Any]:
    """Return all that must stay the same in a study, as plain values by their names."""
    from optuna import __version__ as version

    options = ", ".join(f"{name}={value}" for name, value in SAMPLER.items())
    return {
        **flatten(tuning.config.model_dump()),
        **{f"space of {key}": str(values) for key, values in tuning.space.items()},
        "sampler": f"TPESampler of Optuna {version.partition('.')[0]} with {options}",
        "train and dev utterances": data,
        "optuna": version,
        "storage": Store(tuning.folder, tuning.storage).kind,
    }


def _check_study(tuning: Tuning, data: str | None = None) -> None:
    """Refuse a folder of another config, space, sampler or corpus, or one that is not a study."""
    folder = tuning.folder
    if not (folder / CONFIG).exists():
        return
    if not (folder / STUDY).exists():
        raise InputError(f"{folder} is not a study (no {STUDY} in it): change name or run.root")
    stored = read_json(folder / STUDY, "sampler", "train and dev utterances", remove=folder)
    # Trials are built from this file: it counts, also where it was edited
    config = flatten(load_stored_config(folder / CONFIG).model_dump())
    stored = {"storage": SQLITE} | with_new_names(stored) | config  # older ones had no other
    now = _record(tuning, data or stored["train and dev utterances"])
    differences = describe_changes(stored, now, FREE)
    if differences:
        raise InputError(
            f"{folder} was made with another config, space or corpus:\n"
            + "\n".join(differences)
            + "\nChange `name` to keep both, or remove the folder to start anew"
        )
