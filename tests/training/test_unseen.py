"""Steps that the host does not watch end in the same bytes as steps that it reads one by one."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data import Batch
from models.losses import FusionLoss
from tests.support.models import small_model
from tests.training.test_engine import Stub, batch, fake_clips, loaders, made, make_trainer
from training.engine import fit, train_step, train_unseen
from training.state import LOOK_EVERY, TrainingState

SIDE = 32


def contrastive(look_every: int, **kwargs: object) -> TrainingState:
    """Batch norms, moments, a warm-up, a learned temperature, clipping: all that a step moves."""
    torch.manual_seed(3)
    state = make_trainer(
        small_model("gmu_contrastive", image_size=SIDE),
        criterion=FusionLoss(temperature_range=(0.01, 1.0)),
        schedule={"kind": "cosine", "n_steps": 40, "n_warmup": 5},
        clip_grad_norm=1.0,
        ema=0.9,
        **kwargs,
    )
    state.look_every = look_every
    return state


def trained(state: TrainingState, folder: Path, epochs: int = 2) -> dict[str, Any]:
    train, dev = loaders(24, 4, side=SIDE)
    fit(state, train, dev, epochs, None, made(folder))
    return flat(state.state_dict())


def flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, one in items for k, v in flat(one, f"{at}/{key}").items()}
    return {at: value}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if torch.is_tensor(value):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key] or (math.isnan(value) and math.isnan(other[key])), key


@pytest.mark.parametrize("accumulate", [1, 2])
def test_they_end_in_the_bytes_of_watched_steps(tmp_path: Path, accumulate: int) -> None:
    watched = trained(contrastive(1, accumulate=accumulate), tmp_path / "1")
    for look_every in (2, 4, 100):
        unseen = trained(contrastive(look_every, accumulate=accumulate), tmp_path / str(look_every))
        assert_equal(watched, unseen)


def spoil(state: TrainingState, at: set[int]) -> None:
    """Make the loss of some batches of the first epoch NaN, whenever they are computed."""
    forward = state.wrapped.forward

    def spoiled(cqt: torch.Tensor, mel: torch.Tensor) -> Any:
        output = forward(cqt, mel)
        marks = {float(image.sum()) for image in cqt}
        bad = state.model.training and state.progress.epoch == 0 and marks & state.marks
        return output._replace(logits=output.logits * math.nan) if bad else output

    train, _ = loaders(24, 4, side=SIDE)
    train.batch_sampler.set_epoch(0, 0)
    state.marks = {
        float(i.sum()) for n, one in enumerate(train) if n in at for i in one.widened().cqt
    }
    state.wrapped.forward = spoiled


def test_a_bad_step_among_them_is_skipped_as_a_watched_one_is(tmp_path: Path) -> None:
    ends = []
    for look_every in (1, 3, 100):
        state = contrastive(look_every)
        spoil(state, {2, 4})
        ends.append(trained(state, tmp_path / str(look_every)))
        assert state.progress.bad_steps == 2
        assert [i["batch"] for i in state.progress.incidents] == [3, 5]
    assert_equal(ends[0], ends[1])
    assert_equal(ends[0], ends[2])


def test_a_training_stopped_between_two_looks_goes_on_in_the_same_bytes(tmp_path: Path) -> None:
    whole = trained(contrastive(4), tmp_path / "whole")
    state = contrastive(4)
    train, dev = loaders(24, 4, side=SIDE)
    stopped_at = []

    class Asked:
        def __get__(self, stop: object, kind: object) -> bool:
            stopped_at.append(state.progress.place)
            return state.progress.place[:2] == (1, 4)

        def __set__(self, stop: object, value: bool) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(state.stop), "requested", Asked(), raising=False)
        fit(state, train, dev, 2, None, made(tmp_path / "stopped"))
    assert stopped_at[-1].batch == 4
    assert_equal(whole, trained(contrastive(3), tmp_path / "stopped"))


def one_batch() -> list[Batch]:
    return [fake_clips(4, side=SIDE).__getitems__([(0, i) for i in range(4)])]


def test_the_first_step_is_watched() -> None:
    state = contrastive(4)
    window = one_batch()
    assert [step for _, step in train_unseen(state, iter([window, window]))] == [None]
    train_step(state, window)
    windows = iter([window] * 6)
    taken = train_unseen(state, windows)
    assert [type(step.losses[0]["total"]) for _, step in taken] == [float] * 4
    assert len(train_unseen(state, windows)) == 2 and train_unseen(state, windows) == []


def test_each_step_is_taken_as_its_window_arrives() -> None:
    """So the device computes while the next batches are loaded."""
    state, seen = contrastive(4), []
    train_step(state, one_batch())

    def arriving() -> Iterator[list[Batch]]:
        for _ in range(4):
            seen.append(max(int(s["step"]) for s in state.optimizers[0].state.values()))
            yield one_batch()

    assert len(train_unseen(state, arriving())) == 4 and seen == [1, 2, 3, 4]


def test_many_accumulated_batches_are_not_kept() -> None:
    state = contrastive(4, accumulate=2)
    train_step(state, one_batch() * 2)
    assert len(train_unseen(state, iter([one_batch() * 2] * 6))) == 2


def test_undo_forgets_moments_that_came_later() -> None:
    state = make_trainer(Stub())
    state.model.mel.bias.requires_grad_(False)
    train_step(state, [batch(4)])
    state.undo.keep_all()
    n = [len(optimizer.state) for optimizer in state.optimizers]
    state.model.mel.bias.requires_grad_(True)
    train_step(state, [batch(4)])
    assert [len(optimizer.state) for optimizer in state.optimizers] != n
    state.undo.restore_all()
    assert [len(optimizer.state) for optimizer in state.optimizers] == n


def test_gpus_are_looked_at_every_20_steps_and_the_cpu_at_each() -> None:
    assert LOOK_EVERY == 20
    assert make_trainer().look_every == 1


def test_undo_puts_everything_back() -> None:
    state = contrastive(1)
    train_step(state, one_batch())
    before = copy.deepcopy(flat(state.state_dict()))
    rates = state.schedule.rates()
    state.undo.keep_all()
    train_step(state, one_batch())
    after = flat(state.state_dict())
    moved = {k for k, v in before.items() if torch.is_tensor(v) and not torch.equal(v, after[k])}
    for kind in ("running_mean", "num_batches_tracked", "weight", "exp_avg", "step"):
        assert any(kind in key for key in moved), kind
    assert state.schedule.rates() != rates
    state.undo.restore_all()
    now = {k: v for k, v in flat(state.state_dict()).items() if not k.startswith("/progress")}
    assert_equal({k: v for k, v in before.items() if not k.startswith("/progress")}, now)
    assert state.schedule.rates() == rates


def test_undo_of_a_network_without_statistics() -> None:
    state = make_trainer(Stub(), optimizer="sgd")
    train_step(state, [batch(4)])
    state.undo.keep_all()
    before = state.model.head.weight.clone()
    train_step(state, [batch(4)])
    assert not torch.equal(before, state.model.head.weight)
    state.undo.restore_all()
    assert torch.equal(before, state.model.head.weight)
