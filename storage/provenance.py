"""What produced a result: command, commit, machine, versions."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "accelerate", "numpy", "scipy", "soxr")


def describe_environment(command: Sequence[str], device: str) -> dict[str, Any]:
    """Return command, commit, machine and versions of this process, ready for JSON.

    Args:
        command: The command line, as a list of words.
        device: Value of `run.device`.
    """
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "command": list(command),
        "folder": os.getcwd(),  # relative paths of the config start here
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """Return the processor's name and the instruction set that torch uses.

    The last bits of a result depend on both; the same name may have AVX512 or not.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
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
