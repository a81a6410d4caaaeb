"""Real processes that are asked to end: their status, and what they saved without a reader."""

import fcntl
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from storage.tensors import load_state
from system.signals import Stop
from tests.support import kills
from tests.support.paths import ROOT

FOLD = "folds/fold-1_seed-0"
PYTHON = sys.executable
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Runs an entry in which a function of another module sends the process a signal.
ENTRY = """
import importlib, os, runpy, sys
number, module, function, entry, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = entry
sys.path.insert(0, os.getcwd())
def ask(*arguments, **options):
    os.kill(os.getpid(), int(number))
setattr(importlib.import_module(module), function, ask)
if entry.startswith("scripts."):
    runpy.run_module(entry, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(entry, run_name="__main__")
"""
CONFIG = str(ROOT / "configs/demo_gmu.yaml")
CHECK = ("corpora.readers", "check_corpus_exists")
ENTRIES = {  # entry: (function that sends the signal, arguments)
    "train.py": (CHECK, ["--config", str(ROOT / "configs/demo_concat.yaml")]),
    "train_gmu.py": (CHECK, ["--config", CONFIG]),
    "tune.py": (("experiments.tuning", "load_tuning"), ["--config", CONFIG, "--space", "x"]),
    "compare.py": (("storage.folders", "check_is_run"), ["x"]),
    "analyze_gates.py": (("storage.folders", "check_is_run"), ["x"]),
    "predict.py": (("storage.folders", "check_is_fold"), ["x", "y"]),
    "scripts.ablation": (CHECK, ["demo"]),
    "scripts.lr_range": (CHECK, [CONFIG]),
    "scripts.habits": (CHECK, ["--config", CONFIG]),
    "scripts.fit_all": (("storage.folders", "check_is_run"), ["x"]),
    "scripts.show_features": (("system.files", "make_folder"), ["x"]),
}


def entry(name: str, number: int) -> list[str]:
    where, arguments = ENTRIES[name]
    return [PYTHON, "-c", ENTRY, str(number), *where, name, *arguments]


def of_signal(number: int) -> int:
    """Return the status that `subprocess` reports: only Ctrl-C ends by the signal itself."""
    return -number if number == signal.SIGINT else 128 + number


@pytest.fixture(autouse=True)
def signals_arrive():
    """Children inherit ignored signals, which stay ignored: a background job ignores SIGINT."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.promise("stop")
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_ends_with_the_status_of_its_signal(name: str, count) -> None:
    for number in SIGNALS:
        done = subprocess.run(entry(name, number), capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == of_signal(number), done.stderr
        assert done.stderr.startswith(("stopped: what was done is saved", "interrupted: nothing"))
        assert "Traceback" not in done.stderr and done.stdout == ""
        count("signals handled")


def test_a_shell_shows_130_and_ends_its_script_after_ctrl_c() -> None:
    """A script goes on after a program that exits with 130; it must end by the signal."""
    program = entry("compare.py", signal.SIGINT)
    shell = ["bash", "-c", '"$@"; echo "status $?"', "bash", *program]
    alone = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT)
    assert alone.stdout == "status 130\n"
    # Ctrl-C at a terminal reaches the shell, too: the whole group.
    shell[-len(program) :] = [
        *program[:2],
        ENTRY.replace("os.kill(os.getpid()", "os.killpg(0"),
        *program[3:],
    ]
    both = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, start_new_session=True)
    assert both.stdout == "" and both.returncode == -signal.SIGINT


def command(recipe: Path, tmp_path: Path) -> list[str]:
    keys = [f"run.root={tmp_path / 'runs'}", f"run.store={tmp_path / 'store'}"]
    keys += ["train.epochs=10000", "train.checkpoint_epochs=1"]
    return [PYTHON, str(ROOT / "train_gmu.py"), "--config", str(recipe), *keys]


def newest_state(tmp_path: Path) -> Path | None:
    states = sorted((tmp_path / "runs/tiny" / FOLD / "state").glob("epoch-*"))
    return states[-1] if states else None


def wait_for_epoch(process: subprocess.Popen, tmp_path: Path, output: int | None = None) -> None:
    """Wait for the end of the first epoch; behind it a stop always saves a new state."""
    while not (tmp_path / "runs/tiny" / FOLD / "history.csv").exists():
        assert process.poll() is None
        if output is not None:
            with suppress(BlockingIOError):
                os.read(output, 65536)  # a terminal that nobody reads would block the process
        time.sleep(0.005)


def assert_resumes(recipe: Path, tmp_path: Path, since: int) -> None:
    """The newest state was saved after the signal, and the next start begins with it."""
    state = newest_state(tmp_path)
    assert state is not None and state.stat().st_mtime_ns > since
    epoch, batch = (int(part.split("-")[1]) for part in state.stem.split("_")[:2])
    argv = ["train_gmu.py", *command(recipe, tmp_path)[2:]]
    process = kills.start(argv, tmp_path / "log", "a training step", 1, signal.SIGTERM)
    process.join(120)
    output = (tmp_path / "log").read_text()
    assert process.exitcode == 143 and f"resuming after epoch {epoch}, batch {batch}\n" in output


@pytest.mark.promise("stop")
def test_a_pipe_whose_reader_dies_of_the_same_signal_costs_no_state(
    recipe: Path, tmp_path: Path, count
) -> None:
    """As in `python train_gmu.py ... 2>&1 | tee log`: Ctrl-C ends tee before the save."""
    reading, writing = os.pipe()
    tee = subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        command(recipe, tmp_path), stdout=writing, stderr=writing, cwd=tmp_path
    )
    os.close(reading)
    os.close(writing)
    wait_for_epoch(process, tmp_path)
    tee.kill()
    tee.wait()
    now = time.time_ns()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == of_signal(signal.SIGINT)
    assert_resumes(recipe, tmp_path, now)
    count("signals handled")


@pytest.mark.promise("stop")
def test_a_terminal_that_is_closed_costs_no_state(recipe: Path, tmp_path: Path, count) -> None:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command(recipe, tmp_path),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
        cwd=tmp_path,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    wait_for_epoch(process, tmp_path, ours)
    now = time.time_ns()
    os.close(ours)  # the system sends SIGHUP, and every write fails from now on
    assert process.wait(60) == 128 + signal.SIGHUP
    state = newest_state(tmp_path)
    assert state.stat().st_mtime_ns > now and load_state(state)["progress"]
    count("signals handled")


def test_a_process_that_ignores_the_hangup_outlives_its_terminal(tmp_path: Path) -> None:
    """As under nohup: what it prints is lost, its work is not."""
    script = (
        "import signal, sys, time; from pathlib import Path\n"
        "from system.cli import run_entry, run_cli; from system.output import progress_bar\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "def work():\n"
        "    with progress_bar(20, 'x', 'y') as bar:\n"
        "        for _ in range(20): time.sleep(0.1); bar.update(); print('a', flush=True)\n"
        "    Path(sys.argv[1]).touch()\n"
        "run_entry(run_cli, work)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PYTHON, "-c", script, str(tmp_path / "done")],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        cwd=ROOT,
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert process.wait(60) == 0 and (tmp_path / "done").exists()


@pytest.mark.promise("stop")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_hangup_or_a_schedulers_warning_saves_and_ends(
    recipe: Path, tmp_path: Path, count, number: int
) -> None:
    argv: Sequence[str] = ["train_gmu.py", *command(recipe, tmp_path)[2:]]
    process = kills.start(argv, tmp_path / "log", "a training step", 2, number)
    process.join(120)
    output = (tmp_path / "log").read_text()
    assert process.exitcode == 128 + number and "Traceback" not in output
    assert f"{signal.Signals(number).name}: saving, then stopping\n" in output
    assert "stopped: what was done is saved" in output
    assert "fold 1 of 5, seed 0, epoch 1 of 10000: " in output  # the bar
    assert newest_state(tmp_path).stem.startswith("epoch-0000_batch-00002")
    count("signals handled")


def test_a_signal_in_the_middle_of_a_message_is_recorded(monkeypatch) -> None:
    """Python refuses to write to a stream from a handler that interrupted its write."""

    class Busy(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call")

    stop = Stop()
    monkeypatch.setattr(sys, "stderr", Busy())
    with stop.install_handlers(), pytest.raises(KeyboardInterrupt) as ended, stop.deferred():
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.requested
    assert ended.value.args == (signal.SIGUSR2,)
