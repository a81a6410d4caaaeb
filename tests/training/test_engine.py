"""Training: learns, selects on dev UA alone, and goes on after a stop as if there had been none."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data import Batch, ImageAugment, ImageDataset, build_loader
from models.contrastive import consistency, diversity, nt_xent
from models.heads import FusionOutput
from models.losses import FusionLoss, LossTerms, Temperature
from storage.tensors import copy_state, load_state, load_tensors
from system.errors import RunError
from tests.support.models import small_model
from training import engine
from training.batches import EvalBatches, TrainBatches
from training.checkpoints import Checkpoints
from training.engine import fit, loss_terms, train_one_epoch, train_step
from training.evaluate import Predictions, evaluate
from training.optim import Schedule, build_optimizers
from training.saver import Spacing
from training.state import TrainingState

CPU = torch.device("cpu")
K, SIDE = 4, 32


def in_reduced(part: str, model: "Stub") -> bool:
    return torch.is_autocast_enabled("cpu") and part not in model.float32


class SideBySide(nn.Linear):
    """A linear head with the door of the real one."""

    branches = ("cqt", "mel")

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        return FusionOutput(super().forward(torch.cat([cqt, mel], 1)), None, None, None)


class Stub(nn.Module):
    """A linear model with the doors of the real one."""

    def __init__(self, side: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cqt, self.mel = nn.Linear(side * side, 8), nn.Linear(side * side, 8)
        self.head = SideBySide(16, K)

    float32: frozenset[str] = frozenset()

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        with torch.autocast("cpu", enabled=in_reduced("head", self)):
            return self.head(*self.features(cqt, mel))

    def features(self, cqt: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=in_reduced("cqt", self)):
            feat_cqt = self.cqt(cqt.flatten(1))
        with torch.autocast("cpu", enabled=in_reduced("mel", self)):
            return feat_cqt.float(), self.mel(mel.flatten(1)).float()

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(getattr(self, name).parameters()) for name in ("cqt", "mel", "head")}


def fake_clips(n: int, side: int = 4, augment: ImageAugment | None = None) -> ImageDataset:
    """Noise with a bright row for the class, as if it came from a store."""
    draw = np.random.default_rng(0)
    targets = np.arange(n) % K
    images = draw.standard_normal((n, 1, side, side)).astype(np.float16)
    images[np.arange(n), 0, targets] += 4
    keys = [f"{1000 + i:08x}" for i in range(n)]
    store = SimpleNamespace(
        images=lambda name: images, rows={key: range(i, i + 1) for i, key in enumerate(keys)}
    )
    return ImageDataset(store, keys, targets.tolist(), augment, seed=1)


def loaders(n: int = 16, batch_size: int = 4, **kwargs: object) -> tuple[DataLoader, DataLoader]:
    """Return training and evaluation on the same clips."""
    kwargs = {"augment": ImageAugment(), **kwargs}
    train, dev = fake_clips(n, **kwargs), fake_clips(n, **(kwargs | {"augment": None}))
    return (
        build_loader(train, TrainBatches(n, batch_size, seed=1), CPU, workers=0),
        build_loader(dev, EvalBatches(n, batch_size), CPU, workers=0),
    )


def make_trainer(
    model: nn.Module | None = None,
    lr: float = 0.01,
    optimizer: str = "adam",
    precision: str = "no",
    schedule: dict[str, object] | None = None,
    criterion: FusionLoss | None = None,
    **kwargs: object,
) -> TrainingState:
    model, criterion = model or Stub(), criterion or FusionLoss()
    parts = model.parts()
    parts["head"] = [*parts["head"], *criterion.parameters()]
    optimizers = build_optimizers(parts, {"cqt": optimizer, "mel": "radam", "head": optimizer}, lr)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    moves = Schedule(optimizers, **(schedule or {}))
    return TrainingState(model, criterion, optimizers, moves, accelerator, **kwargs)


def made(folder: Path) -> Checkpoints:
    folder.mkdir(exist_ok=True)
    return Checkpoints(folder)


def batch(n: int, first: int = 0) -> Batch:
    clips = fake_clips(first + n)
    return clips.__getitems__([(0, i) for i in range(first, first + n)]).widened()


def test_overfits_a_few_clips(tmp_path: Path) -> None:
    trainer = make_trainer()
    train, dev = loaders(8)
    progress = fit(trainer, train, dev, 40, None, Checkpoints(tmp_path))
    assert progress.history[-1]["loss"] < 0.05 < 1 < progress.history[0]["loss"]
    assert progress.best_score == 1.0


def test_two_batches_accumulated_are_one_batch_twice_as_large() -> None:
    twice = make_trainer(optimizer="sgd")
    once = make_trainer(optimizer="sgd")
    train_step(twice, [batch(4), batch(4, first=4)])
    train_step(once, [batch(8)])
    pairs = zip(twice.model.parameters(), once.model.parameters(), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)
    before = Stub().head.weight
    assert not torch.equal(before, once.model.head.weight)


def test_epoch_accumulates_windows_and_steps_on_the_rest(monkeypatch) -> None:
    trainer = make_trainer(accumulate=3)
    train, _ = loaders(16, 4)  # 4 batches
    windows = []
    step = engine.train_step
    monkeypatch.setattr(engine, "train_step", lambda s, w: windows.append(len(w)) or step(s, w))
    train_one_epoch(trainer, train)
    assert windows == [3, 1]


def test_clipping_limits_the_gradient_norm() -> None:
    def moved(clip: float | None) -> float:
        model = Stub()
        optimizers = build_optimizers(
            model.parts(), dict.fromkeys(("cqt", "mel", "head"), "sgd"), 1
        )
        trainer = TrainingState(
            model,
            FusionLoss(),
            optimizers,
            Schedule(optimizers),
            Accelerator(cpu=True),
            clip_grad_norm=clip,
        )
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        train_step(trainer, [batch(8)])
        after = nn.utils.parameters_to_vector(model.parameters()).detach()
        return float((after - before).norm())

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3) and moved(None) > 0.1


def dev_with_ua(ua: float, loss: float) -> Predictions:
    """Four classes of 100 clips, `ua` of each right."""
    targets = np.repeat(np.arange(K), 100)
    preds = np.where(np.tile(np.arange(100), K) < round(100 * ua), targets, (targets + 1) % K)
    return Predictions(targets, np.eye(K)[preds], None, loss, np.asarray(preds))


def fit_on_script(
    monkeypatch: pytest.MonkeyPatch, folder: Path, uas: Sequence[float], patience: int | None
) -> tuple[TrainingState, list[dict[str, Tensor]]]:
    """Train while dev UA follows a script and dev loss falls all the time; keep all weights."""
    trainer = make_trainer(schedule={"kind": "plateau", "factor": 0.5, "patience": 1})
    script = iter(dev_with_ua(ua, 1 / (i + 1)) for i, ua in enumerate(uas))
    monkeypatch.setattr(engine, "evaluate", lambda *args: next(script))
    weights: list[dict[str, Tensor]] = []

    def keep(record: dict[str, float], dev: Predictions) -> None:
        weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    fit(trainer, *loaders(), len(uas), patience, Checkpoints(folder), Spacing(), keep)
    return trainer, weights


def test_peer_22_schedule_stopping_and_selection_all_read_dev_ua(monkeypatch, tmp_path) -> None:
    uas = [0.4, 0.6, 0.5, 0.6, 0.55, 0.9]
    trainer, _ = fit_on_script(monkeypatch, tmp_path, uas, patience=3)
    history = trainer.progress.history
    assert trainer.progress.best_epoch == 2 and trainer.progress.best_score == pytest.approx(0.6)
    assert len(history) == 5  # three epochs without a better dev UA, though dev loss fell
    assert [row["dev_ua"] for row in history] == pytest.approx(uas[:5])
    assert trainer.schedule.rates() == [0.005] * 3  # after two such epochs


def test_best_weights_are_those_of_the_first_best_epoch(monkeypatch, tmp_path: Path) -> None:
    trainer, weights = fit_on_script(monkeypatch, tmp_path, [0.5, 0.8, 0.8, 0.3], patience=None)
    assert trainer.progress.best_epoch == 2
    saved = load_tensors(Checkpoints(tmp_path).best(2))
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=0)
        assert not torch.equal(tensor, weights[2][name])


def test_an_epoch_that_is_never_right_still_leaves_weights(monkeypatch, tmp_path: Path) -> None:
    fit_on_script(monkeypatch, tmp_path, [0.0], patience=None)
    assert load_tensors(Checkpoints(tmp_path).best(1))


SCHEDULES = {
    "concat": {"kind": "plateau", "patience": 0, "factor": 0.5},
    "gmu": {"kind": "cosine", "n_steps": 6, "n_warmup": 2},
    "gmu_contrastive": {"kind": "constant"},
    "cross_attention": {"kind": "constant"},
    "cross_attention_contrastive": {"kind": "constant"},
    "mel_only": {"kind": "plateau", "patience": 0, "factor": 0.5},
}


@pytest.mark.parametrize("fusion", SCHEDULES)
def test_peer_24_resumed_training_equals_uninterrupted_to_the_bit(
    fusion: str, tmp_path: Path
) -> None:
    def trainer() -> TrainingState:
        torch.manual_seed(3)
        model = small_model(fusion, n_classes=K, image_size=SIDE, dropout=0.5, mlp_hidden_dim=16)
        kinds = {"schedule": SCHEDULES[fusion], "seed": 5, "clip_grad_norm": 1.0}
        if fusion == "gmu_contrastive":
            kinds["criterion"] = FusionLoss(same_class="positives", temperature_range=[0.01, 1.0])
        if fusion == "cross_attention_contrastive":
            kinds["criterion"] = FusionLoss(alpha_on="features", nt_xent_warmup_epochs=2)
        return make_trainer(model, lr=1e-3, **kinds)

    clips = {"side": SIDE, "augment": ImageAugment(time_mask=0.3, time_shift=0.3)}
    whole, parts = made(tmp_path / "whole"), made(tmp_path / "parts")
    fit(trainer(), *loaders(8, 4, **clips), 3, None, whole, Spacing(1))
    fit(trainer(), *loaders(8, 4, **clips), 1, None, parts, Spacing(1))
    torch.rand(7)  # chance elsewhere does not reach into a step
    fit(trainer(), *loaders(8, 4, **clips), 3, None, parts, Spacing(1))
    files = [sorted(folder.folder.iterdir()) for folder in (whole, parts)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for ours, theirs in zip(*files, strict=True):  # weights, optimizers, schedule, history
        assert ours.read_bytes() == theirs.read_bytes()
    if fusion == "gmu_contrastive":
        learned = load_state(max(files[0]))["criterion"]["temperature.place"]
        assert not torch.equal(learned, Temperature(0.07, [0.01, 1.0]).place)


def test_bfloat16_trains_and_keeps_the_weights_in_float32() -> None:
    losses = {}
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.manual_seed(3)
        model = small_model("gmu_contrastive", n_classes=K, image_size=SIDE)
        trainer = make_trainer(model, precision=precision, lr=1e-3)
        train_one_epoch(trainer, loaders(8, 4, side=SIDE)[0])
        losses[precision] = trainer.progress.sums["total"] / 8
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["no"]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.1)


class SaysFirstPixel(nn.Module):
    """Predicts the class that the first pixel names; with dropout that only training has."""

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        named = nn.functional.one_hot(cqt[:, 0, 0, 0].long(), K).float()
        gate = mel[:, 0, 0, :2]
        return FusionOutput(nn.functional.dropout(named, 0.9, self.training), gate, None, None)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_evaluation_returns_every_clip_in_order(batch_size: int) -> None:
    clips = fake_clips(10)
    clips.stored[0][:, 0, 0, 0] = said = np.arange(10) * 3 % K
    loader = build_loader(clips, EvalBatches(10, batch_size), CPU, workers=0)
    found = evaluate(SaysFirstPixel().train(), loader, Accelerator(cpu=True))
    assert found.preds.tolist() == said.tolist()
    assert found.targets.tolist() == [i % K for i in range(10)]
    np.testing.assert_allclose(found.probs.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.gate, clips.stored[1][:, 0, 0, :2])
    logits = torch.from_numpy(np.eye(K, dtype=np.float32)[said])
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(found.targets))
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


def test_a_mixed_batch_is_trained_on_both_targets() -> None:
    clips = fake_clips(8, augment=ImageAugment(mixup=0.5))
    batch = clips.__getitems__([(0, i) for i in range(8)])
    trainer = make_trainer()
    logits = trainer.model(batch.cqt, batch.mel).logits
    expected = FusionLoss()(logits, batch.targets, None, batch.mix).total
    assert train_step(trainer, [batch]).losses[0]["total"] == pytest.approx(
        float(expected.detach()), rel=1e-5
    )
    assert abs(float(expected) - float(FusionLoss()(logits, batch.targets, None).total)) > 1e-3


def test_a_clip_of_several_crops_is_their_mean() -> None:
    clips = fake_clips(6)
    clips.stored[0][:, 0, 0, 0] = [0, 1, 1, 2, 3, 3]  # what each crop says
    clips.utterances = np.array([0, 1, 1, 1, 2, 2])  # clip 1 has three crops
    clips.targets = torch.tensor([0, 1, 2])
    for batch_size in (2, 6):
        loader = build_loader(clips, EvalBatches(6, batch_size), CPU, workers=0)
        found = evaluate(SaysFirstPixel(), loader, Accelerator(cpu=True))
        each = torch.eye(K)[[0, 1, 1, 2, 3, 3]].softmax(1).numpy()
        expected = [each[0], each[1:4].mean(0), each[4:].mean(0)]
        np.testing.assert_allclose(found.probs, expected, rtol=1e-6)
        assert found.targets.tolist() == [0, 1, 2] and found.preds.tolist() == [0, 1, 3]
        gates = clips.stored[1][:, 0, 0, :2].astype("f4")
        np.testing.assert_allclose(found.gate[1], gates[1:4].mean(0), rtol=1e-6)
        losses = -np.log([each[0, 0], *each[1:4, 1], *each[4:, 2]])
        assert found.loss == pytest.approx(
            np.mean([losses[0], losses[1:4].mean(), losses[4:].mean()]), rel=1e-5
        )


def test_chance_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    def drawn(seed: int, epoch: int, prepare: Callable[[], object]) -> float:
        trainer = make_trainer(seed=seed)
        trainer.progress.epoch = epoch
        prepare()
        train_one_epoch(trainer, loaders(4, 4)[0])
        return float(torch.rand(1))

    same = drawn(1, 2, lambda: None)
    assert same == drawn(1, 2, lambda: torch.rand(9))
    assert len({same, drawn(1, 3, lambda: None), drawn(2, 2, lambda: None)}) == 3


def test_a_state_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    train, dev = loaders()
    of_two = make_trainer()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(copy_state({**of_two.state_dict(), "processes": 2}), of_two.progress.place)
    with pytest.raises(RunError, match="on 2 processes, this one is on 1.*start it on 2"):
        fit(of_two, train, dev, 1, None, checkpoints)


class TwoViews(Stub):
    """The stub with views."""

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        features = self.features(cqt, mel)
        return self.head(*features)._replace(views=features)


@pytest.mark.parametrize("alpha_on", ["views", "features"])
def test_the_alpha_terms_of_a_step_act_where_the_key_says(alpha_on: str) -> None:
    model = small_model("cross_attention_contrastive", n_classes=K, image_size=SIDE).eval()
    one = fake_clips(4, side=SIDE).__getitems__([(0, i) for i in range(4)])
    output = model(one.cqt, one.mel)
    assert output.pooled[0].shape[1] != output.views[0].shape[1]
    terms = loss_terms(FusionLoss(alpha_on=alpha_on), output, one)
    pair = output.pooled if alpha_on == "features" else output.views
    torch.testing.assert_close(terms.diversity, diversity(*pair))
    torch.testing.assert_close(terms.consistency, consistency(*pair))
    torch.testing.assert_close(terms.nt_xent, nt_xent(*output.views, 0.07))


@pytest.mark.parametrize("projection", ["separate", "shared"])
@pytest.mark.parametrize("term", ["nt_xent", "consistency", "diversity"])
def test_each_contrastive_term_reaches_both_backbones(term: str, projection: str) -> None:
    fusion = "cross_attention_contrastive"
    model = small_model(fusion, n_classes=K, image_size=SIDE, projection=projection)
    one = fake_clips(4, side=SIDE).__getitems__([(0, i) for i in range(4)])
    terms = loss_terms(FusionLoss(alpha_on="features"), model(one.cqt, one.mel), one)
    getattr(terms, term).backward()
    for branch in ("cqt", "mel"):
        slopes = [p.grad for p in model.parts()[branch] if p.grad is not None]
        assert slopes and any(bool(slope.any()) for slope in slopes)


def test_nt_xent_of_weight_0_and_alpha_0_train_as_cross_entropy_alone() -> None:
    def trained(criterion: FusionLoss) -> TrainingState:
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.manual_seed(3)
        model = small_model("gmu_contrastive", n_classes=K, image_size=SIDE)
        state = make_trainer(model, criterion=criterion, lr=1e-3)
        train_one_epoch(state, loaders(8, 4, side=SIDE)[0])
        return state

    class CrossEntropy(FusionLoss):
        def forward(self, logits: Tensor, targets: Tensor, *others: object) -> LossTerms:
            return super().forward(logits, targets, None)

    without = trained(CrossEntropy())
    nothing = trained(FusionLoss(alpha=0.0, nt_xent_weight=0.0))
    contrast = trained(FusionLoss(alpha=0.0))
    assert all(map(torch.equal, nothing.trained, without.trained))
    assert not all(map(torch.equal, contrast.trained, without.trained))  # alpha 0 alone is not it
    assert nothing.progress.sums["nt_xent"] > 0  # still logged


def test_the_warm_up_of_nt_xent_follows_the_epochs_of_a_resumed_training(tmp_path: Path) -> None:
    weights = []

    class Watched(FusionLoss):
        def start_epoch(self, epoch: int) -> None:
            super().start_epoch(epoch)
            weights.append(self.weight)

    for epochs in (2, 4):  # stopped after two, and resumed
        criterion = Watched(nt_xent_weight=0.5, nt_xent_warmup_epochs=2)
        fit(make_trainer(TwoViews(), criterion=criterion), *loaders(), epochs, None, made(tmp_path))
    assert weights == [0.0, 0.25, 0.5, 0.5]


def learning(clip: float | None = None) -> TrainingState:
    criterion = FusionLoss(alpha=0.0, temperature=0.07, temperature_range=[0.01, 1.0])
    return make_trainer(TwoViews(), optimizer="sgd", criterion=criterion, clip_grad_norm=clip)


def test_a_learned_temperature_moves_with_the_rest_and_is_logged(tmp_path: Path) -> None:
    trainer = learning()
    history = fit(trainer, *loaders(), 2, None, Checkpoints(tmp_path)).history
    assert history[0]["temperature"] not in (history[1]["temperature"], pytest.approx(0.07))
    assert all(0.01 < row["temperature"] < 1 for row in history)
    assert history[1]["temperature"] == trainer.criterion.temperature().item()
    assert "temperature" not in make_trainer(TwoViews()).criterion.learned()


def test_the_temperature_is_clipped_and_checked_with_the_rest() -> None:
    trainer, one = learning(clip=1e-3), batch(8)
    place = trainer.criterion.temperature.place
    loss_terms(trainer.criterion, trainer.wrapped(one.cqt, one.mel), one).total.backward()
    slopes, before = [p.grad.clone() for p in trainer.trained], place.item()
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()
    train_step(trainer, [batch(8)])
    (own,) = (s for s, p in zip(slopes, trainer.trained, strict=True) if p is place)
    norm = torch.stack([slope.norm() for slope in slopes]).norm()
    step = 0.01 * 1e-3 * float(own / norm)  # rate, longest, its part of the gradient
    assert before - place.item() == pytest.approx(step, rel=0.05)
    place.register_hook(lambda slope: slope * float("nan"))
    weights = [p.detach().clone() for p in trainer.trained]
    assert train_step(trainer, [batch(8)]).losses == []
    assert all(map(torch.equal, weights, trainer.trained))


def test_a_learned_temperature_does_not_decay() -> None:
    criterion = FusionLoss(temperature_range=[0.01, 1.0])
    parts = {"head": [nn.Parameter(torch.ones(2, 2)), *criterion.parameters()]}
    (optimizer,) = build_optimizers(parts, {"head": "adamw"}, 1e-3, weight_decay=0.1)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decay[id(p)] for p in parts["head"]] == [0.1, 0.0]


def test_a_state_from_before_the_loss_had_one_is_resumed(monkeypatch, tmp_path: Path) -> None:
    train, dev = loaders()
    whole, folder = make_trainer(), tmp_path / "parts"
    fit(whole, train, dev, 2, None, made(tmp_path / "whole"))
    fit(make_trainer(), train, dev, 1, None, made(folder))
    state = load_state(max(folder.glob("epoch-*")))
    del state["criterion"], state["progress"]["measured"]
    state["progress"]["alarms"] = state["progress"].pop("collapse_warnings")
    gone_on = make_trainer()
    state["progress"]["repairs"] = state["progress"].pop("float32_fallbacks")  # an older version
    gone_on.load_state_dict(state)
    monkeypatch.setattr(engine, "resume", lambda *args: None)
    fit(gone_on, train, dev, 2, None, Checkpoints(folder))
    weights = zip(whole.trained, gone_on.trained, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)
