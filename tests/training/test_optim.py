"""Optimizers by part, and the learning rates over time."""

import copy
import logging
import math

import pytest
import torch
from torch import nn

from config.loading import load_config
from config.training_schema import BranchScales, OptimConfig
from tests.support.models import small_model
from tests.support.paths import ROOT
from training.build import build_loss, nt_xent_warmup_epochs, warmup_epochs
from training.optim import Schedule, build_optimizers, load_optimizer, total_norm

PUBLISHED = {"cqt": "adam", "mel": "radam", "head": "adam"}


def module():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm(4), nn.Linear(4, 3))


@pytest.fixture
def parts():
    """Return modules for `cqt`, `mel` and `head`."""
    torch.manual_seed(0)
    return {name: module() for name in PUBLISHED}


def build(parts, kinds=PUBLISHED, lr=0.02, backbone_lr_scale=1.0, **options):
    parameters = {name: list(part.parameters()) for name, part in parts.items()}
    scales = OptimConfig(backbone_lr_scale=backbone_lr_scale).branch_lr_scales()
    return build_optimizers(parameters, kinds, lr, scales, **options)


def rates(optimizers, schedule, step, n):
    """Return the head's rate before each of n moves of the schedule."""
    found = []
    for _ in range(n):
        found.append(schedule.rates()[-1])
        for optimizer in optimizers:
            optimizer.step()
        step()
    return found


# Optimizers


def test_the_published_optimizers_train_the_published_parts(parts):
    kinds = [type(optimizer) for optimizer in build(parts)]
    assert kinds == [torch.optim.Adam, torch.optim.RAdam, torch.optim.Adam]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", "Adam"), ("radam", "RAdam"), ("adamw", "AdamW"), ("sgd", "SGD")],
)
def test_a_name_gives_its_optimizer(parts, name, kind):
    for optimizer in build(parts, dict.fromkeys(parts, name)):
        assert type(optimizer).__name__ == kind
        assert optimizer.defaults.get("momentum", 0.9) == 0.9


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_fused_optimizer_steps_as_a_plain_one_also_after_a_resume(name):
    """In channels-last order; files hold contiguous tensors."""

    def trained(fused, resumed):
        torch.manual_seed(1)
        kernel = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
        parts, kinds = {"head": [kernel]}, {"head": name}
        (optimizer,) = build_optimizers(parts, kinds, 0.1)
        assert optimizer.defaults["fused"]
        optimizer.param_groups[0]["fused"] = fused
        for i in range(4):
            if resumed and i == 2:
                saved = copy.deepcopy(optimizer.state_dict())
                for state in saved["state"].values():
                    state |= {k: v.contiguous() for k, v in state.items() if torch.is_tensor(v)}
                (optimizer,) = build_optimizers(parts, kinds, 0.1)
                load_optimizer(optimizer, saved)
            grad = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(i))
            kernel.grad = grad.to(memory_format=torch.channels_last)
            optimizer.step()
        return kernel.detach()

    assert torch.equal(trained(True, False), trained(True, True))
    assert torch.allclose(trained(True, True), trained(False, False), atol=1e-5)


def test_every_parameter_is_in_exactly_one_optimizer(parts):
    found = [p for o in build(parts) for group in o.param_groups for p in group["params"]]
    expected = [p for part in parts.values() for p in part.parameters()]
    assert sorted(map(id, found)) == sorted(map(id, expected))


def test_biases_and_norms_do_not_decay_and_all_else_does(parts):
    decay = {
        id(p): group["weight_decay"]
        for optimizer in build(parts, weight_decay=0.05)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for part in parts.values():
        for layer in part:
            kernel = isinstance(layer, nn.Conv2d | nn.Linear)
            assert decay[id(layer.weight)] == (0.05 if kernel else 0.0)
            assert decay[id(layer.bias)] == 0.0


def test_the_backbones_rate_is_a_multiple_of_the_heads(parts):
    for optimizer, rate in zip(
        build(parts, backbone_lr_scale=0.1), (2e-3, 2e-3, 0.02), strict=True
    ):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate] * 2)


@pytest.mark.parametrize("kind", ["constant", "cosine", "plateau"])
@pytest.mark.parametrize(
    ("scale", "multiples"),
    [
        (0.25, (0.25, 0.25, 1.0)),
        (BranchScales(cqt=0.5, mel=2.0), (0.5, 2.0, 1.0)),
        (BranchScales(mel=2.0), (1.0, 2.0, 1.0)),
        (BranchScales(cqt=0.5), (0.5, 1.0, 1.0)),
    ],
)
def test_each_backbone_has_its_multiple_of_the_heads_rate_at_all_times(
    parts, scale, multiples, kind
):
    optimizers = build(parts, lr=1e-2, backbone_lr_scale=scale)
    assert [o.param_groups[0]["lr"] for o in optimizers] == [1e-2 * m for m in multiples]
    schedule = Schedule(optimizers, kind, n_steps=6, n_warmup=2, patience=0, min_lr=1e-3)
    for _ in range(8):
        found = schedule.rates()
        assert found == pytest.approx([found[-1] * m for m in multiples])
        for optimizer in optimizers:
            optimizer.step()
        schedule.after_step()
        schedule.after_epoch(0.5)
    assert found[-1] == pytest.approx(1e-2 if kind == "constant" else 1e-3)


def test_a_number_is_the_product_that_it_was_to_the_bit(parts):
    for scale in (0.05, 1 / 3, 0.1):
        rate = build(parts, lr=0.0123, backbone_lr_scale=scale)[0].param_groups[0]["lr"]
        assert rate == 0.0123 * scale


@pytest.mark.parametrize("part", ["cqt", "mel"])
def test_position_tables_of_the_backbones_do_not_decay(part):
    """MaxViT's bias tables and MViTv2's rel_pos tables are matrices, named by hand here."""
    model = small_model()
    optimizers = build_optimizers(
        model.parts(),
        dict.fromkeys(PUBLISHED, "adamw"),
        0.02,
        weight_decay=0.05,
        without_decay=model.without_decay(),
    )
    decay = {
        id(p): group["weight_decay"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    ends = {"cqt": ("relative_position_bias_table",), "mel": ("rel_pos_h", "rel_pos_w")}[part]
    n_tables = {"cqt": 4 * 2, "mel": 5 * 2}[part]
    matrices = {
        name: decay[id(p)]
        for name, p in getattr(model, f"{part}_branch").named_parameters()
        if p.ndim > 1
    }
    tables = [value for name, value in matrices.items() if name.endswith(ends)]
    assert tables == [0.0] * n_tables
    assert set(matrices.values()) == {0.0, 0.05}
    assert all(value for name, value in matrices.items() if not name.endswith(ends))


def test_weight_decay_alone_leaves_a_table_and_shrinks_a_kernel():
    """One AdamW step by hand: w - lr * decay * w, where the gradient is 0."""
    table, kernel = (nn.Parameter(torch.full((2, 2), 4.0)) for _ in range(2))
    (optimizer,) = build_optimizers(
        {"cqt": [table, kernel]}, {"cqt": "adamw"}, 0.1, weight_decay=0.5, without_decay=[table]
    )
    for parameter in (table, kernel):
        parameter.grad = torch.zeros(2, 2)
    optimizer.step()
    assert table.unique().tolist() == [4.0]
    assert kernel.unique().tolist() == pytest.approx([4.0 - 0.1 * 0.5 * 4.0])


# Schedules


def test_a_constant_rate_stays(parts):
    optimizers = build(parts)
    schedule = Schedule(optimizers, "constant", n_steps=5, n_warmup=2)
    assert rates(optimizers, schedule, schedule.after_step, 8) == [0.02] * 8
    assert rates(optimizers, schedule, lambda: schedule.after_epoch(0.1), 8) == [0.02] * 8


def test_peer_22_the_plateau_falls_after_patience_epochs_without_a_better_dev_ua(parts):
    schedule = Schedule(build(parts), "plateau", factor=0.1, patience=2)
    found = []
    for ua in (0.5, 0.6, 0.6, 0.59, 0.3, 0.61, 0.2, 0.2, 0.2):
        schedule.after_epoch(ua)
        found.append(schedule.rates()[-1])
    # 0.6 is the best: two worse epochs are allowed, the third lowers; an equal one is not better.
    assert found == pytest.approx([0.02] * 4 + [0.002] * 4 + [0.0002])


def test_a_gain_however_small_is_a_better_dev_ua(parts):
    schedule = Schedule(build(parts), "plateau", patience=0)
    for epoch in range(5):
        schedule.after_epoch(0.5 + 1e-9 * epoch)
    assert schedule.rates()[-1] == 0.02


def test_the_plateau_never_falls_below_min_lr_nor_does_the_backbones_share(parts):
    optimizers = build(parts, backbone_lr_scale=0.1)
    schedule = Schedule(optimizers, "plateau", factor=0.1, patience=0, min_lr=1e-4)
    for _ in range(20):
        schedule.after_epoch(0.5)
    assert schedule.rates() == pytest.approx([1e-5, 1e-5, 1e-4])


def test_the_last_drops_of_a_scaled_rate_are_made(parts):
    """1e-4 of the head's rate: torch's own eps would leave the backbones at 2e-9 for good."""
    optimizers = build(parts, lr=2e-4, backbone_lr_scale=1e-4)
    schedule = Schedule(optimizers, "plateau", factor=0.1, patience=0, min_lr=2e-7)
    found = []
    for _ in range(5):
        schedule.after_epoch(0.5)
        found.append(schedule.rates()[0])
    assert found == pytest.approx([2e-8, 2e-9, 2e-10, 2e-11, 2e-11], rel=1e-6)


@pytest.mark.parametrize(
    ("warmup", "epochs", "used"), [(1, 1, 0.5), (3, 2, 1.0), (1, 2, 1.0), (1.5, 2, 1.5), (0, 1, 0)]
)
def test_a_warm_up_that_would_be_all_of_the_training_is_half_of_it(warmup, epochs, used, caplog):
    caplog.set_level(logging.INFO)
    words = [f"train.epochs={epochs}", f"optim.warmup_epochs={warmup}"]
    config = load_config(ROOT / "configs/ravdess_small_concat.yaml", words)
    assert warmup_epochs(config) == used
    said = f"optim.warmup_epochs={warmup} leaves nothing of train.epochs={epochs}"
    assert (said in caplog.text) == (used != warmup)


@pytest.mark.parametrize(("warmup", "epochs", "used"), [(1, 1, 0), (3, 2, 1), (1, 2, 1), (0, 1, 0)])
def test_so_is_a_warm_up_of_nt_xent(warmup, epochs, used, caplog):
    caplog.set_level(logging.INFO)
    words = [f"train.epochs={epochs}", f"loss.nt_xent_warmup_epochs={warmup}"]
    config = load_config(ROOT / "configs/ravdess_small_gmu_contrastive.yaml", words)
    assert nt_xent_warmup_epochs(config) == used
    assert build_loss(config, torch.zeros(3), 8).warmup_epochs == used
    assert ("NT" in caplog.text or "nt_xent" in caplog.text) == (used != warmup)


def test_warm_up_and_cosine_by_hand(parts):
    optimizers = build(parts, lr=1.0, backbone_lr_scale=0.5)
    schedule = Schedule(optimizers, "cosine", n_steps=10, n_warmup=3, min_lr=0.1)
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 7)) for i in range(7)]
    found = rates(optimizers, schedule, schedule.after_step, 12)
    assert found == pytest.approx([0.25, 0.5, 0.75, *cosine, 0.1, 0.1])
    assert schedule.rates() == pytest.approx([0.05, 0.05, 0.1])


def test_a_cosine_without_warm_up_starts_at_the_top(parts):
    assert Schedule(build(parts), "cosine", n_steps=4).rates() == [0.02] * 3


@pytest.mark.parametrize("kind", ["plateau", "cosine", "constant"])
def test_peer_24_a_resumed_training_has_the_rates_of_an_uninterrupted_one(parts, kind):
    options = {"n_steps": 12, "n_warmup": 3, "factor": 0.5, "patience": 1, "min_lr": 1e-3}
    uas = [0.5, 0.4, 0.4, 0.6, 0.3, 0.2]

    def go_on(optimizers, schedule, uas):
        found = []
        for ua in uas:
            for _ in range(2):
                for optimizer in optimizers:
                    optimizer.step()
                schedule.after_step()
                found.append(schedule.rates())
            schedule.after_epoch(ua)
            found.append(schedule.rates())
        return found

    optimizers = build(parts, backbone_lr_scale=0.1)
    schedule = Schedule(optimizers, kind, **options)
    whole = go_on(optimizers, schedule, uas)
    for done in range(len(uas)):
        first = build(parts, backbone_lr_scale=0.1)
        begun = Schedule(first, kind, **options)
        go_on(first, begun, uas[:done])
        saved = copy.deepcopy([begun.state_dict(), *(o.state_dict() for o in first)])
        second = build(parts, backbone_lr_scale=0.1)
        resumed = Schedule(second, kind, **options)
        for optimizer, state in zip(second, saved[1:], strict=True):
            optimizer.load_state_dict(state)
        resumed.load_state_dict(saved[0])
        assert resumed.rates() == begun.rates()
        assert go_on(second, resumed, uas[done:]) == whole[3 * done :]


def test_peer_22_the_shortest_patience_that_is_accepted_trains_at_the_lowered_rate():
    config = load_config(
        ROOT / "configs" / "iemocap.yaml", ["optim.plateau_patience=2", "train.patience=4"]
    )
    optimizers = [torch.optim.Adam([nn.Parameter(torch.zeros(2))], 1.0)]
    schedule = Schedule(optimizers, "plateau", patience=config.optim.plateau_patience)
    schedule.after_epoch(0.5)
    rates = []  # of the epochs that are trained after the best one
    for _ in range(config.train.patience):
        rates.append(schedule.rates()[0])
        schedule.after_epoch(0.4)
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1])


def test_the_norm_of_all_gradients_is_that_of_torch():
    torch.manual_seed(0)
    gradients = [torch.randn(5, 3), torch.randn(7), torch.randn(()), 1e3 * torch.randn(2, 2, 2)]
    assert torch.equal(total_norm(gradients), nn.utils.get_total_norm(gradients))
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    torch.testing.assert_close(total_norm(gradients), joined.norm())
    assert total_norm([*gradients, torch.tensor([torch.nan])]).isnan()
