"""Contrastive terms of three views and more: means over pairs, by a library and plain lines."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.contrastive import (
    FORMS,
    SAME_CLASS,
    alignment,
    consistency,
    diversity,
    mean_over,
    nt_xent,
    pairs_of,
)
from models.losses import FusionLoss, LossTerms

NAMES = ("cqt", "mel", "speech", "file")
TARGETS = torch.tensor([0, 1, 0, 2, 1, 0])
LOGITS = torch.zeros(6, 3)
ALL = [(form, same) for form in FORMS for same in SAME_CLASS]


def make_views(k: int = 3, n: int = 6, width: int = 5, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(n, width, requires_grad=True) for _ in range(k)]


def terms_of(views: list[Tensor], features: list[Tensor] | None = None, **options) -> LossTerms:
    loss = FusionLoss(**{"alpha": 0.3, "temperature": 0.2, **options})
    return loss(LOGITS, TARGETS, views, features=features)


def plain_nt_xent(z_cqt: Tensor, z_mel: Tensor, temperature: float) -> float:
    """Each of 2B views searches its partner among the other 2B - 1, in loops."""
    both = [z / z.norm() for z in (*z_cqt.detach(), *z_mel.detach())]
    n, total = len(z_cqt), 0.0
    for i, own in enumerate(both):
        ratios = [math.exp(own @ other / temperature) for other in both]
        partner = ratios[(i + n) % (2 * n)]
        total -= math.log(partner / (sum(ratios) - ratios[i])) / (2 * n)
    return total


def plain_angles(a: Tensor, b: Tensor) -> tuple[float, float]:
    """L_con and L_div of two sources, in loops."""
    pairs = [(x / x.norm(), y / y.norm()) for x, y in zip(a.detach(), b.detach(), strict=True)]
    con = 1 - sum(float(x @ y) for x, y in pairs) / len(pairs)
    return con, sum(float((x - y).norm()) for x, y in pairs) / len(pairs)


@given(
    k=st.integers(2, 4),
    n=st.integers(2, 6),
    width=st.integers(2, 6),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_nt_xent_of_views_is_the_mean_of_pytorch_metric_learning_over_pairs(
    k: int, n: int, width: int, temperature: float, seed: int
) -> None:
    library = pytest.importorskip("pytorch_metric_learning.losses").NTXentLoss(temperature)
    views, utterances = make_views(k, n, width, seed), torch.arange(n).repeat(2)
    each = [library(torch.cat(pair), utterances) for pair in combinations(views, 2)]
    found = FusionLoss(temperature=temperature)(LOGITS[:n], TARGETS[:n], views).nt_xent
    torch.testing.assert_close(found, sum(each) / len(each), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("contrast", "places"),
    [
        ("pairs", [(0, 1), (0, 2), (1, 2)]),
        ("cqt", [(0, 1), (0, 2)]),
        ("mel", [(0, 1), (1, 2)]),
        ("speech", [(0, 2), (1, 2)]),
    ],
)
@pytest.mark.parametrize("alpha_on", ["views", "features"])
def test_all_terms_are_means_over_their_pairs_in_plain_lines(contrast, places, alpha_on) -> None:
    views, features = make_views(), make_views(width=9, seed=2)
    terms = terms_of(views, features, contrast=contrast, branches=NAMES[:3], alpha_on=alpha_on)
    acted_on = views if alpha_on == "views" else features
    n = len(places)
    contrast_term = sum(plain_nt_xent(views[i], views[j], 0.2) for i, j in places) / n
    angles = [plain_angles(acted_on[i], acted_on[j]) for i, j in places]
    con, div = (sum(column) / n for column in zip(*angles, strict=True))
    found = [float(term.detach()) for term in terms[2:]]
    assert found == pytest.approx([contrast_term, con, div], rel=1e-5)
    total = math.log(3) + contrast_term + 0.3 * (con + div)
    assert float(terms.total.detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("form", "same"), ALL)
@pytest.mark.parametrize("contrast", ["pairs", "cqt", "mel"])
def test_of_two_sources_every_contrast_is_the_one_term_to_the_bit(form, same, contrast) -> None:
    views = make_views(2)
    terms = terms_of(views, contrast=contrast, nt_xent=form, same_class=same)
    plain = (
        nt_xent(*views, 0.2, form, TARGETS, same),
        consistency(*views),
        diversity(*views),
    )
    assert all(map(torch.equal, terms[2:], plain))
    total = terms.cross_entropy + plain[0] + 0.3 * (plain[1] + plain[2])
    assert torch.equal(terms.total, total)
    slopes = (torch.autograd.grad(t, views, retain_graph=True) for t in (terms.total, total))
    assert all(map(torch.equal, *slopes))


@pytest.mark.parametrize(("form", "same"), ALL)
def test_every_form_of_four_sources_is_a_mean_over_six_pairs(form: str, same: str) -> None:
    views = make_views(4)
    pairs = list(combinations(views, 2))
    expected = sum(nt_xent(a, b, 0.2, form, TARGETS, same) for a, b in pairs) / 6
    found = terms_of(views, nt_xent=form, same_class=same).nt_xent
    torch.testing.assert_close(found, expected)


def test_views_that_are_all_equal_weigh_as_one_pair() -> None:
    """Means, not sums: the weight of a term does not grow with the number of sources."""
    (view,) = make_views(1)
    for contrast in ("pairs", "cqt"):
        found = terms_of([view] * 4, contrast=contrast, branches=NAMES)
        torch.testing.assert_close(found, terms_of([view, view]))


@pytest.mark.parametrize("form", ["simclr", "symmetric"])
def test_the_order_of_sources_does_not_matter_to_all_pairs(form: str) -> None:
    views = make_views(3)
    expected = terms_of(views, nt_xent=form)
    torch.testing.assert_close(terms_of([views[i] for i in (2, 0, 1)], nt_xent=form), expected)


def test_one_way_the_earlier_source_searches_in_the_later() -> None:
    views = make_views(3)
    found = terms_of(views, nt_xent="cross_modal", contrast="speech", branches=NAMES[:3]).nt_xent
    expected = [nt_xent(views[i], views[2], 0.2, "cross_modal") for i in (0, 1)]
    torch.testing.assert_close(found, sum(expected) / 2)
    backwards = nt_xent(views[2], views[0], 0.2, "cross_modal")
    assert not torch.allclose(backwards, expected[0])


@pytest.mark.parametrize("term", ["nt_xent", "consistency", "diversity"])
def test_gradients_reach_every_view_and_not_between_others_of_an_anchor(term: str) -> None:
    views = make_views(4)
    for contrast in ("pairs", "file"):
        value = getattr(terms_of(views, contrast=contrast, branches=NAMES), term)
        assert all(bool(slope.any()) for slope in torch.autograd.grad(value, views))
    loss = terms_of(
        [views[0], views[1].detach(), views[2].detach()], contrast="mel", branches=NAMES[:3]
    )
    alone = terms_of([views[0], views[1].detach()])
    found, expected = (torch.autograd.grad(getattr(t, term), views[0])[0] for t in (loss, alone))
    torch.testing.assert_close(found, expected / 2)  # cqt is compared with the anchor alone


def test_pairs_and_their_mean_by_hand() -> None:
    views = [torch.tensor([float(i)]) for i in range(4)]
    assert [(int(a), int(b)) for a, b in pairs_of(views, anchor=2)] == [(0, 2), (1, 2), (2, 3)]
    assert len(pairs_of(views)) == 6
    products = mean_over(pairs_of(views, anchor=3), lambda a, b: (a * b).sum())
    assert float(products) == (0 + 3 + 6) / 3
    z = torch.eye(2)
    turned = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # at right angles: squared distance 2
    assert float(mean_over(pairs_of([z, z, turned]), alignment)) == pytest.approx(4 / 3)


@pytest.mark.parametrize("contrast", ["speech", "anchor", "", "PAIRS"])
def test_an_anchor_that_is_no_branch_is_refused(contrast: str) -> None:
    with pytest.raises(ValueError, match="contrast must be one of pairs, cqt, mel, got"):
        FusionLoss(contrast=contrast)


@pytest.mark.parametrize("k", [2, 4])
def test_views_of_other_branches_than_those_of_an_anchor_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"branches cqt, mel, speech, got {k} views"):
        terms_of(make_views(k), contrast="cqt", branches=NAMES[:3])
