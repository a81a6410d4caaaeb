"""The compiler behind torch.compile: whether the machine has one, and where graphs are kept."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def compiler_problem(device: str) -> str | None:
    """Return what torch lacks on this machine to compile for a device; None if nothing.

    Args:
        device: Type of the device: cpu, cuda, mps.
    """
    if device not in ("cpu", "cuda"):
        return f"torch compiles for CPUs and CUDA or ROCm GPUs, not for {device}"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed, which compiles for GPUs"
    names = _compilers(device)
    if not any(shutil.which(name) for name in names):
        variable = "CC" if device == "cuda" else "CXX"
        return f"there is no compiler ({' or '.join(names)}): install one, or name it in {variable}"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"{header} is missing: install the development files of Python (python3-dev)"
    return None


def compiler_version(device: str) -> str:
    """Return the compiler, on which the last bits of compiled graphs depend.

    Args:
        device: Type of a device for which `compiler_problem` finds nothing.
    """
    if device == "cuda":
        return f"triton {importlib.metadata.version('triton')}"
    name = next((name for name in _compilers(device) if shutil.which(name)), "none")
    try:
        said = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return name
    return (said.stdout.splitlines() or [name])[0]


def use_compile_cache(folder: Path) -> None:
    """Let torch.compile keep its graphs in a folder, and find those of other processes there.

    Entries are named by what they are made from and written atomically, so that several processes
    may share the folder. What lies there is executed.
    """
    place = str(folder.absolute())
    if os.environ.get(CACHE_VARIABLE) == place:
        return
    os.environ[CACHE_VARIABLE] = place
    if "torch._inductor.utils" in sys.modules:  # it remembers the folder
        sys.modules["torch._inductor.utils"].clear_caches()


def _compilers(device: str) -> list[str]:
    """Return the names of the compilers that torch, or Triton, looks for."""
    if device == "cuda":
        return [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    return [os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")]
