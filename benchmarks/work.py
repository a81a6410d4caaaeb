"""Count the work of networks and front end without a GPU: FLOPs, and bytes that operations move.

FLOPs are torch's count of matrix products and convolutions, two for a multiplication with its
addition. Bytes are those of all tensors that an operation reads and writes, each counted once an
operation: what passes a GPU's memory where operations are not fused and nothing stays in a cache.
Networks are counted on meta tensors, which have shapes and no values, in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fusions import BACKBONES, FUSIONS, build
from features import SpectrogramImages
from models.heads import n_parameters

BATCH = 4  # utterances; the parameters that a layer reads are shared by them


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write inside a block; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operation."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(
                leaf.numel() * leaf.element_size()
                for leaf in tree_leaves((args, kwargs, result))
                if isinstance(leaf, Tensor)
            )
        return result


def traffic(work: Callable[[], object]) -> int:
    """Return the bytes that the operations of some work move."""
    with Traffic() as counted:
        work()
    return counted.bytes


def network_work(pair: str) -> dict[str, float]:
    """Return what a pair of backbones with a GMU takes, an utterance.

    Args:
        pair: A key of `fusions.BACKBONES`.

    Returns:
        parameters; FLOPs forward; bytes forward, and forward and backward, float32.
    """
    networks = BACKBONES[pair]
    with torch.device("meta"):
        model = build(networks, FUSIONS["gmu"]).train()
        images = torch.empty(2, BATCH, 1, networks.side, networks.side)
        targets = torch.empty(BATCH, dtype=torch.long)
    with (  # the counter knows no fused attention, so it is done in steps
        FlopCounterMode(display=False) as flops,
        sdpa_kernel(SDPBackend.MATH),
        Traffic() as moved,
    ):
        loss = F.cross_entropy(model(*images).logits, targets)
        forward_flops, forward_bytes = flops.get_total_flops(), moved.bytes
        loss.backward()
    return {
        "parameters": n_parameters(model),
        "forward_flops": forward_flops / BATCH,
        "forward_bytes": forward_bytes / BATCH,
        "step_bytes": moved.bytes / BATCH,
    }


@torch.inference_mode()
def front_end_bytes(front_end: SpectrogramImages, waveform: Tensor) -> int:
    """Return the bytes that the images of a waveform move: (T,); its kernels are made before."""
    front_end(waveform[None])
    return traffic(lambda: front_end(waveform[None]))
