"""Tuning sees no test clip, trains as a run does, goes on after stops, and writes a config."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from accelerate.state import AcceleratorState
from optuna.distributions import CategoricalDistribution, FloatDistribution

from audio import reading as audio
from config.loading import flatten, load_config
from corpora.plan import make_plan, make_tuning_plan
from experiments import study as trials
from experiments import tuning_report
from experiments.storages import JOURNAL, Store
from experiments.study import COMPLETE, MAX_STARTS, Result
from experiments.tuning import Tuning, load_tuning, tune
from experiments.tuning_report import describe_study, draw_figures
from system.errors import InputError, RunError
from system.files import make_folder, read_json
from system.locks import lock
from system.signals import Stop
from tests.support.paths import ROOT
from tests.support.runs import run_experiment, without_images
from training import fold
from training.beside import _open
from training.checkpoints import Progress
from training.session import Fold

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 3e-3, "log": True},
    "model.fusion_hidden_dim": {"choices": [None, 8]},
    "loss.alpha": {"low": 0, "high": 1.5},  # left out: the recipe's fusion has no such loss
}
LR = FloatDistribution(1e-4, 3e-3, log=True)
FREE = ["train.epochs=1", "run.folds=[1]"]
FILES = {"config.yaml", "study.json", "study.db", "trials", "trials.csv", "best.yaml"}
FILES |= {"history.png", "importance.png", "slices.png", "curves.png"}
FILES |= {".lock", ".lock.opening", ".lock.report"}


@pytest.fixture
def study(recipe, tmp_path) -> Iterator[Callable[..., Tuning]]:
    """Load what is tuned, in this test's own folder."""

    def make(*overrides: str, root: str = "runs", space: dict = SPACE) -> Tuning:
        AcceleratorState._reset_state(reset_partial_state=True)
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(space))
        wishes = [*FREE, f"run.root={tmp_path / root}", *overrides]
        words = ["--config", str(recipe), "--space", str(file), "--trials", "2", *wishes]
        return load_tuning(str(recipe), str(file), wishes, ["python", "tune.py", *words])

    yield make
    shutil.rmtree(tmp_path)


@pytest.fixture
def deaf(corpus_root, tmp_path) -> Path:
    """The corpus without the audio of session 1, which fold 1 tests."""
    root = shutil.copytree(corpus_root, tmp_path / "deaf")
    for clip in root.rglob("Ses01*.wav"):
        clip.unlink()
    return root


@pytest.fixture
def opened(monkeypatch) -> set[str]:
    """The audio files that are opened by any of the functions that open one."""
    names: set[str] = set()
    for name in ("inspect_audio", "read_audio"):
        real = getattr(audio, name)

        def noted(path: Path, *args: object, real: Callable = real) -> object:
            names.add(Path(path).stem)
            return real(path, *args)

        for module in [m for m in sys.modules.values() if getattr(m, name, None) is real]:
            monkeypatch.setattr(module, name, noted)
    return names


@pytest.fixture
def quick(monkeypatch) -> list[float]:
    """Replace training: dev UA is higher for smaller rates; return the rates that were trained."""
    trained: list[float] = []

    def train(job: Fold, folder: Path, watch: Callable[[Progress], None]) -> Progress:
        trained.append(job.config.optim.lr)
        progress = Progress(epoch=1, best_score=1 - job.config.optim.lr, best_epoch=1)
        watch(progress)
        return progress

    monkeypatch.setattr(fold, "train_fold", train)
    return trained


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def test_a_study_needs_no_test_clip_and_trains_as_a_run_does(
    study, deaf, opened, corpus_root, recipe, caplog, tmp_path
) -> None:
    with caplog.at_level("INFO"):
        tuned = study(f"corpus.root={deaf}", f"run.store={tmp_path / 'store'}", "train.epochs=2")
        words = tune(tuned, 2, 1, Stop())
    assert "loss.alpha is left out of the space: it has no effect" in caplog.text
    assert {name[:5] for name in opened} == {"Ses02", "Ses03", "Ses04", "Ses05"}
    folder = tuned.folder
    assert folder.name == "tiny_tuning" and {path.name for path in folder.iterdir()} == FILES
    assert "2 complete in" in words and "best.yaml" in words
    rows = rows_of(folder)
    assert [row["state"] for row in rows] == ["complete"] * 2 and "loss.alpha" not in rows[0]
    assert not list(folder.rglob("*.safetensors"))
    best = max(rows, key=lambda row: (float(row["dev_ua"]), -int(row["number"])))
    config = load_config(folder / "best.yaml", [f"corpus.root={corpus_root}"])
    assert config.name == "tiny_tuned" and config.run.folds == [1]
    assert config.optim.lr == json.loads(best["optim.lr"])
    assert config.model.fusion_hidden_dim == json.loads(best["model.fusion_hidden_dim"])
    about = (folder / "best.yaml").read_text()
    for part in (
        f"trial {best['number']}",
        f"{float(best['dev_ua']):.4f}",
        "python tune.py",
        "--c",
    ):
        assert part in about
    assert "only the test score of fold 1 is untouched by tuning" in about
    run = run_experiment(config, [])
    (history,) = run.glob("folds/*/history.csv")
    trial = folder / "trials" / best["number"]
    assert history.read_bytes() == (trial / "history.csv").read_bytes()
    changed = flatten(config.model_dump()).items() ^ flatten(tuned.config.model_dump()).items()
    assert {key for key, _ in changed} <= {"name", "corpus.root", *SPACE}


def test_a_stopped_study_resumes_and_comes_to_the_same(study, monkeypatch) -> None:
    whole = study("train.epochs=2", root="whole")
    tune(whole, 2, 1, Stop())
    stopped = study("train.epochs=2", root="stopped")
    report = trials.Study.report

    def interrupted(self, trial, ua, epoch):
        report(self, trial, ua, epoch)
        if (trial.number, epoch) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trials.Study, "report", interrupted)
        with (stop := Stop()).install_handlers():
            tune(stopped, 2, 1, stop)
    assert list((stopped.folder / "trials/1/state").glob("epoch-0001*.safetensors"))
    assert [row["state"] for row in rows_of(stopped.folder)] == ["complete"]
    tune(study("train.epochs=2", root="stopped"), 2, 1, Stop())
    assert rows_of(stopped.folder) == rows_of(whole.folder)
    for n in (0, 1):
        histories = [
            (one.folder / f"trials/{n}/history.csv").read_bytes() for one in (whole, stopped)
        ]
        assert histories[0] == histories[1]
    assert not list(stopped.folder.rglob("*.safetensors"))


def test_several_processes_share_the_trials(study, recipe, tmp_path) -> None:
    tuned = study()
    words = [sys.executable, str(ROOT / "tune.py"), *tuned.command[2:], "--workers", "2"]
    done = subprocess.run([*words, "--trials", "3"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 complete in" in done.stdout and len(rows_of(tuned.folder)) == 3
    logs = [path.read_text() for path in (tuned.folder / "logs").iterdir()]
    trained = [sum(f"trial {n}: dev UA" in log for log in logs) for n in range(3)]
    assert len(logs) == 2 and trained == [1, 1, 1]
    assert tune(study(), 3, 1, Stop()) in done.stdout  # nothing is left to do


def test_a_trial_that_diverges_or_cannot_be_does_not_end_the_study(study) -> None:
    rates = {"optim.lr": {"choices": [1e28]}}
    with pytest.raises(RunError, match="(?s)1 diverged in .*No trial is complete.*NaN or infinite"):
        tune(study(root="hot", space=rates), 1, 1, Stop())
    heads = {"model.attention_heads": {"choices": [7]}}
    tuned = study("model.fusion=cross_attention", root="heads", space=heads)
    with pytest.raises(RunError, match="1 invalid in .*"):
        tune(tuned, 1, 1, Stop())
    (row,) = rows_of(tuned.folder)
    assert row["state"] == "invalid" and "attention_heads" in row["reason"]


def test_values_that_do_not_go_together_are_noted_and_not_trained(study, quick) -> None:
    space = {
        "train.patience": {"choices": [2, 9]},
        "optim.plateau_patience": {"choices": [2, 7]},
        "optim.lr": {"low": 1e-4, "high": 1e-2},
    }
    plateau = ("optim.schedule=plateau", "train.patience=20")
    tuned = study(*plateau, space={**space, "train.patience": {"choices": [4, 20]}})
    tune(tuned, 9, 1, Stop())
    rows = rows_of(tuned.folder)
    bad = [(row["train.patience"], row["optim.plateau_patience"]) for row in rows if row["reason"]]
    assert set(bad) == {("4", "7")} and len(quick) == len(rows) - len(bad)
    assert all("train.patience=4" in row["reason"] for row in rows if row["reason"])


def test_another_config_or_space_or_corpus_is_refused(study, quick, deaf, tmp_path) -> None:
    tune(study(), 1, 1, Stop())
    with pytest.raises(InputError, match="(?s)or corpus:\n  model.dropout: 0.2 there"):
        study("model.dropout=0.3")
    wider = SPACE | {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    with pytest.raises(InputError, match="space of optim.lr: .*0.003.* there, .*0.01.* now"):
        study(space=wider)
    with pytest.raises(InputError, match=r"run.folds: \[1\] there, \[2\] now"):
        study("run.folds=[2]")
    for clip in deaf.rglob("Ses02F*000.wav"):
        shutil.copy(next(deaf.rglob("Ses02F*001.wav")), clip)
    with pytest.raises(InputError, match="train and dev utterances: '.*' there, '.*' now"):
        tune(study(f"corpus.root={deaf}"), 1, 1, Stop())
    shutil.rmtree(tmp_path / "runs/tiny_tuning/trials")
    (tmp_path / "runs/tiny_tuning/study.json").unlink()
    with pytest.raises(InputError, match="is not a study"):
        study()


def test_a_study_in_a_journal_is_tuned_and_another_storage_is_refused(study, quick) -> None:
    tuned = replace(study(), storage=JOURNAL)
    tune(tuned, 2, 1, Stop())
    assert [row["state"] for row in rows_of(tuned.folder)] == ["complete"] * 2
    assert (tuned.folder / "study.journal").is_file() and not (tuned.folder / "study.db").exists()
    with pytest.raises(InputError, match="storage: 'journal' there, 'sqlite' now"):
        study()


@pytest.mark.parametrize(
    ("now", "words"),
    [("dropout: 0.9", "model.dropout: 0.9 there, 0.2 now"), ("dropout: [", "is not valid YAML")],
)
def test_a_config_that_was_edited_in_the_folder_trains_nothing(study, quick, now, words) -> None:
    tune(study(), 1, 1, Stop())
    file = study().folder / "config.yaml"
    assert file.read_text().count("  dropout: 0.2\n") == 1
    file.write_text(file.read_text().replace("dropout: 0.2", now))
    with pytest.raises(InputError, match=words):
        study()
    assert len(quick) == 1


def test_a_study_without_a_complete_trial_draws_nothing(tmp_path, caplog) -> None:
    opened = trials.Study(tmp_path, {"optim.lr": LR}, 0, 1)
    with opened.claim(1) as trial:
        opened.finish(trial, trials.INVALID, reason="because")
    draw_figures(opened)
    assert not list(tmp_path.glob("*.png"))
    assert not [record for record in caplog.records if record.name.startswith("optuna.visual")]


def test_a_study_whose_draws_would_differ_is_refused(study, quick, monkeypatch) -> None:
    """PEER_DEFECTS 35: another major version of Optuna, or other options of its sampler."""
    tuned = study()
    tune(tuned, 1, 1, Stop())
    about = read_json(tuned.folder / "study.json")
    assert about["optuna"] == optuna.__version__ and "multivariate=True" in about["sampler"]
    with monkeypatch.context() as patch, pytest.raises(InputError, match="sampler: .* now"):
        patch.setitem(trials.SAMPLER, "multivariate", False)
        study()
    with monkeypatch.context() as patch, pytest.raises(InputError, match="TPESampler of Optuna 9"):
        patch.setattr(optuna, "__version__", "9.0.0")
        study()
    major = optuna.__version__.partition(".")[0]
    monkeypatch.setattr(optuna, "__version__", f"{major}.99")
    study()


def test_a_store_out_of_reach_is_one_message_and_costs_no_trial(study, quick, monkeypatch) -> None:
    tuned = study()

    def fail(*_: object, **__: object) -> None:
        raise optuna.exceptions.StorageInternalError("full")

    with monkeypatch.context() as patch:
        patch.setattr(trials.Study, "report", fail)
        for _ in range(MAX_STARTS + 1):
            with pytest.raises(RunError, match="cannot read or write the trials in .*: full"):
                tune(study(), 1, 1, Stop())
    tune(study(), 1, 1, Stop())
    assert [row["state"] for row in rows_of(tuned.folder)] == ["complete"]


def test_figures_of_a_study_need_no_importance_and_read_no_formula(tmp_path, recwarn) -> None:
    space = {"model.cqt_weights": CategoricalDistribution(("a$_$b", "c")), "optim.lr": LR}
    opened = trials.Study(tmp_path, space, 0, 1)
    for ua in (0.5, 0.5, 0.6):
        with opened.claim(9) as trial:
            opened.report(trial, ua, 1)
            opened.finish(trial, trials.COMPLETE, ua)
        draw_figures(opened)
        assert (tmp_path / "importance.png").exists() == (ua == 0.6)
        named = "No importance.png" in describe_study(opened)
        assert named == (ua == 0.5)
    for name in ("history", "slices", "curves", "importance"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [note for note in recwarn.list if note.category is not DeprecationWarning]


def test_one_fold_and_one_seed_are_tuned(study) -> None:
    assert study("run.folds=null").config.run.folds == [1]
    for wish in ("run.folds=[1,2]", "run.seeds=[0,1]"):
        with pytest.raises(InputError, match="tunes on one fold with one seed"):
            study(wish)


def test_what_would_end_every_trial_ends_the_work_and_costs_no_trial(study, quick, monkeypatch):
    tuned, train = study(), fold.train_fold

    def full(*args: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(fold, "train_fold", full)
    for _ in range(MAX_STARTS + 1):
        with pytest.raises(RunError, match="the disk is full"):
            tune(study(), 2, 1, Stop())
    monkeypatch.setattr(fold, "train_fold", train)
    tune(study(), 2, 1, Stop())
    rows = rows_of(tuned.folder)
    assert [row["state"] for row in rows] == ["complete"] * 2
    assert quick == [json.loads(row["optim.lr"]) for row in rows]


def test_trials_have_adapters_or_none(study, tmp_path) -> None:
    """Each is trained; what has no effect in a trial is neither given nor shown."""
    pytest.importorskip("peft")
    save_model = pytest.importorskip("tests.support.speech_models").save_model
    model = save_model(tmp_path / "wavlm", "wavlm-layer")
    rank, rate = "model.speech.lora_rank", "optim.backbone_lr_scale.speech"
    space = {rank: {"choices": [2, None]}, rate: {"low": 0.1, "high": 9.0}}
    words = [*without_images("speech"), f"model.speech.model={model}", f"{rank}=2"]
    words += ["optim.optimizer.speech=sgd", "train.gradient_checkpointing=true"]
    tuned = study(*words, "model.speech.lora_targets=[output_dense]", space=space)
    tune(tuned, 4, 1, Stop())
    rows = rows_of(tuned.folder)
    assert [row["state"] for row in rows] == ["complete"] * 4
    assert {row[rank] for row in rows} == {"2", "null"}
    for row in rows:
        config = load_config(tuned.folder / "trials" / row["number"] / "config.yaml")
        assert config.model.speech.lora_rank == json.loads(row[rank])
        trained = row[rank] == "2"
        assert (row[rate] != "") == trained == config.train.gradient_checkpointing
        assert config.optim.optimizer.speech == ("sgd" if trained else None)
    assert load_config(tuned.folder / "best.yaml")


@pytest.fixture
def write_vectors(tiny, tmp_path) -> Callable[[int, str], Path]:
    """Write vectors of all utterances, other ones for each seed."""

    def write(seed: int, file: str = "v.npz") -> Path:
        names = [utterance.id for utterance in make_plan(tiny()).utterances]
        vectors = np.random.default_rng(seed).normal(size=(len(names), 3))
        make_folder((tmp_path / file).parent)
        np.savez(tmp_path / file, names=np.array(names), vectors=vectors)
        _open.cache_clear()  # as in a new process
        return tmp_path / file

    return write


def test_a_begun_trial_goes_on_with_the_vectors_that_it_has_read(
    study, write_vectors, monkeypatch
) -> None:
    words = (*without_images("file"), f"model.vectors={write_vectors(1)}", "train.epochs=2")
    report = trials.Study.report

    def interrupted(self, trial, ua, epoch):
        report(self, trial, ua, epoch)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trials.Study, "report", interrupted)
        with (stop := Stop()).install_handlers():
            tune(study(*words), 1, 1, stop)
    write_vectors(2)
    for _ in range(MAX_STARTS + 1):  # it costs no trial
        with pytest.raises(RunError, match="model.vectors=.* is not what .*tiny_tuning has read.*"):
            tune(study(*words), 1, 1, Stop())
    write_vectors(1)
    tune(tuned := study(*words), 1, 1, Stop())
    assert [row["state"] for row in rows_of(tuned.folder)] == ["complete"]


def test_all_trials_of_a_study_read_the_same_vectors(study, write_vectors, quick) -> None:
    words = (*without_images("file"), f"model.vectors={write_vectors(1)}")
    tune(tuned := study(*words), 1, 1, Stop())
    write_vectors(2)
    with pytest.raises(RunError, match="another name for a new study"):
        tune(study(*words), 2, 1, Stop())
    write_vectors(1)
    tune(study(*words), 2, 1, Stop())
    assert [row["state"] for row in rows_of(tuned.folder)] == ["complete"] * 2


def test_a_study_may_compare_files_of_vectors(study, write_vectors, quick) -> None:
    files = [str(write_vectors(n, f"{n}/v.npz")) for n in (1, 2)]
    words, space = without_images("file"), {"model.vectors": {"choices": files}}
    tuned = study(*words, f"model.vectors={files[0]}", space=space)
    tune(tuned, 6, 1, Stop())
    rows = rows_of(tuned.folder)
    assert {row["state"] for row in rows} == {"complete"}
    assert {json.loads(row["model.vectors"]) for row in rows} == set(files)
    write_vectors(3, "2/v.npz")
    with pytest.raises(RunError, match="is not what"):
        tune(study(*words, f"model.vectors={files[0]}", space=space), 12, 1, Stop())


def test_who_reads_the_study_waits_while_another_begins_a_trial(study, quick) -> None:
    tuned = study()
    tune(tuned, 1, 1, Stop())
    code = f"from experiments.study import *; Study(Path({str(tuned.folder)!r}), {{}}, 0, 1)"
    with lock(tuned.folder / ".lock", "a test", blocking=True):
        waiting = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(4)
    assert waiting.wait(60) == 0
    assert Path(Store(tuned.folder).place).is_file()


def test_random_utterances_cannot_be_tuned(tiny) -> None:
    wishes = ("protocol.split=random-utterance", "protocol.allow_speaker_overlap=true")
    with pytest.raises(
        InputError, match="all audio, test audio too, must be indexed before it can split"
    ):
        make_tuning_plan(tiny(*wishes))


@pytest.mark.parametrize(
    "wishes",
    [
        ("run.folds=[2]",),
        ("run.folds=[3]", "protocol.split=leave-one-speaker-out"),
        ("run.folds=[1]", "protocol.split=speaker-k-fold", "protocol.dev=speakers"),
    ],
)
def test_train_and_dev_are_those_of_a_run(tiny, wishes) -> None:
    config = tiny(*wishes)
    (run,), (tuned,) = make_plan(config).wanted(), make_tuning_plan(config).splits
    assert (tuned.fold, tuned.train, tuned.dev, tuned.test) == (run.fold, run.train, run.dev, ())
    assert run.test


def test_train_and_dev_must_be_apart(tiny, deaf) -> None:
    """One recording in both is found, though that of a test clip cannot be."""
    source = next(deaf.rglob("Ses03F*000.wav"))
    shutil.copy(source, next(deaf.rglob("Ses02F*000.wav")))
    with pytest.raises(InputError, match="(?s)train and dev are not apart.*recording .* is in"):
        make_tuning_plan(tiny(f"corpus.root={deaf}"))


def test_bad_clips_of_train_and_dev_are_refused_or_left_out(tiny, deaf) -> None:
    next(deaf.rglob("Ses03F*000.wav")).write_bytes(b"")
    with pytest.raises(InputError, match="1 audio files cannot be used"):
        make_tuning_plan(tiny(f"corpus.root={deaf}"))
    plan = make_tuning_plan(tiny(f"corpus.root={deaf}", "corpus.on_bad_audio=skip"))
    assert len(plan.splits[0].train) == 23 and len(plan.bad) == 1


def test_a_best_trial_of_an_earlier_version_is_written(tmp_path: Path) -> None:
    """Its values may have no effect today; only new configs are refused for that."""
    study = SimpleNamespace(folder=tmp_path / "a_tuning", trial_folder=lambda number: tmp_path)
    study.folder.mkdir()
    values = load_config(ROOT / "configs/demo_gmu_contrastive.yaml").model_dump()
    values["loss"] |= {"nt_xent_weight": 0.0, "nt_xent_warmup_epochs": 5}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    best = Result(0, COMPLETE, 0.5, 1, 1, 1.0, {}, "")
    tuning_report._write_best(study, [best], ["tune.py"])
    written = yaml.safe_load((study.folder / "best.yaml").read_text())
    assert written["name"] == "a_tuned" and written["loss"]["nt_xent_warmup_epochs"] == 5
