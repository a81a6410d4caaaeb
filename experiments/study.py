"""Trials of an Optuna study in SQLite, on which several processes work at once.

A process holds the study's lock while it takes a trial, and the trial's lock until the trial is
finished. The system frees a lock when its process ends, so a running trial without a lock has lost
its process: it returns to Optuna's queue, and the next process resumes it from its saved state.
(Optuna's heartbeat needs minutes to notice a death, and gives the trial another number.)
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.search_space import Space, idle_keys
from system.disk import make_folder
from system.errors import RunError
from system.locks import alone, in_turn, is_held

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

STORE = "study.db"
LOCK = ".lock"  # of a study folder, held while a process takes a trial
STORE_TIMEOUT = 120.0  # seconds that SQLite waits for other writers
N_STARTUP_PRUNING = 5  # complete trials before one is pruned
MAX_STARTS = 3  # of a trial whose process dies without a message, e.g. when memory is full
# All options of the sampler that change a draw: their defaults differ between Optuna 4 and 5.
SAMPLER = {
    "n_startup_trials": 10,  # random trials before TPE learns from them
    "n_ei_candidates": 24,
    "multivariate": True,
    "group": False,
    "constant_liar": True,  # counts trials of other workers as bad until they are finished
}
COMPLETE, RUNNING, PRUNED = "complete", "running", "pruned"
DIVERGED, INVALID, FAILED = "diverged", "invalid", "failed"


class Result(NamedTuple):
    """A trial as the study's tables show it."""

    number: int
    state: str  # COMPLETE, RUNNING, PRUNED, DIVERGED, INVALID or FAILED
    dev_ua: float | None  # best of its epochs
    best_epoch: int | None
    epochs: int  # whose dev UA was reported
    seconds: float  # of training, without interruptions
    values: Mapping[str, Any]  # of the keys that have an effect
    reason: str  # why it is not complete


def open_study(folder: Path, epochs: int) -> "Study":
    """Open the study in a folder, or begin it.

    Args:
        folder: Existing folder of the study.
        epochs: Epochs of a whole training; no trial is pruned in its first third.

    Raises:
        RunError: The store cannot be read, or lost trials whose folders exist.
    """
    import optuna
    from sqlalchemy import URL

    optuna.logging.disable_default_handler()
    url = URL.create("sqlite", database=str(folder / STORE)).render_as_string()
    # RuntimeError: a store written by another version of Optuna
    with in_turn(folder / LOCK), store_errors(folder, RuntimeError):
        trained = {path.parent.name for path in folder.glob("trials/*/config.yaml")}
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(
                url, engine_kwargs={"connect_args": {"timeout": STORE_TIMEOUT}}
            ),
            pruner=optuna.pruners.MedianPruner(N_STARTUP_PRUNING, n_warmup_steps=epochs // 3 + 1),
            study_name="study",
            direction="maximize",
            load_if_exists=True,
        )
        known = {str(trial.number) for trial in study.get_trials(deepcopy=False)}
    if not trained <= known:
        raise RunError(
            f"{folder / STORE} does not know all trials in {folder / 'trials'}: restore the store "
            f"that does, or remove {folder} to start anew"
        )
    return study


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial in the folder of its study."""
    return folder / "trials" / str(number)


def n_finished(study: "Study") -> int:
    """Return how many trials are finished, whatever their result."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


@contextmanager
def claim_trial(
    study: "Study", folder: Path, space: Space, seed: int, n_trials: int
) -> "Iterator[Trial | None]":
    """Take a trial that lost its process, or begin one; hold its lock meanwhile.

    Args:
        study: The open study.
        folder: Folder of the study.
        space: What is varied.
        seed: With the trial's number and the earlier trials it decides the trial's values.
        n_trials: Number of trials at which the study is done.

    Yields:
        The trial with its values, or None if other processes hold all that are left.
    """
    with ExitStack() as locks:
        with in_turn(folder / LOCK):
            trial = _next_trial(study, folder, space, seed, n_trials)
            if trial is not None:
                state = trial_folder(folder, trial.number) / "state"
                make_folder(state, inside=folder)
                locks.enter_context(alone(state.parent / "lock", f"trial {trial.number}"))
        yield trial


def report_epoch(study: "Study", trial: "Trial", dev_ua: float, epoch: int) -> None:
    """Report the best dev UA after an epoch; a resumed trial may report an epoch again.

    Raises:
        optuna.TrialPruned: The trial is worse than the median of the complete ones.
    """
    import optuna

    if epoch not in study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(dev_ua, epoch)
    if trial.should_prune():
        raise optuna.TrialPruned(f"below the median of the earlier trials at epoch {epoch}")


def finish(study: "Study", trial: "Trial", state: str, dev_ua: float | None, reason: str) -> None:
    """Finish a trial.

    Diverged and invalid trials count as pruned for Optuna, so that the sampler learns from them.

    Args:
        study: The open study.
        trial: Trial to finish.
        state: COMPLETE, PRUNED, DIVERGED, INVALID or FAILED.
        dev_ua: Best dev UA; None unless complete.
        reason: Why it is not complete.
    """
    from optuna.trial import TrialState

    if state != COMPLETE:
        log.warning("trial %d is %s: %s", trial.number, state, reason)
        trial.set_user_attr("state", state)
        trial.set_user_attr("reason", reason)
    states = {COMPLETE: TrialState.COMPLETE, FAILED: TrialState.FAIL}
    study.tell(trial, dev_ua, states.get(state, TrialState.PRUNED))


def release(trial: "Trial") -> None:
    """Leave a trial to the next process on purpose, so that this start is not counted as lost."""
    with suppress(*_store_exceptions()):  # the error that interrupts a trial says more
        seconds = (datetime.now() - trial.datetime_start).total_seconds()  # type: ignore[operator]
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + seconds)
        trial.set_user_attr("starts", trial.user_attrs["starts"] - 1)


def results(study: "Study") -> list[Result]:
    """Return all trials, in the order of their numbers."""
    return [_result(trial) for trial in study.get_trials(deepcopy=False)]


@contextmanager
def store_errors(folder: Path, *more: type[Exception]) -> Iterator[None]:
    """Translate what Optuna and SQLAlchemy raise about the store of a study into one message.

    Raises:
        RunError: The store cannot be read or written.
    """
    try:
        yield
    except (*_store_exceptions(), *more) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise RunError(
            f"cannot read or write the trials in {folder / STORE}: {reason}. If its disk is full "
            "or another process blocks it, solve that and give the same command again; if it is "
            f"corrupt, remove {folder}"
        ) from error


def _store_exceptions() -> tuple[type[Exception], ...]:
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    return OptunaError, SQLAlchemyError


def _next_trial(
    study: "Study", folder: Path, space: Space, seed: int, n_trials: int
) -> "Trial | None":
    """Return a trial from the queue, or a new one; its values depend on no interruption."""
    import optuna
    from numpy.random import SeedSequence

    _queue_lost_trials(study, folder)
    trials = study.get_trials(deepcopy=False)
    queue = [trial.number for trial in trials if trial.state == optuna.trial.TrialState.WAITING]
    if n_finished(study) >= n_trials or (len(trials) >= n_trials and not queue):
        return None
    number = min(queue, default=len(trials))
    (rng_seed,) = SeedSequence((seed, number)).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(rng_seed), **SAMPLER)  # type: ignore
    trial = study.ask(dict(sorted(space.items())))  # the order of keys in the file has no effect
    trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
    if queue:
        log.info("trial %d was interrupted: resuming it", number)
    return trial


def _queue_lost_trials(study: "Study", folder: Path) -> None:
    """Return running trials that no process holds to Optuna's queue; fail those that recur."""
    import optuna

    for frozen in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        if is_held(trial_folder(folder, frozen.number) / "lock"):
            continue
        if frozen.user_attrs.get("starts", 0) >= MAX_STARTS:
            trial = optuna.trial.Trial(study, frozen._trial_id)
            reason = f"its process ended {MAX_STARTS} times without a message"
            finish(study, trial, FAILED, None, reason)
        else:
            study._storage.set_trial_state_values(frozen._trial_id, optuna.trial.TrialState.WAITING)


def _result(trial: "FrozenTrial") -> Result:
    from optuna.trial import TrialState

    states = {TrialState.COMPLETE: COMPLETE, TrialState.RUNNING: RUNNING}
    states |= {TrialState.WAITING: RUNNING}
    reported = trial.intermediate_values  # {epoch: best dev UA so far}
    best = trial.value if trial.value is not None else max(reported.values(), default=None)
    idle = idle_keys(trial.params)
    seconds = trial.duration.total_seconds() if trial.duration else 0.0  # since its last start
    return Result(
        number=trial.number,
        state=states.get(trial.state) or trial.user_attrs["state"],
        dev_ua=best,
        best_epoch=min((epoch for epoch in reported if reported[epoch] == best), default=None),
        epochs=max(reported, default=0),
        seconds=trial.user_attrs.get("seconds", 0.0) + seconds,
        values={key: value for key, value in trial.params.items() if key not in idle},
        reason=trial.user_attrs.get("reason", ""),
    )
