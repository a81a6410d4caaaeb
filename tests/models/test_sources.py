"""Heads and losses of three sources and more in plain tensors, and of two as they always were."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.fusions import FUSIONS, GATED, SOURCES
from models.attention import CrossAttention
from models.gmu import GMU, source_shares
from models.heads import FusionHead, build_head, check_equal_widths, n_parameters
from models.losses import FusionLoss
from models.settings import ModelSettings
from system.errors import InputError
from tests.models.test_attention import normed, plain_attention

WIDTHS = {"cqt": 8, "mel": 6, "speech": 12}
FOUR = {**WIDTHS, "file": 4}
JOINING = [name for name, fusion in FUSIONS.items() if fusion.joins]
CONTRASTIVE = [name for name in JOINING if FUSIONS[name].contrastive]
GATES = [(read, gate) for read in ("projected", "features") for gate in ("vector", "scalar")]


def make_head(fusion: str, widths: dict[str, int] = WIDTHS, **options: object) -> FusionHead:
    """Return a head for three classes, in evaluation mode."""
    torch.manual_seed(0)
    settings = ModelSettings(n_classes=3, fusion=fusion, **{"mlp_hidden_dim": 4, **options})
    return build_head(widths, settings).eval()


def make_features(widths: dict[str, int] = WIDTHS, n: int = 5) -> list[Tensor]:
    """Return features of n utterances, which want gradients."""
    torch.manual_seed(1)
    return [torch.randn(n, width, requires_grad=True) for width in widths.values()]


def make_inputs(fusion: str, widths: dict[str, int] = WIDTHS, n: int = 5) -> list[Tensor]:
    """Return what a fusion reads: tokens of images where it reads tokens, else features."""
    features = make_features(widths, n)
    if not FUSIONS[fusion].reads_tokens:
        return features
    return [
        torch.randn(n, 3 + i, width, requires_grad=True) if name in ("cqt", "mel") else features[i]
        for i, (name, width) in enumerate(widths.items())
    ]


# Two sources


def perceptron(width: int, out: int) -> list[tuple[str, nn.Module]]:
    return [("0", nn.Linear(width, width)), ("2", nn.Linear(width, out))]


def layers_of_two(fusion: str) -> dict[str, nn.Module]:
    """Return the layers that draw random numbers, in the order in which they always have."""
    layers: dict[str, nn.Module] = {}
    fused, inner = 8, {"cqt": 8, "mel": 6}
    if "attention" in fusion:
        layers |= {f"attention.embed_{b}": nn.Linear(w, 8) for b, w in inner.items()}
        for name in ("cqt_reads_mel", "mel_reads_cqt"):
            layers[f"attention.{name}"] = nn.MultiheadAttention(8, 4, batch_first=True)
        inner = dict.fromkeys(inner, 8)
    if fusion == "concat":
        fused = 14
    else:
        place = "gmu" if fusion in GATED else "projections"
        layers |= {f"{place}.project_{b}": nn.Linear(w, 8) for b, w in inner.items()}
    if fusion in GATED:
        layers["gmu.gate"] = nn.Linear(16, 8)
    if "contrastive" in fusion:
        for branch in inner:
            layers |= {f"view_{branch}.{i}": layer for i, layer in perceptron(8, 128)}
    return layers | {"classify.0": nn.Linear(fused, 4), "classify.4": nn.Linear(4, 3)}


@pytest.mark.parametrize("fusion", JOINING)
def test_two_sources_have_the_names_and_first_weights_of_earlier_versions(fusion: str) -> None:
    found = make_head(fusion, {"cqt": 8, "mel": 6}).state_dict()
    torch.manual_seed(0)
    expected = {
        f"{name}.{key}": value
        for name, layer in layers_of_two(fusion).items()
        for key, value in layer.state_dict().items()
    }
    norms = ("attention.norm", "classify.1")
    assert {name for name in found if not name.startswith(norms)} == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_two_shares_are_a_sigmoid_and_the_rest() -> None:
    logits = 3 * torch.randn(5, 1, 4)
    shares = source_shares(logits)
    torch.testing.assert_close(shares[:, 0], logits[:, 0].sigmoid())
    torch.testing.assert_close(shares[:, 1], 1 - logits[:, 0].sigmoid())


@pytest.mark.parametrize("names", list(itertools.combinations(SOURCES, 2)))
def test_any_two_sources_make_the_network_of_cqt_and_mel(names: tuple[str, str]) -> None:
    features = make_features({"cqt": 8, "mel": 6})
    expected = make_head("gmu_contrastive", {"cqt": 8, "mel": 6})(*features)
    head = make_head("gmu_contrastive", dict(zip(names, (8, 6), strict=True)))
    torch.testing.assert_close(head(*features), expected, rtol=0, atol=0)
    assert head.branches == names and hasattr(head, f"view_{names[1]}")


# The gate


@pytest.mark.parametrize("widths", [WIDTHS, FOUR], ids=len)
@pytest.mark.parametrize(("gate_input", "gate"), GATES)
def test_the_gmu_of_many_sources_is_five_plain_lines(widths, gate_input, gate) -> None:
    gmu, features = GMU(widths, 4, gate_input, gate), make_features(widths)
    w, n = dict(gmu.named_parameters()), len(widths)
    h = [
        torch.tanh(f @ w[f"project_{b}.weight"].T + w[f"project_{b}.bias"])
        for b, f in zip(widths, features, strict=True)
    ]
    read = torch.cat(h if gate_input == "projected" else features, 1)
    scores = (read @ w["gate.weight"].T + w["gate.bias"]).exp().reshape(5, n - 1, -1)
    total = scores.sum(1) + 1  # the last source has e^0
    shares = [scores[:, i] / total for i in range(n - 1)] + [1 / total]
    fused = sum(share * own for share, own in zip(shares, h, strict=True))
    expected = (fused, torch.stack(shares, 1), *h)
    assert expected[1].shape == (5, n, 4 if gate == "vector" else 1)
    torch.testing.assert_close(gmu(*features), expected)


def test_shares_sum_to_1_in_bfloat16() -> None:
    torch.manual_seed(0)
    gmu = GMU(dict.fromkeys(("cqt", "mel", "speech"), 5), 7, "projected", "vector")
    with torch.autocast("cpu", torch.bfloat16):
        _, gate, *_ = gmu(*torch.randn(3, 9, 5))
    torch.testing.assert_close(
        gate.double().mean(2).sum(1), torch.ones(9).double(), atol=1e-6, rtol=0
    )


def test_shares_by_hand() -> None:
    gmu = GMU({"cqt": 1, "mel": 1, "speech": 1}, 2, gate="scalar")
    for parameter in gmu.parameters():
        nn.init.zeros_(parameter)
    for branch, value in (("cqt", 0.5), ("mel", -0.5), ("speech", 0.25)):
        nn.init.constant_(gmu.get_parameter(f"project_{branch}.bias"), math.atanh(value))
    gmu.gate.bias.data = torch.tensor([math.log(3), math.log(4)])  # 3 : 4 : 1
    fused, gate, *_ = gmu(*torch.ones(3, 1, 1))
    assert gate.flatten().tolist() == pytest.approx([3 / 8, 4 / 8, 1 / 8])
    assert fused.tolist() == [[pytest.approx((3 * 0.5 - 4 * 0.5 + 0.25) / 8)] * 2]


@pytest.mark.parametrize("fusion", GATED)
@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_shares_of_sources_sum_to_1_and_the_gate_of_two_is_the_first(fusion, gate) -> None:
    units = 12 if gate == "vector" else 1
    shares = make_head(fusion, FOUR, gate=gate)(*make_inputs(fusion, FOUR)).gate
    assert shares.shape == (5, 4, units) and bool((shares > 0).all())
    torch.testing.assert_close(shares.sum(1), torch.ones(5, units))
    two = {"mel": 6, "speech": 12}
    assert make_head(fusion, two, gate=gate)(*make_inputs(fusion, two)).gate.shape == (5, units)


def permuted(gmu: GMU, order: tuple[int, ...], widths: dict[str, int], hidden: int) -> GMU:
    """Return a GMU of the same sources in another order, with the weights moved along."""
    names = [list(widths)[i] for i in order]
    other = GMU({name: widths[name] for name in names}, hidden, gmu.gate_input)
    for name in names:
        own = gmu.get_submodule(f"project_{name}").state_dict()
        other.get_submodule(f"project_{name}").load_state_dict(own)
    n = len(widths)
    sizes = list(widths.values()) if gmu.gate_input == "features" else [hidden] * n
    columns = torch.cat([gmu.gate.weight.split(sizes, 1)[i] for i in order], 1)
    for old, kind in ((columns, "weight"), (gmu.gate.bias, "bias")):
        rows = [*old.reshape(n - 1, hidden, *old.shape[1:]), torch.zeros_like(old[:hidden])]
        moved = [rows[i] - rows[order[-1]] for i in order[:-1]]  # the last logit is 0 again
        other.gate.get_parameter(kind).data = torch.cat(moved)
    return other


@pytest.mark.parametrize("gate_input", ["projected", "features"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_sources_in_another_order_have_their_shares_in_that_order(gate_input, order) -> None:
    gmu, features = GMU(WIDTHS, 4, gate_input), make_features()
    other = permuted(gmu, order, WIDTHS, 4)
    fused, gate, *h = gmu(*features)
    found = other(*(features[i] for i in order))
    torch.testing.assert_close(found, (fused, gate[:, order], *(h[i] for i in order)))


@pytest.mark.parametrize("fusion", GATED)
@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_forced_shares_override_the_gate(fusion: str, gate: str) -> None:
    head, inputs = make_head(fusion, gate=gate), make_inputs(fusion)
    features = head.attention(*inputs) if FUSIONS[fusion].reads_tokens else inputs
    h = head.gmu.project(features)
    for shares in ([0.2, 0.3, 0.5], [0.0, 0.0, 1.0], (1 / 3, 1 / 3, 1 / 3)):
        output = head(*inputs, forced_gate=shares)
        assert output.gate.shape == (5, 3, 12 if gate == "vector" else 1)
        assert output.gate[3, :, -1].tolist() == pytest.approx(list(shares))
        plain = sum(share * own for share, own in zip(shares, h, strict=True))
        torch.testing.assert_close(output.logits, head.classify(plain))


@pytest.mark.parametrize(
    "shares", [0.5, 1.0, [0.5, 0.5], [0.5, 0.5, 0.5], [1.2, -0.2, 0.0], [math.nan, 0.5, 0.5], []]
)
def test_shares_that_are_none_are_refused(shares) -> None:
    words = "needs 3 shares from 0 to 1 that sum to 1, of cqt, mel, speech, got"
    with pytest.raises(ValueError, match=words):
        make_head("gmu")(*make_features(), forced_gate=shares)


def test_two_shares_may_be_forced_as_the_first_or_as_both() -> None:
    two = {"cqt": 8, "speech": 12}
    head, features = make_head("gmu", two), make_features(two)
    first, both = (head(*features, forced_gate=forced) for forced in (0.25, [0.25, 0.75]))
    torch.testing.assert_close(first, both, rtol=0, atol=0)
    with pytest.raises(ValueError, match="2 shares .* or that of the first alone, got"):
        head(*features, forced_gate=[0.25, 0.25])


# Other fusions


@pytest.mark.parametrize("widths", [WIDTHS, FOUR], ids=len)
def test_concat_mean_and_sum_join_all(widths: dict[str, int]) -> None:
    features = make_features(widths)
    concat, mean, total = (make_head(name, widths) for name in ("concat", "mean", "sum"))
    assert concat.classify[0].in_features == sum(widths.values())
    plain = concat.classify(torch.cat(features, 1))
    torch.testing.assert_close(concat(*features).logits, plain)
    h = sum(mean.projections.project(features))
    torch.testing.assert_close(mean(*features).logits, mean.classify(h / len(widths)))
    torch.testing.assert_close(total(*features).logits, total.classify(h))  # of equal weights


@pytest.mark.parametrize("projection", ["separate", "shared"])
@pytest.mark.parametrize("fusion", JOINING)
def test_gradients_reach_every_source_and_parameter(fusion: str, projection: str) -> None:
    widths = WIDTHS
    options = {"projection": projection} if fusion in CONTRASTIVE else {}
    if projection == "shared" and fusion == "gmu_contrastive":
        widths = dict.fromkeys(WIDTHS, 8)
    head, inputs = make_head(fusion, widths, **options).train(), make_inputs(fusion, widths)
    output = head(*inputs)
    FusionLoss()(output.logits, torch.arange(5) % 3, output.views).total.backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    assert all(bool(own.grad.any()) for own in inputs)
    for name in ("project", "embed", "view"):  # one layer of each kind for each source
        some = [p for key, p in head.named_parameters() if f"{name}_" in key and "weight" in key]
        assert all(bool(p.grad.any()) for p in some)


@pytest.mark.parametrize("fusion", CONTRASTIVE)
def test_each_source_has_a_view_and_pooled_features(fusion: str) -> None:
    head, inputs = make_head(fusion, FOUR, projection_dim=7), make_inputs(fusion, FOUR)
    output = head(*inputs)
    assert [view.shape for view in output.views] == [(5, 7)] * 4
    pooled = head.attention(*inputs) if FUSIONS[fusion].reads_tokens else inputs
    torch.testing.assert_close(output.pooled, tuple(pooled))
    _, _, *h = head.gmu(*pooled)
    for branch, hidden, view in zip(FOUR, h, output.views, strict=True):
        torch.testing.assert_close(head.get_submodule(f"view_{branch}")(hidden), view)


def test_one_projection_head_may_serve_three_sources() -> None:
    fusion = "cross_attention_contrastive"
    head, inputs = make_head(fusion, projection="shared"), make_inputs(fusion)
    output = head(*inputs)
    expected = tuple(head.view(pooled) for pooled in output.pooled)
    torch.testing.assert_close(output.views, expected)
    words = "the CQT branch has 8, the Mel branch has 6, the speech branch has 12: take"
    with pytest.raises(InputError, match=words):
        make_head("gmu_contrastive", projection="shared")
    check_equal_widths({"cqt": 8, "mel": 8, "file": 8}, "loss.alpha_on=features")


@pytest.mark.parametrize("match", ["concat", "mean", "sum"])
def test_heads_of_three_sources_match_the_gmu_of_three(match: str) -> None:
    widths = {"cqt": 768, "mel": 768, "speech": 1024}
    with torch.device("meta"):
        matched = make_head(match, widths, match_parameters=True, mlp_hidden_dim=512)
        gmu = make_head("gmu", widths, mlp_hidden_dim=512)
    per_unit = sum(widths.values()) + (3 + 3 if match == "concat" else 3 + 512)
    assert abs(n_parameters(matched) - n_parameters(gmu)) <= per_unit / 2


# Attention


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_each_source_attends_to_the_tokens_of_all_others(heads: int) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTHS, 8, heads, dropout=0.5).eval()
    for name, parameter in attention.named_parameters():
        if "bias" in name and "norm" not in name:  # torch begins them with zeros
            nn.init.normal_(parameter, std=0.1)
    tokens = [torch.randn(5, n, width) for n, width in zip((4, 3, 2), (8, 6, 12), strict=True)]
    t_cqt, t_mel, t_speech = (
        attention.get_submodule(f"embed_{b}")(normed(own))
        for b, own in zip(WIDTHS, tokens, strict=True)
    )
    cases = (
        (attention.cqt_reads_mel_speech, t_cqt, (t_mel, t_speech)),
        (attention.mel_reads_cqt_speech, t_mel, (t_cqt, t_speech)),
        (attention.speech_reads_cqt_mel, t_speech, (t_cqt, t_mel)),
    )
    expected = [
        (own + plain_attention(reader, own, torch.cat(others, 1))).mean(1)
        for reader, own, others in cases
    ]
    torch.testing.assert_close(attention(*tokens), expected)


def test_a_source_of_one_vector_has_one_token() -> None:
    attention = CrossAttention(WIDTHS, 8, 2, 0.0)
    cqt, mel, speech = torch.randn(5, 4, 8), torch.randn(5, 3, 6), torch.randn(5, 12)
    expected = attention(cqt, mel, speech[:, None])
    torch.testing.assert_close(attention(cqt, mel, speech), expected, rtol=0, atol=0)


# What a head refuses


@pytest.mark.parametrize("fusion", JOINING)
@pytest.mark.parametrize(
    "names", [("mel", "cqt"), ("cqt",), (), ("speech", "cqt", "mel"), ("cqt", "text")]
)
def test_a_joining_head_needs_two_sources_in_their_order(fusion: str, names) -> None:
    words = f"{fusion} reads two or more of cqt, mel, speech, file, in this order, got"
    with pytest.raises(ValueError, match=words):
        make_head(fusion, dict.fromkeys(names, 8))


@pytest.mark.parametrize("fusion", JOINING)
def test_features_of_too_few_or_too_many_sources_are_refused(fusion: str) -> None:
    head, inputs = make_head(fusion), make_inputs(fusion, FOUR)
    for some in (inputs[:2], inputs):
        with pytest.raises((ValueError, RuntimeError)):
            head(*some)


def test_cross_entropy_of_three_sources_falls_in_training() -> None:
    torch.manual_seed(0)
    targets = torch.arange(30) % 3
    features = [
        F.one_hot(targets, width).float() + 0.1 * torch.randn(30, width) for width in (8, 6, 12)
    ]
    head = make_head("gmu_contrastive", mlp_hidden_dim=16).train()
    optimizer, loss, totals = torch.optim.Adam(head.parameters(), 1e-2), FusionLoss(), []
    for _ in range(40):
        output = head(*features)
        terms = loss(output.logits, targets, output.views)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        totals.append([float(terms.cross_entropy.detach()), float(terms.nt_xent.detach())])
    assert totals[-1][0] < 0.2 < totals[0][0] and totals[-1][1] < totals[0][1]
