"""Processes of a test: one of several that train together, a whole run, ones that hold a trial."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import torch
import torch.distributed as dist

from tests.support.paths import ROOT

START = "import sys; sys.path.insert(0, {root!r}); import training.distributed as d\n"
START += "d.VISIBLE_AFTER = 1.0\n{patch}\nimport train_gmu; sys.exit(train_gmu.main({argv!r}))"
PATIENCE = 400  # seconds, below the 1800 after which gloo ends a collective


def train_on(
    recipe: Path, folder: Path, roots: Sequence[str], *words: str, patches: Sequence[str] = ()
) -> list[tuple[str, int]]:
    """Run `train_gmu.py` as one process for each root, without a launcher that would end them.

    Args:
        recipe: YAML config.
        folder: Current folder of the processes.
        roots: `run.root` of each process, as if on a machine of its own.
        words: More arguments.
        patches: Code that each process executes first.

    Returns:
        Output and exit status of each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank, (root, patch) in enumerate(zip_longest(roots, patches, fillvalue="")):
        argv = ["--config", str(recipe), f"run.root={root}", *words]
        code = START.format(root=str(ROOT), patch=patch, argv=argv)
        where = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": len(roots), "LOCAL_WORLD_SIZE": 1}
        where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {name: str(value) for name, value in where.items()}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        return [(p.communicate(timeout=PATIENCE)[0], p.returncode) for p in processes]
    finally:
        for process in processes:
            process.kill()


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
