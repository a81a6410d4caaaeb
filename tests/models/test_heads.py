"""Heads: one class per fusion, the gate by hand and forced, matched sizes."""

import math

import pytest
import torch
from torch import Tensor, nn

from config.effects import CONTRASTIVE, MATCHED, TOKENS
from config.fusions import FUSIONS, GATED, ONE_BRANCH
from models.gmu import GMU
from models.heads import HEADS, FusionHead, FusionOutput, build_head, n_parameters
from models.settings import ModelSettings
from system.errors import InputError

WIDTHS = {"cqt": 8, "mel": 6, "speech": 8, "file": 6}  # of the features


def make_head(fusion: str, seed: int = 0, **options: object) -> FusionHead:
    """Return a head for three classes, in evaluation mode."""
    torch.manual_seed(seed)
    widths = {name: WIDTHS[name] for name in FUSIONS[fusion].branches} if fusion in FUSIONS else {}
    settings = ModelSettings(n_classes=3, fusion=fusion, **{"mlp_hidden_dim": 4, **options})
    return build_head(widths, settings).eval()


def make_features(fusion: str, n: int = 5, seed: int = 1) -> tuple[Tensor, ...]:
    """Return what a fusion reads of n utterances: features, tokens, or one branch."""
    torch.manual_seed(seed)
    shapes = [(n, 4, 8), (n, 3, 6)] if FUSIONS[fusion].reads_tokens else [(n, 8), (n, 6)]
    cqt, mel = (torch.randn(shape) for shape in shapes)
    if fusion in ONE_BRANCH:
        return (torch.randn(n, WIDTHS[ONE_BRANCH[fusion]]),)
    return cqt, mel


def gate_forced_by_weights(head: FusionHead, bias: float) -> FusionHead:
    """Give the gate the same value for all utterances."""
    nn.init.zeros_(head.gmu.gate.weight)
    nn.init.constant_(head.gmu.gate.bias, bias)
    return head


def test_every_fusion_of_the_table_has_a_head_and_no_other() -> None:
    assert list(HEADS) == list(FUSIONS)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_head_is_what_the_table_says_of_it(fusion: str) -> None:
    facts, head = FUSIONS[fusion], make_head(fusion)
    children = dict(head.named_children())
    assert (head.gmu is not None) == facts.gated == ("gmu" in children) == head.has_one_gate
    assert (fusion in CONTRASTIVE) == facts.contrastive and (fusion in TOKENS) == facts.reads_tokens
    assert ({"view_cqt", "view_mel"} <= children.keys()) == facts.contrastive
    assert ("attention" in children) == facts.reads_tokens
    assert (facts.gated or "projections" in children) == facts.projects
    wider = make_head(fusion, fusion_hidden_dim=16)
    assert (n_parameters(wider) > n_parameters(head)) == facts.projects


# What a head returns


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_head_returns_the_same_type(fusion: str) -> None:
    output = make_head(fusion)(*make_features(fusion))
    assert type(output) is FusionOutput and output.logits.shape == (5, 3)
    assert (output.gate is not None) == (fusion in GATED)
    assert (output.views is None) == (output.pooled is None) == (fusion not in CONTRASTIVE)


SHARED = ("cross_attention_contrastive", {"projection": "shared"})


@pytest.mark.parametrize(("fusion", "options"), [*((f, {}) for f in FUSIONS), SHARED])
def test_all_parameters_of_a_head_get_a_gradient(fusion: str, options: dict[str, str]) -> None:
    """DDP waits for each."""
    head = make_head(fusion, **options).train()
    output = head(*make_features(fusion))
    loss = output.logits.square().mean()
    if output.views is not None:
        loss = loss + torch.stack(output.views).prod(0).mean()
    loss.backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_views_have_the_width_asked_for() -> None:
    output = make_head("gmu_contrastive", projection_dim=5)(*make_features("gmu_contrastive"))
    assert [view.shape for view in output.views] == [(5, 5)] * 2


def test_views_come_from_their_own_branch() -> None:
    head = make_head("gmu_contrastive")
    feat_cqt, feat_mel = make_features("gmu_contrastive")
    first, second = head(feat_cqt, feat_mel).views, head(feat_cqt + 1, feat_mel).views
    assert [torch.equal(*pair) for pair in zip(first, second, strict=True)] == [False, True]


@pytest.mark.parametrize("fusion", CONTRASTIVE)
def test_separate_views_are_three_layers_on_the_projections(fusion: str) -> None:
    head, features = make_head(fusion), make_features(fusion)
    output = head(*features)
    _, _, *h = head.gmu(*output.pooled)
    for view, z, hidden in zip((head.view_cqt, head.view_mel), output.views, h, strict=True):
        assert [type(layer) for layer in view] == [nn.Linear, nn.ReLU, nn.Linear]
        plain = (hidden @ view[0].weight.T + view[0].bias).clamp_min(0)
        torch.testing.assert_close(z, plain @ view[2].weight.T + view[2].bias)


def test_a_shared_head_reads_the_pooled_features_of_both_branches_with_one_set_of_weights() -> None:
    fusion, options = SHARED
    head = make_head(fusion, **options)
    assert not hasattr(head, "view_cqt") and not hasattr(head, "view_mel")
    separate = make_head(fusion)
    assert n_parameters(head.view) == n_parameters(separate.view_cqt) + 2 * 8  # the layer norm
    output = head(*make_features(fusion))
    w = dict(head.view.named_parameters())
    for z, pooled in zip(output.views, output.pooled, strict=True):
        hidden = (pooled @ w["0.weight"].T + w["0.bias"]).clamp_min(0)
        centred = hidden - hidden.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        plain = (normed * w["2.weight"] + w["2.bias"]) @ w["3.weight"].T + w["3.bias"]
        torch.testing.assert_close(z, plain)


@pytest.mark.parametrize("projection", ["separate", "shared"])
def test_the_pooled_features_of_the_whole_form_have_attended(projection: str) -> None:
    fusion = SHARED[0]
    head, (cqt, mel) = make_head(fusion, projection=projection), make_features(fusion)
    output = head(cqt, mel)
    pooled = head.attention(cqt, mel)
    for found, expected in zip(output.pooled, pooled, strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(output.gate, head.gmu(*pooled)[1])
    torch.testing.assert_close(output.logits, head.classify(head.gmu(*pooled)[0]))
    changed = head(cqt, mel.flip(2))
    assert not torch.allclose(changed.views[0], output.views[0])  # the CQT view depends on Mel


def test_without_attention_the_pooled_features_are_the_inputs() -> None:
    features = make_features("gmu_contrastive")
    output = make_head("gmu_contrastive")(*features)
    assert all(map(torch.equal, output.pooled, features)) and len(output.pooled) == 2


def test_a_shared_head_needs_features_of_one_width() -> None:
    with pytest.raises(InputError, match="shared needs .*the CQT branch has 8, the Mel .* 6"):
        make_head("gmu_contrastive", projection="shared")
    settings = ModelSettings(n_classes=3, fusion="gmu_contrastive", projection="shared")
    head = build_head({"cqt": 8, "mel": 8}, settings).eval()
    assert head(torch.randn(5, 8), torch.randn(5, 8)).views[0].shape == (5, 128)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="concat, mean, .*cqt_only, mel_only.*, got 'add'"):
        make_head("add")


@pytest.mark.parametrize("fusion", ONE_BRANCH)
def test_a_single_branch_is_classified_alone(fusion: str) -> None:
    head, (feature,) = make_head(fusion), make_features(fusion)
    torch.testing.assert_close(head(feature).logits, head.classify(feature))
    with pytest.raises(TypeError):
        head(*make_features("concat"))


# The gate


@pytest.mark.parametrize("gate", ["vector", "scalar"])
@pytest.mark.parametrize("gate_input", ["projected", "features"])
def test_the_gmu_is_five_plain_lines(gate_input: str, gate: str) -> None:
    gmu = GMU({"cqt": 5, "mel": 3}, 4, gate_input, gate)
    feat_cqt, feat_mel = torch.randn(2, 5), torch.randn(2, 3)
    w = dict(gmu.named_parameters())
    h_cqt = torch.tanh(feat_cqt @ w["project_cqt.weight"].T + w["project_cqt.bias"])
    h_mel = torch.tanh(feat_mel @ w["project_mel.weight"].T + w["project_mel.bias"])
    read = torch.cat([h_cqt, h_mel] if gate_input == "projected" else [feat_cqt, feat_mel], 1)
    plain = 1 / (1 + torch.exp(-(read @ w["gate.weight"].T + w["gate.bias"])))
    assert plain.shape == (2, 4 if gate == "vector" else 1)
    expected = (plain * h_cqt + (1 - plain) * h_mel, plain, h_cqt, h_mel)
    for found, value in zip(gmu(feat_cqt, feat_mel), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_a_scalar_gate_by_hand() -> None:
    gmu = GMU({"cqt": 1, "mel": 1}, 2, gate="scalar")
    for parameter in gmu.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(gmu.project_cqt.bias, math.atanh(0.5))
    nn.init.constant_(gmu.project_mel.bias, math.atanh(-0.5))
    nn.init.constant_(gmu.gate.bias, math.log(3))  # sigmoid of it is 3 / 4
    fused, gate, *_ = gmu(torch.ones(1, 1), torch.ones(1, 1))
    assert gate.tolist() == [[pytest.approx(0.75)]]
    assert fused.tolist() == [[pytest.approx(0.75 * 0.5 - 0.25 * 0.5)] * 2]


@pytest.mark.parametrize("gate", ["vector", "scalar"])
@pytest.mark.parametrize(("bias", "trusted"), [(100.0, 2), (-100.0, 3)])
def test_gate_1_is_the_cqt_and_gate_0_the_mel(gate: str, bias: float, trusted: int) -> None:
    head = gate_forced_by_weights(make_head("gmu", gate=gate), bias)
    features = make_features("gmu")
    found = head.gmu(*features)
    torch.testing.assert_close(found[0], found[trusted])
    assert found[1].unique().tolist() == [float(bias > 0)]
    torch.testing.assert_close(head(*features, forced_gate=float(bias > 0)), head(*features))


@pytest.mark.parametrize("fusion", GATED)
def test_a_forced_gate_overrides_its_own_values(fusion: str) -> None:
    head, features = make_head(fusion), make_features(fusion)
    for forced in (0.0, 0.5, 1.0):
        output = head(*features, forced_gate=forced)
        assert output.gate.unique().tolist() == [forced] and output.gate.shape == (5, 8)
    joined = [head(*features, forced_gate=forced).logits for forced in (0.0, 1.0)]
    assert not torch.allclose(*joined)


@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_mean_is_a_gmu_whose_gate_is_a_half_and_sum_twice_that(gate: str) -> None:
    mean, total, gmu = make_head("mean"), make_head("sum"), make_head("gmu", gate=gate)
    for head in (mean, total):
        weights = {name: gmu.gmu.get_parameter(name) for name in head.projections.state_dict()}
        head.projections.load_state_dict(weights)
        head.classify.load_state_dict(gmu.classify.state_dict())
    features = make_features("gmu")
    fused = gmu.gmu(*features, forced_gate=0.5)[0]
    torch.testing.assert_close(mean(*features).logits, gmu.classify(fused))
    torch.testing.assert_close(mean(*features).logits, gmu(*features, forced_gate=0.5).logits)
    torch.testing.assert_close(total(*features).logits, gmu.classify(2 * fused))


def test_concat_classifies_both_features_side_by_side() -> None:
    head, features = make_head("concat"), make_features("concat")
    torch.testing.assert_close(head(*features).logits, head.classify(torch.cat(features, 1)))


# Widths and sizes


def test_fusion_hidden_dim_sets_the_width_of_the_fused_vector() -> None:
    for fusion in ("mean", "sum", *GATED):
        head = make_head(fusion, fusion_hidden_dim=12)
        assert head.classify[0].in_features == 12
        assert head(*make_features(fusion)).logits.shape == (5, 3)


@pytest.mark.parametrize(("gate_input", "width"), [(None, 10), ("projected", 10), ("features", 14)])
def test_gate_input_says_what_the_gate_reads(gate_input: str | None, width: int) -> None:
    assert (
        make_head("gmu", fusion_hidden_dim=5, gate_input=gate_input).gmu.gate.in_features == width
    )


@pytest.mark.parametrize("fusion", MATCHED)
@pytest.mark.parametrize(
    ("sizes", "n_classes", "width", "mlp"),
    [
        ((768, 768), 4, None, 512),  # as published
        ((128, 384), 8, None, 128),  # the small recipes
        ((128, 384), 4, 512, 16),
        ((8, 6), 3, 1, 4),
        ((64, 8), 2, 100, 100),
    ],
)
def test_matched_heads_have_the_parameters_of_the_gmu(fusion, sizes, n_classes, width, mlp) -> None:
    def head(fusion: str, match: bool | None) -> FusionHead:
        settings = ModelSettings(
            n_classes=n_classes,
            fusion=fusion,
            fusion_hidden_dim=width,
            match_parameters=match,
            mlp_hidden_dim=mlp,
        )
        with torch.device("meta"):
            return build_head(dict(zip(("cqt", "mel"), sizes, strict=True)), settings)

    matched = head(fusion, True)
    one_unit = {  # parameters that one more unit has, by hand
        "concat": sum(sizes) + 1 + 2 + n_classes,  # in, bias, norm, out
        "mean": sum(sizes) + 2 + mlp,  # in and bias of each branch, out
        "sum": sum(sizes) + 2 + mlp,
    }[fusion]
    away = n_parameters(matched) - n_parameters(head("gmu", None))
    assert abs(away) <= one_unit / 2 or matched.classify[0].out_features == 1
    if fusion != "concat":
        assert matched.classify[0].out_features == mlp


@pytest.mark.parametrize("fusion", [f for f in FUSIONS if f not in MATCHED])
def test_a_fusion_without_a_free_width_cannot_match(fusion: str) -> None:
    with pytest.raises(ValueError, match=f"only concat, mean, sum can match.*{fusion}"):
        make_head(fusion, match_parameters=True)


@pytest.mark.parametrize(("width", "heads"), [(8, 3), (6, 4), (1, 2)])
def test_heads_that_do_not_divide_the_width_are_refused(width: int, heads: int) -> None:
    words = f"model.attention_heads={heads} must divide .*{width} .model.fusion_hidden_dim"
    with pytest.raises(InputError, match=words):
        make_head("cross_attention", fusion_hidden_dim=width, attention_heads=heads)
