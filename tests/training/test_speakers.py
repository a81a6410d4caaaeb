"""`train.normalize: speaker`: whose images make whose statistics, and who reads them."""

import shutil
import signal
import zlib
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import predict
from audio.reading import read_audio
from baseline import main as baseline_main
from config.loading import load_config
from corpora.plan import make_plan, make_tuning_plan, plan_warnings
from corpora.stamps import TRANSDUCTIVE
from evaluation.comparison import compare
from evaluation.tables import comparison_latex, comparison_markdown
from experiments.lr_range import run_range_test
from experiments.tuning import load_tuning, tune
from gates.analysis import analyze
from inference.predictor import FoldModel
from inference.robustness import CONDITIONS, change, measure_robustness
from reports.publish import gather, markdown, publish
from scripts.write_shards import main as write_shards
from storage.fold_folder import STATE
from storage.ledger import read_ledger
from storage.run_folder import read_run
from storage.tensors import load_tensors
from system.errors import InputError, RunError
from system.files import read_json, write_json
from system.signals import Stop
from tests.conftest import SAMPLE_RATE, tone
from tests.support.processes import train_on
from tests.support.runs import run_experiment
from tests.training.test_resume import FOLD, RESULTS, Run
from tests.training.test_stream import batches, fold_of
from training.build import eval_loader, make_dataset
from training.dry_run import dry_run
from training.session import open_session
from training.speakers import speaker_statistics

SPEAKER = "train.normalize=speaker"
PROTOCOL = "iemocap4-exc/leave-one-session-out/dev-session/all"
FLOOR = 0.1  # dB, as documented
CPU = torch.device("cpu")


def stored_rows(session, speaker):
    """Return the stored columns of the rows of a speaker's images, by numpy: 2 x (C, H, n)."""
    plan, store = session.plan, session.store
    own = [plan.hashes[u.audio] for u in plan.utterances if u.speaker == speaker]
    views = [np.array(store.images(name)).astype(float) for name in ("cqt", "mel")]
    rows = [i for key in own for i in store.rows[key]]
    return [view[rows].transpose(1, 2, 0, 3).reshape(*view.shape[1:3], -1) for view in views]


def images_by_speaker(utterances, loaded):
    """Return the images that the network reads, by speaker: {speaker: [cqt, mel]}, (n, C, H, W)."""
    read = [batch.to(CPU) for batch in loaded]
    assert all(batch.norm is None and batch.cqt.dtype == torch.float32 for batch in read)
    speakers = [utterances[i].speaker for batch in read for i in batch.utterance.tolist()]
    views = [torch.cat([getattr(batch, name) for batch in read]).numpy() for name in ("cqt", "mel")]
    return {
        speaker: [view[[s == speaker for s in speakers]] for view in views]
        for speaker in set(speakers)
    }


@pytest.mark.parametrize("seconds", ["null", "0.1"])
def test_each_speakers_images_have_mean_0_and_deviation_1_in_each_part(tiny, seconds):
    """With crops, training draws one of an utterance: its mean and deviation are then about."""
    fold = fold_of(tiny(SPEAKER, f"features.seconds={seconds}"))
    parts = {name: (part, eval_loader(fold, part)) for name, part in fold.split.parts()}
    seen = set()
    for name, (part, loader) in parts.items():
        loaded = batches(fold) if name == "train" and seconds == "null" else list(loader)
        for speaker, views in images_by_speaker(part, loaded).items():
            seen.add(speaker)
            for view, rows in zip(views, stored_rows(fold.session, speaker), strict=True):
                columns = view.transpose(1, 2, 0, 3).reshape(rows.shape)
                std = rows.std(2)
                np.testing.assert_allclose(columns.mean(2), 0, atol=2e-4)
                np.testing.assert_allclose(columns.std(2), std / (std + FLOOR), atol=2e-4)
                assert (columns.std(2) > 0.9).mean() > 0.9  # few rows are constant
    assert len(seen) == 10


def test_the_values_are_those_of_the_formula(tiny):
    fold = fold_of(tiny(SPEAKER))
    plain = fold_of(tiny("train.normalize=false"))
    part = fold.split.test
    raw, read = (images_by_speaker(part, eval_loader(f, part)) for f in (plain, fold))
    for speaker, views in read.items():
        for v, rows in enumerate(stored_rows(fold.session, speaker)):
            mean, std = rows.mean(2)[..., None], rows.std(2)[..., None]
            np.testing.assert_allclose(
                views[v], (raw[speaker][v] - mean) / (std + FLOOR), atol=1e-4
            )


def test_processes_that_load_data_hand_the_statistics_on(tiny, monkeypatch):
    fold = fold_of(tiny(SPEAKER))
    dataset, sampler = make_dataset(fold, fold.split.dev), [[(0, 0), (0, 5)], [(0, 3)]]
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2, collate_fn=lambda x: x)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    for items, batch in zip(sampler, loader, strict=True):
        expected = dataset.__getitems__(items)
        for one, other in zip(batch.pin_memory().norm, expected.norm, strict=True):
            assert torch.equal(one, other) and len(one) == len(items)
        assert batch.cqt.dtype == torch.float16  # until it is on a device


def test_true_and_false_carry_no_statistics(tiny):
    for value in ("true", "false"):
        fold = fold_of(tiny(f"train.normalize={value}"))
        assert fold.session.speakers is None
        assert all(batch.norm is None for batch in eval_loader(fold, fold.split.dev))


def equal(one, other):
    return one.index == other.index and all(map(torch.equal, one.rows, other.rows))


def test_labels_change_no_statistic(tiny):
    fold = fold_of(tiny(SPEAKER))
    session, plan = fold.session, fold.session.plan
    labels = [u.label for u in plan.utterances]
    moved = [replace(u, label=x) for u, x in zip(plan.utterances, labels[::-1], strict=True)]
    assert moved != list(plan.utterances)
    other = replace(session, plan=replace(plan, utterances=moved))
    assert equal(session.speakers, other.speakers)


def test_another_speakers_audio_changes_no_image_of_others(tiny, corpus_root, tmp_path):
    root = shutil.copytree(corpus_root, tmp_path / "corpus")
    for i, clip in enumerate(sorted(root.rglob("Ses01F*.wav"))):  # a speaker of the test split
        soundfile.write(clip, tone(440.0 * (i + 1), 0.3, i), SAMPLE_RATE)
    before, after = (fold_of(tiny(SPEAKER, f"corpus.root={r}")) for r in (corpus_root, root))
    changed = set()
    for name in ("train", "dev", "test"):
        parts = [dict(fold.split.parts())[name] for fold in (before, after)]
        first, second = (
            images_by_speaker(part, eval_loader(fold, part))
            for fold, part in zip((before, after), parts, strict=True)
        )
        same = {s: all(map(np.array_equal, first[s], second[s])) for s in first}
        changed |= {speaker for speaker, is_same in same.items() if not is_same}
    assert changed == {"Ses01_F"}


def test_a_speaker_of_one_utterance_has_the_statistics_of_that(tiny):
    fold = fold_of(tiny(SPEAKER))
    plan = fold.session.plan
    first, *others = plan.utterances
    plan = replace(plan, utterances=[replace(first, speaker="alone"), *others])
    session = replace(fold.session, plan=plan)
    row = session.speakers.index["alone"]
    for v, rows in enumerate(stored_rows(session, "alone")):
        assert rows.shape[2] == 32  # columns of one image
        np.testing.assert_allclose(session.speakers.rows[2 * v][row], rows.mean(2), rtol=1e-5)
        np.testing.assert_allclose(
            session.speakers.rows[2 * v + 1][row], rows.std(2), rtol=1e-5, atol=1e-5
        )


def test_images_that_are_not_finite_are_named_by_utterance(tiny):
    session = fold_of(tiny(SPEAKER)).session
    images = {name: np.array(session.store.images(name)) for name in ("cqt", "mel")}
    bad = session.plan.utterances[7]
    images["mel"][session.store.rows[session.plan.hashes[bad.audio]].start, 0, 3, 5] = np.nan

    class Spoiled:
        rows, record = session.store.rows, session.store.record

        def images(self, name):
            return images[name]

    with pytest.raises(RunError, match=f"the inputs of {bad.id} are NaN or infinite"):
        speaker_statistics(session.plan, Spoiled(), None, CPU, 0)


@pytest.mark.parametrize("mixup", ["0", "0.5"])
def test_masks_and_shifts_come_before_and_mixing_after(tiny, mixup):
    changes = ["augment.time_mask=0.5", "augment.time_shift=0.4", "augment.freq_mask=0.4"]
    fold = fold_of(tiny(SPEAKER, *changes, f"augment.mixup={mixup}"))
    plain = fold_of(tiny("train.normalize=false", *changes))
    norm = fold.norm(fold.split.train)
    for found, raw in zip(batches(fold), batches(plain), strict=True):
        found, raw = found.to(CPU), raw.to(CPU)
        assert torch.equal(found.utterance, raw.utterance)
        expected = norm.of(raw.utterance)(raw.cqt, raw.mel)
        if found.mix is not None:
            share = found.mix.share[:, None, None, None]
            expected = [share * x + (1 - share) * x[found.mix.partner] for x in expected]
        assert torch.equal(found.cqt, expected[0]) and torch.equal(found.mel, expected[1])
    assert (found.mix is not None) == (mixup != "0")


def test_computed_images_are_standardised_as_stored_ones(tiny):
    stored, computed = (fold_of(tiny(SPEAKER, f"train.images={k}")) for k in ("stored", "computed"))
    for one, other in zip(batches(stored), batches(computed), strict=True):
        one, other = one.to(CPU), other.to(CPU)
        assert torch.equal(one.utterance, other.utterance)
        assert torch.allclose(one.cqt, other.cqt, atol=0.02)  # those of the store are float16
        assert torch.allclose(one.mel, other.mel, atol=0.02)
        assert one.cqt.abs().mean() < 2  # no dB


@pytest.mark.parametrize(
    ("form", "words"), [("flac", ["train.images=computed"]), ("images", ["features.seconds=0.1"])]
)
def test_shards_give_the_statistics_and_the_bytes_of_the_store(tiny, recipe, tmp_path, form, words):
    pytest.importorskip("webdataset")
    written = tmp_path / "shards"
    seconds = [word for word in words if word.startswith("features")]
    argv = ["--config", str(recipe), "--to", str(written), "--format", form, SPEAKER, *seconds]
    assert write_shards(argv) == 0
    expected = run_experiment(tiny(SPEAKER, *words), [])
    place = [f"run.shards={written}", "name=streamed", f"run.store={tmp_path / 's'}"]
    config = tiny(SPEAKER, *words, *place)
    found = run_experiment(config, [])
    for name in RESULTS:
        assert (found / FOLD / name).read_bytes() == (expected / FOLD / name).read_bytes(), name
    assert len(open_session(config, make_plan(config)).store.rows) == 16  # dev and test
    plain = tiny(*words, *place, "name=plain")
    with pytest.raises(
        InputError, match="written for certificate .*train.normalize=speaker in one"
    ):
        run_experiment(plain, [])


def test_a_killed_run_ends_in_the_bytes_of_one_that_was_not(recipe, tmp_path):
    undisturbed = Run(recipe, tmp_path / "whole", "gmu_contrastive", SPEAKER)
    assert undisturbed.until() == 0, undisturbed.log.read_text()
    run = Run(recipe, tmp_path / "killed", "gmu_contrastive", SPEAKER)
    for place, n in (("a training step", 2), ("after writing a checkpoint", 2), ("evaluating", 1)):
        assert run.until(place, n) == -signal.SIGKILL, f"{place}: {run.log.read_text()}"
    assert run.until() == 0, run.log.read_text()
    assert run.results() == undisturbed.results()


SAY = "import training.session as s; own = s.speaker_statistics\n"
SAY += "def told(*a):\n found = own(*a); print('SUM', *(v.sum().item() for v in found.rows))\n"
SAY += " return found\ns.speaker_statistics = told"


def test_two_processes_have_the_same_statistics_as_one(recipe, tmp_path, tiny):
    roots = [str(tmp_path / "runs")] * 2
    said = train_on(recipe, tmp_path, roots, SPEAKER, "train.epochs=1", patches=[SAY, SAY])
    assert [status for _, status in said] == [0, 0], said
    sums = [[line for line in text.splitlines() if line.startswith("SUM")] for text, _ in said]
    rows = fold_of(tiny(SPEAKER)).session.speakers.rows
    expected = " ".join(["SUM", *(str(values.sum().item()) for values in rows)])
    assert sums == [[expected]] * 2  # once a process


def test_a_tuning_plan_has_the_statistics_of_the_utterances_that_it_opened(tiny, deaf_root):
    config = tiny(SPEAKER, "run.folds=[1]", f"corpus.root={deaf_root}")
    session = open_session(config, make_tuning_plan(config))
    assert sorted(session.speakers.index) == [f"Ses0{k}_{sex}" for k in range(2, 6) for sex in "FM"]
    whole = fold_of(tiny(SPEAKER)).session.speakers
    for speaker, row in session.speakers.index.items():
        for one, other in zip(session.speakers.rows, whole.rows, strict=True):
            assert torch.equal(one[row], other[whole.index[speaker]])
    assert run_range_test(config, 1e-5, 1e-1, steps=40, repeats=1)


@pytest.fixture
def deaf_root(corpus_root, tmp_path):
    """The corpus without the audio of session 1, which fold 1 tests."""
    root = shutil.copytree(corpus_root, tmp_path / "deaf")
    for clip in root.rglob("Ses01*.wav"):
        clip.unlink()
    return root


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """Two folds of a gmu, by speaker, as a module's run folder."""
    root = tmp_path_factory.mktemp("by_speaker")
    words = [f"run.root={root}", "run.folds=[1,2]", SPEAKER, "name=by_speaker"]
    yield run_experiment(load_config(recipe, words), ["train_gmu.py"])
    shutil.rmtree(root)


def test_a_run_says_everywhere_that_it_is_transductive(trained, tmp_path):
    assert (trained / "summary.md").read_text().count(TRANSDUCTIVE) == 1
    assert (trained / "summary.md").read_text().startswith(f"**{TRANSDUCTIVE}**")
    protocol = f"{PROTOCOL}/speaker-normalized"
    certificate = read_json(trained / "split_certificate.json")
    card = read_json(trained / FOLD / "model.json")
    assert certificate["protocol"] == card["protocol"] == protocol
    assert card["transductive"] == TRANSDUCTIVE
    assert {line["protocol"] for line in read_ledger(trained)} == {protocol}
    runs, comparison = gather([trained], breakdowns=True)
    assert comparison_markdown(comparison).count(TRANSDUCTIVE) == 1
    assert comparison_latex(comparison).count(TRANSDUCTIVE) == 1
    assert markdown(comparison).startswith(f"**{TRANSDUCTIVE}**")
    publish(tmp_path / "out", runs, comparison, audio=False)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("TRANSDUCTIVE: uses the tested speaker") == 1
    assert "SPEAKER-DEPENDENT" not in page


def test_the_network_holds_no_statistics_of_speakers(trained):
    weights = load_tensors(trained / FOLD / "model.safetensors")
    assert not any(weights[f"{branch}_mean"].any() for branch in ("cqt", "mel"))
    assert all((weights[f"{branch}_std"] == 1).all() for branch in ("cqt", "mel"))


def test_plan_and_dry_run_say_it_and_a_dry_run_needs_no_image(tiny, tmp_path):
    config = tiny(SPEAKER, f"run.store={tmp_path / 'empty'}")
    plan = make_plan(config)
    assert TRANSDUCTIVE in plan_warnings(plan)
    report = dry_run(config)
    assert TRANSDUCTIVE in report and "speaker-normalized" in report
    plain = make_plan(tiny())
    assert plain.certificate["protocol"] == PROTOCOL
    assert plan.certificate["id"] != plain.certificate["id"]
    for one, other in zip(plan.certificate["folds"], plain.certificate["folds"], strict=True):
        assert one == other  # the ledger knows the test recordings by these


def test_a_run_is_compared_with_its_like_alone(trained, tiny):
    plain = run_experiment(tiny("name=plain", "train.epochs=1", "run.folds=[1,2]"), [])
    words = r"(?s)protocol differs.*train.normalize differs: speaker, not speaker.*unlabelled"
    with pytest.raises(InputError, match=words):
        compare([read_run(trained), read_run(plain)])
    assert TRANSDUCTIVE not in comparison_markdown(compare([read_run(plain)]))
    text = (plain / FOLD / "model.json").read_text() + (plain / "summary.md").read_text()
    assert "transductive" not in text.lower()


def test_predict_refuses_in_one_message_that_says_what_to_do(
    trained, corpus_root, monkeypatch, capsys
):
    clip = next(corpus_root.rglob("Ses01*.wav"))
    monkeypatch.setattr("sys.argv", ["predict.py", str(trained / FOLD), str(clip)])
    assert predict.main() == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    assert "trained with train.normalize=speaker" in said.err
    assert "Train with train.normalize=true" in said.err
    model = FoldModel(trained / FOLD, "cpu", True)
    with pytest.raises(ValueError, match="statistics of speakers are needed"):
        model.probs([torch.zeros(4000)])


def test_a_card_that_contradicts_itself_is_corrupt(trained, tmp_path):
    folder = shutil.copytree(trained / FOLD, tmp_path / "fold-1_seed-0")
    card = read_json(folder / "model.json")
    write_json(folder / "model.json", {**card, "protocol": PROTOCOL})
    with pytest.raises(RunError, match="protocol and transductive do not agree"):
        FoldModel(folder)


def test_gates_and_robustness_read_the_same_images(trained, tmp_path):
    """Both refuse weights and images that do not give predictions.csv again."""
    folder = shutil.copytree(trained, tmp_path / "by_speaker")
    results = analyze(folder, n_draws=1, progress=False)
    assert results.protocol.endswith("/speaker-normalized")
    assert (folder / "gates/gates.md").read_text().count(TRANSDUCTIVE) == 1
    run = read_run(folder)
    found = measure_robustness(run, progress=False)
    clean = found.conditions[0]
    assert clean.ua == pytest.approx(read_json(folder / "summary.json")["test"]["ua"]["pooled"])
    for name in ("noise 0 dB", "low-pass 2 kHz"):
        counts = np.array(found.folds["fold 1 seed 0"].confusions[name])
        assert counts.sum(0).tolist() == confusion_by_hand(run, name).tolist()
    shutil.rmtree(folder)


def confusion_by_hand(run, name):
    """Return what the first fold predicts of changed utterances: target by prediction, (4, 4).

    The statistics are those of the changed utterances of each speaker, by plain numpy.
    """
    one, condition = run.folds[0], next(c for c in CONDITIONS if c.name == name)
    model = FoldModel(one.folder, "cpu", True)
    images, counts = {}, np.zeros((4, 4), int)
    for utterance in one.test.utterances.tolist():
        clip = read_audio(run.audio_file(utterance), SAMPLE_RATE)
        changed = change(clip, SAMPLE_RATE, condition, zlib.crc32(utterance.encode()))
        images[utterance] = model.stored(torch.from_numpy(np.ascontiguousarray(changed)))
    speakers = one.test.speakers.tolist()
    for utterance, speaker, target in zip(images, speakers, one.test.targets, strict=True):
        own = [images[u] for u, s in zip(images, speakers, strict=True) if s == speaker]
        pair = []
        for v, image in enumerate(images[utterance]):
            rows = np.concatenate([other[v] for other in own]).astype(float)
            mean, std = rows.mean((0, 3))[..., None], rows.std((0, 3))[..., None]
            pair.append(torch.from_numpy((image - mean) / (std + FLOOR)).float())
        with torch.inference_mode():
            counts[target, int(model.model(*pair).logits.argmax())] += 1
    return counts


def test_a_study_says_it_above_its_trials_and_in_the_best_config(recipe, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {low: 1e-4, high: 1e-3}\n")
    words = [f"run.root={tmp_path}", "run.folds=[1]", "train.epochs=1", SPEAKER]
    tuning = load_tuning(str(recipe), str(space), words, ["python", "tune.py"])
    assert tune(tuning, 1, 1, Stop()).splitlines()[0] == TRANSDUCTIVE
    best = (tuning.folder / "best.yaml").read_text()
    assert best.count(f"# {TRANSDUCTIVE}") == 1 and "normalize: speaker" in best


def test_a_state_folder_is_gone_and_the_fold_is_tested_once(trained):
    assert [path.name for path in (trained / FOLD / STATE).iterdir()] == ["lock"]
    assert [line["kind"] for line in read_ledger(trained)].count("test") == 2


def test_baselines_have_the_protocol_and_stand_in_the_tables(trained, recipe, capsys):
    root = f"run.root={trained.parent}"
    words = ["--config", str(recipe), root, "run.folds=[1,2]", SPEAKER]
    for kind in ("majority", "svm_images"):
        assert baseline_main([*words, "--kind", kind]) == 0
        assert capsys.readouterr().out.count(TRANSDUCTIVE) == 1
    folders = [trained, *(trained.parent / f"tiny_{kind}" for kind in ("majority", "svm_images"))]
    certificates = {read_json(folder / "split_certificate.json")["id"] for folder in folders}
    assert len(certificates) == 1
    comparison = gather(folders)[1]
    assert comparison.protocol.endswith("/speaker-normalized")
    assert "train.normalize" not in comparison.config_differences
    assert read_json(folders[1] / FOLD / "model.json")["transductive"] == TRANSDUCTIVE


def test_every_part_of_a_split_asks_for_its_speakers(tiny):
    fold = fold_of(tiny(SPEAKER))
    for _, part in fold.split.parts():
        for training in (False, True):
            norm = make_dataset(fold, part, training).norm
            names = {row: speaker for speaker, row in fold.session.speakers.index.items()}
            assert [names[i] for i in norm.speakers.tolist()] == [u.speaker for u in part]


def test_the_default_is_true_and_old_values_stay(recipe):
    assert load_config(recipe).train.normalize is True
    for word, value in (("true", True), ("false", False), ("speaker", "speaker")):
        assert load_config(recipe, [f"train.normalize={word}"]).train.normalize == value
    for word in ("1", "speakers", "null", "0.5"):
        with pytest.raises(InputError, match="train.normalize .*speaker") as caught:
            load_config(recipe, [f"train.normalize={word}"])
        assert str(caught.value).count("train.normalize") == 1
