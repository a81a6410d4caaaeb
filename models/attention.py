"""Cross-modal attention: the tokens of each source attend to those of all others.

    t_s = W_s LN(tokens_s) + b_s                                        (B, N_s, D), of source s
    o_s = [t_r of all sources r but s]                                  (B, sum of N_r, D)
    feat_s = mean over N_s of t_s + Attention(query t_s, keys and values o_s)   (B, D)

Of two sources o_cqt is t_mel and o_mel is t_cqt. A source that gives one vector (B, D_s) has one
token: N_s = 1. All recordings have the same number of tokens of a source, so that there is no mask.

The layer norms LN come first because the published MaxViT has its own norm after the pooling. Its
tokens are about 20 times as long as those of MViTv2 and would saturate the tanh of the GMU.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from system.errors import InputError


class CrossAttention(nn.Module):
    """Co-attention of each source to the others, then the mean over the tokens of each.

    Args:
        widths: Width of each source's tokens, by branch name; two sources or more.
        hidden_dim: D, which `heads` must divide.
        heads: Attention heads of each source.
        dropout: Dropout probability of the attention weights.

    Shape:
        n x (B, N_s, D_s), or (B, D_s) of a single vector -> n x (B, D)

    Raises:
        InputError: `heads` does not divide `hidden_dim`.

    Source:
        Lu et al. 2019 (ViLBERT), one co-attention layer; here without its feed-forward block, and
        with a GMU behind it. The attention itself is torch's module. That a source attends to the
        tokens of several others together is this project's own form.
    """

    def __init__(
        self, widths: Mapping[str, int], hidden_dim: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        if hidden_dim % heads:
            raise InputError(
                f"model.attention_heads={heads} must divide the width of the fused vector, "
                f"{hidden_dim} (model.fusion_hidden_dim, or the widest branch): change one of them"
            )
        self.readers = {  # name of each source's attention, such as cqt_reads_mel
            branch: f"{branch}_reads_{'_'.join(other for other in widths if other != branch)}"
            for branch in widths
        }
        for branch, width in widths.items():
            self.add_module(f"norm_{branch}", nn.LayerNorm(width))
        for branch, width in widths.items():
            self.add_module(f"embed_{branch}", nn.Linear(width, hidden_dim))
        for name in self.readers.values():
            attention = nn.MultiheadAttention(hidden_dim, heads, dropout, batch_first=True)
            self.add_module(name, attention)

    def forward(self, *tokens: Tensor) -> list[Tensor]:
        """Return pooled features of each source after it has attended to the others."""
        embedded = [
            self._embed(branch, own) for branch, own in zip(self.readers, tokens, strict=True)
        ]  # n x (B, N_s, D)
        pooled = []
        for i, reader in enumerate(self.readers.values()):
            own, others = embedded[i], embedded[:i] + embedded[i + 1 :]
            read = others[0] if len(others) == 1 else torch.cat(others, 1)  # (B, sum of N_r, D)
            found, _ = self.get_submodule(reader)(own, read, read, need_weights=False)
            pooled.append((own + found).mean(1))  # (B, D)
        return pooled

    def _embed(self, branch: str, tokens: Tensor) -> Tensor:
        """Return t_s: (B, N_s, D_s) or (B, D_s) -> (B, N_s, D)."""
        tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        normed = self.get_submodule(f"norm_{branch}")(tokens)
        embedded: Tensor = self.get_submodule(f"embed_{branch}")(normed)
        return embedded
