"""A model labels as its run did: calibrated, together with its folds, from files and arrays."""

import json
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch

from audio.conversion import readable
from evaluation.calibration import apply_temperature, fit_temperature
from inference import load
from inference.calibration import (
    Calibration,
    calibrate,
    read_calibration,
    threshold,
    write_calibration,
)
from inference.emotion_model import EmotionModel
from storage.fold_folder import PredictionTable
from system.errors import InputError, RunError


@pytest.fixture(scope="module")
def model(run) -> EmotionModel:
    return load(run.folder)


def files_of(run, names) -> list[Path]:
    return [Path(run.audio_file(name)) for name in names]


def test_one_fold_gives_the_probabilities_of_predictions_csv(run):
    fold = run.folds[0]
    names = fold.test.utterances[:6].tolist()
    raw = load(fold.folder, calibrated=False).predict(files_of(run, names))
    np.testing.assert_allclose(
        [list(p.probs.values()) for p in raw], fold.test.probs[:6], atol=1e-4
    )
    np.testing.assert_allclose([p.gate for p in raw], fold.test.gate[:6], atol=1e-4)
    assert [p.emotion for p in raw] == [run.classes[i] for i in fold.test.preds[:6]]
    assert [p.name for p in raw] == [str(file) for file in files_of(run, names)]


def test_probabilities_are_calibrated_on_the_folds_own_dev(run):
    fold = run.folds[0]
    temperature = fit_temperature(fold.dev.probs, fold.dev.targets)
    names = fold.test.utterances[:6].tolist()
    found = load(fold.folder).predict(files_of(run, names))
    expected = apply_temperature(fold.test.probs[:6], temperature)
    np.testing.assert_allclose([list(p.probs.values()) for p in found], expected, atol=1e-3)
    assert abs(temperature - 1) > 0.01  # else nothing was tested


def test_a_run_gives_the_mean_of_its_folds(run, model):
    files = files_of(run, run.folds[0].test.utterances[:3].tolist())
    each = [load(fold.folder).predict(files) for fold in run.folds]
    for i, together in enumerate(model.predict(files)):
        mean = np.mean([list(one[i].probs.values()) for one in each], axis=0)
        np.testing.assert_allclose(list(together.probs.values()), mean, atol=1e-5)
        assert together.gate == pytest.approx(np.mean([one[i].gate for one in each]), abs=1e-5)
    assert len(model.members) == 2 and model.members[1].images is model.members[0].images


def test_arrays_tensors_and_lists_get_what_their_file_gets(run, model):
    [file] = files_of(run, run.folds[0].test.utterances[:1].tolist())
    samples, rate = soundfile.read(file, dtype="float32")
    expected = list(model.predict(file).probs.values())
    whole = (samples * 32768).round().astype(np.int16)
    for recording in (str(file), samples, torch.from_numpy(samples), samples.astype(float), whole):
        found = model.predict(recording, sample_rate=rate)
        np.testing.assert_allclose(list(found.probs.values()), expected, atol=2e-3)
    half = model.predict(torch.from_numpy(samples).bfloat16(), sample_rate=float(rate))
    np.testing.assert_allclose(list(half.probs.values()), expected, atol=0.1)
    pair = model.predict([samples, file], sample_rate=rate)
    assert [one.name for one in pair] == ["array 1", str(file)]
    doubled = np.repeat(samples, 2)  # at twice the rate: resampled
    found = model.predict(doubled, sample_rate=2 * rate)
    np.testing.assert_allclose(list(found.probs.values()), expected, atol=0.1)


@pytest.mark.parametrize(
    ("recording", "rate", "words"),
    [
        (np.zeros((2, 9000), np.float32), 16_000, "must be mono"),
        (np.zeros(9000, np.float32), None, "needs sample_rate="),
        (np.zeros(9000, np.float32), "16000", "needs sample_rate=.*, got '16000'"),
        (np.zeros(9000, np.float32), 10, "sample_rate must be 1000 to"),
        (np.zeros(9000, np.uint8), 16_000, "must be floating-point, int16 or int32"),
        (9, 16_000, "must be a path, an array or a tensor, got a int"),
    ],
)
def test_a_call_that_is_wrong_is_refused(model, recording, rate, words):
    with pytest.raises(InputError, match=words):
        model.predict(recording, sample_rate=rate)


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (np.zeros(9000), "holds no sound"),
        (np.full(9000, np.nan), "NaN or infinite"),
        (np.sin(np.arange(9000)) * 1e6, "full scale is 1"),
        (np.sin(np.arange(9)), "is too short"),
        (np.zeros(0), "is too short"),
        (np.zeros(3600 * 16_000 + 1, np.float32), "is longer than 60 minutes"),
    ],
)
def test_samples_that_cannot_be_used_have_a_problem_and_the_others_labels(model, samples, problem):
    good = np.random.default_rng(0).normal(0, 0.1, 9000)
    bad, other = model.predict([samples, good], sample_rate=16_000)
    assert problem in bad.problem and bad.emotion is None and not bad.probs
    assert other.problem is None and sum(other.probs.values()) == pytest.approx(1, abs=1e-6)


def test_a_frame_has_a_row_for_each_recording(model, tmp_path):
    good = np.random.default_rng(0).normal(0, 0.1, 9000)
    frame = model.predict([np.zeros(9000), good], sample_rate=16_000, as_frame=True)
    assert list(frame["name"]) == ["array 1", "array 2"]
    assert list(frame.columns[3:-3]) == list(model.classes)
    assert frame["problem"][0].startswith("holds no sound") and frame["emotion"][1] in model.classes
    assert frame.loc[1, list(model.classes)].sum() == pytest.approx(1, abs=1e-6)


def test_other_formats_are_read_through_ffmpeg(run, model, tmp_path, monkeypatch):
    [file] = files_of(run, run.folds[0].test.utterances[:1].tolist())
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    made = {"m4a": "aac", "webm": "libopus", "aac": "aac"}
    for suffix, codec in made.items():
        words = [ffmpeg, "-v", "error", "-i", str(file), "-c:a", codec, "-ar", "48000"]
        subprocess.run([*words, str(tmp_path / f"a.{suffix}")], check=True)
    files = [tmp_path / f"a.{suffix}" for suffix in made]
    monkeypatch.setenv("PATH", str(tmp_path))
    for one in model.predict(files):
        assert "there is no ffmpeg on the PATH: install it" in one.problem
    no_program = tmp_path / "ffmpeg"
    no_program.write_bytes(bytes(9))
    no_program.chmod(0o755)
    for one in model.predict(files):
        assert f"{no_program} cannot be run" in one.problem
    no_program.unlink()
    (tmp_path / "ffmpeg").symlink_to(ffmpeg)
    expected = model.predict(file)
    for one in model.predict(files):
        assert one.problem is None
        assert one.probs[expected.emotion] == pytest.approx(
            expected.probs[expected.emotion], abs=0.2
        )
    with readable(files[0]) as wav:
        assert soundfile.info(wav).samplerate == 48_000  # of the file, so that it can be told
    assert not wav.exists()
    broken = tmp_path / "broken.m4a"
    broken.write_bytes(files[0].read_bytes()[:40])
    assert "and ffmpeg cannot read it" in model.predict(broken).problem


def table(probs, targets) -> PredictionTable:
    probs, targets = np.array(probs), np.array(targets)
    names = np.arange(len(targets)).astype(str)
    return PredictionTable(names, names, targets, probs.argmax(1), probs, None)


def test_the_threshold_of_a_risk_by_hand():
    confidence = np.array([0.9, 0.8, 0.8, 0.7, 0.6])
    one = Calibration(1.0, confidence, np.array([True, True, False, True, False]))
    assert threshold([one], 0.1) == (0.9, 0.2)
    assert threshold([one], 0.25) == (0.7, 0.8)  # one of four; equal confidences go together
    assert threshold([one], 0.4) == (0.6, 1.0)
    other = Calibration(1.0, np.array([0.95]), np.array([False]))
    assert threshold([one, other], 0.1) is None
    assert threshold([one, other], 0.4) == (0.7, pytest.approx(5 / 6))


def test_a_calibration_survives_its_file(tmp_path):
    draw = np.random.default_rng(0)
    probs = draw.dirichlet(np.ones(3), 50)
    found = calibrate([table(probs, draw.integers(3, size=50))])
    write_calibration(tmp_path, found)
    again = read_calibration(tmp_path)
    assert again.temperature == found.temperature
    np.testing.assert_allclose(again.confidence, found.confidence, atol=1e-6)
    assert (again.is_right == found.is_right).all() and (np.diff(again.confidence) <= 0).all()
    (tmp_path / "calibration.json").write_text('{"temperature": -1, "confidence": []}')
    with pytest.raises(RunError, match="calibration.json"):
        read_calibration(tmp_path)


def test_labels_below_the_threshold_are_unsure(run):
    model = load(run.folder)
    files = files_of(run, run.folds[0].test.utterances.tolist())
    confidence, coverage = model.state_risk(0.2)
    found = model.predict(files)
    assert [one.unsure for one in found] == [one.confidence < confidence for one in found]
    dev = np.concatenate([one.confidence for one in model.calibrations])
    right = np.concatenate([one.is_right for one in model.calibrations])
    assert coverage == pytest.approx((dev >= confidence).mean())
    assert (~right[dev >= confidence]).mean() <= 0.2
    for risk, words in ((0.0, r"in \(0, 1\)"), (1.5, r"in \(0, 1\)")):
        with pytest.raises(InputError, match=words):
            model.state_risk(risk)


def test_a_risk_needs_dev_predictions(run, tmp_path):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run.folds[0].folder / name).read_bytes())
    with pytest.raises(InputError, match=r"neither calibration.json nor predictions.csv"):
        load(tmp_path).state_risk(0.2)


def test_the_python_api_starts_without_torch():
    code = "import inference, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.lower()) is False
