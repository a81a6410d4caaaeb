"""Cross-modal attention: the tokens of each branch attend to those of the other.

    t_cqt = W_c LN(tokens_cqt) + b_c                                          (B, N, D)
    t_mel = W_m LN(tokens_mel) + b_m                                          (B, M, D)
    feat_cqt = mean over N of t_cqt + Attention(query t_cqt, keys and values t_mel)   (B, D)
    feat_mel = mean over M of t_mel + Attention(query t_mel, keys and values t_cqt)   (B, D)

The layer norms LN come first because the published MaxViT has its own norm after the pooling. Its
tokens are about 20 times as long as those of MViTv2 and would saturate the tanh of the GMU.
"""

from torch import Tensor, nn

from system.errors import InputError


class CrossAttention(nn.Module):
    """Co-attention in both directions, then the mean over the tokens of each branch.

    Args:
        cqt_features: Width of the CQT tokens.
        mel_features: Width of the Mel tokens.
        hidden_dim: D, which `heads` must divide.
        heads: Attention heads in each direction.
        dropout: Dropout probability of the attention weights.

    Shape:
        (B, N, cqt_features), (B, M, mel_features) -> (B, D), (B, D)

    Raises:
        InputError: `heads` does not divide `hidden_dim`.

    Source:
        Lu et al. 2019 (ViLBERT), one co-attention layer; here without its feed-forward block, and
        with a GMU behind it. The attention itself is torch's module.
    """

    def __init__(
        self, cqt_features: int, mel_features: int, hidden_dim: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        if hidden_dim % heads:
            raise InputError(
                f"model.attention_heads={heads} must divide the width of the fused vector, "
                f"{hidden_dim} (model.fusion_hidden_dim, or the wider branch): change one of them"
            )
        self.norm_cqt = nn.LayerNorm(cqt_features)
        self.norm_mel = nn.LayerNorm(mel_features)
        self.embed_cqt = nn.Linear(cqt_features, hidden_dim)
        self.embed_mel = nn.Linear(mel_features, hidden_dim)
        self.cqt_reads_mel = nn.MultiheadAttention(hidden_dim, heads, dropout, batch_first=True)
        self.mel_reads_cqt = nn.MultiheadAttention(hidden_dim, heads, dropout, batch_first=True)

    def forward(self, tokens_cqt: Tensor, tokens_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features of each branch after it has attended to the other."""
        t_cqt = self.embed_cqt(self.norm_cqt(tokens_cqt))  # (B, N, D)
        t_mel = self.embed_mel(self.norm_mel(tokens_mel))  # (B, M, D)
        from_mel, _ = self.cqt_reads_mel(t_cqt, t_mel, t_mel, need_weights=False)  # (B, N, D)
        from_cqt, _ = self.mel_reads_cqt(t_mel, t_cqt, t_cqt, need_weights=False)  # (B, M, D)
        return (t_cqt + from_mel).mean(1), (t_mel + from_cqt).mean(1)  # (B, D), (B, D)
