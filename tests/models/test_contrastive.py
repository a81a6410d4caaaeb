"""Contrastive terms: against an independent library, plain loops, torch's own, and by hand."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from models.contrastive import (
    FORMS,
    SAME_CLASS,
    alignment,
    consistency,
    diversity,
    nt_xent,
    uniformity,
)

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])  # one clip is alone in its class
ALL = [(form, same) for form in FORMS for same in SAME_CLASS]
drawn = given(
    n=st.integers(2, 9),
    width=st.integers(1, 8),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 99),
)


def views(n: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(n, width, requires_grad=True), torch.randn(n, width, requires_grad=True)


def some_labels(n: int, seed: int) -> Tensor:
    return torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))


# NT-Xent


@drawn
@settings(max_examples=15)
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


@drawn
@settings(max_examples=15)
def test_symmetric_is_the_loss_of_clip(n, width, temperature, seed):
    z_cqt, z_mel = views(n, width, seed)
    logits = F.normalize(z_cqt) @ F.normalize(z_mel).T / temperature
    own = torch.arange(n)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    found = nt_xent(z_cqt, z_mel, temperature, "symmetric")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_peer_17_cross_modal_looks_one_way_and_the_others_both():
    z_cqt, z_mel = (z.detach() for z in views())
    for form in FORMS:
        one, other = nt_xent(z_cqt, z_mel, 0.3, form), nt_xent(z_mel, z_cqt, 0.3, form)
        assert torch.allclose(one, other) == (form != "cross_modal")


@pytest.mark.parametrize(
    ("form", "negatives"),
    [("simclr", 2), ("cross_modal", 1), ("symmetric", 1)],  # of each view
)
def test_two_clips_by_hand(form, negatives):
    z = torch.eye(2)  # both views of a clip agree, the clips are orthogonal
    e = math.exp(1 / 0.5)  # the partner's similarity is 1, a negative's 0, temperature 0.5
    expected = -math.log(e / (e + negatives))
    assert float(nt_xent(z, 3 * z, 0.5, form)) == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_nt_xent_is_lower_for_partners_that_agree(form):
    z_cqt, z_mel = views()
    assert nt_xent(z_cqt, z_cqt, 0.1, form) < nt_xent(z_cqt, z_mel, 0.1, form)
    assert nt_xent(z_cqt, z_cqt, 0.1, form) < nt_xent(z_cqt, z_cqt.roll(1, 0), 0.1, form)


# Clips of one class


@drawn
@settings(max_examples=15)
def test_positives_are_supcon_of_pytorch_metric_learning(n, width, temperature, seed):
    library = pytest.importorskip("pytorch_metric_learning.losses")
    z_cqt, z_mel = views(n, width, seed)
    labels = some_labels(n, seed)
    assume(len(labels.unique()) > 1)  # the library returns 0 where there is one class alone
    expected = library.SupConLoss(temperature)(torch.cat([z_cqt, z_mel]), labels.repeat(2))
    found = nt_xent(z_cqt, z_mel, temperature, "simclr", labels, "positives")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_positives_are_equation_2_of_khosla_in_plain_loops():
    pair = tuple(z.detach().double() for z in views())
    z, y = F.normalize(torch.cat(pair)), LABELS.repeat(2).tolist()
    anchors = range(len(z))
    total = 0.0
    for i in anchors:
        others = [a for a in anchors if a != i]
        below = sum(math.exp(z[i] @ z[a] / 0.2) for a in others)
        partners = [p for p in others if y[p] == y[i]]
        logs = [math.log(math.exp(z[i] @ z[p] / 0.2) / below) for p in partners]
        total -= sum(logs) / len(partners)
    found = nt_xent(*pair, 0.2, "simclr", LABELS, "positives")
    assert float(found) == pytest.approx(total / len(z), rel=1e-9)


def test_cross_modal_positives_in_plain_loops():
    a, b = (F.normalize(z.detach().double()) for z in views())
    n, total = len(a), 0.0
    for i in range(n):
        below = sum(math.exp(a[i] @ b[j] / 0.2) for j in range(n))
        kin = [j for j in range(n) if LABELS[j] == LABELS[i]]
        total -= sum(math.log(math.exp(a[i] @ b[j] / 0.2) / below) for j in kin) / len(kin)
    found = nt_xent(a, b, 0.2, "cross_modal", LABELS, "positives")
    assert float(found) == pytest.approx(total / n, rel=1e-9)


@pytest.mark.parametrize(
    ("form", "lone", "twin"),
    [("simclr", 4, 2), ("cross_modal", 2, 1), ("symmetric", 2, 1)],  # negatives that are left
)
def test_ignored_by_hand(form, lone, twin):
    """Three orthogonal clips, the first two of one class: these have the third's views alone."""
    z = torch.eye(3)
    e = math.exp(1 / 0.5)
    expected = -(2 * math.log(e / (e + twin)) + math.log(e / (e + lone))) / 3
    found = nt_xent(z, z, 0.5, form, torch.tensor([7, 7, 1]), "ignored")
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_ignored_is_nt_xent_among_those_that_are_left(form):
    """Of each clip: the loss among itself and the clips of other classes, where it is found."""
    a, b = (z.detach().double() for z in views())
    total, n = 0.0, len(a)
    for i in range(n):
        left = [i, *(j for j in range(n) if LABELS[j] != LABELS[i])]
        for first, second, counts in ((a, b, True), (b, a, form != "cross_modal")):
            candidates = torch.cat([second[left], first[left[1:]]][: 2 if form == "simclr" else 1])
            similarity = F.cosine_similarity(first[i][None], candidates) / 0.2
            total -= float(similarity.log_softmax(0)[0]) * counts
    expected = total / (n if form == "cross_modal" else 2 * n)
    found = nt_xent(a, b, 0.2, form, LABELS, "ignored")
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("form", "same"), ALL)
def test_classes_of_one_clip_each_are_plain_nt_xent(form, same):
    pair = views()
    plain = nt_xent(*pair, 0.2, form)
    torch.testing.assert_close(nt_xent(*pair, 0.2, form, torch.arange(6).flip(0), same), plain)


@pytest.mark.parametrize("form", FORMS)
def test_labels_never_matter_where_clips_of_a_class_are_negatives(form):
    pair = views()
    plain = nt_xent(*pair, 0.2, form)
    for labels in (LABELS, torch.zeros_like(LABELS)):
        assert torch.equal(nt_xent(*pair, 0.2, form, labels), plain)
        for same in ("ignored", "positives"):
            assert not torch.allclose(nt_xent(*pair, 0.2, form, labels, same), plain)


@pytest.mark.parametrize(("form", "same"), ALL)
def test_one_class_alone_is_finite_and_so_is_its_slope(form, same):
    pair = views(4)
    loss = nt_xent(*pair, 0.07, form, torch.zeros(4, dtype=torch.long), same)
    loss.backward()
    assert loss.isfinite() and all(z.grad.isfinite().all() for z in pair)
    if same == "ignored":
        assert loss.item() == 0  # nothing is left to tell a clip from


@pytest.mark.parametrize("wrong", [("clip", "negatives"), ("simclr", "masked")])
def test_an_unknown_word_is_refused(wrong):
    form, same = wrong
    with pytest.raises(
        ValueError, match="form must be one of simclr, .* same_class one of negatives"
    ):
        nt_xent(*views(), 0.1, form, LABELS, same)


@pytest.mark.parametrize("same", ["ignored", "positives"])
def test_labels_are_asked_for_where_they_are_needed(same):
    with pytest.raises(ValueError, match=f"'{same}' needs the labels"):
        nt_xent(*views(), 0.1, "simclr", None, same)


# All forms


@pytest.mark.parametrize(("form", "same"), ALL)
def test_slopes_are_those_of_finite_differences(form, same):
    z_cqt, z_mel = (z.detach().double().requires_grad_() for z in views(5, 3))
    heat = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    labels = LABELS[:5]
    assert torch.autograd.gradcheck(
        lambda a, b, t: nt_xent(a, b, t, form, labels, same), (z_cqt, z_mel, heat)
    )


@pytest.mark.parametrize(("form", "same"), ALL)
@pytest.mark.parametrize("temperature", [1e-4, 1e4])  # the ends of the schema
@pytest.mark.parametrize("kind", ["noise", "equal", "opposite", "zero"])
def test_nothing_is_nan_at_the_ends_of_the_temperature(form, same, temperature, kind):
    z_cqt, z_mel = views()
    made = {"noise": z_mel, "equal": z_cqt, "opposite": -z_cqt, "zero": 0 * z_mel}[kind]
    heat = torch.tensor(temperature, requires_grad=True)
    loss = nt_xent(z_cqt, made, heat, form, LABELS, same)
    loss.backward()
    assert loss.isfinite() and heat.grad.isfinite() and z_cqt.grad.isfinite().all()


@pytest.mark.parametrize(("form", "same"), ALL)
def test_two_clips_are_enough(form, same):
    pair = views(2)
    for labels in (torch.tensor([0, 1]), torch.tensor([1, 1])):
        assert nt_xent(*pair, 0.1, form, labels, same).isfinite()


@drawn
@settings(max_examples=15)
def test_the_order_of_clips_does_not_matter(n, width, temperature, seed):
    z_cqt, z_mel = views(n, width, seed)
    labels, order = some_labels(n, seed), torch.randperm(n)
    for form, same in ALL:
        found = nt_xent(z_cqt[order], z_mel[order], temperature, form, labels[order], same)
        expected = nt_xent(z_cqt, z_mel, temperature, form, labels, same)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@drawn
@settings(max_examples=15)
def test_views_may_be_swapped_but_for_cross_modal(n, width, temperature, seed):
    z_cqt, z_mel = views(n, width, seed)
    labels = some_labels(n, seed)
    for form, same in ALL:
        if form != "cross_modal":
            pair = [
                nt_xent(*both, temperature, form, labels, same)
                for both in ((z_cqt, z_mel), (z_mel, z_cqt))
            ]
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


@drawn
@settings(max_examples=15)
def test_the_length_of_a_view_does_not_matter(n, width, temperature, seed):
    z_cqt, z_mel = views(n, width, seed)
    scales = 10 ** torch.empty(n, 1).uniform_(-2, 2)
    labels = some_labels(n, seed)
    terms = [
        *(lambda a, b, how=how: nt_xent(a, b, temperature, how[0], labels, how[1]) for how in ALL),
        consistency,
        diversity,
        alignment,
        lambda a, b: uniformity(a) + uniformity(b),
    ]
    for term in terms:
        expected, found = term(z_cqt, z_mel), term(scales * z_cqt, z_mel / scales)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# Consistency, diversity


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


# Alignment, uniformity


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (torch.eye(3), 0.0),
        (-torch.eye(3), 4.0),
        (torch.eye(3).roll(1, 0), 2.0),
    ],  # identical, antipodal, orthogonal
)
def test_alignment_by_hand(other, expected):
    assert float(alignment(torch.eye(3), 5 * other)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (torch.ones(4, 3), 0.0),  # one point
        (torch.tensor([[1.0, 0], [-1, 0]]), -8.0),  # antipodal: squared distance 4
        (torch.eye(3), -4.0),  # orthogonal: 2
        (torch.ones(1, 3), 0.0),
    ],
)
def test_uniformity_by_hand(z, expected):
    assert float(uniformity(3 * z)) == pytest.approx(expected, abs=1e-6)


@drawn
@settings(max_examples=15)
def test_both_are_the_formulas_of_wang_and_isola(n, width, temperature, seed):
    x, y = (F.normalize(z.detach().double()) for z in views(n, width, seed))
    near = sum(float((a - b).norm()) ** 2 for a, b in zip(x, y, strict=True)) / n
    assert float(alignment(x, y)) == pytest.approx(near, rel=1e-9, abs=1e-12)
    pairs = [math.exp(-2 * float((a - b).norm()) ** 2) for a, b in combinations(x, 2)]
    even = math.log(sum(pairs) / len(pairs))
    assert float(uniformity(x)) == pytest.approx(even, rel=1e-6, abs=1e-9)
