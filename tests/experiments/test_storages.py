"""Trials in a journal or PostgreSQL: shared by processes, and a lost worker's trial is taken up."""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from experiments import storages
from experiments.storages import JOURNAL, MAX_STORE, Store, check_storage, remove_cut_line
from experiments.study import COMPLETE, MAX_STARTS, Study, release
from system.errors import InputError, RunError
from tests.experiments.test_study import EPOCHS, SPACE, finish_all
from tests.support.paths import ROOT
from tests.support.postgres import BINARIES, postgresql
from tests.support.processes import workers

WORKER = """
import sys, time
from pathlib import Path
from experiments import storages
from tests.experiments.test_study import EPOCHS, SPACE, Study
storages.HEARTBEAT, storages.GRACE = 1, 3
study = Study(Path(sys.argv[1]), SPACE, 0, EPOCHS, sys.argv[2])
with study.claim(3) as trial:
    study.report(trial, 0.5, 1)
    (study.trial_folder(trial.number) / "state" / "saved").touch()
    print(trial.number, flush=True)
    time.sleep(600)
"""
NO_SERVER = "Debian's package postgresql is not installed: no /usr/lib/postgresql/*/bin"
NO_PSYCOPG = "psycopg (extra `cluster`) is not installed"
needs_postgresql = [
    pytest.mark.skipif(not BINARIES, reason=NO_SERVER),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason=NO_PSYCOPG),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=needs_postgresql)])
def storage(request, monkeypatch) -> str:
    """Where the trials are; heartbeats are quick."""
    monkeypatch.setattr(storages, "HEARTBEAT", 1)
    monkeypatch.setattr(storages, "GRACE", 3)
    return JOURNAL if request.param == JOURNAL else request.getfixturevalue("server")


@pytest.fixture
def worker(storage: str, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Start a process that begins a trial and never ends it; returns when it has."""
    with workers(WORKER) as start:
        yield lambda: start(tmp_path, storage)


def open_study(folder: Path, storage: str) -> Study:
    return Study(folder, SPACE, 0, EPOCHS, storage)


def claim_lost(study: Study, number: int) -> None:
    """Wait until a lost trial can be claimed, then finish it."""
    end = time.monotonic() + 60
    while True:
        with study.claim(3) as trial:
            if trial is not None:
                assert trial.number == number
                assert trial.user_attrs["starts"] == 2
                assert (study.trial_folder(number) / "state" / "saved").exists()
                study.report(trial, 0.7, 2)
                study.finish(trial, COMPLETE, 0.7)
                return
        assert time.monotonic() < end, "nobody took the trial up"
        time.sleep(0.2)


def test_a_killed_worker_s_trial_is_taken_up_with_its_values(storage, worker, tmp_path) -> None:
    process = worker()
    study = open_study(tmp_path, storage)
    (before,) = study.results()
    for number in (1, 2):
        with study.claim(3) as beside:  # the other worker lives: its trial is its own
            assert beside.number == number
            study.finish(beside, COMPLETE, 0.1)
    time.sleep(storages.GRACE + 1)  # heartbeats go on
    with study.claim(3) as none:
        assert none is None
    process.kill()
    process.wait()
    claim_lost(open_study(tmp_path, storage), 0)
    first, *others = open_study(tmp_path, storage).results()
    assert (first.state, first.dev_ua, first.epochs) == (COMPLETE, 0.7, 2)
    assert first.values == before.values and len(others) == 2


def test_draws_are_those_of_a_study_in_sqlite(storage, tmp_path) -> None:
    for name, where in (("here", storage), ("there", "sqlite")):
        (tmp_path / name).mkdir()
        finish_all(open_study(tmp_path / name, where), 12)
    here, there = (
        [(trial.values, trial.dev_ua) for trial in open_study(tmp_path / name, where).results()]
        for name, where in (("here", storage), ("there", "sqlite"))
    )
    assert here == there and len(here) == 12  # the last ones are drawn by TPE


def test_a_trial_that_was_released_is_free_at_once(storage, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(storages, "GRACE", 600)
    study = open_study(tmp_path, storage)
    for _ in range(MAX_STARTS + 1):
        with study.claim(3) as trial:
            assert trial.number == 0
            release(trial)
    assert 0 <= study.results()[0].seconds < 60


@pytest.mark.parametrize("marks", [pytest.param("", marks=needs_postgresql)])
def test_without_a_lock_a_recent_heartbeat_keeps_the_trial(
    server, marks, tmp_path, monkeypatch
) -> None:
    """As on a mount whose locks hold within one machine alone."""
    monkeypatch.setattr("experiments.study.is_held", lambda path: False)
    monkeypatch.setattr(storages, "HEARTBEAT", 1)
    monkeypatch.setattr(storages, "GRACE", 3)
    study = open_study(tmp_path, server)
    with study.claim(2) as first:
        time.sleep(2 * storages.GRACE)
        with study.claim(2) as second, study.claim(2) as none:
            assert [first.number, second.number, none] == [0, 1, None]
    time.sleep(2 * storages.GRACE)
    with study.claim(2) as again:
        assert again.number == 0


@pytest.mark.parametrize("marks", [pytest.param("", marks=needs_postgresql)])
def test_studies_of_two_folders_are_apart_on_one_server(server, marks, tmp_path) -> None:
    for name, n_trials in (("one", 3), ("two", 1)):
        (tmp_path / name / "a_tuning").mkdir(parents=True)
        finish_all(open_study(tmp_path / name / "a_tuning", server), n_trials)
    assert open_study(tmp_path / "two/a_tuning", server).n_finished() == 1


@pytest.mark.parametrize("marks", [pytest.param("", marks=needs_postgresql)])
def test_a_server_that_is_away_is_one_message(marks, tmp_path) -> None:
    url = f"postgresql://me@/db?host={tmp_path}"
    with pytest.raises(
        RunError, match="cannot read or write the trials in postgresql://me@/db"
    ) as e:
        open_study(tmp_path, url)
    assert "If the server or the network is down" in str(e.value) and "remove" not in str(e.value)


def test_a_line_that_a_kill_cut_is_removed_and_all_others_are_read(tmp_path) -> None:
    finish_all(open_study(tmp_path, JOURNAL), 2)
    file = Path(Store(tmp_path, JOURNAL).place)
    whole = file.read_bytes()
    for cut in (b'{"op_code":9,"wor', b'{"x":"' + b"y" * 9000):
        file.write_bytes(whole + cut)
        remove_cut_line(file)
        assert file.read_bytes() == whole
    file.write_bytes(whole + b'{"op_code":9,"wor')
    finish_all(open_study(tmp_path, JOURNAL), 3)
    assert open_study(tmp_path, JOURNAL).n_finished() == 3
    assert all(json.loads(line) for line in file.read_text().splitlines())
    file.write_bytes(b"cut")
    remove_cut_line(file)
    assert file.read_bytes() == b""


def test_a_journal_that_is_none_is_one_message(tmp_path) -> None:
    file = Path(Store(tmp_path, JOURNAL).place)
    for content in (b"no journal\nat all\n", b"[1]\n{}\n", b"\xff\n\xff\n"):
        file.write_bytes(content)
        with pytest.raises(RunError, match="cannot read or write the trials in .*journal.*remove"):
            open_study(tmp_path, JOURNAL)
    with file.open("wb") as opened:
        opened.truncate(MAX_STORE + 1)
    with pytest.raises(RunError, match="larger than 200 MB"):
        open_study(tmp_path, JOURNAL)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link"):
        open_study(tmp_path, JOURNAL)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("jurnal", "'jurnal' is none: did you mean 'journal'"),
        ("mysql://me:secret@host/db", "'mysql' is none"),
        ("postgresql://me:secret@host/db", "holds a password"),
        ("postgresql://host/db?user=me&password=secret", "holds a password"),
        ("postgresql://host:secret/db", "must be like"),
        ("postgresql://[secret/db", "must be like"),
    ],
)
def test_another_storage_is_refused_and_no_password_is_repeated(where: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        check_storage(where)
    assert "secret" not in str(error.value)


def test_the_entry_refuses_a_password_without_repeating_it(tmp_path) -> None:
    command = [sys.executable, "tune.py", "--config", "configs/demo_gmu.yaml"]
    command += ["--space", "configs/spaces/gmu.yaml", "--storage", "postgresql://me:secret@host/db"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2 and "holds a password" in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_psycopg_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs psycopg; .*extra `cluster`.*requirements-cluster"):
        check_storage("postgresql://me@host/db")


@pytest.mark.slow
def test_two_workers_tune_by_a_journal(recipe, tmp_path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({"optim.lr": {"low": 1e-4, "high": 3e-3, "log": True}}))
    wishes = ["train.epochs=1", "run.folds=[1]", f"run.root={tmp_path / 'runs'}"]
    command = [sys.executable, str(ROOT / "tune.py"), "--config", str(recipe)]
    command += ["--space", str(space), "--trials", "2", "--workers", "2", "--storage", JOURNAL]
    done = subprocess.run(
        [*command, *wishes], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/tiny_tuning"
    assert "2 complete in" in done.stdout and not (folder / "study.db").exists()
    assert "--storage journal" in (folder / "best.yaml").read_text()
