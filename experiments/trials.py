"""The trials of a study: an Optuna study in SQLite that several processes work on at once.

Who begins or takes up a trial holds the study's lock meanwhile, and the trial's own lock until the
trial is settled. Locks fall with their process, so a trial that says it runs and is not locked has
lost its process: the next to look for work takes it up where its state was saved.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from experiments.search_space import Choices, Range, Space, idle_keys
from system.errors import RunError
from system.files import make_folder
from system.locks import is_held, lock

log = logging.getLogger(__name__)

STORE = "study.db"
LOCK = ".lock"  # of a study, held while a trial is begun
NAME = "study"  # in the store
SECONDS = 120.0  # that SQLite waits for others who write
STARTUP = 10  # trials drawn at random before TPE learns from them
STARTUP_PRUNING = 5  # trials that must be complete before one is pruned
MOST_STARTS = 3  # of a trial whose process ends without a word, e.g. for want of memory
PRUNED, DIVERGED, INVALID, FAILED = "pruned", "diverged", "invalid", "failed"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial, as the store has it."""

    number: int
    state: str  # complete, running, or PRUNED, DIVERGED, INVALID, FAILED
    dev_ua: float | None  # the best of its epochs
    epochs: int  # whose dev UA was reported
    best_epoch: int | None
    seconds: float | None
    values: Mapping[str, Any]
    reason: str  # why it is not complete


class Trials:
    """The trials of one study.

    Args:
        folder: Of the study; it is there.
        space: What is varied.
        seed: With a trial's number and the trials before, it decides what is drawn for it.
        epochs: Of a whole training; no trial is pruned in its first third.

    Raises:
        RunError: The store cannot be read or written.
    """

    def __init__(self, folder: Path, space: Space, seed: int, epochs: int) -> None:
        optuna.logging.disable_default_handler()
        self.folder, self.space, self.seed = folder, space, seed
        url = URL.create("sqlite", database=str(folder / STORE))
        pruner = optuna.pruners.MedianPruner(STARTUP_PRUNING, n_warmup_steps=epochs // 3 + 1)
        # Before the store is asked: others may begin a trial meanwhile.
        trained = {file.parent.name for file in folder.glob("trials/*/config.yaml")}
        with lock(folder / LOCK, str(folder), blocking=True), self._storing():
            self._storage = optuna.storages.RDBStorage(
                url.render_as_string(), engine_kwargs={"connect_args": {"timeout": SECONDS}}
            )
            self.study = optuna.create_study(
                storage=self._storage,
                pruner=pruner,
                study_name=NAME,
                direction="maximize",
                load_if_exists=True,
            )
            known = {str(one.number) for one in self._all()}
        if not trained <= known:
            raise RunError(
                f"{folder / STORE} does not know all trials that are in {folder / 'trials'}: put "
                f"the one that does back, or remove {folder} to start anew"
            )

    def place(self, number: int) -> Path:
        """Return the folder of a trial."""
        return self.folder / "trials" / str(number)

    def n_ended(self) -> int:
        """Return how many trials are settled, whatever came of them."""
        with self._storing():
            return sum(one.state.is_finished() for one in self._all())

    @contextmanager
    def claim(self, most: int) -> Iterator[Trial | None]:
        """Take up a trial that lost its process, or begin one; hold its lock meanwhile.

        Args:
            most: Trials of the study in all.

        Yields:
            The trial with its values, or None where all are settled or others are at work on them.
        """
        with ExitStack() as held:
            with lock(self.folder / LOCK, str(self.folder), blocking=True), self._storing():
                trial = self._orphan() if self.n_ended() < most else None
                if trial is None and len(self._all()) < most:
                    trial = self._begin()
                if trial is not None:
                    self._draw(trial)
                    place = self.place(trial.number)
                    make_folder(place / "state", inside=self.folder)
                    held.enter_context(lock(place / "lock", f"trial {trial.number}"))
            yield trial

    def report(self, trial: Trial, ua: float, epoch: int) -> str:
        """Note the best dev UA after an epoch; return why the trial should end, or nothing."""
        with self._storing():
            if epoch not in self._storage.get_trial(self._id(trial.number)).intermediate_values:
                trial.report(ua, epoch)
            if trial.should_prune():
                return f"below the median of the trials before at epoch {epoch}"
            return ""

    @contextmanager
    def timed(self, trial: Trial) -> Iterator[None]:
        """Add the seconds until the end to the trial's; those of a killed process are lost."""
        start = monotonic()
        try:
            yield
        finally:
            with suppress(RunError), self._storing():  # what ends a trial says more
                taken = trial.user_attrs.get("seconds", 0.0) + monotonic() - start
                trial.set_user_attr("seconds", taken)

    def complete(self, trial: Trial, ua: float, epoch: int) -> None:
        """Settle a trial that was trained to its end: its best dev UA, and the epoch of it."""
        with self._storing():
            trial.set_user_attr("best_epoch", epoch)
            trial.set_user_attr("outcome", "complete")  # a kill may have left another
            self.study.tell(trial, ua)

    def give_up(self, trial: Trial, outcome: str, reason: str) -> None:
        """Settle a trial that is not complete.

        All but the failed count as pruned, so that the sampler learns from them: what diverges is
        worse than whatever is complete.
        """
        log.warning("trial %d is %s: %s", trial.number, outcome, reason)
        with self._storing():
            trial.set_user_attr("outcome", outcome)
            trial.set_user_attr("reason", reason)
            is_failed = outcome == FAILED
            self.study.tell(trial, state=TrialState.FAIL if is_failed else TrialState.PRUNED)

    def lay_down(self, trial: Trial) -> None:
        """Note that a trial was left on purpose, with its state saved."""
        with self._storing():
            trial.set_user_attr("starts", trial.user_attrs.get("starts", 1) - 1)

    def outcomes(self) -> list[Outcome]:
        """Return all trials, in the order of their numbers."""
        with self._storing():
            return [_outcome(one) for one in self._all()]

    def importance(self) -> dict[str, float]:
        """Return each key's share in what makes dev UA differ, the largest first.

        Empty where fewer than two trials are complete, or all are alike.

        Source:
            PED-ANOVA, Watanabe et al. 2023: how far the better trials' values stand out.
        """
        with self._storing():
            complete = [one for one in self._all() if one.state == TrialState.COMPLETE]
            if len({one.value for one in complete}) < 2:
                return {}
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def _all(self) -> Sequence[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _orphan(self) -> Trial | None:
        """Return a trial that says it runs and that no process holds, if there is one."""
        for one in self._all():
            if one.state.is_finished() or is_held(self.place(one.number) / "lock"):
                continue
            trial = Trial(self.study, self._id(one.number))
            starts = one.user_attrs.get("starts", 0) + 1
            if starts > MOST_STARTS:
                reason = f"its process ended {MOST_STARTS} times without a word"
                self.give_up(trial, FAILED, reason)
                continue
            trial.set_user_attr("starts", starts)
            log.info("trial %d was left unfinished: going on with it", trial.number)
            return trial
        return None

    def _begin(self) -> Trial:
        """Begin the next trial; its draw does not depend on who draws, or on earlier stops."""
        chance = np.random.SeedSequence((self.seed, len(self._all()))).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, seed=int(chance[0])
        )
        trial = self.study.ask()
        trial.set_user_attr("starts", 1)
        return trial

    def _draw(self, trial: Trial) -> None:
        """Draw what is not drawn yet."""
        for key, values in sorted(self.space.items()):  # the file's order means nothing
            _suggest(trial, key, values)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Tell what is wrong with the store.

        Raises:
            RunError: It cannot be read or written.
        """
        try:
            yield
        except RunError:
            raise
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise RunError(
                f"cannot read or write the trials in {self.folder / STORE}: {reason}. If its disk "
                "is full or others hold it, see to that and give the same command again; if it is "
                f"corrupt, remove {self.folder}"
            ) from error


def _suggest(trial: Trial, key: str, values: Range | Choices) -> None:
    if isinstance(values, Choices):
        trial.suggest_categorical(key, values.values)
    elif values.whole:
        step = int(values.step or 1)
        trial.suggest_int(key, int(values.low), int(values.high), step=step, log=values.log)
    else:
        trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)


def _outcome(one: FrozenTrial) -> Outcome:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
    reported = one.intermediate_values
    best = max(reported.values(), default=None) if one.value is None else one.value
    first = next((epoch for epoch in sorted(reported) if reported[epoch] == best), None)
    return Outcome(
        one.number,
        one.user_attrs.get("outcome", states.get(one.state, "running")),
        best,
        max(reported, default=0),
        one.user_attrs.get("best_epoch", first),
        one.user_attrs.get("seconds"),
        {key: value for key, value in one.params.items() if key not in idle_keys(one.params)},
        one.user_attrs.get("reason", ""),
    )
