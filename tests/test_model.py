"""The network: one output type, widths read, settings, branches and tokens, safe weights only."""

import json
import pickle
import urllib.error
import urllib.request
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import nn

from config.effects import CONTRASTIVE
from config.fusions import FUSIONS, GATED, ONE_IMAGE
from config.loading import load_config
from config.schema import ModelConfig
from model_gmu import MaxMViTGMU, check_settings, misfit, rebuild
from models import backbones, weights
from models.backbones import check_backbone, check_tokens, create_backbone, tokens
from models.heads import FusionOutput
from models.losses import FusionLoss
from models.settings import FIRST_WEIGHTS, ModelSettings
from storage.model_card import CardModel
from system.errors import InputError, RunError
from tests.support.models import OF_IMAGES, SMALL, small_model
from tests.support.paths import ROOT

SIZE = SMALL["image_size"]  # pixels


@pytest.fixture(scope="module")
def models():
    """Return one small model for each fusion, in evaluation mode."""
    torch.manual_seed(0)
    return {fusion: small_model(fusion, mlp_hidden_dim=16).eval() for fusion in OF_IMAGES}


def small(fusion, **options):
    """Return a small model whose weights follow from one seed."""
    torch.manual_seed(3)
    return small_model(fusion, mlp_hidden_dim=16, **options)


@pytest.fixture(scope="module")
def timm_model():
    torch.manual_seed(1)
    return timm.create_model("test_maxvit", num_classes=10, img_size=SIZE).eval()


def images(n=2, channels=1):
    torch.manual_seed(2)
    return torch.randn(n, channels, SIZE, SIZE), torch.randn(n, channels, SIZE, SIZE)


# Output


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_peer_16_every_fusion_returns_the_same_type(models, fusion):
    for mode in (True, False):
        output = models[fusion].train(mode)(*images(3))
        assert type(output) is FusionOutput and output.logits.shape == (3, 4)
        assert (output.gate is not None) == (fusion in GATED)
        assert (output.views is None) == (output.pooled is None) == (fusion not in CONTRASTIVE)


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_peer_21_a_batch_of_one_works_in_evaluation(models, fusion):
    assert models[fusion].eval()(*images(1)).logits.isfinite().all()


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_features_and_fuse_are_the_two_halves_of_the_model(models, fusion):
    model = models[fusion].eval()
    features = model.features(*images())
    dims = 3 if FUSIONS[fusion].reads_tokens else 2
    absent = {"cqt_only": [1], "mel_only": [0]}.get(fusion, [])
    for i, width in enumerate((128, 384)):
        if i in absent:
            assert features[i] is None
        else:
            assert features[i].ndim == dims and features[i].shape[-1] == width
    assert torch.equal(model.fuse(features).logits, model(*images()).logits)


@pytest.mark.parametrize("fusion", GATED)
def test_a_forced_gate_reaches_the_head(models, fusion):
    model = models[fusion].eval()
    features = model.features(*images())
    forced = model.fuse(features, 1.0)
    assert forced.gate.unique().tolist() == [1.0]
    assert not torch.allclose(forced.logits, model.fuse(features, 0.0).logits)


@pytest.mark.parametrize("fusion", [f for f in OF_IMAGES if f not in GATED])
def test_a_gate_that_is_not_there_cannot_be_forced(models, fusion):
    model = models[fusion]
    with pytest.raises(ValueError, match=f"{fusion} has no gate to force"):
        model.fuse(model.features(*images()), 0.5)


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_a_fusion_needs_the_features_of_its_branches_and_no_others(models, fusion):
    model = models[fusion].eval()
    cqt, mel = model.features(*images())
    for branch, features in (("cqt", (None, mel)), ("mel", (cqt, None))):
        if branch in FUSIONS[fusion].branches:
            with pytest.raises(ValueError, match=f"{fusion} needs the {branch} features"):
                model.fuse(features)
        else:
            assert torch.equal(model.fuse(features).logits, model(*images()).logits)


# Widths


def test_peer_18_widths_are_read_from_the_backbones(models):
    widths = {"concat": 128 + 384, "cqt_only": 128, "mel_only": 384}
    for fusion, model in models.items():
        width = widths.get(fusion, 384)
        assert model.head.classify[0].in_features == width  # null is the wider branch


def test_the_small_mvit_has_the_size_its_docstring_says():
    model = timm.create_model("mvitv2_micro", num_classes=0, img_size=SIZE)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2.6e6, rel=0.02)
    assert [len(stage.blocks) for stage in model.stages] == [1, 1, 2, 1]


# Branches


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_gradients_reach_every_parameter(models, fusion):
    """DDP waits for each; of a MaxViT whose head nothing trains too."""
    model = models[fusion].train()
    model.zero_grad()
    output = model(*images(4))
    loss = nn.functional.cross_entropy(output.logits, torch.arange(4))
    if output.views is not None:
        loss = loss + torch.stack(output.views).prod(0).mean()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    stems = {"cqt": "stem.conv1.weight", "mel": "patch_embed.proj.weight"}
    for part in model.parts().keys() & stems.keys():
        branch = model.get_submodule(f"{part}_branch")
        assert branch.get_parameter(stems[part]).grad.abs().max() > 0


@pytest.mark.parametrize(("fusion", "key"), ONE_IMAGE.items())
def test_a_single_branch_builds_loads_and_runs_no_other(fusion, key, monkeypatch):
    asked = []
    create = backbones.create_backbone
    monkeypatch.setattr(
        "models.backbones.create_backbone", lambda *args: asked.append(args[5]) or create(*args)
    )
    other = "mel" if key == "cqt" else "cqt"
    settings = ModelSettings(fusion=fusion, **{**SMALL, f"{other}_backbone": None})
    model = MaxMViTGMU(settings, **{f"{other}_weights": "nowhere.safetensors"}).eval()
    assert asked == [key] and list(model.parts()) == [key, "head"]
    assert not any(name.startswith(f"{other}_branch") for name in model.state_dict())
    cqt, mel = images()
    expected = model(cqt, mel).logits
    nonsense = torch.full((2, 1, 3, 7), float("nan"))
    pair = (cqt, nonsense) if key == "cqt" else (nonsense, mel)
    assert torch.equal(model(*pair).logits, expected)


def test_a_branch_without_a_backbone_is_refused():
    with pytest.raises(InputError, match="gmu reads the mel branch: set model.mel_backbone"):
        small_model("gmu", mel_backbone=None)


def built_by_hand(fusion):
    """Draw the weights of a model in the order in which they have always been drawn."""
    torch.manual_seed(3)
    parts = {
        "cqt_branch": create_backbone("test_maxvit", SIZE, 1, False, None, "cqt"),
        "mel_branch": create_backbone("mvitv2_micro", SIZE, 1, False, None, "mel"),
    }
    width = 512
    if fusion != "concat":
        parts["head.gmu.project_cqt"] = nn.Linear(128, 384)
        parts["head.gmu.project_mel"] = nn.Linear(384, 384)
        parts["head.gmu.gate"] = nn.Linear(768, 384)
        width = 384
    if fusion == "gmu_contrastive":
        for view in ("view_cqt", "view_mel"):
            for i, units in ((0, 384), (2, 128)):
                parts[f"head.{view}.{i}"] = nn.Linear(384, units)
    parts["head.classify.0"] = nn.Linear(width, 16)
    parts["head.classify.1"] = nn.BatchNorm1d(16)
    parts["head.classify.4"] = nn.Linear(16, 4)
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


@pytest.mark.parametrize("fusion", ["concat", "gmu", "gmu_contrastive"])
def test_names_and_first_weights_of_the_first_fusions_stay(fusion):
    """Old weights load, and a seed gives the weights that it gave."""
    weights, expected = small(fusion).state_dict(), built_by_hand(fusion)
    statistics = {f"{key}_{what}" for key in ("cqt", "mel") for what in ("mean", "std")}
    assert weights.keys() - expected.keys() == statistics
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


# Tokens


@pytest.mark.parametrize(
    ("name", "size", "n"),
    [
        ("test_maxvit", 64, 4),  # (B, D, H, W)
        ("test_vit", 64, 16),  # class token apart
        ("mvitv2_micro", 64, 4),  # (B, N, D)
        ("swin_tiny_patch4_window7_224", 224, 49),  # (B, H, W, D)
    ],
)
def test_tokens_are_the_features_at_each_place(name, size, n):
    torch.manual_seed(0)
    model = create_backbone(name, size, 1, False, None, "cqt").eval()
    x = torch.randn(2, 1, size, size)
    with torch.no_grad():
        patches = tokens(model, x)
        assert patches.shape == (2, n, model.num_features)
        if name != "test_vit":  # which reads its class token instead
            torch.testing.assert_close(patches.mean(1), model(x), rtol=1e-4, atol=1e-4)


def test_tokens_of_a_map_are_in_the_order_of_its_rows():
    class Map(nn.Module):
        num_features = 3

        def __init__(self, last):
            super().__init__()
            self.last = last

        def forward_features(self, x):
            return x.permute(0, 2, 3, 1) if self.last else x

    x = torch.arange(24.0).reshape(1, 3, 2, 4)
    for last in (False, True):
        assert tokens(Map(last), x)[0, :, 0].tolist() == list(range(8))
        assert tokens(Map(last), x)[0, 5].tolist() == [5, 13, 21]


@pytest.mark.parametrize("width", [64, 65])
def test_a_model_without_tokens_is_refused_before_it_is_built(width, monkeypatch):
    class Pooled(nn.Module):
        num_features = width

        def forward_features(self, x):
            return x.mean((2, 3)) if width == 64 else (x, x)

    monkeypatch.setattr(backbones, "check_backbone", lambda *args: None)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: Pooled())
    shape = r"\(1, 3\)" if width == 64 else "tuple"
    words = f"model.cqt_backbone='pooled' gives {shape} before pooling, not tokens of width {width}"
    with pytest.raises(InputError, match=f"{words}, which cross_attention needs: use a model of"):
        check_tokens("pooled", width, "cqt")


def test_the_loss_compares_features_of_one_width_only():
    sections = {
        fusion: ModelConfig(fusion=fusion, **{k: v for k, v in SMALL.items() if k != "n_classes"})
        for fusion in ("gmu_contrastive", "cross_attention_contrastive")
    }
    with pytest.raises(InputError, match="loss.alpha_on=features needs .* 128, the Mel .* 384"):
        check_settings(sections["gmu_contrastive"], "features")
    check_settings(sections["gmu_contrastive"], "views")
    check_settings(sections["cross_attention_contrastive"], "features")
    published = ModelConfig(
        fusion="gmu_contrastive",
        cqt_backbone="maxvit_tiny_tf_224",
        mel_backbone="maxvit_tiny_tf_224",
        projection="shared",
    )
    check_settings(published, "features")


def test_settings_are_checked_without_weights_or_memory(monkeypatch):
    monkeypatch.setattr(backbones, "load_backbone", None)
    backbone_names = {key: SMALL[key] for key in ("cqt_backbone", "mel_backbone")}
    values = {"fusion": "cross_attention", **backbone_names, "image_size": SIZE}
    values |= {"pretrained": True, "mel_weights": "nowhere"}
    check_settings(ModelConfig(**values))
    with pytest.raises(InputError, match="model.attention_heads=5 must divide .*, 384"):
        check_settings(ModelConfig(**values, attention_heads=5))
    with pytest.raises(InputError, match="model.image_size=33 does not fit test_maxvit"):
        check_settings(ModelConfig(**{**values, "image_size": 33}))


def test_what_follows_the_tokens_is_not_kept():
    with torch.device("meta"):  # a MaxViT as published: its head has weights without classes too
        whole = timm.create_model("maxvit_tiny_tf_224", num_classes=0)
        assert dict(whole.head.named_parameters())
        model = small_model("cross_attention", cqt_backbone="maxvit_tiny_tf_224", image_size=224)
    kept = dict(model.cqt_branch.named_parameters()).keys()
    assert kept == {n for n, _ in whole.named_parameters() if not n.startswith("head.")}


def test_the_batch_norms_that_the_readme_counts_are_there():
    with torch.device("meta"):
        model = MaxMViTGMU(ModelSettings(**{**SMALL, "cqt_backbone": "maxvit_base_tf_224",
            "mel_backbone": "mvitv2_base", "fusion": "concat", "image_size": 224}))  # fmt: skip
    parts = {"cqt": model.cqt_branch, "mel": model.mel_branch, "head": model.head}
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    counts = {k: sum(isinstance(m, norms) for m in part.modules()) for k, part in parts.items()}
    assert counts == {"cqt": 73, "mel": 0, "head": 1}
    assert f"{counts['cqt']} layers of MaxViT-Base and one in" in (ROOT / "README.md").read_text()


# Settings


def test_settings_are_the_keys_of_section_model_and_facts_of_the_data():
    names = [field.name for field in fields(ModelSettings)]
    keys = ModelConfig.model_fields.keys() - FIRST_WEIGHTS
    of_data = {"n_classes", "n_channels", "speech_shape", "vector_width"}
    of_data |= {"speech_pooling", "speech_tokens"}
    of_data |= {"speech_layers", "speech_unfrozen_layers"}
    of_data |= {"speech_lora_rank", "speech_lora_targets"}
    assert set(names) == keys | of_data
    assert set(names) == CardModel.model_fields.keys() - FIRST_WEIGHTS
    plain = ModelSettings(n_classes=4, fusion="gmu")
    assert ModelSettings.from_config(ModelConfig(fusion="gmu"), 4) == plain
    with pytest.raises(FrozenInstanceError):
        plain.fusion = "concat"


ON_DISK = {  # section `model` of a model.json
    "n_classes": 4,
    "fusion": "gmu",
    "branches": None,
    "speech_shape": None,
    "speech_pooling": None,
    "speech_tokens": None,
    "speech_layers": None,
    "speech_unfrozen_layers": None,
    "speech_lora_rank": None,
    "speech_lora_targets": None,
    "vector_width": None,
    "cqt_backbone": "test_maxvit",
    "mel_backbone": "mvitv2_micro",
    "image_size": 32,
    "n_channels": 1,
    "fusion_hidden_dim": None,
    "gate_input": "projected",
    "gate": "vector",
    "projection": None,
    "projection_dim": None,
    "attention_heads": None,
    "match_parameters": None,
    "mlp_hidden_dim": 16,
    "dropout": 0.2,
    "drop_path_rate": 0.0,
}


def test_settings_on_disk_keep_their_flat_keys():
    settings = ModelSettings(**ON_DISK)
    assert json.dumps(asdict(settings)) == json.dumps(ON_DISK)  # in this order
    assert ModelSettings.from_config(CardModel(**ON_DISK), 4) == settings
    shapes = {name: tuple(t.shape) for name, t in small("gmu").state_dict().items()}
    assert misfit(settings, shapes) is None
    assert "head.gmu.gate" in misfit(replace(settings, gate="scalar"), shapes)


def test_section_model_builds_the_network_with_its_own_first_weights(timm_model, tmp_path):
    file = save(timm_model, tmp_path / "w.safetensors")
    values = {key: value for key, value in ON_DISK.items() if key in ModelConfig.model_fields}
    config = ModelConfig(**values, pretrained=False, cqt_weights=file)
    model = MaxMViTGMU.from_config(config, 4, 3)
    assert model.settings == ModelSettings(**{**ON_DISK, "n_channels": 3})
    first = model.cqt_branch.state_dict()["stem.conv1.weight"]
    assert torch.equal(first, timm_model.state_dict()["stem.conv1.weight"])


# Normalization, parts, rebuilding


def test_peer_13_normalization_travels_with_the_weights():
    model = small_model("concat").eval()
    mean, std = torch.tensor([-40.0]), torch.tensor([12.0])
    model.set_normalization({"cqt": (mean, std), "mel": (mean + 1, std + 1)})
    copied = small_model("concat").eval()
    copied.load_state_dict(model.state_dict())
    assert copied.cqt_mean.flatten().tolist() == [-40] and copied.mel_std.flatten().tolist() == [13]
    cqt, mel = images()
    raw = copied(12 * cqt - 40, 13 * mel - 39).logits
    copied.set_normalization(dict.fromkeys(("cqt", "mel"), (torch.zeros(1), torch.ones(1))))
    torch.testing.assert_close(raw, copied(cqt, mel).logits, rtol=1e-3, atol=1e-4)


def test_parts_hold_every_parameter_once(models):
    model = models["gmu_contrastive"]
    found = [id(p) for part in model.parts().values() for p in part]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    assert list(model.parts()) == ["cqt", "mel", "head"]


def test_settings_and_weights_rebuild_the_same_model():
    options = {"fusion_hidden_dim": 24, "gate_input": "features", "projection_dim": 8}
    options["gate"] = "scalar"
    model = small_model("gmu_contrastive", n_classes=3, n_channels=3, **options).eval()
    model.set_normalization({"cqt": (torch.arange(3.0), torch.full((3,), 2.0))})
    settings = ModelSettings(**json.loads(json.dumps(asdict(model.settings))))
    again = rebuild(settings, {name: t.clone() for name, t in model.state_dict().items()})
    assert not again.training and again.settings == model.settings
    first, second = model(*images(2, 3)), again(*images(2, 3))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert None not in first


@pytest.mark.parametrize(
    ("fusion", "options"),
    [
        ("concat", {"match_parameters": True}),
        ("sum", {"match_parameters": True, "fusion_hidden_dim": 24}),
        ("cross_attention", {"attention_heads": 2, "gate": "scalar"}),
        ("cross_attention_contrastive", {"projection": "shared", "projection_dim": 16}),
        ("gmu", {"drop_path_rate": 0.3}),
        ("mel_only", {}),
    ],
)
def test_other_fusions_are_rebuilt_too(fusion, options):
    model = small(fusion, **options).eval()
    again = rebuild(model.settings, model.state_dict())
    assert torch.equal(model(*images()).logits, again(*images()).logits)


def test_settings_name_no_file_so_that_rebuilding_needs_none(models):
    assert not {"pretrained", "cqt_weights", "mel_weights"} & asdict(models["gmu"].settings).keys()


def test_the_whole_form_is_exported_as_one_graph(models):
    """As ONNX's exporter needs it."""
    model, pair = models["cross_attention_contrastive"].eval(), images()
    graph = torch.export.export(model, pair).module()
    for found, expected in zip(graph(*pair), model(*pair), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# Stochastic depth


def depths(model):
    return [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]


def test_stochastic_depth_reaches_both_backbones_in_training_alone():
    plain, deep = small("gmu"), small("gmu", drop_path_rate=0.3)
    for branch in ("cqt_branch", "mel_branch"):
        assert not any(depths(plain.get_submodule(branch)))
        found = depths(deep.get_submodule(branch))
        assert max(found) == pytest.approx(0.3) and found == sorted(found)  # most in the last
    assert all(map(torch.equal, plain.state_dict().values(), deep.state_dict().values()))
    pair = images(8)
    for a, b in zip(plain.eval()(*pair)[:2], deep.eval()(*pair)[:2], strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(0)
    assert not torch.equal(deep.cqt_branch.train()(pair[0]), deep.cqt_branch(pair[0]))


@pytest.mark.parametrize("error", [None, TypeError("unexpected keyword 'drop_path_rate'")])
def test_stochastic_depth_is_refused_for_a_model_without_it(error, monkeypatch):
    def create(*args):
        if error is not None:
            raise error
        return nn.Linear(1, 1)

    monkeypatch.setattr("models.backbones.create_backbone", create)
    with pytest.raises(InputError, match="model.drop_path_rate=0.3 has no effect on test_maxvit"):
        small("gmu", drop_path_rate=0.3)


# Backbones


@pytest.mark.parametrize(("size", "nearest"), [(100, 96), (33, 32), (62, 63)])
def test_an_image_size_that_does_not_fit_is_refused_with_the_nearest_that_does(size, nearest):
    with pytest.raises(InputError, match=f"nearest size that fits is {nearest}$") as caught:
        check_backbone("test_maxvit", size, "cqt")
    assert f"model.image_size={size}" in str(caught.value)
    check_backbone("test_maxvit", nearest, "cqt")


def test_a_size_that_fits_is_accepted_and_nothing_is_built_for_it():
    check_backbone("maxvit_base_tf_224", 224, "cqt")  # a hundred million parameters, on "meta"


@pytest.mark.parametrize(
    ("key", "name", "near"),
    [("cqt", "maxvit_base_tf_242", "maxvit_base_tf_224"), ("mel", "mvitv2_bse", "mvitv2_base")],
)
def test_an_unknown_backbone_names_the_nearest(key, name, near):
    with pytest.raises(InputError, match=f"model.{key}_backbone='{name}'.*mean '{near}'"):
        create_backbone(name, 224, 1, False, None, key)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(timm, "create_model", None)  # must not be reached, it would try for long


def test_peer_18_pretrained_without_network_names_the_model_and_two_ways_on(offline, monkeypatch):
    monkeypatch.setattr(backbones, "check_backbone", lambda *args: None)
    with pytest.raises(RunError, match="maxvit_base_tf_224.*no network") as caught:
        create_backbone("maxvit_base_tf_224", 224, 1, True, None, "cqt")
    assert "model.cqt_weights=FILE" in str(caught.value)
    assert "model.pretrained=false" in str(caught.value)


def test_pretrained_is_refused_for_a_model_without_weights():
    with pytest.raises(InputError, match="mvitv2_micro.*model.pretrained=false"):
        create_backbone("mvitv2_micro", SIZE, 1, True, None, "mel")


def save(model, path):
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_local_file_are_loaded_exactly(timm_model, tmp_path, suffix):
    file = save(timm_model, tmp_path / f"w{suffix}")
    branch = create_backbone("test_maxvit", SIZE, 3, True, file, "cqt").eval()
    loaded, saved = branch.state_dict(), timm_model.state_dict()
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)
    x = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(branch(x), timm_model.forward_head(
        timm_model.forward_features(x), pre_logits=True))  # fmt: skip


def test_three_channels_become_one_by_adding_up(timm_model, tmp_path):
    file = save(timm_model, tmp_path / "w.safetensors")
    branch = create_backbone("test_maxvit", SIZE, 1, False, file, "cqt").eval()
    first, saved = branch.state_dict(), timm_model.state_dict()
    changed = [name for name in first if not torch.equal(first[name], saved[name])]
    assert changed == ["stem.conv1.weight"]
    torch.testing.assert_close(first[changed[0]], saved[changed[0]].sum(1, keepdim=True))


def test_a_weights_file_takes_the_place_of_the_hub(timm_model, tmp_path, monkeypatch):
    file = save(timm_model, tmp_path / "w.safetensors")
    monkeypatch.setattr(urllib.request, "urlopen", None)
    settings = ModelSettings(fusion="concat", **SMALL)
    model = MaxMViTGMU(settings, cqt_weights=file)
    assert torch.equal(
        model.cqt_branch.state_dict()["stem.conv2.weight"],
        timm_model.state_dict()["stem.conv2.weight"],
    )


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_peer_25_a_malicious_pickle_is_refused_and_not_executed(tmp_path, kind):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w').close()",))

    file = tmp_path / "w.pth"
    if kind == "torch":
        torch.save({"state_dict": {"stem.conv1.weight": Evil()}}, file)
    else:
        file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="model.cqt_weights=.*w.pth does not hold the weights"):
        create_backbone("test_maxvit", SIZE, 3, False, str(file), "cqt")
    assert not (tmp_path / "executed").exists()


def test_a_weights_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="model.mel_weights: there is no file .*w.pth"):
        create_backbone("mvitv2_micro", SIZE, 1, False, str(tmp_path / "w.pth"), "mel")


@pytest.mark.parametrize("content", [b"", b"text", "other"])
def test_a_file_that_is_not_the_weights_is_refused(timm_model, tmp_path, content):
    file = tmp_path / "w.safetensors"
    if content == "other":
        save(timm_model, file)
    else:
        file.write_bytes(content)
    with pytest.raises(InputError, match="model.mel_weights.*w.safetensors"):
        create_backbone("mvitv2_micro", SIZE, 1, False, str(file), "mel")


RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
NETWORKS = {  # one recipe for each network that any recipe trains
    (c.model.fusion, c.model.cqt_backbone, c.model.image_size): c for c in map(load_config, RECIPES)
}


@pytest.mark.parametrize("config", NETWORKS.values(), ids=lambda c: c.name)
def test_peer_15_every_recipe_builds_a_model_that_runs_through_its_loss(config):
    side = config.model.image_size
    with torch.device("meta"):
        shapes = {"speech": (13, 768)}
        model = MaxMViTGMU(ModelSettings.from_config(config.model, 4, shapes=shapes))
        beside = [torch.zeros(2, 13, 768)] if "speech" in config.model.reads else []
        image = torch.zeros(2, 1, side, side)
        output = model(image, image, *beside)
    assert output.logits.shape == (2, 4)
    assert (output.gate is not None) == (config.model.fusion in GATED)
    assert (output.views is not None) == (config.model.fusion in CONTRASTIVE)
    if output.views is not None:
        loss = FusionLoss(**config.loss.model_dump(exclude={"class_weights"}))
        views = [torch.randn(2, *view.shape[1:]) for view in output.views]
        terms = loss(torch.zeros(2, 4), torch.tensor([0, 1]), views)
        assert None not in terms
