"""N processes train as one with the N-fold batch: losses, gradients, dev scores, weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator

from data import ImageAugment, build_loader
from models.losses import FusionLoss
from models.synced_norms import sync_batch_norms
from tests.support.models import small_model
from tests.support.processes import joined
from tests.training.test_engine import CPU, fake_clips
from training.batches import EvalBatches, TrainBatches
from training.checkpoints import Checkpoints
from training.engine import fit
from training.optim import Schedule, build_optimizers
from training.session import DDP, make_accelerator
from training.state import TrainingState

WORLD, GLOBAL_BATCH, N, SIDE = 2, 8, 16, 32
EPOCHS = 2
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate": 2},
    "cached": {"backbone_batch": True},
}
MASKS = ImageAugment(freq_mask=0.3, time_mask=0.3)  # drawn by (seed, epoch, utterance)


def train(
    folder: Path,
    rank: int,
    world: int,
    synced: bool = True,
    n: int = N,
    resume_with: int | None = None,
    **settings: Any,
) -> dict:
    """Train as one of some processes; return all that can be compared."""
    torch.manual_seed(0)
    model = small_model("gmu_contrastive", dropout=0.0, image_size=SIDE)
    if synced:
        assert sync_batch_norms(model, CPU) > 2
    if "backbone_batch" in settings:  # the same chunks of all processes together
        settings["backbone_batch"] = GLOBAL_BATCH // 2 // world
    criterion, parts = FusionLoss(temperature_range=[0.05, 0.5]), model.parts()
    parts["head"] = [*parts["head"], *criterion.parameters()]
    optimizers = build_optimizers(parts, dict.fromkeys(parts, "sgd"), 0.05)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DDP])
    state = TrainingState(
        model,
        criterion,
        optimizers,
        Schedule(optimizers),
        accelerator,
        clip_grad_norm=1,
        **settings,
    )
    size = GLOBAL_BATCH // world
    train_set, dev_set = fake_clips(n, SIDE, MASKS), fake_clips(n - 3, SIDE)
    loader = build_loader(train_set, TrainBatches(n, size, 1, rank, world), CPU, 0)
    dev_loader = build_loader(dev_set, EvalBatches(n - 3, size, rank, world), CPU, 0)
    slopes: list[list[torch.Tensor]] = []
    views = 0  # gradients in memory that they share
    step = optimizers[0].step

    def watched(*args: Any) -> Any:
        nonlocal views
        grads = [p.grad for p in state.trained if p.grad is not None]
        views += sum(grad.untyped_storage().nbytes() > grad.nbytes for grad in grads)
        slopes.append([p.grad.clone() for p in state.trained if p.grad is not None])
        return step(*args)

    optimizers[0].step = watched  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    where = Checkpoints(folder)
    progress = fit(state, loader, dev_loader, EPOCHS, None, where, resume_with=resume_with)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    return {"progress": vars(progress), "slopes": slopes, "weights": best, "views": views}


def one_process(rank: int, folder: Path) -> None:
    """Write what this process of two finds."""
    with joined(rank, WORLD, folder):
        found = {name: train(folder / name, rank, WORLD, **case) for name, case in CASES.items()}
        found["apart"] = train(folder / "apart", rank, WORLD, synced=False)
        torch.save(found, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_process, (folder,), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD)]


def distance(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return how far gradients are apart, as a part of their length."""
    assert len(ours) == len(expected) > 20
    pairs = list(zip(ours, expected, strict=True))
    apart = sum(float((a - b).double().square().sum()) for a, b in pairs)
    return (apart / sum(float(b.double().square().sum()) for _, b in pairs)) ** 0.5


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_with_the_joined_batch(two, tmp_path: Path, name: str) -> None:
    alone = train(tmp_path / "alone", 0, 1, synced=False, **CASES[name])
    for found in (process[name] for process in two):
        apart = [distance(*pair) for pair in zip(found["slopes"], alone["slopes"], strict=True)]
        assert apart[0] < 1e-5 and max(apart) < 2e-3, apart  # rounding grows from step to step
        ours, expected = found["progress"], alone["progress"]
        assert ours["best_epoch"] == expected["best_epoch"]
        for row, same in zip(ours["history"], expected["history"], strict=True):
            assert row == pytest.approx(same, rel=2e-3, abs=1e-4)
            assert row["dev_ua"] == same["dev_ua"] and row["dev_wa"] == same["dev_wa"]
        for key, weight in found["weights"].items():
            torch.testing.assert_close(weight, alone["weights"][key], rtol=1e-3, atol=1e-4)


def test_batch_norms_of_their_own_give_other_gradients(two, tmp_path: Path) -> None:
    """The test above can fail."""
    alone = train(tmp_path / "alone", 0, 1, synced=False)
    assert distance(two[0]["apart"]["slopes"][0], alone["slopes"][0]) > 0.05


def test_gradients_are_views_of_what_is_sent(two, tiny) -> None:
    """Where DDP sends them: gradient caching averages by itself."""
    assert make_accelerator(tiny()).ddp_handler is DDP
    for process in two:
        assert process["plain"]["views"] and process["accumulated"]["views"]
        assert not process["cached"]["views"]


@pytest.mark.parametrize("targets", [None, [0] * (N - 5) + [1] * 5])
def test_the_processes_share_the_batches_of_one(targets: list[int] | None) -> None:
    for epoch in range(2):
        size = GLOBAL_BATCH // WORLD
        shares = [TrainBatches(N, size, 1, rank, WORLD, targets) for rank in range(WORLD)]
        joined = TrainBatches(N, GLOBAL_BATCH, 1, targets=targets)
        for batches in (*shares, joined):
            batches.set_epoch(epoch)
        for own, whole in zip(zip(*shares, strict=True), joined, strict=True):
            assert sorted(item for part in own for item in part) == sorted(whole)
