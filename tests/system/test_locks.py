"""Locks: who holds one is named, two never work on the same, and none outlives its process."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from corpora.plan import make_plan
from system.errors import InputError, RunError
from system.locks import is_held, lock
from tests.support import kills
from tests.support.runs import run_experiment

FOLD = "folds/fold-1_seed-0"
HOLDER = """
import sys, time; from pathlib import Path; from system.locks import lock
with lock(Path(sys.argv[1]), "x", shared=sys.argv[2] == "shared"):
    print("held", flush=True); time.sleep(600)
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path, str], subprocess.Popen]]:
    """Start a process that holds a lock until it is killed."""
    with ExitStack() as stack:

        def start(path: Path, kind: str = "alone") -> subprocess.Popen:
            command = [sys.executable, "-c", HOLDER, str(path), kind]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=kills.ROOT)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            return process

        yield start


def test_the_second_process_learns_who_was_first(tmp_path: Path, hold) -> None:
    file = tmp_path / "lock"
    first = hold(file)
    assert is_held(file)
    words = f"another process is at work on the fold .process {first.pid} on {socket.gethostname()}"
    with pytest.raises(RunError, match=words), lock(file, "the fold"):
        pass
    assert is_held(file)  # trying takes nothing away


@pytest.mark.promise("stale_lock")
def test_a_lock_falls_with_its_process_and_is_taken_over(tmp_path: Path, hold, count) -> None:
    file = tmp_path / "lock"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        first = hold(file)
        first.send_signal(number)
        first.wait()
        assert not is_held(file) and str(first.pid) in file.read_text()  # its name is still there
        with lock(file, "the fold"):
            assert is_held(file) and str(os.getpid()) in file.read_text()
        count("stale locks taken over")


def test_shared_owners_keep_out_an_exclusive_one(tmp_path: Path, hold) -> None:
    file = tmp_path / "lock"
    hold(file, "shared")
    with lock(file, "the run", shared=True):
        pass
    with pytest.raises(RunError, match="at work on the run"), lock(file, "the run"):
        pass
    assert not is_held(file)  # exclusively


def test_a_blocking_lock_waits_and_says_for_whom(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "system.locks")
    order = []

    def second() -> None:
        with lock(tmp_path / "lock", "the store", blocking=True):
            order.append("second")

    with lock(tmp_path / "lock", "the store", blocking=True):
        (thread := threading.Thread(target=second)).start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    (message,) = caplog.messages
    owner = f"(process {os.getpid()} on {socket.gethostname()}, since "
    assert message.startswith(f"waiting until the lock of the store is free {owner}")


def test_no_lock_no_holder(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot lock"), lock(tmp_path / "file" / "lock", "x"):
        pass


@pytest.mark.promise("same_run")
@pytest.mark.parametrize("folds", ["null", pytest.param("[1,2]", marks=pytest.mark.slow), "[1]"])
def test_of_two_runs_of_one_name_the_second_is_refused(
    tiny: Callable, tmp_path: Path, recipe: Path, count, folds: str
) -> None:
    wishes = [f"run.root={tmp_path / 'runs'}", f"run.folds={folds}", "train.epochs=1000"]
    argv = ["train_gmu.py", "--config", str(recipe), *wishes]
    first = kills.start(argv, tmp_path / "first")
    folder = tmp_path / "runs" / "tiny"
    while not any((folder / FOLD / "state").glob("epoch-*")):
        assert first.is_alive(), (tmp_path / "first").read_text()
        time.sleep(0.01)
    for again in (argv, [*argv, "--overwrite"]):
        second = kills.start(again, tmp_path / "second")
        second.join(60)
        output = (tmp_path / "second").read_text()
        assert second.exitcode == 1 and "Traceback" not in output
        place = f"{folder}" if folds == "null" or again != argv else f"fold-1_seed-0 in {folder}"
        assert f"failed: another process is at work on {place}" in output
        assert f"process {first.pid} on {socket.gethostname()}" in output
        count("second runs refused")
        (tmp_path / "second").unlink()
    assert first.is_alive()
    first.kill()
    first.join()
    assert any((folder / FOLD / "state").glob("epoch-*"))  # --overwrite removed nothing
    run_experiment(tiny(f"run.folds={folds}", "train.epochs=1"), [], overwrite=True)
    assert (folder / FOLD / "metrics.json").exists()
    count("stale locks taken over")


@pytest.mark.promise("same_store")
def test_two_runs_that_need_the_same_images_compute_them_once(
    tmp_path: Path, recipe: Path, count
) -> None:
    """Both begin at once; together they write as many images as one would."""
    runs = []
    for name in ("a", "b"):
        wishes = [f"run.root={tmp_path / 'runs'}", f"run.store={tmp_path / 'store'}"]
        argv = ["train_gmu.py", "--config", str(recipe), *wishes, f"name={name}", "train.epochs=1"]
        runs.append(kills.start(argv, tmp_path / f"log {name}"))
    for run, name in zip(runs, ("a", "b"), strict=True):
        run.join(120)
        assert run.exitcode == 0, (tmp_path / f"log {name}").read_text()
    built = [_n_imaged(tmp_path / f"log {name}") for name in ("a", "b")]
    assert sorted(built) == [0, 40]
    results = [(tmp_path / "runs" / name / FOLD / "predictions.csv").read_bytes() for name in "ab"]
    assert results[0] == results[1]
    count("stores shared")


def _n_imaged(log: Path) -> int:
    """Return how many clips the bar of the feature store ended at."""
    bars = [line for line in log.read_text().replace("\r", "\n").splitlines() if "features" in line]
    return int(bars[-1].split("/")[0].split()[-1]) if bars else 0


def test_who_begins_a_run_of_another_config_meanwhile_is_not_mixed_with(
    tiny: Callable, monkeypatch
) -> None:
    """While one process indexes audio, another one may begin and end."""
    first, second = tiny("run.folds=[1]", "train.epochs=1"), tiny("run.folds=[2]", "optim.lr=0.01")

    def slow(config, keep):
        monkeypatch.undo()
        run_experiment(first, [])
        return make_plan(config)

    monkeypatch.setattr("training.experiment.make_plan", slow)
    with pytest.raises(InputError, match="made with another config:\n.*optim.lr: 0.001 there"):
        run_experiment(second, [])
    folder = Path(first.run.root) / "tiny"
    assert [path.name for path in (folder / "folds").iterdir()] == ["fold-1_seed-0"]
    assert "lr: 0.001" in (folder / "config.yaml").read_text()
