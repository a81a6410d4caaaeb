"""Whether a machine can compile, and where compiled graphs are kept."""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

import pytest

from system import compilers
from system.compilers import CACHE_VARIABLE, compiler_problem, compiler_version, use_compile_cache


@pytest.fixture
def tools(tmp_path: Path, monkeypatch) -> Path:
    """A machine with g++ and the headers of Python, and no other program."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("g++", "gcc", "clang++"):
        (folder / name).write_text("#!/bin/sh\necho some compiler 1.2\necho more\n")
        (folder / name).chmod(0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return folder


def test_a_machine_with_compiler_and_headers_can_compile(tools: Path) -> None:
    assert compiler_problem("cpu") is None
    assert compiler_version("cpu") == "some compiler 1.2"


def test_what_is_missing_is_named(tools: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (tools / "g++").unlink()
    assert "no compiler (g++)" in compiler_problem("cpu")
    assert "name it in CXX" in compiler_problem("cpu")
    monkeypatch.setenv("CXX", str(tools / "clang++"))
    assert compiler_problem("cpu") is None
    (tools.parent / "Python.h").unlink()
    assert "python3-dev" in compiler_problem("cpu")


def test_a_gpu_needs_triton_and_a_c_compiler(tools: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton" in compiler_problem("cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton")
    assert compiler_problem("cuda") is None
    (tools / "gcc").unlink()
    assert "no compiler (gcc or clang)" in compiler_problem("cuda")
    assert "mps" in compiler_problem("mps")


def test_graphs_are_kept_in_the_folder_that_was_named_last(tmp_path: Path, monkeypatch) -> None:
    from torch._inductor.codecache import FxGraphCache

    monkeypatch.setenv(CACHE_VARIABLE, "")
    for name in ("one", "two"):
        use_compile_cache(tmp_path / name)
        assert os.environ[CACHE_VARIABLE] == str(tmp_path / name)
        assert Path(FxGraphCache._get_tmp_dir()).is_relative_to(tmp_path / name)
    assert compilers.CACHE_VARIABLE == "TORCHINDUCTOR_CACHE_DIR"
