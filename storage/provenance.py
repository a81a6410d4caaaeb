"""What a result was made with: command, commit, machine, versions."""

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
    """Return, ready for JSON, what the results of this process are made with.

    Args:
        command: The command line.
        device: `run.device`.
    """
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "command": list(command),
        "folder": os.getcwd(),  # where relative paths start
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    """Return the name of the processor as far as the system tells, and what torch uses of it.

    Last bits depend on both, and one name covers processors with and without AVX512.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = named[0] if named else platform.processor() or platform.machine() or "cpu"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def git_commit() -> str | None:
    """Return the commit of the code, with `-dirty` where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None
