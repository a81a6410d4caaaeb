"""What the entries share: arguments, one message for a mistake, exit status 0, 1 or 2."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from system.errors import InputError, RunError
from system.signals import Stop
from system.text import printable

DONE, FAILED, WRONG_INPUT = 0, 1, 2


class _Printable(logging.Formatter):
    """Escapes control characters in names, so that they cannot steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


def run_cli(work: Callable[[], None], command: Sequence[str] = (), stop: Stop | None = None) -> int:
    """Do the work and return the exit status; print mistakes and failures without a traceback.

    Args:
        work: What the entry does.
        command: Command that resumes the work; with it, being stopped counts as success.
        stop: Knows whether work has begun; then the resuming command has no `--overwrite`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request
    try:
        work()
    except InputError as error:
        return _report("wrong input", error, WRONG_INPUT)
    except (RunError, OSError) as error:
        return _report("failed", error, FAILED)
    except KeyboardInterrupt:
        if not command:
            return _report("interrupted", "nothing more was done", FAILED)
        if os.environ.get("RANK", "0") != "0":
            return DONE  # the first process prints it
        done = ("--overwrite",) if stop is not None and stop.begun else ()
        resume = shlex.join(word for word in command if word not in done)
        return _report("stopped", f"what was done is saved. To resume:\n  {resume}", DONE)
    return DONE


def _report(kind: str, message: object, status: int) -> int:
    print(printable(f"{kind}: {message}"), file=sys.stderr)
    return status
