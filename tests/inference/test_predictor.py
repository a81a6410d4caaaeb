"""A fold's folder labels recordings as the run itself did."""

import json
import shutil
import sys
from dataclasses import asdict

import numpy as np
import pytest
import soundfile
import torch

import predict
from audio.description import describe
from features import SpectrogramImages
from inference import load
from inference import predictor as inference
from inference.output import Lines
from inference.predictor import FoldModel
from inference.unlike import UNKNOWN
from model_gmu import MaxMViTGMU
from models.settings import ModelSettings
from storage.tensors import load_tensors, save_tensors
from storage.training_range import training_range
from system.errors import InputError
from system.files import write_json
from tests.support.models import small_model

FEATURES = {
    "sample_rate": 16000,
    "image_size": 32,
    "cqt": {"hop_length": 256},
    "mel": {"n_fft": 512, "hop_length": 128, "n_mels": 32},
}


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fold")
    torch.manual_seed(0)
    model = small_model("gmu", n_classes=3)
    save_tensors(folder / "model.safetensors", model.state_dict())
    card = {"model": asdict(model.settings), "classes": ["a", "b", "c"], "features": FEATURES}
    card["protocol"] = "p"
    write_json(folder / "model.json", card)
    return folder


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 9000)
    soundfile.write(path, noise, 16000, subtype="FLOAT")
    return path


def test_a_label_is_what_the_model_says_of_the_stored_image(fold, clip):
    label = load(fold).predict(clip)
    card = json.loads((fold / "model.json").read_text())
    model = MaxMViTGMU(ModelSettings(**card["model"]))
    model.load_state_dict(load_tensors(fold / "model.safetensors"))
    waveform = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None]
    pair = SpectrogramImages(**FEATURES)(waveform, torch.tensor([waveform.shape[1]]))
    with torch.no_grad():
        output = model.eval()(*(image.half().float() for image in pair))
    assert list(label.probs.values()) == pytest.approx(output.logits[0].softmax(0).tolist())
    assert label.gate == pytest.approx(float(output.gate.mean()))
    assert label.emotion == "abc"[int(output.logits.argmax())]


def test_a_bad_file_gets_its_reason_and_the_others_their_labels(fold, clip, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    found = load(fold).predict([bad, clip])
    lines = [*Lines("table", "abc").header(), *map(Lines("table", "abc").line, found)]
    assert lines[0].split("\t")[:5] == ["path", "emotion", "a", "b", "c"]
    assert "not labelled: cannot be read" in lines[1]
    assert lines[2].startswith(f"{clip}\t")


def test_a_run_folder_is_refused_with_its_folds(fold):
    with pytest.raises(InputError, match=fold.name):
        load(fold.parent)


def test_a_label_is_the_mean_over_the_clips_crops(fold, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "CROPS_AT_ONCE", 2)
    card = json.loads((fold / "model.json").read_text())
    card["features"] = {**FEATURES, "seconds": 0.25}
    folder = tmp_path / "crops"
    folder.mkdir()
    write_json(folder / "model.json", card)
    save_tensors(folder / "model.safetensors", load_tensors(fold / "model.safetensors"))
    whole = load(folder)
    samples = soundfile.read(clip, dtype="float32")[0]  # 9000 samples: three crops of 4000
    each = []
    for i, start in enumerate((0, 2500, 5000)):
        piece = tmp_path / f"{i}.wav"
        soundfile.write(piece, samples[start : start + 4000], 16000, subtype="FLOAT")
        each.append(whole.predict(piece))
    mean = np.mean([list(label.probs.values()) for label in each], axis=0)
    assert list(whole.predict(clip).probs.values()) == pytest.approx(mean.tolist(), abs=1e-5)
    assert whole.predict(clip).gate == pytest.approx(
        np.mean([label.gate for label in each]), abs=1e-5
    )


@pytest.mark.parametrize("seconds", [None, 0.25])
def test_clips_together_get_what_each_gets_alone(fold, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(inference, "CROPS_AT_ONCE", 4)
    card = json.loads((fold / "model.json").read_text())
    write_json(tmp_path / "model.json", {**card, "features": {**FEATURES, "seconds": seconds}})
    save_tensors(tmp_path / "model.safetensors", load_tensors(fold / "model.safetensors"))
    model, draw = FoldModel(tmp_path), np.random.default_rng(0)
    clips, alone = [], []
    for i, size in enumerate((9000, 3000, 20_000, 500)):
        samples = draw.normal(0, 0.1, size).astype(np.float32).cumsum() % 0.2 * (i + 1)
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        clips.append(torch.from_numpy(samples))
        alone.append(list(load(tmp_path).predict(path).probs.values()))
    found = model.probs(clips)
    assert found.shape == (4, 3) and found.device.type == "cpu"
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert np.ptp(np.array(alone), axis=0).max() > 1e-3  # they are not all alike


@pytest.mark.parametrize(("split", "stamped"), [("speaker-5-fold", 0), ("SPEAKER-DEPENDENT", 1)])
def test_the_entry_stamps_what_is_speaker_dependent(
    fold, clip, tmp_path, monkeypatch, capsys, split, stamped
):
    folder = tmp_path / "fold"
    shutil.copytree(fold, folder)
    card = json.loads((folder / "model.json").read_text())
    write_json(folder / "model.json", card | {"protocol": f"x/{split}/dev-fold/all"})
    monkeypatch.setattr(sys, "argv", ["predict.py", str(folder), str(clip)])
    assert predict.main() == 0
    said = capsys.readouterr()
    assert str(clip) in said.out
    assert said.err.count("SPEAKER-DEPENDENT: the same speakers") == stamped


def test_the_entry_labels_what_it_can_and_names_the_rest(fold, clip, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "broken.wav"
    broken.symlink_to(tmp_path / "nowhere")
    names = [str(clip), str(broken), "x" * 300, str(tmp_path / "nosuch.wav")]
    monkeypatch.setattr(sys, "argv", ["predict.py", str(fold), *names])
    assert predict.main() == 1
    said = capsys.readouterr()
    rows = {line.split("\t")[0]: line for line in said.out.splitlines()}
    assert "not labelled" not in rows[str(clip)]
    for name, reason in zip(
        names[1:], ("the link leads nowhere", "too long", "No such file"), strict=True
    ):
        assert "not labelled" in rows[name] and reason in rows[name]
    assert "3 of 4 files are not usable audio" in said.err
    monkeypatch.setattr(sys, "argv", ["predict.py", str(fold), *names[2:]])
    assert predict.main() == 2
    assert f"there is no file {names[2]}, {names[3]}" in capsys.readouterr().err


def noise(path, seconds, rate=16_000, level=0.1, top=None):
    """Write white noise; above `top` Hz it has nothing."""
    samples = np.random.default_rng(len(path.name)).normal(0, level, round(seconds * rate))
    if top is not None:
        spectrum = np.fft.rfft(samples)
        spectrum[round(top * seconds) :] = 0
        samples = np.fft.irfft(spectrum, len(samples))
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


@pytest.fixture
def trained(fold, tmp_path):
    """The fold, trained on noise of 3 to 5.3 s at 16 kHz and -20 dBFS."""

    def make(**features):
        draw = np.random.default_rng(0)
        lengths = [48_000, 64_000, 84_800]
        clips = [draw.normal(0, 0.1, n).astype(np.float32) for n in lengths]
        facts = training_range([describe(clip, 16_000) for clip in clips])
        folder = tmp_path / "trained"
        shutil.copytree(fold, folder)
        card = json.loads((folder / "model.json").read_text())
        card |= {"training_data": facts.model_dump(), "features": {**FEATURES, **features}}
        write_json(folder / "model.json", card)
        return folder

    return make


def said_by_predict(monkeypatch, capsys, folder, *files):
    monkeypatch.setattr(sys, "argv", ["predict.py", str(folder), *map(str, files)])
    assert predict.main() == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1 + len(files)
    return said.err.splitlines()


def test_what_lies_outside_of_the_training_data_is_told_by_kind(
    trained, tmp_path, monkeypatch, capsys
):
    folder = trained()
    like = noise(tmp_path / "like.wav", 4)
    long = noise(tmp_path / "long.wav", 60)
    assert said_by_predict(monkeypatch, capsys, folder, like) == []
    one = f"trained on 3.0 to 5.3 s; {long} has 60.0 s: cut into parts of that length"
    assert said_by_predict(monkeypatch, capsys, folder, like, long) == [one]
    telephone = noise(tmp_path / "8k.wav", 4, rate=8000)
    upsampled = noise(tmp_path / "up.wav", 4, top=4000)
    short = [noise(tmp_path / f"{i}.wav", 1 + i / 10) for i in range(4)]
    lines = said_by_predict(monkeypatch, capsys, folder, like, long, telephone, upsampled, *short)
    assert lines[0] == one and len(lines) == 4
    assert f"{short[0]} has 1.0 s, {short[1]} has 1.1 s, {short[2]} has 1.2 s, ...)" in lines[1]
    assert "outside: 4 of 8 files" in lines[1]
    assert lines[2].startswith("trained on recordings at 16000 Hz with sound up to ")
    assert f"; {telephone} has 8000 Hz: " in lines[2]
    assert f"; {upsampled} has 4000 Hz: " in lines[3]
    assert list(load(folder).predict(telephone).unlike.items()) == [("rate", "8000 Hz")]


@pytest.mark.parametrize("reference", ["clip", "full_scale"])
def test_level_is_told_only_where_the_images_keep_it(
    trained, tmp_path, monkeypatch, capsys, reference
):
    folder = trained(reference=reference)
    files = [noise(tmp_path / f"{level}.wav", 4, level=level) for level in (0.08, 0.01, 1.0)]
    lines = said_by_predict(monkeypatch, capsys, folder, *files)
    if reference == "clip":
        assert lines == []
        return
    assert [line.partition(";")[0] for line in lines] == ["trained on -20.0 to -20.0 dBFS"] * 2
    assert f"{files[2]} has 0.0 dBFS" in lines[0] and f"{files[1]} has -40.0 dBFS" in lines[1]


def test_sound_above_what_the_model_reads_is_not_asked_for(trained, tmp_path, monkeypatch, capsys):
    folder = trained(input_rate=8000, sample_rate=16_000)
    assert said_by_predict(monkeypatch, capsys, folder, noise(tmp_path / "a.wav", 4, 8000)) == []


def test_a_fold_without_the_range_says_so_once(fold, tmp_path, monkeypatch, capsys):
    files = [noise(tmp_path / f"{i}.wav", 60 * i + 1) for i in range(2)]
    assert said_by_predict(monkeypatch, capsys, fold, *files) == [UNKNOWN]
