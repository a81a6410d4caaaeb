"""Where a study keeps its trials: an SQLite file, a journal on a shared mount, or PostgreSQL.

Settings, checkpoints, logs and results stay in the study's folder, which all workers share.

- `sqlite`: study.db in the folder; for one machine, because SQLite is not safe on NFS.
- `journal`: study.journal in the folder; a file that is only appended to, behind a lock file that
  NFS creates atomically. Optuna gives a journal no heartbeat.
- `postgresql://...`: a server; running trials have a heartbeat there.
"""

import logging
import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from experiments.study_store import MAX_STORE, check_store
from system.errors import InputError, first_line, nearest
from system.extras import check_extra
from system.files import MAX_CONFIG, read_text, write_text
from system.owned import check_owned
from system.placeholders import LFS_POINTER, is_lfs_pointer
from system.regular import check_regular

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

log = logging.getLogger(__name__)

SQLITE, JOURNAL, POSTGRESQL = "sqlite", "journal", "postgresql"
STORE_FILES = {SQLITE: "study.db", JOURNAL: "study.journal"}
SQLITE_FILES = ("", "-journal", "-wal", "-shm")  # endings of what SQLite writes
STORE_TIMEOUT = 120.0  # seconds that SQLite waits for other writers
HEARTBEAT = 30  # seconds between two heartbeats of a running trial in PostgreSQL
GRACE = 120  # seconds without a heartbeat after which a trial has lost its process
IDENTITY = "study_id"  # file that names the study in PostgreSQL, where others are, too
PASSWORDS = {"password", "sslpassword"}  # parameters of a URL


def check_storage(storage: str) -> None:
    """Refuse what is no storage, before anything slow is imported; never repeat a password.

    Raises:
        InputError: It is none, holds a password, or psycopg is missing.
    """
    if storage in STORE_FILES:
        return
    if not storage.startswith(f"{POSTGRESQL}://"):
        shown = storage.partition(":")[0]  # the rest of a URL may hold a password
        raise InputError(
            f"--storage {shown!r} is none: {nearest(shown, STORE_FILES)}, or a URL "
            "postgresql://user@host/database"
        )
    try:
        url = urlsplit(storage)
        with_password = url.password is not None or bool(PASSWORDS & parse_qs(url.query).keys())
        well_formed = url.port is None or url.port > 0
    except ValueError:  # its words repeat the URL
        with_password, well_formed = False, False
    if with_password:
        raise InputError(
            "the URL of --storage holds a password, and command lines are seen by all users and "
            "written to logs: leave it out, and put it into ~/.pgpass or PGPASSWORD"
        )
    if not well_formed:
        raise InputError("--storage must be like postgresql://user@host:5432/database")
    check_extra("--storage postgresql://...", "psycopg", "cluster")


@dataclass(frozen=True)
class Store:
    """Where the trials of a study are.

    Args:
        folder: Folder of the study.
        storage: `sqlite`, `journal` or a URL of PostgreSQL without a password.
    """

    folder: Path
    storage: str = SQLITE

    @property
    def kind(self) -> str:
        """Return `sqlite`, `journal` or `postgresql`."""
        return self.storage.partition(":")[0]

    @property
    def place(self) -> str:
        """Return what messages call it: the path of the file or the URL."""
        name = STORE_FILES.get(self.storage)
        return self.storage if name is None else str(self.folder / name)

    @property
    def study_name(self) -> str:
        """Return the name of the study: in PostgreSQL it belongs to this folder alone."""
        if self.kind != POSTGRESQL:
            return "study"
        file = self.folder / IDENTITY
        if not file.exists():
            write_text(file, uuid4().hex)
        return f"{self.folder.name}-{read_text(file, MAX_CONFIG).strip()}"

    def open(self) -> "tuple[BaseStorage, RDBStorage | None]":
        """Check and open the store, or begin it; hold the lock of the folder meanwhile.

        Returns:
            The storage, and the same one with heartbeats where it can have them: with
            `Study.ask`, Optuna leaves recording them to us, and warns of a study that has them.

        Raises:
            OSError: A file cannot be read, or is not a regular file.
            ValueError: A file is too large or not a store.
            RunError: A file is a link.
        """
        import optuna
        from sqlalchemy import URL, make_url

        optuna.logging.disable_default_handler()
        if self.kind == JOURNAL:
            return optuna.storages.JournalStorage(_journal(Path(self.place))), None
        if self.kind == SQLITE:
            for ending in SQLITE_FILES:
                check_owned(Path(f"{self.place}{ending}"))
            check_store(Path(self.place), STORE_TIMEOUT)
            url = URL.create("sqlite", database=self.place).render_as_string()
            wait = {"connect_args": {"timeout": STORE_TIMEOUT}}
            return optuna.storages.RDBStorage(url, engine_kwargs=wait), None
        url = make_url(self.storage).set(drivername=f"{POSTGRESQL}+psycopg").render_as_string()
        alive = {"pool_pre_ping": True}  # the server may have been restarted meanwhile
        storage = optuna.storages.RDBStorage(url, engine_kwargs=alive)
        experimental = optuna.exceptions.ExperimentalWarning
        with warnings.catch_warnings(action="ignore", category=experimental):  # heartbeats are
            heartbeats = optuna.storages.RDBStorage(
                url, engine_kwargs=alive, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
        return storage, heartbeats

    def problem(self, reason: str) -> str:
        """Return the message about a store that cannot be read or written."""
        if self.kind == POSTGRESQL:
            return (
                f"cannot read or write the trials in {self.place}: {reason}. If the server or the "
                "network is down, or a name or password is wrong, solve that and give the same "
                "command again"
            )
        if is_lfs_pointer(Path(self.place)):
            return f"{self.place} {LFS_POINTER}"
        return (
            f"cannot read or write the trials in {self.place}: {reason}. If its disk is full "
            "or another process blocks it, solve that and give the same command again; if it is "
            f"corrupt, remove {self.folder}"
        )


def stale_trials(heartbeats: "RDBStorage | None", study_id: int) -> set[int] | None:
    """Return the ids of running trials without a recent heartbeat; None where there are none.

    Optuna's own `fail_stale_trials` would fail them, and its callback begin others with new
    numbers: here a trial keeps its number, its values and its saved state.
    """
    return None if heartbeats is None else set(heartbeats._get_stale_trial_ids(study_id))


@contextmanager
def heartbeat(heartbeats: "RDBStorage | None", trial_id: int) -> Iterator[None]:
    """Record the heartbeat of a trial inside this block, where the storage has one."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    if heartbeats is None:
        yield
        return
    ended = Event()
    heartbeats.record_heartbeat(trial_id)

    def beat() -> None:
        while not ended.wait(heartbeats.heartbeat_interval):
            try:
                heartbeats.record_heartbeat(trial_id)
            except (
                OptunaError,
                SQLAlchemyError,
            ) as error:  # the server may come back; the trial will see if not
                log.warning("no heartbeat of a trial: %s", first_line(error))

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _journal(file: Path) -> Any:
    """Return the backend of a journal whose errors are Optuna's, as those of a database are."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    check_owned(file)
    if file.exists():
        check_regular(file)
        if file.stat().st_size > MAX_STORE:
            raise ValueError(f"it is larger than {MAX_STORE / 1e6:g} MB")

    class Lock(JournalFileOpenLock):
        def acquire(self) -> bool:
            super().acquire()
            try:
                remove_cut_line(file)
            except BaseException:
                self.release()
                raise
            return True

    class Backend(JournalFileBackend):
        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
            try:
                yield from super().read_logs(log_number_from)
            except (OSError, ValueError) as error:
                raise StorageInternalError(first_line(error)) from error

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            try:
                super().append_logs(logs)
            except OSError as error:
                raise StorageInternalError(first_line(error)) from error

    return Backend(str(file), Lock(str(file)))


def remove_cut_line(file: Path) -> None:
    r"""Remove the end of a journal's last line if a kill or a full disk cut it.

    The next line would be joined to it, and the journal could not be read any more. Readers wait
    for the end of a line, so nobody has read it.
    """
    with file.open("r+b") as opened:
        size = position = opened.seek(0, os.SEEK_END)
        while position:
            position = max(0, position - 4096)
            opened.seek(position)
            end = opened.read(min(4096, size - position)).rfind(b"\n")
            if end >= 0:
                position += end + 1
                break
        if position < size:
            opened.truncate(position)
