"""Gates of frozen weights are those of the model; results are whole, of this run, and on record."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audio.reading import read_audio
from config.loading import load_config
from gates import analysis as gate_analysis
from gates import frozen
from gates.analysis import analyze
from gates.description import describe_gates
from gates.drawing import has_epochs
from gates.results import FIGURES
from gates.statistics import t_interval
from gates.values import FoldGates, explained_by_class, unit_rows, utterance_rows
from inference.predictor import FoldModel
from storage.ledger import read_ledger
from storage.run_folder import read_run
from storage.tensors import load_tensors, save_tensors
from system.errors import InputError, RunError
from system.files import read_json
from tests.support.runs import run_experiment

RATE = 16_000
CLASSES = ["neutral", "happy", "angry", "sad"]


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """Two folds with two seeds, as training leaves them."""
    wishes = [f"run.root={tmp_path_factory.mktemp('gates')}", "run.folds=[1,2]", "run.seeds=[0,1]"]
    config = load_config(recipe, [*wishes, "train.epochs=1", "name=mine"])
    yield (folder := run_experiment(config, ["train_gmu.py"]))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def analyzed(trained):
    folder = copy(trained, trained.with_name("analyzed"))
    yield folder, analyze(folder, n_draws=2, progress=False)
    shutil.rmtree(folder)


@pytest.fixture
def fresh(trained, tmp_path, monkeypatch):
    """A copy of the run, of one fold with one seed, that a test may change; nothing is drawn."""
    monkeypatch.setattr(gate_analysis, "draw", lambda *_: {"falls": Figure(figsize=(1, 1))})
    folder = copy(trained, tmp_path / "mine")
    for one in ("fold-1_seed-1", "fold-2_seed-0", "fold-2_seed-1"):
        shutil.rmtree(folder / "folds" / one)
    yield folder
    shutil.rmtree(folder)


def copy(run, to):
    return shutil.copytree(run, to, ignore=shutil.ignore_patterns("state", "events*"))


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluations(folder):
    return [(one["fold"], one["seed"], one["kind"]) for one in read_ledger(folder)]


@pytest.fixture(scope="module")
def by_hand(trained):
    """The gates of fold 1 seed 0 from its recordings, one clip at a time: (N, D)."""
    run = read_run(trained)
    one = run.folds[0]
    model = FoldModel(one.folder)
    found = []
    for name in one.test.utterances.tolist():
        waveform = torch.from_numpy(read_audio(run.audio_file(name), RATE))
        with torch.inference_mode():
            found.append(model.model(*model.images_of(waveform)).gate.mean(0).numpy())
    return one, np.stack(found)


def test_clips_have_the_gates_of_the_model(analyzed, by_hand):
    folder, _ = analyzed
    one, gate = by_hand
    table = rows(folder / "gates/utterances.csv")
    assert len(table) == 4 * 8  # folds x seeds x test clips
    own = [row for row in table if (row["fold"], row["seed"]) == ("1", "0")]
    assert [row["utterance"] for row in own] == one.test.utterances.tolist()
    expected = {"mean": gate.mean(1), "std": gate.std(1), "min": gate.min(1), "max": gate.max(1)}
    for name, values in expected.items():
        there = [float(row[f"gate_{name}"]) for row in own]
        assert there == pytest.approx(values.tolist(), abs=1e-4)
    assert [float(row["gate_mean"]) for row in own] == pytest.approx(one.test.gate, abs=1e-4)
    assert [float(row["confidence"]) for row in own] == pytest.approx(
        one.test.probs.max(1), abs=1e-3
    )
    assert [CLASSES.index(row["pred"]) for row in own] == one.test.preds.tolist()
    assert {row["gender"] for row in own} == {"F", "M"} and float(own[0]["seconds"]) > 0.1


def test_the_share_is_the_size_of_the_terms(analyzed, by_hand, trained):
    folder, _ = analyzed
    one, _ = by_hand
    run = read_run(trained)
    model = FoldModel(one.folder)
    name = one.test.utterances[3]
    images = model.images_of(torch.from_numpy(read_audio(run.audio_file(name), RATE)))
    with torch.inference_mode():
        feat_cqt, feat_mel = model.model.features(*images)
        gmu = model.model.head.gmu
        h_cqt, h_mel = torch.tanh(gmu.project_cqt(feat_cqt)), torch.tanh(gmu.project_mel(feat_mel))
        gate = torch.sigmoid(gmu.gate(torch.cat([h_cqt, h_mel], 1)))
    cqt, mel = (gate * h_cqt).abs().mean(), ((1 - gate) * h_mel).abs().mean()
    there = next(r for r in rows(folder / "gates/utterances.csv") if r["utterance"] == name)
    assert float(there["cqt_share"]) == pytest.approx(float(cqt / (cqt + mel)), abs=1e-4)


def test_units_have_their_class_means_and_what_the_class_explains(analyzed, by_hand):
    folder, _ = analyzed
    one, gate = by_hand
    table = rows(folder / "gates/units.csv")
    assert len(table) == 4 * gate.shape[1]
    for unit in (0, 7, gate.shape[1] - 1):
        row, column = table[unit], gate[:, unit]
        assert (row["fold"], row["seed"], row["unit"]) == ("1", "0", str(unit))
        assert float(row["gate_mean"]) == pytest.approx(column.mean(), abs=1e-4)
        assert float(row["gate_std"]) == pytest.approx(column.std(), abs=1e-4)
        for k, name in enumerate(CLASSES):
            own = column[one.test.targets == k]
            assert float(row[f"mean_{name}"]) == pytest.approx(own.mean(), abs=1e-4)


def test_the_part_that_a_class_explains_is_that_of_the_analysis_of_variance():
    draw = np.random.default_rng(0)
    targets = np.repeat([0, 1, 3], [5, 7, 4])
    gate = draw.normal(size=(16, 3)) + targets[:, None] * [0.0, 0.3, 2.0]
    for unit, part in enumerate(explained_by_class(gate, targets)):
        f = stats.f_oneway(*(gate[targets == k, unit] for k in (0, 1, 3))).statistic
        assert part == pytest.approx(2 * f / (2 * f + 13))
    assert np.isnan(explained_by_class(np.full((16, 1), 0.3), targets)).all()


def test_groups_are_means_over_speakers_with_students_interval(analyzed):
    folder, found = analyzed
    table = rows(folder / "gates/utterances.csv")

    def mean_of(chosen):
        speakers = sorted({row["speaker"] for row in chosen})
        means = [
            np.mean([float(row["gate_mean"]) for row in chosen if row["speaker"] == name])
            for name in speakers
        ]
        folds = [next(row["fold"] for row in chosen if row["speaker"] == s) for s in speakers]
        rest = len(speakers) - len(set(folds))
        if rest == 0:
            return np.mean(means), t_interval(np.array(means))
        groups = [
            [m for m, f in zip(means, folds, strict=True) if f == fold] for fold in set(folds)
        ]
        variance = sum(np.var(g) * len(g) for g in groups) / rest  # pooled within folds
        reach = stats.t.ppf(0.975, rest) * np.sqrt(variance / len(means))
        return np.mean(means), [np.mean(means) - reach, np.mean(means) + reach]

    groups = {name: {one.group: one for one in many} for name, many in found.gates.groups.items()}
    assert list(groups["class"]) == CLASSES and list(groups["speaker"]) == [
        "Ses01_F",
        "Ses01_M",
        "Ses02_F",
        "Ses02_M",
    ]
    wanted = {
        ("class", "angry"): lambda row: row["target"] == "angry",
        ("gender", "F"): lambda row: row["gender"] == "F",
        ("speaker", "Ses02_M"): lambda row: row["speaker"] == "Ses02_M",
        ("prediction", "wrong"): lambda row: row["right"] == "0",
    }
    for (grouping, group), condition in wanted.items():
        chosen = [row for row in table if condition(row)]
        mean, interval = mean_of(chosen)
        one = groups[grouping][group]
        assert one.n == len(chosen) and one.value == pytest.approx(mean, abs=1e-5)
        assert one.interval == (None if interval is None else pytest.approx(interval, abs=1e-4))
    assert groups["speaker"]["Ses02_M"].interval is None
    assert found.gates.mean.value == pytest.approx(mean_of(table)[0], abs=1e-5)


def made_up(run, fold, seed, gate, preds):
    """Return gates of our own on the test clips of a fold."""
    table = next(one for one in run.folds if (one.fold, one.seed) == (fold, seed)).test
    ones = np.ones(len(table.targets))
    return FoldGates(
        *(fold, seed, table.utterances, table.speakers, table.targets),
        *(preds, ones, gate, ones / 2),
    )


def test_questions_find_what_was_put_in(trained):
    """Gates follow the class, of the second seed as well; speakers and folds have offsets."""
    run = read_run(trained)
    draw = np.random.default_rng(4)
    found = []
    for fold in (1, 2):
        for seed in (0, 1):
            table = run.folds[0].test
            offset = 0.1 * fold + 0.02 * (np.char.find(table.speakers, "_F") > 0)
            noise = 0.001 * draw.normal(size=(8, 5))
            gate = 0.3 + (offset + 0.03 * table.targets)[:, None] + noise
            wrong = (table.targets + 1) % 4
            preds = np.where(np.arange(8) % 2, table.targets, wrong)
            found.append(made_up(run, fold, seed, gate, preds))
    described = describe_gates(run, {"cqt": found})["cqt"]
    asked = {question.key: question for question in described.questions}
    # every speaker says each class once: nothing can be asked within a class
    assert list(asked) == ["class", "units", "gender"]
    assert asked["class"].p == pytest.approx(1 / 24**3)  # four speakers in one order
    assert asked["class"].value == pytest.approx(0.03 * np.std([0, 1, 2, 3]), rel=0.05)
    assert asked["units"].p == pytest.approx(1 / 24**2)
    assert asked["gender"].value == pytest.approx(0.02, abs=0.002)
    assert asked["gender"].p == 0.5  # two folds of two speakers
    assert asked["class"].p_holm == pytest.approx(3 / 24**3)
    deviations = [one.value for one in described.deviations]
    assert deviations == pytest.approx([-0.045, -0.015, 0.015, 0.045], abs=0.002)


def test_a_scalar_gate_and_a_class_without_clips_are_reported(trained, tmp_path):
    run = read_run(trained)
    table = run.folds[0].test
    kept = table.targets != 2
    one = made_up(run, 1, 0, np.full((8, 1), 0.25), table.preds)
    part = one._replace(
        **{
            name: getattr(one, name)[kept]
            for name in FoldGates._fields
            if name not in ("fold", "seed")
        }
    )
    (row,) = unit_rows(run, {"cqt": [part]})
    assert row[3:6] == ["0.250000", "0.000000", ""] and row[6:] == ["0.250000"] * 2 + [
        "",
        "0.250000",
    ]
    assert len(list(utterance_rows(run, {"cqt": [part]}))) == 6
    described = describe_gates(run, {"cqt": [part]})["cqt"]
    assert [group.group for group in described.groups["class"]] == ["neutral", "happy", "sad"]
    assert described.models[0].explained_by_class is None
    assert {question.p for question in described.questions} == {1.0}
    assert "units" not in [question.key for question in described.questions]  # the class is that


def test_each_evaluation_is_recorded_between_it_and_its_outcome(analyzed, fresh, monkeypatch):
    folder, _ = analyzed
    each = [(fold, seed) for fold in (1, 2) for seed in (0, 1)]
    kinds = [(*one, kind) for one in each for kind in ("gates", "branch ablation")]
    assert evaluations(folder) == [(*one, "test") for one in each] + kinds
    assert read_json(folder / "summary.json")["test_evaluations"]["fold 2 seed 1"] == {
        "gates": 1,
        "branch ablation": 1,
        "test": 1,
    }

    def fail(*_):
        raise RuntimeError("here")

    before = evaluations(fresh)
    steps = {"head_inputs": [], "check_intact": ["gates"]}
    for step, kinds in steps.items():
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="here"):
            patch.setattr(frozen.FrozenFold, step, fail)
            analyze(fresh, progress=False)
        assert evaluations(fresh) == before + [(1, 0, kind) for kind in kinds]
        assert not (fresh / "gates").exists()


def test_results_are_replaced_whole(fresh, monkeypatch):
    first = analyze(fresh, n_draws=1, progress=False)
    assert first.branch_ablation is not None and first.gates is not None
    there = {path.name for path in (fresh / "gates").iterdir()}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gate_analysis, "write_analysis", killed)
        analyze(fresh, ablate=False, progress=False)
    assert {path.name for path in (fresh / "gates").iterdir()} == there
    assert not list(fresh.glob(".gates.*"))
    (fresh / "gates").rename(fresh / ".gates.old")  # as a kill between two renames leaves it
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gate_analysis, "write_analysis", killed)
        analyze(fresh, ablate=False, progress=False)
    assert {path.name for path in (fresh / "gates").iterdir()} == there
    (fresh / ".gates.new").mkdir()
    (fresh / ".gates.new/left.csv").write_text("of a killed one")
    again = analyze(fresh, ablate=False, progress=False)
    assert again.branch_ablation is None and again.gates == first.gates
    assert read_json(fresh / "gates/gates.json")["branch_ablation"] is None
    now = {path.name for path in (fresh / "gates").iterdir()}
    assert there ^ now == {n for n in there | now if n.startswith("events")}
    assert len([n for n in now if n.startswith("events")]) == 1
    assert not list(fresh.glob(".gates.*")) and read_json(fresh / "gates/gates.json")["n"] == 8


def test_a_folder_of_another_origin_stays(fresh):
    (fresh / "gates").mkdir()
    (fresh / "gates/mine.txt").write_text("x")
    with pytest.raises(InputError, match="was not written by analyze_gates.py"):
        analyze(fresh, progress=False)
    assert (fresh / "gates/mine.txt").read_text() == "x" and len(evaluations(fresh)) == 4


def test_a_moved_corpus_is_found_and_another_one_refused(fresh, corpus_root, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(corpus_root, moved)
    config = (fresh / "config.yaml").read_text()
    (fresh / "config.yaml").write_text(config.replace(str(corpus_root), str(tmp_path / "gone")))
    with pytest.raises(InputError, match="gone"):
        analyze(fresh, ablate=False, progress=False)
    here = [f"corpus.root={moved}"]
    found = analyze(fresh, ablate=False, overrides=here, progress=False)
    before = (fresh / "gates/gates.json").read_bytes(), evaluations(fresh)
    clips = sorted(moved.rglob("*.wav"))
    clips[0].write_bytes(clips[1].read_bytes())
    with pytest.raises(InputError, match="is not the corpus that .* was made on") as caught:
        analyze(fresh, ablate=False, overrides=here, progress=False)
    assert found.certificate in str(caught.value) and "corpus.root=" in str(caught.value)
    assert ((fresh / "gates/gates.json").read_bytes(), evaluations(fresh)) == before


@pytest.mark.parametrize("override", ["model.fusion=concat", "run.root=x", "corpus.rot=x"])
def test_only_places_may_be_changed(fresh, override):
    with pytest.raises(
        InputError, match=f"{override.split('=')[0]}: only paths and devices may be overridden"
    ):
        analyze(fresh, overrides=[override], progress=False)


def test_weights_that_say_something_else_are_refused(fresh):
    weights = fresh / "folds/fold-1_seed-0/model.safetensors"
    tensors = load_tensors(weights)
    last = [name for name in tensors if name.startswith("head.classify.4")]
    assert len(last) == 2
    save_tensors(weights, {**tensors, **{name: -50 * tensors[name] for name in last}})
    probs = fresh / "folds/fold-1_seed-0/predictions.csv"
    table = rows(probs)
    for row in table:  # all of them sure
        row |= {f"prob_{name}": str(float(name == row["pred"])) for name in CLASSES}
    text = "\n".join([",".join(table[0]), *(",".join(row.values()) for row in table)])
    probs.write_text(text + "\n")
    with pytest.raises(RunError, match="of 8 test utterances get another class"):
        analyze(fresh, progress=False)
    assert not (fresh / "gates").exists()


def test_images_say_which_way_one_points(analyzed):
    folder, _ = analyzed
    for name in FIGURES:
        svg = (folder / f"gates/{name}.svg").read_text()
        assert (folder / f"gates/{name}.png").read_bytes().startswith(b"\x89PNG")
        if name == "unit_heat_maps":
            assert svg.count("0 = Mel<") == svg.count("1 = CQT<") == 4  # one line a model
        if name != "falls":
            assert "0 = Mel ... 1 = CQT" in svg
    assert {p.name for p in (folder / "gates").glob("*.svg")} == {f"{n}.svg" for n in FIGURES}


def test_tensorboard_has_the_same(analyzed):
    folder, found = analyzed
    events = EventAccumulator(str(folder / "gates"))
    events.Reload()
    tags = events.Tags()
    assert sorted(tags["images"]) == sorted(FIGURES)
    assert len(tags["histograms"]) == 4
    import tensorboard.util.tensor_util as tensor_util

    values = {
        tag: float(tensor_util.make_ndarray(events.Tensors(tag)[0].tensor_proto))
        if tag in tags["tensors"]
        else events.Scalars(tag)[0].value
        for tag in [*tags["scalars"], *tags["tensors"]]
    }
    assert values["gate, 1 = CQT, 0 = Mel/mean"] == pytest.approx(found.gates.mean.value)
    assert values["UA/CQT: train mean"] == pytest.approx(
        found.branch_ablation.interventions[0].ua.value
    )


def test_an_old_history_without_gates_is_said(fresh):
    history = fresh / "folds/fold-1_seed-0/history.csv"
    table = rows(history)
    names = [name for name in table[0] if not name.startswith("gate")]
    history.write_text(
        "\n".join([",".join(names), *(",".join(row[n] for n in names) for row in table)]) + "\n"
    )
    found = analyze(fresh, ablate=False, progress=False)
    assert found.without_epochs and not has_epochs(read_run(fresh), ["cqt"])
    text = (fresh / "gates/gates.md").read_text()
    assert "older than the gate columns" in text and "\n\nOn IEMOCAP, the mean gate is 0." in text


def test_clips_of_several_crops_are_means_over_them(tiny):
    folder = run_experiment(
        tiny("features.seconds=0.15", "train.epochs=1", "train.batch_size=3", "model.gate=scalar"),
        [],
    )
    found = analyze(folder, n_draws=1, progress=False)  # refuses other classes than predictions.csv
    table = rows(folder / "gates/utterances.csv")
    there = [float(row["gate_mean"]) for row in table]
    assert there == pytest.approx(read_run(folder).folds[0].test.gate, abs=1e-4)
    assert {row["gate_std"] for row in table} == {"0.000000"}
    assert not (folder / "gates/unit_heat_maps.png").exists()
    assert json.loads((folder / "gates/gates.json").read_text())["gates"]["models"][0]["units"] == 1
    assert found.n == 8


def test_the_entry_prints_the_tables(fresh, capsys, monkeypatch):
    import analyze_gates

    monkeypatch.setattr("sys.argv", ["analyze_gates.py", str(fresh), "--no-branch-ablation"])
    assert analyze_gates.main() == 0
    printed = capsys.readouterr().out
    assert "1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2" in printed
    assert (fresh / "gates/gates.md").read_text() in printed
    monkeypatch.setattr("sys.argv", ["analyze_gates.py", str(fresh), "--draws", "0"])
    assert analyze_gates.main() == 2
    assert "--draws must be 1 to 100, got 0" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["analyze_gates.py", str(Path(fresh) / "folds")])
    assert analyze_gates.main() == 2
