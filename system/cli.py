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
    """Names from a corpus or a folder do not steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


def run_cli(work: Callable[[], None], command: Sequence[str] = (), stop: Stop | None = None) -> int:
    """Do the work, return the exit status; mistakes and failures are told without a traceback.

    Args:
        work: What the entry does.
        command: That goes on with the work when it was stopped, so that stopping is no failure.
        stop: Knows whether the work has begun, so that `--overwrite` is not to be said again.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request
    try:
        work()
    except InputError as error:
        return _tell("wrong input", error, WRONG_INPUT)
    except (RunError, OSError) as error:
        return _tell("failed", error, FAILED)
    except KeyboardInterrupt:
        if not command:
            return _tell("interrupted", "nothing more was done", FAILED)
        if os.environ.get("RANK", "0") != "0":
            return DONE  # the first process says it
        done = ("--overwrite",) if stop is not None and stop.begun else ()
        again = shlex.join(word for word in command if word not in done)
        return _tell("stopped", f"what was done is saved. To go on:\n  {again}", DONE)
    return DONE


def _tell(kind: str, message: object, status: int) -> int:
    print(printable(f"{kind}: {message}"), file=sys.stderr)
    return status
