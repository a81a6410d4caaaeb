"""Processes of a test: one of several that train together, and ones that hold a trial."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from tests.support.paths import ROOT


@contextmanager
def joined(rank: int, world: int, folder: Path) -> Iterator[None]:
    """Be one of several processes on one thread each, which meet in a folder, by gloo."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in where.items()}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # accelerate only reads them
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "rendezvous"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    yield
    dist.destroy_process_group()


@contextmanager
def workers(code: str) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start processes of some code, which print 0 when they hold trial 0; kill them in the end."""
    started: list[subprocess.Popen] = []

    def start(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None and started[-1].stdout.readline().strip() == "0"
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
