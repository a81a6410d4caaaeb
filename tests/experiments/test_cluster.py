"""Jobs by submitit: an array of Slurm (a stand-in) or this machine; requeued tasks resume."""

import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
import yaml

from experiments import cluster, cluster_task
from experiments.cluster import Executor, check_executor, run_by_submitit, slurm_parameters
from experiments.jobs import Job
from scripts import ablation
from system.errors import InputError, RunError
from tests.experiments.test_jobs import DONE, calls, holder, job, wait_for
from tests.support import slurm
from tests.support.paths import ROOT
from training.command import split_overrides

pytest.importorskip("submitit", reason="submitit (extra `cluster`) is not installed")
__all__ = ["holder", "job"]  # fixtures

TIME = ["time=600"]
UNTIL_ASKED = """
import signal
def asked(number, frame):
    open(folder + '/saved', 'a').write(str(number) + ' ')
    sys.exit(128 + number)
signal.signal(signal.SIGUSR1, asked); signal.signal(signal.SIGTERM, asked)
if not os.path.exists(folder + '/saved'):
    open(folder + '/parent', 'w').write(str(os.getppid()))
    time.sleep(600)
"""


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """The stand-in for Slurm; returns its state folder."""
    monkeypatch.setattr(cluster, "QUEUE_TICK", 0.2)
    monkeypatch.setattr(cluster_task, "TICK", 0.02)
    tools = slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tmp_path / "slurm"


@pytest.fixture
def submit(tmp_path, queue) -> Iterator[Callable[..., object]]:
    """Run jobs by an executor; afterwards nothing of them is left."""

    def call(every: list[Job], name: str = "slurm", n: int = 2, wait: bool = True) -> object:
        executor = Executor(name, tmp_path / "cluster", "title", TIME, n)
        slots = [{}] * (len(every) if name == "slurm" else n)
        return run_by_submitit(every, executor, slots, wait)

    yield call
    end = time.monotonic() + 30
    while {"PENDING", "RUNNING", "REQUEUED"} & set(slurm.states(queue).values()):
        for task, state in slurm.states(queue).items():
            if state == "RUNNING" and (queue / "pids" / task).exists():
                slurm.send(queue, task, signal.SIGTERM)
        assert time.monotonic() < end
        time.sleep(0.1)


def arrays(queue: Path) -> list[str]:
    file = queue / "calls"
    return [line for line in file.read_text().splitlines() if line.startswith("sbatch ")]


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_unfinished_jobs_run_and_their_output_is_where_the_pool_has_it(
    job, submit, tmp_path, name
) -> None:
    every = [job("a", f"print('hello')\n{DONE}"), job("b"), job("c")]
    (every[1].folder / "metrics.json").touch()
    assert submit(every, name) == []
    assert sorted(calls(tmp_path)) == ["a", "c"] and all(one.finished for one in every)
    log = every[0].log.read_text()
    assert log.startswith("$ ") and log.endswith("\nhello\n")
    assert submit(every, name) == [] and len(calls(tmp_path)) == 2


def test_one_array_holds_all_jobs_with_the_given_parameters(job, submit, queue, tmp_path) -> None:
    submit([job(name) for name in "abc"])
    (call,) = arrays(queue)
    script = next((tmp_path / "cluster").glob("*_submission.sh")).read_text()
    for line in (
        "--array=0-2%2",
        "--time=600",
        "--signal=USR1@90",
        "--requeue",
        "--job-name=title",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR1\n" in script


def send_when_asked(every: list[Job], number: int) -> Thread:
    """Send a signal to the task of each job, once its training runs."""

    def work() -> None:
        for one in every:
            wait_for(one.folder / "parent")
            time.sleep(0.1)  # it is written
            os.kill(int((one.folder / "parent").read_text()), number)

    thread = Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_usr1_saves_and_requeues_and_the_task_resumes(job, submit, queue, tmp_path, name) -> None:
    every = [job("a", UNTIL_ASKED + DONE), job("b", UNTIL_ASKED + DONE)]
    sender = send_when_asked(every, signal.SIGUSR1)
    assert submit(every, name) == []
    sender.join()
    assert sorted(calls(tmp_path)) == ["a", "a", "b", "b"]
    assert [(one.folder / "saved").read_text() for one in every] == [f"{signal.SIGUSR1:d} "] * 2
    assert every[0].log.read_text().count("$ ") == 2
    if name == "slurm":
        end = time.monotonic() + 30
        while set(slurm.states(queue).values()) != {"COMPLETED"}:
            assert time.monotonic() < end, slurm.states(queue)
            time.sleep(0.05)
        assert len(arrays(queue)) == 1
        assert sum(line.startswith("scontrol requeue 1_") for line in (queue / "calls").open()) == 2


def test_a_preempted_task_gets_term_first_and_is_requeued(job, submit, queue) -> None:
    """Slurm sends SIGTERM, then the signal of the script."""
    one = job("a", UNTIL_ASKED + DONE)

    def preempt() -> None:
        wait_for(one.folder / "parent")
        time.sleep(0.1)
        parent = int((one.folder / "parent").read_text())
        os.kill(parent, signal.SIGTERM)
        wait_for(one.folder / "saved")
        time.sleep(0.5)
        os.kill(parent, signal.SIGUSR1)

    sender = Thread(target=preempt)
    sender.start()
    assert submit([one]) == []
    sender.join()
    assert (one.folder / "saved").read_text() == f"{signal.SIGTERM:d} "


def test_a_task_that_is_cancelled_saves_and_is_not_requeued(job, submit, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "AFTER_TERM", 0.5)
    one = job("a", UNTIL_ASKED + DONE)
    sender = send_when_asked([one], signal.SIGTERM)
    ((failed, _),) = submit([one])
    sender.join()
    assert failed == one and (one.folder / "saved").read_text() == f"{signal.SIGTERM:d} "


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_a_failed_job_is_listed_with_its_words_and_stops_no_other(job, submit, tmp_path, name):
    every = [job("a", "print('failed: no luck'); print('bye'); sys.exit(1)"), job("b")]
    assert submit(every, name) == [(every[0], "failed: no luck")]
    assert sorted(calls(tmp_path)) == ["a", "b"]
    assert submit([job for job in every], name) == [(every[0], "failed: no luck")]
    assert sorted(calls(tmp_path)) == ["a", "a", "b"]


def test_the_words_of_a_job_that_ends_while_it_is_submitted_are_found(
    job, submit, tmp_path, monkeypatch
) -> None:
    real = Executor.submit

    def slow(executor: Executor, jobs: list) -> list[str]:
        numbers = real(executor, jobs)
        while executor.alive():
            time.sleep(0.01)
        return numbers

    monkeypatch.setattr(Executor, "submit", slow)
    every = [job("a", "print('failed: no luck'); sys.exit(1)")]
    every[0].log.write_text("failed: an earlier word\n")
    assert submit(every, "local") == [(every[0], "failed: no luck")]


def test_what_is_queued_is_not_submitted_again_but_waited_for(
    job, submit, queue, tmp_path, caplog
) -> None:
    hold = f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.02)\n"
    every = [job(name, hold + DONE) for name in "abc"]
    caplog.set_level(logging.INFO)
    assert submit(every, n=1, wait=False) is None
    assert "3 jobs stay in the queue" in caplog.text and "`scancel 1`" in caplog.text
    assert submit(every, wait=False) is None
    assert len(arrays(queue)) == 1 and "a: is in the queue as job 1_0" in caplog.text
    (tmp_path / "go").touch()
    assert submit([*every, job("d")]) == []
    assert len(arrays(queue)) == 2 and sorted(calls(tmp_path)) == ["a", "b", "c", "d"]


def test_a_fold_that_another_process_trains_is_waited_for(job, submit, holder, queue, tmp_path):
    every = [job("a"), job("b")]
    holder(
        every[0].folder, tmp_path / "go", f"open({str(every[0].folder)!r} + '/metrics.json','w')"
    )
    thread = Thread(
        target=lambda: (wait_for(every[1].folder / "metrics.json"), (tmp_path / "go").touch())
    )
    thread.start()
    assert submit(every) == []
    thread.join()
    assert calls(tmp_path) == ["b"] and len(arrays(queue)) == 1


def test_an_interrupt_ends_the_jobs_of_this_machine_and_they_save(job, submit) -> None:
    one = job("a", UNTIL_ASKED)

    def interrupt() -> None:
        wait_for(one.folder / "parent")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = Thread(target=interrupt)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        submit([one], "local")
    sender.join()
    assert (one.folder / "saved").read_text() == f"{signal.SIGTERM:d} "


def test_a_queue_that_does_not_answer_fails_no_job(job, submit, monkeypatch, caplog) -> None:
    answers = [RunError("Slurm does not say"), None]
    real = Executor.alive

    def alive(executor: Executor) -> set[str]:
        if answers and (error := answers.pop(0)):
            raise error
        return real(executor)

    monkeypatch.setattr(Executor, "alive", alive)
    assert submit([job("a", "time.sleep(1)\n" + DONE)]) == []
    assert "Slurm does not say" in caplog.text


def test_a_refusal_of_slurm_is_one_message(job, submit, queue) -> None:
    (queue / "tools/sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: no partition x' >&2\nexit 1"
    )
    with pytest.raises(RunError, match="cannot be submitted: sbatch: error: no partition x"):
        submit([job("a"), job("b")])


def test_local_jobs_see_the_gpus_of_this_machine(job, submit, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    code = "open(folder + '/metrics.json', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    one = job("a", code)
    submit([one], "local")
    assert (one.folder / "metrics.json").read_text() == "3,5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs the time limit"),
        (["time=10:00:00"], "needs the time limit"),
        pytest.param(["time=" + "1" * 5000], "needs the time limit", id="5000 digits"),
        (["time=5", "nodes=2"], "nodes=... is decided by this command"),
        (["time=5", "--array=0-3"], "array=... is decided"),
        (["time=5", "gpu"], "takes words like partition=gpu, got 'gpu'"),
        (["time=5", "signal_delay_s=2m"], "number of seconds"),
    ],
)
def test_wrong_parameters_are_named(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        slurm_parameters(words)


def test_parameters_go_to_sbatch_as_they_are() -> None:
    words = [
        "time=5",
        "signal_delay_s=120",
        "partition=gpu",
        "gpus-per-node=1",
        "exclusive=true",
        "setup=module load x",
    ]
    given = slurm_parameters(words)
    assert given["time"] == 5 and given["setup"][1:] == ["module load x"]
    expected = {"partition": "gpu", "gpus_per_node": 1, "exclusive": True, "requeue": True}
    expected |= {"signal": "USR1@120"}
    assert given["additional_parameters"] == expected


def test_what_is_missing_is_named_with_its_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch, squeue, srun here"):
        check_executor("slurm", TIME)
    check_executor("local", [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="local needs submitit; .*extra `cluster`"):
        check_executor("local", [])


@pytest.fixture
def configs(recipe: Path, tmp_path: Path) -> Path:
    """The tiny config for two fusions."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for fusion in ("concat", "gmu"):
        values = {"base": str(recipe), "name": f"tiny_{fusion}", "model": {"fusion": fusion}}
        values |= {"train": {"epochs": 2}, "run": {"root": str(tmp_path / "runs")}}
        (folder / f"tiny_{fusion}.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.slow
def test_an_ablation_on_slurm_is_interrupted_requeued_and_compared(
    configs, queue, tmp_path, monkeypatch, capsys
) -> None:
    """Real trainings: one of them gets SIGUSR1 after its first epoch."""
    monkeypatch.chdir(ROOT)
    words = ["tiny", "--fusions", "concat", "gmu", "--executor", "slurm", "--jobs", "1"]
    words += ["--no-baselines", "--slurm", "time=600", "partition=gpu", "train.epochs=3"]
    fold = tmp_path / "runs/tiny_concat/folds/fold-1_seed-0"

    def preempt() -> None:
        wait_for(fold / "history.csv")
        slurm.send(queue, "1_0", signal.SIGUSR1)

    sender = Thread(target=preempt)
    sender.start()
    assert ablation.main([*words, "--no-wait"], configs) == 0
    assert "Submitted. The same command" in capsys.readouterr().out
    assert ablation.main(words, configs) == 0, capsys.readouterr().err
    sender.join()
    assert len(arrays(queue)) == 1
    log = (tmp_path / "runs/tiny_concat/logs/fold-1_seed-0.log").read_text()
    assert "SIGUSR1: saving, then stopping" in log and log.count("$ ") == 2
    assert "tiny_gmu" in (tmp_path / "runs/tiny_ablation/comparison.md").read_text()
    done = ablation.main([*words[:-1], "train.epochs=3", f"run.root={tmp_path / 'whole'}"], configs)
    assert done == 0, capsys.readouterr().err
    for name in ("history.csv", "predictions.csv", "model.safetensors"):
        whole = tmp_path / "whole" / fold.relative_to(tmp_path / "runs") / name
        assert (fold / name).read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_heads_are_submitted_once_their_branches_are_trained(
    configs, queue, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(ROOT)
    words = ["tiny", "--frozen", "--fusions", "gmu", "concat", "--no-baselines", "run.seeds=[0,1]"]
    words += ["--executor", "slurm", "--slurm", "time=600"]
    assert ablation.main([*words, "--no-wait"], configs) == 0
    assert "It submits the heads once the branches are trained" in capsys.readouterr().out
    assert len(arrays(queue)) == 1 and not (tmp_path / "runs/tiny_gmu_frozen").exists()
    for branch in ("cqt_only", "mel_only"):
        wait_for(tmp_path / f"runs/tiny_{branch}/folds/fold-1_seed-0/metrics.json")
    assert ablation.main([*words, "--no-wait"], configs) == 0
    assert len(arrays(queue)) == 2
    assert ablation.main(words, configs) == 0, capsys.readouterr().err
    assert len(arrays(queue)) == 2
    tables = (tmp_path / "runs/tiny_frozen/comparison.md").read_text()
    assert "| tiny_gmu_frozen |" in tables and "| tiny_concat_frozen |" in tables


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm", "time=5"], "--slurm has an effect with --executor slurm alone"),
        (["--no-wait"], "--no-wait has an effect with --executor slurm alone"),
        (["--executor", "local", "--no-wait"], "--no-wait has an effect"),
        (["--executor", "pbs"], "invalid choice: 'pbs'"),
    ],
)
def test_options_without_effect_are_refused(words, message, capsys) -> None:
    with pytest.raises(SystemExit):
        ablation.main(["demo", *words])
    assert message in capsys.readouterr().err


def test_words_behind_slurm_are_no_overrides() -> None:
    words = [
        "demo",
        "--slurm",
        "time=5",
        "optim.lr=1",
        "gres=gpu:a.b",
        "--jobs",
        "2",
        "run.seeds=[0]",
    ]
    rest, overrides = split_overrides(words)
    assert overrides == ["optim.lr=1", "run.seeds=[0]"]
    assert rest == ["demo", "--slurm", "time=5", "gres=gpu:a.b", "--jobs", "2"]
