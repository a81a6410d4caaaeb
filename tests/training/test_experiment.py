"""Whole tiny runs: the run folder, the same weights again, going on after a stop, the summary."""

import ast
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from config.effects import CONTRASTIVE
from config.fusions import GATED, ONE_IMAGE
from config.loading import dump_config, load_config
from corpora.certificate import certify
from corpora.plan import make_plan, plan_warnings
from evaluation.comparison import compare
from evaluation.tables import comparison_markdown
from features import SpectrogramImages
from inference import load
from model_gmu import rebuild
from models.settings import ModelSettings
from storage.feature_store import FeatureStore
from storage.folders import RANGE_TEST, STUDY
from storage.run_folder import read_run, remove_run
from storage.tensors import load_tensors
from system.errors import InputError, RunError
from system.files import read_json
from system.locks import lock
from tests.conftest import SAMPLE_RATE
from tests.support.models import OF_IMAGES
from tests.support.paths import CODE, ROOT
from tests.support.runs import run_experiment
from training import build
from training import fold as fold_module
from training.dry_run import dry_run
from training.session import feature_settings, open_session
from training.tensorboard import Tracker

CLASSES = ["neutral", "happy", "angry", "sad"]
FOLD = "folds/fold-1_seed-0"
PREDICTIONS = ["split", "utterance", "speaker", "target", "pred"]
SCORES = {"wa", "ua", "macro_f1", "weighted_f1", "per_class_recall", "confusion", "n"}


def rows_of(path: Path, split: str | None = None) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if split in (None, row.get("split"))]


def results_of(folder: Path) -> list[bytes]:
    """Return what a fold comes to."""
    names = ("model.safetensors", "predictions.csv", "metrics.json", "history.csv")
    return [(folder / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def fusions(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One finished fold of each fusion."""
    root = tmp_path_factory.mktemp("fusions")
    yield {
        fusion: run_experiment(
            load_config(recipe, [f"run.root={root}", f"name={fusion}", *wishes_for(fusion)]),
            ["train_gmu.py", "--config", str(recipe)],
        )
        for fusion in OF_IMAGES
    }
    shutil.rmtree(root)


def wishes_for(fusion: str) -> list[str]:
    """Return overrides of the recipe that choose a fusion and leave out the branch it lacks."""
    absent = {"cqt_only": "mel", "mel_only": "cqt"}.get(fusion)
    return [f"model.fusion={fusion}", *[f"model.{absent}_backbone=null"] * (absent is not None)]


@pytest.fixture(scope="module")
def grid(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two folds with two seeds each."""
    wishes = [f"run.root={tmp_path_factory.mktemp('grid')}", "run.folds=[1,2]", "run.seeds=[0,1]"]
    run = run_experiment(load_config(recipe, [*wishes, "name=grid"]), [])
    yield run
    shutil.rmtree(run)


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_run_folder_is_as_designed(fusions: dict[str, Path], fusion: str) -> None:
    run = fusions[fusion]
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "split_certificate.json",
        "utterances.csv",
        "ledger.jsonl",
        "folds",
        "summary.json",
        "summary.md",
        ".lock",
        ".lock.opening",
        ".lock.summary",
    }
    assert [path.name for path in (run / FOLD / "state").iterdir()] == ["lock"]
    names = {path.name.split(".tfevents.")[0] for path in (run / FOLD).iterdir()}
    assert names == {
        "metrics.json",
        "environment.json",
        "history.csv",
        "predictions.csv",
        "model.safetensors",
        "model.json",
        "state",
        "events.out",
        "scores.tfevents",
    }
    metrics = read_json(run / FOLD / "metrics.json")
    assert {"protocol", "fold", "seed", "best_epoch", "dev", "test"} <= metrics.keys()
    assert metrics["dev"].keys() == metrics["test"].keys() == SCORES
    header = (run / FOLD / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header == [*PREDICTIONS, *(f"prob_{name}" for name in CLASSES), "gate_mean"]
    assert len(rows_of(run / FOLD / "history.csv")) == 2
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("fusion", ["concat", "gmu", "cqt_only"])
def test_predictions_cover_dev_and_test_and_agree_with_the_metrics(fusions, fusion: str) -> None:
    folder = fusions[fusion] / FOLD
    metrics = read_json(folder / "metrics.json")
    for split in ("dev", "test"):
        rows = rows_of(folder / "predictions.csv", split)
        assert len(rows) == len({row["utterance"] for row in rows}) == 8
        target, pred = [row["target"] for row in rows], [row["pred"] for row in rows]
        assert metrics[split]["ua"] == pytest.approx(
            recall_score(target, pred, average="macro", zero_division=0)
        )
        assert metrics[split]["wa"] == pytest.approx(accuracy_score(target, pred))
        for row in rows:
            probs = [float(row[f"prob_{name}"]) for name in CLASSES]
            assert sum(probs) == pytest.approx(1, abs=1e-5)
            assert row["pred"] == CLASSES[int(np.argmax(probs))]
            assert (row["gate_mean"] != "") == (fusion in GATED)
            assert row["utterance"].startswith(row["speaker"][:5])
            assert row["utterance"][-4] == row["speaker"][-1]


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_weights_rebuild_the_model_that_made_the_predictions(fusions, fusion, corpus_root) -> None:
    folder = fusions[fusion] / FOLD
    card = read_json(folder / "model.json")
    model = rebuild(ModelSettings(**card["model"]), load_tensors(folder / "model.safetensors"))
    row = rows_of(folder / "predictions.csv", "test")[3]
    path = next(corpus_root.rglob(f"{row['utterance']}.wav"))
    waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
    images = SpectrogramImages(**card["features"])(waveform, torch.tensor([waveform.shape[1]]))
    with torch.inference_mode():
        probs = model(*images).logits.softmax(1)[0].tolist()
    assert probs == pytest.approx(
        [float(row[f"prob_{name}"]) for name in card["classes"]], abs=5e-3
    )


def test_config_in_the_folder_is_the_config_of_the_run(fusions, recipe: Path) -> None:
    run = fusions["gmu"]
    wishes = [f"run.root={run.parent}", "name=gmu", "model.fusion=gmu"]
    assert load_config(run / "config.yaml") == load_config(recipe, wishes)
    environment = read_json(run / "environment.json")
    assert environment["command"] == ["train_gmu.py", "--config", str(recipe)]
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    of_fold = read_json(run / FOLD / "environment.json")
    assert of_fold.pop("seconds") > 0 and of_fold == environment


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(fusions, grid: Path) -> None:
    again, first = results_of(grid / FOLD), results_of(fusions["gmu"] / FOLD)
    assert again == first
    other = results_of(grid / "folds/fold-1_seed-1")
    assert all(a != b for a, b in zip(other, first, strict=True))


def test_finished_folds_are_not_repeated(tiny: Callable, monkeypatch) -> None:
    run = run_experiment(tiny("train.epochs=1"), [])
    before = (run / FOLD / "model.safetensors").stat().st_mtime_ns, results_of(run / FOLD)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a finished fold was trained or tested again")

    monkeypatch.setattr(fold_module, "build_training", refuse)
    monkeypatch.setattr(fold_module, "evaluate", refuse)
    run_experiment(tiny("train.epochs=1", "run.workers=1"), [])  # run.* may differ
    after = (run / FOLD / "model.safetensors").stat().st_mtime_ns, results_of(run / FOLD)
    assert after == before
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 1


def crash_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Stop in the middle of what follows an epoch: best weights kept, its state not yet."""
    log_epoch = Tracker.log_epoch

    def crash(self: Tracker, history: list[dict[str, float]], *args: Any) -> None:
        if history[-1]["epoch"] == epoch:
            raise KeyboardInterrupt
        log_epoch(self, history, *args)

    monkeypatch.setattr(Tracker, "log_epoch", crash)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_stopped_in_an_epoch_resumes_to_the_same_result(
    tiny: Callable, fusions: dict[str, Path], monkeypatch, epoch: int
) -> None:
    config = tiny("name=gmu", "train.checkpoint_epochs=1")
    with monkeypatch.context() as patch:
        crash_after(patch, epoch)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, [])
    folder = Path(config.run.root) / "gmu" / FOLD
    assert not (folder / "metrics.json").exists()
    places = {path.name[:10] for path in (folder / "state").glob("epoch-*")}
    assert places == {f"epoch-{e:04d}" for e in range(epoch)}
    run_experiment(config, [])
    assert results_of(folder) == results_of(fusions["gmu"] / FOLD)


def test_a_killed_process_resumes_to_the_same_result(
    tiny: Callable, fusions: dict[str, Path], recipe: Path
) -> None:
    config = tiny("name=gmu", "train.checkpoint_epochs=1")
    run = Path(config.run.root) / "gmu"
    command = [sys.executable, str(ROOT / "train_gmu.py"), "--config", str(recipe)]
    command += [f"run.root={config.run.root}", "name=gmu", "train.checkpoint_epochs=1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=run.parent.parent) as process:
        state = run / FOLD / "state"
        while process.poll() is None and not any(state.glob("epoch-0001*")):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (run / FOLD / "metrics.json").exists()
    run_experiment(config, [])
    assert results_of(run / FOLD) == results_of(fusions["gmu"] / FOLD)
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 1


def test_a_folder_of_another_config_is_refused_with_the_difference(tiny: Callable) -> None:
    run = run_experiment(tiny("train.epochs=1"), [])
    before = results_of(run / FOLD)
    with pytest.raises(InputError, match="(?s)optim.lr: 0.001 there, 0.5 now.*--overwrite"):
        run_experiment(tiny("train.epochs=1", "optim.lr=0.5"), [])
    assert results_of(run / FOLD) == before
    run_experiment(tiny("train.epochs=1", "optim.lr=0.5"), [], overwrite=True)
    assert results_of(run / FOLD) != before
    assert load_config(run / "config.yaml").optim.lr == 0.5
    assert read_json(run / "summary.json")["test_evaluations"] == {"fold 1 seed 0": {"test": 2}}
    said = "Test data of tiny were evaluated more than once: fold 1 seed 0: 2 x test."
    assert said in (run / "summary.md").read_text()


@pytest.mark.parametrize("killed_at", range(12))
def test_removing_a_run_keeps_its_ledger_through_a_kill(tmp_path, monkeypatch, killed_at) -> None:
    run = tmp_path / "run"
    for name in ("folds/fold-1_seed-0/state/lock", "folds/fold-1_seed-0/metrics.json", "logs/log"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    for name in ("config.yaml", "ledger.jsonl", "summary.json", "utterances.csv"):
        (run / name).write_text("line\n")
    steps = iter(range(100))

    def or_die(step: Callable) -> Callable:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            if next(steps) == killed_at:
                raise KeyboardInterrupt
            return step(*args, **kwargs)

        return attempt

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "rmdir"):
            patch.setattr(os, name, or_die(getattr(os, name)))
        with suppress(KeyboardInterrupt):
            remove_run(run)
    left = {path.name for path in run.iterdir() if path.name[0] != "."} - {"ledger.jsonl"}
    assert not left or "config.yaml" in left  # it is still known as a run
    whole = {"metrics.json", "state"}
    assert all({p.name for p in fold.iterdir()} == whole for fold in run.glob("folds/*"))
    remove_run(run)
    assert [path.name for path in run.iterdir()] == ["ledger.jsonl"]
    assert (run / "ledger.jsonl").read_text() == "line\n"
    remove_run(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("mark", [STUDY, RANGE_TEST])
def test_a_study_with_its_config_is_not_a_run(tiny: Callable, overwrite: bool, mark: str) -> None:
    config = tiny()
    folder = Path(config.run.root) / "tiny"
    folder.mkdir(parents=True)
    for name in ("config.yaml", mark):
        (folder / name).write_text(dump_config(config))
    with pytest.raises(InputError, match=f"is not a run folder .it holds {mark}.: change name"):
        run_experiment(config, [], overwrite=overwrite)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", mark}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_a_run_is_never_touched(tiny: Callable, overwrite: bool) -> None:
    config = tiny()
    letter = Path(config.run.root) / "tiny" / "letter.txt"
    letter.parent.mkdir(parents=True)
    letter.write_text("dear")
    with pytest.raises(InputError, match="is not a run folder"):
        run_experiment(config, [], overwrite=overwrite)
    assert [path.name for path in letter.parent.iterdir()] == ["letter.txt"]


def test_a_run_folder_never_holds_the_feature_store(tiny: Callable, tmp_path: Path) -> None:
    inside = tiny("name=features", f"run.store={tmp_path / 'runs' / 'features'}")
    with pytest.raises(InputError, match="run.store"):
        run_experiment(inside, [])
    assert not (tmp_path / "runs").exists()


@pytest.mark.promise("bad_audio")
def test_a_corpus_that_changed_is_refused(tiny: Callable, corpus_root: Path, tmp_path) -> None:
    own = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, own)
    config = tiny("train.epochs=1", f"corpus.root={own}")
    run = run_experiment(config, [])
    change_audio(own, "Ses03M_script01_1_M002")
    with pytest.raises(InputError, match="the corpus or its splits changed"):
        run_experiment(config, [])
    assert run_experiment(config, [], overwrite=True) == run


def change_audio(root: Path, clip: str) -> None:
    path = next(root.rglob(f"{clip}.wav"))
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.random.default_rng(0).standard_normal(len(samples)) / 9, rate)


def watch_images(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note in order which sessions' images are asked for, and when training ends."""
    events: list[str] = []
    make_dataset, fit = build.make_dataset, fold_module.fit

    def asked(fold: Any, utterances: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        events.append("+".join(sorted({u.session for u in utterances})))
        return make_dataset(fold, utterances, *args, **kwargs)

    def fitted(*args: Any, **kwargs: Any) -> Any:
        found = fit(*args, **kwargs)
        events.append("selected")
        return found

    monkeypatch.setattr(build, "make_dataset", asked)
    monkeypatch.setattr(fold_module, "fit", fitted)
    return events


def test_peer_02_test_data_are_read_once_after_selection(tiny: Callable, monkeypatch) -> None:
    events = watch_images(monkeypatch)
    run = run_experiment(tiny("train.epochs=1"), [])
    train, dev, test = "Session3+Session4+Session5", "Session2", "Session1"
    assert events == [train, dev, "selected", dev, test]
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 1


def test_peer_02_ledger_has_one_line_a_fold_with_the_weights_that_were_tested(grid: Path) -> None:
    lines = [json.loads(line) for line in (grid / "ledger.jsonl").read_text().splitlines()]
    assert [(line["fold"], line["seed"]) for line in lines] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for line in lines:
        weights = grid / f"folds/fold-{line['fold']}_seed-{line['seed']}/model.safetensors"
        assert line["weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert (line["n"], line["kind"], line["run"]) == (8, "test", "grid")
        assert line["certificate"] == read_json(grid / "split_certificate.json")["id"]
    counts = read_json(grid / "summary.json")["test_evaluations"]
    assert len(counts) == 4 and set(map(str, counts.values())) == {"{'test': 1}"}
    assert "more than once" not in (grid / "summary.md").read_text()


def test_peer_02_reported_epoch_is_the_one_that_dev_ua_chose(grid: Path) -> None:
    for metrics_file in grid.glob("folds/*/metrics.json"):
        metrics = read_json(metrics_file)
        uas = [float(row["dev_ua"]) for row in rows_of(metrics_file.with_name("history.csv"))]
        assert metrics["best_epoch"] == 1 + int(np.argmax(uas))
        assert metrics["dev"]["ua"] == pytest.approx(max(uas))


def test_peer_13_normalization_is_that_of_the_training_clips(fusions, recipe: Path) -> None:
    config = load_config(fusions["gmu"] / "config.yaml")
    plan = make_plan(config)
    front_end = SpectrogramImages(**feature_settings(config))
    images: list[np.ndarray] = []
    for utterance in plan.wanted()[0].train:
        waveform = torch.from_numpy(soundfile.read(utterance.path, dtype="float32")[0])[None]
        images.append(front_end(waveform, torch.tensor([waveform.shape[1]])).mel.half().numpy())
    trained = np.concatenate(images).astype(np.float64)
    weights = load_tensors(fusions["gmu"] / FOLD / "model.safetensors")
    assert weights["mel_mean"].item() == pytest.approx(trained.mean(), rel=1e-5)
    assert weights["mel_std"].item() == pytest.approx(trained.std(), rel=1e-5)


def test_peer_13_another_test_clip_changes_no_statistic_and_no_weight(
    tiny: Callable, corpus_root: Path, fusions: dict[str, Path], tmp_path: Path
) -> None:
    own = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, own)
    change_audio(own, "Ses01F_impro01_F000")
    run = run_experiment(tiny(f"corpus.root={own}"), [])
    weights, predictions, *_ = results_of(run / FOLD)
    expected, others, *_ = results_of(fusions["gmu"] / FOLD)
    assert weights == expected and predictions != others


def test_peer_26_runs_never_write_into_each_others_files(tiny: Callable) -> None:
    first = run_experiment(tiny("name=first", "train.epochs=1"), [])
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    second = run_experiment(tiny("name=second", "train.epochs=2"), [])
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    for run, epochs in ((first, 1), (second, 2)):
        (file,) = (run / FOLD).glob("events.out.tfevents.*")
        assert len(events_of(file).Scalars("loss/loss")) == epochs


def test_peer_26_warnings_and_loggers_are_left_to_the_user() -> None:
    for path in CODE:
        assert "filterwarnings" not in path.read_text(), path


def test_peer_25_no_pickle_is_written_or_loaded() -> None:
    """`torch.load` reads a user's .pth, tensors only: tests/system/test_hostile.py holds that."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "save")
                is_first_weights = path.name == "weights.py"
                assert (node.value.id, node.attr) != ("torch", "load") or is_first_weights, path
                assert node.attr not in {"save_state", "load_state"} or node.value.id == "files"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names}
                names.add((getattr(node, "module", None) or "").split(".")[0])
                assert not names & {"pickle", "joblib", "shelve", "dill", "cloudpickle"}, path


@pytest.fixture
def broken_corpus(corpus_root: Path, tmp_path: Path) -> Path:
    """The corpus with bad files in train, dev and test of fold 1; two have equal bytes."""
    own = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, own)
    for session in (1, 2, 3):
        clip = next(own.rglob(f"Ses0{session}F_impro01_F001.wav"))
        clip.write_bytes(clip.read_bytes()[: 20 if session == 1 else 44])
    return own


def test_bad_audio_stops_the_run_and_all_of_it_is_listed(tiny, broken_corpus: Path) -> None:
    config = tiny(f"corpus.root={broken_corpus}")
    with pytest.raises(InputError, match="3 audio files cannot be used") as caught:
        run_experiment(config, [])
    for session in (1, 2, 3):
        assert f"Ses0{session}F_impro01_F001.wav" in str(caught.value)
    assert "holds no samples" in str(caught.value) and "cannot be read" in str(caught.value)
    assert not Path(config.run.root).exists()


def test_bad_audio_may_be_left_out_and_is_listed_in_the_run_folder(tiny, broken_corpus) -> None:
    run = run_experiment(tiny(f"corpus.root={broken_corpus}", "corpus.on_bad_audio=skip"), [])
    bad = read_json(run / "bad_audio.json")
    assert sorted(Path(path).stem for path in bad) == [f"Ses0{s}F_impro01_F001" for s in (1, 2, 3)]
    left = {row["utterance"] for row in rows_of(run / FOLD / "predictions.csv")}
    assert len(left) == 14 and not left & {Path(path).stem for path in bad}
    assert read_json(run / "split_certificate.json")["utterances"] == 37
    run_experiment(tiny(f"corpus.root={broken_corpus}", "corpus.on_bad_audio=skip"), [])


def test_all_copies_of_a_recording_without_images_are_left_out(
    tiny, corpus_root: Path, tmp_path: Path
) -> None:
    """Both files change between the index and the images, of which one file is asked for."""
    root = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, root)
    one, other = sorted(root.rglob("Ses01F_impro01_F00[01].wav"))
    shutil.copy(one, other)
    words = [f"corpus.root={root}", "corpus.on_bad_audio=skip", f"run.store={tmp_path / 'store'}"]
    config = tiny(*words)
    plan = make_plan(config)
    for path in (one, other):
        path.write_bytes(next((corpus_root / "Session2").rglob("*.wav")).read_bytes())
    session = open_session(config, plan)
    assert sorted(session.plan.bad) == [one, other]
    assert len(session.plan.utterances) == 38
    assert all(session.plan.hashes[u.audio] in session.store.rows for u in session.plan.utterances)


def test_summary_can_be_recomputed_from_the_predictions(grid: Path) -> None:
    def score(rows: list[dict[str, str]]) -> dict[str, float]:
        target, pred = [row["target"] for row in rows], [row["pred"] for row in rows]
        options = {"labels": CLASSES, "zero_division": 0}
        return {
            "ua": recall_score(target, pred, average="macro", **options),
            "wa": accuracy_score(target, pred),
            "macro_f1": f1_score(target, pred, average="macro", **options),
            "weighted_f1": f1_score(target, pred, average="weighted", **options),
        }

    rows = {
        (fold, seed): rows_of(grid / f"folds/fold-{fold}_seed-{seed}/predictions.csv", "test")
        for fold in (1, 2)
        for seed in (0, 1)
    }
    each = {key: score(found) for key, found in rows.items()}
    pooled = [score(rows[1, seed] + rows[2, seed]) for seed in (0, 1)]
    summary = read_json(grid / "summary.json")
    assert summary["folds"] == [1, 2] and summary["seeds"] == [0, 1] and summary["n"] == 16
    for metric, found in summary["test"].items():
        by_fold = [np.mean([each[fold, seed][metric] for seed in (0, 1)]) for fold in (1, 2)]
        by_seed = [np.mean([each[fold, seed][metric] for fold in (1, 2)]) for seed in (0, 1)]
        assert found["mean"] == pytest.approx(np.mean(by_fold))
        assert found["std"] == pytest.approx(np.std(by_fold, ddof=1))
        assert found["seed_std"] == pytest.approx(np.std(by_seed, ddof=1))
        assert found["pooled"] == pytest.approx(np.mean([one[metric] for one in pooled]))
        low, high = found["interval"]
        assert low < found["pooled"] < high
    gates = [read_json(path)["gate_mean"] for path in grid.glob("folds/*/metrics.json")]
    assert summary["gate_mean"] == pytest.approx(np.mean(gates))
    ua = summary["test"]["ua"]
    assert (
        f"| {100 * ua['mean']:.1f} ± {100 * ua['std']:.1f} |" in (grid / "summary.md").read_text()
    )


def test_peer_05_table_names_protocol_folds_and_seeds(grid: Path) -> None:
    table = (grid / "summary.md").read_text()
    assert "`iemocap4-exc/leave-one-session-out/dev-session/all`" in table
    assert "test folds 1, 2 of 5, seeds 0, 1, 16 utterances of 4 speakers" in table
    assert "UA" in table and "WA" in table and "SPEAKER-DEPENDENT" not in table


def test_runs_of_one_protocol_stand_in_one_table(fusions: dict[str, Path]) -> None:
    table = comparison_markdown(compare([read_run(run) for run in fusions.values()]))
    for fusion in OF_IMAGES:
        assert f"| {fusion} | {fusion} |" in table


def test_runs_tested_otherwise_are_refused(fusions, grid: Path, tmp_path: Path) -> None:
    gmu = read_run(fusions["gmu"])
    with pytest.raises(InputError, match=r"(?s)their finished folds differs.*grid: \[1, 2\]"):
        compare([gmu, read_run(grid)])
    other = tmp_path / "other"
    shutil.copytree(fusions["gmu"], other)
    certificate = read_json(other / "split_certificate.json")
    for protocol, words in (
        ("iemocap4/leave-one-session-out/dev-session/all", "corpus.labels differs: iemocap4-exc, "),
        ("iemocap4-exc/speaker-5-fold/dev-fold/all", "protocol.split differs: leave-one-sess"),
    ):
        changed = json.dumps(certificate | {"protocol": protocol})
        (other / "split_certificate.json").write_text(changed)
        metrics = read_json(other / FOLD / "metrics.json") | {"protocol": protocol}
        (other / FOLD / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(
            InputError, match=f"(?s)cannot be compared, their protocol differs.*{words}"
        ):
            compare([gmu, read_run(other)])
    with pytest.raises(InputError, match="is not a run folder"):
        read_run(tmp_path)
    shutil.rmtree(other)


def test_peer_01_random_utterances_are_stamped_speaker_dependent(tiny: Callable) -> None:
    wishes = ["protocol.split=random-utterance", "protocol.allow_speaker_overlap=true"]
    run = run_experiment(tiny(*wishes, "train.epochs=1"), [])
    stamp = "**SPEAKER-DEPENDENT: the same speakers are in train and test**"
    assert (run / "summary.md").read_text().splitlines()[0] == stamp
    assert "SPEAKER-DEPENDENT" in read_json(run / FOLD / "metrics.json")["protocol"]
    assert comparison_markdown(compare([read_run(run)])).startswith(stamp)


SIGNS = {
    *("grad_cqt", "grad_mel", "gate_mean", "gate_spread", "gate_saturated"),
    *("rank_cqt", "rank_mel", "alignment", "uniformity_cqt", "uniformity_mel"),
}


@pytest.mark.parametrize("fusion", OF_IMAGES)
def test_the_history_has_the_signs_that_a_fusion_has(fusions, fusion: str) -> None:
    absent = set() if fusion in GATED else {name for name in SIGNS if name.startswith("gate")}
    if fusion not in CONTRASTIVE:
        absent |= {"alignment", "uniformity_cqt", "uniformity_mel"}
    if fusion in ONE_IMAGE:
        other = "mel" if ONE_IMAGE[fusion] == "cqt" else "cqt"
        absent |= {f"grad_{other}", f"rank_{other}"}
    rows = rows_of(fusions[fusion] / FOLD / "history.csv")
    assert SIGNS & rows[0].keys() == SIGNS - absent
    assert all(np.isfinite([float(value) for value in row.values()]).all() for row in rows)
    issues = read_json(fusions[fusion] / FOLD / "metrics.json")["training_issues"]
    assert issues["collapse_warnings"] == []  # they are healthy


def test_heads_that_do_not_fit_are_reported_before_audio_is_indexed(tiny, monkeypatch) -> None:
    monkeypatch.setattr("training.experiment.make_plan", None)
    monkeypatch.setattr("training.dry_run.make_plan", None)
    config = tiny("model.fusion=cross_attention", "model.attention_heads=5")
    for start in (lambda: run_experiment(config, []), lambda: dry_run(config)):
        with pytest.raises(InputError, match="model.attention_heads=5 must divide .*384"):
            start()
    assert not Path(config.run.root).exists()


@pytest.mark.parametrize("key", ["loss.alpha_on=features", "model.projection=shared"])
def test_features_of_two_widths_are_reported_before_audio_is_indexed(
    tiny, monkeypatch, key
) -> None:
    monkeypatch.setattr("training.experiment.make_plan", None)
    monkeypatch.setattr("training.dry_run.make_plan", None)
    config = tiny("model.fusion=gmu_contrastive", key)
    for start in (lambda: run_experiment(config, []), lambda: dry_run(config)):
        with pytest.raises(InputError, match=f"{key} needs .* CQT branch has 128, the Mel .* 384"):
            start()
    assert not Path(config.run.root).exists()


def test_the_whole_form_of_glomer_trains_predicts_and_is_read_again(tiny, corpus_root) -> None:
    wishes = ["model.fusion=cross_attention_contrastive", "model.projection=shared"]
    wishes += ["model.gate_input=features", "loss.alpha_on=features", "loss.nt_xent=cross_modal"]
    run = run_experiment(tiny(*wishes, "loss.nt_xent_warmup_epochs=1"), [])
    first, second = (
        {name: float(value) for name, value in row.items()}
        for row in rows_of(run / FOLD / "history.csv")
    )
    for weight, term in ((0.0, first), (1.0, second)):
        total = term["cross_entropy"] + weight * term["nt_xent"]
        total += 0.3 * (term["consistency"] + term["diversity"])
        assert term["loss"] == pytest.approx(total, rel=1e-5)
    rows = [row for row in rows_of(run / FOLD / "predictions.csv") if row["split"] == "test"]
    model = load(run / FOLD, calibrated=False)
    for row in rows[:3]:
        (clip,) = corpus_root.rglob(f"{row['utterance']}.wav")
        label = model.predict(clip)
        assert label.emotion == row["pred"]
        assert label.gate == pytest.approx(float(row["gate_mean"]), abs=1e-4)


def test_the_model_card_holds_the_range_of_the_training_recordings(fusions, corpus_root) -> None:
    card = read_json(fusions["gmu"] / FOLD / "model.json")["training_data"]
    assert card["rates"] == [{"rate": SAMPLE_RATE, "recordings": 24}]  # sessions 3 to 5 of 5
    files = [f for k in (3, 4, 5) for f in (corpus_root / f"Session{k}").rglob("*.wav")]
    clips = [soundfile.read(file)[0] for file in files]
    for name, values, digits in (
        ("seconds", [len(clip) / SAMPLE_RATE for clip in clips], 3),
        ("level", [20 * np.log10(clip.std()) for clip in clips], 2),
    ):
        points = np.percentile(values, [0, 1, 50, 99, 100])
        found = [card[name][key] for key in ("min", "p1", "median", "p99", "max")]
        assert found == pytest.approx(points, abs=0.6 * 10**-digits)
    assert card["seconds"]["min"] == 0.2 and card["seconds"]["max"] == 0.26
    assert 3000 < card["bandwidth"]["p1"] <= card["bandwidth"]["max"] <= SAMPLE_RATE / 2


def events_of(file: Path) -> EventAccumulator:
    return EventAccumulator(str(file)).Reload()


def test_tensorboard_shows_losses_rates_scores_gate_and_confusion(fusions) -> None:
    (file,) = (fusions["gmu_contrastive"] / FOLD).glob("events.out.tfevents.*")
    events = events_of(file)
    tags = events.Tags()
    assert set(tags["scalars"]) == {
        *(f"loss/{n}" for n in ("loss", "cross_entropy", "nt_xent", "consistency", "diversity")),
        *(f"learning_rate/{part}" for part in ("cqt", "mel", "head")),
        *(f"dev/{n}" for n in ("loss", "ua", "wa", "macro_f1", "weighted_f1")),
        *(f"health/{n}" for n in SIGNS),
    }
    assert len(tags["histograms"]) == 1 and "gate" in tags["histograms"][0]
    assert tags["images"] == ["dev confusion"]
    history = rows_of(file.with_name("history.csv"))
    for name in ("loss", "nt_xent", "consistency"):
        logged = [event.value for event in events.Scalars(f"loss/{name}")]
        assert logged == pytest.approx([float(row[name]) for row in history])
    (concat,) = (fusions["concat"] / FOLD).glob("events.out.tfevents.*")
    assert events_of(concat).Tags()["histograms"] == []


def test_history_adds_up_to_the_total_loss(fusions: dict[str, Path]) -> None:
    for row in rows_of(fusions["gmu_contrastive"] / FOLD / "history.csv"):
        term = {name: float(value) for name, value in row.items()}
        total = term["cross_entropy"] + term["nt_xent"]
        total += 0.3 * (term["consistency"] + term["diversity"])
        assert term["loss"] == pytest.approx(total, rel=1e-5)


def test_all_fusions_see_the_same_folds(fusions: dict[str, Path]) -> None:
    certificates = {(run / "split_certificate.json").read_text() for run in fusions.values()}
    assert len(certificates) == 1


def test_store_is_shared_by_all_runs(fusions: dict[str, Path]) -> None:
    config = load_config(fusions["gmu"] / "config.yaml")
    store = FeatureStore(Path(config.run.store), SpectrogramImages(**feature_settings(config)))
    hashes = make_plan(config).hashes.values()
    assert store.folder.is_dir() and set(hashes) <= store.rows.keys()


def test_a_fold_is_worked_on_by_one_process_at_a_time(tiny: Callable) -> None:
    config = tiny()
    run = run_experiment(config, [])
    (run / FOLD / "metrics.json").unlink()
    with lock(run / FOLD / "state" / "lock", "a test"):
        for overwrite in (False, True):
            with pytest.raises(RunError, match="another process is at work on .*fold-1_seed-0"):
                run_experiment(config, [], overwrite)
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 1
    run_experiment(config, [])
    assert (run / FOLD / "metrics.json").exists()


@pytest.mark.parametrize(
    "name", ["split_certificate.json", f"{FOLD}/metrics.json", f"{FOLD}/predictions.csv"]
)
def test_a_corrupt_run_folder_is_reported_with_the_fix(fusions, tmp_path, name) -> None:
    run = tmp_path / fusions["gmu"].name
    shutil.copytree(fusions["gmu"], run)
    (run / name).write_text("{}")
    config = load_config(run / "config.yaml", [f"run.root={tmp_path}"])
    with pytest.raises(RunError, match="remove .* and run the same"):
        run_experiment(config, [])
    shutil.rmtree(run)


def test_a_state_of_another_model_is_reported_with_the_fix(tiny, monkeypatch) -> None:
    saved = "train.checkpoint_epochs=1"  # without it the time decides which epochs are saved
    fusions = ("concat", "gmu")
    configs = [tiny(f"name={fusion}", f"model.fusion={fusion}", saved) for fusion in fusions]
    states = [Path(config.run.root) / config.name / FOLD / "state" for config in configs]
    crash_after(monkeypatch, 2)
    for config in configs:
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, [])
    for file in states[0].glob("*.safetensors"):
        shutil.copy(file, states[1])
    with pytest.raises(RunError, match=f"remove {states[1]} and run the same"):
        run_experiment(configs[1], [])


def test_what_the_leakage_check_let_pass_is_shown(tiny: Callable) -> None:
    plan = make_plan(tiny())
    splits = [
        replace(s, **{n: tuple(replace(u, text_id="t") for u in part) for n, part in s.parts()})
        for s in plan.splits
    ]
    certificate = certify(splits, plan.hashes, plan.certificate["protocol"], False)
    assert plan_warnings(replace(plan, certificate=certificate)) == [
        f"fold 1: 1 texts are in train and test, spoken in {len(splits[0].test)} test utterances"
    ]
