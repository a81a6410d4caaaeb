"""What produces a result: command, commit, versions, and the machine of every process."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "accelerate", "numpy", "scipy", "soxr")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")  # of the kernel; WSL has none


def describe_environment(
    command: Sequence[str],
    processes: Sequence[Mapping[str, Any]],
    batch_size: int,
    precision: str,
    deterministic: bool,
    compiler: str | None = None,
) -> dict[str, Any]:
    """Return command, commit, versions and machines of a session, ready for JSON.

    Args:
        command: The command line, as a list of words.
        processes: From `describe_process` on each process, in the order of their ranks.
        batch_size: Utterances of one optimizer step on one process.
        precision: `train.precision`.
        deterministic: `train.deterministic`.
        compiler: What compiled the backbones; None where they run eagerly.
    """
    first = processes[0]
    on_cuda = torch.cuda.is_initialized()
    tf32 = {
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
    }
    return {
        "command": list(command),
        "folder": os.getcwd(),  # relative paths of the config start here
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": first["device"],
        "threads": first["threads"],
        "processes": [dict(process) for process in processes],
        "global_batch": batch_size * len(processes),
        "precision": precision,
        **(tf32 if on_cuda else {}),
        "deterministic": deterministic,
        **({} if compiler is None else {"compiler": compiler}),
        "packages": package_versions(),
    }


def describe_process(device: torch.device) -> dict[str, Any]:
    """Return device, threads and instruction set of this process.

    Args:
        device: Device that it trains on.
    """
    threads = {"threads": torch.get_num_threads()}
    if device.type == "cpu":
        return {"device": processor(), **threads}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    driver = gpu_driver() if device.type == "cuda" else None
    return {"device": name, "driver": driver, "processor": processor(), **threads}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that may change a result."""
    return {name: version(name) for name in PACKAGES}


def gpu_driver() -> str | None:
    """Return the version of the GPU's driver, as its kernel module or nvidia-smi says it."""
    if torch.version.hip is not None:
        module = Path("/sys/module/amdgpu/version")
        return module.read_text(encoding="utf-8").strip() if module.is_file() else None
    with suppress(OSError):
        text = NVIDIA_DRIVER.read_text(encoding="utf-8")
        if found := re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text):
            return found[1]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return said.stdout.split()[0] if said.stdout.split() else None
    return None


def processor() -> str:
    """Return the processor's name and the instruction set that torch uses.

    The last bits of a result depend on both; the same name may have AVX512 or not.
    """
    lines: list[str] = []
    with suppress(OSError):  # not on Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine() or "cpu"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def git_commit() -> str | None:
    """Return the commit of the code, with `-dirty` if files differ; None outside a repository."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or None
