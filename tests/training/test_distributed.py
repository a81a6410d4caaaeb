"""Two processes on one CPU: the same gradients as one, and a whole run from the command line."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data import Batch
from models.contrastive import nt_xent
from models.losses import FusionLoss, LossTerms
from tests.support.paths import ROOT
from tests.support.processes import joined
from training.batches import EvalBatches
from training.collapse import CollapseMonitor
from training.distributed import average_gradients
from training.engine import loss_terms, train_step, train_unseen
from training.evaluate import evaluate
from training.optim import Schedule, build_optimizers
from training.state import TrainingState

WORLD, BATCH, WIDTH = 2, 3, 5
N_EVAL = 9  # 5 clips on one process, 4 on the other
FORMS = {  # how views are compared
    "simclr": {},
    "cross_modal": {"nt_xent": "cross_modal"},
    "symmetric": {"nt_xent": "symmetric"},
    "positives": {"same_class": "positives"},
    "ignored": {"nt_xent": "symmetric", "same_class": "ignored"},
    "learned": {"same_class": "positives", "temperature_range": [0.1, 1.0]},
    "features": {"nt_xent": "cross_modal", "alpha_on": "features"},
}
CLASSES = (0, 1, 0, 0, 2, 1)  # kin on one process, and across both


class FusionOutput(NamedTuple):
    """As the model's own, without importing timm in each process."""

    logits: Tensor
    gate: None
    views: tuple[Tensor, ...]
    pooled: tuple[Tensor, ...]


class Head(nn.Module):
    """What is watched."""

    branches = ("cqt", "mel")

    def forward(self, z_cqt: Tensor, z_mel: Tensor) -> FusionOutput:
        logits = torch.cat([z_cqt, z_mel], 1)
        return FusionOutput(logits, None, (z_cqt, z_mel), (z_cqt.tanh(), z_mel.tanh()))


class Views(nn.Module):
    """Two linear views, a classifier, and a buffer that DDP keeps equal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cqt, self.mel = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.classify = nn.Linear(8, 4)
        self.head = Head()
        self.register_buffer("shift", torch.zeros(4))

    def features(self, cqt: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.cqt(cqt), self.mel(mel)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        modules = {"cqt": self.cqt, "mel": self.mel, "head": self.classify}
        return {name: list(module.parameters()) for name, module in modules.items()}

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        output = self.head(*self.features(cqt, mel))
        return output._replace(logits=self.classify(output.logits) + self.shift)


def data(n: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(2, n, WIDTH, generator=draw)
    return images[0], images[1], torch.arange(n) % 4


def gradients(model: nn.Module, form: str, own: slice) -> list[Tensor]:
    cqt, mel, _ = (part[own] for part in data(WORLD * BATCH))
    batch = Batch(torch.arange(WORLD * BATCH)[own], cqt, mel, torch.tensor(CLASSES)[own])
    model.zero_grad()
    loss = FusionLoss(alpha=0.3, temperature=0.5, **FORMS[form])
    loss_terms(loss, model(cqt, mel), batch).total.backward()
    average_gradients(loss.parameters())
    return [parameter.grad.clone() for parameter in [*model.parameters(), *loss.parameters()]]


def one_process(rank: int, folder: Path) -> None:
    """Write what this process of two finds."""
    with joined(rank, WORLD, folder):
        model = DistributedDataParallel(Views())
        own = slice(rank * BATCH, (rank + 1) * BATCH)
        found = {form: gradients(model, form, own) for form in FORMS}
        model.module.shift[rank] += rank  # as running statistics drift apart: the first one's count
        cqt, mel, targets = data(N_EVAL)
        loader = [
            Batch(torch.tensor(clips), cqt[clips], mel[clips], targets[clips])
            for clips in ([i for _, i in batch] for batch in EvalBatches(N_EVAL, 4, rank, WORLD))
        ]
        accelerator, signs = Accelerator(cpu=True), CollapseMonitor(model.module)
        with signs.recording():
            predictions = evaluate(model, loader, accelerator)
        seen = signs.epoch_measures(None, accelerator)
        spoiled = steps_with_one_bad_process(rank)
        lone = nn.Parameter(torch.zeros(2))
        lone.grad = torch.tensor([1.0, rank])
        average_gradients([lone, nn.Parameter(torch.zeros(1))])
        unseen = unseen_steps_with_one_bad_process(rank)
        result = (
            found,
            predictions.probs,
            spoiled,
            seen,
            steps_that_learn(rank),
            lone.grad,
            unseen,
        )
        torch.save(result, folder / f"rank{rank}.pt")


def guarded(rank: int) -> tuple[TrainingState, Batch, Batch]:
    """Return a training, a good batch, and one in which the second process has a NaN."""
    model = Views()
    optimizers = build_optimizers(model.parts(), dict.fromkeys(model.parts(), "adam"), 0.1)
    names = {"train": [f"clip_{i}" for i in range(WORLD * BATCH)]}
    accelerator = Accelerator(cpu=True)
    schedule = Schedule(optimizers)
    trainer = TrainingState(model, FusionLoss(), optimizers, schedule, accelerator, names=names)
    own = torch.arange(WORLD * BATCH)[rank * BATCH : (rank + 1) * BATCH]
    cqt, mel, targets = (part[own] for part in data(WORLD * BATCH))
    good = Batch(own, cqt, mel, targets)
    bad = good._replace(mel=mel.clone())
    bad.mel[1, 0] = float("nan") if rank == 1 else bad.mel[1, 0]
    return trainer, good, bad


def steps_with_one_bad_process(rank: int) -> dict[str, object]:
    """Take a good step, one in which the second process has a NaN, and a good one again."""
    trainer, good, bad = guarded(rank)
    weights = []
    for batch in (good, bad, good):
        train_step(trainer, [batch])
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    taken = [int(state["step"]) for o in trainer.optimizers for state in o.state.values()]
    return {"weights": weights, "taken": taken, "progress": vars(trainer.progress)}


def unseen_steps_with_one_bad_process(rank: int) -> dict[str, object]:
    """Take two unseen steps; again, where the second process has a loss of inf, finite gradients.

    A NaN would reach the gradients of all: there each process sees it by itself.
    """
    trainer, good, _ = guarded(rank)
    trainer.look_every = 2
    loss = trainer.criterion.forward
    train_step(trainer, [good])
    taken, weights = [], []
    for extra in (0.0, math.inf):
        own = extra if rank == 1 else 0.0
        trainer.criterion.forward = lambda *args, own=own: _plus(loss(*args), own)
        steps = [step for _, step in train_unseen(trainer, iter([[good], [good]]))]
        taken.append([step is not None for step in steps])
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    return {"taken": taken, "weights": weights}


def _plus(terms: LossTerms, extra: float) -> LossTerms:
    return terms._replace(total=terms.total + extra)


def steps_that_learn(rank: int, world: int = WORLD) -> list[float]:
    """Take steps with a temperature that is learned; return where each leaves it."""
    n = WORLD * BATCH // world
    own = torch.arange(WORLD * BATCH)[rank * n : (rank + 1) * n]
    criterion, model = FusionLoss(alpha=0.3, temperature=0.5, **FORMS["learned"]), Views()
    parts = model.parts()
    parts["head"] = [*parts["head"], *criterion.parameters()]
    optimizers = build_optimizers(parts, dict.fromkeys(parts, "sgd"), 0.05)
    schedule, accelerator = Schedule(optimizers), Accelerator(cpu=True)
    trainer = TrainingState(model, criterion, optimizers, schedule, accelerator, clip_grad_norm=1.0)
    cqt, mel, _ = (part[own] for part in data(WORLD * BATCH))
    batch, found = Batch(own, cqt, mel, torch.tensor(CLASSES)[own]), []
    for _ in range(4):
        train_step(trainer, [batch])
        found.append(criterion.learned()["temperature"])
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, np.ndarray]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_process, (folder,), nprocs=WORLD)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("form", FORMS)
def test_peer_23_gradients_are_those_of_one_process_with_the_joined_batch(two, form: str) -> None:
    joined = gradients(Views(), form, slice(None))
    for found, *_ in two:
        for ours, expected in zip(found[form], joined, strict=True):
            torch.testing.assert_close(ours, expected)


def test_peer_23_local_negatives_would_give_other_gradients() -> None:
    """The test above can fail: the parts' own losses, averaged, are something else."""
    cqt, mel, _ = data(WORLD * BATCH)
    parts = [nt_xent(a, b, 0.5) for a, b in zip(cqt.split(BATCH), mel.split(BATCH), strict=True)]
    assert abs(float(sum(parts)) / WORLD - float(nt_xent(cqt, mel, 0.5))) > 0.1


def test_classes_of_another_order_would_give_other_gradients() -> None:
    """Likewise: kin are known across the processes."""
    cqt, mel, _ = data(WORLD * BATCH)
    kin = [torch.tensor(CLASSES), torch.tensor(CLASSES[BATCH:] + CLASSES[:BATCH])]
    losses = [nt_xent(cqt, mel, 0.5, "simclr", labels, "positives") for labels in kin]
    assert abs(float(losses[0] - losses[1])) > 0.01


def test_a_temperature_is_learned_alike_on_all_processes_and_as_on_one(two) -> None:
    first, second = (found[4] for found in two)
    assert first == second and len(set(first)) == 4
    assert first == pytest.approx(steps_that_learn(0, world=1), rel=1e-5)


def test_a_bad_loss_of_one_process_undoes_the_unseen_steps_on_all(two) -> None:
    first, second = (found[6] for found in two)
    assert first["taken"] == second["taken"] == [[True, True], [False, False]]
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert all(map(torch.equal, one, other))
    assert all(map(torch.equal, *first["weights"]))  # as before the steps that were undone


def test_gradients_that_ddp_does_not_know_are_averaged(two) -> None:
    assert [found[5].tolist() for found in two] == [[1.0, 0.5]] * WORLD


def test_signs_of_collapse_are_of_the_clips_of_all_processes(two) -> None:
    cqt, mel, _ = data(N_EVAL)
    model, accelerator = Views(), Accelerator(cpu=True)
    signs = CollapseMonitor(model)
    with signs.recording(), torch.inference_mode():
        model(cqt, mel)
    expected = signs.epoch_measures(None, accelerator)
    assert expected.keys() > {"rank_cqt", "alignment"}
    for found in two:
        assert found[3] == pytest.approx(expected, rel=1e-4)


def test_evaluation_of_uneven_shares_is_by_one_model_and_known_to_both_processes(two) -> None:
    cqt, mel, _ = data(N_EVAL)
    expected = Views()(cqt, mel).logits.softmax(1).detach().numpy()
    for _, probs, *_ in two:
        np.testing.assert_allclose(probs, expected, rtol=1e-5)


@pytest.mark.promise("non_finite")
def test_peer_20_a_nan_on_one_process_moves_no_weight_on_any(two, count) -> None:
    first, second = (found[2] for found in two)
    for found in (first, second):
        after_good, after_bad, after_next = found["weights"]
        assert all(map(torch.equal, after_bad, after_good))
        assert not any(map(torch.equal, after_next, after_bad))
        assert set(found["taken"]) == {2} and len(found["taken"]) == 6
        (incident,) = found["progress"]["incidents"]
        assert incident["parts"] == ["data"] and incident["utterances"][-1] == f"clip_{BATCH + 1}"
    assert first["progress"] == second["progress"]
    assert all(map(torch.equal, first["weights"][-1], second["weights"][-1]))
    count("steps that were not finite")


def test_whole_run_under_torchrun(tiny: Callable, tmp_path: Path, recipe: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(WORLD), str(ROOT / "train_gmu.py")]
    command += ["--config", str(recipe), f"run.root={tmp_path}", "model.fusion=gmu_contrastive"]
    command += ["train.epochs=1", "train.batch_size=5", "protocol.split=speaker-k-fold"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "tiny"
    fold = run / "folds" / "fold-1_seed-0"
    metrics = json.loads((fold / "metrics.json").read_text())
    certificate = json.loads((run / "split_certificate.json").read_text())["folds"][0]
    assert metrics["test"]["n"] == certificate["test"]["utterances"]
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 1
    assert len(list(fold.glob("events.out.tfevents.*"))) == 1
    assert (run / "summary.md").read_text() in done.stdout
    assert done.stdout.count("Everything is in") == 1  # one process speaks for all
