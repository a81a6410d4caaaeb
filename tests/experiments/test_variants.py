"""Every variant differs from its config in what its file names, and trains."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from config.effects import OF_BRANCH, ONLY_WITH
from config.image_keys import IDLE_WITHOUT_IMAGES
from experiments.ablation import VARIED, load_fusions, load_variants, read_variants
from experiments.planned_runs import PlannedRun
from model_gmu import MaxMViTGMU, check_settings
from models.losses import FusionLoss
from system.errors import InputError
from tests.support.paths import ROOT

CONFIGS = ROOT / "configs"
NAMES = sorted(file.stem.removesuffix("_gmu") for file in CONFIGS.glob("*_gmu.yaml"))
FUSION = {"concat", "concat_matched", "mean", "sum", "gmu", "gmu_scalar", "gmu_features"}
FUSION |= {"cross_attention", "cqt_only", "mel_only"}
CONTRASTIVE = {"gmu", "simclr", "cross_modal", "symmetric", "ignored", "positives"}
CONTRASTIVE |= {"learned_temperature", "diversity_maximised", "alpha_0", "alpha_1.5", "glomer"}
SPEECH = {"gmu", "concat", "gmu_contrastive", "speech_only", "images", "speech_cqt", "speech_mel"}
WITH_SPEECH = [name for name in NAMES if name.endswith("_wavlm")]
OF_BRANCHES = {key for keys in OF_BRANCH.values() for key in keys}
SMALL = ("model.image_size=32", "model.mlp_hidden_dim=16")


def leaves(values: dict, at: str = "") -> dict[str, object]:
    found = {}
    for key, value in values.items():
        found |= leaves(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


def settings(recipe: PlannedRun) -> dict[str, object]:
    return leaves(recipe.config.model_dump())


def overlay(kind: str, variant: str) -> dict[str, object]:
    text = (CONFIGS / "ablation" / kind / f"{variant}.yaml").read_text()
    assert sum(not line.startswith("#") for line in text.splitlines()) <= 5  # a few lines
    assert text.splitlines()[1].startswith("# ")  # the question
    return leaves(yaml.safe_load(text) or {})


def variants_of(name: str, kind: str, *overrides: str, only: tuple[str, ...] = ()) -> dict:
    """Return the configs of a kind by the part of their names behind NAME."""
    found = load_variants(CONFIGS, name, kind, only, overrides)
    assert found[0].config.name == f"{name}_{VARIED[kind]}"  # the recipe itself comes first
    return {recipe.config.name.removeprefix(f"{name}_"): recipe for recipe in found}


def test_the_folders_have_the_variants_they_promise():
    found = {kind: set(read_variants(CONFIGS / "ablation" / kind)) for kind in VARIED}
    assert found == {"fusion": FUSION, "contrastive": CONTRASTIVE, "speech": SPEECH}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in NAMES for kind in VARIED if kind != "speech" or name in WITH_SPEECH],
)
def test_a_variant_differs_from_its_recipe_in_what_its_file_names(name: str, kind: str):
    recipes = variants_of(name, kind)
    plain = settings(recipes.pop(VARIED[kind]))
    kinds = {"fusion": FUSION, "contrastive": CONTRASTIVE, "speech": SPEECH}
    variants = kinds[kind] - {"gmu", "simclr"}
    assert set(recipes) == variants | ({"gmu"} if kind == "contrastive" else set())
    for variant, recipe in recipes.items():
        named, now = overlay(kind, variant), settings(recipe)
        assert {key: now[key] for key in named} == named, variant
        assert all(plain[key] != value for key, value in named.items()), variant
        differ = {key for key in now if now[key] != plain[key]} - {"name"}
        others = differ - set(named)
        of_images = {key for key in others if IDLE_WITHOUT_IMAGES.get(key) == now[key]}
        of_images = of_images if variant == "speech_only" else set()
        others -= of_images
        follow = {k for k in others if k in OF_BRANCHES or ONLY_WITH[k].controller in named}
        assert differ - follow - of_images == set(named), variant
        for key in follow:  # what has no effect here, or none in the recipe
            assert None in (now[key], plain[key]), variant


@pytest.mark.parametrize("name", NAMES)
def test_variants_that_have_recipes_are_the_same_runs(name: str):
    """So finished runs of scripts/ablation.sh are not trained again."""
    ablation = {r.config.name: r.config for r in load_fusions(CONFIGS, name, ("concat", "gmu"), [])}
    fusion, contrastive = variants_of(name, "fusion"), variants_of(name, "contrastive")
    assert fusion["concat"].config == ablation[f"{name}_concat"]
    assert fusion["gmu"].config == contrastive["gmu"].config == ablation[f"{name}_gmu"]


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("fusion", v) for v in sorted(FUSION)] + [("contrastive", v) for v in sorted(CONTRASTIVE)],
)
def test_peer_15_every_variant_builds_a_model_that_runs_through_its_loss(kind: str, variant: str):
    only = () if variant == "simclr" else (variant,)
    recipe = list(load_variants(CONFIGS, "demo", kind, only, SMALL))[-1]
    torch.manual_seed(0)
    model = MaxMViTGMU.from_config(recipe.config.model, 4)
    output = model(torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32))
    contrastive = kind == "contrastive" and variant != "gmu"
    assert (output.views is not None) == contrastive
    loss = FusionLoss(**recipe.config.loss.model_dump(exclude={"class_weights"}, exclude_none=True))
    targets = torch.tensor([0, 1, 2, 0])
    loss(output.logits, targets, output.views, features=output.pooled).total.backward()
    parts = model.parts()
    missing = {"cqt_only": {"mel"}, "mel_only": {"cqt"}}.get(variant, set())
    assert set(parts) == {"cqt", "mel", "head"} - missing
    for parameters in parts.values():
        assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)
    learned = [p.grad for p in loss.parameters()]
    assert len(learned) == (variant == "learned_temperature") and None not in learned


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_form_of_glomer_fits_every_config(name: str):
    found = variants_of(name, "contrastive", only=("glomer",))["glomer"].config
    assert found.model.fusion == "cross_attention_contrastive" and found.model.attention_heads == 4
    form = (found.model.projection, found.model.gate_input, found.loss.alpha_on, found.loss.nt_xent)
    assert form == ("shared", "features", "features", "cross_modal")
    plain = load_variants(CONFIGS, name, "contrastive", ["glomer"], [])[0].config
    assert (found.loss.alpha, found.loss.temperature) == (plain.loss.alpha, plain.loss.temperature)
    assert found.loss.nt_xent_weight == 1.0
    check_settings(
        found.model.model_copy(update={"cqt_backbone": "test_maxvit", "image_size": 64}),
        "features",
        shapes={"speech": (13, 768)},
    )


# Overrides


def test_an_override_goes_to_the_variants_where_it_has_an_effect():
    only = ("concat", "mean", "gmu_scalar", "cqt_only", "mel_only")
    words = ("model.fusion_hidden_dim=8", "optim.optimizer={cqt: sgd, mel: adamw}", "optim.lr=0.5")
    found = variants_of("iemocap", "fusion", *words, only=only)
    ends = {variant: recipe.overrides[-3:] for variant, recipe in found.items()}
    for variant in ("gmu", "mean", "gmu_scalar"):
        assert ends[variant] == list(words)
    for variant, its in (
        ("concat", words[1]),
        ("cqt_only", "optim.optimizer.cqt=sgd"),
        ("mel_only", "optim.optimizer.mel=adamw"),
    ):
        assert ends[variant][1:] == [its, "optim.lr=0.5"]
        assert not [w for w in found[variant].overrides if "hidden_dim" in w]
    assert found["mel_only"].config.optim.optimizer.mel == "adamw"
    assert found["mel_only"].config.optim.optimizer.cqt is None


@pytest.mark.parametrize(
    "words",
    [
        ["optim.backbone_lr_scale={cqt: 0.5, mel: 2}"],
        ["optim.backbone_lr_scale.mel=2", "optim.backbone_lr_scale.cqt=0.5"],
    ],
)
def test_single_branches_take_their_own_rate_of_a_rate_for_each(words):
    found = variants_of("demo", "fusion", *words, only=("concat", "cqt_only", "mel_only"))
    rates = {name: recipe.config.optim.branch_lr_scales() for name, recipe in found.items()}
    assert rates["gmu"] == rates["concat"] == {"cqt": 0.5, "mel": 2.0}
    assert rates["cqt_only"]["cqt"] == 0.5 and rates["mel_only"]["mel"] == 2.0


def test_a_rate_for_each_branch_in_the_config_leaves_a_single_branch_its_own(tmp_path: Path):
    configs = own_variants(tmp_path, plain="", alone="model: {fusion: cqt_only}")
    file = configs / "demo_gmu.yaml"
    file.write_text(file.read_text() + "optim: {backbone_lr_scale: {cqt: 0.5, mel: 2.0}}\n")
    plain, alone = load_variants(configs, "demo", "fusion", [], [])
    assert plain.config.optim.branch_lr_scales() == {"cqt": 0.5, "mel": 2.0}
    assert alone.config.optim.branch_lr_scales()["cqt"] == 0.5


def test_a_number_is_refused_where_a_variant_changes_the_rate_of_one_branch(tmp_path: Path):
    configs = own_variants(tmp_path, plain="", mel="optim: {backbone_lr_scale: {mel: 2.0}}")
    with pytest.raises(InputError, match="lr_scale=0.1 is varied by the fusion variants"):
        load_variants(configs, "demo", "fusion", [], ["optim.backbone_lr_scale=0.1"])
    _, mel = load_variants(configs, "demo", "fusion", [], ["optim.backbone_lr_scale.cqt=0.1"])
    assert mel.config.optim.branch_lr_scales() == {"cqt": 0.1, "mel": 2.0}


def test_a_variant_without_images_takes_of_backbones_what_its_speech_model_uses():
    words = ("optim.backbone_lr_scale=0.5", "train.normalize=false", "model.pretrained=false")
    found = {n: settings(r) for n, r in variants_of("ravdess_wavlm", "speech", *words).items()}
    alone = found.pop("speech_only")
    assert alone["optim.backbone_lr_scale"] == 1.0 and alone["train.normalize"] is True
    assert all(not one["model.pretrained"] and not one["train.normalize"] for one in found.values())
    assert {one["optim.backbone_lr_scale"] for one in found.values()} == {0.5}
    trained = (*words, "model.speech.lora_rank=2", "train.backbone_batch=4")
    found = {n: settings(r) for n, r in variants_of("ravdess_wavlm", "speech", *trained).items()}
    alone, images = found["speech_only"], found["images"]
    assert (alone["optim.backbone_lr_scale"], alone["train.backbone_batch"]) == (0.5, 4)
    assert (alone["model.speech.lora_rank"], images["model.speech.lora_rank"]) == (2, None)
    base = settings(variants_of("ravdess_wavlm", "speech", *trained[3:])["speech_only"])
    assert base["optim.backbone_lr_scale"] == 0.05  # of the config


def test_what_a_variant_does_not_take_can_be_set_for_the_others():
    found = variants_of("esd", "contrastive", "loss.temperature=0.2", only=("gmu", "symmetric"))
    temperatures = [recipe.config.loss.temperature for recipe in found.values()]
    assert temperatures == [0.2, None, 0.2]


def test_other_keys_may_hang_on_what_a_variants_of_ones_own_varies(tmp_path: Path):
    configs = own_variants(tmp_path, plain="", flat="optim: {schedule: constant}")
    words = ["optim.warmup_epochs=2"]
    plain, flat = load_variants(configs, "demo", "fusion", [], words)
    assert plain.config.optim.warmup_epochs == 2 and flat.config.optim.warmup_epochs is None
    assert flat.config.optim.schedule == "constant" and flat.config.optim.min_lr is None


@pytest.mark.parametrize(
    ("kind", "only", "override", "words"),
    [
        ("fusion", (), "model.gate=vector", "model.gate=vector is varied by the fusion variants"),
        ("fusion", ("mean",), "model={gate_input: features}", "is varied by the fusion variants"),
        ("fusion", (), "name=x", "name=x is varied"),
        ("contrastive", (), "loss={alpha: 0.1}", "is varied by the contrastive variants"),
        ("fusion", (), "loss.alpha=0.1", "loss.alpha=0.1 has no effect with gmu, concat"),
        ("fusion", (), "model.fusion_hidden_dim=512", "would leave concat_matched matched to the"),
        ("fusion", (), "optim.lrr=1", "optim.lrr"),
        ("fusion", (), "x", "an override must be section.key=value"),
        ("fusion", ("cqt_onyl",), "x.y=1", "no variant 'cqt_onyl' in .*did you mean 'cqt_only'"),
    ],
)
def test_what_variants_cannot_take_is_refused(kind, only, override, words):
    with pytest.raises(InputError, match=words):
        load_variants(CONFIGS, "demo", kind, only, [override])


# Files


def own_variants(folder: Path, **texts: str) -> Path:
    """Write a folder of recipes with variants of its own; returns it."""
    there = folder / "ablation" / "fusion"
    there.mkdir(parents=True)
    for name in ("iemocap", "demo_concat", "demo_gmu"):
        (folder / f"{name}.yaml").write_text((CONFIGS / f"{name}.yaml").read_text())
    for variant, text in texts.items():
        (there / f"{variant}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"a": "model: {gate: scalar}"}, "must change nothing.*: none$"),
        ({"a": "", "b": "# nothing"}, "must change nothing.*: a, b$"),
        ({"a": "", "b": "name: x"}, "b.yaml must hold sections of a config only"),
        ({"a": "", "b": "base: x.yaml"}, "b.yaml must hold sections of a config only"),
        ({"a": "", "b": "- 1"}, "b.yaml must hold sections of a config only"),
        ({"a": "", "b": "model: {"}, "b.yaml is not valid YAML"),
        ({"a": "", "b": "model: {gaet: scalar}"}, "variant b of .*did you mean 'gate'"),
        ({"a": "", "b": "loss: {alpha: 1.0}"}, "variant b of .*loss.alpha.*has no effect"),
        ({"a": "", "b": "model: null"}, "variant b of .*model"),
        ({"a": "", "b": "run: {seeds: [7]}"}, "b.yaml must hold sections of a config only"),
        ({"a": "", "fusion": "model: {gate: scalar}"}, "share a folder with the tables"),
        ({"a": "", "gmu": "model: {gate: scalar}"}, "the same name demo_gmu"),
    ],
)
def test_a_wrong_folder_of_variants_is_reported(tmp_path: Path, texts, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        load_variants(own_variants(tmp_path, **texts), "demo", "fusion", [], [])


def test_variants_are_of_configs_that_exist():
    with pytest.raises(InputError, match="there are no configs 'demos'.*'demo'"):
        load_variants(CONFIGS, "demos", "fusion", [], [])


def test_what_the_recipe_sets_and_has_no_effect_in_a_variant_is_left_out(tmp_path: Path):
    configs = own_variants(tmp_path, plain="", alone="model: {fusion: mel_only}")
    recipe = yaml.safe_load((configs / "demo_gmu.yaml").read_text())
    recipe["model"] |= {"gate_input": "features", "cqt_weights": "a file"}
    (configs / "demo_gmu.yaml").write_text(yaml.safe_dump(recipe))
    plain, alone = load_variants(configs, "demo", "fusion", [], [])
    assert plain.config.model.gate_input == "features" and plain.config.name == "demo_gmu"
    assert alone.config.model.gate_input is None and alone.config.model.cqt_weights is None
    assert alone.config.optim.optimizer.cqt is None and alone.config.name == "demo_alone"


# Scripts


@pytest.mark.parametrize("kind", VARIED)
def test_the_scripts_hand_everything_to_the_planner(tmp_path: Path, kind: str):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\nexit 7\n')
    fake.chmod(0o755)
    script = ROOT / f"scripts/ablation_{kind}.sh"
    assert os.access(script, os.X_OK)
    environment = {**os.environ, "PYTHON": str(fake)}
    command = [script, "demo", "a b", "--jobs", "2"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 7
    words = ["-m", "scripts.ablation", "--variants", kind, "demo", "a b", "--jobs", "2"]
    assert said.stdout.splitlines() == [str(ROOT), *words]
