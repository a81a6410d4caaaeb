"""Backbones as graphs of torch.compile, one for each size of a batch that is known before training.

A batch is computed by a graph where its size is one of the training batches' (exactly: batch norms
take no padding), or in evaluation where it is at most that of an evaluation batch, to which it is
padded with zeros that are cut off again. All other batches run eagerly. So the config and the split
decide which batches run compiled, never what ran before them: a resumed training repeats the bits
of one that was never interrupted.

The compiler is told to
- draw random numbers as eager code does (`fallback_random`), so that both draw the same,
- make one graph or fail (`fullgraph`), with static sizes (`dynamic=False`),
- leave out a fusion of reductions that dropped gradients in torch 2.10 to 2.13
  (`triton.mix_order_reduction`).
torch's deterministic mode, which every training sets, keeps it from choosing kernels by timing.
"""

import functools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.compilers import CACHE_VARIABLE
from system.errors import RunError

Encode = Callable[[nn.Module, Tensor], Tensor]  # a backbone and its images to features

BACKEND = "inductor"
OPTIONS = {"fallback_random": True, "triton.mix_order_reduction": False}
MOST_GRAPHS = 1024  # of a process; torch would silently run eagerly after 8
OF_COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch")  # modules of its errors

log = logging.getLogger(__name__)


class CompileFailed(RunError):
    """torch cannot compile a backbone."""


class Cost(NamedTuple):
    """What compiling has cost: forward and backward are graphs of their own."""

    seconds: float
    compiled: int  # graphs that were not in the cache
    cached: int  # graphs that were

    def since(self, before: "Cost") -> "Cost":
        """Return what was added to an earlier cost."""
        return Cost(
            self.seconds - before.seconds,
            self.compiled - before.compiled,
            self.cached - before.cached,
        )


@dataclass(frozen=True)
class Graphs:
    """Computes backbones by graphs, in batches of known sizes.

    Args:
        train_sizes: Utterances of the training batches, or of the chunks in which gradient caching
            takes them.
        eval_size: Crops of an evaluation batch.
        chunked: Training also computes without gradients, see `training.gradient_cache`.
    """

    train_sizes: frozenset[int] = frozenset()
    eval_size: int = 0
    chunked: bool = False

    def encode(self, encode: Encode, backbone: nn.Module, images: Tensor) -> Tensor:
        """Return a backbone's features, by a graph where there is one for this batch.

        Args:
            encode: Function of a module, by which its graphs are found.
            backbone: The network.
            images: (B, C, H, W)

        Raises:
            RunError: torch cannot compile it.
        """
        n = len(images)
        if backbone.training:
            wanted = self.chunked or torch.is_grad_enabled()
            if not wanted or n not in self.train_sizes:
                return encode(backbone, images)
            return _run(encode, backbone, images)
        if not 0 < n <= self.eval_size:
            return encode(backbone, images)
        padding = self.eval_size - n
        return _run(encode, backbone, F.pad(images, [0] * 7 + [padding]) if padding else images)[:n]


def _run(encode: Encode, backbone: nn.Module, images: Tensor) -> Tensor:
    shape = images.shape
    images = images.flatten().view(shape)  # strides that follow from the shape, as guards ask
    try:
        return _compiled(encode, BACKEND)(backbone, images)
    except Exception as error:
        if (failure := compile_failure(error)) is not None:
            raise failure from error
        raise


@functools.cache
def _compiled(encode: Encode, backend: str) -> Encode:
    """Return a function as compiled graphs; they serve all networks of the same form."""
    import torch._dynamo  # slow

    config: Any = torch._dynamo.config
    config.recompile_limit = config.accumulated_recompile_limit = MOST_GRAPHS
    config.fail_on_recompile_limit_hit = True
    config.optimize_ddp = False  # it would cut the graphs at the buckets of DDP
    _clock()
    options: Any = {"options": OPTIONS} if backend == "inductor" else {}
    made: Encode = torch.compile(encode, fullgraph=True, dynamic=False, backend=backend, **options)
    return made


def compile_failure(error: BaseException) -> CompileFailed | None:
    """Return what to say of an error of the compiler; None for an error of another kind."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    if not any(type(e).__module__.startswith(OF_COMPILER) for e in chain):
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if not line.endswith("raised:")), type(error).__name__)
    return CompileFailed(
        f"train.compile=true: torch cannot compile ({said}): give "
        "train.compile=false, or choose another backbone"
    )


class CompileClock:
    """What compiling has cost this process."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.told = Cost(0.0, 0, 0)
        self._start = 0.0
        self.register()

    def register(self) -> None:
        """Let the compiler say when it begins and ends."""
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._begin)
        callback_handler.register_end_callback(self._end)

    def read(self) -> Cost:
        """Return the cost until now."""
        from torch._dynamo.utils import counters

        found = counters["inductor"]
        return Cost(self.seconds, found["fxgraph_cache_miss"], found["fxgraph_cache_hit"])

    def _begin(self, about: Any) -> None:
        self._start = time.perf_counter()

    def _end(self, about: Any) -> None:
        self.seconds += time.perf_counter() - self._start


@functools.cache
def _clock() -> CompileClock:
    return CompileClock()


def compile_cost() -> Cost:
    """Return what compiling has cost this process until now."""
    return _clock().read()


def forget_graphs() -> None:
    """Forget all graphs of this process; those in the cache stay."""
    torch.compiler.reset()
    _clock().register()  # which was forgotten, too


def log_compiling(model: nn.Module) -> None:
    """Log what compiling has cost since it was last logged, if the model has graphs."""
    if getattr(model, "graphs", None) is None:
        return
    now = compile_cost()
    cost, _clock().told = now.since(_clock().told), now
    if cost.compiled or cost.cached:
        log.info(
            "train.compile: %.0f s for graphs, %d compiled and %d from the cache %s",
            *(cost.seconds, cost.compiled, cost.cached, os.environ.get(CACHE_VARIABLE)),
        )
