"""First weights: all of a file or none, from a local file and from a hub's cache."""

import argparse
import logging
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from models import weights
from models.backbones import create_backbone
from models.weights import find_weights
from system.errors import InputError, RunError

SIZE = 32  # pixels
MICRO, MAXVIT = "mvitv2_micro", "test_maxvit"
ON_HUB = "test_vit"


@pytest.fixture(scope="module")
def own() -> dict[str, torch.Tensor]:
    """Return the weights of the small MViTv2 with a classifier, none of them the first ones."""
    torch.manual_seed(5)
    tensors = timm.create_model(MICRO, num_classes=10, img_size=SIZE).state_dict()
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in tensors.items()}


@pytest.fixture(autouse=True)
def _said_anew():
    weights._log_once.cache_clear()


def load(state, folder: Path, name: str = MICRO, size: int = SIZE, channels: int = 3):
    file = folder / "w.pth"
    torch.save(state, file)
    return create_backbone(name, size, channels, True, str(file), "mel").state_dict()


def is_equal(loaded, own) -> bool:
    return all(torch.equal(value, own[key]) for key, value in loaded.items())


def floats(state) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if value.is_floating_point()}


# Another network, or a part


def test_a_file_without_half_of_the_tensors_is_refused_with_their_number(own, tmp_path):
    names = [key for key in own if not key.startswith("head.fc")]
    half = {key: own[key] for key in names[: len(names) // 2]}
    words = f"{len(names) - len(half)} of the model's {len(names)} tensors are not in it, "
    words += f"the first is {names[len(half)]}$"
    with pytest.raises(InputError, match=f"model.mel_weights=.*does not hold .*{MICRO}: {words}"):
        load(half, tmp_path)


@pytest.mark.parametrize("left_out", ["patch_embed.proj.weight", "norm.bias", "head.fc.weight"])
def test_one_missing_tensor_is_enough_unless_it_is_the_classifiers(own, tmp_path, left_out):
    state = {key: value for key, value in own.items() if key != left_out}
    if left_out == "head.fc.weight":
        assert is_equal(load(state, tmp_path), own)
    else:
        with pytest.raises(InputError, match=f": 1 of the model's .* the first is {left_out}$"):
            load(state, tmp_path)


@pytest.mark.parametrize("other", ["test_resnet", "test_vit", MAXVIT])
def test_another_network_is_refused(other, tmp_path):
    state = timm.create_model(other, num_classes=10).state_dict()
    with pytest.raises(InputError, match="tensors are not in it, the first is (patch_|stages.0)"):
        load(state, tmp_path)


def test_a_deeper_network_is_refused_though_it_holds_all_names(own, tmp_path):
    block = {k.replace("s.2.blocks.1", "s.2.blocks.2"): v for k, v in own.items()}
    more = [key for key in block if key not in own and key.endswith(("weight", "bias"))]
    assert any("rel_pos" in key for key in block if key not in own)
    words = f"{len(more)} tensors in it have no place in the model, the first is {more[0]}"
    with pytest.raises(InputError, match=words):
        load(own | block, tmp_path)


def test_a_wider_network_is_refused_with_both_shapes(tmp_path):
    with torch.device("cpu"):
        wide = timm.models.mvitv2.MultiScaleVit(
            timm.models.mvitv2.MultiScaleVitCfg(depths=(1, 1, 2, 1), embed_dim=96)
        )
    with pytest.raises(InputError, match=r"size mismatch for .*\[96.*\[48"):
        load(wide.state_dict(), tmp_path)


@pytest.mark.parametrize("state", [{}, {"epoch": 3}, [], {"net": {"a": 1}, "epoch": 2}])
def test_a_file_without_tensors_is_refused(state, tmp_path):
    with pytest.raises(InputError, match="does not hold .*: it cannot be read as tensors"):
        load(state, tmp_path)


def test_an_error_without_words_is_told_by_its_kind(tmp_path, monkeypatch):
    def fail(file):
        raise EOFError

    monkeypatch.setattr(weights, "read_tensors", fail)
    with pytest.raises(InputError, match=r"cannot be read as tensors \(EOFError\)"):
        load({}, tmp_path)


# What fits after all


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "encoder.", "model.", "module.backbone.", "_orig_mod."]
)
def test_a_known_prefix_is_removed_and_said(own, tmp_path, prefix, caplog):
    caplog.set_level(logging.INFO, "models.weights")
    state = {prefix + key: value for key, value in own.items()} | {"neck.weight": torch.ones(2)}
    assert is_equal(load(state, tmp_path), own)
    assert f"prefix '{prefix}' of its names removed" in caplog.text


def test_an_unknown_prefix_is_refused(own, tmp_path):
    with pytest.raises(InputError, match="tensors are not in it, the first is patch_embed"):
        load({f"student.{key}": value for key, value in own.items()}, tmp_path)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state", "state_dict_ema"])
def test_nested_weights_are_read_and_said(own, tmp_path, key, caplog):
    caplog.set_level(logging.INFO, "models.weights")
    state = {key: own, "epoch": 7, "args": argparse.Namespace(lr=1), "optimizer": {"state": {}}}
    if key == "state_dict_ema":  # as timm: the averaged weights first
        state["state_dict"] = {k: torch.zeros_like(v) for k, v in own.items()}
    assert is_equal(load(state, tmp_path), own)
    assert f"the weights under {key!r} are read" in caplog.text


def test_the_first_layer_is_added_up_for_one_channel_and_said(own, tmp_path, caplog):
    caplog.set_level(logging.INFO, "models.weights")
    loaded = load(own, tmp_path, channels=1)
    first = "patch_embed.proj.weight"
    torch.testing.assert_close(loaded.pop(first), own[first].sum(1, keepdim=True))
    assert is_equal(loaded, own)
    assert f"fitted by timm: 1, first {first} from (48, 3, 7, 7) to (48, 1, 7, 7)" in caplog.text


def test_position_tables_of_another_image_size_are_resized_by_timm_and_said(tmp_path, caplog):
    """The reference is a linear interpolation by hand."""
    caplog.set_level(logging.INFO, "models.weights")
    torch.manual_seed(6)
    larger = timm.create_model(MICRO, num_classes=0, img_size=64).state_dict()
    larger = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in larger.items()}
    loaded = load(larger, tmp_path)
    changed = [key for key in loaded if loaded[key].shape != larger[key].shape]
    assert changed and all("rel_pos" in key for key in changed)
    for key in changed:
        n, old = len(loaded[key]), larger[key]
        at = ((torch.arange(n) + 0.5) * len(old) / n - 0.5).clamp(0, len(old) - 1)
        low = at.floor().long().clamp(max=len(old) - 2)
        share = (at - low)[:, None]
        torch.testing.assert_close(loaded[key], old[low] * (1 - share) + old[low + 1] * share)
    others = {key: value for key, value in loaded.items() if key not in changed}
    assert is_equal(others, larger)
    assert f"fitted by timm: {len(changed)}, first {changed[0]} from " in caplog.text


@pytest.mark.parametrize(("name", "other", "size"), [(MAXVIT, 64, 32), ("test_vit", 160, 32)])
def test_tables_of_other_families_are_resized_too(name, other, size, tmp_path):
    state = timm.create_model(name, num_classes=0, img_size=other).state_dict()
    loaded = load(state, tmp_path, name, size)
    changed = [key for key in loaded if loaded[key].shape != state[key].shape]
    assert changed and all("rel" in key or "pos_embed" in key for key in changed)
    assert all(loaded[key].isfinite().all() for key in floats(loaded))


def test_no_second_copy_of_the_weights_is_kept(own, tmp_path):
    torch.save(own, tmp_path / "w.pth")
    model = create_backbone(MICRO, SIZE, 3, True, str(tmp_path / "w.pth"), "mel")
    assert not model.pretrained_cfg.get("state_dict")
    assert not model.default_cfg.get("state_dict")


# The hub and its cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of an empty hub cache, and refuse all network."""
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path


def put(cache: Path, repository: str, state) -> Path:
    """Put weights into a hub cache, laid out as the hub's client does; return the blob."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob, snapshot = folder / "blobs/abc", folder / "snapshots/rev1"
    for place in (blob.parent, snapshot, folder / "refs"):
        place.mkdir(parents=True)
    save_file(state, blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    (folder / "refs/main").write_text("rev1")
    return blob


@pytest.fixture
def cached(cache):
    torch.manual_seed(7)
    state = timm.create_model(ON_HUB).state_dict()
    blob = put(cache, timm.get_pretrained_cfg(ON_HUB).hf_hub_id, state)
    return blob, state


def build():
    return create_backbone(ON_HUB, 160, 3, True, None, "cqt").state_dict()


def test_weights_of_the_cache_are_loaded_without_network(cached):
    loaded = build()
    assert floats(loaded) and is_equal(loaded, cached[1])


@pytest.mark.parametrize("damage", ["torn", "empty", "another", "part"])
def test_a_damaged_cached_file_is_named_with_the_way_on(cached, damage):
    blob, state = cached
    if damage == "another":
        save_file({"a": torch.ones(3)}, blob)
    elif damage == "part":
        save_file(dict(list(state.items())[:-9]), blob)
    else:
        blob.write_bytes(blob.read_bytes()[: 5000 if damage == "torn" else 0])
    words = f"the cached file {blob} does not hold the weights of {ON_HUB}: .*"
    with pytest.raises(RunError, match=f"{words}Remove it and give the same command again"):
        build()


@pytest.mark.parametrize("offline", [True, False])
def test_pretrained_without_network_names_the_model_and_two_ways_on(cache, offline, monkeypatch):
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    reason = "HF_HUB_OFFLINE is set" if offline else "no network"
    with pytest.raises(RunError, match=f"no pretrained weights for .*{reason}") as caught:
        find_weights("maxvit_base_tf_224", True, None, "cqt")
    assert "model.cqt_weights=FILE" in str(caught.value)
    assert "model.pretrained=false" in str(caught.value)


def answer(asked):
    def head(request, timeout):
        asked.append((request.full_url, timeout))
        raise urllib.error.HTTPError("url", 404, "not found", None, None)  # it answers

    return head


def test_the_hub_is_asked_for_seconds_only_and_then_downloads(cache, monkeypatch):
    asked, names = [], []

    def download(repository, name, revision):
        names.append((repository, name, revision))
        if name == "model.safetensors":
            raise weights.EntryNotFoundError("not here")
        return "downloaded"

    monkeypatch.setattr(urllib.request, "urlopen", answer(asked))
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
    found = find_weights("mvitv2_base", True, None, "mel")
    assert found == (Path("downloaded"), "mel", True)
    assert asked == [("https://huggingface.co", 5)]
    files = ("model.safetensors", "pytorch_model.bin")
    assert names == [("timm/mvitv2_base.fb_in1k", name, None) for name in files]


def test_a_download_that_fails_is_one_message(cache, monkeypatch):
    def download(*args, **kwargs):
        raise ConnectionResetError

    monkeypatch.setattr(urllib.request, "urlopen", answer([]))
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
    with pytest.raises(RunError, match=r"no pretrained weights for mvitv2_base \(ConnectionReset"):
        find_weights("mvitv2_base", True, None, "mel")


def test_weights_that_lie_elsewhere_than_on_the_hub_are_cached_too(tmp_path, monkeypatch):
    asked = []

    def download(url, file):
        asked.append(url)
        Path(file).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "new"))
    monkeypatch.setattr(urllib.request, "urlopen", answer(asked))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        found = find_weights("gcvit_xxtiny", True, None, "mel")
        assert found.file.parent == tmp_path / "new/checkpoints"
    url = timm.get_pretrained_cfg("gcvit_xxtiny").url
    assert asked == [(url, 5), url]
