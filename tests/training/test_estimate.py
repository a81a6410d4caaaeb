"""The time of an epoch is the sum of its parts, worked by hand."""

import pytest

from model_gmu import MaxMViTGMU
from training.dry_run import dry_run
from training.estimate import Costs, epoch_parts
from training.saver import Spacing


def test_an_epoch_is_input_steps_evaluation_and_a_state() -> None:
    costs = Costs(input=0.5, step=2.0, evaluation=1.0, copy=0.25, write=1.5)
    parts = epoch_parts(costs, n_train=10, n_dev=4, spacing=Spacing(2, None))
    # 10 x 0.5, 10 x 2, 4 x 1, and every second epoch a state of 0.25 + 1.5
    assert parts == {"input": 5.0, "step": 20.0, "evaluation": 4.0, "checkpoint": 0.875}


def test_beside_a_gpu_loaders_hide_input_and_a_thread_hides_the_write() -> None:
    costs = Costs(6.0, 2.0, 1.0, copy=0.5, write=1.5, loaders=2, is_shared=False)
    parts = epoch_parts(costs, 10, 0, Spacing(1, None))
    assert (parts["input"], parts["checkpoint"]) == (10.0, 0.5)  # 6 / 2 - 2 each; the copy alone
    fast = Costs(3.0, 2.0, 1.0, copy=0.5, write=1.5, loaders=2, is_shared=False)
    assert epoch_parts(fast, 10, 0, Spacing(1, None))["input"] == 0.0


def test_unasked_states_take_a_tenth_at_most_and_asked_ones_what_they_take() -> None:
    costs = Costs(0.0, 1.0, 0.0, copy=5.0, write=15.0)
    assert epoch_parts(costs, 40, 0, Spacing())["checkpoint"] == pytest.approx(4.0)
    assert epoch_parts(costs, 40, 0, Spacing(epochs=1))["checkpoint"] == 20.0
    assert epoch_parts(costs, 1000, 0, Spacing())["checkpoint"] == 20.0  # one at each end
    assert epoch_parts(costs, 1000, 0, Spacing(1, 5.0))["checkpoint"] == 80.0  # 3 more


@pytest.mark.parametrize(
    ("size", "overrides"),
    [(8, []), (4, ["train.backbone_batch=4"]), (19, ["train.eval_batch_size=19"])],
)
def test_a_dry_run_evaluates_in_the_batches_of_the_training(tiny, monkeypatch, size, overrides):
    seen = set()
    forward = MaxMViTGMU.forward

    def watched(self, cqt, mel):
        if not self.training:
            seen.add(len(cqt))
        return forward(self, cqt, mel)

    monkeypatch.setattr(MaxMViTGMU, "forward", watched)
    assert "peak memory" in dry_run(tiny("train.batch_size=8", *overrides))
    assert seen == {size}
