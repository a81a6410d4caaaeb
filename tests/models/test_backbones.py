"""Backbones: names, tags, image sizes and shapes are refused by name; tokens hold no class."""

import pytest
import timm
import torch
from torch import nn

from models import backbones
from models.backbones import check_backbone, check_tokens, create_backbone, tokens
from system.errors import InputError


@pytest.fixture(autouse=True)
def _tried_anew():
    backbones._try.cache_clear()
    yield
    backbones._try.cache_clear()


@pytest.mark.parametrize("name", ["mvitv2_base.typo", "mvitv2_base.", "mvitv2_base.fb_in1"])
def test_an_unknown_tag_is_refused_with_the_tags_that_timm_knows(name):
    words = "timm knows mvitv2_base, but not with the tag .*; did you mean 'mvitv2_base.fb_in1k'"
    with pytest.raises(InputError, match=f"model.mel_backbone='{name}': {words}") as caught:
        create_backbone(name, 224, 1, False, None, "mel")
    assert "image_size" not in str(caught.value)


def test_a_tag_that_timm_knows_is_accepted():
    check_backbone("mvitv2_tiny.fb_in1k", 64, "mel")


def test_a_size_that_timm_refuses_without_words_is_one_message(monkeypatch):
    """timm's HaloNet divides the image into blocks and asserts it without a message."""
    monkeypatch.setattr(backbones, "_sizes_around", lambda size: [256])
    reason = r"\(the model refuses this size and gives no reason\)"
    words = rf"model.image_size=224 does not fit halonet26t {reason}; .* fits is 256$"
    with pytest.raises(InputError, match=words):
        check_backbone("halonet26t", 224, "cqt")


def test_an_unforeseen_error_of_a_model_is_one_message(monkeypatch):
    def fail(*args, **kwargs):
        raise IndexError("out of range")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(InputError, match=r"\(out of range\); no size near it fits"):
        check_backbone("test_vit", 64, "cqt")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x: torch.zeros(len(x), 8, 2, 2), r"\(1, 8, 2, 2\)"),
        (lambda x: torch.zeros(len(x), 9), r"\(1, 9\)"),
        (lambda x: (torch.zeros(len(x), 8), x), "tuple"),
    ],
)
def test_a_backbone_whose_output_is_not_its_features_is_refused_by_name(output, words, monkeypatch):
    class Odd(nn.Module):
        num_features = 8

        def forward(self, x):
            return output(x)

    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: Odd())
    needed = r"not \(1, 8\), a vector of its num_features"
    with pytest.raises(InputError, match=f"model.cqt_backbone='test_vit' gives {words} .*{needed}"):
        check_backbone("test_vit", 32, "cqt")


@pytest.mark.parametrize("name", ["volo_d1_224", "coat_lite_tiny", "pit_ti_224"])
def test_a_family_that_does_not_count_its_class_tokens_is_refused(name):
    words = f"model.mel_backbone='{name}' does not say which of its tokens are class tokens"
    with pytest.raises(InputError, match=words):
        check_tokens(name, 64, "mel")


@pytest.mark.parametrize(
    ("name", "n_class"),
    [
        ("deit_tiny_patch16_224", 1),
        ("deit_tiny_distilled_patch16_224", 2),
        ("mvitv2_base_cls", 1),
        ("xcit_nano_12_p16_224", 1),
        ("twins_pcpvt_small", 0),
        ("levit_128s", 0),
        ("coatnet_0_224", 0),
    ],
)
def test_tokens_of_timms_families_are_the_places_of_the_image(name, n_class):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0, img_size=224).eval()
        whole = model.forward_features(torch.zeros(1, 3, 224, 224))
        places = tokens(model, torch.zeros(1, 3, 224, 224))
    n = places.shape[1]
    assert places.shape == (1, n, model.num_features) and round(n**0.5) ** 2 == n
    assert whole.ndim == 4 or whole.shape[1] == n + n_class


def test_first_weights_of_mvitv2_mini_fit_its_width():
    """A layer gives unit inputs a deviation of 0.5 to 1.3 (Glorot), timm's 0.02 one of 0.1."""
    layers = {
        name: layer
        for name, layer in create_backbone("mvitv2_mini", 64, 1, False, None, "mel").named_modules()
        if isinstance(layer, nn.Linear)
    }
    assert len(layers) == 5 * 4 + 2  # qkv, proj and two of the MLP; wider shortcuts of two blocks
    for name, layer in layers.items():
        outputs = layer(torch.randn(4000, layer.in_features)) - layer.bias
        assert 0.5 < outputs.std() < 1.4, name


def test_weights_of_mvitv2_mini_load_at_another_image_size(tmp_path):
    torch.manual_seed(3)
    own = timm.create_model("mvitv2_mini", num_classes=0, img_size=64, in_chans=1)
    across = torch.linspace(0, 1, 16).repeat(16).view(1, -1, 1)  # it rises along time
    with torch.no_grad():
        own.pos_embed.copy_(across.expand(-1, -1, 32))
    file = tmp_path / "w.pth"
    torch.save(own.state_dict(), file)
    same = create_backbone("mvitv2_mini", 64, 1, True, str(file), "mel").state_dict()
    assert all(torch.equal(same[name], value) for name, value in own.state_dict().items())
    wider = create_backbone("mvitv2_mini", 96, 1, True, str(file), "mel").state_dict()
    assert torch.equal(
        wider["stages.1.blocks.0.mlp.fc1.weight"], same["stages.1.blocks.0.mlp.fc1.weight"]
    )
    rows = wider["pos_embed"].view(24, 24, 32)
    torch.testing.assert_close(rows[3:4].expand_as(rows), rows)  # the same in all bands
    assert bool((rows[0, 1:] > rows[0, :-1]).all())
    assert rows.mean() == pytest.approx(0.5, abs=1e-3)
