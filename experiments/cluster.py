"""Run jobs by submitit: as tasks of a job array of Slurm, or on this machine to try that.

Jobs, their logs and their results are those of `experiments.jobs`. Beside the log of a job lies
what names it in Slurm's queue, so that no command submits it a second time. What submitit writes
(scripts, pickles, the output of its own) lies in `cluster/` of run.root.

Slurm sends SIGUSR1 before it ends a task. The task hands it to the training, which saves and ends;
then submitit puts the task back into the queue, where it resumes.
"""

import getpass
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cluster_task import Task
from experiments.jobs import GRACE, TICK, Failure, Job, JobPool, failure_reason, is_busy, run_pool
from system.errors import InputError, RunError, first_line
from system.extras import check_extra
from system.files import make_folder, read_text, write_text
from system.locks import lock
from system.text import whole_number

log = logging.getLogger(__name__)

EXECUTORS = ("slurm", "local")
SIGNAL = "USR1"  # submitit's default, USR2, would do, too
QUEUE_TICK = 15.0  # seconds between two questions to Slurm
AFTER_TERM = 300.0  # seconds that an ended task waits for Slurm: a preempted one is requeued
MAX_TIMEOUTS = 1000  # time limits that one job may need
SIGNAL_DELAY = 90  # seconds between the signal and the end of a task
FIXED = {  # what the array or a job of one process decides
    *("array", "chdir", "error", "job_name", "nodes", "ntasks", "ntasks_per_node", "open_mode"),
    *("output", "requeue", "signal", "wrap"),
}
GPUS = "CUDA_VISIBLE_DEVICES"
NO_LIMIT = 60 * 24 * 365  # minutes; on this machine nothing ends a job


def check_executor(name: str, words: Sequence[str]) -> None:
    """Refuse what cannot be submitted, before anything slow is imported.

    Args:
        name: One of `EXECUTORS`.
        words: Parameters of Slurm, `key=value`.

    Raises:
        InputError: submitit or Slurm is missing, or a parameter is wrong.
    """
    check_extra(f"--executor {name}", "submitit", "cluster")
    if name == "slurm":
        missing = [tool for tool in ("sbatch", "squeue", "srun") if shutil.which(tool) is None]
        if missing:
            raise InputError(
                f"there is no {', '.join(missing)} here: give the command where Slurm is, or "
                "leave --executor out to use this machine"
            )
        slurm_parameters(words)


def slurm_parameters(words: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of submitit's executor of Slurm.

    Raises:
        InputError: A word is not `key=value`, a key is fixed, or the time limit is missing.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if not value:
            raise InputError(f"--slurm takes words like partition=gpu, got {word!r}")
        key = key.removeprefix("--").replace("-", "_")
        if key in FIXED:
            raise InputError(f"--slurm {key}=... is decided by this command: leave it out")
        number = whole_number(value)
        values[key] = True if value == "true" else value if number is None else number
    if not isinstance(minutes := values.get("time"), int) or minutes < 1:
        raise InputError(
            "--slurm needs the time limit of a job in minutes, e.g. time=600: one that reaches it "
            "is saved and put back into the queue"
        )
    if not isinstance(delay := values.pop("signal_delay_s", SIGNAL_DELAY), int):
        raise InputError("--slurm signal_delay_s must be a number of seconds, e.g. 120")
    del values["time"]
    setup = [str(values.pop("setup"))] if "setup" in values else []
    return {
        "time": minutes,
        "setup": [f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL}", *setup],
        "additional_parameters": {"requeue": True, "signal": f"{SIGNAL}@{delay}", **values},
    }


class Executor:
    """submitit's executor of one kind, and what it knows of its jobs.

    Args:
        name: One of `EXECUTORS`.
        folder: Folder for what submitit writes, made if missing.
        title: Name of the array in Slurm's queue.
        words: Parameters of Slurm, `key=value`.
        n: Jobs that run at a time; None lets Slurm decide.
    """

    def __init__(
        self, name: str, folder: Path, title: str, words: Sequence[str], n: int | None
    ) -> None:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL  # for tasks of this machine
        import submitit

        self.name, self.folder = name, folder
        self._local: dict[str, submitit.Job[None]] = {}
        make_folder(folder)
        if name == "slurm":
            self._executor: submitit.Executor = submitit.SlurmExecutor(folder, MAX_TIMEOUTS)
            parallel = {} if n is None else {"array_parallelism": n}
            self._executor.update_parameters(job_name=title, **parallel, **slurm_parameters(words))
            self.tick = QUEUE_TICK
        else:
            self._executor = submitit.LocalExecutor(folder, MAX_TIMEOUTS)
            self._executor.update_parameters(timeout_min=NO_LIMIT)
            self.tick = TICK

    def submit(self, jobs: Sequence[tuple[Job, Mapping[str, str]]]) -> list[str]:
        """Submit jobs as one array; return their ids.

        Args:
            jobs: Jobs with the environment variables that each gets in addition.

        Raises:
            RunError: Slurm refuses them.
        """
        patience, before = AFTER_TERM, {}
        if self.name == "local":  # submitit would hide the GPUs
            patience, before = 0.0, {GPUS: os.environ.get(GPUS)}
        tasks = [
            Task(job.title, job.command, job.log.absolute(), patience, {**before, **slot})
            for job, slot in jobs
        ]
        try:
            with self._executor.batch():
                submitted = [self._executor.submit(task) for task in tasks]
        except (RuntimeError, OSError) as error:
            raise RunError(f"the jobs cannot be submitted: {first_line(error)}") from error
        if self.name == "local":
            self._local.update({job.job_id: job for job in submitted})
        return [job.job_id for job in submitted]

    def alive(self) -> set[str]:
        """Return the ids of all jobs that wait or run.

        Raises:
            RunError: Slurm does not answer.
        """
        if self.name == "local":
            return {number for number, job in self._local.items() if not job.done()}
        command = ["squeue", "--noheader", "--array", "--format=%i", "--user", getpass.getuser()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            raise RunError(f"Slurm does not say which jobs wait or run: {said}") from error
        return set(done.stdout.split())

    def end_all(self) -> None:
        """End the jobs that run on this machine; they save first."""
        alive = self.alive()
        for number in alive:
            os.kill(int(number), signal.SIGTERM)
        end = time.monotonic() + GRACE
        while (alive := self.alive()) and time.monotonic() < end:
            time.sleep(TICK)
        for number in alive:
            self._local[number].cancel()


@dataclass(frozen=True, eq=False)
class SubmittedJob:
    """A job with its id."""

    job: Job
    id: str
    start: float  # time.monotonic()
    offset: int  # byte of the log at which its part begins
    slot: Mapping[str, str]

    def failure_reason(self) -> str:
        """Return why it ended: its last message to the user if it wrote one, else its last line."""
        return failure_reason(self.job, self.offset, None)


class ClusterPool(JobPool):
    """Jobs that wait, were submitted, or failed."""

    def __init__(
        self, jobs: Sequence[Job], executor: Executor, slots: Sequence[Mapping[str, str]]
    ) -> None:
        super().__init__(jobs, slots)
        self.executor = executor
        self.submitted: list[SubmittedJob] = []
        self._gone: set[str] = set()  # ids that left the queue without a result in sight
        self._next_question = 0.0  # time.monotonic()

    @property
    def at_work(self) -> list[Job]:
        """Jobs that were submitted and have not ended."""
        return [submitted.job for submitted in self.submitted]

    def collect_ended(self) -> None:
        """Report the jobs that have left the queue."""
        if time.monotonic() < self._next_question or not self.submitted:
            return
        self._next_question = time.monotonic() + self.executor.tick
        try:
            alive = self.executor.alive()
        except RunError as error:
            log.warning("%s", error)  # it may be busy
            return
        for one in list(self.submitted):
            if not one.job.finished and (one.id in alive or one.id not in self._gone):
                if one.id not in alive:
                    self._gone.add(one.id)  # shared mounts show a result some seconds later
                continue
            self.submitted.remove(one)
            self._free.append(one.slot)
            self._record(one)

    def start_waiting(self) -> None:
        """Submit all jobs that nobody works on, as one array; take up those that are queued."""
        if not self.waiting or not self._free or time.monotonic() < self._next_check:
            return
        busy: list[str] = []
        free: list[tuple[Job, Mapping[str, str]]] = []
        with lock(self.executor.folder / ".lock", str(self.executor.folder), blocking=True):
            queued = self._queued()
            for job in self._unfinished():
                if (number := queued.get(job.title)) is not None:
                    slot = self._free.pop(0)
                    self._note(job, slot, number, _log_size(job), "is in the queue as job")
                elif is_busy(job.folder):
                    busy.append(job.title)
                elif self._free:
                    free.append((job, self._free.pop(0)))
            offsets = [_log_size(job) for job, _ in free]  # before: a job may end at once
            numbers = self.executor.submit(free) if free else []
            for (job, slot), number, offset in zip(free, numbers, offsets, strict=True):
                if self.executor.name == "slurm":
                    write_text(_record_file(job), number)
                self._note(job, slot, number, offset, "submitted as job")
        self._check_later(busy)

    def stop(self) -> None:
        """End the jobs of this machine; those of Slurm stay in its queue."""
        if self.executor.name == "local":
            self.executor.end_all()
        elif self.submitted:
            ids = sorted({one.id.partition("_")[0] for one in self.submitted})
            log.info(
                "%d jobs stay in the queue: the same command waits for them again and compares, "
                "`scancel %s` ends them",
                *(len(self.submitted), " ".join(ids)),
            )

    def _queued(self) -> Mapping[str, str]:
        """Return the ids of waiting jobs that are in Slurm's queue, by title."""
        if self.executor.name != "slurm":
            return {}
        ids = {job.title: _recorded(job) for job in self.waiting}
        alive = self.executor.alive() if any(ids.values()) else set()
        return {title: number for title, number in ids.items() if number in alive}

    def _note(
        self, job: Job, slot: Mapping[str, str], number: str, offset: int, event: str
    ) -> None:
        self.waiting.remove(job)
        self.submitted.append(SubmittedJob(job, number, time.monotonic(), offset, slot))
        log.info("%s: %s %s, its output goes to %s", job.title, event, number, job.log)


def run_by_submitit(
    jobs: Sequence[Job], executor: Executor, slots: Sequence[Mapping[str, str]], wait: bool = True
) -> list[Failure] | None:
    """Submit the unfinished jobs, wait until all have ended and return the failures.

    Args:
        jobs: All jobs, finished or not.
        executor: Where they run.
        slots: Environment variables of each job of those that may be submitted at a time.
        wait: Wait for their end; otherwise return None once they are submitted.

    Raises:
        KeyboardInterrupt: A signal arrived; jobs of Slurm stay in its queue.
        RunError: The jobs cannot be submitted.
    """
    pool = ClusterPool(jobs, executor, slots)
    if wait:
        run_pool(pool)
        return pool.failures
    pool.start_waiting()
    pool.stop()
    return None


def _log_size(job: Job) -> int:
    return job.log.stat().st_size if job.log.exists() else 0


def _record_file(job: Job) -> Path:
    return job.log.with_suffix(".job")


def _recorded(job: Job) -> str | None:
    """Return the id that a job had when it was submitted last."""
    try:
        text = read_text(_record_file(job), 100)
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"\d+(_\d+)?", text) else None
