"""What a result was made with: command, commit, machine, versions."""

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
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _git_commit() -> str | None:
    """Return the commit of the code, with `-dirty` where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None
