"""The device of `run.device`: taken where it works, refused with what is there, explained."""

import pytest
import torch

from system import devices
from system.devices import choose_device, cuda_problem
from system.errors import InputError, is_out_of_memory

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
DRIVER_TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version"
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch) -> None:
    for name in (*VARIABLES, "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see GPUs of some compute capabilities."""

    def see(*capabilities: tuple[int, int], built_for: str = "sm_75 sm_80 sm_90") -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
        monkeypatch.setattr(torch.cuda, "get_arch_list", built_for.split)

    return see


@pytest.fixture
def no_gpu(monkeypatch):
    """Let CUDA refuse to start with some words."""

    def refuse(words: str) -> None:
        def init() -> None:
            raise RuntimeError(words)

        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "init", init)

    return refuse


@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:0", "cuda:1"])
def test_a_gpu_that_works_is_taken(gpus, wanted: str) -> None:
    gpus((9, 0), (8, 6))
    assert choose_device(wanted) == ("cuda" if wanted == "auto" else wanted, "")


def test_a_machine_without_a_driver_trains_on_the_cpu_and_says_why(no_gpu) -> None:
    no_gpu("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")
    version = torch.__version__
    reason = f"torch {version} says: Found no NVIDIA driver on your system"
    assert choose_device("auto") == ("cpu", reason)
    with pytest.raises(InputError, match="run.device=cuda cannot be used: .*; there is: cpu$"):
        choose_device("cuda")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:one", "cuda:", ""])
def test_an_unknown_device_is_refused_in_the_words_of_its_option(wanted: str) -> None:
    with pytest.raises(InputError, match=f"device must be auto, cpu, .*, got '{wanted}'$"):
        choose_device(wanted, "device")


def test_a_driver_that_is_too_old_is_named_with_its_version(no_gpu) -> None:
    no_gpu(DRIVER_TOO_OLD)
    assert "driver on your system is too old (found version 11040)" in choose_device("auto").reason


def test_variables_that_hide_gpus_are_named(no_gpu, monkeypatch) -> None:
    no_gpu("No CUDA GPUs are available")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert choose_device("auto").reason.endswith("available (CUDA_VISIBLE_DEVICES=7)")


def test_a_torch_without_cuda_says_so(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_device("auto").reason == f"torch {torch.__version__} is built without CUDA"


def test_a_gpu_for_which_torch_has_no_kernels_is_not_taken(gpus) -> None:
    gpus((6, 1))
    name, reason = choose_device("auto")
    assert name == "cpu"
    assert "no kernels for card 0 (sm_61), only for sm_75 sm_80 sm_90" in reason
    with pytest.raises(InputError, match="run.device=cuda:0 cannot be used: .*sm_61"):
        choose_device("cuda:0")


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(gpus) -> None:
    gpus((9, 0))
    with pytest.raises(InputError, match="cuda:1 cannot be used: there is 1 GPU; .* cpu, cuda:0$"):
        choose_device("cuda:1")


def test_mps_is_taken_on_a_mac_and_refused_elsewhere(monkeypatch) -> None:
    with pytest.raises(InputError, match="run.device=mps cannot be used: .* there is: cpu"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps").name == "mps"
    mps = torch.device("mps")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: mps)
    assert choose_device("auto").name == "mps"


def test_each_of_several_processes_needs_a_gpu(gpus, monkeypatch) -> None:
    gpus((9, 0), (9, 0))
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto").name == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "2")
    for wanted in ("auto", "cuda"):
        with pytest.raises(InputError, match="3 processes were started .* there are 2 GPUs"):
            choose_device(wanted)


@pytest.mark.parametrize("wanted", ["cuda:0", "mps"])
def test_one_device_does_not_serve_several_processes(gpus, monkeypatch, wanted: str) -> None:
    gpus((9, 0))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=f"run.device={wanted} is one device, and 2 processes"):
        choose_device(wanted)


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 0), "sm_80", True),
        ((8, 9), "sm_80", True),  # machine code runs on later minor versions
        ((8, 0), "sm_86", False),  # and not on earlier ones
        ((9, 0), "sm_80", False),  # nor on another major one
        ((9, 0), "sm_80 compute_80", True),  # PTX is compiled for it
        ((7, 5), "compute_80", False),
        ((10, 0), "sm_90 sm_100", True),
        ((9, 0), "sm_90a", True),
        ((12, 1), "sm_120a", False),
        ((6, 1), "", True),  # nothing is known
    ],
)
def test_kernels_run_on_compatible_gpus(capability, built_for: str, runs: bool) -> None:
    assert devices.has_kernels(capability, built_for.split()) is runs


def test_rocm_has_no_compute_capability(gpus, monkeypatch) -> None:
    gpus((6, 1), built_for="gfx90a")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert cuda_problem() is None


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 17 GB, max allowed: 18 GB)"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_recognised(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
