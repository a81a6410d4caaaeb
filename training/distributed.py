"""What the processes of one training tell each other.

Words travel over a gloo group of their own: it needs no GPU, and it waits as long as a process
needs to build the feature store, while NCCL gives up after 10 minutes and gloo itself after 30.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from system.errors import InputError, RunError
from system.files import disk_error, make_folder

T = TypeVar("T")
PATIENCE = timedelta(days=30)
PEER_ENDED = "another process of this training ended: its message says why"
VISIBLE_AFTER = 90.0  # seconds until others see a file; NFS may keep an older list for 60


def gather_views(z: Tensor) -> Tensor:
    """Join the views of all processes, so that each utterance of any process is a negative.

    Each process computes the same loss of all views and has the gradient of its own alone; DDP then
    averages, so the own part's gradient is multiplied by the number of processes.

    Shape:
        (B, P) -> (world * B, P)
    """
    if _is_alone():
        return z
    world, rank = dist.get_world_size(), dist.get_rank()
    pieces = [torch.empty_like(z) for _ in range(world)]
    dist.all_gather(pieces, z.detach().contiguous())
    pieces[rank] = z.detach() + world * (z - z.detach())  # value z, gradient world times
    return torch.cat(pieces)


def gather_labels(labels: Tensor) -> Tensor:
    """Join the classes of all processes, in the order of `gather_views`: (B,) -> (world * B,)."""
    if _is_alone():
        return labels
    pieces = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, labels.contiguous())
    return torch.cat(pieces)


def gather_rows(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """Join rows on the CPU of all processes, which may have different numbers: (n, D) -> (N, D)."""
    return rows if accelerator.num_processes == 1 else torch.cat(gather_object([rows]))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give all processes the mean gradient of parameters that DDP does not know."""
    if _is_alone():
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def mean_of_processes(values: Tensor) -> Tensor:
    """Return the mean over all processes, NaN or infinite where one is; call it on all of them.

    Shape:
        (N,) -> (N,)
    """
    if not _is_alone():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def on_any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Return whether the flag is set on any process; call it on all of them."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(int(flag), device=accelerator.device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


@contextmanager
def on_all_processes() -> Iterator[None]:
    """Do something on every process and wait for the slowest; where one fails, all fail alike.

    Raises:
        InputError: The first process that failed did so with it.
        RunError: Likewise, or a process ended without a word.
    """
    error: Exception | None = None
    try:
        yield
    except (InputError, RunError, OSError) as raised:
        if _is_alone():
            raise
        error = raised
    if not _is_alone():
        failed = [said for said in gather(_in_words(error)) if said is not None]
        if failed:
            raise _from_words(failed[0]) from error


def from_first(work: Callable[[], T]) -> T:
    """Do something on the first process alone, and return its result on all.

    Raises:
        InputError: The first process failed with it.
        RunError: Likewise, or it ended without a word.
    """
    if _is_alone():
        return work()
    said: list[Any] = [None, None]
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            said = [work(), None]
        except (InputError, RunError, OSError) as raised:
            error = raised
            said = [None, _in_words(error)]
    with _peers_that_end():
        dist.broadcast_object_list(said, src=0, group=_words_group())
    if isinstance(error, InputError | RunError):
        raise error
    if said[1] is not None:
        raise _from_words(said[1]) from error
    return said[0]


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks, on each of them.

    Raises:
        RunError: A process ended without a word.
    """
    if _is_alone():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    with _peers_that_end():
        dist.all_gather_object(values, value, group=_words_group())
    return values


def check_shared(folder: Path) -> None:
    """Refuse processes that do not see the run folder of the first: they could not train together.

    The first writes a file with a random name, which all must see.

    Raises:
        InputError: Some process does not see it; names folder and machine.
        RunError: It cannot be written.
    """
    if _is_alone():
        return
    token = from_first(lambda: _write_token(folder))
    about = f"{folder.resolve()} on {socket.gethostname()}"
    places = gather((about, _appears(folder / token)))
    if dist.get_rank() == 0:
        (folder / token).unlink(missing_ok=True)
    blind = [f"process {rank} ({place})" for rank, (place, seen) in enumerate(places) if not seen]
    if blind:
        raise InputError(
            f"the processes of one training must share the run folder: {', '.join(blind)} "
            f"{'do' if blind[1:] else 'does'} not see what process 0 wrote to {places[0][0]}: set "
            "run.root to a folder that all machines share"
        )


def check_alike(settings: Mapping[str, Any]) -> None:
    """Refuse processes that were started with different settings: they would wait forever.

    Args:
        settings: What must be equal on all, by name.

    Raises:
        InputError: Something differs; names it with both values.
    """
    every = gather(dict(settings))
    for rank, other in enumerate(every):
        for key in every[0]:
            if other.get(key) != every[0][key]:
                raise InputError(
                    f"the processes of one training must be alike: {key} is {every[0][key]!r} on "
                    f"process 0 and {other.get(key)!r} on process {rank}: start all with the same "
                    "command, code and packages, on the same corpus"
                )


def is_lost_peer(error: RuntimeError) -> bool:
    """Return whether a collective failed because another process ended or went silent."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _write_token(folder: Path) -> str:
    make_folder(folder)
    name = f".token.{uuid4().hex}"
    try:
        (folder / name).touch()
    except OSError as error:
        raise disk_error(f"cannot write {folder / name}", folder, error) from error
    return name


def _appears(path: Path) -> bool:
    """Wait until a file is there; listing its folder makes a network mount look again."""
    end = time.monotonic() + VISIBLE_AFTER
    while True:
        with suppress(OSError):
            if path.name in os.listdir(path.parent):
                return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)


@cache
def _words_group() -> Any:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def _peers_that_end() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo: a connection was closed
        raise RunError(PEER_ENDED) from error


def _in_words(error: Exception | None) -> tuple[bool, str] | None:
    return None if error is None else (isinstance(error, InputError), str(error))


def _from_words(said: Sequence[Any]) -> InputError | RunError:
    return InputError(said[1]) if said[0] else RunError(said[1])


def _is_alone() -> bool:
    together = dist.is_available() and dist.is_initialized()
    return not together or dist.get_world_size() == 1
