"""How many jobs run at a time, on which GPU or with how many threads each: given, or measured.

On a CPU a step gains less from a second thread than from a job beside it; by how much depends on
network and machine. So `--jobs auto` starts 1, 2, 4, ... probes at once (`step_probe`), with the
cores shared among them, and takes the number with which all together get through most. Trainings
that are left over at the end, too few for all slots, share all cores (`widen_last`).
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple

from experiments.jobs import Job
from system.errors import RunError
from system.files import make_folder, read_json, write_json

log = logging.getLogger(__name__)

AUTO = "auto"
CHOICES = "jobs.json"  # in the folder of the tables: a resumed job keeps its threads, and its bits
THREADS = "OMP_NUM_THREADS"
MEMORY_SHARE = 0.8  # of the memory that is free, for all jobs
HEAD_BYTES = 3e9  # of a job that trains heads: the published branches are in it, too


class Choice(NamedTuple):
    """What was measured for some number of jobs."""

    jobs: int
    threads: int  # of each
    utterances: float  # a second, of all jobs together
    bytes: float  # of the largest job
    most: int  # jobs that were tried


def slot_environments(n: int, device: str) -> list[dict[str, str]]:
    """Return the environment variables of each slot: its GPU, or its share of the threads.

    Args:
        n: Number of jobs that run at a time.
        device: `run.device`; with `cpu` or `mps` no GPU is chosen, and `cuda:1` serves all slots.
    """
    variable, gpus = _visible_gpus() if device in ("auto", "cuda") else ("", [])
    if gpus:
        return [{variable: gpus[i % len(gpus)]} for i in range(n)]
    if device.startswith("cuda:"):
        return [{} for _ in range(n)]
    if n == 1 or THREADS in os.environ:
        return [{} for _ in range(n)]
    import torch

    return _sharing(n, max(1, torch.get_num_threads() // n))


def head_slots(n: int | None, device: str) -> list[dict[str, str]]:
    """Return the slots of jobs that train heads on kept features: on a CPU one a core.

    A head is too small for threads to share.

    Args:
        n: Jobs at a time; None takes one a GPU, or one a core as far as memory goes.
        device: `run.device`.
    """
    gpus = _visible_gpus()[1] if device in ("auto", "cuda") else []
    if n is not None or gpus or device not in ("auto", "cpu"):
        return slot_environments(n or max(1, len(gpus)), device)
    if THREADS in os.environ:
        return slot_environments(1, device)
    return _sharing(max(1, min(_n_cores(), int(MEMORY_SHARE * _free_memory() / HEAD_BYTES))), 1)


def widen_last(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> list[Job]:
    """Return the jobs, the last trainings with the threads of slots that would be empty.

    3 trainings in 2 slots of one thread: the third takes two. That follows from a job's place among
    all, finished or not, so that the same command, with as many slots, resumes it with the same
    threads. It may begin while others still run, and shares the cores with them until they end.

    Args:
        jobs: All jobs in their order, finished or not.
        slots: What `choose_slots` or `slot_environments` gave.
    """
    threads = sum(int(slot.get(THREADS, 0)) for slot in slots)
    trainings = [i for i, job in enumerate(jobs) if job.epochs is not None]
    n_last = len(trainings) % len(slots)
    if not n_last or threads // n_last <= threads // len(slots):
        return list(jobs)
    wide, last = {THREADS: str(threads // n_last)}, trainings[-n_last:]
    log.info("the last of %d trainings: %s=%d", len(trainings), THREADS, threads // n_last)
    return [replace(job, environment=wide) if i in last else job for i, job in enumerate(jobs)]


def choose_slots(
    command: Sequence[str], device: str, n_jobs: int, folder: Path
) -> list[dict[str, str]]:
    """Return the slots of `--jobs auto`: one for each GPU, or what a measurement shows on the CPU.

    Args:
        command: `--config FILE` and overrides of one of the runs.
        device: `run.device`.
        n_jobs: Jobs that are not finished.
        folder: Where the choice is kept; a command that resumes measures nothing.
    """
    gpus = _visible_gpus()[1] if device in ("auto", "cuda") else []
    if gpus:
        return slot_environments(min(len(gpus), max(1, n_jobs)), device)
    if THREADS in os.environ:
        log.info("%s=%s is given: one job at a time, or --jobs N", THREADS, os.environ[THREADS])
        return slot_environments(1, device)
    from system.devices import choose_device

    if device not in ("auto", "cpu") or choose_device(device).name != "cpu":
        return slot_environments(1, device)
    cores = str(_n_cores())
    kept = _kept(folder / CHOICES)
    choice = _choice(kept.get(cores), command)
    if choice is None or (choice.jobs == choice.most < min(int(cores), n_jobs)):
        if n_jobs < 2 or (choice := _measure(command, int(cores), n_jobs)) is None:
            return slot_environments(1, device)
        make_folder(folder)
        kept[cores] = {"command": list(command), **choice._asdict()}
        write_json(folder / CHOICES, kept)
    return _sharing(choice.jobs, choice.threads)


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return cpu_count() or 1


def _sharing(n: int, threads: int) -> list[dict[str, str]]:
    log.info(
        "%d job%s at a time, %s=%d each: the number of threads may change the last bits of a "
        "result",
        *(n, "s" * (n > 1), THREADS, threads),
    )
    return [{THREADS: str(threads)} for _ in range(n)]


def _kept(file: Path) -> dict[str, Any]:
    """Return the choices of earlier commands, by the number of cores; none from a corrupt file."""
    with suppress(RunError):
        known = read_json(file) if file.exists() else {}
        return known if isinstance(known, dict) else {}
    return {}


def _choice(known: Any, command: Sequence[str]) -> Choice | None:
    """Return a choice that was kept for a command, or None."""
    if not isinstance(known, dict) or known.get("command") != list(command):
        return None
    values: list[Any] = [known.get(name) for name in Choice._fields]
    if not all(isinstance(value, int | float) and value >= 1 for value in values):
        return None
    return Choice(*values)


def _measure(command: Sequence[str], cores: int, n_jobs: int) -> Choice | None:
    """Return the number of jobs with which most is done; None if no probe could compute."""
    log.info("measuring how many jobs at a time are quickest on %d cores ...", cores)
    found: list[Choice] = []
    n = 1
    while n <= min(cores, n_jobs):
        if found and n * found[0].bytes > MEMORY_SHARE * _free_memory():
            log.info("%d jobs would need more memory than there is", n)
            break
        choice = _probe(command, n, max(1, cores // n))
        if choice is None:
            break
        found.append(choice)
        n *= 2
    if not found:
        return None
    best = max(found, key=lambda choice: choice.utterances)._replace(most=found[-1].jobs)
    for choice in found:
        log.info(
            "%d job%s with %d thread%s each: %.2f times as fast as one at a time",
            *(choice.jobs, "s" * (choice.jobs > 1), choice.threads, "s" * (choice.threads > 1)),
            choice.utterances / found[0].utterances,
        )
    return best


def _probe(command: Sequence[str], n: int, threads: int) -> Choice | None:
    """Run n probes at once; None where one fails, for which the jobs will say why."""
    probe = [sys.executable, "-m", "experiments.step_probe", *command]
    processes = [_start(probe, {**os.environ, THREADS: str(threads)}) for _ in range(n)]
    try:
        if not all(_is_ready(process) for process in processes):
            return None
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0] for process in processes]
        results = [json.loads(text.splitlines()[-1]) for text in said]
    except (BrokenPipeError, ValueError, IndexError):
        return None
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    speed = sum(result["utterances"] for result in results)
    return Choice(n, threads, speed, max(result["bytes"] for result in results), n)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def _is_ready(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return any(line.strip() == "ready" for line in process.stdout)


def _free_memory() -> float:
    """Return the bytes that may be used, as the kernel or its limit for this group says."""
    free = [float("inf")]
    with suppress(OSError, ValueError, IndexError):  # not on Linux
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free += [1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    with suppress(OSError, ValueError):  # no control group, or no limit
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        free.append(float(limit) - float(used))
    return min(free)


def _visible_gpus() -> tuple[str, list[str]]:
    """Return the variable that chooses GPUs here, and their names as it takes them.

    ROCm renumbers what `ROCR_VISIBLE_DEVICES` leaves, then reads `HIP_VISIBLE_DEVICES`, or
    `CUDA_VISIBLE_DEVICES` in its place. A process sees at most one MIG instance, so that of
    several named ones torch counts one.
    """
    import torch

    from system.devices import cuda_problem

    variable = "CUDA_VISIBLE_DEVICES"
    if cuda_problem() is not None:  # the jobs will take the CPU, too
        return variable, []
    given = os.environ.get(variable)
    if torch.version.hip is not None:
        given = os.environ.get("HIP_VISIBLE_DEVICES") or given
        variable = "HIP_VISIBLE_DEVICES"
    n = torch.cuda.device_count()
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    if n and names and names[0].startswith("MIG-"):
        return variable, names
    return variable, names[:n] if names else [str(i) for i in range(n)]
