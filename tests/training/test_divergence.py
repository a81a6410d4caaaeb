"""NaN and infinity: no weight moves, nothing is silent, and the run is repaired or says why not."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from corpora.plan import make_plan
from data import build_loader
from models.losses import FusionLoss, LossTerms
from storage.tensors import load_state
from system.errors import RunError
from system.files import read_json
from tests.support.models import small_model
from tests.support.runs import run_experiment
from tests.training.test_engine import CPU, Stub, batch, fake_clips, loaders, made, make_trainer
from training import engine
from training.batches import EvalBatches
from training.checkpoints import Checkpoints, Progress
from training.divergence import Diverged
from training.engine import fit, train_step
from training.evaluate import evaluate
from training.optim import Schedule, build_optimizers
from training.saver import Spacing
from training.session import open_session
from training.state import TrainingState

pytestmark = pytest.mark.promise("non_finite")
NAMES = [f"Ses01_{i:03d}" for i in range(16)]


class Spoiled(nn.Module):
    """Hands on what it gets, spoiled where a rule says so, with running statistics."""

    def __init__(self, is_spoiled: Callable[[], bool]) -> None:
        super().__init__()
        self.is_spoiled = is_spoiled
        self.norm = nn.BatchNorm1d(8)

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        return features * float("nan") if self.is_spoiled() else features


def spoiled_stub(branch: str, is_spoiled: Callable[[], bool]) -> Stub:
    model = Stub()
    linear = getattr(model, branch)
    setattr(model, branch, nn.Sequential(linear, Spoiled(is_spoiled)))
    return model


def copy_of(trainer: TrainingState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_unmoved(trainer: TrainingState, before: dict[str, Tensor]) -> None:
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("branch", ["cqt", "mel"])
def test_a_loss_that_is_nan_moves_nothing_and_names_branch_and_clips(
    branch: str, caplog, count
) -> None:
    bad = iter([False, True, True, True, False])  # the search for the cause computes once more
    trainer = make_trainer(spoiled_stub(branch, lambda: next(bad)), names={"train": NAMES})
    train_step(trainer, [batch(4)])
    before = copy_of(trainer)
    moments = [len(optimizer.state) for optimizer in trainer.optimizers]
    steps = [{k: v["step"].clone() for k, v in o.state.items()} for o in trainer.optimizers]
    assert moments == [4 if branch == "cqt" else 2, 4 if branch == "mel" else 2, 2]
    assert train_step(trainer, [batch(4, first=4)]).losses == []
    assert_unmoved(trainer, before)  # running statistics too
    for optimizer, taken in zip(trainer.optimizers, steps, strict=True):
        assert all(optimizer.state[p]["step"] == n for p, n in taken.items())
    (incident,) = trainer.progress.incidents
    assert incident == {
        "epoch": 1,
        "batch": 1,
        "what": "loss",
        "parts": [branch],
        "utterances": NAMES[4:8],
    }
    message = caplog.messages[-1]
    assert "the loss is NaN or infinite" in message and "Ses01_004, Ses01_005" in message
    assert "CQT" in message if branch == "cqt" else "Mel" in message
    trainer.progress.bad_in_row = 0
    count("steps that were not finite")


@pytest.mark.parametrize("part", ["cqt", "mel", "head"])
def test_a_gradient_that_is_infinite_moves_nothing_and_names_the_part(part: str, count) -> None:
    trainer = make_trainer(clip_grad_norm=1.0)
    before = copy_of(trainer)
    getattr(trainer.model, part).weight.register_hook(lambda slope: slope * float("inf"))
    assert train_step(trainer, [batch(4)]).losses == []
    assert_unmoved(trainer, before)
    (incident,) = trainer.progress.incidents
    assert (incident["what"], incident["parts"]) == ("gradient", [part])
    assert all(p.grad is None for p in trainer.model.parameters())
    count("steps that were not finite")


def test_of_accumulated_batches_the_bad_one_is_named_and_none_counts(count) -> None:
    trainer = make_trainer(names={"train": NAMES})
    before = copy_of(trainer)
    bad = batch(4, first=4)
    bad.mel[2, 0, 1, 1] = float("inf")
    assert train_step(trainer, [batch(4), bad]).losses == []
    assert_unmoved(trainer, before)
    assert trainer.progress.incidents[0]["parts"] == ["data"]
    assert trainer.progress.incidents[0]["utterances"] == ["Ses01_006"]
    count("steps that were not finite")


def test_the_schedule_moves_on_over_a_skipped_step() -> None:
    trainer = make_trainer(schedule={"kind": "cosine", "n_steps": 4})
    bad = batch(4)
    bad.cqt[0] = float("nan")
    rates = []
    for window in ([batch(4)], [bad], [batch(4)]):
        train_step(trainer, window)
        rates.append(trainer.schedule.rates()[0])
    assert rates == pytest.approx([0.01 * 0.5 * (1 + np.cos(np.pi * k / 4)) for k in (1, 2, 3)])


def spoil_losses(monkeypatch: pytest.MonkeyPatch, pattern: Iterator[bool]) -> None:
    """Make the loss of a batch NaN where the pattern says so."""
    loss = engine.loss_terms

    def spoiled(*args):
        return _times(loss(*args), float("nan") if next(pattern) else 1.0)

    monkeypatch.setattr(engine, "loss_terms", spoiled)


def test_bad_steps_apart_are_skipped_and_counted(monkeypatch, tmp_path: Path) -> None:
    pattern = iter([True, True, False, True, True, False, True, True] + [False] * 100)
    spoiled = spoiled_stub("mel", lambda: False)
    trainer = make_trainer(spoiled, max_bad_steps=2)
    spoil_losses(monkeypatch, pattern)
    progress = fit(trainer, *loaders(), 2, None, Checkpoints(tmp_path))
    assert progress.bad_steps == 6 and progress.bad_in_row == 2 and len(progress.incidents) == 6
    assert [row["skipped_steps"] for row in progress.history] == [3, 3]
    assert all(np.isfinite(row["loss"]) for row in progress.history)


def test_an_epoch_without_a_good_step_has_the_columns_of_the_others(
    monkeypatch, tmp_path: Path
) -> None:
    pattern = iter([False] * 4 + [True] * 4 + [False] * 4)
    trainer = make_trainer(max_bad_steps=9)
    spoil_losses(monkeypatch, pattern)
    train, dev = loaders()
    assert len(train) == 4
    history = fit(trainer, train, dev, 3, None, Checkpoints(tmp_path)).history
    assert [row["skipped_steps"] for row in history] == [0, 4, 0]
    assert list(history[0]) == list(history[1]) == list(history[2])
    assert [bool(np.isnan(row["cross_entropy"])) for row in history] == [False, True, False]


@pytest.mark.parametrize("fusion", ["gmu_contrastive", "mel_only"])
def test_a_first_epoch_without_a_good_step_has_all_columns_too(
    monkeypatch, tmp_path: Path, fusion
) -> None:
    torch.manual_seed(0)
    model = small_model(fusion, mlp_hidden_dim=16)
    criterion = FusionLoss(temperature_range=[0.01, 1.0])
    trainer = _learning(model, criterion)
    pattern = iter([True] * 2 + [False] * 9)
    spoil_losses(monkeypatch, pattern)
    history = fit(trainer, *loaders(8, 4, side=32), 2, None, Checkpoints(tmp_path)).history
    assert [row["skipped_steps"] for row in history] == [2, 0]
    assert list(history[0]) == list(history[1])
    assert np.isnan([history[0]["loss"], history[0]["grad_mel"]]).all()
    assert np.isfinite(list(history[1].values())).all()
    gone_on = _learning(model, FusionLoss(temperature_range=[0.01, 1.0]))
    fit(gone_on, *loaders(8, 4, side=32), 3, None, Checkpoints(tmp_path))
    history = gone_on.progress.history
    assert len(history) == 3 and list(history[2]) == list(history[0])


def _learning(model: nn.Module, criterion: FusionLoss) -> TrainingState:
    learns = criterion if hasattr(model.head, "view_cqt") else FusionLoss()
    parts = model.parts()
    parts["head"] = [*parts["head"], *learns.parameters()]
    optimizers = build_optimizers(parts, dict.fromkeys(parts, "adam"), 1e-3)
    return TrainingState(model, learns, optimizers, Schedule(optimizers), Accelerator(cpu=True))


def test_rows_of_an_earlier_version_get_the_columns_they_lack() -> None:
    progress = Progress(epoch=1, history=[{"epoch": 1, "loss": 2.0, "old": 5.0}])
    progress.add_step([batch(4)], [{"total": 1.0, "cross_entropy": 1.0}], {"grad_cqt": 0.5})
    record = progress.close_epoch({"lr_head": 0.1}, {"dev_ua": 0.25}, {"rank_cqt": 3.0})
    first, second = progress.history
    assert record is second and list(first) == list(second)
    assert (first["old"], first["loss"], second["grad_cqt"], second["rank_cqt"]) == (5, 2, 0.5, 3)
    assert np.isnan([second["old"], first["grad_cqt"], first["rank_cqt"], first["dev_ua"]]).all()


def _times(terms: LossTerms, factor: float) -> LossTerms:
    return terms._replace(total=terms.total * factor)


def test_too_many_bad_steps_end_the_run_with_the_learning_rate_as_cause(tmp_path: Path) -> None:
    trainer = make_trainer(lr=0.0125, max_bad_steps=2)
    train, dev = loaders()
    fit(trainer, train, dev, 1, None, Checkpoints(tmp_path))
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    trainer.model.mel.weight.data[0, 0] = float("nan")
    words = (
        r"loss is NaN or infinite, first in the Mel branch in float32. The cause is the learning "
        r"rate \(0.0125, 0.0125, 0.0125\).*lower optim.lr.*last good state is kept"
    )
    with pytest.raises(RunError, match=words):
        _fit_on(trainer, train, dev, 2, tmp_path)
    assert trainer.progress.bad_steps == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def _fit_on(trainer: TrainingState, train, dev, epochs: int, folder: Path) -> None:
    """Continue with the weights as they are, not with the saved ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "resume", lambda *args: None)
        fit(trainer, train, dev, epochs, None, Checkpoints(folder))


def test_images_that_are_nan_end_the_run_with_the_data_as_cause(tmp_path: Path) -> None:
    trainer = make_trainer(max_bad_steps=0, names={"train": NAMES, "dev": NAMES})
    train, dev = loaders()
    train.dataset.stored[0][5] = np.nan
    with pytest.raises(RunError, match="inputs of Ses01_005 are NaN.*cause is the data.*store"):
        fit(trainer, train, dev, 1, None, Checkpoints(tmp_path))


def test_dev_images_that_are_nan_are_reported_as_such(tmp_path: Path) -> None:
    trainer = make_trainer(names={"dev": NAMES})
    train, dev = loaders()
    dev.dataset.stored = (dev.dataset.stored[0].copy(), dev.dataset.stored[1])
    dev.dataset.stored[0][3] = np.inf
    with pytest.raises(RunError, match="inputs of Ses01_003 are NaN.*cause is the data"):
        fit(trainer, train, dev, 1, None, Checkpoints(tmp_path))


def test_predictions_that_are_nan_are_reported() -> None:
    model = Stub()
    nn.init.constant_(model.head.bias, float("nan"))
    clips = build_loader(fake_clips(8), EvalBatches(8, 4), CPU, workers=0)
    with pytest.raises(Diverged, match="the prediction is NaN"):
        evaluate(model, clips, Accelerator(cpu=True))


def in_autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("branch", ["cqt", "mel"])
def test_a_branch_that_bfloat16_does_not_suit_continues_in_float32(
    branch: str, tmp_path: Path, caplog, count
) -> None:
    caplog.set_level(logging.WARNING)
    trainer = make_trainer(
        spoiled_stub(branch, in_autocast), precision="bf16", max_bad_steps=1, seed=4
    )
    progress = fit(trainer, *loaders(), 2, None, made(tmp_path / "a"))
    assert progress.float32 == [branch] and progress.bad_steps == 2 and progress.epoch == 2
    assert progress.float32_fallbacks == [
        {"epoch": 1, "what": "loss", "float32": [branch], "back_to_epoch": 0}
    ]
    assert f"back to the end of epoch 0, from there with {branch} in float32" in caplog.text
    from_the_start = make_trainer(spoiled_stub(branch, in_autocast), precision="bf16", seed=4)
    from_the_start.model.float32 = frozenset([branch])
    fit(from_the_start, *loaders(), 2, None, made(tmp_path / "b"))
    assert_unmoved(trainer, copy_of(from_the_start))
    count("runs repaired in float32")


def test_a_repaired_run_that_is_resumed_stays_repaired(tmp_path: Path) -> None:
    def trainer() -> TrainingState:
        model = spoiled_stub("mel", in_autocast)
        return make_trainer(model, precision="bf16", max_bad_steps=1, seed=4)

    whole = trainer()
    fit(whole, *loaders(), 3, None, made(tmp_path / "whole"))
    fit(trainer(), *loaders(), 1, None, made(tmp_path / "parts"))
    parts = trainer()
    fit(parts, *loaders(), 3, None, made(tmp_path / "parts"))
    assert parts.progress == whole.progress
    assert_unmoved(parts, copy_of(whole))


def test_what_fails_in_float32_too_ends_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(spoiled_stub("mel", lambda: True), precision="bf16", max_bad_steps=1)
    with pytest.raises(RunError, match="in bfloat16 and in float32 alike. The cause is the learn"):
        fit(trainer, *loaders(), 1, None, Checkpoints(tmp_path))
    assert trainer.progress.bad_steps == 4 and trainer.progress.float32 == ["mel"]


def test_weights_that_are_not_finite_are_never_kept(monkeypatch, tmp_path: Path) -> None:
    trainer = make_trainer(lr=0.01)
    train, dev = loaders()
    keep_all = Checkpoints(tmp_path)
    step = engine.train_step

    def overshoot(*args):
        found = step(*args)
        with torch.no_grad():
            trainer.model.head.weight[0, 0] = float("inf")
        return found

    monkeypatch.setattr(engine, "train_step", overshoot)
    with pytest.raises(RunError, match="cause is the learning rate"):
        fit(trainer, train, dev, 3, None, keep_all, Spacing(1, 1e-9))
    (state,) = tmp_path.glob("epoch-*")
    assert state.name.startswith("epoch-0000_batch-00000")
    assert torch.isfinite(load_state(state)["model"]["head.weight"]).all()


def test_the_summary_says_what_was_skipped_and_repaired(tiny: Callable, monkeypatch) -> None:
    losses = iter([1.0, float("nan"), float("nan")] + [1.0] * 100)
    loss = FusionLoss.forward
    monkeypatch.setattr(
        FusionLoss, "forward", lambda self, *args: _times(loss(self, *args), next(losses))
    )
    run = run_experiment(tiny("train.precision=bfloat16", "train.max_bad_steps=1"), [])
    issues = read_json(run / "summary.json")["training_issues"]["fold 1 seed 0"]
    assert issues["bad_steps"] == 2 and issues["float32"] == ["head"]
    assert [one["batch"] for one in issues["incidents"]] == [2, 3]
    assert all(clip.startswith("Ses0") for clip in issues["incidents"][0]["utterances"])
    table = (run / "summary.md").read_text()
    assert "In tiny, fold 1 seed 0: 2 training steps were skipped" in table
    assert "went back to the end of epoch 0 and continued in float32 for head" in table


def test_a_repair_without_a_skipped_step_is_reported_too(tiny: Callable, monkeypatch) -> None:
    passes = iter([True, False] + [True] * 9)

    def spoiled(*args):
        if not next(passes):
            raise Diverged("prediction", ["mel"])
        return evaluate(*args)

    monkeypatch.setattr("training.engine.evaluate", spoiled)
    run = run_experiment(tiny("train.precision=bfloat16"), [])
    (issues,) = read_json(run / "summary.json")["training_issues"].values()
    assert issues["bad_steps"] == 0 and issues["float32"] == ["mel"]
    message = "In tiny, fold 1 seed 0: In epoch 2 the prediction was NaN or infinite: training went"
    assert message in (run / "summary.md").read_text()


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_corrupt_store_is_blamed_for_its_nan(tiny: Callable, tmp_path: Path, part: str) -> None:
    config = tiny(f"run.store={tmp_path / 'store'}")
    plan = make_plan(config)
    store = open_session(config, plan).store
    clip = dict(plan.wanted()[0].parts())[part][0]
    row = store.rows[plan.hashes[clip.path]].start
    data = np.memmap(store._data_file("mel"), np.float16, "r+").reshape(-1, *store.record)
    data[row, 0, 3, 3] = np.nan
    data.flush()
    with pytest.raises(RunError, match=f"inputs of {clip.id} are NaN.*cause is the data.*store"):
        run_experiment(config, [])
