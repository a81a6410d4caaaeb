"""Spaces: what they may name, what their values may be, and what they leave out."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution as Choices
from optuna.distributions import FloatDistribution, IntDistribution

from config.loading import flatten, load_config
from config.schema import Config
from experiments.search_space import Space, as_overrides, read_space, trial_overrides
from system.errors import InputError
from tests.support.paths import ROOT
from tests.support.runs import without_images

SHIPPED = ROOT / "configs/spaces/gmu.yaml"


@pytest.fixture
def read(recipe, tmp_path) -> Callable[..., tuple[Space, list[str]]]:
    """Read a space from YAML text, for the tiny recipe."""

    def make(text: str, *overrides: str) -> tuple[Space, list[str]]:
        file = tmp_path / "space.yaml"
        file.write_text(text)
        return read_space(file, recipe, overrides)

    return make


@pytest.fixture
def trial(recipe) -> Callable[..., Config]:
    """Load the config of a trial of the tiny recipe with some overrides."""

    def make(values: Mapping[str, object], *overrides: str) -> Config:
        base = flatten(load_config(recipe, overrides).model_dump())
        return load_config(recipe, [*overrides, *trial_overrides(values, base)])

    return make


def test_numbers_choices_and_whole_numbers_are_read(read) -> None:
    space, lines = read(
        "model.fusion_hidden_dim: {choices: [null, 8, 16]}\n"
        "optim.lr: {low: 1e-5, high: 1e-2, log: true}\n"
        "model.dropout: {low: 0, high: 0.6, step: 0.1}\n"
        "model.mlp_hidden_dim: {low: 4, high: 64, log: true}\n"
        "train.batch_size: {low: 4, high: 16, step: 4}\n"
        "model.gate: {choices: [vector, scalar]}\n"
    )
    assert lines == []
    assert space == {
        "model.fusion_hidden_dim": Choices((None, 8, 16)),
        "optim.lr": FloatDistribution(1e-5, 1e-2, log=True),
        "model.dropout": FloatDistribution(0.0, 0.6, step=0.1),
        "model.mlp_hidden_dim": IntDistribution(4, 64, log=True),
        "train.batch_size": IntDistribution(4, 16, step=4),
        "model.gate": Choices(("vector", "scalar")),
    }
    assert isinstance(space["model.dropout"].low, float)
    assert isinstance(space["train.batch_size"].low, int)


@pytest.mark.parametrize(
    "row, words",
    [
        ("optim.lrr: {low: 1e-5, high: 1}", "is not a config key; did you mean 'optim.lr'"),
        ("optimm.lr: {low: 1e-5, high: 1}", "is not a config key; did you mean 'optim.lr'"),
        ("optim: {low: 1e-5, high: 1}", "is not a config key"),
        ("run.seeds: {choices: [1, 2]}", "only features, augment, model, .* can be tuned"),
        ("corpus.subset: {choices: [all]}", "only features, augment, model, .* can be tuned"),
        ("train.precision: {choices: [bfloat16]}", "cannot be tuned"),
        ("optim.lr: {lo: 1e-5, high: 1}", "has no 'lo'; did you mean 'low'"),
        ("optim.lr: {high: 1}", "low must be a number, got 'nothing'"),
        ("optim.lr: {low: 1e-5, high: true}", "high must be a number, got True"),
        ("optim.lr: {low: 1, high: 1}", "low must be below high, got 1 and 1"),
        ("optim.lr: {low: .nan, high: 1.0}", "low must be below high"),
        ("optim.lr: {low: 0, high: 1, log: true}", "log needs a low above 0 and no step"),
        ("optim.lr: {low: 1, high: 2, log: 1}", "log must be true or false, got 1"),
        ("optim.lr: {low: 1, high: 2, step: 2}", "step must divide low to high into whole steps"),
        ("model.dropout: {low: 0, high: 0.5, step: 1.0e-300}", "whole steps, 1000000 at most"),
        (
            "train.batch_size: {low: 2, high: 9, step: 4}",
            "step must divide low to high into whole steps",
        ),
        ("train.batch_size: {low: 2.5, high: 8}", "low must be an integer, got 2.5"),
        ("optim.lr: {choices: []}", "choices must be a list"),
        ("optim.lr: {choices: [1.0], low: 1}", "has choices and low"),
        ("optim.lr: {choices: [0.1, 0.1]}", "name each choice once"),
        ("optim.lr: {choices: [[1]]}", "a choice must be a word, a number or null"),
        ("optim.lr: 3", "must be {choices: "),
        ("optim.lr: {low: -1, high: 1}", "optim.lr=-1.0 cannot be: .*greater than 0"),
        ("loss.label_smoothing: {low: 0, high: 1}", "=1.0 cannot be: .*less than 1"),
        ("model.gate: {choices: [vector, matrix]}", '="matrix" cannot be: .*scalar'),
        ("optim.lr: {low: 1, high: .inf}", "=Infinity cannot be"),
        ("- optim.lr", "must hold `section.key:"),
        ("a: b: c", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_reported_with_the_fix(read, row: str, words: str) -> None:
    with pytest.raises(InputError, match=f"(?s){words}"):
        read(row)


@pytest.mark.parametrize(
    ("value", "choices"), [("true", "[true, speaker]"), ("speaker", "[true, false]")]
)
def test_trials_of_two_protocols_are_refused(read, value: str, choices: str) -> None:
    row, override = f"train.normalize: {{choices: {choices}}}", f"train.normalize={value}"
    with pytest.raises(InputError, match="normalize cannot be tuned with speaker.* of its own"):
        read(row, override)
    assert "train.normalize" in read("train.normalize: {choices: [true, false]}")[0]
    assert read("optim.lr: {low: 1e-5, high: 1}", override)[0].keys() == {"optim.lr"}


def test_a_file_that_is_not_there_is_reported(recipe, tmp_path) -> None:
    with pytest.raises(InputError, match="cannot read the space .*absent.yaml"):
        read_space(tmp_path / "absent.yaml", recipe)


def test_an_end_that_contradicts_the_recipe_is_reported(read) -> None:
    cosine = ("optim.schedule=cosine", "optim.min_lr=1e-4")
    with pytest.raises(InputError, match="optim.lr=1e-05 cannot be: optim.min_lr=0.0001 is above"):
        read("optim.lr: {low: 1e-5, high: 1e-2}", *cosine)
    assert read("optim.lr: {low: 1e-4, high: 1e-2}", *cosine)[1] == []


@pytest.mark.parametrize("below", [(), ("optim.backbone_lr_scale={cqt: 0.5, mel: 3}",)])
def test_the_rate_of_one_branch_can_be_tuned_and_that_of_both(read, trial, below) -> None:
    row = "{low: 0.01, high: 1.0, log: true}"
    for key, cqt in (("optim.backbone_lr_scale.mel", 0.5), ("optim.backbone_lr_scale", 0.1)):
        space, lines = read(f"{key}: {row}", *below)
        assert space == {key: FloatDistribution(0.01, 1.0, log=True)} and lines == []
        scales = trial({key: 0.1}, *below).optim.branch_lr_scales()
        assert scales["mel"] == 0.1 and (not below or scales["cqt"] == cqt)
    with pytest.raises(InputError, match="optim.backbone_lr_scale.mel are one value: leave out"):
        read(f"optim.backbone_lr_scale: {row}\noptim.backbone_lr_scale.mel: {row}")


def test_a_rate_of_a_branch_is_left_out_of_trials_without_it(read, trial) -> None:
    text = (
        "model.fusion: {choices: [gmu, sum]}\n"
        "optim.backbone_lr_scale.mel: {low: 0.01, high: 1.0}\n"
        "optim.backbone_lr_scale.cqt: {low: 0.01, high: 1.0}\n"
    )
    assert len(read(text)[0]) == 3
    null = ["model.mel_backbone=null", "optim.optimizer.mel=null"]
    space, lines = read(text.partition("\n")[2], "model.fusion=cqt_only", *null)
    assert list(space) == ["optim.backbone_lr_scale.cqt"]
    assert "optim.backbone_lr_scale.mel is left out of the space: it has no effect with" in lines[0]
    values = {"model.fusion": "cqt_only", "optim.backbone_lr_scale.mel": 0.5}
    for number, cqt in ((), 1.0), (("optim.backbone_lr_scale=0.2",), 0.2):
        assert trial(values, *number).optim.branch_lr_scales()["cqt"] == cqt


def test_keys_without_effect_are_left_out_and_named(read) -> None:
    text = "loss.alpha: {low: 0, high: 1.5}\noptim.lr: {low: 1e-5, high: 1e-2}"
    space, lines = read(text)
    assert list(space) == ["optim.lr"]
    assert lines == ["loss.alpha is left out of the space: it has no effect with model.fusion=gmu"]
    space, lines = read(text, "model.fusion=gmu_contrastive")
    assert list(space) == ["loss.alpha", "optim.lr"] and lines == []
    with pytest.raises(InputError, match="no key of .* can be tuned: loss.alpha is left out"):
        read("loss.alpha: {low: 0, high: 1.5}")


def test_keys_of_images_and_branches_are_left_out_with_frozen_features(read) -> None:
    frozen = ["train.features=frozen", "model.cqt_from=runs/a", "model.mel_from=runs/a"]
    frozen += ["optim.optimizer.cqt=null", "optim.optimizer.mel=null"]
    text = (
        "optim.backbone_lr_scale: {low: 0.01, high: 1.0}\naugment.mixup: {low: 0.0, high: 0.5}\n"
        "augment.gain_db: {low: 0, high: 6}\noptim.lr: {low: 1e-5, high: 1e-2}"
    )
    space, lines = read(text, *frozen)
    assert list(space) == ["optim.lr"] and len(lines) == 3
    assert all(line.endswith("it has no effect with train.features=frozen") for line in lines)
    with pytest.raises(InputError, match="train.features cannot be tuned"):
        read("train.features: {choices: [trained, frozen]}", *frozen[1:])


def test_keys_of_images_are_left_out_where_none_is_read_and_set_back_in_a_trial(read) -> None:
    text = "augment.freq_mask: {low: 0, high: 0.3}\nfeatures.seconds: {choices: [null, 3]}"
    space, lines = read(
        f"{text}\noptim.lr: {{low: 1e-5, high: 1e-2}}",
        *without_images("file"),
        "model.vectors=v.npz",
    )
    assert list(space) == ["optim.lr"] and len(lines) == 2
    assert all(line.endswith("it has no effect with model.fusion=file_only") for line in lines)
    base = {"augment.mixup": 0.3, "optim.backbone_lr_scale": 0.1, "model.pretrained": True}
    trial = trial_overrides({"model.fusion": "file_only", "augment.freq_mask": 0.2}, base)
    back = {"augment.freq_mask": 0.0, "optim.backbone_lr_scale": 1.0}  # the rest is as it must be
    assert trial == as_overrides({"model.fusion": "file_only", **back})


def test_a_fusion_in_the_space_decides_in_each_trial_which_keys_it_takes(read, trial) -> None:
    text = "model.fusion: {choices: [concat, gmu_contrastive]}\nloss.alpha: {low: 0, high: 1.5}"
    space, lines = read(text, "model.gate=scalar")
    assert list(space) == ["model.fusion", "loss.alpha"] and lines == []
    for fusion, alpha, gate in (("concat", None, None), ("gmu_contrastive", 0.5, "scalar")):
        config = trial({"model.fusion": fusion, "loss.alpha": 0.5}, "model.gate=scalar")
        assert (config.model.fusion, config.loss.alpha, config.model.gate) == (fusion, alpha, gate)


SPEECH = ("model.branches=[cqt, mel, speech]", "model.speech.model=m")
TRAINED = (*SPEECH, "model.speech.lora_rank=2", "model.speech.lora_targets=[output_dense]")
TRAINED = (*TRAINED, "optim.optimizer.speech=sgd", "optim.backbone_lr_scale={cqt: 0.5, speech: 3}")
RATE = "optim.backbone_lr_scale.speech"


def test_a_rank_of_null_leaves_out_what_only_adapters_have(read, trial) -> None:
    space, lines = read("model.speech.lora_rank: {choices: [2, null]}", *TRAINED)
    assert list(space) == ["model.speech.lora_rank"] and lines == []
    with_adapters, without = (trial({"model.speech.lora_rank": r}, *TRAINED) for r in (2, None))
    speech, optim = without.model.speech, without.optim
    assert (speech.lora_rank, speech.lora_targets, optim.optimizer.speech) == (None, None, None)
    assert optim.branch_lr_scales() == {"cqt": 0.5, "mel": 1.0}
    speech, optim = with_adapters.model.speech, with_adapters.optim
    assert (speech.lora_rank, speech.lora_targets) == (2, ["output_dense"])
    assert (optim.optimizer.speech, optim.branch_lr_scales()["speech"]) == ("sgd", 3.0)


@pytest.mark.parametrize("base", [SPEECH, TRAINED])
@pytest.mark.parametrize("way", ["lora_rank", "unfrozen_layers"])
def test_keys_of_a_trained_speech_model_follow_the_rank_of_each_trial(read, trial, base, way):
    if way == "unfrozen_layers" and base == TRAINED:
        base = [word.replace("lora_rank=2", "unfrozen_layers=2") for word in base]
        base = [word for word in base if "targets" not in word]
    key = f"model.speech.{way}"
    space, lines = read(f"{key}: {{choices: [2, null]}}\n{RATE}: {{low: 0.1, high: 9}}", *base)
    assert list(space) == [key, RATE] and lines == []
    for value, rate in ((2, 0.5), (None, None)):
        config = trial({key: value, RATE: 0.5}, *base)
        assert config.optim.backbone_lr_scale.speech == rate


def test_a_rate_of_a_speech_model_that_no_trial_trains_is_left_out(read) -> None:
    text = f"{RATE}: {{low: 0.1, high: 9}}\noptim.lr: {{low: 1e-4, high: 1}}"
    space, lines = read(text, *SPEECH)
    assert list(space) == ["optim.lr"] and lines == [
        f"{RATE} is left out of the space: it has no effect with model.speech.lora_rank=null"
    ]
    # without a fusion that reads it, whatever the rank
    assert (
        "no effect with model.branches="
        in read(f"{text}\nmodel.speech.lora_rank: {{choices: [2, null]}}")[1][0]
    )


def test_keys_of_backbones_follow_the_speech_model_where_no_image_is_read(read, trial) -> None:
    base = (*without_images("speech"), "model.speech.model=m", "model.speech.lora_rank=2")
    text = (
        "model.speech.lora_rank: {choices: [2, null]}\n"
        "optim.backbone_lr_scale: {low: 0.1, high: 9}\n"
        "model.drop_path_rate: {choices: [0.0, 0.1]}\n"
    )
    space, lines = read(text, *base)
    assert list(space) == ["model.speech.lora_rank", "optim.backbone_lr_scale"] and len(lines) == 1
    base = (*base, "train.gradient_checkpointing=true", "train.backbone_batch=2")
    for rank, rate, size in ((2, 0.5, 2), (None, 1.0, None)):
        values = {"model.speech.lora_rank": rank, "optim.backbone_lr_scale": 0.5}
        config = trial(values, *base)
        assert (config.optim.backbone_lr_scale, config.train.backbone_batch) == (rate, size)
        assert config.train.gradient_checkpointing == (rank is not None)


def test_a_space_that_joins_images_and_none_sets_back_keys_of_images(read, trial) -> None:
    base = ("model.vectors=v.npz", "model.branches=[cqt, mel, file]", "features.seconds=1.5")
    base = (*base, "optim.backbone_lr_scale=0.1", "train.channels_last=false")
    space, lines = read("model.fusion: {choices: [gmu, file_only]}", *base)
    assert list(space) == ["model.fusion"] and lines == []
    for fusion, rate, seconds in (("gmu", 0.1, 1.5), ("file_only", 1.0, None)):
        config = trial({"model.fusion": fusion}, *base)
        assert (config.optim.backbone_lr_scale, config.features.seconds) == (rate, seconds)


BOTH = "choices: [null, 2]"


@pytest.mark.parametrize(
    ("text", "base"),
    [
        (f"model.speech.lora_rank: {{{BOTH}}}\nmodel.speech.unfrozen_layers: {{{BOTH}}}", SPEECH),
        ("model.speech.unfrozen_layers: {low: 1, high: 3}", TRAINED),
        (f"model.speech.lora_rank: {{{BOTH}}}", (*SPEECH, "model.speech.unfrozen_layers=1")),
    ],
)
def test_trials_that_train_a_speech_model_in_two_ways_are_refused(read, text, base) -> None:
    with pytest.raises(InputError, match="trials would have .*lora_rank=2 and .*unfrozen_layers="):
        read(text, *base)
    assert read(text.partition("\n")[0], *SPEECH)[1] == []  # one of them alone


def test_overrides_carry_every_value_exactly(recipe) -> None:
    values = {"optim.lr": 1.2345678901234567e-05, "run.root": 'a "b" ü😀', "run.folds": [2]}
    config = load_config(recipe, as_overrides(values))
    assert {key: flatten(config.model_dump())[key] for key in values} == values


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("configs/*_gmu*.yaml")), ids=str)
def test_the_shipped_space_fits_the_shipped_recipes(recipe: Path) -> None:
    space, lines = read_space(SHIPPED, recipe, ["run.store=x"])
    contrastive = load_config(recipe, ["run.store=x"]).model.fusion == "gmu_contrastive"
    assert len(space) == (6 if contrastive else 4) and len(lines) == 6 - len(space)
    assert space["model.fusion_hidden_dim"] == Choices((None, 512, 768, 1024))
    assert set(yaml.safe_load(SHIPPED.read_text())) >= set(space)
    assert isinstance(load_config(recipe, ["run.store=x"]), Config)
