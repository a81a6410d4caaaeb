"""A fold's folder from someone else is believed only as far as it can be true."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import save_file

import predict
from audio.description import RecordingFacts
from inference.predictor import FoldModel
from storage.model_card import read_card, recordings_digest, write_model_card
from storage.tensors import load_state, save_tensors
from storage.training_range import training_range
from system.errors import RunError
from system.files import write_json
from tests.conftest import RECIPE, SAMPLE_RATE, Payload, tone, write_card
from tests.support.models import small_model

FEATURES = {
    "sample_rate": 16000,
    "image_size": 32,
    "cqt": {"hop_length": 256},
    "mel": {"n_fft": 512, "hop_length": 128, "n_mels": 32},
}
CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return small_model("gmu", n_classes=3, mlp_hidden_dim=512).state_dict()


@pytest.fixture
def shared(tmp_path: Path, weights) -> Path:
    folder = tmp_path / "fold"
    folder.mkdir()
    write_card(folder, CLASSES, FEATURES)
    save_tensors(folder / "model.safetensors", weights)
    return folder


def change(folder: Path, dotted: str, value: object) -> None:
    """Set one key of model.json, as JSON that Python alone would refuse to write."""
    card = json.loads((folder / "model.json").read_text())
    *sections, key = dotted.split(".")
    inner = card
    for section in sections:
        inner = inner[section]
    inner[key] = value
    (folder / "model.json").write_text(json.dumps(card))


def test_the_shared_folder_is_fine_as_it_is(shared):
    assert FoldModel(shared).classes == CLASSES


HOSTILE_CARDS = [
    ("model.mlp_hidden_dim", 10**12, "model.mlp_hidden_dim: .*65536"),
    ("model.mlp_hidden_dim", 1e12, "model.mlp_hidden_dim: .*valid integer"),
    ("model.mlp_hidden_dim", 65_536, "not of one model: head.classify"),
    ("model.mlp_hidden_dim", 16, "not of one model: head.classify"),
    ("model.fusion_hidden_dim", 60_000, "not of one model"),
    ("model.fusion_hidden_dim", -1, "model.fusion_hidden_dim: .*greater"),
    ("model.fusion", "gmu_contrastive", "not of one model"),
    ("model.fusion", ["gmu"], "model.fusion"),
    ("model.image_size", 10**6, "model.image_size: .*1024"),
    ("model.image_size", 64, "differ in image_size"),
    ("model.image_size", "32", "model.image_size: .*valid integer"),
    ("model.n_classes", 10**9, "model.n_classes"),
    ("model.n_classes", 4, "3 classes, and a model of 4"),
    ("model.n_channels", 3, "differ in channels"),
    ("model.dropout", float("nan"), "model.dropout"),
    ("model.dropout", 5.0, "model.dropout"),
    ("model.surprise", 1, "model.surprise: Extra"),
    ("model.pretrained", True, "model.pretrained"),
    ("model.cqt_weights", "/etc/passwd", "model.cqt_weights"),
    ("model.cqt_backbone", "no_such_model", "not a timm model"),
    ("model.cqt_backbone", "hf-hub:someone/something", "not a timm model"),
    ("model.cqt_backbone", "test_vit", "not of one model: cqt_branch"),
    ("model.cqt_backbone", None, "model.cqt_backbone"),
    ("model.fusion", "add", "model.fusion"),
    ("model.fusion", "cross_attention", "not of one model"),
    ("model.fusion", "mean", "not of one model"),
    ("model.fusion", "cqt_only", "model.mel_backbone has no effect with cqt_only"),
    ("model.gate", "matrix", "model.gate: "),
    ("model.gate", "scalar", "not of one model: head.gmu.gate"),
    ("model.attention_heads", 4, "model.attention_heads has no effect with gmu"),
    ("model.attention_heads", 10**9, "model.attention_heads: .*64"),
    ("model.attention_heads", 0, "model.attention_heads"),
    ("model.match_parameters", True, "model.match_parameters has no effect with gmu"),
    ("model.match_parameters", 1, "model.match_parameters: .*valid boolean"),
    ("model.projection_dim", 65_536, "model.projection_dim has no effect with gmu"),
    ("model", [], "model: "),
    ("features", 5, "features: "),
    ("features.sample_rate", 10**9, "features.sample_rate"),
    ("features.cqt.filter_scale", 1e20, "wavelet of the lowest bin"),
    ("features.cqt.hop_length", 10**12, "hop_length=1000000000000"),
    ("features.mel.n_fft", 2**40, "features.mel.n_fft"),
    ("features.mel.window", ["kaiser"], "features.mel.window"),
    ("features.input_rate", 191_999, "ratio"),
    ("features.top_db", float("inf"), "features.top_db"),
    ("features.image_size", 10**9, "features.image_size"),
    ("classes", "abc", "classes: "),
    ("classes", ["a", "a", "b"], "named twice"),
    ("classes", ["a", "b", 3], "classes.2"),
    ("classes", ["a"] * 5000, "classes: "),
    ("classes", ["a" * 10**6, "b", "c"], "larger than 1 MB"),
    ("protocol", {"a": 1}, "protocol: "),
    ("training_data", {"seconds": 5}, "training_data.seconds: "),
    ("training_data", {"rates": [{"rate": 0, "recordings": 1}]}, "training_data.rates.0.rate: "),
    ("training_data", {"level": {"min": float("nan")}}, "training_data.level.min: .*finite"),
    ("surprise", "a" * 5000, "surprise: Extra"),
]


@pytest.mark.promise("bounds")
@pytest.mark.parametrize(("key", "value", "words"), HOSTILE_CARDS)
def test_a_hostile_card_is_refused_before_memory_is_taken(
    shared, key, value, words, count, request
):
    change(shared, key, value)
    request.getfixturevalue("monkeypatch").setattr("inference.predictor.load_tensors", no_weights)
    with pytest.raises(RunError, match=words) as refused:
        FoldModel(shared)
    assert len(str(refused.value)) < 2000
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fusion": "cross_attention", "attention_heads": 5}, "model.attention_heads=5 must"),
        ({"fusion": "cross_attention", "fusion_hidden_dim": 65_536}, "not of one model"),
        ({"fusion": "concat", "match_parameters": True, "mlp_hidden_dim": 65_536}, "not of one"),
        ({"fusion": "sum", "match_parameters": True, "fusion_hidden_dim": 65_536}, "not of one"),
        ({"fusion": "mel_only"}, "model.cqt_backbone has no effect"),
        ({"fusion": "mel_only", "cqt_backbone": None, "mel_backbone": None}, "model.mel_backbone"),
        ({"fusion": "cqt_only", "mel_backbone": None, "match_parameters": True}, "has no effect"),
    ],
)
def test_hostile_cards_of_the_other_fusions_are_refused_too(
    shared, values, words, count, monkeypatch
):
    for key, value in values.items():
        change(shared, f"model.{key}", value)
    monkeypatch.setattr("inference.predictor.load_tensors", no_weights)
    with pytest.raises(RunError, match=words):
        FoldModel(shared)
    count("hostile inputs tried")


def no_weights(path: Path) -> None:
    raise AssertionError(f"{path} was read although its model is refused")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"model":' * 100_000, "", "\0", "{}", "[]", "null", '{"model": {}}', "NaN"]
    + ['{"model": 1, "model": 2}', "\ufeff{}", "9" * 5000],
)
def test_a_card_that_is_not_a_card_is_refused(shared, text, count):
    (shared / "model.json").write_text(text)
    with pytest.raises(RunError, match="corrupt"):
        FoldModel(shared)
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("size", [10**6 + 1, 10**10])
def test_a_large_card_is_not_read(shared, size, count):
    with (shared / "model.json").open("r+b") as file:
        file.truncate(size)  # sparse
    with pytest.raises(RunError, match="larger than 1 MB"):
        FoldModel(shared)
    count("hostile inputs tried")


def header(size: int, text: bytes, data: bytes = b"") -> bytes:
    return size.to_bytes(8, "little") + text + data


HUGE = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
BAD_WEIGHTS = {
    "empty": b"",
    "short": b"\x01",
    "oversized": header(2**63, b"{}"),
    "beyond": header(10**9, b"{}"),
    "huge": header(len(HUGE), HUGE),
    "no_json": header(4, b"abcd"),
    "deep": header(100_000, b"[" * 100_000),
    "list": header(2, b"[]"),
    "nothing": header(2, b"{}"),
    "negative": header(66, b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}'.ljust(66)),
    "overlap": header(
        118,
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(118),
        b"\0" * 4,
    ),
}


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_corrupt_weights_are_refused(shared, name, count):
    (shared / "model.safetensors").write_bytes(BAD_WEIGHTS[name])
    with pytest.raises(RunError, match="corrupt"):
        FoldModel(shared)
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
def test_weights_of_another_shape_are_not_read(shared, weights, monkeypatch, count):
    save_tensors(
        shared / "model.safetensors", {**weights, "head.gmu.gate.bias": torch.zeros(400, 400)}
    )
    monkeypatch.setattr("inference.predictor.load_tensors", no_weights)
    with pytest.raises(
        RunError, match=r"head.gmu.gate.bias: the model has \(.*\), .* \(400, 400\)"
    ):
        FoldModel(shared)
    save_tensors(shared / "model.safetensors", {**weights, "more": torch.zeros(1)})
    with pytest.raises(RunError, match=r"more: the model has none, the weights have \(1,\)"):
        FoldModel(shared)
    count("hostile inputs tried", 2)


@pytest.mark.promise("bounds")
def test_weights_that_are_not_numbers_are_refused(shared, weights, count):
    bad = weights["head.gmu.gate.bias"].clone()
    bad[0] = float("nan")
    save_tensors(shared / "model.safetensors", {**weights, "head.gmu.gate.bias": bad})
    with pytest.raises(RunError, match="NaN or infinite: head.gmu.gate.bias"):
        FoldModel(shared)
    count("hostile inputs tried")


@pytest.mark.promise("foreign")
def test_a_pickle_in_the_place_of_weights_is_not_executed(shared, marker, count):
    (shared / "model.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(RunError, match="corrupt"):
        FoldModel(shared)
    (shared / "model.json").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(RunError, match="corrupt"):
        FoldModel(shared)
    count("malicious files and values tried", 2)


@pytest.mark.promise("escaping")
def test_labels_from_a_hostile_card_do_not_steer_the_terminal(
    shared, tmp_path, monkeypatch, capsys, count
):
    change(shared, "classes", ["\x1b[2J", "a\tb", "c\nd"])
    clip = tmp_path / "a\tb\x1b[2J.wav"
    sound = tmp_path / "clip.wav"
    soundfile.write(sound, tone(400, 0.3, 0), SAMPLE_RATE)
    sound.rename(clip)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(shared), str(clip)])
    assert predict.main() == 0
    said = capsys.readouterr().out
    assert said.replace("\t", "").replace("\n", "").isprintable()
    head, row = said.splitlines()
    assert head.split("\t")[2:5] == ["\\x1b[2J", "a\\tb", "c\\nd"]
    assert len(row.split("\t")) == len(head.split("\t"))
    count("hostile names shown", 4)


@pytest.mark.promise("bounds")
def test_a_deep_state_is_refused(tmp_path, count):
    path = tmp_path / "last.safetensors"
    save_file({}, path, metadata={"state": "[" * 100_000})
    with pytest.raises(RunError, match="corrupt"):
        load_state(path)
    write_json(path, {})
    with pytest.raises(RunError, match="corrupt"):
        load_state(path)
    count("hostile inputs tried", 2)


def test_the_model_card_names_the_tested_recordings(tmp_path: Path) -> None:
    folds = [{"fold": k, "test": {"recordings": f"digest {k}"}} for k in (1, 2)]
    certificate = {"id": "x", "protocol": "p", "folds": folds}
    assert recordings_digest(certificate, 2) == "digest 2"
    model = {key: RECIPE["model"][key] for key in ("fusion", "cqt_backbone", "mel_backbone")}
    model |= {"n_classes": 3, "n_channels": 1, "image_size": 32}
    write_model_card(
        tmp_path,
        model=model,
        features={**RECIPE["features"], "image_size": 32},
        classes=CLASSES,
        corpus="iemocap",
        certificate=certificate,
        fold=2,
        seed=1,
        training_data=training_range([RecordingFacts(2.0, 16_000, -20.0, 4000.0)]),
        started_from={"mel": {"run": "mel_only", "fold": 2, "seed": 0, "weights": 64 * "a"}},
    )
    card = read_card(tmp_path)
    assert card.started_from["mel"].run == "mel_only" and len(card.started_from) == 1
    assert (card.classes, card.corpus, card.fold, card.seed) == (CLASSES, "iemocap", 2, 1)
    assert (card.protocol, card.certificate, card.test_clips) == ("p", "x", "digest 2")
    assert card.training_data is not None and card.training_data.seconds.max == 2.0
