"""What the entries share: one message for a mistake, output that never fails, exit statuses.

0 done; 1 the run failed; 2 the input is wrong; 128 + n ended by signal n with all saved: 130 for
Ctrl-C, 143 for SIGTERM.
"""

import logging
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from system.errors import InputError, RunError, first_line, is_out_of_memory
from system.output import lost_output, protect_output
from system.owned import NO_LOCKS, has_locks
from system.signals import Stop
from system.text import printable, truncate

# Read when torch is loaded, after an entry has begun. Threads that wait for one another spin by
# default: where other processes want the cores, two of them then get little done
SLEEPING = ("OMP_WAIT_POLICY", "passive")
DONE, FAILED, WRONG_INPUT, BY_SIGNAL = 0, 1, 2, 128


class _Printable(logging.Formatter):
    """Escapes control characters in names, so that they cannot steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


@dataclass
class Exit:
    """Exit status of an entry, known when its `exit_status` block ends."""

    status: int = DONE


def run_entry(main: Callable[..., int | None], *arguments: Any) -> NoReturn:
    """Run an entry as this process, and end with its exit status.

    After Ctrl-C the process ends by SIGINT itself. Shells show 130 for that, too, but only then
    does a script with several commands stop.

    Args:
        main: The entry; returns its exit status, None is 0.
        arguments: Its arguments.
    """
    protect_output()
    os.environ.setdefault(*SLEEPING)
    if not has_locks():
        sys.exit(_report("failed", NO_LOCKS, FAILED))
    with exit_status() as result:
        result.status = main(*arguments) or DONE
    if (lost := lost_output()) and result.status == DONE:
        result.status = _report("failed", f"the output could not be written: {lost}", FAILED)
    if result.status == BY_SIGNAL + signal.SIGINT:
        sys.excepthook = lambda *error: None  # everything is said
        raise KeyboardInterrupt
    sys.exit(result.status)


@contextmanager
def exit_status(command: Sequence[str] = (), stop: Stop | None = None) -> Iterator[Exit]:
    """Report mistakes, failures and signals of a block in one message, without a traceback.

    Args:
        command: Command that resumes the work after a signal.
        stop: Is told of signals; knows whether `--overwrite` was carried out, so that resuming must
            not repeat it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line a request
    logging.getLogger("timm").setLevel(logging.ERROR)  # `models.weights` says what fits
    result, stop = Exit(), stop or Stop()
    try:
        with stop.install_handlers():
            yield result
    except InputError as error:
        result.status = _report("wrong input", error, WRONG_INPUT)
    except (RunError, OSError) as error:
        result.status = _report("failed", error, FAILED)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory: {first_line(error)}. Free some, or take a machine with more"
        result.status = _report("failed", message, FAILED)
    except KeyboardInterrupt as interrupt:
        _report_interrupt(command, stop)
        result.status = BY_SIGNAL + (interrupt.args or [signal.SIGINT])[0]


def run_cli(work: Callable[[], None], command: Sequence[str] = (), stop: Stop | None = None) -> int:
    """Do the work of an entry and return its exit status; see `exit_status`."""
    with exit_status(command, stop) as result:
        work()
    return result.status


def say(text: str) -> None:
    """Print a text, on the first of several processes alone."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text))


def _report_interrupt(command: Sequence[str], stop: Stop) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # the first process reports
    if not command:
        _report("interrupted", "nothing more was done")
        return
    again = shlex.join(word for word in command if not (stop.begun and word == "--overwrite"))
    _report("stopped", f"what was done is saved. To resume:\n  {again}")


def _report(kind: str, message: object, status: int = DONE) -> int:
    print(printable(f"{kind}: {message}"), file=sys.stderr)
    return status


def check_output(path: str | None) -> None:
    """Refuse a file of `--json` that cannot be written, before anything is computed.

    Raises:
        InputError: It is a folder or not a regular file, or its folder cannot be written to.
    """
    if path is None:
        return
    shown, folder = truncate(path), Path(path).parent
    if not os.path.isdir(folder):
        raise InputError(f"--json: there is no folder {truncate(str(folder))}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"--json: {shown} is a folder or not a regular file; name a file")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--json: cannot write {shown}: {error.strerror}") from None
