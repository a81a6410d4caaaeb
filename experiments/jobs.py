"""Jobs in processes of their own: so many at a time, none twice, a failed one stops no other."""

import csv
import logging
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from system.disk import failure, is_full
from system.locks import TAKEN, is_held
from system.signals import Stop
from system.text import format_duration

log = logging.getLogger(__name__)

TICK = 0.1  # seconds between two looks at the processes
LOOK = 5.0  # seconds between two looks at jobs that other processes are at work on
GRACE = 60.0  # seconds that a job has to save its state when it is told to end
EPOCH_INTERVAL = 20.0  # seconds between two reports of the epochs that running jobs have finished


@dataclass(frozen=True)
class Job:
    """One fold with one seed of one run, as a command."""

    title: str  # for people
    command: tuple[str, ...]
    folder: Path  # of the fold
    log: Path  # gets stdout and stderr, behind those of earlier attempts
    epochs: int | None = field(default=None, kw_only=True)  # most that it trains, for the progress

    @property
    def finished(self) -> bool:
        """Whether this job, or another process in its place, has tested the fold."""
        return (self.folder / "metrics.json").exists()


class Failure(NamedTuple):
    """A job that ended without a result."""

    job: Job
    reason: str


def is_busy(folder: Path) -> bool:
    """Return whether a process, here or on another machine, is at work on a fold."""
    return is_held(folder / "state" / "lock")


def slots_for(n: int, device: str) -> list[dict[str, str]]:
    """Return what each of n slots sets in the environment: its GPU, or its share of the threads.

    Args:
        n: How many jobs run at a time.
        device: `run.device`; `cpu` leaves the GPUs alone.
    """
    gpus = [] if device == "cpu" else _visible_gpus()
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(n)]
    if n == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{} for _ in range(n)]
    threads = str(max(1, torch.get_num_threads() // n))
    log.info(
        "%d jobs at a time share the cores, OMP_NUM_THREADS=%s each: the number of threads may "
        "change the last bits of a result",
        n,
        threads,
    )
    return [{"OMP_NUM_THREADS": threads} for _ in range(n)]


def run_jobs(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> list[Failure]:
    """Run the jobs that are not finished, in order, as many at a time as there are slots.

    A job that another process is at work on is left to it, and taken up if that process ends
    without a result. SIGINT, SIGTERM and SIGHUP end the jobs too.

    Args:
        jobs: All of them, finished or not.
        slots: What each slot adds to the environment of its jobs.

    Raises:
        KeyboardInterrupt: A signal said so; all jobs have ended.
        RunError: A job cannot be started at all, or its log cannot be written.
    """
    crew = _Crew(jobs, slots)
    epochs = EpochReporter()
    log.info(
        "%d jobs, %d finished before, %d at a time",
        len(jobs),
        len(jobs) - len(crew.waiting),
        len(slots),
    )
    with (stop := Stop()).install_handlers(), stop.deferred():
        try:
            while (crew.waiting or crew.running) and not stop.requested:
                crew.settle_ended()
                crew.start_waiting()
                epochs.report([running.job for running in crew.running])
                time.sleep(TICK)
        finally:
            crew.stop()
    return crew.failures


@dataclass(frozen=True, eq=False)
class _Running:
    """A job at work."""

    job: Job
    slot: Mapping[str, str]
    process: subprocess.Popen
    began: float  # of time.monotonic
    offset: int  # where its part of the log begins

    def reason(self) -> str:
        """Return why it ended: its own word for it where it had one, else its last line."""
        if self.process.returncode < 0:
            number = -self.process.returncode
            return f"ended by signal {number} ({signal.strsignal(number)})"
        try:
            with self.job.log.open("rb") as file:
                file.seek(self.offset)
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            lines = [f"status {self.process.returncode}; its log cannot be read: {error.strerror}"]
        lines = [line.strip() for line in lines if line.strip()]
        told = [line for line in lines if line.startswith(("failed: ", "wrong input: ", "stopped"))]
        last = (told or lines or [f"ended with status {self.process.returncode}"])[-1]
        if not told and self.job.log.parent.exists() and is_full(self.job.log.parent):
            return f"{last} (the disk of its log is full: free some space)"
        return last


class _Crew:
    """What waits, what runs, what failed."""

    def __init__(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> None:
        self.waiting = [job for job in jobs if not job.finished]
        self.running: list[_Running] = []
        self.failures: list[Failure] = []
        self._n_jobs, self._n_slots = len(jobs), len(slots)
        self._free = list(slots)
        self._seconds: list[float] = []  # of each job that was done here
        self._awaited: list[str] = []
        self._next_look = 0.0  # of time.monotonic

    def settle_ended(self) -> None:
        """Take the jobs that have ended out of their slots."""
        for ended in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(ended)
            self._free.append(ended.slot)
            self._settle(ended)

    def start_waiting(self) -> None:
        """Fill the free slots; where others are at work on all that waits, look again later."""
        if not self._free or time.monotonic() < self._next_look:
            return
        busy = []
        for job in list(self.waiting):
            if not self._free:
                return
            if job.finished:
                self.waiting.remove(job)
                self._tell(job, "done by another process")
            elif is_busy(job.folder):
                busy.append(job.title)
            else:
                self.waiting.remove(job)
                self._start(job)
        self._next_look = time.monotonic() + LOOK
        if busy and not self.running and busy != self._awaited:
            log.info("waiting for other processes, which are at work on %s", ", ".join(busy))
            self._awaited = busy

    def stop(self) -> None:
        """End what runs: politely, so that it saves, then by force, with all that it started."""
        alive = [each.process for each in self.running if each.process.poll() is None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + GRACE
        while any(process.poll() is None for process in alive) and time.monotonic() < end:
            time.sleep(TICK)
        for process in alive:
            with suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, job: Job) -> None:
        slot = self._free.pop(0)
        try:
            with job.log.open("a", encoding="utf-8") as file:
                file.write(f"$ {shlex.join(job.command)}\n")
                file.flush()
                offset = file.tell()
                process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **slot},
                    start_new_session=True,  # Ctrl-C reaches it through `stop` alone
                )
        except OSError as error:
            what = f"cannot start {job.title} with its log {job.log}"
            raise failure(what, job.log.parent, error) from error
        self.running.append(_Running(job, slot, process, time.monotonic(), offset))
        log.info("%s: started, its output goes to %s", job.title, job.log)

    def _settle(self, ended: _Running) -> None:
        job, seconds = ended.job, time.monotonic() - ended.began
        if job.finished:
            self._seconds.append(seconds)
            self._tell(job, f"done in {format_duration(seconds)}")
            return
        reason = ended.reason()
        if TAKEN in reason:
            self.waiting.append(job)
            log.info("%s: another process was first, put back", job.title)
            return
        self.failures.append(Failure(job, reason))
        self._tell(job, f"failed after {format_duration(seconds)}: {reason}")

    def _tell(self, job: Job, what: str) -> None:
        left = len(self.waiting) + len(self.running)
        time_left = ""
        if left and self._seconds:
            mean = sum(self._seconds) / len(self._seconds)
            time_left = f"; about {format_duration(mean * left / min(left, self._n_slots))} left"
        log.info("[%d/%d] %s: %s%s", self._n_jobs - left, self._n_jobs, job.title, what, time_left)


class EpochReporter:
    """Logs how many epochs running jobs have finished, with the last dev UA."""

    def __init__(self) -> None:
        self._reported: dict[str, int] = {}  # epochs, by title
        self._next = time.monotonic() + EPOCH_INTERVAL

    def report(self, running: Sequence[Job]) -> None:
        """Log the jobs that have finished an epoch since the last report; do nothing in between."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EPOCH_INTERVAL
        for job in running:
            n_epochs, dev_ua = finished_epochs(job.folder)
            if n_epochs > self._reported.get(job.title, 0):
                self._reported[job.title] = n_epochs
                of = "" if job.epochs is None else f" of {job.epochs}"
                log.info("%s: epoch %d%s, dev UA %.1f %%", job.title, n_epochs, of, 100 * dev_ua)


def finished_epochs(folder: Path) -> tuple[int, float]:
    """Return how many epochs a fold has finished and its last dev UA; 0 and NaN before the first.

    Args:
        folder: Folder of the fold; its `history.csv` is rewritten after each epoch.
    """
    try:
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return len(rows), float(rows[-1]["dev_ua"])
    except (OSError, ValueError, LookupError, TypeError, csv.Error):
        return 0, math.nan  # progress is for people: a file that cannot be read stops no job


def _visible_gpus() -> list[str]:
    """Return the GPUs by the names that CUDA_VISIBLE_DEVICES has for them."""
    n = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in names.split(",")][:n] if names else [str(i) for i in range(n)]
