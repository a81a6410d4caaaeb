"""The Gated Multimodal Unit, and the tanh projections that it weighs.

    h_cqt = tanh(W_c feat_cqt + b_c)                         (B, D)
    h_mel = tanh(W_m feat_mel + b_m)                         (B, D)
    gate  = sigmoid(W_g [h_cqt; h_mel] + b_g)                (B, D), or (B, 1)
    fused = gate * h_cqt + (1 - gate) * h_mel                (B, D)

**1 trusts CQT / MaxViT, 0 trusts Mel-STFT / MViTv2.**
"""

import torch
from torch import Tensor, nn


class Projections(nn.Module):
    """tanh projections of both branches to one width D."""

    def __init__(self, cqt_features: int, mel_features: int, hidden_dim: int) -> None:
        super().__init__()
        self.project_cqt = nn.Linear(cqt_features, hidden_dim)
        self.project_mel = nn.Linear(mel_features, hidden_dim)

    def project(self, feat_cqt: Tensor, feat_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return h_cqt and h_mel: (B, cqt_features), (B, mel_features) -> (B, D), (B, D)."""
        return torch.tanh(self.project_cqt(feat_cqt)), torch.tanh(self.project_mel(feat_mel))


class GMU(Projections):
    """Gated Multimodal Unit: for each unit a gate weighs the two branches.

    Args:
        cqt_features: Width of feat_cqt.
        mel_features: Width of feat_mel.
        hidden_dim: D, width of the fused vector.
        gate_input: `projected`: the gate reads h_cqt and h_mel; `features`: it reads the features.
        gate: `vector`: one gate for each unit; `scalar`: one for all units.

    Shape:
        (B, cqt_features), (B, mel_features) -> fused, gate, h_cqt, h_mel, each (B, D); a scalar
        gate is (B, 1)

    Source:
        Arevalo et al. 2017, equation 1, whose gate reads the features and has no biases; with
        biases it is the GMU of GloMER's code. The default, a gate that reads the projections, is
        this project's own form and in neither of them.
    """

    def __init__(
        self,
        cqt_features: int,
        mel_features: int,
        hidden_dim: int,
        gate_input: str = "projected",
        gate: str = "vector",
    ) -> None:
        super().__init__(cqt_features, mel_features, hidden_dim)
        self.gate_input = gate_input
        width = 2 * hidden_dim if gate_input == "projected" else cqt_features + mel_features
        self.gate = nn.Linear(width, hidden_dim if gate == "vector" else 1)

    def forward(
        self, feat_cqt: Tensor, feat_mel: Tensor, forced_gate: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fused, gate, h_cqt, h_mel; `forced_gate` overrides the gate's values."""
        h_cqt, h_mel = self.project(feat_cqt, feat_mel)  # (B, D), (B, D)
        gate_input = (h_cqt, h_mel) if self.gate_input == "projected" else (feat_cqt, feat_mel)
        gate = torch.sigmoid(self.gate(torch.cat(gate_input, 1)))  # (B, D) or (B, 1)
        if forced_gate is not None:
            gate = torch.full_like(gate, forced_gate)
        fused = gate * h_cqt + (1 - gate) * h_mel  # (B, D)
        return fused, gate, h_cqt, h_mel
