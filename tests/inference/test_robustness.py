"""Conditions change recordings as stated; each set of weights is measured once, apart."""

import json
import shutil
import zlib
from dataclasses import asdict, replace
from hashlib import sha256

import numpy as np
import pytest
import torch

from audio.reading import read_audio
from config.loading import load_config
from evaluation.metrics import scores
from evaluation.results import ConditionScores, Robustness
from inference import robustness
from inference.conditions import through_mu_law
from inference.predictor import FoldModel
from inference.robustness import (
    CONDITIONS,
    change,
    measure_robustness,
    robustness_markdown,
)
from storage.ledger import read_ledger
from storage.run_folder import FoldResult, Run, read_run
from storage.tensors import load_tensors, save_tensors
from system.errors import InputError, RunError
from system.files import write_json
from tests.conftest import made_metrics
from tests.support.runs import run_experiment

RATE = 16_000
NAMES = [condition.name for condition in CONDITIONS]
CONDITION = {condition.name: condition for condition in CONDITIONS}
TELEPHONE = "telephone (4 kHz, mu-law)"
CERTIFICATE = {"id": "x", "protocol": "p", "speaker_dependent": False}


def sine(frequency, amplitude=0.4, seconds=1.0, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def level(waveform):
    """Return the level in dB of full scale, edges left out."""
    inner = np.asarray(waveform, dtype=float)[len(waveform) // 10 : -len(waveform) // 10]
    return 20 * np.log10(np.sqrt(np.mean(inner**2)) + 1e-12)


@pytest.mark.parametrize("snr", [30, 20, 10, 0])
def test_noise_has_its_ratio_and_is_white(snr):
    clip = sine(440, amplitude=0.03) * np.linspace(0, 2, RATE, dtype=np.float32)
    noise = change(clip, RATE, CONDITION[f"noise {snr} dB"], 7) - clip
    measured = 10 * np.log10(np.mean(clip**2) / np.mean(noise**2))
    assert measured == pytest.approx(snr, abs=0.2)
    power = np.abs(np.fft.rfft(noise)) ** 2
    thirds = power[1:7999].reshape(3, -1).mean(1)
    assert thirds == pytest.approx([power.mean()] * 3, rel=0.1)


def test_noise_is_the_clips_own():
    clip, noisy = sine(440), CONDITION["noise 10 dB"]
    first = change(clip, RATE, noisy, 1)
    assert (change(clip, RATE, noisy, 1) == first).all()
    assert (change(clip, RATE, noisy, 2) != first).any()


def test_gain_moves_the_level_and_clips_at_full_scale():
    for name, db in (("gain -20 dB", -20), ("gain -6 dB", -6), ("gain +6 dB", 6)):
        assert level(change(sine(440), RATE, CONDITION[name], 0)) == pytest.approx(
            level(sine(440)) + db, abs=0.01
        )
    loud = change(sine(440, amplitude=0.9), RATE, CONDITION["gain +6 dB"], 0)
    assert (loud.min(), loud.max()) == (-1, 1)
    assert (np.abs(loud) == 1).mean() > 0.5


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(
    ("name", "kept", "removed"),
    [("low-pass 2 kHz", (300, 1700), (2200, 5000)), (TELEPHONE, (300, 3400), (4300, 7000))],
)
def test_a_low_pass_keeps_what_is_below_and_removes_what_is_above(name, kept, removed, rate):
    for frequency in kept:
        clip = sine(frequency, rate=rate)
        passed = change(clip, rate, CONDITION[name], 0)
        assert passed.shape == clip.shape and passed.dtype == np.float32
        assert level(passed - clip) < level(clip) - 28  # in place; 8 bits leave some noise
    for frequency in removed:
        clip = sine(frequency, rate=rate)
        assert level(change(clip, rate, CONDITION[name], 0)) < level(clip) - 60


def test_mu_law_is_the_telephones():
    draw = np.random.default_rng(0)
    speech = (draw.laplace(0, 0.05, 20_000)).astype(np.float32)
    coded = through_mu_law(speech)
    levels = np.unique(np.abs(coded))
    assert len(levels) <= 128 and levels[0] == 0  # 8 bits; silence stays silent
    assert np.sign(coded[np.abs(speech) > 0.001]) == pytest.approx(
        np.sign(speech[np.abs(speech) > 0.001])
    )
    for loudness in (1.0, 0.1):  # about 38 dB at any level is what companding is for
        noise = through_mu_law(speech * loudness) - speech * loudness
        snr = 10 * np.log10(np.mean((speech * loudness) ** 2) / np.mean(noise**2))
        assert 32 < snr < 42
    assert through_mu_law(np.float32([0, 1, -2])).tolist() == [0, 1, -1]  # full scale is the end
    # mu-law by its definition, at full precision of the code
    steps = np.sign(speech) * np.log(1 + 255 * np.abs(np.clip(speech, -1, 1))) / np.log(256)
    found = np.sign(coded) * np.log(1 + 255 * np.abs(coded.astype(float))) / np.log(256)
    assert np.abs(found - steps).max() <= 0.5 / 127 + 1e-6


def test_the_telephone_leaves_the_noise_of_eight_bits():
    clip = sine(1000)
    plain = change(clip, RATE, CONDITION[TELEPHONE]._replace(mu_law=False), 0)
    coded = change(clip, RATE, CONDITION[TELEPHONE], 0)
    assert level(plain - clip) < level(clip) - 60
    assert level(clip) - 45 < level(coded - clip) < level(clip) - 30


def test_speed_changes_length_and_pitch():
    for name, factor in (("speed 0.9", 0.9), ("speed 1.1", 1.1)):
        played = change(sine(1000), RATE, CONDITION[name], 0)
        assert len(played) == pytest.approx(RATE / factor, abs=1)
        peak = np.abs(np.fft.rfft(played)).argmax() * RATE / len(played)
        assert peak == pytest.approx(1000 * factor, abs=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 50])
def test_very_short_and_silent_clips_survive(name, length):
    for clip in (np.zeros(length, np.float32), np.full(length, 0.5, np.float32)):
        changed = change(clip, RATE, CONDITION[name], 0)
        assert len(changed) >= 1 and np.isfinite(changed).all() and changed.dtype == np.float32


def test_clean_is_the_clip_itself():
    assert (change(sine(440), RATE, CONDITION["clean"], 0) == sine(440)).all()


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """Two trained folds, as they were before any measurement."""
    wishes = [f"run.root={tmp_path_factory.mktemp('trained')}", "run.folds=[1,2]", "name=mine"]
    yield (folder := run_experiment(load_config(recipe, [*wishes, "train.epochs=1"]), []))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def measured(trained):
    """The same run, measured; its folder and what was found."""
    folder = trained.with_name("measured")
    copy(trained, folder)
    yield folder, measure_robustness(read_run(folder), progress=False)
    shutil.rmtree(folder)


@pytest.fixture
def fresh(trained, tmp_path):
    """A copy of the run that a test may change."""
    yield copy(trained, tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine")


def copy(run, to):
    return shutil.copytree(run, to, ignore=shutil.ignore_patterns("state", "events*"))


def looked(folder):
    """Return the (fold, why) of each evaluation on changed recordings."""
    return [(one["fold"], one["why"]) for one in read_ledger(folder) if one["kind"] != "test"]


def test_clean_is_what_predictions_csv_says(measured):
    folder, found = measured
    run = read_run(folder)
    table = run.of_seed(0)
    expected = scores(table.targets.tolist(), table.preds.tolist(), 4)
    clean = found.conditions[0]
    assert (clean.condition, clean.kind, clean.ua_change) == ("clean", "clean", 0)
    assert (clean.ua, clean.wa) == pytest.approx((expected["ua"], expected["wa"]))
    counted = sum(np.array(fold.confusions["clean"]).sum(0) for fold in found.folds.values())
    assert counted.tolist() == expected["confusion"]


def test_what_is_found_is_kept_as_json(measured):
    folder, found = measured
    assert json.loads((folder / "robustness.json").read_text()) == asdict(found)
    assert [row.condition for row in found.conditions] == NAMES
    assert list(found.folds) == ["fold 1 seed 0", "fold 2 seed 0"]
    for row in found.conditions:
        assert row.ua_change == pytest.approx(row.ua - found.conditions[0].ua)
        low, high = row.interval or [row.ua, row.ua]
        assert low <= row.ua <= high
    assert found.protocol == "iemocap4-exc/leave-one-session-out/dev-session/all"
    assert found.certificate == read_run(folder).certificate["id"]
    entry = found.folds["fold 1 seed 0"]
    weights = folder / "folds" / "fold-1_seed-0" / "model.safetensors"
    assert entry.weights == sha256(weights.read_bytes()).hexdigest()
    assert entry.speakers == ["Ses01_F", "Ses01_M"]
    assert all(np.sum(counts) == 8 for counts in entry.confusions.values())


def test_a_condition_is_the_model_on_the_changed_clips(measured):
    folder, found = measured
    run = read_run(folder)
    one = run.folds[1]
    model = FoldModel(one.folder)
    for name in ("noise 0 dB", "speed 0.9"):
        counts = np.zeros((4, 4), int)
        for utterance, target in zip(one.test.utterances.tolist(), one.test.targets, strict=True):
            clip = read_audio(run.audio_file(utterance), RATE)
            seed = zlib.crc32(utterance.encode())
            changed = torch.from_numpy(change(clip, RATE, CONDITION[name], seed))
            counts[target, int(model.probs([changed])[0].argmax())] += 1
        there = np.array(found.folds["fold 2 seed 0"].confusions[name])
        assert there.sum(0).tolist() == counts.tolist()


def test_each_clip_has_a_noise_of_its_own_under_all_conditions(fresh, monkeypatch):
    seeds = []

    def record(clip, rate, condition, seed):
        seeds.append((condition.name, seed))
        return clip

    monkeypatch.setattr(robustness, "change", record)
    run = read_run(fresh)
    measure_robustness(replace(run, folds=run.folds[:1]), progress=False)
    expected = [zlib.crc32(name.encode()) for name in run.folds[0].test.utterances.tolist()]
    assert len(set(expected)) == 8
    assert seeds == [(name, seed) for name in NAMES for seed in expected]


def test_each_evaluation_is_a_line_of_the_ledger(measured):
    folder, _ = measured
    assert looked(folder) == [(k, f"robustness: {name}") for k in (1, 2) for name in NAMES]
    lines = [one for one in read_ledger(folder) if one["kind"] == "robustness"]
    assert {one["n"] for one in lines} == {8} and {one["run"] for one in lines} == {folder.name}


def test_the_line_comes_between_the_evaluation_and_its_outcome(fresh, monkeypatch):
    def fail(*_):
        raise RuntimeError("here")

    with monkeypatch.context() as patch:
        patch.setattr(robustness, "_predict", fail)
        with pytest.raises(RuntimeError, match="here"):
            measure_robustness(read_run(fresh), progress=False)
    assert looked(fresh) == []  # nothing was evaluated
    monkeypatch.setattr(robustness, "check_same_predictions", fail)
    with pytest.raises(RuntimeError, match="here"):
        measure_robustness(read_run(fresh), progress=False)
    assert looked(fresh) == [(1, "robustness: clean")]


def test_an_interruption_repeats_no_finished_fold(fresh, measured, monkeypatch):
    predict = robustness._predict

    def killed(model, one, files, condition, bar, norm):
        if one.fold == 2 and condition.name == "noise 20 dB":
            raise KeyboardInterrupt
        return predict(model, one, files, condition, bar, norm)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(robustness, "_predict", killed)
        measure_robustness(read_run(fresh), progress=False)
    there = json.loads((fresh / "robustness.json").read_text())
    assert (list(there["folds"]), there["conditions"]) == (["fold 1 seed 0"], [])
    before = len(looked(fresh))
    found = measure_robustness(read_run(fresh), progress=False)
    assert looked(fresh)[before:] == [(2, f"robustness: {name}") for name in NAMES]
    assert found == measured[1]
    assert json.loads((fresh / "robustness.json").read_text()) == asdict(found)


def test_what_is_measured_needs_no_corpus_and_no_look(measured, monkeypatch):
    folder, found = measured
    run = read_run(folder)
    run = replace(run, config={**run.config, "corpus.root": "gone"})
    before = (folder / "robustness.json").stat().st_mtime_ns, looked(folder)
    assert measure_robustness(run, progress=False) == found
    assert ((folder / "robustness.json").stat().st_mtime_ns, looked(folder)) == before


def test_other_weights_and_other_conditions_are_measured_anew(measured, tmp_path, monkeypatch):
    folder, found = measured
    own = copy(folder, tmp_path / "mine")
    weights = own / "folds" / "fold-2_seed-0" / "model.safetensors"
    save_tensors(weights, {**load_tensors(weights), "more": torch.zeros(1)})
    monkeypatch.setattr(robustness, "_predict", lambda model, one, *_: one.test.preds)
    monkeypatch.setattr(robustness, "FoldModel", lambda *_: None)
    before = len(looked(own))
    again = measure_robustness(read_run(own), progress=False)
    assert looked(own)[before:] == [(2, f"robustness: {name}") for name in NAMES]
    first, second = again.folds["fold 1 seed 0"], again.folds["fold 2 seed 0"]
    assert first == found.folds["fold 1 seed 0"]
    assert second.weights == sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(robustness, "CONDITIONS", CONDITIONS[:2])
    again = measure_robustness(read_run(own), progress=False)
    assert [row.condition for row in again.conditions] == NAMES[:2]
    assert len(looked(own)) == before + len(NAMES) + 4
    shutil.rmtree(own)


@pytest.mark.parametrize("n_missing", [1, 5])
def test_a_missing_corpus_is_named_before_any_evaluation(fresh, tmp_path, corpus_root, n_missing):
    run = read_run(fresh)
    own = tmp_path / "corpus"
    shutil.copytree(corpus_root, own)
    run = replace(run, config={**run.config, "corpus.root": str(own)})
    files = [run.audio_file(utterance) for utterance in run.of_seed(0).utterances.tolist()]
    files[0].write_text("no audio")
    for path in files[1:n_missing]:
        path.unlink()
    with pytest.raises(InputError, match=f"^{n_missing} of 16 audio files of test") as caught:
        measure_robustness(run, progress=False)
    assert str(own) in str(caught.value) and "corpus.root=" in str(caught.value)
    assert str(files[0]) in str(caught.value)
    assert looked(fresh) == [] and not (fresh / "robustness.json").exists()


def test_a_changed_corpus_is_reported(fresh, tmp_path, corpus_root, monkeypatch):
    run = read_run(fresh)
    table = run.folds[0].test
    table.probs[:] = 0.0
    table.probs[np.arange(8), table.preds] = 1.0  # all of them sure
    wrong = (table.preds + [1, 0, 0, 0, 0, 0, 0, 1]) % 4
    monkeypatch.setattr(robustness, "_predict", lambda *_: wrong)
    with pytest.raises(RunError, match="2 of 8 clean test utterances .*or the code") as error:
        measure_robustness(run, progress=False)
    one = run.folds[0]
    there, now = one.classes[table.preds[0]], one.classes[wrong[0]]
    assert f"{table.utterances[0]}: {there} there, {now} now" in str(error.value)
    assert not (fresh / "robustness.json").exists()


@pytest.mark.parametrize(
    ("precision", "gap", "refused"),
    [
        ("float32", 0.005, False),
        ("float32", 0.02, True),
        ("bfloat16", 0.02, False),
        ("bfloat16", 0.2, True),
    ],
)
def test_a_near_tie_may_turn(fresh, monkeypatch, precision, gap, refused):
    run = read_run(fresh)
    run = replace(run, config={**run.config, "train.precision": precision}, folds=run.folds[:1])
    table = run.folds[0].test
    table.probs[0] = 0.1
    table.probs[0, table.preds[0]] = 0.4 + gap / 2
    turned = table.preds.copy()
    turned[0] = (turned[0] + 1) % 4
    table.probs[0, turned[0]] = 0.4 - gap / 2
    monkeypatch.setattr(robustness, "_predict", lambda *_: turned)
    if refused:
        with pytest.raises(RunError, match="1 of 8 clean"):
            measure_robustness(run, progress=False)
    else:
        found = measure_robustness(run, progress=False)
        assert found.conditions[0].wa == (turned == table.targets).mean()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"classes": [], "folds": []}',
        '{"classes": [], "folds": {"fold 1 seed 0": {"weights": "x"}}}',
        '{"classes": [], "folds": {"f": {"weights": "x", "speakers": [1], "confusions": {}}}}',
    ],
)
def test_a_corrupt_file_is_reported(fresh, text):
    (fresh / "robustness.json").write_text(text)
    with pytest.raises(RunError, match=r"robustness\.json is corrupt: remove it"):
        measure_robustness(read_run(fresh), progress=False)


def test_a_clip_that_is_not_described_is_reported(fresh):
    path = fresh / "utterances.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "Ses01F_impro01_F000" not in line) + "\n")
    with pytest.raises(RunError, match=r"utterances\.csv is .*'Ses01F_impro01_F000'"):
        measure_robustness(read_run(fresh), progress=False)
    assert looked(fresh) == []


def stored(folder, counts):
    """Write counts {(fold, seed): {speaker: {condition: (K, K)}}} as measured; return the run."""
    entries, folds = {}, []
    for (fold, seed), speakers in counts.items():
        place = folder / f"fold-{fold}_seed-{seed}"
        place.mkdir(exist_ok=True)
        save_tensors(place / "model.safetensors", {"w": torch.tensor([fold, seed])})
        folds.append(FoldResult(place, made_metrics(fold, seed, ("calm", "glad"), 0, 0)))
        entries[f"fold {fold} seed {seed}"] = {
            "weights": sha256((place / "model.safetensors").read_bytes()).hexdigest(),
            "speakers": list(speakers),
            "confusions": {
                name: [each.get(name, each["clean"]) for each in speakers.values()]
                for name in NAMES
            },
        }
    write_json(folder / "robustness.json", {"classes": ["calm", "glad"], "folds": entries})
    return Run(folder, {"features.input_rate": RATE}, CERTIFICATE, folds)


def test_scores_by_hand_pool_folds_and_average_seeds(tmp_path):
    ann, bea = [[3, 1], [0, 2]], [[2, 0], [1, 1]]
    noisy = {"noise 0 dB": [[1, 3], [0, 2]]}
    run = stored(
        tmp_path,
        {
            (1, 0): {"ann": {"clean": ann} | noisy},
            (1, 1): {"ann": {"clean": [[4, 0], [0, 2]]}},
            (2, 0): {"bea": {"clean": bea}},
            (2, 1): {"bea": {"clean": [[2, 0], [0, 2]]}},
        },
    )
    rows = {row.condition: row for row in measure_robustness(run).conditions}
    # Seed 0: recalls 5/6 and 3/4, 8 of 10 right; seed 1: all right.
    assert rows["clean"].ua == pytest.approx(((5 / 6 + 3 / 4) / 2 + 1) / 2)
    assert rows["clean"].wa == pytest.approx(0.9)
    # Seed 0 in noise: recalls 3/6 and 3/4.
    assert rows["noise 0 dB"].ua == pytest.approx(((3 / 6 + 3 / 4) / 2 + 1) / 2)
    assert rows["noise 0 dB"].ua_change == pytest.approx(-1 / 12)
    assert rows["gain -6 dB"].ua_change == 0
    assert rows["clean"].interval is None  # two speakers


def test_a_speaker_of_two_folds_is_one_speaker(tmp_path):
    run = stored(
        tmp_path,
        {
            (k, 0): {"ann": {"clean": [[k, 0], [0, k]]}, "bea": {"clean": [[0, k], [k, 0]]}}
            for k in (1, 2)
        },
    )
    found = measure_robustness(run).conditions[0]
    assert (found.ua, found.wa) == (0.5, 0.5)
    assert found.interval is None  # two speakers
    alone = stored(tmp_path, {(k, 0): {"ann": {"clean": [[1, 1], [0, 2]]}} for k in (1, 2)})
    assert measure_robustness(alone).conditions[0].interval is None


def test_a_fold_that_waits_for_another_seed_is_not_forgotten(tmp_path):
    run = stored(tmp_path, {(k, 0): {"ann": {"clean": [[k, 1], [0, 2]]}} for k in (1, 2)})
    first = measure_robustness(replace(run, folds=run.folds[:1]))
    assert first.conditions[0].wa == 3 / 4 and len(first.folds) == 2
    assert measure_robustness(run).conditions[0].wa == pytest.approx(7 / 9)


def test_the_table_shows_runs_side_by_side():
    about = {"protocol": "p", "speaker_dependent": False, "certificate": "x", "classes": ["calm"]}

    def found(*rows):
        keys = ("condition", "kind", "ua", "interval", "ua_change")
        conditions = [ConditionScores(wa=0.5, **dict(zip(keys, row, strict=True))) for row in rows]
        return Robustness(conditions=conditions, folds={}, **about)

    a = found(("clean", "clean", 0.7, [0.6, 0.8], 0.0), ("gain", "gain", 0.65, None, -0.05))
    b = found(("clean", "clean", 0.5, [0.4, 0.6], 0.0), ("speed", "speed", 0.5, None, -1e-17))
    lines = robustness_markdown({"one": a, "two": b}).splitlines()
    assert lines[2:] == [
        "| condition | one | change | two | change |",
        "|---|---:|---:|---:|---:|",
        "| clean | 70.0 [60.0, 80.0] |  | 50.0 [40.0, 60.0] |  |",
        "| gain | 65.0 | -5.0 | – | – |",
        "| speed | – | – | 50.0 | +0.0 |",
    ]


def test_the_bar_is_on_stderr_and_can_be_left_out(fresh, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "CONDITIONS", CONDITIONS[:1])
    monkeypatch.setattr(robustness, "_predict", lambda model, one, *_: one.test.preds)
    monkeypatch.setattr(robustness, "FoldModel", lambda *_: None)
    measure_robustness(read_run(fresh), progress=False)
    assert capsys.readouterr() == ("", "")
    (fresh / "robustness.json").unlink()
    measure_robustness(read_run(fresh))
    out, err = capsys.readouterr()
    assert out == "" and "robustness" in err
