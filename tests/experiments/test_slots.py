"""`--jobs auto`: what is measured decides, once, and memory, GPUs and OMP_NUM_THREADS limit it."""

import logging
import os
import sys
from pathlib import Path

import pytest

from experiments import slots
from experiments.jobs import Job
from experiments.slots import Choice, choose_slots, head_slots, widen_last
from system.files import read_json

SPEEDS = {1: 10.0, 2: 16.0, 4: 15.0, 8: 12.0}  # utterances a second, by jobs


@pytest.fixture
def probed(monkeypatch) -> list[tuple[int, int]]:
    """Make probes that answer SPEEDS, on 8 cores; return those that were started."""
    started = []

    def probe(command, n, threads):
        started.append((n, threads))
        return Choice(n, threads, SPEEDS[n], 1e9, n)

    monkeypatch.setattr(slots, "_probe", probe)
    monkeypatch.setattr(slots, "_free_memory", lambda: 100e9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return started


def test_the_quickest_number_is_taken_and_kept(probed, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "experiments.slots")
    chosen = choose_slots([], "cpu", 20, tmp_path)
    assert chosen == [{"OMP_NUM_THREADS": "4"}] * 2
    assert probed == [(1, 8), (2, 4), (4, 2), (8, 1)]
    assert "2 jobs with 4 threads each: 1.60 times as fast as one at a time" in caplog.messages
    assert choose_slots([], "cpu", 5, tmp_path) == chosen and len(probed) == 4
    assert choose_slots([], "cpu", 1, tmp_path) == chosen[:1] * 2  # the last job of a resume
    assert read_json(tmp_path / "jobs.json")["8"]["jobs"] == 2


def test_another_number_of_cores_is_measured_anew(probed, tmp_path: Path, monkeypatch) -> None:
    choose_slots([], "cpu", 20, tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert choose_slots([], "cpu", 20, tmp_path) == [{"OMP_NUM_THREADS": "1"}] * 2
    assert probed[4:] == [(1, 2), (2, 1)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert choose_slots([], "cpu", 20, tmp_path) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert len(probed) == 6  # both are kept
    choose_slots(["model.image_size=32"], "cpu", 20, tmp_path)
    assert len(probed) == 10


def test_more_jobs_than_were_tried_are_measured_where_more_may_be_quicker(probed, tmp_path) -> None:
    assert len(choose_slots([], "cpu", 2, tmp_path)) == 2 and probed == [(1, 8), (2, 4)]
    choose_slots([], "cpu", 20, tmp_path)
    assert probed[2:] == [(1, 8), (2, 4), (4, 2), (8, 1)]
    choose_slots([], "cpu", 20, tmp_path)
    assert len(probed) == 6  # 2 are quicker than 4


ZERO = '{"8": {"command": [], "jobs": 0, "threads": 4, "utterances": 1, "bytes": 1, "most": 2}}'


def test_heads_take_a_core_each_as_far_as_memory_goes(probed, monkeypatch) -> None:
    assert head_slots(None, "cpu") == [{"OMP_NUM_THREADS": "1"}] * 8
    assert len(head_slots(3, "cpu")) == 3
    monkeypatch.setattr(slots, "_free_memory", lambda: 10e9)
    assert head_slots(None, "auto") == [{"OMP_NUM_THREADS": "1"}] * 2
    monkeypatch.setattr(slots, "_free_memory", lambda: 1e9)
    assert len(head_slots(None, "cpu")) == 1
    monkeypatch.setattr(slots, "_visible_gpus", lambda: ("CUDA_VISIBLE_DEVICES", ["0", "3"]))
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in head_slots(None, "auto")] == ["0", "3"]
    assert len(head_slots(None, "cpu")) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert head_slots(None, "cpu") == [{}]
    assert probed == []


@pytest.mark.parametrize("text", ["[]", "{", '{"8": 8}', ZERO, ZERO.replace("0,", '"x",')])
def test_a_file_that_is_no_choice_is_measured_anew(probed, tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs.json").write_text(text)
    assert len(choose_slots([], "cpu", 20, tmp_path)) == 2
    assert read_json(tmp_path / "jobs.json")["8"]["jobs"] == 2


def test_few_jobs_and_little_memory_are_not_exceeded(probed, tmp_path: Path, monkeypatch) -> None:
    assert choose_slots([], "cpu", 1, tmp_path / "one") == [{}] and probed == []
    choose_slots([], "cpu", 3, tmp_path / "three")
    assert probed == [(1, 8), (2, 4)]
    monkeypatch.setattr(slots, "_free_memory", lambda: 2.4e9)  # 80 % is less than two jobs take
    assert choose_slots([], "cpu", 20, tmp_path / "small") == [{"OMP_NUM_THREADS": "8"}]


def test_threads_that_are_given_and_gpus_are_not_measured(probed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slots, "_visible_gpus", lambda: ("CUDA_VISIBLE_DEVICES", ["0", "1", "2"]))
    on_gpus = choose_slots([], "auto", 20, tmp_path)
    assert on_gpus == [{"CUDA_VISIBLE_DEVICES": name} for name in "012"]
    assert len(choose_slots([], "auto", 2, tmp_path)) == 2
    assert choose_slots([], "cuda:1", 20, tmp_path) == [{}]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_slots([], "cpu", 20, tmp_path) == [{}]
    assert probed == []


@pytest.mark.parametrize(
    ("n_trainings", "n_slots", "threads", "expected"),
    [
        (3, 2, 1, [None, None, "2"]),  # the third would leave a core without work
        (4, 2, 1, [None] * 4),
        (1, 2, 1, ["2"]),
        (6, 4, 2, [None] * 4 + ["4"] * 2),
        (7, 4, 2, [None] * 7),  # a third of 8 threads is no more than 2
        (3, 1, 8, [None] * 3),
        (3, 2, None, [None] * 3),  # GPUs, or OMP_NUM_THREADS given
    ],
)
def test_the_last_trainings_share_all_threads(n_trainings, n_slots, threads, expected) -> None:
    slot = {"CUDA_VISIBLE_DEVICES": "0"} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    jobs = [Job(f"{i}", (), Path(f"{i}"), Path("log"), epochs=2) for i in range(n_trainings)]
    jobs += [Job("svm", (), Path("svm"), Path("log"))]  # a baseline is no training
    widened = widen_last(jobs, [slot] * n_slots)
    assert [job.environment.get("OMP_NUM_THREADS") for job in widened] == [*expected, None]
    assert [job.title for job in widened] == [job.title for job in jobs]


def test_a_probe_that_fails_leaves_one_job(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert choose_slots(["--config", "none.yaml"], "cpu", 4, tmp_path) == [{}]
    assert not (tmp_path / "jobs.json").exists()


def test_real_probes_compute_side_by_side(recipe: Path) -> None:
    choice = slots._probe(["--config", str(recipe)], 2, 1)
    assert choice is not None and choice.jobs == 2 and choice.threads == 1
    assert choice.utterances > 0 and choice.bytes > 1e8
