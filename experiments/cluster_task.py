"""A job inside submitit: it runs the training, hands signals on, and goes back into the queue."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from experiments.jobs import TICK
from system.errors import RunError
from system.files import write_all
from system.owned import open_owned

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


@dataclass(frozen=True)
class Task:
    """A job as submitit pickles and calls it.

    Args:
        title: Title of the job, for messages.
        command: The training command.
        log: File that its output is appended to.
        patience: Seconds to wait, after a SIGTERM that ended the training, for what comes next.
        environment: Variables that it gets in addition; None removes one.
    """

    title: str
    command: tuple[str, ...]
    log: Path
    patience: float
    environment: Mapping[str, str | None]

    def __call__(self) -> None:
        """Run the command to its end, or until a signal asks for it; then be requeued.

        Raises:
            RunError: The command failed.
        """
        asked: list[int] = []

        def note(number: int, frame: FrameType | None) -> None:
            asked.append(number)

        requeue = signal.signal(signal.SIGUSR1, note)  # submitit's, which exits
        signal.signal(signal.SIGTERM, note)
        status = self._run(asked)
        if status == 0:
            return
        if status in {code for number in asked for code in (-number, 128 + number)}:
            end = time.monotonic() + self.patience
            while signal.SIGUSR1 not in asked and time.monotonic() < end:
                time.sleep(TICK)
            if signal.SIGUSR1 in asked and callable(requeue):
                requeue(signal.SIGUSR1, None)
        raise RunError(f"{self.title} ended with status {status}: its log is {self.log}")

    def checkpoint(self) -> "DelayedSubmission":
        """Return what is to be run when Slurm starts this task again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, asked: Sequence[int]) -> int:
        """Run the command, hand it each signal that is asked for; return its status."""
        environment = {**os.environ, **self.environment}
        with open_owned(self.log, "a+b") as file:
            write_all(file, f"$ {shlex.join(self.command)}\n".encode())
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in environment.items() if value is not None},
                start_new_session=True,
            )
        n_sent = 0
        try:
            while (status := process.poll()) is None:
                for number in asked[n_sent:]:
                    process.send_signal(number)
                    n_sent += 1
                time.sleep(TICK)
            return status
        finally:
            if process.poll() is None:
                process.terminate()  # it saves and ends by itself
