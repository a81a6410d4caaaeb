"""The network: one output type, widths read, gate polarity, weights from safe files only."""

import json
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import backbones
from backbones import check_image_size, create_backbone
from config import load_config
from errors import InputError, RunError
from fusion import FUSIONS, GMU, FusionHead, FusionOutput
from losses import FusionLoss
from model_gmu import MaxMViTGMU, rebuild

SIZE = 32  # pixels
SMALL = {
    "cqt_backbone": "test_maxvit",
    "mel_backbone": "mvitv2_micro",
    "image_size": SIZE,
    "mlp_hidden_dim": 16,
}


@pytest.fixture(scope="module")
def models():
    """Return one small model for each fusion, in evaluation mode."""
    torch.manual_seed(0)
    return {fusion: MaxMViTGMU(4, fusion, **SMALL).eval() for fusion in FUSIONS}


@pytest.fixture(scope="module")
def timm_model():
    torch.manual_seed(1)
    return timm.create_model("test_maxvit", num_classes=10, img_size=SIZE).eval()


def pictures(n=2, channels=1):
    torch.manual_seed(2)
    return torch.randn(n, channels, SIZE, SIZE), torch.randn(n, channels, SIZE, SIZE)


# Output


@pytest.mark.parametrize("fusion", FUSIONS)
def test_peer_16_every_fusion_returns_the_same_type(models, fusion):
    for mode in (True, False):
        output = models[fusion].train(mode)(*pictures(3))
        assert type(output) is FusionOutput and output.logits.shape == (3, 4)
        assert (output.gate is None) == (fusion == "concat")
        assert (output.z_cqt is None) == (output.z_mel is None) == (fusion != "gmu_contrastive")


def test_views_have_the_width_asked_for():
    head = FusionHead(8, 6, 3, "gmu_contrastive", projection_dim=5, mlp_hidden_dim=4)
    output = head(torch.randn(2, 8), torch.randn(2, 6))
    assert output.z_cqt.shape == output.z_mel.shape == (2, 5)
    assert output.gate.shape == (2, 8)


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="concat, gmu, gmu_contrastive, got 'add'"):
        FusionHead(8, 6, 3, "add")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_peer_21_a_batch_of_one_works_in_evaluation(models, fusion):
    assert models[fusion].eval()(*pictures(1)).logits.isfinite().all()


# Widths


def test_peer_18_widths_are_read_from_the_backbones(models):
    for fusion, width in (("concat", 128 + 384), ("gmu", 384)):
        model = models[fusion]
        assert (model.cqt_branch.num_features, model.mel_branch.num_features) == (128, 384)
        assert model.head.classify[0].in_features == width  # null is the wider branch


def test_fusion_hidden_dim_sets_the_width_of_the_gate():
    head = FusionHead(8, 6, 3, "gmu", hidden_dim=5)
    assert head(torch.randn(2, 8), torch.randn(2, 6)).gate.shape == (2, 5)
    assert head.classify[0].in_features == 5


@pytest.mark.parametrize(("gate_input", "width"), [(None, 10), ("projected", 10), ("features", 14)])
def test_gate_input_says_what_the_gate_reads(gate_input, width):
    head = FusionHead(8, 6, 3, "gmu", hidden_dim=5, gate_input=gate_input)
    assert head.gmu.gate.in_features == width


def test_the_small_mvit_has_the_size_its_docstring_says():
    model = timm.create_model("mvitv2_micro", num_classes=0, img_size=SIZE)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2.6e6, rel=0.02)
    assert [len(stage.blocks) for stage in model.stages] == [1, 1, 2, 1]


# GMU


@pytest.mark.parametrize("gate_input", ["projected", "features"])
def test_the_gmu_is_five_plain_lines(gate_input):
    gmu = GMU(5, 3, 4, gate_input)
    feat_cqt, feat_mel = torch.randn(2, 5), torch.randn(2, 3)
    w = dict(gmu.named_parameters())
    h_cqt = torch.tanh(feat_cqt @ w["project_cqt.weight"].T + w["project_cqt.bias"])
    h_mel = torch.tanh(feat_mel @ w["project_mel.weight"].T + w["project_mel.bias"])
    read = torch.cat([h_cqt, h_mel] if gate_input == "projected" else [feat_cqt, feat_mel], 1)
    gate = 1 / (1 + torch.exp(-(read @ w["gate.weight"].T + w["gate.bias"])))
    expected = (gate * h_cqt + (1 - gate) * h_mel, gate, h_cqt, h_mel)
    for found, plain in zip(gmu(feat_cqt, feat_mel), expected, strict=True):
        torch.testing.assert_close(found, plain)


def test_gate_1_is_the_cqt_and_gate_0_the_mel():
    gmu = GMU(5, 3, 4)
    feats = torch.randn(2, 5), torch.randn(2, 3)
    nn.init.zeros_(gmu.gate.weight)
    for bias, trusted in ((100.0, 2), (-100.0, 3)):
        nn.init.constant_(gmu.gate.bias, bias)
        found = gmu(*feats)
        torch.testing.assert_close(found[0], found[trusted])
        assert found[1].unique().tolist() == [1.0 if bias > 0 else 0.0]


def test_concat_classifies_both_features_side_by_side():
    head = FusionHead(5, 3, 2, "concat").eval()
    feats = torch.randn(2, 5), torch.randn(2, 3)
    torch.testing.assert_close(head(*feats).logits, head.classify(torch.cat(feats, 1)))


def test_views_come_from_their_own_branch():
    head = FusionHead(5, 3, 2, "gmu_contrastive").eval()
    feat_cqt, feat_mel = torch.randn(2, 5), torch.randn(2, 3)
    first, second = head(feat_cqt, feat_mel), head(feat_cqt + 1, feat_mel)
    assert torch.equal(first.z_mel, second.z_mel) and not torch.equal(first.z_cqt, second.z_cqt)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_both_branches_and_every_part_of_the_head(models, fusion):
    model = models[fusion].train()
    model.zero_grad()
    output = model(*pictures(4))
    loss = nn.functional.cross_entropy(output.logits, torch.arange(4))
    if output.z_cqt is not None:
        loss = loss + (output.z_cqt * output.z_mel).mean()
    loss.backward()
    stem = "stem.conv1.weight", "patch_embed.proj.weight"
    for branch, name in zip((model.cqt_branch, model.mel_branch), stem, strict=True):
        assert branch.get_parameter(name).grad.abs().max() > 0
    assert all(p.grad is not None for p in model.head.parameters())


# Normalization, parts, rebuilding


def test_peer_13_normalization_travels_with_the_weights():
    model = MaxMViTGMU(4, "concat", **SMALL).eval()
    mean, std = torch.tensor([-40.0]), torch.tensor([12.0])
    model.set_normalization({"cqt": (mean, std), "mel": (mean + 1, std + 1)})
    copied = MaxMViTGMU(4, "concat", **SMALL).eval()
    copied.load_state_dict(model.state_dict())
    assert copied.cqt_mean.flatten().tolist() == [-40] and copied.mel_std.flatten().tolist() == [13]
    cqt, mel = pictures()
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
    model = MaxMViTGMU(3, "gmu_contrastive", **SMALL, **options, n_channels=3).eval()
    model.set_normalization({"cqt": (torch.arange(3.0), torch.full((3,), 2.0))})
    settings = json.loads(json.dumps(model.settings))
    again = rebuild(settings, {name: t.clone() for name, t in model.state_dict().items()})
    assert not again.training and again.settings == model.settings
    for a, b in zip(model(*pictures(2, 3)), again(*pictures(2, 3)), strict=True):
        assert torch.equal(a, b)


def test_settings_name_no_file_so_that_rebuilding_needs_none(models):
    assert not {"pretrained", "cqt_weights", "mel_weights"} & models["gmu"].settings.keys()


# Backbones


@pytest.mark.parametrize(("size", "nearest"), [(100, 96), (33, 32), (62, 63)])
def test_an_image_size_that_does_not_fit_is_refused_with_the_nearest_that_does(size, nearest):
    with pytest.raises(InputError, match=f"nearest size that fits is {nearest}$") as caught:
        check_image_size("test_maxvit", size, "cqt")
    assert f"model.image_size={size}" in str(caught.value)
    check_image_size("test_maxvit", nearest, "cqt")


def test_a_size_that_fits_is_accepted_and_nothing_is_built_for_it():
    check_image_size("maxvit_base_tf_224", 224, "cqt")  # a hundred million parameters, on "meta"


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
    monkeypatch.setattr(backbones.huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(timm, "create_model", None)  # must not be reached, it would try for long


def test_peer_18_pretrained_without_network_names_the_model_and_two_ways_on(offline, monkeypatch):
    monkeypatch.setattr(backbones, "check_image_size", lambda *args: None)
    with pytest.raises(RunError, match="maxvit_base_tf_224.*no network") as caught:
        create_backbone("maxvit_base_tf_224", 224, 1, True, None, "cqt")
    assert "model.cqt_weights=FILE" in str(caught.value)
    assert "model.pretrained=false" in str(caught.value)


def test_the_hub_is_asked_for_seconds_only_and_not_when_the_cache_has_the_file(monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append(timeout)
        raise urllib.error.HTTPError("url", 404, "not found", None, None)  # it answers

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    cache = backbones.huggingface_hub
    monkeypatch.setattr(cache, "try_to_load_from_cache", lambda *a, **k: None)
    backbones._check_reachable("mvitv2_base", "mel")
    assert asked == [5]
    monkeypatch.setattr(cache, "try_to_load_from_cache", lambda *a, **k: "file")
    monkeypatch.setattr(urllib.request, "urlopen", None)
    backbones._check_reachable("maxvit_base_tf_224", "cqt")


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
    model = MaxMViTGMU(4, "concat", **SMALL, cqt_weights=file)
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


RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
NETWORKS = {  # one recipe for each network that any recipe trains
    (c.model.fusion, c.model.cqt_backbone, c.model.image_size): c for c in map(load_config, RECIPES)
}


@pytest.mark.parametrize("config", NETWORKS.values(), ids=lambda c: c.name)
def test_peer_15_every_recipe_builds_a_model_that_runs_through_its_loss(config):
    settings = config.model.model_dump() | {"pretrained": False}
    side = config.model.image_size
    with torch.device("meta"):
        model = MaxMViTGMU(4, **settings)
        output = model(torch.zeros(2, 1, side, side), torch.zeros(2, 1, side, side))
    assert output.logits.shape == (2, 4)
    assert (output.gate is None) == (config.model.fusion == "concat")
    assert (output.z_cqt is not None) == (config.model.fusion == "gmu_contrastive")
    if output.z_cqt is not None:
        loss = FusionLoss(config.loss.alpha, config.loss.temperature, config.loss.nt_xent)
        views = (torch.randn(2, *output.z_cqt.shape[1:]), torch.randn(2, *output.z_mel.shape[1:]))
        terms = loss(torch.zeros(2, 4), torch.tensor([0, 1]), views)
        assert None not in terms
