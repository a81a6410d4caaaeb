"""The total loss against torch's own terms, and the learned temperature."""

import copy
import inspect
import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from audio.augment import Mix
from config.schema import LossConfig
from models.contrastive import FORMS, SAME_CLASS, consistency, diversity, nt_xent
from models.losses import SIGNS, FusionLoss, Temperature


def views(n=6, width=5, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, width, requires_grad=True), torch.randn(n, width, requires_grad=True)


def logits_and_targets(n=6, k=4):
    torch.manual_seed(1)
    return torch.randn(n, k, requires_grad=True), torch.arange(n) % k


def test_keywords_and_words_are_those_of_section_loss():
    fields = LossConfig.model_fields
    keywords = inspect.signature(FusionLoss).parameters
    of_others = {"contrast", "branches", "rating_scale"}  # from sections model and corpus
    assert set(keywords) == set(fields) | of_others
    assert all(word.kind is word.KEYWORD_ONLY for word in keywords.values())
    words = {"nt_xent": FORMS, "same_class": SAME_CLASS, "diversity": tuple(SIGNS)}
    words["alpha_on"] = ("views", "features")
    for key, allowed in words.items():
        assert get_args(get_args(fields[key].annotation)[0]) == allowed


@pytest.mark.parametrize("z", [torch.ones(3, 4), torch.zeros(3, 4)])
def test_gradients_are_finite_where_views_are_equal_or_zero(z):
    z_cqt, z_mel = z.clone().requires_grad_(), z.clone().requires_grad_()
    logits, targets = logits_and_targets(3)
    FusionLoss()(logits, targets, (z_cqt, z_mel)).total.backward()
    assert z_cqt.grad.isfinite().all() and z_mel.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("same", SAME_CLASS)
@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize(("done", "sign"), [("minimised", 1), ("maximised", -1)])
def test_the_total_is_the_published_sum_and_its_opposite(alpha, form, same, done, sign):
    pair = views()
    logits, targets = logits_and_targets()
    loss = FusionLoss(alpha=alpha, temperature=0.2, nt_xent=form, same_class=same, diversity=done)
    terms = loss(logits, targets, pair)
    total = (
        F.cross_entropy(logits, targets)
        + nt_xent(*pair, 0.2, form, targets, same)
        + alpha * (consistency(*pair) + sign * diversity(*pair))
    )
    torch.testing.assert_close(terms.total, total)
    parts = (
        terms.cross_entropy + terms.nt_xent + alpha * (terms.consistency + sign * terms.diversity)
    )
    torch.testing.assert_close(terms.total, parts)
    assert terms.diversity > 0  # logged without the sign


def plain_terms(logits, targets, views, pair, temperature):
    """Return cross-entropy, one-way NT-Xent, L_con and L_div in plain lines."""
    unit = [[z / z.norm() for z in side] for side in (*views, *pair)]
    n, ce, contrast, con, div = len(targets), 0.0, 0.0, 1.0, 0.0
    for i in range(n):
        ce -= math.log(logits[i].exp()[targets[i]] / logits[i].exp().sum()) / n
        ratios = [math.exp(unit[0][i] @ other / temperature) for other in unit[1]]
        contrast -= math.log(ratios[i] / sum(ratios)) / n
        con -= float(unit[2][i] @ unit[3][i]) / n
        div += float((unit[2][i] - unit[3][i]).norm()) / n
    return ce, contrast, con, div


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("alpha_on", ["views", "features"])
def test_the_total_is_its_terms_in_plain_lines(alpha_on, weight):
    (logits, targets), pairs = logits_and_targets(), {"views": views(), "features": views(6, 9, 2)}
    loss = FusionLoss(
        alpha=0.3, alpha_on=alpha_on, temperature=0.2, nt_xent="cross_modal", nt_xent_weight=weight
    )
    terms = loss(logits, targets, pairs["views"], features=pairs["features"])
    with torch.no_grad():
        plain = plain_terms(logits, targets, pairs["views"], pairs[alpha_on], 0.2)
    ce, contrast, con, div = plain
    assert [float(term.detach()) for term in terms[1:]] == pytest.approx(plain, rel=1e-5)
    assert float(terms.total.detach()) == pytest.approx(
        ce + weight * contrast + 0.3 * (con + div), rel=1e-5
    )


@pytest.mark.parametrize("alpha_on", ["views", "features"])
def test_l_con_and_l_div_pull_where_they_act_and_nt_xent_on_the_views(alpha_on):
    pairs, (logits, targets) = [views(), views(6, 9, 2)], logits_and_targets()
    loss = FusionLoss(alpha=1.0, alpha_on=alpha_on, nt_xent_weight=0.0)
    loss(logits, targets, pairs[0], features=pairs[1]).total.backward()
    slopes = [[z.grad is not None and bool(z.grad.any()) for z in pair] for pair in pairs]
    acts = alpha_on == "features"
    assert slopes == [[not acts] * 2, [acts] * 2]


def test_features_are_asked_for_where_they_are_needed():
    with pytest.raises(ValueError, match="needs the pooled features"):
        FusionLoss(alpha_on="features")(*logits_and_targets(), views())


def test_the_usual_total_is_the_published_sum_to_the_bit():
    pair, (logits, targets) = views(), logits_and_targets()
    terms = FusionLoss()(logits, targets, pair)
    sums = terms.cross_entropy + terms.nt_xent + 0.3 * (terms.consistency + terms.diversity)
    assert torch.equal(terms.total, sums)
    found, expected = (torch.autograd.grad(t, pair, retain_graph=True) for t in (terms.total, sums))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("weight", "warmup", "weights"),
    [
        (1.0, 0, [1.0, 1.0, 1.0]),
        (1.0, 1, [0.0, 1.0, 1.0]),
        (0.5, 4, [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]),
        (0.0, 0, [0.0, 0.0]),
    ],
)
def test_the_weight_of_nt_xent_rises_by_epoch(weight, warmup, weights):
    loss = FusionLoss(nt_xent_weight=weight, nt_xent_warmup_epochs=warmup)
    assert loss.weight == weight  # until an epoch starts: in a range test, for example
    found = []
    for epoch in range(len(weights)):
        loss.start_epoch(epoch)
        found.append(loss.weight)
    assert found == weights
    loss.start_epoch(0)  # a training that goes back begins again
    assert loss.weight == weights[0]


def test_the_sign_turns_the_slope_of_diversity_alone():
    pair, (logits, targets) = views(), logits_and_targets()

    def slope(term):
        return torch.autograd.grad(term, pair[0], retain_graph=True)[0]

    totals = {
        done: FusionLoss(alpha=0.5, temperature=0.2, diversity=done)(logits, targets, pair).total
        for done in ("minimised", "maximised")
    }
    torch.testing.assert_close(
        slope(totals["minimised"]) - slope(totals["maximised"]), slope(diversity(*pair))
    )
    rest = nt_xent(*pair, 0.2) + 0.5 * consistency(*pair)
    both = (slope(totals["minimised"]) + slope(totals["maximised"])) / 2
    torch.testing.assert_close(both, slope(rest))


def test_views_of_all_processes_bring_their_own_classes():
    logits, targets = logits_and_targets(3)
    joined, labels = views(6), torch.tensor([2, 2, 1, 0, 1, 2])
    found = FusionLoss(alpha=0.0, temperature=0.2, same_class="positives")(
        logits, targets, joined, None, labels
    )
    expected = nt_xent(*joined, 0.2, "simclr", labels, "positives")
    torch.testing.assert_close(found.nt_xent, expected)


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


# Focal loss


GAMMAS = [0.5, 1.0, 2.0, 5.0]
WEIGHTS = [None, torch.tensor([0.1, 1.0, 2.0, 5.0])]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_focal_loss_of_two_classes_is_torchvisions_in_value_and_slope(gamma):
    logits, targets = logits_and_targets(8, 2)
    found = FusionLoss(focal_gamma=gamma)(logits, targets, None).total
    expected = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], targets.float(), alpha=-1, gamma=gamma, reduction="mean"
    )
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes)


def plain_focal(logits, targets, shares, gamma, smoothing, weights):
    """Sum over utterances and classes in plain lines, from probabilities in float64."""
    probs = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    n_classes, total, n = logits.shape[1], 0.0, 0.0
    weights = torch.ones(n_classes) if weights is None else weights
    for p, target, share in zip(probs, targets, shares, strict=True):
        wanted = [smoothing / n_classes + (1 - smoothing) * (k == target) for k in range(n_classes)]
        loss = -sum(w * t * math.log(q) for w, t, q in zip(weights, wanted, p, strict=True))
        total += share * (1 - p[target]) ** gamma * loss
        n += share * weights[target]
    return float(total / n)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_focal_loss_is_its_sum_in_plain_lines(gamma, smoothing, weights):
    logits, targets = logits_and_targets()
    loss = FusionLoss(focal_gamma=gamma, label_smoothing=smoothing, class_weights=weights)
    with torch.no_grad():
        found = loss(logits, targets, None).total
        expected = plain_focal(logits, targets, [1.0] * 6, gamma, smoothing, weights)
        assert float(found) == pytest.approx(expected, rel=1e-5)
        shares = [1.0, 0.0, 0.5, 0.25, 0.9, 0.6]
        found = loss(logits, targets, None, mixed(shares)).total
        both = torch.cat([logits, logits]), torch.cat([targets, targets.roll(1)])
        expected = plain_focal(
            *both, [*shares, *(1 - s for s in shares)], gamma, smoothing, weights
        )
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_focal_gamma_of_0_is_the_plain_loss_to_the_bit(weights):
    logits, targets = logits_and_targets()
    loss = FusionLoss(focal_gamma=0.0, label_smoothing=0.1, class_weights=weights)
    found = loss(logits, targets, None).total
    expected = F.cross_entropy(logits, targets, weights, label_smoothing=0.1)
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(total, logits)[0] for total in (found, expected)]
    assert torch.equal(*slopes)
    mix = mixed([1.0, 0.0, 0.5, 0.25, 0.9, 0.6])
    both, shares = torch.cat([targets, targets.roll(1)]), torch.cat([mix.share, 1 - mix.share])
    each = F.cross_entropy(
        logits.repeat(2, 1), both, weights, reduction="none", label_smoothing=0.1
    )
    n = shares.sum() if weights is None else (shares * weights[both]).sum()
    assert torch.equal(loss(logits, targets, None, mix).total, (shares * each).sum() / n)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("lead", [17.0, 80.0, 1e4, -1e4])
def test_slopes_of_the_focal_loss_are_finite_at_any_confidence(gamma, lead):
    logits = torch.tensor([[lead, 0.0, 0.0]], requires_grad=True)
    total = FusionLoss(focal_gamma=gamma)(logits, torch.tensor([0]), None).total
    total.backward()
    assert total.isfinite() and logits.grad.isfinite().all()
    if lead < 0:  # surely wrong: as without the factor
        torch.testing.assert_close(total, torch.tensor(-lead + math.log(2)))


def test_the_focal_loss_takes_the_place_of_cross_entropy_alone():
    pair, (logits, targets) = views(), logits_and_targets()
    plain, focal = (FusionLoss(focal_gamma=g)(logits, targets, pair) for g in (0.0, 2.0))
    assert focal.cross_entropy < plain.cross_entropy
    assert torch.equal(focal.nt_xent, plain.nt_xent)
    torch.testing.assert_close(focal.total - focal.cross_entropy, plain.total - plain.cross_entropy)


# Temperature


def test_a_fixed_temperature_has_nothing_to_learn():
    loss = FusionLoss(temperature=0.2)
    assert list(loss.parameters()) == [] and loss.learned() == {} and loss.temperature() == 0.2


@given(low=st.floats(1e-4, 1.0), times=st.floats(1.01, 1e4), part=st.floats(0.01, 0.99))
def test_a_learned_temperature_begins_at_its_value(low, times, part):
    value, high = low * times**part, low * times
    temperature = Temperature(value, [low, high])
    assert temperature().item() == pytest.approx(value, rel=1e-4)
    assert FusionLoss(temperature=value, temperature_range=[low, high]).learned() == {
        "temperature": pytest.approx(value, rel=1e-4)
    }


@pytest.mark.parametrize("bounds", [[0.1, 0.5], [0.01, 0.05], [0.5, 0.01], [0.07, 0.07]])
def test_a_temperature_outside_its_bounds_is_refused(bounds):
    with pytest.raises(ValueError, match="temperature 0.07 must lie between"):
        Temperature(0.07, bounds)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=6), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=20)
def test_it_stays_within_its_bounds_whatever_the_slopes(slopes, rate):
    temperature = Temperature(0.07, [0.01, 1.0])
    optimizer = torch.optim.SGD(temperature.parameters(), rate)
    for slope in slopes:
        temperature.place.grad = torch.tensor(slope)
        optimizer.step()
        assert 0.01 * (1 - 1e-6) <= temperature().item() <= 1.0  # float32 has no 0.01


@pytest.mark.parametrize("aim", [0.02, 0.6])
def test_training_moves_it_to_where_the_loss_is_lowest(aim):
    temperature = Temperature(0.07, [0.01, 1.0])
    optimizer = torch.optim.Adam(temperature.parameters(), 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (temperature().log() - math.log(aim)).square().backward()
        optimizer.step()
    assert temperature().item() == pytest.approx(aim, rel=0.01)


def test_its_slope_is_that_of_the_loss():
    pair, (logits, targets) = views(), logits_and_targets()
    loss = FusionLoss(alpha=0.3, temperature=0.1, temperature_range=[0.01, 1.0])
    loss(logits, targets, pair).total.backward()
    moved = [copy.deepcopy(loss), copy.deepcopy(loss)]
    for one, way in zip(moved, (1, -1), strict=True):
        one.temperature.place.data += way * 1e-2
    up, down = (one(logits, targets, pair).total.item() for one in moved)
    assert loss.temperature.place.grad.item() == pytest.approx((up - down) / 2e-2, rel=1e-2)


def test_its_state_is_kept_to_the_bit():
    one, other = (FusionLoss(temperature=0.1, temperature_range=[0.01, 1.0]) for _ in range(2))
    one.temperature.place.data += 0.1234567
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.temperature(), other.temperature())
