"""What the entries share: arguments, one message for a mistake, exit status 0, 1 or 2."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from system.errors import InputError, RunError
from system.signals import Stop
from system.text import printable

DONE, FAILED, WRONG_INPUT = 0, 1, 2


class _Printable(logging.Formatter):
    """Escapes control characters in names, so that they cannot steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


@dataclass
class Exit:
    """Exit status of an entry, known when its `exit_status` block ends."""

    status: int = DONE


@contextmanager
def exit_status(command: Sequence[str] = (), stop: Stop | None = None) -> Iterator[Exit]:
    """Report mistakes and failures of a block in one message, without a traceback.

    Args:
        command: Command that resumes the work after a signal; without one a signal is a failure.
        stop: Knows whether `--overwrite` was carried out, so that resuming must not repeat it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request
    logging.getLogger("timm").setLevel(logging.ERROR)  # `models.weights` says what fits
    result = Exit()
    try:
        yield result
    except InputError as error:
        result.status = _report("wrong input", error, WRONG_INPUT)
    except (RunError, OSError) as error:
        result.status = _report("failed", error, FAILED)
    except KeyboardInterrupt:
        result.status = _report_interrupt(command, stop)


def run_cli(work: Callable[[], None], command: Sequence[str] = (), stop: Stop | None = None) -> int:
    """Do the work of an entry and return its exit status; see `exit_status`."""
    with exit_status(command, stop) as result:
        work()
    return result.status


def say(text: str) -> None:
    """Print a text, on the first of several processes alone."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text))


def _report_interrupt(command: Sequence[str], stop: Stop | None) -> int:
    if not command:
        return _report("interrupted", "nothing more was done", FAILED)
    if os.environ.get("RANK", "0") != "0":
        return DONE  # the first process reports
    done = ("--overwrite",) if stop is not None and stop.begun else ()
    again = shlex.join(word for word in command if word not in done)
    return _report("stopped", f"what was done is saved. To resume:\n  {again}", DONE)


def _report(kind: str, message: object, status: int) -> int:
    print(printable(f"{kind}: {message}"), file=sys.stderr)
    return status
