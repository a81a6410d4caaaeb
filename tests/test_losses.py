"""The loss terms: against an independent library, five plain lines, and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from augment import Mix
from losses import FusionLoss, consistency, diversity, nt_xent


def views(n=6, width=5, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, width, requires_grad=True), torch.randn(n, width, requires_grad=True)


def logits_and_targets(n=6, k=4):
    torch.manual_seed(1)
    return torch.randn(n, k, requires_grad=True), torch.arange(n) % k


@given(st.integers(2, 9), st.integers(1, 8), st.floats(0.05, 2.0), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_peer_17_simclr_is_nt_xent_of_pytorch_metric_learning(n, width, temperature, seed):
    library = pytest.importorskip("pytorch_metric_learning.losses")
    z_cqt, z_mel = views(n, width, seed)
    clips = torch.arange(n)
    expected = library.NTXentLoss(temperature)(torch.cat([z_cqt, z_mel]), torch.cat([clips, clips]))
    torch.testing.assert_close(nt_xent(z_cqt, z_mel, temperature), expected, rtol=1e-4, atol=1e-5)


def test_cross_modal_is_five_plain_lines():
    z_cqt, z_mel = (z.detach() for z in views())
    total = 0.0
    for i in range(len(z_cqt)):
        ratios = [math.exp(F.cosine_similarity(z_cqt[i], z, dim=0) / 0.3) for z in z_mel]
        total -= math.log(ratios[i] / sum(ratios)) / len(z_cqt)
    assert float(nt_xent(z_cqt, z_mel, 0.3, "cross_modal")) == pytest.approx(total, rel=1e-5)


def test_peer_17_cross_modal_looks_one_way_and_simclr_both():
    z_cqt, z_mel = (z.detach() for z in views())
    both = nt_xent(z_cqt, z_mel, 0.3), nt_xent(z_mel, z_cqt, 0.3)
    torch.testing.assert_close(*both)
    one_way = [nt_xent(*pair, 0.3, "cross_modal") for pair in ((z_cqt, z_mel), (z_mel, z_cqt))]
    assert abs(float(one_way[0] - one_way[1])) > 1e-3


@pytest.mark.parametrize(
    ("form", "negatives"),
    [("simclr", 2), ("cross_modal", 1)],  # of each view
)
def test_two_clips_by_hand(form, negatives):
    z = torch.eye(2)  # both views of a clip agree, the clips are orthogonal
    e = math.exp(1 / 0.5)  # the partner's similarity is 1, a negative's 0, temperature 0.5
    expected = -math.log(e / (e + negatives))
    assert float(nt_xent(z, 3 * z, 0.5, form)) == pytest.approx(expected)


@pytest.mark.parametrize("form", ["simclr", "cross_modal"])
def test_nt_xent_is_lower_for_partners_that_agree(form):
    z_cqt, z_mel = views()
    assert nt_xent(z_cqt, z_cqt, 0.1, form) < nt_xent(z_cqt, z_mel, 0.1, form)
    assert nt_xent(z_cqt, z_cqt, 0.1, form) < nt_xent(z_cqt, z_cqt.roll(1, 0), 0.1, form)


@pytest.mark.parametrize("term", [consistency, diversity, lambda a, b: nt_xent(a, b, 0.1)])
def test_the_length_of_a_view_does_not_matter(term):
    z_cqt, z_mel = views()
    torch.testing.assert_close(term(z_cqt, z_mel), term(7 * z_cqt, z_mel / 3))


def test_consistency_is_1_minus_the_mean_cosine():
    z_cqt, z_mel = (z.detach() for z in views())
    cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(z_cqt, z_mel, strict=True)]
    assert float(consistency(z_cqt, z_mel)) == pytest.approx(1 - sum(cosines) / 6, rel=1e-5)
    assert float(consistency(z_cqt, z_cqt)) == pytest.approx(0, abs=1e-6)
    assert float(consistency(z_cqt, -z_cqt)) == pytest.approx(2)


def test_diversity_is_the_mean_distance_of_the_unit_views():
    z_cqt, z_mel = (z.detach() for z in views())
    distances = [
        float((a / a.norm() - b / b.norm()).norm()) for a, b in zip(z_cqt, z_mel, strict=True)
    ]
    assert float(diversity(z_cqt, z_mel)) == pytest.approx(sum(distances) / 6, rel=1e-5)
    assert float(diversity(z_cqt, -z_cqt)) == pytest.approx(2)


@pytest.mark.parametrize("term", [consistency, diversity])
def test_peer_17_minimising_diversity_pulls_the_views_together_as_consistency_does(term):
    z_cqt, z_mel = views()
    before = F.cosine_similarity(z_cqt, z_mel).mean()
    pull_cqt, pull_mel = torch.autograd.grad(term(z_cqt, z_mel), (z_cqt, z_mel))
    after = F.cosine_similarity(z_cqt - 0.1 * pull_cqt, z_mel - 0.1 * pull_mel).mean()
    assert after > before


@pytest.mark.parametrize("z", [torch.ones(3, 4), torch.zeros(3, 4)])
def test_gradients_are_finite_where_views_are_equal_or_zero(z):
    z_cqt, z_mel = z.clone().requires_grad_(), z.clone().requires_grad_()
    logits, targets = logits_and_targets(3)
    FusionLoss()(logits, targets, (z_cqt, z_mel)).total.backward()
    assert z_cqt.grad.isfinite().all() and z_mel.grad.isfinite().all()


@pytest.mark.parametrize("form", ["simclr", "cross_modal"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.5])
def test_the_total_is_the_published_sum(alpha, form):
    pair = views()
    logits, targets = logits_and_targets()
    terms = FusionLoss(alpha, 0.2, form)(logits, targets, pair)
    total = (
        F.cross_entropy(logits, targets)
        + nt_xent(*pair, 0.2, form)
        + alpha * (consistency(*pair) + diversity(*pair))
    )
    torch.testing.assert_close(terms.total, total)
    parts = terms.cross_entropy + terms.nt_xent + alpha * (terms.consistency + terms.diversity)
    torch.testing.assert_close(terms.total, parts)


def test_without_views_there_is_cross_entropy_alone():
    terms = FusionLoss(alpha=1.0)(*logits_and_targets(), None)
    assert terms.total is terms.cross_entropy
    assert (terms.nt_xent, terms.consistency, terms.diversity) == (None, None, None)


def test_class_weights_and_label_smoothing_are_torchs():
    logits, targets = logits_and_targets()
    weights = torch.tensor([0.1, 1.0, 2.0, 5.0])
    found = FusionLoss(label_smoothing=0.2, class_weights=weights)(logits, targets, None)
    expected = F.cross_entropy(logits, targets, weights, label_smoothing=0.2)
    torch.testing.assert_close(found.total, expected)
    assert found.total != F.cross_entropy(logits, targets)


def test_gradients_reach_logits_and_both_views():
    logits, targets = logits_and_targets()
    pair = views()
    FusionLoss()(logits, targets, pair).total.backward()
    for tensor in (logits, *pair):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0


def test_peer_20_the_loss_is_float32_for_bfloat16_outputs():
    logits, targets = logits_and_targets()
    pair = tuple(z.bfloat16() for z in views())
    terms = FusionLoss()(logits.bfloat16(), targets, pair)
    assert {term.dtype for term in terms} == {torch.float32}
    rounded = FusionLoss()(logits.bfloat16().float(), targets, tuple(z.float() for z in pair))
    torch.testing.assert_close(terms.total, rounded.total)


def test_detached_terms_have_no_graph():
    logits, targets = logits_and_targets()
    terms = FusionLoss()(logits, targets, None).detach()
    assert not terms.total.requires_grad and terms.nt_xent is None


def mixed(shares):
    return Mix(torch.arange(len(shares)).roll(1), torch.tensor(shares))


def test_mixed_clips_count_with_both_targets_in_their_parts():
    logits, targets = logits_and_targets()
    shares = [1.0, 0.0, 0.5, 0.25, 0.9, 0.6]
    found = FusionLoss()(logits, targets, None, mixed(shares)).cross_entropy
    each = F.cross_entropy(logits, targets, reduction="none")
    other = F.cross_entropy(logits, targets.roll(1), reduction="none")
    parts = torch.tensor(shares)
    torch.testing.assert_close(found, (parts * each + (1 - parts) * other).mean())


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 3.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mix_of_nothing_else_is_the_plain_loss(weights, smoothing):
    logits, targets = logits_and_targets()
    loss = FusionLoss(label_smoothing=smoothing, class_weights=weights)
    plain = F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, targets, None).total, plain)
    torch.testing.assert_close(loss(logits, targets, None, mixed([1.0] * 6)).total, plain)
    swapped = F.cross_entropy(logits, targets.roll(1), weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, targets, None, mixed([0.0] * 6)).total, swapped)
