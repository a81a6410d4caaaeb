"""What is printed never ends the work: unknown characters, readers that left, full disks, logs."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.startup import WRONG
from system import output
from tests.support.paths import ROOT

PROGRAM = """
import logging, sys
from system.cli import run_cli, run_entry
from system.output import progress_bar
log = logging.getLogger("x")
def work():
    log.warning("log ± 日 \\ud800")
    with progress_bar(2, "bar ±", "step") as bar:
        bar.update(2)
    for n in range(int(sys.argv[1])):
        print("UA 64.1 ± 2.2 – 日", "é")
    print("error ±", file=sys.stderr)
    if len(sys.argv) > 2:
        open(sys.argv[2], "w").close()
run_entry(run_cli, work)
"""


def run(
    *words: str, env: Mapping[str, str] | None = None, **streams
) -> subprocess.CompletedProcess:
    program = PROGRAM.encode("ascii", "backslashreplace").decode()  # for any locale
    command = [sys.executable, "-c", program, *words]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, **streams)


NO_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"UA 64.1 \xb1 2.2 \u2013 \u65e5 \xe9"),
        ({"PYTHONIOENCODING": "latin-1"}, "UA 64.1 ± 2.2 \\u2013 \\u65e5 é".encode("latin-1")),
        (NO_UTF8, rb"UA 64.1 \xb1 2.2 \u2013 \u65e5 \xe9"),
        ({"PYTHONIOENCODING": "utf-8"}, "UA 64.1 ± 2.2 – 日 é".encode()),
        ({"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"}, rb"UA 64.1 \xb1 2.2"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(env: Mapping[str, str], shown: bytes) -> None:
    done = run("1", env=env, capture_output=True)
    assert done.returncode == 0 and shown in done.stdout
    for word in (b"log ", b"bar ", b"error "):
        assert word in done.stderr
    assert b"Error" not in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", ["2", "20000"])  # within a pipe's buffer, and beyond
def test_a_reader_that_leaves_ends_nothing(tmp_path: Path, unbuffered: str, lines: str) -> None:
    """As in `python compare.py ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    env = {"PYTHONUNBUFFERED": unbuffered}
    done = run(lines, str(tmp_path / "done"), env=env, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 0 and (tmp_path / "done").exists()
    assert b"Error" not in done.stderr and b"error" in done.stderr


def test_streams_that_are_closed_at_the_start_end_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, "2", str(tmp_path / "done")]
    shell = ["bash", "-c", '"$@" >&- 2>&-', "bash", *words]
    assert subprocess.run(shell, cwd=ROOT).returncode == 0
    assert (tmp_path / "done").read_bytes() == b""  # no message went into a file of the work


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_a_full_disk_loses_is_told_after_the_work(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run("2", str(tmp_path / "done"), stdout=full, stderr=subprocess.PIPE)
    assert (tmp_path / "done").exists() and done.returncode == 1
    assert b"failed: the output could not be written: " in done.stderr


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    """Another program at the same pipe may have made it so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    words = [sys.executable, "-c", PROGRAM, "20000"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read().count(b"\n") == 20_000
    assert process.wait() == 0


@pytest.mark.parametrize("module", WRONG)
def test_help_is_shown_on_any_terminal(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and done.stdout.startswith(b"usage: ")


def test_every_script_that_runs_by_itself_protects_its_output() -> None:
    for path in [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")]:
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text:
            assert re.search(r'"__main__":\n    run_entry\(main', text), path


def test_a_bar_in_a_log_is_a_line_a_minute(monkeypatch, capsys) -> None:
    with output.progress_bar(1000, "fold 1 of 5, epoch 1 of 2", "batch") as bar:
        for _ in range(1000):
            bar.update()
            bar.set_postfix({"loss": "0.5"}, refresh=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("fold 1 of 5, epoch 1 of 2:") for line in lines)
    assert "0/1000" in lines[0] and "1000/1000" in lines[1] and "\r" not in "".join(lines)
    monkeypatch.setattr(output, "LOG_INTERVAL", 0.0)  # a minute is over at each step
    with output.progress_bar(5, "x", "batch") as bar:
        for _ in range(5):
            bar.update()
    assert len(capsys.readouterr().err.splitlines()) >= 6
    with output.progress_bar(5, "x", "batch", hidden=True) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal_is_redrawn(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with output.progress_bar(3, "x", "batch") as bar:
        bar.update(3)
    drawn = capsys.readouterr().err
    assert drawn.count("\n") == 1 and drawn.count("\r") >= 2
