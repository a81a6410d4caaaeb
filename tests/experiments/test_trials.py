"""Trials of a study: drawn alike whoever draws, counted once, taken up where a process was lost."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable

import optuna
import pytest

from experiments.search_space import Choices, Range
from experiments.trials import (
    DIVERGED,
    FAILED,
    INVALID,
    MOST_STARTS,
    PRUNED,
    STARTUP,
    STARTUP_PRUNING,
    STORE,
    Trials,
)
from system.errors import RunError
from tests.support.paths import ROOT

SPACE = {
    "optim.lr": Range(1e-5, 1e-1, log=True),
    "model.fusion_hidden_dim": Choices((None, 8, 16)),
    "train.batch_size": Range(4, 16, step=4, whole=True),
}
EPOCHS = 9


def finish(trials: Trials, most: int, limit: int = 1000) -> None:
    """Settle trials whose dev UA is that of a smaller rate being better."""
    while trials.n_ended() < most and limit:
        limit -= 1
        with trials.claim(most) as trial:
            assert trial is not None
            trials.complete(trial, 1 - trial.params["optim.lr"], 1)


@pytest.fixture
def study(tmp_path) -> Callable[..., Trials]:
    def make(name: str = "study", seed: int = 0) -> Trials:
        (tmp_path / name).mkdir(exist_ok=True)
        return Trials(tmp_path / name, SPACE, seed, EPOCHS)

    return make


def test_draws_follow_from_the_seed_however_often_the_work_is_stopped(study) -> None:
    n = STARTUP + 2  # the last ones are drawn by TPE
    finish(study("one"), n)
    for _ in range(n):
        finish(study("two"), n, limit=1)  # opened anew for each trial
    one, two = ([o.values for o in study(name).outcomes()] for name in ("one", "two"))
    assert one == two and len(one) == n
    assert len({str(values) for values in one}) == n
    finish(study("other", seed=1), 3)
    assert [o.values for o in study("other", seed=1).outcomes()] != one[:3]


def test_draws_lie_in_the_space(study) -> None:
    finish(study(), 12)
    for one in study().outcomes():
        assert 1e-5 <= one.values["optim.lr"] <= 1e-1
        assert one.values["model.fusion_hidden_dim"] in (None, 8, 16)
        assert one.values["train.batch_size"] in (4, 8, 12, 16)
        assert isinstance(one.values["train.batch_size"], int)


def test_two_at_work_share_the_number_of_trials(study) -> None:
    here, there = study(), study()
    with here.claim(3) as first, there.claim(3) as second, here.claim(3) as third:
        assert [one.number for one in (first, second, third)] == [0, 1, 2]
        with there.claim(3) as none:
            assert none is None  # all have begun, and all are held
        there.complete(second, 0.5, 1)
        here.complete(first, 0.5, 1)
        assert here.n_ended() == there.n_ended() == 2
        here.complete(third, 0.5, 1)
    with there.claim(3) as none:
        assert none is None
    with there.claim(4) as fourth:  # the same command with a higher number goes on
        assert fourth.number == 3


CLAIM = """
import sys, time
from pathlib import Path
sys.path.insert(0, ".")
from tests.experiments.test_trials import SPACE, EPOCHS
from experiments.trials import Trials
trials = Trials(Path(sys.argv[1]), SPACE, 0, EPOCHS)
with trials.claim(5) as trial:
    trials.report(trial, 0.5, 1)
    print(trial.number, flush=True)
    time.sleep(600)
"""


def test_a_killed_process_s_trial_is_taken_up_with_its_values(study, tmp_path) -> None:
    trials = study()
    command = [sys.executable, "-c", CLAIM, str(trials.folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "0"
    (before,) = trials.outcomes()
    with trials.claim(5) as beside:
        assert beside.number == 1  # the other one is held
        trials.complete(beside, 0.1, 1)
    process.kill()
    process.wait()
    process.stdout.close()
    with trials.claim(5) as again:
        assert again.number == 0 and again.params == before.values
        assert trials.report(again, 0.5, 1) == ""  # again, without a word
        trials.complete(again, 0.6, 2)
    assert trials.n_ended() == 2 and trials.outcomes()[0].dev_ua == 0.6


def test_a_process_killed_before_all_is_drawn_leaves_no_trial_without_values(study, monkeypatch):
    trials = study()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trials, "_draw", lambda self, trial: os.kill(os.getpid(), signal.SIGINT))
        with trials.claim(5):
            time.sleep(5)
    assert trials.outcomes()[0].values == {}
    with study().claim(5) as trial:
        assert trial.number == 0 and trial.params.keys() == SPACE.keys()


def test_a_trial_that_ends_its_process_again_and_again_is_given_up(study, caplog) -> None:
    trials = study()
    for _ in range(MOST_STARTS):
        with trials.claim(5) as trial:
            assert trial.number == 0
    with caplog.at_level(logging.WARNING), trials.claim(5) as trial:
        assert trial.number == 1
    (lost, _) = trials.outcomes()
    assert lost.state == FAILED and "its process ended 3 times" in lost.reason
    assert "trial 0 is failed: its process ended 3 times" in caplog.text


def test_a_trial_that_is_laid_down_may_be_taken_up_as_often_as_one_likes(study) -> None:
    trials = study()
    for _ in range(3 * MOST_STARTS):
        with trials.claim(5) as trial:
            assert trial.number == 0
            trials.lay_down(trial)


def test_what_is_below_the_median_is_pruned_after_the_first_third(study) -> None:
    trials = study()
    for k in range(STARTUP_PRUNING):  # medians: 0.5 after each epoch
        with trials.claim(9) as trial:
            for epoch in range(1, EPOCHS + 1):
                assert trials.report(trial, 0.3 + 0.1 * k, epoch) == ""
            trials.complete(trial, 0.3 + 0.1 * k, 1)
    with trials.claim(9) as trial:
        said = [trials.report(trial, 0.49, epoch) for epoch in range(1, 5)]
        assert said == ["", "", "", "below the median of the trials before at epoch 4"]
        trials.give_up(trial, PRUNED, said[-1])
    with trials.claim(9) as trial:
        assert [trials.report(trial, 0.51, epoch) for epoch in range(1, 10)] == [""] * 9
        trials.complete(trial, 0.51, 1)


def test_what_came_of_each_trial_is_told(study) -> None:
    trials = study()
    for outcome in (DIVERGED, INVALID, FAILED):
        with trials.claim(9) as trial:
            trials.report(trial, 0.3, 1)
            trials.report(trial, 0.4, 2)
            trials.give_up(trial, outcome, f"because {outcome}")
    with trials.claim(9) as trial:
        trials.report(trial, 0.5, 1)
        trials.complete(trial, 0.5, 1)
    with trials.claim(9):
        found = [(one.state, one.dev_ua, one.best_epoch, one.epochs) for one in trials.outcomes()]
    bad = [(outcome, 0.4, 2, 2) for outcome in (DIVERGED, INVALID, FAILED)]
    assert found == [*bad, ("complete", 0.5, 1, 1), ("running", None, None, 0)]
    assert trials.outcomes()[1].reason == "because invalid" and trials.n_ended() == 4


def test_importance_needs_two_complete_trials_that_differ(study) -> None:
    trials = study()
    assert trials.importance() == {}
    for ua in (0.5, 0.5):
        with trials.claim(16) as trial:
            trials.complete(trial, ua, 1)
    assert trials.importance() == {}
    finish(trials, 16)
    found = trials.importance()
    assert found.keys() == SPACE.keys() and sum(found.values()) == pytest.approx(1)
    assert max(found, key=found.__getitem__) == "optim.lr"  # it alone decides, see `finish`


def test_a_store_that_is_damaged_is_told_with_the_way_on(study) -> None:
    trials = study()
    (trials.folder / STORE).write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match=f"cannot read or write the trials in .*{STORE}.*remove"):
        study()


def test_a_store_of_another_optuna_is_told_with_the_way_on(study) -> None:
    trials = study()
    with sqlite3.connect(trials.folder / STORE) as store:
        store.execute("update version_info set schema_version = 99")
        store.execute("update alembic_version set version_num = 'v99'")
    with pytest.raises(RunError, match=f"cannot read or write the trials in .*{STORE}.*remove"):
        study()


@pytest.mark.parametrize(
    "error", [optuna.exceptions.StorageInternalError("full"), RuntimeError("full")]
)
def test_whatever_the_store_raises_is_told(study, monkeypatch, error) -> None:
    trials = study()

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(trials.study, "get_trials", fail)
    with pytest.raises(RunError, match="cannot read or write the trials in .*: full"):
        trials.outcomes()


def test_a_trial_that_others_begin_meanwhile_is_no_stranger(study, monkeypatch) -> None:
    finish(study(), 1)
    real = Trials._all

    def slow(self: Trials) -> object:
        found = list(real(self))
        self.place(1).mkdir(parents=True, exist_ok=True)
        (self.place(1) / "config.yaml").write_text("of another process")
        return found

    monkeypatch.setattr(Trials, "_all", slow)
    assert study().n_ended() == 1


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_store_that_lost_its_trials_starts_nothing_anew(study, how) -> None:
    trials = study()
    finish(trials, 2)
    (trials.place(1) / "config.yaml").write_text("trained")
    (trials.folder / STORE).unlink()
    if how == "emptied":
        (trials.folder / STORE).touch()
    with pytest.raises(RunError, match="does not know all trials that are in .*start anew"):
        study()


def test_time_is_that_of_training_alone(study, monkeypatch) -> None:
    clock = iter([100.0, 103.0, 5000.0, 5004.0])
    trials = study()
    monkeypatch.setattr("experiments.trials.monotonic", lambda: next(clock))
    with trials.claim(1) as trial:
        with pytest.raises(KeyboardInterrupt), trials.timed(trial):
            raise KeyboardInterrupt
        trials.lay_down(trial)
    with trials.claim(1) as trial:
        with trials.timed(trial):
            pass
        trials.complete(trial, 0.5, 1)
    assert trials.outcomes()[0].seconds == pytest.approx(3 + 4)


def test_values_without_effect_are_not_shown_and_order_means_nothing(tmp_path) -> None:
    space = {
        "model.fusion": Choices(("gmu", "gmu_contrastive")),
        "loss.alpha": Range(0.0, 1.5),
        "optim.lr": Range(1e-5, 1e-1, log=True),
    }
    found = []
    for name, keys in (("one", list(space)), ("two", list(space)[::-1])):
        (tmp_path / name).mkdir()
        trials = Trials(tmp_path / name, {key: space[key] for key in keys}, 0, EPOCHS)
        finish(trials, 6)
        found.append([one.values for one in trials.outcomes()])
    assert found[0] == found[1]
    assert {one["model.fusion"] for one in found[0]} == {"gmu", "gmu_contrastive"}
    for values in found[0]:
        assert ("loss.alpha" in values) == (values["model.fusion"] == "gmu_contrastive")


def test_a_trial_that_was_trained_to_its_end_after_all_is_complete(study) -> None:
    trials = study()
    with trials.claim(1) as trial:
        trial.set_user_attr("outcome", FAILED)  # by a process that was killed before it settled it
        trials.complete(trial, 0.5, 1)
    assert trials.outcomes()[0].state == "complete"


def test_a_folder_may_be_called_anything(study) -> None:
    trials = study("a?b#c%20 ü&'")
    finish(trials, 1)
    assert (trials.folder / STORE).is_file() and study(trials.folder.name).n_ended() == 1
