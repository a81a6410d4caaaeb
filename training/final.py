"""A final model: trained on all utterances of a finished run, for as long as its folds chose.

Nothing is selected and nothing tested: there is no dev split and no test split. The number of
epochs is the median of the epochs that dev chose in the folds. A schedule by step or none stays as
it was in the folds, so that the last epoch has the learning rate that it had there; one that
follows dev (`plateau`) is replayed: the median of the folds' rates in each epoch.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from statistics import median

import numpy as np

from config.loading import load_stored_config
from config.schema import Config
from config.tasks import CLASS
from corpora.splits import Split, everyone
from corpora.stamps import is_transductive
from evaluation.calibration import fit_temperature
from evaluation.summary import describe_run
from storage.environment import record_environment
from storage.final_model import (
    TEMPERATURE_FROM,
    Estimate,
    FinalFacts,
    FinalPlan,
    final_folder,
    read_final,
    read_plan,
    write_final,
    write_plan,
)
from storage.fold_folder import STATE, WEIGHTS, fold_name
from storage.folders import CONFIG, is_finished
from storage.run_folder import FOLDS, LOCK, Run
from system.errors import InputError
from system.locks import lock
from system.regular import file_sha256
from training.build import build_training
from training.checkpoints import Checkpoints
from training.divergence import Diverged, is_finite
from training.engine import fit
from training.epoch_files import epoch_files
from training.fold import claimed, load_best
from training.origins import WHOLE, folders, key_of
from training.resume_with import check_fold
from training.same_sources import keep_sources
from training.saver import Spacing
from training.session import Fold, Session
from training.state import TrainingState
from training.trackers import FoldTrackers
from training.warm_start import find_origins, with_origins

log = logging.getLogger(__name__)

PLAN = "plan.json"  # in `state`: what a resumed training must still have
NAMED = 5  # folds in a message


@dataclass(frozen=True)
class FinalFold(Fold):
    """The training of a final model, in the place of a fold: all utterances are in train."""

    @property
    def number(self) -> int | None:
        """None: it is no fold."""
        return None

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"final model, seed {self.seed}"

    @property
    def title(self) -> str:
        """Name of the training for its progress bar."""
        return self.name

    @property
    def folder(self) -> Path:
        """Folder of the final model."""
        return final_folder(self.session.folder, self.seed)


def check_can_fit_all(run: Run) -> Config:
    """Refuse a run of which no final model can be trained; return its config.

    Args:
        run: A run with finished folds.

    Raises:
        InputError: It is of a baseline, transductive, not finished, or its folds started from those
            of another run.
    """
    if run.is_baseline:
        raise InputError(
            f"{run.folder} is of a baseline, which has no network to train: name a run of a fusion"
        )
    if is_transductive(run.certificate["protocol"]):
        raise InputError(
            f"{run.folder} was trained with train.normalize=speaker: its models read images "
            "standardised by all of a speaker's utterances, so a final model could label no new "
            "recording. Train the run with train.normalize=true"
        )
    config = load_stored_config(run.folder / CONFIG)
    if missing := _unfinished(run, config):
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise InputError(
            f"{run.folder} is not finished: {', '.join(missing[:NAMED])}{more}. How long a final "
            "model is trained is what its folds chose: give the run's training command again first"
        )
    for part, folder in folders(config).items():
        if part != WHOLE or (folder / CONFIG).is_file():
            raise InputError(
                f"{key_of(part)}={folder}: each fold of {run.folder} started from the same fold "
                "there, and a final model is of no fold. Train the run without it, or from one "
                "model (model.from=FOLDER of a final model)"
            )
    return config


def _unfinished(run: Run, config: Config) -> list[str]:
    """Name the folds that were asked for or begun, or that another seed has, and do not end."""
    folds = config.run.folds or [fold["fold"] for fold in run.certificate["folds"]]
    folds = sorted({*folds, *run.fold_numbers})
    seeds = sorted({*config.run.seeds, *run.seeds})
    names = [fold_name(fold, seed) for fold in folds for seed in seeds]
    names += sorted(p.name for p in run.folder.glob(f"{FOLDS}/fold-*") if p.name not in names)
    return [name for name in names if not is_finished(run.folder / FOLDS / name)]


def plan_final(run: Run, config: Config) -> FinalPlan:
    """Settle how long a final model is trained, from a run's folds.

    Args:
        run: The finished run.
        config: Its config.
    """
    chosen = {result.folder.name: result.metrics.best_epoch for result in run.folds}
    epochs = floor(median(chosen.values()) + 0.5)
    factors: list[float] = []
    if config.optim.schedule == "plateau":
        rates = [[row["lr_head"] for row in result.history()] for result in run.folds]
        factors = _median_factors(rates, epochs, config.optim.lr)
    return FinalPlan(epochs=epochs, chosen=chosen, factors=factors)


def _median_factors(rates: Sequence[Sequence[float]], epochs: int, lr: float) -> list[float]:
    """Return the median rate of each epoch as a factor of `lr`; at least half of the folds have it.

    >>> _median_factors([[0.02, 0.002], [0.02], [0.02, 0.02]], 2, lr=0.02)
    [1.0, 0.55]
    """
    by_epoch = [[fold[i] for fold in rates if i < len(fold)] for i in range(epochs)]
    return [round(median(found) / lr, 12) for found in by_epoch]


def fit_final(session: Session, run: Run, seed: int) -> Path:
    """Train a run's final model on one process; resume if interrupted, skip if finished.

    Args:
        session: The run's corpus and images, on the device; its config is the run's.
        run: The run, checked by `check_can_fit_all`.
        seed: Seed of the training.

    Returns:
        Its folder.

    Raises:
        InputError: It was begun when the folds had chosen other epochs.
        RunError: Training diverged, a file could not be written (the last state is kept), or
            another process is at work on it.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    fold = _final_fold(session, run, seed)
    session = fold.session
    plan, settings = plan_final(run, session.config), session.config.train
    checkpoints = Checkpoints(fold.folder / STATE)
    in_use = lock(session.folder / LOCK, str(session.folder), shared=True)  # keeps it from removal
    with in_use, claimed(fold, checkpoints) as is_open:
        if not is_open:
            _warn_if_outdated(fold.folder, plan)
            return fold.folder
        _keep_plan(fold, plan)
        check_fold(fold)
        keep_sources(fold)
        origins = find_origins(fold)
        started = with_origins(fold, origins)
        record_environment(fold.folder, started.session.environment)
        state, train_loader, _ = build_training(started, origins, plan.factors)
        with epoch_files(fold, fold.folder, state, FoldTrackers([], fold.folder)) as after_epoch:
            fit(
                state,
                train_loader,
                dev_loader=None,
                epochs=plan.epochs,
                patience=None,
                checkpoints=checkpoints,
                spacing=Spacing(settings.checkpoint_epochs, settings.checkpoint_minutes),
                after_epoch=after_epoch,
            )
        _check_finite(fold, state)
        with session.stop.deferred():
            load_best(started, state, checkpoints)
            write_final(fold.folder, _facts(fold, run, plan))
            checkpoints.remove()
    return fold.folder


def _final_fold(session: Session, run: Run, seed: int) -> FinalFold:
    """Return the training of all utterances that the folds of a run use, in the run's folder."""
    split = Split(0, train=tuple(everyone(session.plan.splits)), dev=(), test=())
    folder = run.folder if run.folder.name else run.folder.resolve()
    here = {"root": str(folder.parent), "trackers": []}  # which show dev and test
    of_run = session.config.run.model_copy(update=here)
    config = session.config.model_copy(update={"name": folder.name, "run": of_run})
    return FinalFold(replace(session, config=config), split, seed)


def _keep_plan(fold: Fold, plan: FinalPlan) -> None:
    """Write the plan of a training that begins; refuse to resume one that had another."""
    file = fold.folder / STATE / PLAN
    if Checkpoints(file.parent).is_begun and file.exists() and (there := read_plan(file)) != plan:
        raise InputError(
            f"{fold.folder} was begun for {there.epochs} epochs, after {len(there.chosen)} folds; "
            f"now the run has {len(plan.chosen)} folds, which chose {plan.epochs}: remove "
            f"{fold.folder} to start it anew"
        )
    write_plan(file, plan)


def _warn_if_outdated(folder: Path, plan: FinalPlan) -> None:
    there = read_final(folder)
    if there.chosen != plan.chosen:
        log.warning(
            "%s was trained after %d folds, the run has %d now: remove it to train it anew",
            *(folder, len(there.chosen), len(plan.chosen)),
        )


def _check_finite(fold: Fold, state: TrainingState) -> None:
    """Refuse weights that no dev evaluation has seen to be finite."""
    if not is_finite(state.model):
        rates, precision = state.schedule.rates(), fold.config.train.precision
        raise Diverged("weight of the network").because(rates, precision)


def _facts(fold: Fold, run: Run, plan: FinalPlan) -> FinalFacts:
    summary = describe_run(run)
    scores = {
        name: Estimate(mean=score.mean, std=score.std, pooled=score.pooled)
        for name, score in summary.test.items()
    }
    temperature = pooled_temperature(run) if summary.task == CLASS else None
    return FinalFacts(
        **plan.model_dump(),
        run=run.name,
        seed=fold.seed,
        task=run.folds[0].metrics.task,
        utterances=len(fold.split.train),
        speakers=len({utterance.speaker for utterance in fold.split.train}),
        n_folds=summary.n_folds,
        estimate=scores,
        temperature=temperature,
        temperature_from=None if temperature is None else TEMPERATURE_FROM,
        weights=file_sha256(fold.folder / WEIGHTS),
    )


def pooled_temperature(run: Run) -> float:
    """Return the temperature that fits the dev predictions of all folds and seeds together.

    Args:
        run: A run of classes.
    """
    probs = np.concatenate([result.dev.probs for result in run.folds])  # (N, K)
    targets = np.concatenate([result.dev.targets for result in run.folds])  # (N,)
    return fit_temperature(probs, targets)
