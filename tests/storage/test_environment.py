"""environment.json keeps every session; what differs is named, and older files are read."""

import json
import logging
from pathlib import Path

import pytest
import torch

from storage import provenance
from storage.environment import (
    changes,
    distinct_facts,
    facts,
    made_with_facts,
    made_with_notes,
    read_environment,
    record_environment,
    sessions,
)
from storage.provenance import describe_environment, describe_process, gpu_driver
from system.errors import RunError

OLD = {  # as an earlier version wrote it
    "command": ["train.py"],
    "folder": "/there",
    "git_commit": "abc",
    "python": "3.11.9",
    "platform": "Linux",
    "device": "Xeon (AVX2)",
    "threads": 4,
    "packages": {"torch": "2.11.0", "timm": "1.0.31"},
    "seconds": 5.0,
}


def session(threads: int = 1, n: int = 1, torch_version: str = "2.14.1", **facts_of) -> dict:
    processes = [{"device": "Xeon (AVX512)", "threads": threads} for _ in range(n)]
    made = {"command": ["train.py"], "git_commit": "abc", "python": "3.11.9"}
    made |= {"device": "Xeon (AVX512)", "threads": threads, "processes": processes}
    made |= {"global_batch": 8 * n, "precision": "float32", "deterministic": False}
    return {**made, "packages": {"torch": torch_version, "timm": "1.0.31"}, **facts_of}


def test_every_process_is_described(monkeypatch) -> None:
    here = describe_process(torch.device("cpu"))
    assert here["threads"] == torch.get_num_threads()
    assert torch.backends.cpu.get_cpu_capability() in here["device"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H200 {device.index}")
    monkeypatch.setattr(provenance, "gpu_driver", lambda: "580.1")
    there = describe_process(torch.device("cuda:1"))
    assert there == {"driver": "580.1", "processor": here["device"], **here, "device": "H200 1"}
    made = describe_environment(["x.py"], [there, here], 16, "bfloat16", True)
    assert made["processes"] == [there, here] and made["global_batch"] == 32
    assert (made["device"], made["threads"]) == ("H200 1", here["threads"])
    assert (made["precision"], made["deterministic"]) == ("bfloat16", True)
    assert {"torch", "timm"} <= made["packages"].keys()
    assert "tf32_matmul" not in made
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    made = describe_environment(["x.py"], [there], 16, "float32", False)
    assert made["tf32_matmul"] is torch.backends.cuda.matmul.allow_tf32
    assert made["tf32_cudnn"] is torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:05:04 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
    ],
)
def test_the_driver_is_read_from_the_kernel(tmp_path: Path, monkeypatch, text: str) -> None:
    (tmp_path / "version").write_text(f"{text}\nGCC version:  gcc version 12.2.0\n")
    monkeypatch.setattr(provenance, "NVIDIA_DRIVER", tmp_path / "version")
    assert gpu_driver() == "580.65.06"


def test_without_the_kernels_file_nvidia_smi_is_asked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(provenance, "NVIDIA_DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_driver() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    tool.chmod(0o755)
    assert gpu_driver() == "580.65.06"


def test_sessions_are_kept_and_changes_logged(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    first, second = session(threads=1), session(threads=2, n=2, torch_version="2.15.0")
    record_environment(tmp_path, first)
    record_environment(tmp_path, first)  # resumed as before
    assert not caplog.messages and "earlier" not in read_environment(tmp_path, None)
    record_environment(tmp_path, second)
    (message,) = caplog.messages
    assert message == (
        f"{tmp_path} goes on with other settings than before: processes 1 before, 2 now; "
        "global batch 8 before, 16 now; threads 1 before, 2 now; torch 2.14.1 before, 2.15.0 now"
    )
    made = record_environment(tmp_path, {**second, "seconds": 2.0})
    assert (
        made == read_environment(tmp_path, None) == {**second, "seconds": 2.0, "earlier": [first]}
    )
    assert sessions(made) == [first, second]
    assert made_with_facts(made) == [facts(first), facts(second)]
    for machine in (first, second, first):  # back and forth: the order stays, the list is bounded
        record_environment(tmp_path, machine)
        assert sessions(read_environment(tmp_path, None)) == [first, second, machine][:3]


def test_an_earlier_version_of_the_file_is_kept_as_a_session(tmp_path: Path, caplog) -> None:
    (tmp_path / "environment.json").write_text(json.dumps(OLD))
    assert facts(read_environment(tmp_path, None)) == {
        "python": "3.11.9",
        "device": ["Xeon (AVX2)"],
        "threads": [4],
        "torch": "2.11.0",
        "timm": "1.0.31",
    }
    made = record_environment(tmp_path, session(threads=4))
    assert made["earlier"] == [{k: v for k, v in OLD.items() if k != "seconds"}]
    assert "device Xeon (AVX2) before, Xeon (AVX512) now; torch 2.11.0 before" in caplog.text


def test_each_process_counts() -> None:
    one, other = session(n=2), session(n=2)
    other["processes"] = [other["processes"][0], {**other["processes"][1], "threads": 3}]
    assert changes(one, other) == "threads 1 before, 1, 3 now"
    assert changes(one, one) == ""


@pytest.mark.parametrize(
    "wrong",
    [{"earlier": 1}, {"earlier": [1]}, {"processes": [1]}, {"earlier": [{"command": "x"}]}],
)
def test_a_corrupt_list_of_sessions_is_refused(tmp_path: Path, wrong: dict) -> None:
    (tmp_path / "environment.json").write_text(json.dumps(session() | wrong))
    with pytest.raises(RunError, match=f"remove {tmp_path}/environment.json"):
        record_environment(tmp_path, session())


def test_notes_name_what_differs_within_a_run_and_between_runs() -> None:
    mixed = {**session(threads=2), "earlier": [session(threads=1)]}
    made_with = {
        "a": distinct_facts([mixed, session(threads=1)]),
        "b": distinct_facts([session(threads=1, tf32_cudnn=True)]),
        "c": distinct_facts([OLD, session(threads=1, tf32_cudnn=False, precision="bfloat16")]),
        "old": {},
    }
    assert made_with_notes({"b": made_with["b"], "old": {}}) == []
    notes = made_with_notes(made_with)
    assert "Folds of a were made with different settings: threads 1 and 2." in notes
    assert any(note.startswith("Folds of c were made with different settings: ") for note in notes)
    assert "The runs were made with different threads: a 1 and 2; b 1; c 1 and 4." in notes
    assert "The runs were made with different TF32 in cuDNN: b on; c off." in notes
    assert not any("precision" in note for note in notes)  # a key of the config
