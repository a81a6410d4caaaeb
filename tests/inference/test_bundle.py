"""A bundle labels as its run does: with PyTorch, with ONNX Runtime, and by its own example."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
import yaml

import export
import predict
from config.loading import load_config
from inference import load
from inference.bundle import export_bundle, find_source
from inference.bundle_card import LICENCES, card_text
from inference.bundle_file import TOLERANCE, read_bundle
from inference.calibration import read_calibration, write_calibration
from inference.emotion_model import EmotionModel
from inference.exporting import open_graph, run_graph, write_graph
from inference.members import member_folders
from inference.network import OnnxNetwork, export_network
from inference.predictor import FoldModel
from storage.tensors import save_tensors
from system.errors import InputError, RunError
from system.files import write_json
from tests.support.models import small_model
from tests.support.paths import ROOT
from tests.support.runs import run_experiment

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
FEATURES = {
    "sample_rate": 16_000,
    "image_size": 64,
    "input_rate": 22_050,
    "seconds": 1.0,
    "channels": "delta",
    "reference": "full_scale",
    "cqt": {"hop_length": 256},
    "mel": {"n_fft": 500, "hop_length": 125, "n_mels": 32},
}


def noise(n: int, seconds: float, rate: int) -> np.ndarray:
    """Noise that swells and fades by itself, of another colour in each row: (n, T)."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, round(seconds * rate)))
    return np.stack(
        [0.1 * np.convolve(row, 0.9 ** np.arange(3 + 9 * i), "same") for i, row in enumerate(rows)]
    ).astype(np.float32)


def write_model(folder: Path, features: dict, **settings: object) -> Path:
    """Write an untrained model as a finished fold has it."""
    torch.manual_seed(0)
    model = small_model(n_channels=3 if features.get("channels") == "delta" else 1, **settings)
    folder.mkdir()
    save_tensors(folder / "model.safetensors", model.state_dict())
    card = {"model": asdict(model.settings), "features": features, "protocol": "p"}
    card["classes"] = [f"class {i}" for i in range(model.settings.n_classes)]
    write_json(folder / "model.json", card)
    return folder


@pytest.fixture(scope="package")
def bundle(run, tmp_path_factory) -> Path:
    """Both folds of the run."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    assert export.main([str(run.folder), "--to", str(folder), "--audonnx"]) == 0
    return folder


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def clips(run, n: int) -> list[Path]:
    return [Path(run.audio_file(name)) for name in run.folds[0].test.utterances[:n].tolist()]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("seconds", [1.0, 3.3, 7.0])
def test_one_graph_takes_any_batch_and_length(run, bundle, n, seconds):
    model, session = load(run.folder), open_graph(bundle / "model.onnx")
    waveforms = noise(n, seconds, model.sample_rate)
    probs, gates = run_graph(session, waveforms)
    expected, expected_gates = model.outputs(list(map(torch.from_numpy, waveforms)))
    assert probs.shape == (n, 4) and gates.shape == (n,)
    np.testing.assert_allclose(probs, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(gates, expected_gates, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_crops_slopes_resampling_and_tokens_are_in_the_graph(tmp_path):
    """`test_maxvit` at 64 pixels, whose attention has no graph of a free batch as timm runs it."""
    fusion = "cross_attention_contrastive"
    model = EmotionModel([write_model(tmp_path / "fold", FEATURES, fusion=fusion, image_size=64)])
    assert write_graph(model, tmp_path / "model.onnx", False)
    session = open_graph(tmp_path / "model.onnx")
    for n, seconds in ((1, 0.4), (2, 1.0), (5, 3.3), (3, 2.0)):
        waveforms = noise(n, seconds, 22_050)
        probs, gates = run_graph(session, waveforms)
        expected, expected_gates = model.outputs(list(map(torch.from_numpy, waveforms)))
        np.testing.assert_allclose(probs, expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(gates, expected_gates, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_a_model_without_a_graph_of_a_free_batch_takes_one_at_a_time(tmp_path, monkeypatch, caplog):
    features = {**FEATURES, "image_size": 32, "channels": "static"}
    model = EmotionModel(
        [write_model(tmp_path / "fold", features, fusion="mel_only", cqt_backbone=None)]
    )
    whole = torch.onnx.export

    def refuse(graph, inputs, *rest, **options):
        if len(inputs[0]) > 1:
            raise torch.onnx.OnnxExporterError("cannot view\nand more")
        return whole(graph, inputs, *rest, **options)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    assert not write_graph(model, tmp_path / "model.onnx", False)
    assert "one recording at a time: cannot view" in caplog.text
    session = open_graph(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == [1, "samples"]
    waveforms = noise(1, 2.7, 22_050)
    probs, gates = run_graph(session, waveforms)
    expected, _ = model.outputs([torch.from_numpy(waveforms[0])])
    np.testing.assert_allclose(probs, expected, rtol=0, atol=TOLERANCE)
    assert gates is None


def test_a_bundle_is_loaded_as_its_run_is(run, bundle):
    files = clips(run, 4)
    for found, expected in zip(
        load(bundle).predict(files), load(run.folder).predict(files), strict=True
    ):
        assert found.probs == pytest.approx(expected.probs, abs=1e-6)
        assert found.gate == pytest.approx(expected.gate, abs=1e-6)
    model = load(bundle)
    assert [one.temperature for one in model.calibrations] == [
        one.temperature for one in load(run.folder).calibrations
    ]
    assert model.state_risk(0.9)


def test_the_bundle_says_what_it_is(run, bundle):
    said = read_bundle(bundle)
    assert (said.classes, said.sample_rate) == (list(run.classes), 16_000)
    assert (said.protocol, said.certificate) == (
        run.certificate["protocol"],
        run.certificate["id"],
    )
    assert [one.name for one in said.members] == ["fold-1_seed-0", "fold-2_seed-0"]
    assert all(one.temperature for one in said.members)
    assert said.free_batch and said.has_gate and said.verified is None
    assert said.tested.folds == [1, 2] and said.tested.n == 16
    low, high = said.tested.scores["ua"].interval or (0, 1)
    assert low <= said.tested.scores["ua"].pooled <= high
    certificate = json.loads((bundle / "split_certificate.json").read_text())
    assert certificate == run.certificate


def test_the_example_needs_numpy_soundfile_and_onnxruntime_alone(run, bundle, tmp_path):
    text = (bundle / "example.py").read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported == {"json", "sys", "pathlib", "numpy", "onnxruntime", "soundfile"}
    files = clips(run, 3)
    command = [sys.executable, "-I", bundle / "example.py", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line, expected in zip(lines, load(run.folder).predict(files), strict=True):
        assert line["probs"] == pytest.approx(expected.probs, abs=TOLERANCE)
        assert line["gate"] == pytest.approx(expected.gate, abs=TOLERANCE)


def example_of(folder: Path, rate: int, trim_db: float | None) -> dict:
    """Return the names of the example, run for a bundle of other settings."""
    write_json(folder / "bundle.json", {"sample_rate": rate, "trim_db": trim_db})
    names = {"__file__": str(folder / "example.py"), "__name__": "example"}
    exec((ROOT / "inference/shipped/example.py").read_text(), names)
    return names


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_the_example_trims_as_training_does(tmp_path, rate):
    from audio.trim import trim_silence

    example = example_of(tmp_path, rate, 40.0)
    rng = np.random.default_rng(0)
    for n in (300, 5000, 30_001):
        sound = rng.standard_normal(n) * np.sin(np.linspace(0, np.pi, n)) ** 9
        padded = np.pad(sound, (rng.integers(9000), rng.integers(9000))).astype(np.float32)
        expected = trim_silence(torch.from_numpy(padded), rate, 40.0).numpy()
        assert np.array_equal(example["trim"](padded), expected)
    silent = np.zeros(1000, np.float32)
    assert example["trim"](silent) is silent


@pytest.mark.parametrize(("old", "new"), [(48_000, 44_100), (16_000, 44_100), (44_100, 16_000)])
def test_the_example_resamples_what_both_rates_hold(tmp_path, old, new):
    example = example_of(tmp_path, new, None)

    def tone(rate):
        t = np.arange(round(0.77 * rate)) / rate
        return np.sin(2 * np.pi * 1000 * t) * np.sin(np.pi * t / 0.77)

    found = example["resample"](tone(old), old)
    assert len(found) == len(tone(new))
    assert np.abs(found - tone(new)).max() < 1e-3


def test_verifying_writes_the_figure_into_bundle_and_card(run, copied, capsys):
    files = [str(file) for file in clips(run, 5)]
    sys.argv = ["predict.py", "--verify", str(copied), *files]
    assert predict.main() == 0
    assert "Over 5 real recordings" in capsys.readouterr().out
    verified = read_bundle(copied).verified
    assert verified.holds and verified.recordings == verified.same_label == 5
    assert 0 <= verified.probs <= TOLERANCE and 0 <= verified.gate <= TOLERANCE
    assert f"{verified.probs:.1e} in a probability" in (copied / "README.md").read_text()


def test_verifying_fails_where_graph_and_weights_differ(run, copied, capsys):
    weights = copied / "members/fold-1_seed-0/calibration.json"
    content = json.loads(weights.read_text())
    write_json(weights, {**content, "temperature": 3 * content["temperature"]})
    sys.argv = ["predict.py", "--verify", str(copied), str(clips(run, 1)[0])]
    assert predict.main() == 1
    assert "differ by" in capsys.readouterr().err
    assert not read_bundle(copied).verified.holds
    assert "NOT within" in (copied / "README.md").read_text()


def test_verifying_fails_where_the_network_of_a_member_differs(run, copied, capsys):
    """It is what predict.py runs, in the place of the weights beside it."""
    first, second = (copied / "members" / f"fold-{k}_seed-0/network.onnx" for k in (1, 2))
    shutil.copy(first, second)
    sys.argv = ["predict.py", "--verify", str(copied), str(clips(run, 1)[0])]
    assert predict.main() == 1
    assert "differ by" in capsys.readouterr().err
    assert not read_bundle(copied).verified.holds


def test_files_that_are_no_audio_are_left_out_of_the_figure(run, copied, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    sys.argv = ["predict.py", "--verify", str(copied), str(bad), str(clips(run, 1)[0])]
    assert predict.main() == 0
    assert read_bundle(copied).verified.recordings == 1
    sys.argv[3:] = [str(bad)]
    assert predict.main() == 1
    assert "none of 1 files is usable" in capsys.readouterr().err


def test_the_card_is_a_model_card(run, bundle):
    text = (bundle / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "audio-classification"
    (result,) = metadata["model-index"][0]["results"]
    scores = read_bundle(bundle).tested.scores
    assert {one["type"]: one["value"] for one in result["metrics"]} == {
        name: round(score.pooled, 4) for name, score in scores.items()
    }
    for title in ("Intended use", "Limits", "Training data and licence", "What it was tested on"):
        assert f"## {title}\n" in body
    assert "release form of USC SAIL" in body and run.certificate["id"] in body
    assert f"| UA | {100 * scores['ua'].pooled:.1f} " in body
    assert "The mean of all was not tested" in body


def test_the_card_of_a_speaker_dependent_or_synthetic_corpus_says_so(bundle):
    said = read_bundle(bundle)
    assert "synthetic speech" not in card_text(said)
    tested = said.tested.model_copy(update={"synthetic": True, "speaker_dependent": True})
    text = card_text(said.model_copy(update={"tested": tested}))
    assert "synthetic speech" in text and "other speakers fare worse" in text
    assert "Not known" in card_text(said.model_copy(update={"tested": None}))


def test_the_licences_are_those_of_the_readme():
    rows = re.findall(
        r"\{name: (\w+), .*\| [^|]*; ([^;|]+) \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) > 8
    for corpus, licence in rows:
        if corpus in LICENCES:
            assert LICENCES[corpus][1] == licence
        else:
            assert licence == "see the corpus"


def test_audonnx_gets_a_graph_of_one_free_dimension(run, bundle):
    [(kind, arguments)] = yaml.safe_load((bundle / "audonnx/model.yaml").read_text()).items()
    assert kind.startswith("$audonnx.core.model.Model==")
    assert arguments["labels"] == {"probs": list(run.classes), "gate": ["gate"]}
    session = open_graph(bundle / "audonnx" / arguments["path"])
    assert session.get_inputs()[0].shape == [1, "samples"]
    assert [one.shape for one in session.get_outputs()] == [[1, 4], [1]]
    waveform = noise(1, 1.0, 16_000)
    found = run_graph(session, waveform)[0]
    expected = run_graph(open_graph(bundle / "model.onnx"), waveform)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)  # processors round the two differently


def test_one_fold_is_described_by_its_own_scores(run, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.exporting.write_graph", lambda *given: True)
    folder, to = run.folds[1].folder, tmp_path / "one"
    said = export_bundle(find_source(folder, to), to)
    assert [one.name for one in said.members] == [folder.name]
    assert said.tested.folds == [run.folds[1].fold]
    assert said.tested.scores["ua"].pooled == pytest.approx(run.folds[1].metrics.test.ua)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]  # nothing hidden stays


def test_a_fold_named_from_inside_is_described_by_its_own_scores(run, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.exporting.write_graph", lambda *given: True)
    monkeypatch.chdir(run.folds[1].folder)
    to = tmp_path / "one"
    assert export_bundle(find_source(Path(), to), to).tested.folds == [run.folds[1].fold]


def test_a_fold_that_was_copied_alone_belongs_to_no_run(run, tmp_path):
    (tmp_path / "config.yaml").write_text("of: something else")
    copy = shutil.copytree(run.folds[0].folder, tmp_path / "fold")
    assert find_source(copy, tmp_path / "to").run is None


def test_a_network_whose_graph_fails_is_run_by_pytorch(run, tmp_path, monkeypatch, caplog):
    """As graphs do that name a free batch and take the one size that was traced."""
    whole = onnxruntime.InferenceSession.run

    def refuse(session, names, given):
        if len(given["cqt"]) == 1:
            raise Exception("Got invalid dimensions")  # as ONNX Runtime's, of no common base
        return whole(session, names, given)

    monkeypatch.setattr("inference.exporting.write_graph", lambda *given: True)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", refuse)
    to = tmp_path / "to"
    export_bundle(find_source(run.folds[0].folder, to), to)
    assert "no network.onnx for fold-1_seed-0, PyTorch runs it: ONNX" in caplog.text
    assert not list(to.glob("members/*/network.onnx*"))


def test_a_graph_that_onnx_runtime_cannot_run_gets_a_batch_of_1(run, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr("inference.exporting.export_graph", lambda *given: tried.append(given[-1]))

    class Session:
        def run(self, names, given):
            raise Exception("Got invalid dimensions")

    monkeypatch.setattr("inference.exporting.open_graph", lambda file: Session())
    with pytest.raises(RunError, match="cannot be exported: ONNX Runtime cannot run it: Got"):
        write_graph(load(run.folds[0].folder), tmp_path / "model.onnx", False)
    assert tried == [True, False]


def test_a_final_model_says_that_the_scores_are_those_of_the_folds(run, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.exporting.write_graph", lambda *given: True)
    whole = tmp_path / "run"
    shutil.copytree(run.folder, whole)
    final, to = whole / "final" / "seed-0", tmp_path / "to"
    final.mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run.folds[0].folder / name, final)
    write_calibration(final, read_calibration(run.folds[0].folder))
    write_json(final / "final.json", {})
    said = export_bundle(find_source(final, to), to)
    assert said.is_final and said.tested.folds == [1, 2] and said.name == "run"
    assert (to / "members/seed-0/final.json").is_file() and said.members[0].temperature
    assert "was not tested itself" in (to / "README.md").read_text()


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*given):
        raise RunError("the disk is full")

    monkeypatch.setattr("inference.exporting.write_graph", fail)
    with pytest.raises(RunError, match="full"):
        export_bundle(find_source(run.folds[0].folder, tmp_path / "to"), tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(run, bundle, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert export.main([str(word) for word in words]) == 2
        return capsys.readouterr().err

    to = tmp_path / "to"
    assert "is there already" in refused(run.folder, "--to", bundle)
    assert "is a bundle already" in refused(bundle, "--to", to)
    assert "is not there: make" in refused(run.folder, "--to", tmp_path / "a" / "b")
    assert "is not a model: name a run" in refused(tmp_path, "--to", to)
    (tmp_path / "begun").mkdir()
    shutil.copy(run.folder / "config.yaml", tmp_path / "begun")
    assert "without a finished fold" in refused(tmp_path / "begun", "--to", to)
    baseline = tmp_path / "baseline"
    baseline.mkdir()
    write_json(baseline / "model.json", {"baseline": {"kind": "majority"}, "classes": []})
    assert "of a baseline" in refused(baseline, "--to", to)
    assert not to.exists()


def test_a_transductive_run_is_refused(recipe, tmp_path):
    overrides = [f"run.root={tmp_path}", f"run.store={tmp_path}/store", "train.normalize=speaker"]
    folder = run_experiment(load_config(recipe, [*overrides, "train.epochs=1"]), [])
    with pytest.raises(InputError, match="normalize=speaker"):
        export_bundle(find_source(folder, tmp_path / "to"), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_missing_package_is_named_with_its_extra(run, tmp_path, monkeypatch):
    monkeypatch.setattr("system.extras.is_installed", lambda package: package != "onnxscript")
    with pytest.raises(InputError, match="requirements-onnx.txt"):
        find_source(run.folder, tmp_path / "to")


def test_a_corrupt_bundle_is_one_message(run, copied, capsys):
    def verify() -> str:
        sys.argv = ["predict.py", "--verify", str(copied), str(clips(run, 1)[0])]
        status = predict.main()
        return f"{status} {capsys.readouterr().err}"

    whole = json.loads((copied / "bundle.json").read_text())
    (copied / "model.onnx").write_bytes(b"no graph")
    assert re.match(r"1 (.|\n)*model.onnx is missing or corrupt", verify())
    write_json(copied / "bundle.json", {**whole, "sample_rate": "fast"})
    assert re.match(r"1 (.|\n)*sample_rate", verify())
    write_json(copied / "bundle.json", {**whole, "format": 99})
    assert re.match(r"2 (.|\n)*format 99", verify())
    (copied / "bundle.json").write_text("{")
    assert re.match(r"1 (.|\n)*corrupt", verify())
    (copied / "bundle.json").unlink()
    assert re.match(r"2 (.|\n)*not a bundle", verify())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_rate": 8000}, "has another sample_rate than the models"),
        ({"trim_db": 30.0}, "has another trim_db than the models"),
        ({"fusion": "none"}, "fusion none is unknown"),
        ({"classes": ["one"]}, "classes and tested.per_class_recall differ"),
        ({"members": []}, "does not hold the models of bundle.json"),
    ],
)
def test_a_changed_bundle_json_is_not_verified(run, copied, capsys, change, said):
    whole = json.loads((copied / "bundle.json").read_text())
    write_json(copied / "bundle.json", {**whole, **change})
    sys.argv = ["predict.py", "--verify", str(copied), str(clips(run, 1)[0])]
    if change.get("members") == []:
        with pytest.raises(RunError, match=said):
            load(copied)
        return
    assert predict.main() == 1
    assert said in capsys.readouterr().err


def test_a_bundle_that_lost_a_model_is_not_loaded(copied):
    shutil.rmtree(copied / "members/fold-2_seed-0")
    with pytest.raises(
        RunError, match=r"does not hold the models of bundle.json \(fold-2_seed-0\)"
    ):
        load(copied)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (lambda probs, gate: [probs, gate * np.nan], "it gives NaN"),
        (lambda probs, gate: [probs], "it has other outputs"),
        (lambda probs, gate: [probs[:, :1], gate], "it has other outputs"),
        (lambda probs, gate: 1 / 0, "ONNX Runtime cannot run it"),
    ],
)
def test_a_graph_of_something_else_is_not_verified(run, copied, monkeypatch, capsys, outputs, said):
    class Session:
        def __init__(self, session):
            self.session = session

        def run(self, names, given):
            return outputs(*self.session.run(names, given))

    monkeypatch.setattr("inference.verify.open_graph", lambda file: Session(open_graph(file)))
    sys.argv = ["predict.py", "--verify", str(copied), str(clips(run, 1)[0])]
    assert predict.main() == 1
    assert said in capsys.readouterr().err
    assert read_bundle(copied).verified is None


@pytest.mark.parametrize("option", [["--risk", "0.2"], ["--format", "csv"], ["--device", "auto"]])
def test_an_option_without_effect_on_verifying_is_refused(run, bundle, option, capsys):
    sys.argv = ["predict.py", "--verify", str(bundle), str(clips(run, 1)[0]), *option]
    assert predict.main() == 2
    assert "no effect with --verify" in capsys.readouterr().err


def test_the_graph_is_not_verified_with_what_is_on_standard_input(bundle, capsys):
    sys.argv = ["predict.py", "--verify", str(bundle), "-"]
    assert predict.main() == 2
    assert "standard input" in capsys.readouterr().err


def test_a_clip_of_another_rate_is_near_what_the_run_says(run, bundle, tmp_path):
    """The example resamples through the spectrum, the run with soxr: equal but for the edge."""
    [clip] = clips(run, 1)
    samples, _ = soundfile.read(clip)
    file = tmp_path / "higher.wav"
    soundfile.write(
        file, np.interp(np.arange(0, len(samples), 0.5), np.arange(len(samples)), samples), 32_000
    )
    done = subprocess.run(
        [sys.executable, bundle / "example.py", file], capture_output=True, check=True
    )
    found = json.loads(done.stdout)["probs"]
    assert found == pytest.approx(load(bundle).predict(file).probs, abs=0.05)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_onnx_runtime_runs_the_networks_of_a_bundle(bundle, run, n):
    waveforms = [torch.from_numpy(row) for row in noise(n, 0.6, run.config["features.sample_rate"])]
    fast, plain = load(bundle), EmotionModel(member_folders(bundle), onnx=False)
    assert all(isinstance(member.network, OnnxNetwork) for member in fast.members)
    assert all(member.network is member.model for member in plain.members)
    for found, expected in zip(fast.outputs(waveforms), plain.outputs(waveforms), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_its_graph_pytorch_runs_a_network_and_a_corrupt_one_is_told(copied):
    [first, second] = sorted((copied / "members").iterdir())
    (first / "network.onnx").unlink()
    models = load(copied).members
    assert models[0].network is models[0].model and models[1].network is not models[1].model
    (second / "network.onnx").write_bytes(b"none")
    with pytest.raises(RunError, match="network.onnx"):
        load(copied)


@pytest.mark.parametrize("fusion", ["cqt_only", "mel_only", "concat", "cross_attention"])
def test_networks_of_every_kind_have_a_graph(tmp_path, fusion):
    unread = {"cqt_only": {"mel_backbone": None}, "mel_only": {"cqt_backbone": None}}
    settings = {"fusion": fusion, "image_size": 64, **unread.get(fusion, {})}
    folder = write_model(tmp_path / "fold", {**FEATURES, "channels": "static"}, **settings)
    model = FoldModel(folder)
    export_network(model.model, folder / "network.onnx", external=False)
    fast = FoldModel(folder, onnx=True)
    images = [torch.rand(3, 1, 64, 64) * 80 - 80 for _ in range(2)]
    with torch.inference_mode():
        expected = model.network(*images).logits
    np.testing.assert_allclose(fast.network(*images).logits, expected, atol=1e-4)
