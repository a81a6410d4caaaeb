"""A fold's files are read back as they were written; those of an earlier version are read too."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from storage.environment import read_environment, write_environment
from storage.fold_folder import (
    FoldMetrics,
    PredictionTable,
    TrainingIssues,
    read_history,
    read_metrics,
    read_predictions,
    write_history,
    write_metrics,
    write_predictions,
)
from storage.folders import is_finished
from storage.run_folder import read_run
from system.errors import RunError
from system.files import read_json, write_json
from tests.conftest import made_metrics, write_fold, write_run

CLASSES = ("calm", "glad")
SKIPPED = {"epoch": 1, "batch": 2, "what": "loss", "parts": ["mel"], "clips": ["a"]}
FALLBACK = {"epoch": 1, "what": "loss", "float32": ["mel"], "back_to_epoch": 0}
WARNING = {"epoch": 2, "what": "gate", "words": "the gate is nearly 1", "epochs": [2, 3]}
ISSUES = TrainingIssues(
    bad_steps=1,
    incidents=[SKIPPED],
    float32_fallbacks=[FALLBACK],
    float32=["mel"],
    collapse_warnings=[WARNING],
)


@pytest.fixture
def fold(tmp_path: Path) -> Path:
    """The folder of the fold and seed that `metrics` describes."""
    folder = tmp_path / "fold-2_seed-1"
    folder.mkdir()
    return folder


def metrics(**facts: object) -> FoldMetrics:
    return made_metrics(2, 1, list(CLASSES), 3, 4, **facts)


def table(gate: bool, seed: int = 0) -> PredictionTable:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([1, 1], 4).astype(np.float32).round(6)  # (N, K)
    return PredictionTable(
        np.array(["d", "b", 'c,"', "a "]),
        np.array(["s1", "s2", "s1", "s2"]),
        np.array([0, 1, 1, 0]),
        probs.argmax(1),
        probs,
        rng.random(4).round(6) if gate else None,
    )


def test_metrics_are_read_as_written_and_mark_the_fold_as_finished(fold: Path) -> None:
    written = metrics(training_issues=ISSUES, gate_mean=0.25, epochs=5)
    assert not is_finished(fold)
    write_metrics(fold, written)
    assert is_finished(fold)
    assert read_metrics(fold) == written
    assert list(read_json(fold / "metrics.json")) == [
        *("protocol", "certificate", "fold", "seed", "classes", "best_epoch", "epochs"),
        *("training_issues", "dev", "test", "gate_mean", "made_with"),
    ]


@pytest.mark.parametrize(
    ("issues", "any_issue"),
    [
        (TrainingIssues(), False),
        (TrainingIssues(incidents=[SKIPPED], float32=["mel"]), False),
        (TrainingIssues(bad_steps=1), True),
        (TrainingIssues(float32_fallbacks=[FALLBACK]), True),
        (TrainingIssues(collapse_warnings=[WARNING]), True),
    ],
)
def test_issues_are_true_if_there_was_one(issues: TrainingIssues, any_issue: bool) -> None:
    assert bool(issues) is any_issue


def older(written: FoldMetrics) -> dict:
    """Return the metrics.json that an earlier version wrote."""
    values = asdict(written)
    issues = values.pop("training_issues")
    issues["repairs"], issues["alarms"] = (
        issues.pop("float32_fallbacks"),
        issues.pop("collapse_warnings"),
    )
    return {"trouble": issues, "val": values.pop("dev"), **values}


def test_the_metrics_of_an_earlier_version_are_read(fold: Path) -> None:
    written = metrics(training_issues=ISSUES, gate_mean=0.25)
    content = older(written)
    write_json(fold / "metrics.json", content)
    assert not {"dev", "training_issues"} & content.keys()
    assert read_metrics(fold) == written
    del content["trouble"], content["epochs"], content["gate_mean"]
    write_json(fold / "metrics.json", content)
    assert read_metrics(fold) == metrics(epochs=None)


def test_a_run_folder_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    fold = write_fold(run, 1, 0, [("u1", "s1", "a", "b"), ("u2", "s2", "b", "b")])
    now = read_run(run)
    issues = {"bad_steps": 1, "incidents": [SKIPPED], "repairs": [], "float32": [], "alarms": []}
    write_json(fold / "metrics.json", older(read_metrics(fold)) | {"trouble": issues})
    (result,) = read_run(run).folds
    assert result.metrics.training_issues == TrainingIssues(bad_steps=1, incidents=[SKIPPED])
    assert replace(result.metrics, training_issues=TrainingIssues()) == now.folds[0].metrics
    assert result.test.utterances.tolist() == ["u1", "u2"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("fold", "1", "fold: Input should be a valid integer"),
        ("fold", 1.5, "fold: "),
        ("seed", {}, "seed: Input should be a valid integer"),
        ("classes", "ab", "classes: "),
        ("classes", [[], "b"], "classes.0: Input should be a valid string"),
        ("best_epoch", None, "best_epoch: "),
        ("protocol", 3, "protocol: "),
        ("dev", {}, "dev.ua: Field required"),
        ("test", [], "test: "),
        ("training_issues", {"bad_steps": "many"}, "training_issues.bad_steps: "),
    ],
)
def test_metrics_of_another_type_are_refused_by_name(tmp_path, key, value, reason) -> None:
    write_json(tmp_path / "metrics.json", asdict(metrics()) | {key: value})
    with pytest.raises(
        RunError, match=f"metrics.json is .*corrupt.*\\({reason}.*remove {tmp_path} "
    ):
        read_metrics(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000, '{"trouble":' * 5000])
def test_what_is_not_metrics_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=f"metrics.json is .*corrupt.*remove {tmp_path} "):
        read_metrics(tmp_path)


@pytest.mark.parametrize("name", ["fold-2_seed-1 copy", "fold-2_seed-1.bak", "fold-1_seed-1"])
def test_a_copied_or_renamed_fold_is_refused(fold: Path, name: str) -> None:
    write_metrics(fold, metrics())
    other = fold.rename(fold.parent / name)
    with pytest.raises(RunError, match=f"{name} is not named fold-2_seed-1.* Move it out of"):
        read_metrics(other)


def test_a_best_epoch_that_was_not_trained_is_refused(fold: Path) -> None:
    for best, epochs in ((5, 4), (0, 4)):
        write_json(
            fold / "metrics.json", asdict(metrics()) | {"best_epoch": best, "epochs": epochs}
        )
        with pytest.raises(RunError, match=f"best_epoch is {best} of 4 epochs"):
            read_metrics(fold)


def test_deep_nesting_in_metrics_is_refused(tmp_path: Path) -> None:
    nested: dict = {}
    for _ in range(400):
        nested = {"trouble": nested}
    (tmp_path / "metrics.json").write_text(json.dumps(asdict(metrics()) | nested))
    with pytest.raises(RunError, match="metrics.json is .*corrupt"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("gate", [True, False])
def test_predictions_are_read_as_written(tmp_path: Path, gate: bool) -> None:
    tables = {"dev": table(gate, 1), "test": table(gate, 2)}
    write_predictions(tmp_path, CLASSES, tables)
    for split, written in tables.items():
        found = read_predictions(tmp_path, CLASSES, split, 4)
        for name in ("utterances", "speakers", "targets", "preds"):
            assert getattr(found, name).tolist() == getattr(written, name).tolist()
        np.testing.assert_allclose(found.probs, written.probs, atol=5e-7)
        if written.gate is None:
            assert found.gate is None
        else:
            np.testing.assert_array_equal(found.gate, written.gate)
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0]
    assert header == "split,utterance,speaker,target,pred,prob_calm,prob_glad,gate_mean"


def test_columns_of_unequal_length_are_not_written(tmp_path: Path) -> None:
    short = replace(table(True), gate=np.zeros(3))
    with pytest.raises(ValueError, match="zip"):
        write_predictions(tmp_path, CLASSES, {"test": short})
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("classes", "n", "reason"),
    [
        (CLASSES, 3, "4 test rows, metrics.json has 3"),
        (("calm", "sad"), 4, "no column prob_sad"),
        (("calm", "glad", "sad"), 4, "no column prob_sad"),
    ],
)
def test_predictions_of_other_counts_or_classes_are_refused(tmp_path, classes, n, reason) -> None:
    write_predictions(tmp_path, CLASSES, {"test": table(False)})
    with pytest.raises(RunError, match=f"predictions.csv is .*{reason}.*remove {tmp_path} "):
        read_predictions(tmp_path, classes, "test", n)


def test_history_is_read_as_written(tmp_path: Path) -> None:
    history = [{"epoch": 1, "loss": 0.1 + 0.2, "dev_ua": 0.5}]
    history += [{"epoch": 2, "loss": float("nan"), "dev_ua": 1 / 3}]
    write_history(tmp_path, history)
    first, second = read_history(tmp_path)
    assert first == history[0]
    assert np.isnan(second.pop("loss")) and second == {"epoch": 2, "dev_ua": 1 / 3}


def test_environment_is_read_as_written(tmp_path: Path) -> None:
    written = {"command": ["train.py"], "git_commit": None, "packages": {"torch": "2"}}
    write_environment(tmp_path, written | {"seconds": 1.5})
    assert read_environment(tmp_path, None) == written | {"seconds": 1.5}
