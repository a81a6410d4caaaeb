"""Run jobs as subprocesses, N at a time; skip finished ones; continue after failures."""

import csv
import io
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from storage.folders import is_finished
from system.files import MAX_TABLE, disk_error, is_full, read_text, write_all
from system.locks import TAKEN, is_held
from system.owned import open_owned
from system.signals import Stop
from system.text import format_duration

log = logging.getLogger(__name__)

TICK = 0.1  # seconds between two checks of the running processes
BUSY_TICK = 5.0  # seconds between two checks of jobs that other processes run
GRACE = 60.0  # seconds in which a job may save its state after SIGTERM
EPOCH_INTERVAL = 20.0  # seconds between two reports of the epochs that running jobs have finished


@dataclass(frozen=True)
class Job:
    """One fold with one seed of one run, as a command; or several quick ones."""

    title: str
    command: tuple[str, ...]
    folder: Path  # of the fold
    log: Path  # stdout and stderr are appended to it
    epochs: int | None = field(default=None, kw_only=True)  # most that it trains, for the progress
    others: tuple[Path, ...] = field(default=(), kw_only=True)  # folders of its other folds
    environment: Mapping[str, str] = field(default_factory=dict, kw_only=True)  # over its slot's

    @property
    def finished(self) -> bool:
        """Whether all its folds were tested, by this job or by another process."""
        return all(is_finished(folder) for folder in (self.folder, *self.others))


class Failure(NamedTuple):
    """A job that ended without a result."""

    job: Job
    reason: str


def is_busy(folder: Path) -> bool:
    """Return whether a process, here or on another machine, trains a fold."""
    return is_held(folder / "state" / "lock")


def run_jobs(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> list[Failure]:
    """Run the unfinished jobs in order, as many at a time as there are slots; return the failures.

    A job that another process runs is skipped until that process ends; if it left no result, the
    job is started. A signal (`system.signals`) ends the jobs, too.

    Args:
        jobs: All jobs, finished or not.
        slots: Environment variables that each slot adds to its jobs.

    Raises:
        KeyboardInterrupt: A signal arrived; all jobs have ended.
        RunError: A job cannot be started, or its log cannot be written.
    """
    pool = JobPool(jobs, slots)
    run_pool(pool)
    return pool.failures


def run_pool(pool: "JobPool") -> None:
    """Run the jobs of a pool until none waits or runs; see `run_jobs`."""
    epochs = EpochReporter()
    n_finished = pool.n_jobs - len(pool.waiting)
    log.info("%d jobs, %d finished before, %d at a time", pool.n_jobs, n_finished, pool.n_slots)
    with (stop := Stop()).install_handlers(), stop.deferred():
        try:
            while (pool.waiting or pool.at_work) and not stop.requested:
                pool.collect_ended()
                pool.start_waiting()
                epochs.report(pool.at_work)
                time.sleep(TICK)
        finally:
            pool.stop()


@dataclass(frozen=True, eq=False)
class RunningJob:
    """A job with its process."""

    job: Job
    slot: Mapping[str, str]
    process: subprocess.Popen
    start: float  # time.monotonic()
    offset: int  # byte at which its part of the log begins

    def failure_reason(self) -> str:
        """Return why it ended: its last message to the user if it wrote one, else its last line."""
        return failure_reason(self.job, self.offset, self.process.returncode)


def failure_reason(job: Job, offset: int, status: int | None) -> str:
    """Return why a job ended: its last message to the user if it wrote one, else its last line.

    Args:
        job: The job.
        offset: Byte at which its part of the log begins.
        status: Exit status of its process; None where it is not known.
    """
    ended = "ended without a result" if status is None else f"ended with status {status}"
    try:
        with job.log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        lines = [f"{ended}; its log cannot be read: {error.strerror}"]
    lines = [line.strip() for line in lines if line.strip()]
    messages = [line for line in lines if line.startswith(("failed: ", "wrong input: ", "stopped"))]
    if status is not None and status < 0 and not messages:
        return f"ended by signal {-status} ({signal.strsignal(-status)})"
    last = (messages or lines or [ended])[-1]
    if not messages and job.log.parent.exists() and is_full(job.log.parent):
        return f"{last} (the disk of its log is full: free some space)"
    return last


class Ended(Protocol):
    """A job that has ended, in any pool."""

    @property
    def job(self) -> Job:
        """The job."""

    @property
    def start(self) -> float:
        """Its start, as time.monotonic()."""

    def failure_reason(self) -> str:
        """Return why it has no result."""


class JobPool:
    """Jobs that wait, run, or failed."""

    def __init__(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> None:
        self.waiting = [job for job in jobs if not job.finished]
        self.running: list[RunningJob] = []
        self.failures: list[Failure] = []
        self.n_jobs, self.n_slots = len(jobs), len(slots)
        self._free = list(slots)
        self._seconds: list[float] = []  # of each job that was done here
        self._busy: list[str] = []  # titles of jobs that the log says other processes run
        self._next_check = 0.0  # time.monotonic()

    @property
    def at_work(self) -> list[Job]:
        """Jobs that were started and have not ended."""
        return [running.job for running in self.running]

    def collect_ended(self) -> None:
        """Free the slots of the jobs that have ended."""
        for ended in [running for running in self.running if running.process.poll() is not None]:
            self.running.remove(ended)
            self._free.append(ended.slot)
            self._record(ended)

    def start_waiting(self) -> None:
        """Fill the free slots; if other processes run all waiting jobs, check again later."""
        if not self._free or time.monotonic() < self._next_check:
            return
        busy = []
        for job in self._unfinished():
            if not self._free:
                return
            if is_busy(job.folder):
                busy.append(job.title)
            else:
                self.waiting.remove(job)
                self._start(job)
        self._check_later(busy)

    def stop(self) -> None:
        """End the running jobs: SIGTERM, so that they save, then SIGKILL for all they started."""
        alive = [running.process for running in self.running if running.process.poll() is None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + GRACE
        while any(process.poll() is None for process in alive) and time.monotonic() < end:
            time.sleep(TICK)
        for process in alive:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, job: Job) -> None:
        slot = self._free.pop(0)
        try:
            with open_owned(job.log, "a+b") as file:
                write_all(file, f"$ {shlex.join(job.command)}\n".encode())
                offset = file.tell()
                process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **slot, **job.environment},
                    start_new_session=True,  # Ctrl-C reaches it through `stop` alone
                )
        except OSError as error:
            what = f"cannot start {job.title} with its log {job.log}"
            raise disk_error(what, job.log.parent, error) from error
        self.running.append(RunningJob(job, slot, process, time.monotonic(), offset))
        log.info("%s: started, its output goes to %s", job.title, job.log)

    def _unfinished(self) -> Iterator[Job]:
        """Yield the waiting jobs; report those that others have finished meanwhile."""
        for job in list(self.waiting):
            if job.finished:
                self.waiting.remove(job)
                self._report(job, "done by another process")
            else:
                yield job

    def _check_later(self, busy: list[str]) -> None:
        """Set when to check the waiting jobs again; say once which ones other processes run."""
        self._next_check = time.monotonic() + BUSY_TICK
        if busy and not self.at_work and busy != self._busy:
            log.info("waiting for other processes, which are at work on %s", ", ".join(busy))
            self._busy = busy

    def _record(self, ended: Ended) -> None:
        """Report how a job ended; put it back if another process holds its fold."""
        job, seconds = ended.job, time.monotonic() - ended.start
        if job.finished:
            self._seconds.append(seconds)
            self._report(job, f"done in {format_duration(seconds)}")
            return
        reason = ended.failure_reason()
        if TAKEN in reason:
            self.waiting.append(job)
            log.info("%s: another process is at work on this fold; it waits again", job.title)
            return
        self.failures.append(Failure(job, reason))
        self._report(job, f"failed after {format_duration(seconds)}: {reason}")

    def _report(self, job: Job, event: str) -> None:
        """Log an event of a job, with the number of jobs done and the time left."""
        left = len(self.waiting) + len(self.at_work)
        time_left = ""
        if left and self._seconds:
            mean = sum(self._seconds) / len(self._seconds)
            time_left = f"; about {format_duration(mean * left / min(left, self.n_slots))} left"
        log.info("[%d/%d] %s: %s%s", self.n_jobs - left, self.n_jobs, job.title, event, time_left)


class EpochReporter:
    """Logs how many epochs running jobs have finished, with the last dev score; or folds."""

    def __init__(self) -> None:
        self._reported: dict[str, int] = {}  # epochs or folds, by title
        self._next = time.monotonic() + EPOCH_INTERVAL

    def report(self, running: Sequence[Job]) -> None:
        """Log what jobs have finished since the last report; do nothing in between."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EPOCH_INTERVAL
        for job in running:
            if job.others:
                self._report_folds(job)
                continue
            n_epochs, score = finished_epochs(job.folder)
            if n_epochs > self._reported.get(job.title, 0):
                self._reported[job.title] = n_epochs
                of = "" if job.epochs is None else f" of {job.epochs}"
                log.info("%s: epoch %d%s, %s", job.title, n_epochs, of, score)

    def _report_folds(self, job: Job) -> None:
        folders = (job.folder, *job.others)
        done = sum(map(is_finished, folders))
        if done > self._reported.get(job.title, 0):
            self._reported[job.title] = done
            log.info("%s: %d of %d folds and seeds done", job.title, done, len(folders))


def finished_epochs(folder: Path) -> tuple[int, str]:
    """Return how many epochs a fold has finished and its last dev score; 0 and "" before the first.

    Args:
        folder: Folder of the fold; its `history.csv` is rewritten after each epoch.
    """
    try:
        text = read_text(folder / "history.csv", MAX_TABLE)
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for column, name in (("dev_ccc", "CCC"), ("dev_similarity", "1 - JSD")):
            if column in rows[-1]:  # of another task than classes
                return len(rows), f"dev {name} {float(rows[-1][column]):.3f}"
        return len(rows), f"dev UA {100 * float(rows[-1]['dev_ua']):.1f} %"
    except (OSError, ValueError, LookupError, TypeError, csv.Error):
        return 0, ""  # progress is for people: a file that cannot be read stops no job
