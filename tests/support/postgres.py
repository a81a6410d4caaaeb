"""A PostgreSQL server of a test's own, from the binaries of Debian's package."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
USER = "postgres"  # the server refuses to run as root


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server on a socket in a folder of its own; yield the URL of its database."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # the name of a socket must be short
    owner = {}
    if os.geteuid() == 0:
        shutil.chown(folder, USER, USER)
        owner = {"user": USER, "group": USER, "extra_groups": []}
    data, binaries = folder / "data", BINARIES[-1].parent

    def call(name: str, *words: str) -> None:
        command = [str(binaries / name), *words]
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            subprocess.run(command, check=True, cwd="/", stdout=log, stderr=log, **owner)

    try:
        call("initdb", "-D", str(data), "-U", USER, "--auth=trust", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        call("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://{USER}@/{USER}?host={folder}"
        finally:
            call("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
        (folder.parent / f"{folder.name}.log").unlink()
