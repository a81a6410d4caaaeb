"""Heads on kept features: branches stay as they are, and all else is as in any training."""

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from audio.row_norm import RowNorm
from config.fusions import FUSIONS
from config.loading import load_config
from config.schema import Config
from corpora.plan import make_tuning_plan
from evaluation.metrics import scores
from experiments.lr_range import run_range_test
from gates.frozen import open_run as open_frozen
from inference import load
from model_gmu import MaxMViTGMU, rebuild
from storage.kept_features import KeptFeatures
from storage.model_card import read_card
from storage.run_folder import read_run
from storage.tensors import load_state, load_tensors, save_tensors
from system.errors import InputError, RunError
from system.files import read_json
from tests.support.runs import run_experiment
from training import engine, epoch_files, frozen_branches
from training.batches import EvalBatches, TrainBatches
from training.build import build_training, eval_loader
from training.divergence import offending_parts
from training.dry_run import dry_run
from training.evaluate import evaluate
from training.experiment import open_run
from training.fold import train_fold
from training.frozen_branches import CROPS_AT_ONCE, HeadOnly
from training.session import open_session
from training.warm_start import find_origins

SMALL = ("corpus.subset=improvised", "train.batch_size=4")
FOLD = "folds/fold-1_seed-0"
RESULTS = ("model.safetensors", "model.json", "predictions.csv", "metrics.json", "history.csv")
CONTRAST = ("model.fusion=gmu_contrastive", "loss.temperature_range=[0.01,1.0]")


@pytest.fixture(scope="module")
def origin(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of two folds with both branches, whose running statistics have moved."""
    root = tmp_path_factory.mktemp("origin")
    wishes = [f"run.root={root}", "name=origin", "run.folds=[1,2]", *SMALL]
    yield run_experiment(load_config(recipe, wishes), [])
    shutil.rmtree(root)


@pytest.fixture
def frozen(tiny: Callable, origin: Path, tmp_path: Path) -> Callable:
    """Make a config of a head on both branches of that run; its store is the test's own."""
    places = (f"model.cqt_from={origin}", f"model.mel_from={origin}")
    store = f"run.store={tmp_path / 'store'}"
    return lambda *wishes: tiny(*SMALL, *places, "train.features=frozen", store, *wishes)


def test_branches_stay_as_they_were_to_the_bit(frozen, origin) -> None:
    run = run_experiment(frozen("optim.lr=0.1", "model.drop_path_rate=0"), [])
    before, after = (load_tensors(r / FOLD / "model.safetensors") for r in (origin, run))
    names = [name for name in before if name.startswith(("cqt_", "mel_"))]
    assert any("running_mean" in name for name in names) and "mel_mean" in names
    for name in names:
        assert torch.equal(before[name], after[name]), name
    heads = [name for name in after if name.startswith("head.") and after[name].ndim]
    assert not any(torch.equal(before[name], after[name]) for name in heads)
    assert before.keys() == after.keys()
    assert read_card(run / FOLD).model == read_card(origin / FOLD).model


@pytest.mark.parametrize("fusion", ["gmu", "cross_attention"])
def test_kept_features_are_those_of_a_plain_forward_pass(frozen, origin, recipe, fusion) -> None:
    with open_run(frozen(f"model.fusion={fusion}"), []) as session:
        fold = next(session.folds())
        kept = build_training(fold, find_origins(fold)).kept
        assert isinstance(kept, KeptFeatures)
        utterances = session.plan.utterances
        keys = sorted(set(fold.hashes(utterances)))
        assert list(kept.rows) == keys and len(keys) == 20
        rows = [row for key in keys for row in session.store.rows[key]]
        images = [torch.from_numpy(session.store.images(b)[rows]).float() for b in ("cqt", "mel")]
    folder = origin / FOLD
    model = rebuild(read_card(folder).settings(), load_tensors(folder / "model.safetensors"))
    model = model.to(memory_format=torch.channels_last)  # as in training, so that it rounds alike
    encode = model.features if fusion == "gmu" else tokens_of(model)
    with torch.inference_mode():
        sizes = [len(batch) for batch in EvalBatches(len(keys), CROPS_AT_ONCE)]
        parts = [encode(*pair) for pair in zip(*(i.split(sizes) for i in images), strict=True)]
    for branch, expected in zip(("cqt", "mel"), zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.from_numpy(kept.images(branch)), torch.cat(expected))


def tokens_of(model: MaxMViTGMU) -> Callable:
    """Return what gives the tokens of both branches, by timm's own words."""

    def encode(cqt: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cqt = model.cqt_branch.forward_features((cqt - model.cqt_mean) / model.cqt_std)
        mel = model.mel_branch.forward_features((mel - model.mel_mean) / model.mel_std)
        return cqt.flatten(2).mT, mel

    return encode


def test_a_head_is_trained_as_by_a_plain_loop(frozen) -> None:
    """By SGD: the bias before a batch norm has no true gradient, and Adam would follow rounding."""
    wishes = ("train.epochs=4", "model.dropout=0", "optim.weight_decay=0.1", "optim.lr=0.03")
    config = frozen(*wishes, "optim.optimizer.head=sgd")
    run = run_experiment(config, [])
    best = read_json(run / FOLD / "metrics.json")["best_epoch"]
    ours = load_tensors(run / FOLD / "model.safetensors")
    with open_run(config, []) as session:
        fold = next(session.folds())
        kept = build_training(fold, find_origins(fold)).kept
        torch.manual_seed(fold.rng_seed)
        head = MaxMViTGMU.from_config(config.model, n_classes=4).head
        features = {
            name: torch.from_numpy(
                np.stack([kept.images(name)[kept.rows[key][0]] for key in fold.hashes(part)])
            )
            for part in (fold.split.train,)
            for name in ("cqt", "mel")
        }
        targets = torch.tensor(fold.targets(fold.split.train))
    matrices, others = ([p for p in head.parameters() if (p.ndim > 1) == m] for m in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.03, momentum=0.9)
    batches = TrainBatches(len(targets), 4, fold.rng_seed)
    for epoch in range(best):
        batches.set_epoch(epoch)
        for batch in batches:
            index = torch.tensor([i for _, i in batch])
            loss = F.cross_entropy(
                head(features["cqt"][index], features["mel"][index]).logits, targets[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(ours[f"head.{name}"], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wishes",
    [("model.fusion=concat",), ("model.fusion=gmu", "train.ema=0.9"), CONTRAST],
    ids=["concat", "gmu, averaged", "contrastive"],
)
def test_scores_are_those_of_the_whole_network_on_images(frozen, wishes) -> None:
    check_scores(frozen(*wishes, "optim.lr=0.01"))


def test_images_may_be_standardised_by_speaker(tiny, tmp_path) -> None:
    own = (*SMALL, "train.normalize=speaker", "train.epochs=1")
    origin = run_experiment(tiny(*own, "name=origin"), [])
    places = [f"model.{branch}_from={origin}" for branch in ("cqt", "mel")]
    config = tiny(*own, *places, "train.features=frozen", f"run.store={tmp_path / 'store'}")
    check_scores(config)
    with open_run(config, []) as session:
        fold = next(session.folds())
        kept = build_training(fold, find_origins(fold)).kept
        speakers = {u.speaker for u in session.plan.utterances}
    assert {key.split()[1] for key in kept.rows} == speakers
    assert "features " in dry_run(config)


def check_scores(config: Config) -> None:
    """Train a head, and compare its predictions with those of the whole network on images."""
    run = read_run(run_experiment(config, []))
    (result,) = run.folds
    with open_run(config, []) as session:
        fold = next(session.folds())
        card = read_card(result.folder)
        model = rebuild(card.settings(), load_tensors(result.folder / "model.safetensors"))
        for name, part, stored in (
            ("dev", fold.split.dev, result.metrics.dev),
            ("test", fold.split.test, result.metrics.test),
        ):
            loader = eval_loader(fold, part)
            found = evaluate(model, loader, session.accelerator)
            table = getattr(result, name)
            np.testing.assert_allclose(found.probs, table.probs, atol=2e-6)
            values = scores(found.targets.tolist(), found.preds.tolist(), 4)
            assert (values["ua"], values["wa"]) == (stored.ua, stored.wa)
            if table.gate is not None:
                np.testing.assert_allclose(found.gate.mean(1), table.gate, atol=2e-6)


def test_a_frozen_run_is_opened_by_gate_analysis_and_labels_recordings(
    frozen, corpus_root, tmp_path
) -> None:
    run = run_experiment(frozen(), [])
    opened = open_frozen(read_run(run))
    (fold,) = opened.folds()
    fold.check_intact(fold.fuse(fold.head_inputs("test")))
    label = load(run / FOLD, calibrated=False).predict(
        next(corpus_root.rglob("Ses01F_impro01_F000.wav"))
    )
    row = next(i for i, u in enumerate(fold.result.test.utterances) if u == "Ses01F_impro01_F000")
    assert list(label.probs.values()) == pytest.approx(
        fold.result.test.probs[row].tolist(), abs=5e-3
    )
    lines = (run / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 1


@pytest.mark.parametrize("fusion", ["cqt_only", "mel_only"])
def test_one_branch_needs_one_origin(frozen, origin, fusion) -> None:
    branch, other = ("cqt", "mel") if fusion == "cqt_only" else ("mel", "cqt")
    absent = (f"model.fusion={fusion}", f"model.{other}_backbone=null", f"model.{other}_from=null")
    run = run_experiment(frozen(*absent), [])
    weights = load_tensors(run / FOLD / "model.safetensors")
    theirs = load_tensors(origin / FOLD / "model.safetensors")
    name = f"{branch}_branch.norm.weight" if branch == "mel" else "cqt_branch.stem.conv1.weight"
    assert torch.equal(weights[name], theirs[name])
    assert not any(name.startswith(f"{other}_branch") for name in weights)


def test_features_are_computed_once_for_all_fusions_and_seeds(
    frozen, origin, tmp_path, monkeypatch
) -> None:
    asked = []
    compute = frozen_branches.compute_features

    def watched(fold, model, branch, rows):
        asked.append((fold.split.fold, branch))
        return compute(fold, model, branch, rows)

    monkeypatch.setattr(frozen_branches, "compute_features", watched)
    wishes = ("train.epochs=1", "model.from_seed=0", "run.seeds=[0,1,2]", "run.folds=[1,2]")
    run_experiment(frozen(*wishes), [])
    run_experiment(frozen(*wishes, "model.fusion=concat", "name=other", "model.dropout=0.5"), [])
    assert asked == [(1, "cqt"), (1, "mel"), (2, "cqt"), (2, "mel")]
    files = list((tmp_path / "store/branches").glob("*.safetensors"))
    assert len(files) == 4
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps a process's precision
    run_experiment(frozen("train.epochs=1", "train.precision=bfloat16", "name=rounded"), [])
    assert asked[4:] == [(1, "cqt"), (1, "mel")]
    AcceleratorState._reset_state(reset_partial_state=True)
    shutil.copytree(origin, tmp_path / "other/origin")
    weights = load_tensors(tmp_path / "other/origin" / FOLD / "model.safetensors")
    weights["mel_mean"] += 1
    save_tensors(tmp_path / "other/origin" / FOLD / "model.safetensors", weights)
    elsewhere = f"model.mel_from={tmp_path}/other/origin"
    run_experiment(frozen("train.epochs=1", elsewhere, "name=moved"), [])
    assert asked[6:] == [(1, "mel")]
    for file in files:
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="written.: remove .*safetensors and run the same") as told:
        run_experiment(frozen("train.epochs=1", "name=third"), [])
    next(file for file in files if str(file) in str(told.value)).unlink()
    assert asked[7:] == []
    with pytest.raises(RunError, match="written"):  # of the other branch
        run_experiment(frozen("train.epochs=1", "name=third"), [])
    assert asked[7:] == [(1, "cqt")]


def test_features_have_a_file_of_their_own_for_all_that_decides_them(frozen, monkeypatch) -> None:
    with open_run(frozen(), []) as session:
        fold = next(session.folds())
        origins = find_origins(fold)
        model = build_training(fold, origins).state.model.whole
    rows = {"a": range(2), "b": range(2, 3)}

    def file(fold=fold, branch="cqt", origins=origins, rows=rows, model=model) -> Path:
        return frozen_branches._file(fold, model, branch, origins, rows)

    def in_session(**changes: object) -> Path:
        changed = SimpleNamespace(**{**fields, **changes})
        return file(SimpleNamespace(config=fold.config, session=changed))

    def trained(**changes: object) -> Path:
        train = fold.config.train.model_copy(update=changes)
        config = fold.config.model_copy(update={"train": train})
        return file(SimpleNamespace(config=config, session=session))

    fields = {"store": session.store, "speakers": None, "accelerator": session.accelerator}
    elsewhere = {"cqt": replace(origins["cqt"], weights="0")}
    norm = RowNorm(*torch.rand(4, 2, 1, 3))
    others = [
        file(branch="mel"),
        file(origins=elsewhere),
        file(rows={"a": range(2), "c": range(2, 3)}),
        file(rows={"a": range(1), "b": range(1, 3)}),
        file(model=SimpleNamespace(fusion=FUSIONS["cross_attention"])),
        trained(precision="bfloat16"),
        trained(channels_last=False),
        in_session(store=SimpleNamespace(folder=Path("other-images"))),
        in_session(speakers=SimpleNamespace(rows=norm)),
        in_session(speakers=SimpleNamespace(rows=norm._replace(mel_std=norm.mel_std + 1))),
        in_session(accelerator=SimpleNamespace(device=torch.device("cuda"))),
    ]
    monkeypatch.setattr(frozen_branches, "VERSION", 0)
    others.append(file())
    monkeypatch.undo()
    assert len({file(), *others}) == 1 + len(others)
    same = [file(replace(fold, seed=9)), trained(batch_size=9, epochs=1), in_session()]
    assert set(same) == {file()}


def test_each_crop_has_features_and_training_draws_one(tiny, recipe, tmp_path) -> None:
    """As of images: batches hold the crop that the same training on images would have drawn."""
    crops = (*SMALL, "features.seconds=0.1", "train.epochs=1")
    origin = run_experiment(tiny(*crops, "name=origin"), [])
    places = (f"model.cqt_from={origin}", f"model.mel_from={origin}")
    store = f"run.store={tmp_path / 'store'}"
    with open_run(tiny(*crops, *places, "train.features=frozen", store), []) as session:
        fold = next(session.folds())
        state, loader, kept = build_training(fold, find_origins(fold))
        warm = build_training(frozen_as_trained(fold), find_origins(fold))
    assert len(kept.images("cqt")) == sum(map(len, session.store.rows.values())) > 20
    for training in (loader, warm.train_loader):
        training.batch_sampler.set_epoch(3)
    whole = warm.state.model.eval()
    for ours, theirs in zip(loader, warm.train_loader, strict=True):
        with torch.inference_mode():
            expected = whole.features(*(image.float() for image in (theirs.cqt, theirs.mel)))
        assert torch.equal(ours.targets, theirs.targets)
        torch.testing.assert_close(ours.cqt, expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.mel, expected[1], rtol=1e-4, atol=1e-5)


def frozen_as_trained(fold):
    """Return a fold whose config trains its branches, too."""
    train = fold.config.train.model_copy(update={"features": "trained"})
    adam = {"cqt": "adam", "mel": "adam"}
    optim = fold.config.optim
    optim = optim.model_copy(update={"optimizer": optim.optimizer.model_copy(update=adam)})
    config = fold.config.model_copy(update={"train": train, "optim": optim})
    return replace(fold, session=replace(fold.session, config=config))


@pytest.mark.parametrize("moment", ["in an epoch", "after an epoch"])
def test_a_stopped_head_resumes_to_the_same_bytes(frozen, monkeypatch, moment) -> None:
    often = (
        "train.checkpoint_epochs=1",
        "train.checkpoint_minutes=1e-9",
        "train.epochs=3",
        *CONTRAST,
    )
    whole = run_experiment(frozen(*often, "name=whole"), [])
    with monkeypatch.context() as patch:
        if moment == "after an epoch":
            patch.setattr(engine, "_close_epoch", stop_at(engine._close_epoch, 2))
        else:
            patch.setattr(engine, "train_step", stop_at(engine.train_step, 5))
        with pytest.raises(KeyboardInterrupt):
            run_experiment(frozen(*often), [])
    state = whole.parent / "tiny" / FOLD / "state"
    assert list(state.glob("epoch-*")) and not (state.parent / "metrics.json").exists()
    for file in state.glob("epoch-*"):
        assert {name.partition(".")[0] for name in load_state(file)["model"]} == {"head"}
    run = run_experiment(frozen(*often), [])
    for name in RESULTS:
        assert (run / FOLD / name).read_bytes() == (whole / FOLD / name).read_bytes(), name


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_head_killed_before_its_files_are_written_has_them_whole(
    frozen, monkeypatch, epoch
) -> None:
    """The state of an epoch is on the disk up to ten seconds before history and curves."""
    often = ("train.checkpoint_epochs=1", "train.epochs=3")
    whole = run_experiment(frozen(*often, "name=whole"), [])
    with monkeypatch.context() as patch:
        patch.setattr(epoch_files, "write_history", interrupt)
        if epoch < 3:
            patch.setattr(engine, "_close_epoch", stop_at(engine._close_epoch, epoch + 1))
        with pytest.raises(KeyboardInterrupt):
            run_experiment(frozen(*often), [])
    folder = whole.parent / "tiny" / FOLD
    end = time.monotonic() + 60
    while not list(folder.glob(f"state/epoch-{epoch:04d}*")):  # a thread writes it
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not (folder / "history.csv").exists()
    assert run_experiment(frozen(*often), []) / FOLD == folder
    for name in RESULTS:
        assert (folder / name).read_bytes() == (whole / FOLD / name).read_bytes(), name
    curves = EventAccumulator(str(folder))
    curves.Reload()
    assert [event.step for event in curves.Scalars("dev/ua")] == [1, 2, 3]


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_curves_have_the_numbers_of_all_epochs_and_figures_of_the_last(frozen) -> None:
    run = run_experiment(frozen("train.epochs=5"), [])
    curves = EventAccumulator(str(run / FOLD))
    curves.Reload()
    with (run / FOLD / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["dev_ua"]) for row in rows] == pytest.approx(
        [event.value for event in curves.Scalars("dev/ua")]
    )
    assert [event.step for event in curves.Scalars("loss/loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in curves.Images("dev confusion")] == [5]
    assert [event.step for event in curves.Histograms("gate, 1 = CQT, 0 = Mel")] == [5]


def stop_at(call: Callable, n: int) -> Callable:
    """Return a call that is interrupted before its n-th pass."""
    calls = iter(range(1, 1000))

    def mortal(*args, **kwargs):
        if next(calls) == n:
            raise KeyboardInterrupt
        return call(*args, **kwargs)

    return mortal


def test_without_origins_nothing_can_be_frozen(tiny, origin) -> None:
    with pytest.raises(
        InputError, match="name the run .* by model.cqt_from and model.mel_from, or"
    ):
        tiny("train.features=frozen")
    with pytest.raises(InputError, match="whose branches it reads by model.mel_from, or set"):
        tiny("train.features=frozen", f"model.cqt_from={origin}")


IDLE = [
    ("augment.freq_mask=0.1", "0.0"),
    ("augment.time_mask=0.1", "0.0"),
    ("augment.time_shift=0.1", "0.0"),
    ("augment.mixup=0.2", "0.0"),
    ("augment.freq_shift=0.1", "0.0"),
    ("augment.level_db=6", "null"),
    ("augment.gain_db=6", "null"),
    ("augment.snr_db=[0,20]", "null"),
    ("augment.speed=0.1", "null"),
    ("augment.pitch=1", "null"),
    ("model.cqt_weights=other.safetensors", "null"),
    ("model.drop_path_rate=0.1", "0.0"),
    ("optim.optimizer.cqt=adam", "null"),
    ("optim.optimizer.mel=radam", "null"),
    ("optim.backbone_lr_scale=0.1", "1.0"),
    ("optim.backbone_lr_scale.mel=0.1", "null"),
    ("train.images=computed", '"stored"'),
    ("train.backbone_batch=2", "null"),
    ("train.gradient_checkpointing=true", "false"),
    ("train.compile=true", "false"),
    ("run.compile_cache=somewhere", "null"),
    ("run.shards=somewhere", "null"),
]


@pytest.mark.parametrize(("wish", "idle"), IDLE)
def test_keys_of_images_and_branches_have_no_effect(frozen, wish, idle) -> None:
    key = wish.partition("=")[0]
    words = f"{key} .in the command line. has no effect with train.features=frozen: .*{idle}, or"
    with pytest.raises(InputError, match=words):
        frozen(wish)


def test_a_dry_run_says_what_features_and_heads_take(frozen) -> None:
    report = dry_run(frozen("run.folds=[1,2]"))
    assert "features" in report and "Nothing was trained." in report


def test_bad_gradients_of_a_head_are_blamed_on_the_head(frozen) -> None:
    with open_run(frozen(), []) as session:
        fold = next(session.folds())
        state, loader, _ = build_training(fold, find_origins(fold))
    model, batch = state.model, next(iter(loader))
    assert isinstance(model, HeadOnly)
    assert offending_parts(model, batch, loss_is_finite=True) == ["head"]
    batch.cqt[0] = float("nan")
    assert offending_parts(model, batch, loss_is_finite=False) == ["data"]


def test_heads_can_be_tuned_without_test_audio(frozen, tmp_path) -> None:
    config = frozen("train.epochs=2")
    session = open_session(config, make_tuning_plan(config))
    fold = session.fold(session.plan.splits[0], 0)
    kept = build_training(fold, find_origins(fold)).kept
    parts = (fold.split.train, fold.split.dev)
    assert set(kept.rows) == {key for part in parts for key in fold.hashes(part)}
    assert len(kept.rows) == 16 and not fold.split.test
    (tmp_path / "trial/state").mkdir(parents=True)
    assert train_fold(fold, tmp_path / "trial").epoch == 2
    assert "usable" in run_range_test(config, 1e-4, 1e-2, steps=60, repeats=1)
