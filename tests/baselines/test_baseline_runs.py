"""Baselines on the tiny corpus: the fusion's splits, dev-only choice, one test, the same tables."""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from audio.reading import BadAudio, read_audio
from baseline import main
from baselines.fold import run_fold
from baselines.lstm import fit_lstm
from baselines.session import open_baseline
from baselines.waveform_features import COMPUTE, RATE, mfcc_statistics
from config.baselines import KINDS, READ_SPEECH, concerns, load_baseline, load_stored_run
from config.loading import load_config
from corpora.plan import make_plan
from evaluation.conclusion import conclusion
from evaluation.summary import summarize
from reports.publish import gather, markdown, publish
from storage.ledger import read_ledger
from storage.model_card import read_card
from storage.run_folder import read_run
from storage.tensors import load_tensors
from system.errors import InputError
from system.files import read_json
from tests.support.runs import run_experiment
from training.session import open_store


@pytest.fixture
def run_baseline(recipe, tmp_path):
    """Run a baseline on the tiny config; return its run folder."""

    def run(kind, *overrides, overwrite=False, functionals=None):
        words = [f"run.root={tmp_path / 'runs'}", *overrides]
        config = load_baseline(recipe, kind, functionals, words)
        with open_baseline(config, ["baseline.py"], overwrite) as baseline:
            for fold in baseline.folds():
                run_fold(baseline, fold)
        summarize(baseline.session.folder)
        return baseline.session.folder

    return run


def split_and_targets(folder):
    """Return the plan's first wanted split, and a function from utterances to class indices."""
    plan = make_plan(load_stored_run(folder / "config.yaml").as_config())
    classes = list(plan.labels.classes)
    return plan, plan.wanted()[0], lambda part: [classes.index(u.label) for u in part]


def test_majority_predicts_the_most_frequent_class_of_training(run_baseline):
    folder = run_baseline("majority", "corpus.labels=iemocap4-exc")
    (fold,) = read_run(folder).folds
    _, split, targets = split_and_targets(folder)
    counts = Counter(targets(split.train))
    prior = [counts[k] / len(split.train) for k in range(len(fold.classes))]
    for table in (fold.dev, fold.test):
        assert np.allclose(table.probs, prior, atol=1e-6)
        assert (table.preds == int(np.argmax(prior))).all()
    assert fold.metrics.test.ua == pytest.approx(1 / len(fold.classes))
    assert load_tensors(fold.folder / "model.safetensors")["prior"].tolist() == prior


def test_svm_predicts_as_plain_scikit_learn_chosen_by_a_loop_over_dev(run_baseline):
    """Features, standardisation, grid and choice, worked again from the stored images."""
    folder = run_baseline("svm_images", "run.folds=[2]")
    (fold,) = read_run(folder).folds
    plan, split, targets = split_and_targets(folder)
    store = open_store(plan.config)
    views = [np.array(store.images(name), dtype=float)[:, 0] for name in ("cqt", "mel")]

    def features(part):
        rows = [store.rows[plan.hashes[u.audio]].start for u in part]
        return np.hstack([f(view[rows], axis=2) for view in views for f in (np.mean, np.std)])

    scaler = StandardScaler().fit(features(split.train))
    x, x_dev, x_test = (
        scaler.transform(features(part)) for part in (split.train, split.dev, split.test)
    )
    best = (-1.0, None)
    for factor in (1.0, 0.25):
        for cost in (0.3, 1.0, 3.0, 10.0, 30.0):
            svc = SVC(C=cost, gamma=factor / x.shape[1], class_weight="balanced", break_ties=True)
            preds = svc.fit(x, targets(split.train)).predict(x_dev)
            ua = recall_score(targets(split.dev), preds, average="macro")
            best = max(best, (ua, svc), key=lambda pair: pair[0])  # of equals the first
    ua, svc = best
    assert fold.metrics.dev.ua == pytest.approx(ua)
    assert fold.test.preds.tolist() == svc.predict(x_test).tolist()
    card = read_json(fold.folder / "model.json")["baseline"]
    assert (card["C"], card["dev_ua"]) == (svc.C, pytest.approx(ua))
    stored = load_tensors(fold.folder / "model.safetensors")
    assert np.allclose(stored["support_vectors"], svc.support_vectors_)
    assert np.allclose(stored["mean"], features(split.train).mean(0))


def by_speaker(plan, features):
    """Return a function from utterances to features standardised by speaker, by scikit-learn."""
    own = {}
    for utterance in plan.utterances:
        own.setdefault(utterance.speaker, []).append(utterance)
    scalers = {s: StandardScaler().fit(features(part)) for s, part in own.items()}
    return lambda part: np.vstack([scalers[u.speaker].transform(features([u])) for u in part])


@pytest.mark.parametrize("kind", ["svm_images", "svm_functionals"])
def test_by_speaker_an_svm_is_plain_scikit_learn_on_standardised_features(run_baseline, kind):
    functionals = "mfcc" if kind == "svm_functionals" else None
    words = ("train.normalize=speaker", "run.folds=[2]")
    folder = run_baseline(kind, *words, functionals=functionals)
    (fold,) = read_run(folder).folds
    plan, split, targets = split_and_targets(folder)
    if kind == "svm_images":
        store = open_store(plan.config)
        views = [np.array(store.images(name), dtype=float)[:, 0] for name in ("cqt", "mel")]

        def features(part):
            rows = [store.rows[plan.hashes[u.audio]].start for u in part]
            return np.hstack([f(view[rows], axis=2) for view in views for f in (np.mean, np.std)])
    else:
        compute = COMPUTE["mfcc"]()

        def features(part):
            return np.stack([mfcc_statistics(compute(read_audio(u.audio, RATE))) for u in part])

    standardised = by_speaker(plan, features)
    scaler = StandardScaler().fit(standardised(split.train))
    x, x_dev, x_test = (
        scaler.transform(standardised(part)) for part in (split.train, split.dev, split.test)
    )
    best = (-1.0, None)
    for factor in (1.0, 0.25):
        for cost in (0.3, 1.0, 3.0, 10.0, 30.0):
            svc = SVC(C=cost, gamma=factor / x.shape[1], class_weight="balanced", break_ties=True)
            preds = svc.fit(x, targets(split.train)).predict(x_dev)
            ua = recall_score(targets(split.dev), preds, average="macro")
            best = max(best, (ua, svc), key=lambda pair: pair[0])  # of equals the first
    assert fold.metrics.dev.ua == pytest.approx(best[0])
    assert fold.test.preds.tolist() == best[1].predict(x_test).tolist()
    stored = load_tensors(fold.folder / "model.safetensors")
    assert np.allclose(stored["support_vectors"], best[1].support_vectors_, atol=1e-6)
    for utterances in (split.train, split.test):  # each speaker is whole in one part
        for speaker in {u.speaker for u in utterances}:
            own = standardised([u for u in utterances if u.speaker == speaker])
            assert np.allclose(own.mean(0), 0, atol=1e-9)


def test_by_speaker_the_lstm_reads_standardised_frames(run_baseline, monkeypatch):
    seen = {}

    def fit(sequences, splits, *rest):
        for utterance in (*splits.train, *splits.dev):
            seen.setdefault(utterance.speaker, []).append(sequences([utterance])[0])
        return fit_lstm(sequences, splits, *rest, epochs=1)

    monkeypatch.setattr("baselines.session.fit_lstm", fit)
    run_baseline("lstm", "train.normalize=speaker")
    assert len(seen) == 8
    for frames in seen.values():
        rows = np.vstack(frames)
        assert rows.dtype == np.float32 and rows.shape[1] == 40
        assert np.allclose(rows.mean(0), 0, atol=1e-4) and np.allclose(rows.std(0), 1, atol=1e-3)


def test_by_speaker_majority_is_unchanged_but_for_its_protocol(run_baseline):
    plain = read_run(run_baseline("majority", "name=plain"))
    own = read_run(run_baseline("majority", "name=own", "train.normalize=speaker"))
    assert (plain.folds[0].test.probs == own.folds[0].test.probs).all()
    protocols = [run.certificate["protocol"] for run in (plain, own)]
    assert protocols[1] == f"{protocols[0]}/speaker-normalized"
    assert "train.normalize" not in plain.config and own.config["train.normalize"] == "speaker"


def test_by_speaker_no_label_is_read_and_tested_speakers_come_last(run_baseline, monkeypatch):
    """The features of test speakers are asked for when test is predicted, after the choice."""
    from baselines.band_statistics import BandStatistics

    asked, plain = [], BandStatistics.__call__
    monkeypatch.setattr(
        BandStatistics, "__call__", lambda self, keys: asked.append(keys) or plain(self, keys)
    )
    monkeypatch.setattr("training.session.Fold.targets", rotated(fold_targets()))
    folder = run_baseline("svm_images", "train.normalize=speaker", "name=asked")
    plan, split, _ = split_and_targets(folder)
    keys = {name: [plan.hashes[u.audio] for u in part] for name, part in split.parts()}
    order = [key for some in asked for key in some]
    first = min(order.index(key) for key in keys["test"])
    assert all(order.index(key) < first for key in [*keys["train"], *keys["dev"]])
    monkeypatch.undo()
    other = run_baseline("svm_images", "train.normalize=speaker", "name=right")
    first, second = (read_run(one).folds[0] for one in (folder, other))
    assert (first.test.probs == second.test.probs).all()


@pytest.mark.parametrize("kind", ["majority", "svm_images"])
def test_labels_of_test_utterances_change_nothing_but_the_test_scores(
    run_baseline, kind, monkeypatch
):
    first = read_run(run_baseline(kind, "name=first")).folds[0]
    before = fold_targets()
    monkeypatch.setattr("training.session.Fold.targets", rotated(before))
    second = read_run(run_baseline(kind, "name=second")).folds[0]
    assert (first.test.targets != second.test.targets).all()
    assert (first.test.probs == second.test.probs).all()
    assert (first.dev.probs == second.dev.probs).all()
    assert first.metrics.dev == second.metrics.dev
    assert read_json(first.folder / "model.json") == read_json(second.folder / "model.json")


def fold_targets():
    from training.session import Fold

    return Fold.targets


def rotated(targets):
    """Return `Fold.targets` with wrong answers for the test split alone."""

    def of(fold, utterances):
        found = targets(fold, utterances)
        is_test = utterances and utterances[0] in fold.split.test
        return [(k + 1) % len(fold.classes) for k in found] if is_test else found

    return of


def test_features_of_test_utterances_are_read_after_the_choice(run_baseline, monkeypatch):
    """Until the choice only train and dev are asked for, and then dev and test once each."""
    asked = []
    from baselines.band_statistics import BandStatistics

    plain = BandStatistics.__call__
    monkeypatch.setattr(
        BandStatistics, "__call__", lambda self, keys: asked.append(keys) or plain(self, keys)
    )
    folder = run_baseline("svm_images", "name=asked")
    plan, split, _ = split_and_targets(folder)
    parts = {"train": split.train, "dev": split.dev, "test": split.test}
    keys = {name: [plan.hashes[u.audio] for u in part] for name, part in parts.items()}
    assert asked == [keys[name] for name in ("train", "dev", "dev", "test")]


def test_a_baseline_has_the_fusions_certificate_and_stands_in_its_tables(
    run_baseline, tiny, tmp_path
):
    fusions = [
        run_experiment(tiny(f"name=tiny_{fusion}", *words, "train.epochs=1", "run.folds=[1,2]"), [])
        for fusion, words in {"gmu": [], "concat": ["model.fusion=concat"]}.items()
    ]
    folders = [run_baseline(kind, "run.folds=[1,2]") for kind in ("svm_images", "majority")]
    assert [folder.name for folder in folders] == ["tiny_svm_images", "tiny_majority"]
    certificates = {read_json(f / "split_certificate.json")["id"] for f in [*fusions, *folders]}
    assert len(certificates) == 1
    runs, comparison = gather([*folders[:1], *fusions, *folders[1:]], breakdowns=True)
    assert [run.fusion for run in comparison.runs] == ["svm_images", "gmu", "concat", "majority"]
    assert [run.baseline for run in comparison.runs] == [True, False, False, True]
    pairs = [(test.a, test.b) for test in comparison.tests if test.metric == "ua"]
    assert pairs[0] == ("tiny_gmu", "tiny_concat")
    assert set(pairs[1:]) == {
        (fusion, baseline)
        for fusion in ("tiny_gmu", "tiny_concat")
        for baseline in ("tiny_svm_images", "tiny_majority")
    }
    alone = gather(fusions)[1]
    assert comparison.tests[:2] == alone.tests  # p and corrected p: baselines cost nothing
    assert comparison.config_differences == {
        "model.fusion": {"tiny_gmu": "gmu", "tiny_concat": "concat"},
        "baseline.kind": {"tiny_svm_images": "svm_images", "tiny_majority": "majority"},
    }
    text = markdown(comparison)
    assert "method: gmu / svm_images" in text
    assert "Holm-corrected for 1 comparison, and apart for 4 with baselines" in text
    said = conclusion(comparison)
    assert "config keys" not in said
    assert "majority is not shown to be above chance" not in said
    publish(tmp_path / "out", runs, comparison)
    page = (tmp_path / "out/report.html").read_text()
    assert "svm_images" in page
    publish(tmp_path / "baselines", *gather(folders))  # neither epochs nor images to show
    assert "No run here was trained in epochs" in (tmp_path / "baselines/report.html").read_text()


def test_a_finished_fold_is_skipped_and_tested_once(run_baseline, caplog):
    folder = run_baseline("svm_images", "run.folds=[1]")
    before = (folder / "folds/fold-1_seed-0/metrics.json").stat().st_mtime_ns
    caplog.set_level("INFO")
    run_baseline("svm_images", "run.folds=[1,2]")
    assert "fold-1_seed-0 is finished" in caplog.text
    assert (folder / "folds/fold-1_seed-0/metrics.json").stat().st_mtime_ns == before
    assert [(line["fold"], line["kind"]) for line in read_ledger(folder)] == [
        (1, "test"),
        (2, "test"),
    ]
    run_baseline("svm_images", "run.folds=[1]", overwrite=True)
    assert [line["fold"] for line in read_ledger(folder)] == [1, 2, 1]
    assert not (folder / "folds/fold-2_seed-0").exists()


def test_the_stored_config_has_only_keys_with_an_effect(run_baseline, recipe):
    stored = yaml.safe_load((run_baseline("majority") / "config.yaml").read_text())
    assert list(stored) == ["name", "task", "corpus", "protocol", "baseline", "run"]
    folder = run_baseline("svm_images")
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert list(stored) == [
        *("name", "task", "corpus", "protocol"),
        *("features", "model", "baseline", "run"),
    ]
    assert stored["model"] == {"image_size": 32}
    (folder / "config.yaml").write_text(yaml.safe_dump(stored | {"optim": {"lr": 1.0}}))
    with pytest.raises(InputError, match=r"optim .*no such key"):
        load_stored_run(folder / "config.yaml")


@pytest.mark.parametrize("kind", ["lstm", "svm_functionals"])
def test_all_copies_of_a_recording_without_features_are_left_out(
    run_baseline, corpus_root, tmp_path, monkeypatch, kind
):
    """Two files of one speaker have the same samples, of which nothing can be computed."""
    root = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, root)
    one, other = sorted(root.rglob("Ses01F_impro01_F00[01].wav"))
    shutil.copy(one, other)
    samples, plain = soundfile.info(one).frames, COMPUTE["mfcc"]()

    def compute(waveform):
        if len(waveform) == samples and np.array_equal(waveform, read_audio(one, RATE)):
            raise BadAudio("is too quiet")
        return plain(waveform)

    monkeypatch.setitem(COMPUTE, "mfcc", lambda: compute)
    monkeypatch.setattr("baselines.session.fit_lstm", partial(fit_lstm, epochs=1))
    functionals = "mfcc" if kind == "svm_functionals" else None
    words = [f"corpus.root={root}", f"run.store={tmp_path / 'features'}"]
    folder = run_baseline(
        kind, *words, "corpus.on_bad_audio=skip", "run.folds=[2]", functionals=functionals
    )
    reasons = {Path(path).name: why for path, why in read_json(folder / "bad_audio.json").items()}
    assert sorted(reasons) == [one.name, other.name]
    why = ["is identical to a recording that is too quiet", "is too quiet"]
    assert sorted(reasons.values()) == why
    assert read_json(folder / "split_certificate.json")["utterances"] == 38


@pytest.fixture
def child(recipe, tmp_path):
    """Write a child of the tiny config with other values; return its path."""

    def write(values):
        path = tmp_path / "child_gmu.yaml"
        path.write_text(yaml.safe_dump({"base": str(recipe), "name": "child_gmu", **values}))
        return path

    return write


def test_shards_and_compiled_graphs_of_a_fusions_config_change_no_baseline(child, tmp_path):
    run = {"shards": "nowhere", "compile_cache": "nowhere", "root": str(tmp_path / "runs")}
    run["store"] = str(tmp_path / "features")  # which then lacks the images of train
    config = child({"train": {"compile": True}, "run": run})
    for kind in ("svm_images", "majority"):
        assert main(["--config", str(config), "--kind", kind]) == 0
        stored = load_stored_run(tmp_path / f"runs/child_{kind}/config.yaml").run
        assert (stored.shards, stored.compile_cache) == (None, None)
        assert (stored.folds, stored.device) == ([1], "cpu")


BESIDE = [  # values of a config, and what a fusion needs beside them; a baseline does not
    (
        {
            "features": {"reference": "full_scale"},
            "augment": {"gain_db": 3.0},
            "train": {"images": "computed"},
        },
        ["features.reference=clip", "augment.gain_db=0"],
    ),
    ({"run": {"compile_cache": "cache"}}, ["train.compile=true"]),
    ({"train": {"images": "stored"}, "augment": {"pitch": 1.0}}, ["train.images=computed"]),
    ({"optim": {"min_lr": 1e-5}}, ["optim.schedule=cosine"]),
    ({"loss": {"alpha": 0.5}}, ["model.fusion=gmu_contrastive"]),
    ({"train": {"backbone_batch": 8}}, ["train.batch_size=16"]),
    ({"optim": {"lr": -1.0}}, ["optim.lr=1"]),
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in READ_SPEECH])
@pytest.mark.parametrize("values, needed", BESIDE)
def test_what_has_no_effect_on_a_baseline_is_not_refused(child, kind, values, needed):
    load_config(child(values), needed)
    share = [word for word in needed if concerns(word.partition("=")[0], kind)]
    functionals = "mfcc" if kind == "svm_functionals" else None
    found = load_baseline(child(values), kind, functionals, share)
    assert found == load_baseline(child({}), kind, functionals, share)
    assert found.name == f"child_{kind}"


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_baseline_has_the_values_of_the_fusions_config(path):
    fusion = load_config(path)
    found = load_baseline(path, "svm_images", None)
    for section in ("corpus", "protocol", "features", "run"):
        assert getattr(found, section) == getattr(fusion, section)
    assert found.model.image_size == fusion.model.image_size


@pytest.mark.parametrize(
    "words, message",
    [
        (["--kind", "svm_image"], "no baseline 'svm_image'.*svm_images"),
        (["--kind", "majority", "optim.lr=1"], "optim.lr has no effect on the baseline majority"),
        (["--kind", "majority", "features.top_db=60.0"], "features.top_db has no effect"),
        (["--kind", "svm_images", "model.fusion=concat"], "model.fusion has no effect"),
        (["--kind", "svm_images", "run.shards=x"], "run.shards has no effect"),
        (["--kind", "lstm", "run.compile_cache=x"], "run.compile_cache has no effect"),
        (["--kind", "majority", "corpus.root=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_message_and_status_2(recipe, tmp_path, capsys, words, message):
    status = main(["--config", str(recipe), f"run.root={tmp_path}", *words])
    assert status == 2
    assert not (tmp_path / "tiny_majority").exists()
    import re

    assert re.search(message, capsys.readouterr().err)


def test_a_run_of_another_config_is_refused(run_baseline):
    run_baseline("svm_images")
    with pytest.raises(
        InputError, match=r"made with another config:\n  model.image_size: 32 there"
    ):
        run_baseline("svm_images", "model.image_size=64")


def test_what_needs_a_network_refuses_a_baseline_with_one_message(run_baseline, tmp_path):
    from config.loading import load_stored_config
    from gates.analysis import analyze
    from inference.predictor import FoldModel

    folder = run_baseline("svm_images")
    fold = folder / "folds/fold-1_seed-0"
    for refuse in (lambda: read_card(fold), lambda: FoldModel(fold)):
        with pytest.raises(InputError, match="is of a baseline, not of a network"):
            refuse()
    for refuse in (lambda: load_stored_config(folder / "config.yaml"), lambda: analyze(folder)):
        with pytest.raises(InputError, match="is of a baseline"):
            refuse()


def test_robustness_is_measured_for_fusions_and_says_who_is_left_out(
    run_baseline, tiny, caplog, monkeypatch
):
    fusion, baseline = run_experiment(tiny("train.epochs=1"), []), run_baseline("svm_images")
    measured = []
    monkeypatch.setattr("reports.publish.measure_robustness", lambda run: measured.append(run.name))
    caplog.set_level("INFO")
    gather([fusion, baseline], robustness=True)
    assert measured == ["tiny"]
    assert "not for tiny_svm_images" in caplog.text
    with pytest.raises(InputError, match="these are baselines"):
        gather([baseline], robustness=True)


def test_an_svm_of_mfcc_statistics_and_an_lstm_run_end_to_end(run_baseline, monkeypatch):
    monkeypatch.setattr("baselines.session.fit_lstm", partial(fit_lstm, epochs=3))
    folder = run_baseline("svm_functionals", functionals="mfcc")
    assert yaml.safe_load((folder / "config.yaml").read_text())["baseline"] == {
        "kind": "svm_functionals",
        "functionals": "mfcc",
    }
    svm, lstm = read_run(folder), read_run(run_baseline("lstm"))
    assert svm.folds[0].history() == []
    assert [row["epoch"] for row in lstm.folds[0].history()] == [1, 2, 3]
    assert 1 <= lstm.folds[0].metrics.best_epoch <= 3
    _, comparison = gather([svm.folder, lstm.folder])
    assert [run.fusion for run in comparison.runs] == ["svm_functionals (mfcc)", "lstm"]


def test_the_command_line_runs_resumes_and_checks_dry(recipe, tmp_path, capsys):
    words = ["--config", str(recipe), "--kind", "majority", f"run.root={tmp_path / 'runs'}"]
    assert main([*words, "--dry-run"]) == 0
    assert "Nothing was fitted" in capsys.readouterr().out
    assert not (tmp_path / "runs/tiny_majority/config.yaml").exists()
    assert main(words) == main(words) == 0
    assert "tiny_majority has UA 25.0" in capsys.readouterr().out
    assert len(read_ledger(tmp_path / "runs/tiny_majority")) == 1


@pytest.mark.parametrize(
    "kind, words, message",
    [
        ("majority", ["run.device=cuda:99"], "run.device=cuda:99"),
        ("svm_images", ["features.cqt.fmin=7999.0"], "cqt"),
        ("majority", ["corpus.labels=iemocap4"], "made with another config"),
    ],
)
def test_a_dry_run_and_the_run_refuse_the_same_configs(
    run_baseline, recipe, tmp_path, capsys, kind, words, message
):
    run_baseline("majority")
    command = ["--config", str(recipe), "--kind", kind, f"run.root={tmp_path / 'runs'}", *words]
    said = []
    for option in ([], ["--dry-run"]):
        assert main([*command, *option]) == 2
        said.append(capsys.readouterr().err.split("error:")[-1])
        assert message in said[-1]
    assert said[0] == said[1]


def test_a_dry_run_refuses_a_run_begun_on_other_data_and_keeps_nothing(
    run_baseline, recipe, corpus_root, tmp_path, capsys
):
    root, store = tmp_path / "IEMOCAP", tmp_path / "features"
    shutil.copytree(corpus_root, root)
    own = [f"corpus.root={root}", f"run.store={store}"]
    words = [f"run.root={tmp_path / 'runs'}", *own, "--dry-run"]
    command = ["--config", str(recipe), "--kind", "majority", *words]
    assert main(command) == 0
    assert not store.exists() and not (tmp_path / "runs").exists()
    run_baseline("majority", *own)
    assert main(command) == 0
    shutil.copy(*sorted(root.rglob("Ses01F_impro01_F00[01].wav")))
    capsys.readouterr()
    with pytest.raises(InputError, match="the corpus or its splits changed"):
        run_baseline("majority", *own)
    assert main(command) == 2
    assert "the corpus or its splits changed" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
