"""Jobs run in order, at the same time, once; the failed and the busy stop no other."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import jobs
from experiments.jobs import Job, is_busy, run_jobs
from experiments.slots import slot_environments
from system import devices
from system.errors import RunError
from system.locks import lock
from tests.support.paths import ROOT

DONE = "open(folder + '/metrics.json', 'w')"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Make a job of a few lines of Python that know `folder`, `name` and `root`."""
    monkeypatch.setattr(jobs, "TICK", 0.01)
    monkeypatch.setattr(jobs, "BUSY_TICK", 0.05)
    (tmp_path / "logs").mkdir()

    def make(name: str, code: str = DONE) -> Job:
        folder = tmp_path / name
        (folder / "state").mkdir(parents=True)
        head = f"import os, sys, time; root, name, folder = {str(tmp_path)!r}, {name!r}, "
        lines = f"{head}{str(folder)!r}\nopen(root + '/calls', 'a').write(name + ' ')\n{code}"
        command = (sys.executable, "-S", "-c", lines)
        return Job(name, command, folder, tmp_path / "logs" / f"{name}.log")

    return make


@pytest.fixture
def holder(tmp_path):
    """Hold the lock of a fold in another process until a file appears, then do some last thing."""
    held = []

    def hold(folder: Path, until: Path, then: str = "") -> None:
        code = (
            "import os, sys, time; from pathlib import Path; from system.locks import lock\n"
            f"with lock(Path({str(folder)!r}) / 'state' / 'lock', 'x'):\n"
            f"    open({str(folder)!r} + '/held', 'w')\n"
            f"    while not os.path.exists({str(until)!r}): time.sleep(0.01)\n"
            f"    {then or 'pass'}\n"
        )
        held.append(subprocess.Popen([sys.executable, "-c", code], cwd=ROOT))
        wait_for(folder / "held")

    yield hold
    for process in held:
        process.kill()
        process.wait()


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().split() if file.exists() else []


def test_jobs_run_in_order_and_finished_ones_do_not(job, tmp_path):
    every = [job(name) for name in "dacb"]
    (every[1].folder / "metrics.json").touch()
    assert run_jobs(every, [{}]) == []
    assert calls(tmp_path) == ["d", "c", "b"]
    assert all(one.finished for one in every)
    run_jobs(every, [{}])
    assert calls(tmp_path) == ["d", "c", "b"]


MEET = """
open(f'{root}/{name}.here', 'w')
for _ in range(6000):
    if len([f for f in os.listdir(root) if f.endswith('.here')]) >= 2: break
    time.sleep(0.01)
else: sys.exit('nobody came')
"""


def test_two_slots_overlap(job, tmp_path):
    every = [job("a", MEET + DONE), job("b", MEET + DONE), job("c")]
    assert run_jobs(every, [{}, {}]) == []
    assert sorted(calls(tmp_path)) == ["a", "b", "c"]


def test_one_slot_runs_one_at_a_time(job, tmp_path):
    end = "time.sleep(0.05); open(root + '/calls', 'a').write('end ')\n"
    run_jobs([job(name, end + DONE) for name in "abc"], [{}])
    assert calls(tmp_path) == ["a", "end", "b", "end", "c", "end"]


def test_each_slot_gives_its_environment_and_is_used_again(job, tmp_path):
    code = MEET + "open(folder + '/metrics.json', 'w').write(os.environ['GPU'] + os.environ['X'])"
    every = [job(name, code) for name in "abcd"]
    os.environ["X"] = "x"
    run_jobs(every, [{"GPU": "0"}, {"GPU": "1"}])
    del os.environ["X"]
    said = [(one.folder / "metrics.json").read_text() for one in every]
    assert said[:2] == ["0x", "1x"] and set(said[2:]) <= {"0x", "1x"}


def test_a_jobs_own_environment_goes_before_its_slots(job):
    code = "open(folder + '/metrics.json', 'w').write(os.environ['OMP_NUM_THREADS'])"
    wide = replace(job("wide", code), environment={"OMP_NUM_THREADS": "2"})
    run_jobs([job("a", code), wide, job("b", code)], [{"OMP_NUM_THREADS": "1"}])
    folders = [wide.folder.parent / name for name in ("a", "wide", "b")]
    assert [(folder / "metrics.json").read_text() for folder in folders] == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('failed: no luck'); print('bye'); sys.exit(1)", "failed: no luck"),
        ("print('x'); sys.exit('wrong input: a: b')", "wrong input: a: b"),
        ("print('failed: first'); print('failed: last'); sys.exit(1)", "failed: last"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("print('bar\\r', end=''); os.kill(os.getpid(), 9)", "ended by signal 9 (Killed)"),
        ("sys.stdout.buffer.write(b'\\xff oh\\n'); sys.exit(3)", "\N{REPLACEMENT CHARACTER} oh"),
    ],
)
def test_a_failed_job_is_listed_and_stops_no_other(job, tmp_path, code, reason):
    every = [job("a", code), job("b")]
    every[0].log.write_text("failed: an earlier attempt\n")
    ((failed, why),) = run_jobs(every, [{}])
    assert (failed, why) == (every[0], reason)
    assert calls(tmp_path) == ["a", "b"]
    log = every[0].log.read_text(errors="replace")
    assert log.startswith("failed: an earlier attempt\n$ ")


def test_a_silent_end_without_a_result_is_a_failure(job):
    ((_, reason),) = run_jobs([job("a", "")], [{}])
    assert reason == "ended with status 0"


def test_a_result_counts_whatever_the_status(job):
    assert run_jobs([job("a", f"{DONE}; sys.exit('too late')")], [{}]) == []


def test_who_is_at_work_on_a_fold(tmp_path):
    file = tmp_path / "state" / "lock"
    assert not is_busy(tmp_path) and not file.exists()
    file.parent.mkdir()
    with lock(file, "a test"):
        assert is_busy(tmp_path)
    assert not is_busy(tmp_path) and file.exists()
    with file.open() as reader:  # reading at the same moment does not count as work
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not is_busy(tmp_path)


def test_others_go_first_and_a_freed_fold_is_taken_up(job, holder, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    busy, free = job("busy"), job("free", "time.sleep(0.3)\n" + DONE)
    holder(busy.folder, until=tmp_path / "released")
    asked = []

    def look(folder: Path) -> bool:
        if caplog.messages[-1].startswith("waiting"):
            asked.append(folder)
        if len(asked) > 3:
            (tmp_path / "released").touch()
        return is_busy(folder)

    monkeypatch.setattr(jobs, "is_busy", look)
    assert run_jobs([busy, free], [{}, {}]) == []
    assert calls(tmp_path) == ["free", "busy"]
    waiting = [line for line in caplog.messages if line.startswith("waiting")]
    assert waiting == ["waiting for other processes, which are at work on busy"]
    assert caplog.messages.index(waiting[0]) > next(
        i for i, line in enumerate(caplog.messages) if "free: done" in line
    )


def test_a_fold_that_another_process_finishes_is_not_repeated(job, holder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    busy, free = job("busy"), job("free")
    then = f"open({str(busy.folder)!r} + '/metrics.json', 'w')"
    holder(busy.folder, until=free.folder / "metrics.json", then=then)
    assert run_jobs([busy, free], [{}]) == []
    assert calls(tmp_path) == ["free"]
    assert caplog.messages[-1] == "[2/2] busy: done by another process"


def test_a_lost_race_is_not_a_failure(job, tmp_path):
    lose = (
        "if not os.path.exists(folder + '/lost'):\n"
        "    open(folder + '/lost', 'w')\n"
        "    sys.exit('failed: another process is at work on a in x')\n"
    )
    assert run_jobs([job("a", lose + DONE), job("b")], [{}]) == []
    assert calls(tmp_path) == ["a", "b", "a"]


def test_the_words_of_a_lost_race_are_those_of_the_lock(tmp_path):
    with lock(tmp_path / "lock", "a"):
        with pytest.raises(RunError, match=jobs.TAKEN):
            with lock(tmp_path / "lock", "a"):
                pass


def test_time_left_is_the_mean_of_jobs_done_here(job, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    monkeypatch.setattr(jobs, "format_duration", repr)
    every = [job(name) for name in "abcd"]
    every[1] = job("fails", "1 / 0")
    (every[3].folder / "metrics.json").touch()
    run_jobs(every, [{}])
    text = "\n".join(caplog.messages)
    assert text.startswith("4 jobs, 1 finished before, 1 at a time\na: started")
    first = re.search(r"\[2/4\] a: done in ([\d.]+); about ([\d.]+) left", text)
    second = re.search(r"\[3/4\] fails: failed after [\d.]+: .*; about ([\d.]+) left", text)
    assert float(first[2]) == pytest.approx(2 * float(first[1]))
    assert float(second[1]) == pytest.approx(float(first[1]))
    assert re.search(r"\[4/4\] c: done in [\d.]+$", text)


def test_no_time_left_is_invented_before_a_job_is_done(job, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    run_jobs([job("a", "1 / 0"), job("b")], [{}])
    assert " left" not in " ".join(caplog.messages)


def test_slots_share_what_is_left(job, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    monkeypatch.setattr(jobs, "format_duration", repr)
    late = "while not os.path.exists(root + '/a/metrics.json'): time.sleep(0.01)\n"
    wait = "while not os.path.exists(root + '/go'): time.sleep(0.01)\n"
    first = "while not os.path.exists(root + '/b/here'): time.sleep(0.01)\n"
    every = [job("a", first + DONE), job("b", "open(folder + '/here', 'w')\n" + wait + DONE)]
    every += [job("c", late + "open(root + '/go', 'w')\n" + wait + DONE), job("d"), job("e")]
    run_jobs(every, [{}, {}])
    message = next(line for line in caplog.messages if line.startswith("[1/5] a: done"))
    seconds, left = re.search(r"in ([\d.]+); about ([\d.]+) left", message).groups()
    assert float(left) == pytest.approx(float(seconds) * 4 / 2)


def test_a_slot_without_work_shortens_nothing(job, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    monkeypatch.setattr(jobs, "format_duration", repr)
    late = "while not os.path.exists(root + '/a/metrics.json'): time.sleep(0.01)\n"
    run_jobs([job("a"), job("b", late + "time.sleep(0.3)\n" + DONE)], [{}, {}, {}])
    message = next(line for line in caplog.messages if line.startswith("[1/2] a: done"))
    seconds, left = re.search(r"in ([\d.]+); about ([\d.]+) left", message).groups()
    assert left == seconds


TELL_PARENT = "import signal; os.kill(os.getppid(), signal.{})\n"


@pytest.fixture
def heeds_signals():
    """A process that runs in the background may have been started with some signals ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_jobs_and_what_they_started(job, tmp_path, heeds_signals, number):
    before = signal.getsignal(signal.SIGTERM)
    child = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "open(folder + '/pids', 'w').write(f'{os.getpid()} {child.pid} {os.getsid(0)}')\n"
    )
    every = [job("a", child + TELL_PARENT.format(number) + "time.sleep(600)"), job("b")]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(every, [{}])
    assert calls(tmp_path) == ["a"]
    own, child_pid, session = map(int, (every[0].folder / "pids").read_text().split())
    assert session == own != os.getsid(0)  # a Ctrl-C of the terminal does not reach it
    assert not is_alive(own)
    wait_until_dead(child_pid)
    assert signal.getsignal(signal.SIGTERM) is before


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"


def wait_until_dead(pid: int) -> None:
    end = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < end, f"{pid} lives"
        time.sleep(0.01)


def test_a_job_that_will_not_end_is_killed(job, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "open(folder + '/pid', 'w').write(str(os.getpid()))\n"
    one = job("a", deaf + TELL_PARENT.format("SIGTERM") + "time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        run_jobs([one], [{}])
    assert not is_alive(int((one.folder / "pid").read_text()))


def test_an_ignored_signal_stays_ignored(job):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        assert run_jobs([job("a", TELL_PARENT.format("SIGHUP") + DONE)], [{}]) == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_that_cannot_be_written_ends_the_others_and_is_reported(job, tmp_path):
    first = job("a", "time.sleep(600)")
    (tmp_path / "file").touch()
    second = replace(job("b"), log=tmp_path / "file" / "b.log")
    started = []
    start = subprocess.Popen

    def note(*args, **kwargs):
        started.append(start(*args, **kwargs))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", note)
        with pytest.raises(RunError, match="cannot start b with its log"):
            run_jobs([first, second], [{}, {}])
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_a_log_folder_that_is_gone_is_reported_and_not_made_again(job, tmp_path):
    one = job("a")
    one.log.parent.rmdir()
    with pytest.raises(RunError, match=f"cannot start a .* the folder {tmp_path}/logs is gone"):
        run_jobs([one], [{}])
    assert not one.log.parent.exists() and not calls(tmp_path)


def test_a_log_that_is_gone_when_its_job_fails_is_reported(job, tmp_path):
    one = job("a", "os.unlink(root + '/logs/a.log'); sys.exit(3)")
    ((_, why),) = run_jobs([one, job("b")], [{}])
    assert why == "ended with status 3; its log cannot be read: No such file or directory"
    assert calls(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("print('bar'); sys.exit(1)", "bar (the disk of its log is full: free some space)"),
        ("print('failed: no luck'); sys.exit(1)", "failed: no luck"),
    ],
)
def test_a_job_that_could_not_speak_on_a_full_disk(job, monkeypatch, code, ends):
    one = job("a", code)
    monkeypatch.setattr(jobs, "is_full", lambda folder: folder == one.log.parent)
    assert run_jobs([one], [{}])[0].reason == ends


@pytest.mark.parametrize(
    ("visible", "n_gpus", "n", "device", "expected"),
    [
        (None, 2, 3, "auto", ["0", "1", "0"]),
        ("5, 7", 2, 2, "auto", ["5", "7"]),
        ("GPU-a,GPU-b,GPU-c", 2, 3, "auto", ["GPU-a", "GPU-b", "GPU-a"]),
        (None, 4, 1, "auto", ["0"]),
        (None, 2, 2, "cuda", ["0", "1"]),
        ("MIG-a, MIG-b", 1, 3, "auto", ["MIG-a", "MIG-b", "MIG-a"]),  # torch counts one
        ("MIG-GPU-x/1/0,MIG-GPU-x/2/0", 1, 2, "auto", ["MIG-GPU-x/1/0", "MIG-GPU-x/2/0"]),
        ("0,1,9,2", 2, 3, "auto", ["0", "1", "0"]),  # CUDA stops at a name that it does not know
    ],
)
def test_slots_take_the_visible_gpus_in_turn(monkeypatch, visible, n_gpus, n, device, expected):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(devices, "cuda_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slot_environments(n, device) == [{"CUDA_VISIBLE_DEVICES": name} for name in expected]


@pytest.mark.parametrize(
    ("variables", "n_gpus", "expected"),
    [
        ({}, 2, ["0", "1"]),
        ({"HIP_VISIBLE_DEVICES": "3,5"}, 2, ["3", "5"]),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, 2, ["3", "5"]),
        ({"HIP_VISIBLE_DEVICES": "6,7", "CUDA_VISIBLE_DEVICES": "3,5"}, 2, ["6", "7"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2, ["0", "1"]),  # numbered anew by ROCm
        ({"ROCR_VISIBLE_DEVICES": "4,5,6", "HIP_VISIBLE_DEVICES": "2,0"}, 2, ["2", "0"]),
    ],
)
def test_slots_on_rocm_narrow_what_the_variables_leave(monkeypatch, variables, n_gpus, expected):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(devices, "cuda_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert slot_environments(2, "auto") == [{"HIP_VISIBLE_DEVICES": name} for name in expected]


def test_a_gpu_that_is_named_serves_all_slots(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert slot_environments(2, "cuda:1") == [{}, {}]


@pytest.mark.parametrize(
    ("n_gpus", "n", "device", "given", "expected"),
    [
        (0, 2, "auto", None, {"OMP_NUM_THREADS": "4"}),
        (1, 2, "auto", None, {"OMP_NUM_THREADS": "4"}),  # torch counts it, but has no kernels
        (2, 3, "cpu", None, {"OMP_NUM_THREADS": "2"}),
        (0, 20, "cpu", None, {"OMP_NUM_THREADS": "1"}),
        (0, 1, "cpu", None, {}),
        (0, 2, "cpu", "3", {}),
    ],
)
def test_without_gpus_slots_share_the_threads(
    monkeypatch, caplog, n_gpus, n, device, given, expected
):
    caplog.set_level(logging.INFO, "experiments.slots")
    monkeypatch.setattr(devices, "cuda_problem", lambda: "no kernels")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert slot_environments(n, device) == [expected] * n
    assert bool(expected) == ("may change the last bits" in " ".join(caplog.messages))


def test_epochs_of_running_jobs_are_logged(job, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    monkeypatch.setattr(jobs, "EPOCH_INTERVAL", 0.0)
    seen = "while not os.path.exists(folder + '/go'): time.sleep(0.01)\n"
    one = replace(job("a", seen + DONE), epochs=8)
    write_epochs = (
        "import time, sys; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "(folder / 'history.csv').write_text('epoch,dev_ua\\n1,0.25\\n2,0.416\\n')\n"
        "time.sleep(1); (folder / 'go').touch()\n"
    )
    with subprocess.Popen([sys.executable, "-c", write_epochs, str(one.folder)]):
        assert run_jobs([one], [{}]) == []
    assert caplog.messages.count("a: epoch 2 of 8, dev UA 41.6 %") == 1


def test_a_job_of_several_folds_reports_those_that_are_done(job, tmp_path, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    one = job("a")
    folds = tuple(tmp_path / name for name in ("b", "c"))
    one = replace(one, others=folds, epochs=None)
    reporter = jobs.EpochReporter()
    for n, folder in enumerate((one.folder, *folds)):
        reporter._next = 0.0
        reporter.report([one])
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").touch()
        assert len(caplog.messages) == n
    reporter._next = 0.0
    reporter.report([one])
    assert caplog.messages == [f"a: {n} of 3 folds and seeds done" for n in (1, 2, 3)]


@pytest.mark.parametrize("text", ["", "epoch,dev_ua\n", "epoch,loss\n1,2\n", "epoch,dev_ua\n1\n"])
def test_a_history_that_cannot_be_read_stops_no_job(tmp_path, text):
    assert jobs.finished_epochs(tmp_path)[0] == 0
    (tmp_path / "history.csv").write_text(text)
    assert jobs.finished_epochs(tmp_path)[0] == 0
