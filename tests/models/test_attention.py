"""Cross-modal attention: in plain lines, symmetric in the branches, blind to token order."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.attention import CrossAttention

WIDTHS = {"cqt": 8, "mel": 6}  # of the tokens


def make_tokens(n: int = 5) -> tuple[Tensor, Tensor]:
    """Return tokens of n utterances: (n, 4, 8), (n, 3, 6)."""
    torch.manual_seed(1)
    return torch.randn(n, 4, 8), torch.randn(n, 3, 6)


def plain_attention(module: nn.MultiheadAttention, query: Tensor, keys: Tensor) -> Tensor:
    """Softmax attention in plain lines: (B, N, D), (B, M, D) -> (B, N, D)."""
    width, heads = module.embed_dim, module.num_heads
    weights, biases = module.in_proj_weight.split(width), module.in_proj_bias.split(width)
    q, k, v = (
        (x @ w.T + b).unflatten(2, (heads, -1)).transpose(1, 2)  # (B, heads, N or M, D / heads)
        for x, w, b in zip((query, keys, keys), weights, biases, strict=True)
    )
    shares = (q @ k.mT / math.sqrt(width / heads)).softmax(3)  # (B, heads, N, M)
    return module.out_proj((shares @ v).transpose(1, 2).flatten(2))


def normed(x: Tensor) -> Tensor:
    centred = x - x.mean(2, keepdim=True)
    return centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cross_attention_is_softmax_attention_in_both_directions(heads: int) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTHS, 8, heads, dropout=0.5).eval()
    for name, parameter in attention.named_parameters():
        if "bias" in name:  # torch begins them with zeros
            nn.init.normal_(parameter, std=0.1)
    tokens = make_tokens()
    for norm in (attention.norm_cqt, attention.norm_mel):
        nn.init.zeros_(norm.bias)
    t_cqt = attention.embed_cqt(normed(tokens[0]))
    t_mel = attention.embed_mel(normed(tokens[1]))
    found = attention(*tokens)
    expected = (
        (t_cqt + plain_attention(attention.cqt_reads_mel, t_cqt, t_mel)).mean(1),
        (t_mel + plain_attention(attention.mel_reads_cqt, t_mel, t_cqt)).mean(1),
    )
    for pooled, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(pooled, plain)


def test_branches_swapped_with_their_weights_give_results_swapped() -> None:
    torch.manual_seed(0)
    one, other = (CrossAttention(w, 4, 2, 0.0) for w in (WIDTHS, {"cqt": 6, "mel": 8}))
    swapped = {"cqt_reads_mel": "mel_reads_cqt", "mel_reads_cqt": "cqt_reads_mel"}
    swapped |= {f"{kind}_cqt": f"{kind}_mel" for kind in ("norm", "embed")}
    swapped |= {f"{kind}_mel": f"{kind}_cqt" for kind in ("norm", "embed")}
    for name, module in one.named_children():
        other.get_submodule(swapped[name]).load_state_dict(module.state_dict())
    tokens = make_tokens()
    for ours, theirs in zip(one(*tokens), reversed(other(*reversed(tokens))), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_a_branch_becomes_depends_on_the_other() -> None:
    attention = CrossAttention(WIDTHS, 8, 2, 0.0)
    tokens_cqt, tokens_mel = make_tokens()
    before, after = attention(tokens_cqt, tokens_mel), attention(tokens_cqt, tokens_mel.flip(2))
    assert not torch.allclose(before[0], after[0])


def test_order_and_length_of_tokens_do_not_matter() -> None:
    """Places are in the tokens; the published MaxViT's are some 20 times as long as MViTv2's."""
    attention = CrossAttention(WIDTHS, 8, 2, 0.0)
    cqt, mel = make_tokens()
    expected = attention(cqt, mel)
    for ours, plain in zip(attention(20 * cqt.flip(1), mel.flip(1)), expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
