"""Which device computes: the one that `run.device` names, and why it is not a GPU."""

import logging
import os
import re
from typing import NamedTuple

import torch

from system.errors import InputError

log = logging.getLogger(__name__)

CUDA_NAME = re.compile(r"cuda(?::(\d+))?")
NAMES = re.compile(rf"auto|cpu|mps|{CUDA_NAME.pattern}")


class Device(NamedTuple):
    """A device, and why it is not a GPU."""

    name: str  # for `torch.device`
    reason: str = ""


def choose_device(wanted: str, setting: str = "run.device") -> Device:
    """Return the device of this process.

    Args:
        wanted: `run.device`. `auto` takes a CUDA or ROCm GPU, else another accelerator that torch
            offers, else the CPU. Of several processes each takes the GPU of its local rank.
        setting: What names it, for messages.

    Raises:
        InputError: A device that is unknown, not there, or cannot be used; names what is.
    """
    if not NAMES.fullmatch(wanted):
        raise InputError(f"{setting} must be auto, cpu, cuda, cuda:N or mps, got {wanted!r}")
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == "cpu":
        return Device("cpu", "run.device=cpu")
    if wanted == "auto":
        problem = _problem_of_process(n_processes)
        if problem is None:
            return Device("cuda")
        other = torch.accelerator.current_accelerator(check_available=True)
        if n_processes == 1 and other is not None and other.type != "cuda":
            return Device(other.type)
        return Device("cpu", problem)
    if n_processes > 1 and wanted != "cuda":
        raise InputError(
            f"{setting}={wanted} is one device, and {n_processes} processes need one each: give "
            "run.device=cuda or cpu, or start one process"
        )
    problem = _problem_of_mps() if wanted == "mps" else _problem_of_process(n_processes, wanted)
    if problem is not None:
        there = ", ".join(_devices_there())
        raise InputError(f"{setting}={wanted} cannot be used: {problem}; there is: {there}")
    return Device(wanted)


def usable_device(wanted: str) -> str:
    """Return the device for a run that may come from another machine: the one it names, or another.

    Args:
        wanted: `run.device` of the run.
    """
    try:
        return choose_device(wanted).name
    except InputError as error:
        log.info("%s; another device computes", error)
        return choose_device("auto").name


def cuda_problem(index: int = 0) -> str | None:
    """Return why torch cannot use a CUDA or ROCm GPU; None if it can.

    Args:
        index: Index of the GPU among those that the process may use.
    """
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        sentence = str(error).split(". ")[0].splitlines()[0].rstrip(".")
        return f"torch {torch.__version__} says: {sentence}{_hidden()}"
    n = torch.cuda.device_count()
    if index >= n:
        return f"there {'is' if n == 1 else 'are'} {n} GPU{'s' * (n != 1)}{_hidden()}"
    capability = torch.cuda.get_device_capability(index)
    architectures = torch.cuda.get_arch_list()
    if torch.version.hip is None and not has_kernels(capability, architectures):
        return (
            f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name(index)} "
            f"(sm_{capability[0]}{capability[1]}), only for {' '.join(architectures)}: install a "
            "build of torch for this GPU"
        )
    return None


def has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Return whether kernels for some architectures run on a GPU.

    Machine code (sm) runs on the same major version with an equal or larger minor one, PTX
    (compute) on all later versions; code with the suffix `a` on its own version alone.

    Args:
        capability: Compute capability of the GPU, (major, minor).
        architectures: As `torch.cuda.get_arch_list` returns them; without any, nothing is known.

    Source:
        CUDA C++ Programming Guide, "Compute Capability" and "PTX Compatibility".

    >>> has_kernels((8, 9), ["sm_80"]), has_kernels((6, 1), ["sm_75", "sm_80"])
    (True, False)
    >>> has_kernels((9, 0), ["sm_80", "compute_80"]), has_kernels((8, 0), ["sm_86"])
    (True, False)
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in architectures]
    versions = [(m[1], (int(m[2]), int(m[3])), m[4]) for m in found if m]
    return not versions or any(
        version == capability
        if suffix == "a"
        else version <= capability and (kind == "compute" or version[0] == capability[0])
        for kind, version, suffix in versions
    )


def _problem_of_process(n_processes: int, wanted: str = "cuda") -> str | None:
    """Return why this process cannot use its GPU: the one named, or that of its local rank."""
    named = CUDA_NAME.fullmatch(wanted)
    local = int(os.environ.get("LOCAL_RANK", "0")) if n_processes > 1 else 0
    index = int(named[1]) if named and named[1] else local
    problem = cuda_problem(index)
    if problem is not None and index > 0 and n_processes > 1 and cuda_problem() is None:
        here = os.environ.get("LOCAL_WORLD_SIZE", str(n_processes))
        raise InputError(
            f"{here} processes were started on this machine and {problem}: start one for each GPU, "
            "or give run.device=cpu"
        )
    return problem


def _problem_of_mps() -> str | None:
    if torch.backends.mps.is_available():
        return None
    built = torch.backends.mps.is_built()
    return "this machine has no MPS" if built else f"torch {torch.__version__} is built without MPS"


def _devices_there() -> list[str]:
    """Return the values of `run.device` that work here."""
    n = 0
    while cuda_problem(n) is None:
        n += 1
    mps = ["mps"] * torch.backends.mps.is_available()
    return ["cpu", *mps, *(f"cuda:{i}" for i in range(n))]


def _hidden() -> str:
    """Return the variable that chooses GPUs, in brackets, where one is set."""
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return f" ({', '.join(given)})" if given else ""
