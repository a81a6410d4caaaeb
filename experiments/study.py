"""Trials of an Optuna study, on which several processes work at once.

A process holds the study's lock while it takes a trial, and the trial's lock until the trial is
finished. The system frees a lock when its process ends, so a running trial without a lock has lost
its process: it returns to Optuna's queue, and the next process resumes it from its saved state.
In PostgreSQL it must also have no recent heartbeat: some shared mounts keep locks within a machine.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from config.effects import keys_without_effect
from experiments.search_space import Space
from experiments.storages import SQLITE, Store, heartbeat, stale_trials
from experiments.study_store import UNREADABLE
from storage.folders import CONFIG
from system.errors import RunError, first_line
from system.files import make_folder
from system.locks import is_held, lock
from system.text import truncate

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

LOCK = ".lock"  # of a study folder, held while a process takes a trial
N_STARTUP_PRUNING = 5  # complete trials before one is pruned
MAX_STARTS = 3  # of a trial whose process dies without a message, e.g. when memory is full
# All options of the sampler that change a draw: their defaults differ between Optuna 4 and 5.
SAMPLER: dict[str, Any] = {
    "n_startup_trials": 10,  # random trials before TPE learns from them
    "n_ei_candidates": 24,
    "multivariate": True,
    "group": False,
    "constant_liar": True,  # trials of other workers count as bad until they are finished
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


class Study:
    """The study in a folder, begun if there is none.

    Args:
        folder: Existing folder of the study.
        space: Distribution of each varied key.
        seed: Seed; combined with a trial's number and the earlier trials, it decides its values.
        epochs: Epochs of a whole training; no trial is pruned in its first third.
        storage: Where the trials are, see `Store`.
        config: All values of the config that is tuned, by dotted key: they and a trial's decide
            which of its keys have an effect.

    Raises:
        RunError: The store cannot be read, or lost trials whose folders exist.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        seed: int,
        epochs: int,
        storage: str = SQLITE,
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        import optuna

        self.folder, self.space, self.seed, self.config = folder, space, seed, config
        self.store = Store(folder, storage)
        with (
            lock(folder / LOCK, f"the study {folder}", blocking=True),
            store_errors(self.store, OSError, *UNREADABLE),
        ):
            trained = {path.parent.name for path in folder.glob(f"trials/*/{CONFIG}")}
            self._storage, self._heartbeats = self.store.open()
            self.optuna = optuna.create_study(
                storage=self._storage,
                pruner=optuna.pruners.MedianPruner(N_STARTUP_PRUNING, epochs // 3 + 1),
                study_name=self.store.study_name,
                direction="maximize",
                load_if_exists=True,
            )
            known = {str(result.number) for result in self.results()}
        if not trained <= known:
            raise RunError(
                f"{self.store.place} does not know all trials in {folder / 'trials'}: restore the "
                f"store that does, or remove {folder} to start anew"
            )

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / str(number)

    def n_finished(self) -> int:
        """Return how many trials are finished, whatever their result."""
        return sum(trial.state.is_finished() for trial in self._trials())

    def results(self) -> list[Result]:
        """Return all trials, in the order of their numbers."""
        return [_result(trial, self.config) for trial in self._trials()]

    @contextmanager
    def claim(self, n_trials: int) -> "Iterator[Trial | None]":
        """Take a trial that lost its process, or begin one; hold its lock meanwhile.

        Args:
            n_trials: Number of trials at which the study is done.

        Yields:
            The trial with its values, or None if other processes hold all that are left.
        """
        with ExitStack() as locks:
            with lock(self.folder / LOCK, f"the study {self.folder}", blocking=True):
                trial = self._next_trial(n_trials)
                if trial is not None:
                    folder = self.trial_folder(trial.number)
                    make_folder(folder / "state", inside=self.folder)
                    locks.enter_context(heartbeat(self._heartbeats, trial._trial_id))
                    locks.enter_context(lock(folder / "lock", f"trial {trial.number}"))
            yield trial

    def report(self, trial: "Trial", dev_ua: float, epoch: int) -> None:
        """Report the best dev UA after an epoch; a resumed trial may report an epoch again.

        Raises:
            optuna.TrialPruned: The trial is worse than the median of the complete ones.
        """
        import optuna

        if epoch not in self._trials()[trial.number].intermediate_values:
            trial.report(dev_ua, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"below the median of the earlier trials at epoch {epoch}")

    def finish(
        self, trial: "Trial", state: str, dev_ua: float | None = None, reason: str = ""
    ) -> None:
        """Finish a trial.

        Diverged and invalid trials count as pruned for Optuna, so that the sampler learns from
        them.

        Args:
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
        self.optuna.tell(trial, dev_ua, states.get(state, TrialState.PRUNED))

    def _trials(self) -> "list[FrozenTrial]":
        return self.optuna.get_trials(deepcopy=False)

    def _next_trial(self, n_trials: int) -> "Trial | None":
        """Return a trial of the queue, or a new one; its values depend on no interruption."""
        from numpy.random import SeedSequence
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        if self.n_finished() >= n_trials:
            return None
        self._queue_lost_trials()
        trials = self._trials()
        queue = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        if not queue and len(trials) >= n_trials:
            return None
        number = min(queue, default=len(trials))
        (rng_seed,) = SeedSequence((self.seed, number)).generate_state(1)
        self.optuna.sampler = TPESampler(seed=int(rng_seed), **SAMPLER)
        trial = self.optuna.ask(dict(sorted(self.space.items())))  # the file's order has no effect
        trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        trial.set_user_attr("released", False)
        if queue:
            log.info("trial %d was interrupted: resuming it", number)
        return trial

    def _queue_lost_trials(self) -> None:
        """Requeue running trials that lost their process; fail those that crashed too often."""
        from optuna.trial import Trial, TrialState

        stale = stale_trials(self._heartbeats, self.optuna._study_id)
        for trial in self._trials():
            if trial.state != TrialState.RUNNING or not self._is_lost(trial, stale):
                continue
            if trial.user_attrs.get("starts", 0) < MAX_STARTS:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            else:
                reason = f"its process ended {MAX_STARTS} times without a message"
                self.finish(Trial(self.optuna, trial._trial_id), FAILED, reason=reason)

    def _is_lost(self, trial: "FrozenTrial", stale: set[int] | None) -> bool:
        """Return whether a running trial has no process; hold the lock of the study meanwhile.

        Args:
            trial: The trial.
            stale: Trials without a recent heartbeat; None where there are no heartbeats.
        """
        file = self.trial_folder(trial.number) / "lock"
        if is_held(file):
            return False
        if stale is None or trial._trial_id in stale or trial.user_attrs.get("released"):
            return True
        return not file.exists()  # its process ended before the first heartbeat


def release(trial: "Trial") -> None:
    """Release a trial for another process; this start does not count as a crash."""
    with suppress(*_store_exceptions()):  # the error that interrupts a trial says more
        seconds = (datetime.now() - trial.datetime_start).total_seconds()  # type: ignore[operator]
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + seconds)
        trial.set_user_attr("starts", trial.user_attrs["starts"] - 1)
        trial.set_user_attr("released", True)


@contextmanager
def store_errors(store: Store, *more: type[Exception]) -> Iterator[None]:
    """Translate what Optuna and SQLAlchemy raise about the store of a study into one message.

    Raises:
        RunError: The store cannot be read or written.
    """
    try:
        yield
    except (*_store_exceptions(), *more) as error:
        reason = truncate(first_line(error.__cause__ or error), 500)
        raise RunError(store.problem(reason)) from error


def _store_exceptions() -> tuple[type[Exception], ...]:
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    return OptunaError, SQLAlchemyError


def _result(trial: "FrozenTrial", config: Mapping[str, Any]) -> Result:
    from optuna.trial import TrialState

    states = {TrialState.COMPLETE: COMPLETE, TrialState.RUNNING: RUNNING}
    states[TrialState.WAITING] = RUNNING
    reported = trial.intermediate_values  # {epoch: best dev UA so far}
    best = trial.value if trial.value is not None else max(reported.values(), default=None)
    idle = keys_without_effect({**config, **trial.params})
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
