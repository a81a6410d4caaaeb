"""Errors of a device end in one message with ways on; determinism is asked for as documented."""

import os
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from system.errors import RunError
from tests.support.runs import run_experiment, without_images
from training import engine, fold
from training import session as session_module
from training.device_errors import OutOfMemory, explain_device_errors
from training.session import choose_deterministic, choose_tf32, has_tf32, make_accelerator

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
OUT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10 GiB"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(OUT),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.94 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_settings_and_the_ways_on(tiny: Callable, error) -> None:
    config = tiny("train.batch_size=12", "model.fusion=gmu_contrastive")
    with pytest.raises(OutOfMemory) as raised, explain_device_errors(config, CUDA):
        raise error
    words = str(raised.value)
    assert "on cuda with train.batch_size=12, train.accumulate=1, train.precision=float32" in words
    assert "train.batch_size=6 with train.accumulate=2" in words and "fewer negatives" in words
    assert "train.precision=bfloat16" in words and "state is kept" in words
    assert "train.gradient_checkpointing=true" in words and "train.backbone_batch=6," in words
    assert "\n" not in words and raised.value.__cause__ is error


def test_the_number_of_utterances_a_step_is_said_where_it_changes(tiny: Callable) -> None:
    for size, accumulate, words in (
        (3, 4, "2 with train.accumulate=6, as many"),
        (15, 1, "7 with train.accumulate=2, 14 for 15"),
        (5, 3, "2 with train.accumulate=8, 16 for 15"),
    ):
        config = tiny(f"train.batch_size={size}", f"train.accumulate={accumulate}")
        with pytest.raises(OutOfMemory, match=f"batch_size={words} utterances a step"):
            with explain_device_errors(config, CUDA):
                raise MemoryError


def test_a_workspace_of_cublas_that_is_not_deterministic_is_named(tiny, monkeypatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    words = "Deterministic behavior was enabled with `x`, but this operation is not deterministic "
    with pytest.raises(RunError, match="CUBLAS_WORKSPACE_CONFIG=:0:0 leaves .* unset it"):
        with explain_device_errors(tiny("train.deterministic=true"), CUDA):
            raise RuntimeError(f"{words}because it uses CuBLAS and you have CUDA >= 10.2. To")


def test_ways_that_are_taken_already_are_not_advised(tiny: Callable) -> None:
    recompute = "train.gradient_checkpointing=true"
    config = tiny("train.batch_size=2", "train.precision=bfloat16", recompute)
    with pytest.raises(OutOfMemory) as raised, explain_device_errors(config, CUDA):
        raise torch.OutOfMemoryError(OUT)
    ways = str(raised.value).partition("Ways on")[2]
    for taken in ("batch_size", "backbone_batch", "bfloat16", "gradient_checkpointing"):
        assert taken not in ways
    assert "image_size" in ways
    config = tiny("train.batch_size=12", "train.backbone_batch=4")
    with pytest.raises(OutOfMemory, match="train.backbone_batch=2,"):
        with explain_device_errors(config, CUDA):
            raise torch.OutOfMemoryError(OUT)


@pytest.mark.parametrize(
    ("words", "advised"),
    [
        (("file", "model.vectors=v.npz"), ()),
        (("speech", "model.speech.model=m"), ()),
        (("speech", "model.speech.model=m", "model.speech.pooling=attention"), ("backbone_batch",)),
        (
            ("speech", "model.speech.model=m", "model.speech.lora_rank=2"),
            ("backbone_batch", "gradient_checkpointing"),
        ),
    ],
)
def test_no_way_is_advised_that_would_be_refused(tiny: Callable, words, advised) -> None:
    config = tiny(*without_images(words[0]), *words[1:])
    with pytest.raises(OutOfMemory) as raised, explain_device_errors(config, CUDA):
        raise MemoryError
    ways = str(raised.value).partition("Ways on")[2]
    for key in ("backbone_batch", "gradient_checkpointing", "image_size", "MaxViT"):
        assert (key in ways) == (key in advised)


def test_other_errors_stay_as_they_are(tiny: Callable) -> None:
    for error in (RuntimeError("shapes do not fit"), RunError("a disk is out of memory")):
        with pytest.raises(type(error)) as raised, explain_device_errors(tiny(), CUDA):
            raise error
        assert raised.value is error


def test_an_operation_without_a_deterministic_form_is_named(tiny: Callable) -> None:
    words = "put_ does not have a deterministic implementation, but you set 'torch.use_determin..."
    with pytest.raises(RunError, match="put_ does not have .* give train.deterministic=false"):
        with explain_device_errors(tiny(), CUDA):
            raise RuntimeError(words)


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError("NCCL communicator was aborted"),
        RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
    ],
)
def test_a_process_that_is_gone_is_named(tiny: Callable, error) -> None:
    with pytest.raises(RunError, match="another process of this training ended"):
        with explain_device_errors(tiny(), CUDA):
            raise error


def test_a_run_out_of_memory_keeps_its_state_and_the_same_command_resumes(
    tiny: Callable, monkeypatch
) -> None:
    steps = []

    def step(*args):
        steps.append(args)
        if len(steps) == 5:  # in the second epoch
            raise torch.OutOfMemoryError(OUT)
        return train_step(*args)

    train_step = engine.train_step
    monkeypatch.setattr(engine, "train_step", step)
    with pytest.raises(RunError, match="out of memory on cpu"):
        run_experiment(tiny("train.checkpoint_epochs=1"), [])
    run = run_experiment(tiny("train.checkpoint_epochs=1"), [])
    assert len(steps) == 5 + 3  # the second epoch alone is repeated
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 1


def test_strict_determinism_is_an_error_and_the_default_warns(tiny: Callable) -> None:
    mode = torch.get_deterministic_debug_mode  # 1 warns, 2 is an error
    try:
        for strict in (True, False):
            make_accelerator(tiny(f"train.deterministic={str(strict).lower()}"))
            assert mode() == (2 if strict else 1)
            assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        choose_deterministic(False, CPU)


@pytest.mark.parametrize(
    ("precision", "products", "convolutions"),
    [("float32", "highest", False), ("tf32", "high", True), ("bfloat16", "highest", False)],
)
@pytest.mark.parametrize("card", [True, False])
def test_precision_holds_for_products_and_convolutions_alike(
    tiny: Callable,
    caplog,
    monkeypatch,
    precision: str,
    products: str,
    convolutions: bool,
    card: bool,
) -> None:
    monkeypatch.setattr(session_module, "has_tf32", lambda device: card)
    if not card:
        products, convolutions = "highest", False
    try:
        accelerator = make_accelerator(tiny(f"train.precision={precision}"))
        assert torch.get_float32_matmul_precision() == products
        assert torch.backends.cuda.matmul.allow_tf32 is convolutions
        assert torch.backends.cudnn.allow_tf32 is convolutions
    finally:
        choose_tf32(False)
    assert accelerator.mixed_precision == ("bf16" if precision == "bfloat16" else "no")
    said = "train.precision=tf32: this device has no TF32 and computes in float32"
    assert (said in caplog.messages) is (precision == "tf32" and not card)


def test_tf32_is_what_ampere_and_later_cards_have(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert has_tf32(CUDA) is expected
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not has_tf32(CUDA) and not has_tf32(CPU)


def test_attention_on_cuda_is_deterministic_in_both_modes(monkeypatch) -> None:
    """Fused attention is so in strict mode alone; on a CPU nothing is changed."""
    chosen: dict[str, bool] = {}
    for name in ("flash", "mem_efficient", "cudnn"):
        monkeypatch.setattr(
            torch.backends.cuda,
            f"enable_{name}_sdp",
            lambda on, name=name: chosen.update({name: on}),
        )
    choose_deterministic(False, CPU)
    assert not chosen
    choose_deterministic(False, CUDA)
    assert chosen == {"flash": False, "mem_efficient": False, "cudnn": False}
    choose_deterministic(True, CUDA)
    assert chosen == {"flash": True, "mem_efficient": True, "cudnn": True}
    choose_deterministic(False, CPU)


def test_cublas_is_told_before_cuda_starts(tiny: Callable, monkeypatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []
    choose = session_module.choose_device

    def watch(wanted: str):
        seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        return choose(wanted)

    monkeypatch.setattr(session_module, "choose_device", watch)
    make_accelerator(tiny())
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own stays
    make_accelerator(tiny())
    assert seen == [":4096:8", ":16:8"]


def test_the_device_is_logged_with_the_reason(tiny: Callable, monkeypatch, caplog) -> None:
    caplog.set_level("INFO", "training.session")
    reason = "torch 2.0 says: Found no NVIDIA driver on your system"
    device = session_module.choose_device("cpu")._replace(reason=reason)
    monkeypatch.setattr(session_module, "choose_device", lambda wanted: device)
    make_accelerator(tiny("run.device=auto"))
    (line,) = caplog.messages
    assert line.startswith("device: cpu (") and line.endswith(
        f", float32, 1 thread; no GPU: {reason}"
    )


def test_the_ledger_has_a_test_only_when_it_took_place(tiny: Callable, monkeypatch) -> None:
    """A crash in the test pass leaves no line; one behind the line leaves it, and adds another."""
    config, calls = tiny("train.epochs=1"), []
    evaluate = fold.evaluate

    def crash_in_test(*args):
        calls.append(args)
        if len(calls) == 2:  # dev, then test
            raise ZeroDivisionError
        return evaluate(*args)

    def lines() -> int:
        file = session_module.Path(config.run.root) / "tiny" / "ledger.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(fold, "evaluate", crash_in_test)
        run_experiment(config, [])
    assert lines() == 0
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(fold, "write_predictions", lambda *args: 1 / 0)
        run_experiment(config, [])
    assert lines() == 1
    run_experiment(config, [])
    assert lines() == 2


def test_a_resume_with_other_threads_is_logged_recorded_and_in_the_summary(
    tiny: Callable, monkeypatch, caplog
) -> None:
    steps = []

    def stop_in_second_epoch(*args):
        steps.append(args)
        if len(steps) == 4:
            raise ZeroDivisionError
        return train_step(*args)

    train_step = engine.train_step
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(engine, "train_step", stop_in_second_epoch)
        run_experiment(tiny(), ["train.py"])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        run = run_experiment(tiny(), ["train.py"])
    fold_folder = run / "folds" / "fold-1_seed-0"
    for folder in (run, fold_folder):
        words = f"{folder} goes on with other settings than before: threads 1 before, 7 now"
        assert words in caplog.messages
    summary = (run / "summary.md").read_text()
    assert "Folds of tiny were made with different settings: threads 1 and 7." in summary
