"""Lock files: who works on what. The system releases a lock when its process ends."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from system.errors import RunError
from system.files import disk_error
from system.owned import flock, open_owned

log = logging.getLogger(__name__)

TAKEN = "another process is at work on"  # begins the message of a lock that is held
PATIENCE = 0.5  # seconds; `is_held` holds a lock for a moment only


@contextmanager
def lock(path: Path, work: str, blocking: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends, however it ends.

    Args:
        path: The lock file, in a folder that exists; the file stays.
        work: What is locked, for messages.
        blocking: Wait for the owner instead of failing.
        shared: Allow other shared owners, and no exclusive one: processes that train different
            folds of one run share it, and keep out a run of all folds and `--overwrite`.

    Raises:
        RunError: Another process holds it and `blocking` is false, or the file cannot be written,
            or it is a link.
    """
    try:
        file = open_owned(path, "a+b")
    except OSError as error:
        raise disk_error(f"cannot lock {path}", path.parent, error) from error
    with file:
        if not _try_lock(file, shared, 0 if blocking else PATIENCE):
            if not blocking:
                raise RunError(f"{TAKEN} {work} ({_owners(path)}): wait for it or end it")
            log.info("waiting until the lock of %s is free (%s)", work, _owners(path))
            flock(file, shared)
        _write_owner(file, path, shared)
        yield


def is_held(path: Path) -> bool:
    """Return whether a process, here or on another machine, holds a lock exclusively."""
    try:
        with open_owned(path, "rb") as file:
            return not _try_lock(file, True, 0)
    except FileNotFoundError:
        return False


def _try_lock(file: BinaryIO, shared: bool, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            flock(file, shared, blocking=False)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)


def _write_owner(file: BinaryIO, path: Path, shared: bool) -> None:
    """Write who holds the lock; shared owners write one line each."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since})
    try:
        if not shared:
            file.truncate(0)
        file.write(line.encode() + b"\n")
    except OSError as error:
        raise disk_error(f"cannot lock {path}", path.parent, error) from error


def _owners(path: Path) -> str:
    """Name who holds a lock, as far as the file tells."""
    try:
        owners = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        names = [
            f"process {owner['process']} on {owner['host']}, since {owner['since']}"
            for owner in owners
            if not _has_ended(owner)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    return "; ".join(names) or "owner unknown"


def _has_ended(owner: Mapping[str, Any]) -> bool:
    """Return whether a process of this machine has ended; False for other machines'."""
    if owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(owner["process"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # alive, another user's
        return False
    return False
