"""Trials of a study: same values whoever draws them, counted once, resumed if a process is lost."""

import logging
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.search_space import Space
from experiments.storages import SQLITE, STORE_FILES
from experiments.study import (
    COMPLETE,
    DIVERGED,
    FAILED,
    INVALID,
    MAX_STARTS,
    N_STARTUP_PRUNING,
    PRUNED,
    RUNNING,
    SAMPLER,
    Study,
    release,
    store_errors,
)
from system.errors import RunError
from tests.support.processes import workers

SPACE: Space = {
    "optim.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "model.fusion_hidden_dim": CategoricalDistribution((None, 8, 16)),
    "train.batch_size": IntDistribution(4, 16, step=4),
}
EPOCHS = 9
STORE = STORE_FILES[SQLITE]


def finish_all(study: Study, n_trials: int, limit: int = 1000) -> None:
    """Finish trials whose dev UA is higher for a smaller rate."""
    while study.n_finished() < n_trials and limit:
        limit -= 1
        with study.claim(n_trials) as trial:
            assert trial is not None
            study.finish(trial, COMPLETE, 1 - trial.params["optim.lr"])


@pytest.fixture
def study(tmp_path) -> Callable[..., Study]:
    def make(name: str = "study", seed: int = 0, space: Space = SPACE) -> Study:
        (tmp_path / name).mkdir(exist_ok=True)
        return Study(tmp_path / name, space, seed, EPOCHS)

    return make


def test_draws_follow_from_the_seed_however_often_the_work_is_stopped(study) -> None:
    n = SAMPLER["n_startup_trials"] + 2  # the last ones are drawn by TPE
    finish_all(study("one"), n)
    for _ in range(n):
        finish_all(study("two"), n, limit=1)  # opened anew for each trial
    one, two = ([result.values for result in study(name).results()] for name in ("one", "two"))
    assert one == two and len(one) == n
    assert len({str(values) for values in one}) == n
    finish_all(study("other", seed=1), 3)
    assert [result.values for result in study("other", seed=1).results()] != one[:3]


def test_peer_35_draws_do_not_depend_on_defaults_of_the_library(study, monkeypatch) -> None:
    """Optuna 5 changed those of `multivariate` and `constant_liar`: each option is given."""
    given = {}
    real = optuna.samplers.TPESampler

    def noted(**options: object) -> optuna.samplers.TPESampler:
        given.update(options)
        return real(**options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", noted)
    finish_all(study(), 1)
    assert given.keys() == {*SAMPLER, "seed"}
    assert {"multivariate", "constant_liar", "group", "n_ei_candidates"} <= SAMPLER.keys()


def test_draws_lie_in_the_space(study) -> None:
    finish_all(study(), 12)
    for result in study().results():
        assert 1e-5 <= result.values["optim.lr"] <= 1e-1
        assert result.values["model.fusion_hidden_dim"] in (None, 8, 16)
        assert result.values["train.batch_size"] in (4, 8, 12, 16)
        assert isinstance(result.values["train.batch_size"], int)


def test_two_processes_share_the_number_of_trials(study) -> None:
    here, there = study(), study()
    with here.claim(3) as first, there.claim(3) as second, here.claim(3) as third:
        assert [trial.number for trial in (first, second, third)] == [0, 1, 2]
        with there.claim(3) as none:
            assert none is None  # all have begun, and all are locked
        there.finish(second, COMPLETE, 0.5)
        here.finish(first, COMPLETE, 0.5)
        assert here.n_finished() == there.n_finished() == 2
        here.finish(third, COMPLETE, 0.5)
    with there.claim(3) as none:
        assert none is None
    with there.claim(4) as fourth:  # the same command with a higher number adds trials
        assert fourth.number == 3


CLAIM = """
import sys, time
from pathlib import Path
from tests.experiments.test_study import EPOCHS, SPACE, Study
study = Study(Path(sys.argv[1]), SPACE, 0, EPOCHS)
with study.claim(5) as trial:
    study.report(trial, 0.5, 1)
    print(trial.number, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def worker() -> Iterator[Callable[[Study], subprocess.Popen]]:
    """Start a process that holds trial 0; returns when it does."""
    with workers(CLAIM) as start:
        yield lambda study: start(study.folder)


def test_a_killed_process_s_trial_is_resumed_with_its_values(study, worker, recwarn) -> None:
    trials_here = study()
    process = worker(trials_here)
    (before,) = trials_here.results()
    with trials_here.claim(5) as beside:
        assert beside.number == 1  # the other one is locked
        trials_here.finish(beside, COMPLETE, 0.1)
    process.kill()
    process.wait()
    with trials_here.claim(5) as again:
        assert again.number == 0 and again.params == before.values
        recwarn.clear()
        trials_here.report(again, 0.5, 1)  # reported before, without a warning
        assert not recwarn.list
        trials_here.report(again, 0.6, 2)
        trials_here.finish(again, COMPLETE, 0.6)
    assert trials_here.n_finished() == 2 and trials_here.results()[0].dev_ua == 0.6


def test_a_killed_process_s_last_trial_is_resumed_though_all_have_begun(study, worker) -> None:
    trials_here = study()
    process = worker(trials_here)
    with trials_here.claim(1) as none:
        assert none is None
    process.kill()
    process.wait()
    with trials_here.claim(1) as again:
        assert again.number == 0


def test_a_process_killed_before_all_is_drawn_leaves_no_trial_without_values(study, monkeypatch):
    draw = optuna.Trial._suggest

    def killed(trial: optuna.Trial, name: str, distribution: object) -> object:
        if name == "train.batch_size":  # the last one
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return draw(trial, name, distribution)

    trials_here = study()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optuna.Trial, "_suggest", killed)
        with trials_here.claim(5):
            pass
    drawn = trials_here.results()[0].values
    assert drawn.keys() == SPACE.keys() - {"train.batch_size"}
    with study().claim(5) as trial:
        assert trial.number == 0 and trial.params.keys() == SPACE.keys()
        assert drawn.items() <= trial.params.items()


def test_a_trial_whose_process_is_lost_again_and_again_fails(study, caplog) -> None:
    trials_here = study()
    for _ in range(MAX_STARTS):
        with trials_here.claim(5) as trial:
            assert trial.number == 0
    with caplog.at_level(logging.WARNING), trials_here.claim(5) as trial:
        assert trial.number == 1
    (lost, _) = trials_here.results()
    assert lost.state == FAILED and "its process ended 3 times" in lost.reason
    assert "trial 0 is failed: its process ended 3 times" in caplog.text


def test_a_released_trial_may_be_resumed_any_number_of_times(study) -> None:
    trials_here = study()
    for _ in range(3 * MAX_STARTS):
        with trials_here.claim(5) as trial:
            assert trial.number == 0
            release(trial)


def test_what_is_below_the_median_is_pruned_after_the_first_third(study) -> None:
    trials_here = study()
    for k in range(N_STARTUP_PRUNING):  # medians: 0.5 after each epoch
        with trials_here.claim(9) as trial:
            for epoch in range(1, EPOCHS + 1):
                trials_here.report(trial, 0.3 + 0.1 * k, epoch)
            trials_here.finish(trial, COMPLETE, 0.3 + 0.1 * k)
    with trials_here.claim(9) as trial:
        for epoch in range(1, 4):
            trials_here.report(trial, 0.49, epoch)
        with pytest.raises(optuna.TrialPruned, match="below the median .* at epoch 4"):
            trials_here.report(trial, 0.49, 4)
        trials_here.finish(trial, PRUNED, None, "below")
    with trials_here.claim(9) as trial:
        for epoch in range(1, EPOCHS + 1):
            trials_here.report(trial, 0.51, epoch)
        trials_here.finish(trial, COMPLETE, 0.51)


def test_the_result_of_each_trial_is_stored(study) -> None:
    trials_here = study()
    for state in (DIVERGED, INVALID, FAILED):
        with trials_here.claim(9) as trial:
            trials_here.report(trial, 0.3, 1)
            trials_here.report(trial, 0.4, 2)
            trials_here.report(trial, 0.4, 3)
            trials_here.finish(trial, state, None, f"because {state}")
    with trials_here.claim(9) as trial:
        trials_here.report(trial, 0.5, 1)
        trials_here.finish(trial, COMPLETE, 0.5)
    with trials_here.claim(9):
        shown = [(r.state, r.dev_ua, r.best_epoch, r.epochs) for r in trials_here.results()]
    bad = [(state, 0.4, 2, 3) for state in (DIVERGED, INVALID, FAILED)]
    assert shown == [*bad, (COMPLETE, 0.5, 1, 1), (RUNNING, None, None, 0)]
    assert trials_here.results()[1].reason == "because invalid" and trials_here.n_finished() == 4
    states = [trial.state.name for trial in trials_here.optuna.get_trials()]
    assert states == ["PRUNED", "PRUNED", "FAIL", "COMPLETE", "RUNNING"]  # the sampler's view


def test_a_corrupt_store_is_refused_with_the_remedy(study) -> None:
    (study().folder / STORE).write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match=f"cannot read or write the trials in .*{STORE}.*remove"):
        study()


def test_a_store_of_another_optuna_is_refused_with_the_remedy(study) -> None:
    with sqlite3.connect(study().folder / STORE) as store:
        store.execute("update version_info set schema_version = 99")
        store.execute("update alembic_version set version_num = 'v99'")
    with pytest.raises(RunError, match=f"cannot read or write the trials in .*{STORE}.*remove"):
        study()


@pytest.mark.parametrize(
    "error", [optuna.exceptions.StorageInternalError("full"), RuntimeError("full")]
)
def test_every_error_of_the_store_is_translated(study, monkeypatch, error) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    opened = study()
    monkeypatch.setattr(optuna.Study, "get_trials", fail)
    with pytest.raises(RunError, match="cannot read or write the trials in .*: full"):
        study()
    if not isinstance(error, RuntimeError):  # one of training's own, while trials are trained
        with pytest.raises(RunError, match="cannot read or write the trials in .*: full"):
            with store_errors(opened.store):
                opened.n_finished()


def test_a_trial_that_another_process_begins_meanwhile_is_known(study, monkeypatch) -> None:
    """Folders are listed before the store is read, so that none can be missing in it."""
    finish_all(study(), 1)
    real = optuna.Study.get_trials

    def slow(self: optuna.Study, *words: object, **options: object) -> object:
        listed = list(real(self, *words, **options))
        new = there.trial_folder(1)
        new.mkdir(parents=True, exist_ok=True)
        (new / "config.yaml").write_text("of another process")
        return listed

    there = study()
    monkeypatch.setattr(optuna.Study, "get_trials", slow)
    assert study().n_finished() == 1


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_store_that_lost_its_trials_starts_nothing_anew(study, how) -> None:
    trials_here = study()
    finish_all(trials_here, 2)
    (trials_here.trial_folder(1) / "config.yaml").write_text("trained")
    (trials_here.folder / STORE).unlink()
    if how == "emptied":
        (trials_here.folder / STORE).touch()
    with pytest.raises(RunError, match="does not know all trials in .*start anew"):
        study()


def test_time_is_that_of_training_alone(study) -> None:
    trials_here = study()
    with trials_here.claim(1) as trial:
        time.sleep(0.3)
        release(trial)
    time.sleep(3)  # nobody trains
    with trials_here.claim(1) as trial:
        time.sleep(0.4)
        trials_here.finish(trial, COMPLETE, 0.5)
    assert 0.7 <= trials_here.results()[0].seconds < 3


def test_values_without_effect_are_not_shown_and_order_means_nothing(study) -> None:
    space: Space = {
        "model.fusion": CategoricalDistribution(("gmu", "gmu_contrastive")),
        "loss.alpha": FloatDistribution(0.0, 1.5),
        "optim.lr": FloatDistribution(1e-5, 1e-1, log=True),
    }
    values = []
    for name, keys in (("one", list(space)), ("two", list(space)[::-1])):
        trials_here = study(name, space={key: space[key] for key in keys})
        finish_all(trials_here, 6)
        values.append([result.values for result in trials_here.results()])
    assert values[0] == values[1]
    assert {drawn["model.fusion"] for drawn in values[0]} == {"gmu", "gmu_contrastive"}
    for drawn in values[0]:
        assert ("loss.alpha" in drawn) == (drawn["model.fusion"] == "gmu_contrastive")


def test_a_trial_that_was_trained_to_its_end_after_all_is_complete(study) -> None:
    trials_here = study()
    with trials_here.claim(1) as trial:
        trial.set_user_attr("state", FAILED)  # by a process that was killed before it finished it
        trials_here.finish(trial, COMPLETE, 0.5)
    assert trials_here.results()[0].state == COMPLETE


def test_a_folder_may_have_any_name(study) -> None:
    trials_here = study("a?b#c%20 ü&'")
    finish_all(trials_here, 1)
    assert (trials_here.folder / STORE).is_file()
    assert study(trials_here.folder.name).n_finished() == 1
