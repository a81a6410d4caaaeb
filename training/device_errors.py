"""Errors of a device in words: memory used up, no deterministic form, another process gone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from config.effects import has_effect
from config.image_keys import BACKBONE_BATCH
from config.loading import flatten
from config.schema import Config
from models.compiled import CompileFailed, compile_failure
from system.errors import RunError, is_out_of_memory
from system.signals import Stop
from training.distributed import PEER_ENDED, is_lost_peer

NOT_DETERMINISTIC = "does not have a deterministic implementation"
CUBLAS = "is not deterministic because it uses CuBLAS"  # with a workspace that the user has set


class OutOfMemory(RunError):
    """The memory of a device is used up."""


@contextmanager
def explain_device_errors(
    config: Config, device: torch.device, stop: Stop | None = None
) -> Iterator[None]:
    """Turn an error of the device into one message that says what to change.

    Args:
        config: Config of the training.
        device: Device that computes.
        stop: Flag of signals; one that has ended the compiler's processes, too, is no failure.

    Raises:
        KeyboardInterrupt: The process was asked to end while it compiled.
        OutOfMemory: Its memory is used up.
        RunError: An operation has no deterministic form, and `train.deterministic` asks for one;
            or another process of the training ended.
    """
    try:
        yield
    except RunError as error:
        if isinstance(error, CompileFailed):
            raise _interrupt_or(error, stop) from error.__cause__
        raise
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and is_lost_peer(error):
            raise RunError(PEER_ENDED) from error
        if (failure := compile_failure(error)) is not None:
            raise _interrupt_or(failure, stop) from error
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        if is_out_of_memory(error):
            raise OutOfMemory(_ways_on(config, device, first_line)) from error
        if CUBLAS in str(error):
            raise RunError(
                "train.deterministic=true, and CUBLAS_WORKSPACE_CONFIG="
                f"{os.environ.get('CUBLAS_WORKSPACE_CONFIG')} leaves cuBLAS no deterministic form: "
                "unset it, so that training sets :4096:8, and give the same command again"
            ) from error
        if NOT_DETERMINISTIC in first_line:
            raise RunError(
                f"train.deterministic=true, and on {device} {first_line.split(', but')[0]}: give "
                "train.deterministic=false, which warns of it, or choose another backbone. What "
                "was saved is kept; another value needs another `name` or --overwrite"
            ) from error
        raise


def _interrupt_or(failure: CompileFailed, stop: Stop | None) -> BaseException:
    return failure if stop is None or not stop.requested else stop.interrupt()


def _ways_on(config: Config, device: torch.device, first_line: str) -> str:
    train, model = config.train, config.model
    values = flatten(config.model_dump())
    has_images = has_effect(values, "model.image_size")
    half = max(2, train.batch_size // 2)
    n_step = train.batch_size * train.accumulate
    ways = []
    if half < train.batch_size:
        accumulate = round(n_step / half)
        same = "as many" if half * accumulate == n_step else f"{half * accumulate} for {n_step}"
        contrast = " (NT-Xent then has fewer negatives)" if "contrastive" in model.fusion else ""
        ways.append(
            f"train.batch_size={half} with train.accumulate={accumulate}, {same} utterances a step"
            f"{contrast}"
        )
    chunk = train.backbone_batch or train.batch_size
    if chunk >= 4 and has_effect(values, BACKBONE_BATCH):
        ways.append(
            f"train.backbone_batch={chunk // 2}, the same step with the backbones in chunks: more "
            "time, and batch norms that see a chunk"
        )
    if train.precision != "bfloat16" and device.type != "cpu":
        ways.append("train.precision=bfloat16")
    if not train.gradient_checkpointing and has_effect(values, "train.gradient_checkpointing"):
        eager = " with train.compile=false" if train.compile else ""
        where = ", where both backbones have blocks (MaxViT, MViTv2, ViT, Swin)" * has_images
        ways.append(
            f"train.gradient_checkpointing=true{eager}, more time with equal results{where}"
        )
    if has_images:
        ways.append("a smaller backbone or model.image_size")
    ways.append("more processes or a larger device")
    return (
        f"out of memory on {device} with train.batch_size={train.batch_size}, "
        f"train.accumulate={train.accumulate}, train.precision={train.precision}: {first_line}. "
        f"Ways on: {'; '.join(ways)}. The last saved state is kept: where more memory is free, the "
        "same command resumes; another config needs another `name` or --overwrite"
    )
