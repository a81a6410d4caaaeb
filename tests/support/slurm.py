"""A stand-in for Slurm on one machine: sbatch, srun, squeue, scontrol and scancel.

It runs the tasks of an array in the order of their numbers, as many at a time as the script says,
appends their output to the files that the script names, and starts a requeued task anew. A task is
a process group of its own, and a signal goes to srun's command, as with proctrack/cgroup.

The state of each task is a file `tasks/ID` of its state folder: `PENDING`, `RUNNING`, `REQUEUED`
or how it ended; `pids/ID` is the process id of srun's command; `calls` holds each command.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TOOLS = ("sbatch", "srun", "squeue", "scontrol", "scancel")


def install(folder: Path) -> Path:
    """Write the tools to a folder that is to come first in PATH."""
    tools = folder / "tools"
    for name in ("tools", "tasks", "pids"):
        (folder / name).mkdir(parents=True)
    for tool in TOOLS:
        words = [sys.executable, str(Path(__file__).resolve()), str(folder), tool]
        (tools / tool).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (tools / tool).chmod(0o755)
    return tools


def states(folder: Path) -> dict[str, str]:
    """Return the state of each task."""
    return {path.name: path.read_text() for path in sorted((folder / "tasks").iterdir())}


def send(folder: Path, task: str, number: int) -> None:
    """Send a signal to the command of a running task."""
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(int((folder / "pids" / task).read_text()), number)


def sbatch(folder: Path, words: Sequence[str]) -> None:
    """Begin the tasks of a script in the background; print its number."""
    script = Path(words[-1]).resolve()
    number = len([line for line in (folder / "calls").open() if line.startswith("sbatch ")])
    text = script.read_text()
    if array := re.search(r"^#SBATCH --array=0-(\d+)%(\d+)$", text, re.MULTILINE):
        tasks, parallel = [f"{number}_{k}" for k in range(int(array[1]) + 1)], int(array[2])
    else:
        tasks, parallel = [str(number)], 1
    for task in tasks:
        (folder / "tasks" / task).write_text("PENDING")
    command = [sys.executable, __file__, str(folder), "run", str(parallel), str(script), *tasks]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"Submitted batch job {number}")


def run(folder: Path, words: Sequence[str]) -> None:
    """Run tasks until all have ended."""
    parallel, script, *tasks = words
    text = Path(script).read_text()
    running: dict[str, subprocess.Popen] = {}
    while True:
        for task, process in list(running.items()):
            if process.poll() is not None:
                del running[task]
                file = folder / "tasks" / task
                ended = "COMPLETED" if process.returncode == 0 else "FAILED"
                file.write_text("PENDING" if file.read_text() == "REQUEUED" else ended)
        waiting = [task for task in tasks if (folder / "tasks" / task).read_text() == "PENDING"]
        if not waiting and not running:
            return
        for task in waiting[: int(parallel) - len(running)]:
            (folder / "tasks" / task).write_text("RUNNING")
            running[task] = start(task, script, text)
        time.sleep(0.02)


def start(task: str, script: str, text: str) -> subprocess.Popen:
    """Start a task, its output appended to the script's file."""
    job, _, index = task.partition("_")
    output = re.search(r"^#SBATCH --output=(.*)$", text, re.MULTILINE)[1]
    path = shlex.split(output.replace("%A", job).replace("%a", index).replace("%j", task))[0]
    environment = os.environ | {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": index}
    with open(path, "a") as file:
        return subprocess.Popen(["bash", script], stdout=file, stderr=file, env=environment)


def srun(folder: Path, words: Sequence[str]) -> None:
    """Become the command behind the options, which submitit writes with their values apart."""
    rest = list(words)
    while rest[0].startswith("--"):
        rest = rest[1 if rest[0] == "--unbuffered" else 2 :]
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    task = os.environ["SLURM_JOB_ID"] + ("" if index is None else f"_{index}")
    (folder / "pids" / task).write_text(str(os.getpid()))
    os.execvp(rest[0], rest)


def squeue(folder: Path, words: Sequence[str]) -> None:
    """Print what waits or runs."""
    live = ("PENDING", "RUNNING", "REQUEUED")
    print(*(task for task, state in states(folder).items() if state in live), sep="\n")


def scontrol(folder: Path, words: Sequence[str]) -> None:
    """Start a task anew once it has ended."""
    assert words[0] == "requeue", words
    (folder / "tasks" / words[1]).write_text("REQUEUED")


def scancel(folder: Path, words: Sequence[str]) -> None:
    """Ask the commands of a job to end."""
    for task, state in states(folder).items():
        if task.partition("_")[0] == words[0] and state == "RUNNING":
            send(folder, task, signal.SIGTERM)


if __name__ == "__main__":
    place, name, *rest = sys.argv[1:]
    with (Path(place) / "calls").open("a") as calls:
        calls.write(f"{name} {shlex.join(rest)}\n")
    globals()[name](Path(place), rest)
