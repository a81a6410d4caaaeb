"""A network starts from a trained one: what it takes, what it refuses, and no leak."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile
import torch

from config.loading import load_config
from corpora import plan as plan_module
from corpora.plan import make_tuning_plan
from corpora.stamps import UNKNOWN_ORIGIN
from experiments.lr_range import run_range_test
from inference.predictor import FoldModel
from model_gmu import MaxMViTGMU
from scripts.fit_all import main as fit_all
from storage.model_card import read_card
from storage.tensors import load_tensors, save_tensors
from system.errors import InputError, RunError
from system.files import read_json
from system.regular import file_sha256
from tests.conftest import SAMPLE_RATE, tone
from tests.support.runs import run_experiment
from training import engine
from training.build import build_training
from training.dry_run import dry_run
from training.experiment import open_run
from training.warm_start import check_origins, find_origins

SMALL = ("corpus.subset=improvised", "train.batch_size=4", "train.epochs=1")
FOLD, FINAL = "folds/fold-1_seed-0", "final/seed-0"
WEIGHTS = "model.safetensors"
OTHERS = {  # further runs that nothing may start from, or not wholly
    "contrastive": ("model.fusion=gmu_contrastive",),
    "cqt": ("model.fusion=cqt_only", "model.mel_backbone=null"),
    "tokens": ("model.fusion=cross_attention",),
    "small": ("model.image_size=64", "features.top_db=60"),
    "single": ("model.mel_backbone=test_vit",),
}


@pytest.fixture(scope="module")
def origins(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of finished runs; `origin` has two folds and a final model."""
    root = tmp_path_factory.mktemp("origins")
    wishes = [f"run.root={root}", "name=origin", *SMALL, "run.folds=[1,2]"]
    run = run_experiment(load_config(recipe, wishes), [])
    assert fit_all([str(run)]) == 0
    for name, more in OTHERS.items():
        run_experiment(load_config(recipe, [f"run.root={root}", f"name={name}", *SMALL, *more]), [])
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Another corpus: two of the four classes and a new one, of other people."""
    root = tmp_path_factory.mktemp("words")
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "speaker"])
        for i in range(4):
            for j, label in enumerate(("sad", "bored", "neutral")):
                name = f"p{i}-{label}.wav"
                soundfile.write(
                    root / name, tone(500.0 * (j + 1), 0.3, 70 + 3 * i + j), SAMPLE_RATE
                )
                writer.writerow([name, label, f"p{i}"])
    yield root


@pytest.fixture
def on_words(tiny: Callable, words: Path) -> Callable:
    """Make a config of the other corpus, with overrides."""
    wishes = (
        *("corpus.name=manifest", f"corpus.root={words}", f"corpus.manifest={words}/list.csv"),
        *("corpus.labels=all", "corpus.expect_published_counts=null"),
        *("protocol.split=speaker-k-fold", "protocol.n_folds=4", *SMALL[1:]),
    )
    return lambda *more: tiny(*wishes, *more)


def started_network(config) -> tuple[MaxMViTGMU, dict]:
    """Return the network of the first fold before its first step, and its origins."""
    with open_run(config, []) as session:
        fold = next(session.folds())
        found = find_origins(fold)
        return build_training(fold, found).state.model, found


@pytest.mark.parametrize("place", ["", FOLD, FINAL])
def test_all_of_a_network_of_the_same_classes_starts_there(tiny, on_words, origins, place) -> None:
    """A run starts fold by fold; on its own data no fold or final model of it would be clean."""
    folder = origins / "origin" / place
    config = tiny(*SMALL, f"model.from={folder}", "name=again")
    if place == FINAL:
        with pytest.raises(InputError, match="trained or selected on utterances"):
            started_network(config)
        return
    network, found = started_network(config)
    weights = load_tensors(origins / "origin" / FOLD / WEIGHTS)
    assert network.state_dict().keys() == weights.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert found["model"].new == [] and len(found["model"].classes) == 4
    images = torch.randn(2, 3, 1, 32, 32) * 20 - 40
    model = FoldModel(origins / "origin" / FOLD).model
    with torch.inference_mode():
        assert torch.allclose(network.eval()(*images).logits, model(*images).logits, atol=1e-5)


def test_rows_of_the_last_layer_follow_the_names_of_classes(on_words, origins) -> None:
    network, found = started_network(on_words(f"model.from={origins}/origin/{FINAL}"))
    weights = load_tensors(origins / "origin" / FINAL / WEIGHTS)
    theirs = read_card(origins / "origin" / FINAL).classes
    own = network.state_dict()
    with open_run(on_words("name=other"), []) as session:
        classes = list(session.plan.labels.classes)
    assert sorted(classes) == ["bored", "neutral", "sad"] and set(found["model"].classes) == {
        "neutral",
        "sad",
    }
    for kind in ("weight", "bias"):
        name = f"head.classify.4.{kind}"
        for here, label in enumerate(classes):
            if label == "bored":
                assert not any(torch.equal(own[name][here], row) for row in weights[name])
            else:
                assert torch.equal(own[name][here], weights[name][theirs.index(label)])
    assert found["model"].new == ["row bored of head.classify.4"]
    for name, tensor in own.items():
        if "classify.4" not in name:
            assert torch.equal(tensor, weights[name]), name


def test_what_does_not_fit_starts_anew_and_is_named(tiny, origins, caplog) -> None:
    with caplog.at_level("INFO"):
        network, found = started_network(
            tiny(*SMALL, f"model.from={origins}/origin", "model.fusion=gmu_contrastive", "name=c")
        )
    weights = load_tensors(origins / "origin" / FOLD / WEIGHTS)
    own = network.state_dict()
    assert torch.equal(own["head.gmu.gate.weight"], weights["head.gmu.gate.weight"])
    assert len(found["model"].new) == 4  # two layers of each projection head
    assert all(name.startswith("head.view_") for name in found["model"].new)
    assert "anew: head.view_cqt.0" in caplog.text
    wide = tiny(*SMALL, f"model.from={origins}/origin", "model.mlp_hidden_dim=8", "name=w")
    _, found = started_network(wide)
    assert found["model"].classes == []
    assert found["model"].new == ["head.classify.0", "head.classify.1", "head.classify.4"]
    concat = tiny(*SMALL, f"model.from={origins}/origin", "model.fusion=concat", "name=d")
    assert started_network(concat)[1]["model"].classes == []  # other units before the last layer


def test_the_run_says_what_it_started_from(on_words, origins) -> None:
    origin = origins / "origin" / FINAL
    run = run_experiment(on_words(f"model.from={origin}"), [])
    expected = {
        **{"run": "origin", "fold": None, "seed": 0, "weights": file_sha256(origin / WEIGHTS)},
        **{"new": ["row bored of head.classify.4"], "utterances": 20, "unknown": []},
    }
    card = read_card(run / FOLD)
    found = card.started_from["model"].model_dump()
    assert {k: found[k] for k in expected} == expected
    assert read_json(run / FOLD / "environment.json")["started_from"]["model"] == found
    assert FoldModel(run / FOLD).classes == card.classes
    certificate = read_json(run / "split_certificate.json")
    assert certificate["started_from"] == {"model": "origin", "utterances": 20}
    assert UNKNOWN_ORIGIN not in (run / "summary.md").read_text()
    assert load_config(run / "config.yaml").model.from_ == str(origin)


def test_a_model_without_its_run_is_stamped(on_words, origins, tmp_path, caplog) -> None:
    alone = Path(shutil.copytree(origins / "origin" / FINAL, tmp_path / "alone"))
    with caplog.at_level("INFO"):
        run = run_experiment(on_words(f"model.from={alone}"), [])
    assert UNKNOWN_ORIGIN in caplog.text
    assert UNKNOWN_ORIGIN in dry_run(on_words(f"model.from={alone}", "name=other"))
    assert read_card(run / FOLD).started_from["model"].unknown == ["alone"]
    assert read_json(run / "split_certificate.json")["started_from"]["stamp"] == UNKNOWN_ORIGIN
    assert f"{run.name} is {UNKNOWN_ORIGIN}" in (run / "summary.md").read_text()
    shutil.rmtree(alone)  # a finished run needs it no more, and stays stamped
    run_experiment(on_words(f"model.from={alone}"), [])
    assert read_json(run / "split_certificate.json")["started_from"]["stamp"] == UNKNOWN_ORIGIN
    again = run_experiment(on_words(f"model.from={run / FOLD}", "name=chain", "run.folds=[1]"), [])
    assert read_json(again / "split_certificate.json")["started_from"]["stamp"] == UNKNOWN_ORIGIN


def test_tested_recordings_and_speakers_are_kept_apart(tiny, origins) -> None:
    fold = origins / "origin" / FOLD
    run_experiment(tiny(*SMALL, f"model.from={fold}", "name=clean"), [])  # fold 1 alone
    config = tiny(*SMALL, f"model.from={fold}", "run.folds=[1,2]", "name=both")
    for command in (dry_run, lambda config: run_experiment(config, [])):
        with pytest.raises(InputError, match=r"(?s)fold 2: 4 of 4, \S+_F000.*run\.folds=\[1\]"):
            command(config)


def test_speakers_of_other_recordings_are_known_by_name(tiny, origins, tmp_path) -> None:
    """The origin heard other recordings of the speakers that are tested."""
    copy = Path(shutil.copytree(origins / "origin", tmp_path / "copy"))
    rows = list(csv.DictReader((copy / "utterances.csv").open()))
    for i, row in enumerate(rows):
        row["audio"] = f"{i:064x}"
    with (copy / "utterances.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=r"fold 2: 4 of 4, \S+ \(speaker "):
        run_experiment(tiny(*SMALL, f"model.from={copy / FOLD}", "run.folds=[2]", "name=s"), [])
    run_experiment(tiny(*SMALL, f"model.from={copy / FOLD}", "run.folds=[1]", "name=t"), [])


def test_what_an_origin_started_from_counts_too(tiny, on_words, origins) -> None:
    """Fine-tuned on words, it still was trained on this corpus."""
    tuned = run_experiment(on_words(f"model.from={origins}/origin/{FINAL}", "name=tuned"), [])
    with pytest.raises(InputError, match="fold 1: 4 of 4"):
        run_experiment(tiny(*SMALL, f"model.from={tuned / FOLD}", "name=back"), [])


TOLD_AT_ONCE = [
    (["model.from={}/nowhere"], "model.from: .*nor a finished fold or final model"),
    (["model.from={}/small/" + FOLD], r"features.top_db: 60.0.*\n.*model.image_size: 64 there"),
    (["model.from={}/single/" + FOLD], "model.mel_backbone: 'test_vit' there, 'mvitv2_micro' now"),
    (["model.from={}/single"], "model.mel_backbone: 'test_vit' there, 'mvitv2_micro' now"),
    (["model.from={}/cqt/" + FOLD], "model.mel_backbone: None there"),
    (["model.from={}/cqt"], "is of cqt_only, which has no mel branch"),
    (["model.from={}/tokens/" + FOLD], "branches end before the pooling that gmu needs"),
    (["model.from={}/origin/" + FINAL, "model.from_seed=0"], "from_seed=0 has no effect with"),
    (["model.from={}/origin/" + FOLD, "run.root={}", "name=origin"], "is of this run itself"),
    (["model.from={}/origin/" + FOLD, "train.normalize=speaker"], "train.normalize: 'not speaker'"),
]


@pytest.mark.parametrize(("wishes", "words"), TOLD_AT_ONCE)
def test_another_network_is_refused_before_audio_is_indexed(
    tiny, origins, monkeypatch, wishes, words
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("audio was indexed")

    monkeypatch.setattr(plan_module, "index_audio", fail)
    with pytest.raises(InputError, match=f"(?s){words}"):
        dry_run(tiny(*SMALL, *(wish.format(origins) for wish in wishes)), True)


def test_a_run_of_other_folds_is_refused_and_its_model_named(on_words, origins) -> None:
    with pytest.raises(InputError, match="other folds.*or one of its folds or its final model"):
        run_experiment(on_words(f"model.from={origins}/origin"), [])


def test_a_stopped_run_resumes_to_the_same_bytes_and_from_no_other_weights(
    on_words, origins, tmp_path, monkeypatch
) -> None:
    shutil.copytree(origins / "origin", tmp_path / "own")
    wishes = (f"model.from={tmp_path}/own/{FINAL}", "train.epochs=2", "train.checkpoint_epochs=1")
    whole = run_experiment(on_words(*wishes, "name=whole"), [])
    close = engine._close_epoch

    def stop(state, *args):
        if state.progress.epoch == 1:
            raise KeyboardInterrupt
        return close(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_close_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(on_words(*wishes), [])
    file = tmp_path / "own" / FINAL / WEIGHTS
    before, weights = file.read_bytes(), load_tensors(file)
    save_tensors(file, {name: tensor + 1 for name, tensor in weights.items()})
    with pytest.raises(InputError, match="was begun with branches that started from"):
        run_experiment(on_words(*wishes), [])
    file.write_bytes(before)
    run = run_experiment(on_words(*wishes), [])
    for name in (WEIGHTS, "model.json", "predictions.csv", "history.csv"):
        assert (run / FOLD / name).read_bytes() == (whole / FOLD / name).read_bytes(), name


def test_a_run_is_not_resumed_once_its_origin_has_other_weights(
    on_words, origins, tmp_path
) -> None:
    """Its finished folds had another start than the next would have."""
    copy = Path(shutil.copytree(origins / "origin", tmp_path / "own")) / FINAL
    run = run_experiment(on_words(f"model.from={copy}"), [])
    weights = load_tensors(copy / WEIGHTS)
    save_tensors(copy / WEIGHTS, {name: tensor + 1 for name, tensor in weights.items()})
    with pytest.raises(InputError, match=f"fold-1_seed-0 of {run} started from .* no longer has"):
        run_experiment(on_words(f"model.from={copy}", "run.folds=[1,2]"), [])


def test_studies_and_range_tests_start_from_a_model(on_words, origins) -> None:
    config = on_words(f"model.from={origins}/origin/{FINAL}", "name=study")
    check_origins(config, make_tuning_plan(config))
    assert "usable" in run_range_test(config, 1e-4, 1e-2, steps=60, repeats=1)


@pytest.mark.parametrize("frozen", [["cqt"], ["cqt", "mel"]])
def test_frozen_branches_stay_to_the_bit_and_others_move(on_words, origins, frozen) -> None:
    null = [f"optim.optimizer.{branch}=null" for branch in frozen]
    wishes = (f"model.from={origins}/origin/{FINAL}", f"model.frozen=[{','.join(frozen)}]", *null)
    run = run_experiment(on_words(*wishes, "train.epochs=2"), [])
    before = load_tensors(origins / "origin" / FINAL / WEIGHTS)
    after = load_tensors(run / FOLD / WEIGHTS)
    for branch in ("cqt", "mel"):
        names = [name for name in after if name.startswith(f"{branch}_branch.")]
        moved = [name for name in names if not torch.equal(before[name], after[name])]
        assert len(names) > 20 and bool(moved) == (branch not in frozen), branch
    assert not torch.equal(before["head.classify.0.weight"], after["head.classify.0.weight"])
    rows = (run / FOLD / "history.csv").read_text().splitlines()[0]
    assert all((f"lr_{branch}" in rows) == (branch not in frozen) for branch in ("cqt", "mel"))


def test_a_frozen_branch_computes_as_in_evaluation_while_others_train(origins) -> None:
    model = FoldModel(origins / "origin" / FOLD).model
    network = MaxMViTGMU(model.settings, frozen=["cqt"]).train()
    assert not any(module.training for module in network.cqt_branch.modules())
    assert network.mel_branch.training and network.head.training
    assert list(network.parts()) == ["mel", "head"]
    network.eval()
    assert not network.mel_branch.training
    assert not any(p.requires_grad for p in network.cqt_branch.parameters())
    norms = [m for m in network.cqt_branch.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    images = torch.randn(2, 4, 1, 32, 32)
    network.train()(*images).logits.sum().backward()
    assert norms and all(
        torch.equal(norm.running_mean, b) for norm, b in zip(norms, before, strict=True)
    )


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (["model.frozen=[cqt]", "optim.optimizer.cqt=null"], "would stay at random weights"),
        (["model.frozen=[cqt]", "model.pretrained=true"], "optim.optimizer.cqt|^$"),
        (["model.from=x", "model.frozen=[mel,mel]"], "must name each once"),
        (["model.from=x", "model.frozen=[head]"], "model.frozen"),
        (
            ["model.from=x", "model.frozen=[mel]", "optim.optimizer.mel=adam"],
            "optim.optimizer.mel .*has no effect with model.frozen",
        ),
        (
            ["model.from=x", "model.frozen=[cqt,mel]", "model.drop_path_rate=0.1"],
            "model.drop_path_rate .*has no effect with model.frozen",
        ),
        (["model.from=x", "model.cqt_from=y"], "both say where a branch starts"),
        (["model.from=x", "model.mel_weights=y"], "both say where a branch starts"),
        (
            ["model.from=x", "train.features=frozen", "model.frozen=[cqt]"],
            "model.frozen .*has no effect with train.features=frozen",
        ),
    ],
)
def test_keys_that_exclude_one_another_are_refused(tiny, wishes, words) -> None:
    if "model.pretrained=true" in wishes:  # timm's weights may stay as they are
        assert tiny(*wishes, "optim.optimizer.cqt=null").model.frozen == ["cqt"]
        return
    with pytest.raises(InputError, match=words):
        tiny(*wishes)


def test_a_branch_that_is_not_read_cannot_be_frozen(tiny) -> None:
    with pytest.raises(InputError, match="cqt_only has no mel branch"):
        tiny(
            *("model.fusion=cqt_only", "model.mel_backbone=null", "optim.optimizer.mel=null"),
            *("model.from=x", "model.frozen=[mel]"),
        )


def test_heads_on_kept_features_start_from_a_trained_model(on_words, origins) -> None:
    """The same as with both branches frozen: branches to the bit, the head from there."""
    wishes = (f"model.from={origins}/origin/{FINAL}", "train.features=frozen")
    run = run_experiment(on_words(*wishes), [])
    before = load_tensors(origins / "origin" / FINAL / WEIGHTS)
    after = load_tensors(run / FOLD / WEIGHTS)
    assert all(torch.equal(before[n], after[n]) for n in after if "_branch." in n)
    change = (after["head.gmu.gate.weight"] - before["head.gmu.gate.weight"]).abs().max()
    assert 0 < change < 0.1


@pytest.mark.parametrize("value", [float("nan"), None])
def test_corrupt_weights_are_refused(on_words, origins, tmp_path, value) -> None:
    copy = Path(shutil.copytree(origins / "origin", tmp_path / "own")) / FINAL
    weights = load_tensors(copy / WEIGHTS)
    if value is None:
        del weights["mel_branch.norm.weight"]
    else:
        weights["mel_branch.norm.weight"][3] = value
    save_tensors(copy / WEIGHTS, weights)
    said = "it has no mel_branch.norm.weight" if value is None else "NaN or infinite weights"
    with pytest.raises(RunError, match=said):
        run_experiment(on_words(f"model.from={copy}"), [])


def test_a_final_model_starts_from_where_its_folds_did(on_words, tiny, origins, capsys) -> None:
    run = run_experiment(on_words(f"model.from={origins}/origin/{FINAL}", "run.folds=[1,2]"), [])
    assert fit_all([str(run)]) == 0
    card = read_card(run / FINAL)
    assert card.started_from["model"].run == "origin"
    branches = tiny(*SMALL, f"model.from={origins}/origin", "name=by_fold")
    assert fit_all([str(run_experiment(branches, []))]) == 2
    assert "the same fold there, and a final model is of no fold" in capsys.readouterr().err
