"""The Gated Multimodal Unit of n sources, and the tanh projections that it weighs.

    h_s   = tanh(W_s feat_s + b_s)                           (B, D), of each source s
    logits = W_g [h_1; ...; h_n] + b_g                       (B, n - 1, D), or (B, n - 1, 1)
    gate  = softmax over sources of [logits; 0]              (B, n, D), or (B, n, 1)
    fused = sum over s of gate_s * h_s                       (B, D)

The logit of the last source is fixed at 0, so the shares of n sources need n - 1 logits a unit. Of
two sources that is a sigmoid, and the gate is the share of the first alone, (B, D) or (B, 1):

    gate  = sigmoid(W_g [h_cqt; h_mel] + b_g)
    fused = gate * h_cqt + (1 - gate) * h_mel

**Of CQT and Mel, 1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2.** Of three sources or more,
gate[:, s] is the share of source s, in the order of the branches; the shares sum to 1.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Widths = Mapping[str, int]  # width of each source's features, by branch name, in their order
ForcedGate = float | Sequence[float]  # share of the first of two sources, or n shares


class Projections(nn.Module):
    """tanh projections of all sources to one width D.

    Args:
        widths: Width of each source's features, by branch name.
        hidden_dim: D.
    """

    def __init__(self, widths: Widths, hidden_dim: int) -> None:
        super().__init__()
        self.branches = tuple(widths)
        for branch, width in widths.items():
            self.add_module(f"project_{branch}", nn.Linear(width, hidden_dim))

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return h_s of each source: n x (B, D_s) -> n x (B, D)."""
        return [
            torch.tanh(self.get_submodule(f"project_{branch}")(feature))
            for branch, feature in zip(self.branches, features, strict=True)
        ]


class GMU(Projections):
    """Gated Multimodal Unit: for each unit the shares of all sources.

    Args:
        widths: Width of each source's features, by branch name; two sources or more.
        hidden_dim: D, width of the fused vector.
        gate_input: `projected`: the gate reads all h_s; `features`: it reads the features.
        gate: `vector`: shares for each unit; `scalar`: the same shares for all units.

    Shape:
        n x (B, D_s) -> fused (B, D), gate, h_1 to h_n, each (B, D). The gate of two sources is
        (B, D), or (B, 1) of a scalar gate; of more (B, n, D), or (B, n, 1).

    Source:
        Arevalo et al. 2017, equation 1, for two sources; their gate reads the features and has no
        biases; with biases it is the GMU of GloMER's code. The default, a gate that reads the
        projections, is this project's own form and in neither of them. So is the softmax of more
        than two sources: theirs has a sigmoid for each, whose values need not sum to 1.
    """

    def __init__(
        self,
        widths: Widths,
        hidden_dim: int,
        gate_input: str = "projected",
        gate: str = "vector",
    ) -> None:
        super().__init__(widths, hidden_dim)
        self.gate_input = gate_input
        n = len(widths)
        width = n * hidden_dim if gate_input == "projected" else sum(widths.values())
        self.gate = nn.Linear(width, (n - 1) * (hidden_dim if gate == "vector" else 1))

    def forward(
        self, *features: Tensor, forced_gate: ForcedGate | None = None
    ) -> tuple[Tensor, ...]:
        """Return fused, gate, h_1 to h_n.

        Args:
            features: Of each source, in the order of the branches.
            forced_gate: Overrides the gate: the share of the first of two sources, or a share for
                each source.

        Raises:
            ValueError: `forced_gate` is not one share for each source, or they do not sum to 1.
        """
        hidden = self.project(features)  # n x (B, D)
        read = hidden if self.gate_input == "projected" else features
        logits = self.gate(torch.cat(tuple(read), 1))  # (B, (n - 1) D), or (B, n - 1)
        if len(hidden) == 2:
            gate = torch.sigmoid(logits)  # (B, D) or (B, 1)
            if forced_gate is not None:
                gate = torch.full_like(gate, self._shares(forced_gate)[0])
            fused = gate * hidden[0] + (1 - gate) * hidden[1]  # (B, D)
            return fused, gate, *hidden
        gate = source_shares(logits.unflatten(1, (len(hidden) - 1, -1)))  # (B, n, D) or (B, n, 1)
        if forced_gate is not None:
            gate = gate.new_tensor(self._shares(forced_gate))[:, None].expand_as(gate)
        fused = (gate * torch.stack(hidden, 1)).sum(1)  # (B, D)
        return fused, gate, *hidden

    def _shares(self, forced: ForcedGate) -> list[float]:
        """Return a share for each source."""
        n = len(self.branches)
        if isinstance(forced, int | float) and n == 2:
            return [forced, 1 - forced]
        shares = [] if isinstance(forced, int | float) else list(forced)
        if len(shares) != n or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            alone = ", or that of the first alone" if n == 2 else ""
            raise ValueError(
                f"a forced gate needs {n} shares from 0 to 1 that sum to 1, of "
                f"{', '.join(self.branches)}{alone}, got {forced}"
            )
        return shares


def source_shares(logits: Tensor) -> Tensor:
    """Return the softmax over sources of logits, with 0 for the last source.

    Shape:
        (B, n - 1, D) -> (B, n, D)

    >>> source_shares(torch.tensor([[[3.0], [1.0]]]).log())  # of e^logit 3, 1, 1
    tensor([[[0.6000],
             [0.2000],
             [0.2000]]])
    """
    every = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)
    return every.float().softmax(1)  # shares of bfloat16 would not sum to 1
