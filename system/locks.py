"""Who is at work on what: locks of the operating system, which fall with their process."""

import fcntl
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

from system.disk import failure
from system.errors import RunError

log = logging.getLogger(__name__)

TAKEN = "another process is at work on"  # what a process says that came second to a lock
PATIENCE = 0.5  # seconds; a look at a lock by `is_held` is over much sooner


@contextmanager
def alone(path: Path, work: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock file while at work; it falls to the next one when the process ends, however.

    Args:
        path: The lock file, in a folder that is there; it stays.
        work: What is locked, for people.
        shared: Let others in who share as well, and keep out those who want to be alone.

    Raises:
        RunError: Another process holds it; its number and machine are named.
    """
    with _opened(path) as file:
        if not _try(file, shared, PATIENCE):
            raise RunError(f"{TAKEN} {work} ({_owners(path)}): wait for it or end it")
        _sign(file, path, shared)
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold a lock file while at work, after all who hold it now.

    Raises:
        RunError: The file cannot be written.
    """
    with _opened(path) as file:
        if not _try(file, shared=False, patience=0):
            log.info("waiting for another process, which holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Return whether a process, here or on another machine, works alone behind a lock file."""
    try:
        with path.open("rb") as file:
            return not _try(file, shared=True, patience=0)
    except FileNotFoundError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise failure(f"cannot lock {path}", path.parent, error) from error
    with file:
        yield file


def _try(file: BinaryIO, shared: bool, patience: float) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)


def _sign(file: BinaryIO, path: Path, shared: bool) -> None:
    """Write down who holds it; those that share stand below each other."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since})
    try:
        if not shared:
            file.truncate(0)
        file.write(line.encode() + b"\n")
    except OSError as error:
        raise failure(f"cannot lock {path}", path.parent, error) from error


def _owners(path: Path) -> str:
    """Name who holds it, as far as that can be told from here."""
    try:
        holders = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        living = [one for one in holders if not _is_dead(one)]  # elsewhere it cannot be told
        named = [
            f"process {one['process']} on {one['host']}, since {one['since']}" for one in living
        ]
    except (OSError, ValueError, KeyError, TypeError):
        named = []
    return "; ".join(named) or "it has not signed yet"


def _is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether it surely is; of another machine's processes nothing is known."""
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it is another user's
    return False
