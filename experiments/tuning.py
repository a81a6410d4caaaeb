"""Values of a config are tuned on the dev split of one fold, of which no test clip is opened.

Each trial trains the fold as a run would, with the run's own chance; its score is the best dev UA
of its epochs, reported after each. The study is a folder, and any number of processes may work on
it at once; a trial that one of them leaves is taken up by another where its state was saved.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from optuna.trial import Trial

from config.loading import dump_config, flatten, load_config
from config.schema import Config
from corpora.plan import Plan, make_tuning_plan
from experiments.jobs import Failure, Job, run_jobs, slots_for
from experiments.search_space import Space, as_overrides, describe_space, overrides_of, read_space
from experiments.trials import DIVERGED, FAILED, INVALID, PRUNED, Trials
from experiments.tuning_report import (
    best_first,
    describe_study,
    draw_study,
    write_best,
    write_trials,
)
from storage.checkpoints import Checkpoints
from storage.feature_store import FeatureStore
from system.errors import InputError, RunError
from system.files import make_folder, read_json, remove_leftovers, write_json, write_text
from system.locks import lock
from system.signals import Stop
from training.divergence import Diverged
from training.experiment import STUDY, check_places, feature_settings, fill_store, make_accelerator
from training.fold import train_fold
from training.job import FoldJob
from training.progress import Progress

log = logging.getLogger(__name__)

CONFIG, ABOUT = "config.yaml", STUDY
# Keys that may differ when a study is gone on with
FREE = (
    *("run.root", "run.store", "run.workers", "run.device"),
    *("corpus.root", "corpus.manifest", "train.checkpoint_minutes"),
)
LOOK = 2.0  # seconds between two looks at trials that others are at work on


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    Args:
        config: Of one fold and one seed.
        space: What is varied.
        command: That goes on with it, without a number of workers.
    """

    config: Config
    space: Space
    command: Sequence[str]

    @property
    def folder(self) -> Path:
        """Of the study."""
        return Path(self.config.run.root) / f"{self.config.name}_tuning"


class _Pruned(Exception):
    """A trial does not promise enough to be trained on."""


def load_tuning(
    recipe: str, space_file: str, overrides: Sequence[str], command: Sequence[str]
) -> Tuning:
    """Read what is to be tuned, and check it against the study that is there.

    Raises:
        InputError: Config or space is wrong, names several folds or seeds, or is not the study's.
    """
    config = load_config(recipe, overrides)
    folds, seeds = config.run.folds or [1], config.run.seeds
    for name, items in (("run.folds", folds), ("run.seeds", seeds)):
        if len(items) != 1:
            raise InputError(
                f"a study is tuned on one fold with one seed, and {name}={items}: give one, e.g. "
                f"{name}=[{items[0]}]"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a trial is one process: start tune.py itself, with --workers N")
    space, lines = read_space(Path(space_file), recipe, overrides)
    for line in lines:
        log.info("%s", line)
    config = load_config(recipe, [*overrides, *as_overrides({"run.folds": folds})])
    tuning = Tuning(config, space, command)
    _check_study(tuning)
    check_places(config)
    return tuning


def tune(tuning: Tuning, most: int, workers: int, stop: Stop) -> str:
    """Train trials until so many are settled; write what came of them, and return it in words.

    Args:
        tuning: What is tuned.
        most: Trials of the study in all, whoever trains them.
        workers: Processes that train; 1 is this one.
        stop: Says when to end early.

    Raises:
        InputError: The corpus is not as it must be, or not the study's.
        RunError: No worker can go on, or no trial is complete in the end.
        KeyboardInterrupt: The process was asked to end; nothing that was done is lost.
    """
    plan, trials = open_tuning(tuning)
    failures: Sequence[Failure] = ()
    if workers == 1:
        work(tuning, plan, trials, most, stop)
    else:
        failures = _hire(tuning, trials, most, workers)
    write_trials(tuning.folder, trials)
    write_best(tuning.folder, trials, tuning.command)
    draw_study(tuning.folder, trials)
    if trials.n_ended() < most:
        told = [f"  {job.title}: {reason} (in {job.log})" for job, reason in failures]
        raise RunError("\n".join(["all workers ended before the trials were done:", *told]))
    words = describe_study(tuning.folder, trials)
    if not best_first(trials.outcomes()):
        raise RunError(words)
    return words


def open_tuning(tuning: Tuning) -> tuple[Plan, Trials]:
    """Hear train and dev clips, and open the study.

    Raises:
        InputError: The corpus is not as it must be, or it is not the study's.
        RunError: Something cannot be written.
    """
    plan = make_tuning_plan(tuning.config, keep=True)
    folder = tuning.folder
    make_folder(folder)
    with lock(folder / ".lock.opening", str(folder), blocking=True):
        _check_study(tuning, plan)  # others may have begun meanwhile
        remove_leftovers(folder)
        if not (folder / CONFIG).exists():
            about = {"space": describe_space(tuning.space), "data": dict(plan.certificate)}
            write_json(folder / ABOUT, about)
            write_text(folder / CONFIG, dump_config(tuning.config))  # last: now it is a study
    config = tuning.config
    return plan, Trials(folder, tuning.space, config.run.seeds[0], config.train.epochs)


def work(tuning: Tuning, plan: Plan, trials: Trials, most: int, stop: Stop) -> None:
    """Train trials until so many are settled, by this process or by others.

    Raises:
        RunError: What would end every trial: a full disk, corrupt data, a store out of reach.
        KeyboardInterrupt: The process was asked to end; the trial at work keeps its state.
    """
    accelerator = make_accelerator(tuning.config)
    while trials.n_ended() < most:
        with trials.claim(most) as trial:
            if trial is not None:
                _try(tuning, plan, trials, trial, accelerator, stop)
        if trial is None:
            time.sleep(LOOK)  # until those at work are done, or gone


@dataclass(frozen=True)
class _Worker(Job):
    """A process that trains trials until all are settled."""

    trials: Trials
    most: int

    @property
    def finished(self) -> bool:
        """Whether the study has all its trials."""
        return self.trials.n_ended() >= self.most


def _hire(tuning: Tuning, trials: Trials, most: int, workers: int) -> Sequence[Failure]:
    """Have processes work on the study, this very command each; return those that gave up."""
    make_folder(tuning.folder / "logs", inside=tuning.folder)
    command = (sys.executable, *tuning.command[1:])
    crew = []
    workers = max(1, min(workers, most - trials.n_ended()))  # more would have nothing to do
    for i in range(1, workers + 1):
        name = f"{socket.gethostname()}-{os.getpid()}-{i}"
        place = tuning.folder / "logs"
        crew.append(_Worker(f"worker {i}", command, place, place / f"{name}.log", trials, most))
    return run_jobs(crew, slots_for(workers, tuning.config.run.device))


def _try(
    tuning: Tuning,
    plan: Plan,
    trials: Trials,
    trial: Trial,
    accelerator: Accelerator,
    stop: Stop,
) -> None:
    """Train one trial, settle it, and write down how the study stands."""
    place = trials.place(trial.number)
    try:
        with trials.timed(trial):
            progress = _train(tuning, plan, trials, trial, accelerator, stop)
        with stop.deferred():
            trials.complete(trial, progress.best_ua, progress.best_epoch)
            log.info("trial %d: dev UA %.4f", trial.number, progress.best_ua)
    except _Pruned as pruned:
        trials.give_up(trial, PRUNED, str(pruned))
    except InputError as error:
        trials.give_up(trial, INVALID, str(error))
    except torch.OutOfMemoryError as error:
        trials.give_up(trial, FAILED, str(error).splitlines()[0])
    except RunError as error:
        cause = error.__cause__
        if not isinstance(cause, Diverged) or cause.is_data:
            trials.lay_down(trial)
            raise
        trials.give_up(trial, DIVERGED, str(cause))
    except KeyboardInterrupt:
        trials.lay_down(trial)
        raise
    finally:
        accelerator.free_memory()
    with stop.deferred():
        Checkpoints(place / "state").remove()
        write_trials(tuning.folder, trials)
        write_best(tuning.folder, trials, tuning.command)


def _train(
    tuning: Tuning,
    plan: Plan,
    trials: Trials,
    trial: Trial,
    accelerator: Accelerator,
    stop: Stop,
) -> Progress:
    """Train one trial to its end.

    Raises:
        _Pruned: It does not promise enough.
        InputError: Its values do not go together.
        RunError: It diverged, or what would end every trial.
    """
    place = trials.place(trial.number)
    for folder in (place, place / "state"):
        remove_leftovers(folder)
    values = trial.params
    log.info("trial %d: %s", trial.number, ", ".join(f"{k}={v}" for k, v in values.items()))
    config = trial_config(tuning, values, f"{tuning.config.name}_trial-{trial.number}")
    write_text(place / "config.yaml", dump_config(config))
    store = FeatureStore(Path(config.run.store), feature_settings(config))
    try:
        plan = fill_store(replace(plan, config=config), store)
    except InputError as error:
        raise RunError(str(error)) from error  # of the clips: no trial would fare better
    classes, seed = plan.labels.classes, config.run.seeds[0]
    job = FoldJob(config, classes, plan.splits[0], seed, plan.hashes, plan.certificate, {})

    def watch(progress: Progress) -> None:
        if reason := trials.report(trial, progress.best_ua, progress.epoch):
            raise _Pruned(reason)

    return train_fold(job, place, store, accelerator, stop, watch).trainer.progress


def trial_config(tuning: Tuning, values: Mapping[str, Any], name: str) -> Config:
    """Return the config of a trial.

    Raises:
        InputError: Its values do not go together.
    """
    now = flatten(tuning.config.model_dump())
    free = {key: value for key, value in now.items() if key.startswith(FREE)} | {"name": name}
    file = tuning.folder / CONFIG
    return load_config(file, [*as_overrides(free), *overrides_of(dict(values))])


def _check_study(tuning: Tuning, plan: Plan | None = None) -> None:
    """Refuse a folder of another config, space or corpus, or one that is no study."""
    folder, again = tuning.folder, "Change `name` to keep both, or remove the folder to start anew"
    if not (folder / CONFIG).exists():
        return
    if not (folder / ABOUT).exists():
        raise InputError(f"{folder} is no study (no {ABOUT} in it): change name or run.root")
    about = read_json(folder / ABOUT, "space", "data", remove=folder)
    try:
        there = load_config(folder / CONFIG)
    except InputError as error:
        raise InputError(f"{error}\n{folder} is corrupt or of another version. {again}") from None
    differences = [
        *_differences(flatten(there.model_dump()), flatten(tuning.config.model_dump())),
        *_differences(about["space"], describe_space(tuning.space), "the space of "),
    ]
    if differences:
        raise InputError(
            f"{folder} was made with another config or space:\n"
            + "\n".join(differences)
            + f"\n{again}"
        )
    if plan is not None and about["data"]["id"] != plan.certificate["id"]:
        raise InputError(
            f"the train and dev clips changed since {folder} was begun ({about['data']['id']} "
            f"there, {plan.certificate['id']} now). {again}"
        )


def _differences(there: Mapping, now: Mapping, what: str = "") -> list[str]:
    return [
        f"  {what}{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key) and not key.startswith(FREE)
    ]
