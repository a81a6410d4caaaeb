"""Branches start from another run on the same folds, and from nothing else."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from baseline import main as baseline
from config.loading import load_config
from corpora import plan as plan_module
from corpora.plan import make_plan, make_tuning_plan
from experiments.lr_range import run_range_test
from inference.predictor import FoldModel
from model_gmu import rebuild
from storage.model_card import read_card
from storage.tensors import load_tensors, save_tensors
from system.errors import InputError, RunError
from system.files import read_json
from system.regular import file_sha256
from tests.support.runs import run_experiment
from training import fold as fold_module
from training.build import build_training
from training.dry_run import dry_run
from training.experiment import open_run
from training.tensorboard import Tracker
from training.warm_start import check_origins, find_origins

SMALL = ("corpus.subset=improvised", "train.batch_size=4", "train.epochs=1")
FOLD = "folds/fold-1_seed-0"
RESULTS = ("model.safetensors", "model.json", "predictions.csv", "metrics.json", "history.csv")
CQT = ("model.fusion=cqt_only", "model.mel_backbone=null", "run.seeds=[0,1]")
MEL = ("model.fusion=mel_only", "model.cqt_backbone=null")
SOURCES = {
    "cqt": CQT,
    "mel": MEL,
    "small": (*CQT, "model.image_size=64", "run.seeds=[0]"),
    "vit": (*MEL, "model.mel_backbone=test_vit"),
    "quiet": (*MEL, "features.top_db=60.0", "train.normalize=false"),
    "all": (*MEL, "corpus.subset=all"),
    "tokens": ("model.fusion=cross_attention",),
}


@pytest.fixture(scope="module")
def sources(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of finished runs, by name."""
    root = tmp_path_factory.mktemp("sources")
    for name, wishes in SOURCES.items():
        config = load_config(recipe, [f"run.root={root}", f"name={name}", *SMALL, *wishes])
        run_experiment(config, [])
    argv = ["--config", str(recipe), "--kind", "majority", f"run.root={root}", "name=baseline"]
    assert baseline([*argv, SMALL[0]]) == 0
    yield root
    shutil.rmtree(root)


@pytest.fixture
def started(tiny: Callable, sources: Path) -> Callable:
    """Make a config whose branches start from both single branches, with overrides."""
    both = (f"model.cqt_from={sources}/cqt", f"model.mel_from={sources}/mel")
    return lambda *wishes: tiny(*SMALL, *both, *(wish.format(sources) for wish in wishes))


def model_of(folder: Path) -> torch.nn.Module:
    """Return a fold's network with its kernels laid out as in training, so that it rounds alike."""
    model = rebuild(read_card(folder).settings(), load_tensors(folder / "model.safetensors"))
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("fusion", ["gmu", "concat", "cross_attention"])
def test_the_first_forward_is_that_of_both_origins(started, sources, fusion) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 1, 32, 32) * 20 - 40  # dB
    with open_run(started(f"model.fusion={fusion}"), []) as session:
        fold = next(session.folds())
        model = build_training(fold, find_origins(fold)).state.model.eval()
    with torch.inference_mode():
        found = model.features(*images)
        assert not found[0].allclose(model.features(*images[:, [1, 2, 0]])[0])  # it reads them
        for i, branch in enumerate(("cqt", "mel")):
            origin = model_of(sources / branch / FOLD)
            if fusion == "cross_attention":  # reads tokens: the layers behind them stay there
                names = [name for name in model.state_dict() if name.startswith(f"{branch}_")]
                assert len(names) > 20
                for name in names:
                    assert torch.equal(model.state_dict()[name], origin.state_dict()[name])
            else:
                assert torch.equal(found[i], origin.features(*images)[i])


def test_the_statistics_of_its_images_come_with_a_branch(started, sources, tmp_path) -> None:
    shutil.copytree(sources / "mel", tmp_path / "own/mel")
    file = tmp_path / "own/mel" / FOLD / "model.safetensors"
    weights = load_tensors(file)
    weights["mel_mean"], weights["mel_std"] = weights["mel_mean"] + 1, weights["mel_std"] * 2
    save_tensors(file, weights)
    with open_run(started(f"model.mel_from={tmp_path}/own/mel"), []) as session:
        fold = next(session.folds())
        model = build_training(fold, find_origins(fold)).state.model
    for name in ("mel_mean", "mel_std"):
        assert torch.equal(getattr(model, name), weights[name])


def test_the_run_says_from_which_weights_it_started(started, sources) -> None:
    run = run_experiment(started("model.from_seed=0", "run.seeds=[0,1]"), [])
    weights = {b: file_sha256(sources / b / FOLD / "model.safetensors") for b in ("cqt", "mel")}
    for seed in (0, 1):
        folder = run / f"folds/fold-1_seed-{seed}"
        expected = {
            branch: {"run": branch, "fold": 1, "seed": 0, "weights": digest}
            for branch, digest in weights.items()
        }
        assert read_json(folder / "environment.json")["started_from"] == expected
        assert read_json(folder / "metrics.json")["made_with"][0]["started_from"] == expected
        card = read_card(folder)
        assert {b: origin.model_dump() for b, origin in card.started_from.items()} == expected
        assert FoldModel(folder).classes == card.classes  # it is read
        assert "earlier" not in read_json(folder / "environment.json")
    assert "started_from" not in read_json(run / "environment.json")
    summary = read_json(run / "summary.json")
    assert "started_from" not in summary["made_with"]
    assert "different settings" not in (run / "summary.md").read_text()


def test_each_seed_starts_from_its_own_or_from_the_one_that_is_named(started, sources) -> None:
    def seeds_of(*wishes: str) -> list[int]:
        with open_run(started("model.mel_from=null", *wishes), [], overwrite=True) as session:
            return [find_origins(fold)["cqt"].seed for fold in session.folds()]

    assert seeds_of("run.seeds=[0,1]") == [0, 1]
    assert seeds_of("run.seeds=[0,1]", "model.from_seed=1") == [1, 1]


TOLD_AT_ONCE = [
    (["model.cqt_from={}/cqtt"], "model.cqt_from: .*/cqtt is not a run folder.*did you mean"),
    (["model.mel_from={}/baseline"], "is of a baseline, which has no branches"),
    (["model.mel_from={}/cqt"], "is of cqt_only, which has no mel branch: name a run of.*mel_only"),
    (["model.cqt_from={}/small"], "model.image_size: 64 there, 32 now\n.*must be equal in both"),
    (["model.mel_from={}/vit"], "model.mel_backbone: 'test_vit' there, 'mvitv2_micro' now"),
    (["model.mel_from={}/quiet"], "features.top_db: 60.0 there, 80.0.*\n.*normalize: False there"),
    (["model.cqt_from={}/tokens"], "branches end before the pooling that gmu needs: name a run of"),
    (["run.root={}", "name=cqt"], "is the folder of this run itself"),
]


@pytest.mark.parametrize(("wishes", "words"), TOLD_AT_ONCE)
def test_another_branch_is_refused_before_audio_is_indexed(started, monkeypatch, wishes, words):
    def fail(*args: object) -> None:
        raise AssertionError("audio was indexed")

    monkeypatch.setattr(plan_module, "index_audio", fail)
    command = dry_run if "name=cqt" not in wishes else lambda config: dry_run(config, True)
    with pytest.raises(InputError, match=f"(?s){words}"):
        command(started(*wishes))


@pytest.mark.parametrize("start", [lambda config: run_experiment(config, []), dry_run])
def test_branches_of_other_folds_are_refused(started, start) -> None:
    """On other utterances its fold 1 may have trained what is tested here."""
    with pytest.raises(InputError, match="(?s)other folds.*/all there.*/improvised here.*the same"):
        start(started("model.mel_from={}/all"))


def test_a_fold_that_is_missing_there_is_named_with_the_command_that_trains_it(started) -> None:
    wishes = ("run.folds=[1,2,3]", "run.seeds=[0,3]", "model.cqt_from=null")
    with pytest.raises(InputError, match="(?s)has not finished fold-1_seed-3, fold-2_seed-0") as e:
        run_experiment(started(*wishes), [])
    command = str(e.value).splitlines()[1].strip()
    assert command.startswith("python train.py --config ")
    assert command.endswith('/mel/config.yaml "run.folds=[1, 2, 3]" "run.seeds=[0, 3]"')
    with pytest.raises(InputError, match="has not finished fold-1_seed-4"):
        run_experiment(started("model.from_seed=4"), [])


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (["model.cqt_weights=w.safetensors"], "both say where the branch starts: set one"),
        (["model.fusion=mel_only", "model.cqt_backbone=null"], "model.cqt_from .*has no effect"),
        (["model.cqt_from=null", "model.mel_from=null", "model.from_seed=0"], "from_seed=0 has no"),
    ],
)
def test_keys_that_exclude_one_another_are_refused(started, wishes, words) -> None:
    with pytest.raises(InputError, match=words):
        started(*wishes)


def test_pretrained_weights_are_not_sought_for_branches_that_start(started) -> None:
    """timm has none for these networks: seeking them would be refused."""
    run_experiment(started("model.pretrained=true"), [])
    with pytest.raises(InputError, match="no pretrained weights for test_maxvit"):
        run_experiment(started("model.pretrained=true", "model.cqt_from=null", "name=other"), [])


def test_a_stopped_run_resumes_to_the_same_bytes_and_from_no_other_weights(
    started, sources, tmp_path, monkeypatch
) -> None:
    shutil.copytree(sources, tmp_path / "own")
    places = [f"model.{branch}_from={tmp_path}/own/{branch}" for branch in ("cqt", "mel")]
    config = started(*places, "train.epochs=2", "train.checkpoint_epochs=1")
    whole = run_experiment(started(*places, "train.epochs=2", "name=whole"), [])
    log_epoch = Tracker.log_epoch

    def stop(self: Tracker, history: list[dict[str, float]], *args: object) -> None:
        if history[-1]["epoch"] == 2:
            raise KeyboardInterrupt
        log_epoch(self, history, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, [])
    file = tmp_path / "own/mel" / FOLD / "model.safetensors"
    before, weights = file.read_bytes(), load_tensors(file)
    save_tensors(file, {name: tensor + 1 for name, tensor in weights.items()})
    with pytest.raises(InputError, match="was begun with branches that started from"):
        run_experiment(config, [])
    file.write_bytes(before)
    run = run_experiment(config, [])
    for name in RESULTS[:-1]:
        assert (run / FOLD / name).read_bytes() == (whole / FOLD / name).read_bytes(), name


def test_a_finished_run_needs_its_origins_no_more(started, sources, tmp_path, monkeypatch) -> None:
    shutil.copytree(sources / "mel", tmp_path / "own/mel")
    wishes = (f"model.mel_from={tmp_path}/own/mel", "model.cqt_from=null")
    run_experiment(started(*wishes), [])
    shutil.rmtree(tmp_path / "own")
    monkeypatch.setattr(fold_module, "build_training", None)
    run_experiment(started(*wishes), [])
    with pytest.raises(InputError, match="own/mel is not a run folder"):
        run_experiment(started(*wishes, "run.seeds=[0,1]"), [])


def test_a_run_is_not_resumed_once_its_branches_were_trained_again(
    started, tiny, tmp_path, sources
) -> None:
    """Its finished folds had other branches than the next would have."""
    place, folds = tmp_path / "own", "run.folds=[1,2]"
    origin = tiny(f"run.root={place}", "name=mel", *SMALL, *MEL, folds)
    run_experiment(origin, [])
    wishes = (f"model.mel_from={place}/mel", "model.cqt_from=null")
    run = run_experiment(started(*wishes), [])
    run_experiment(started(*wishes), [])  # as long as the branches are the same
    again = tiny(f"run.root={place}", "name=mel", *SMALL, *MEL, folds, "optim.lr=0.01")
    run_experiment(again, [], overwrite=True)
    words = f"fold-1_seed-0 of {run} started from branches that {place}/mel no longer has"
    for attempt in (run_experiment, lambda config, command: dry_run(config)):
        with pytest.raises(InputError, match=words):
            attempt(started(*wishes, folds), [])
    run_experiment(started(*wishes, folds), [], overwrite=True)


@pytest.mark.parametrize("value", [float("nan"), None])
def test_corrupt_weights_are_refused(started, sources, tmp_path, value) -> None:
    shutil.copytree(sources / "mel", tmp_path / "own/mel")
    file = tmp_path / "own/mel" / FOLD / "model.safetensors"
    weights = load_tensors(file)
    if value is None:
        del weights["mel_branch.norm.weight"]
    else:
        weights["mel_branch.norm.weight"][3] = value
    save_tensors(file, weights)
    words = "it has no mel_branch.norm.weight" if value is None else "NaN or infinite weights"
    with pytest.raises(RunError, match=words):
        run_experiment(started(f"model.mel_from={tmp_path}/own/mel"), [])


def test_studies_and_range_tests_start_from_the_same_fold(started, sources, tmp_path) -> None:
    """Their plan opens no test audio: train and dev are compared with the certificate there."""
    config = started("train.batch_size=6")
    check_origins(config, make_tuning_plan(config))
    assert make_plan(config).certificate["id"] != make_tuning_plan(config).certificate["id"]
    assert "usable" in run_range_test(config, 1e-4, 1e-2, steps=60, repeats=1)
    shutil.copytree(sources / "mel", tmp_path / "own/mel")
    file = tmp_path / "own/mel/split_certificate.json"
    certificate = json.loads(file.read_text())
    certificate["folds"][0]["dev"]["recordings"] = "others"
    file.write_text(json.dumps(certificate))
    config = started(f"model.mel_from={tmp_path}/own/mel")
    with pytest.raises(InputError, match="own/mel has other folds than this run"):
        check_origins(config, make_tuning_plan(config))
