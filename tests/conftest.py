"""A tiny true IEMOCAP tree of tones, and recipes that train a fold of it in a second or two."""

import gc
import json
import os
import pickle
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from accelerate.state import AcceleratorState
from hypothesis import settings

from config.loading import load_config
from config.schema import Config
from evaluation.metrics import scores
from storage.environment import write_environment
from storage.fold_folder import FoldMetrics, Scores, write_metrics
from storage.ledger import record_test_evaluation
from storage.provenance import git_commit
from system.files import write_csv, write_json
from tests.support.promises import PROMISES

os.environ["OMP_NUM_THREADS"] = "1"  # for subprocesses: the same sums in the same order
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore in background jobs
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
settings.register_profile("tests", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("search", max_examples=60, deadline=None)  # draws others in every run
settings.load_profile("tests")

SAMPLE_RATE = 16_000
PITCHES = {"neu": 300.0, "hap": 700.0, "ang": 1500.0, "sad": 3000.0}  # Hz, one a class
RECIPE = {
    "name": "tiny",
    "corpus": {"name": "iemocap", "labels": "iemocap4-exc", "expect_published_counts": False},
    "protocol": {"split": "leave-one-session-out"},
    "features": {
        "sample_rate": SAMPLE_RATE,
        "cqt": {"fmin": 200.0, "n_bins": 40, "bins_per_octave": 9, "hop_length": 256},
        "mel": {"n_fft": 512, "hop_length": 256, "n_mels": 32},
    },
    "model": {
        "fusion": "gmu",
        "cqt_backbone": "test_maxvit",
        "mel_backbone": "mvitv2_micro",
        "pretrained": False,
        "image_size": 32,
        "mlp_hidden_dim": 16,
    },
    "optim": {"lr": 1e-3, "schedule": "constant"},
    "train": {"epochs": 2, "batch_size": 8},
    "run": {"folds": [1], "device": "cpu", "workers": 0},
}


def tone(frequency: float, seconds: float, seed: int) -> np.ndarray:
    """Return a tone in noise: (T,)."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = 0.05 * draw.standard_normal(len(time))
    return (0.5 * np.sin(2 * np.pi * frequency * time) + noise).astype(np.float32)


def write_dialog(root: Path, session: int, dialog: str, gender: str) -> None:
    """Write one dialog in which one speaker says one clip of each class."""
    name = f"Ses0{session}{gender}_{dialog}"
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for i, (label, pitch) in enumerate(PITCHES.items()):
        clip = f"{name}_{gender}{i:03d}"
        seed = 100 * session + 10 * (gender == "M") + i
        path = root / f"Session{session}" / "sentences" / "wav" / name / f"{clip}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(pitch * (1 + 0.02 * session), 0.2 + 0.02 * i, seed), SAMPLE_RATE)
        lines.append(f"[{i}.0000 - {i}.2000]\t{clip}\t{label}\t[2.5000, 2.5000, 2.5000]")
    labels = root / f"Session{session}" / "dialog" / "EmoEvaluation" / f"{name}.txt"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("\n".join(lines) + "\n")


def write_run(folder: Path, fusion: str = "concat", **certificate: object) -> Path:
    """Write what a run folder has before the first fold."""
    values = {
        "name": "run",  # the folder may be called anything
        "corpus": {"name": "iemocap", "root": "somewhere", "labels": "iemocap4-exc"},
        "protocol": {"split": "leave-one-session-out"},
        "model": {"fusion": fusion},
    }
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    folds = [{"fold": k, "test": {"recordings": f"clips {k}"}} for k in range(1, 11)]
    known = {"id": "x", "protocol": "p", "speaker_dependent": False, "folds": folds}
    (folder / "split_certificate.json").write_text(json.dumps(known | certificate))
    return folder


def write_card(fold: Path, classes: Sequence[str], features: Mapping[str, object]) -> None:
    """Write the model.json of a fold for images of some settings; the model is the tiny one."""
    model = {key: RECIPE["model"][key] for key in ("fusion", "cqt_backbone", "mel_backbone")}
    model |= {"n_classes": len(classes), "n_channels": 1, "image_size": features["image_size"]}
    card = {"model": model, "classes": list(classes), "features": features, "protocol": "p"}
    write_json(fold / "model.json", card)


def made_metrics(
    fold: int, seed: int, classes: Sequence[str], n_dev: int, n_test: int, **facts: Any
) -> FoldMetrics:
    """Return the metrics of a fold, of which only the counts and the facts mean something."""
    values = {name: 0.5 for name in ("ua", "wa", "macro_f1", "weighted_f1")}
    dev, test = (
        Scores(**values, per_class_recall=[0.5, None], confusion=[[n, 0], [0, 0]], n=n)
        for n in (n_dev, n_test)
    )
    facts = {"protocol": "p", "certificate": "x", "best_epoch": 1, "epochs": 1, **facts}
    return FoldMetrics(fold=fold, seed=seed, classes=classes, dev=dev, test=test, **facts)


def write_fold(run: Path, fold: int, seed: int, clips: Sequence[tuple], **facts: object) -> Path:
    """Write a finished fold of two classes; clips are (id, speaker, target, prediction)."""
    folder = run / "folds" / f"fold-{fold}_seed-{seed}"
    folder.mkdir(parents=True)
    of_run = json.loads((run / "split_certificate.json").read_text())
    facts = {"protocol": of_run["protocol"], "certificate": of_run["id"], **facts}
    metrics = made_metrics(fold, seed, ("a", "b"), 0, len(clips), **facts)
    targets, preds = ([("a", "b").index(clip[i]) for clip in clips] for i in (2, 3))
    write_metrics(folder, replace(metrics, test=Scores(**scores(targets, preds, 2))))
    write_environment(folder, {"command": [], "git_commit": str(fold)})
    (folder / "model.safetensors").write_bytes(b"w")
    rows = [["test", *clip, 0.5, 0.5, ""] for clip in clips]
    header = ["split", "utterance", "speaker", "target", "pred", "prob_a", "prob_b", "gate_mean"]
    write_csv(folder / "predictions.csv", header, rows)
    card = {"protocol": "p", "certificate": "x", "fold": fold, "seed": seed}
    card |= {"test_clips": f"clips {fold}"}
    record_test_evaluation(run, card, len(clips), folder, "test", "because")
    return folder


class Payload:
    """Makes a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What a payload leaves; the payload works, and no test's loader has run it."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()
    marker.rmdir()
    yield marker
    assert not marker.exists()


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps device and precision for the life of a process: forget them."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session", autouse=True)
def _quick_collector():
    """A run ends with a full collection: leave out what was there before."""
    gc.freeze()


@pytest.fixture(scope="session")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 sessions x (a woman improvises, a man reads) x 4 classes = 40 clips of 0.2 s."""
    root = tmp_path_factory.mktemp("corpus") / "IEMOCAP"
    for session in range(1, 6):
        write_dialog(root, session, "impro01", "F")
        write_dialog(root, session, "script01_1", "M")
    return root


@pytest.fixture(scope="session")
def recipe(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML file of a fold of a second or two; its feature store serves the whole session."""
    folder = tmp_path_factory.mktemp("recipe")
    values = RECIPE | {"corpus": {**RECIPE["corpus"], "root": str(corpus_root)}}
    values["run"] = {**RECIPE["run"], "root": "nowhere", "store": str(folder / "features")}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def tiny(recipe: Path, tmp_path: Path) -> Iterator[Callable[..., Config]]:
    """Make the tiny config with overrides; it runs in this test's own folder."""

    def make(*overrides: str) -> Config:
        return load_config(recipe, [f"run.root={tmp_path / 'runs'}", *overrides])

    yield make
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)  # weights and optimizers: some 100 MB


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="file for what the tests of promises did")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record"):
        settings.load_profile("search")
        if not hasattr(config, "workerinput"):  # of several processes the first hears of all tests
            config.pluginmanager.register(Recorder(config.getoption("--record")), "recorder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("promise"):
            assert mark.args[0] in PROMISES, f"{item.nodeid}: no promise {mark.args[0]!r}"
            item.user_properties.append(("promise", mark.args[0]))


@pytest.fixture
def count(record_property: Callable) -> Callable[..., None]:
    """Count what a promise's test tried: `count("kills survived")`, `count("fuzz cases", 1000)`."""
    return lambda what, n=1: record_property("count", (what, n))


class Recorder:
    """Writes results/reliability.json: by promise, the tests that passed and what they counted."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cases: dict[str, Counter[str]] = {key: Counter() for key in PROMISES}
        self.counts: dict[str, Counter[str]] = {key: Counter() for key in PROMISES}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        promises = [value for name, value in report.user_properties if name == "promise"]
        if promises and report.outcome != "passed":
            self.failed.append(f"{report.nodeid} {report.outcome}")
        if report.when != "call" or report.outcome != "passed":
            return
        for key in promises:
            self.cases[key][report.nodeid.partition("[")[0]] += 1
            for name, value in report.user_properties:
                if name == "count":
                    self.counts[key][value[0]] += value[1]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus and not self.failed:  # modules that cannot be read, or Ctrl-C
            self.failed = [f"pytest ended with status {int(exitstatus)}"]
        self.failed += [f"no test of {key!r}" for key, ran in self.cases.items() if not ran]
        if not self.failed:
            promises = {
                text: {"tests": dict(self.cases[key]), "counts": dict(self.counts[key])}
                for key, text in PROMISES.items()
            }
            write_json(self.file, {"git_commit": git_commit(), "promises": promises})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        said = f"{self.file} was written"
        if self.failed:
            said = f"{self.file} was not written: " + ", ".join(self.failed)
        terminalreporter.write_line(said)
