"""Scores in metrics.json must be those of predictions.csv."""

import pytest

from evaluation.summary import summarize
from storage.run_folder import read_run
from system.errors import RunError
from system.files import read_json, write_json
from tests.conftest import write_fold, write_run

CLIPS = [("1", "s", "a", "a"), ("2", "s", "a", "b"), ("3", "t", "b", "b"), ("4", "t", "b", "b")]


@pytest.fixture
def fold(tmp_path):
    return write_fold(write_run(tmp_path), 1, 0, CLIPS)


@pytest.mark.parametrize(
    ("key", "value", "recorded", "found"),
    [
        ("wa", 0.8, "0.8", "0.75"),
        ("ua", 0.75001, "0.75001", "0.75"),
        ("macro_f1", 0.5, "0.5", "0.733"),
        ("per_class_recall", [0.5, None], r"\[0.5, None\]", r"\[0.5, 1.0\]"),
        ("confusion", [[2, 0], [0, 2]], r"\[\[2, 0\], \[0, 2\]\]", r"\[\[1, 1\], \[0, 2\]\]"),
        ("confusion", [[1, 1]], r"\[\[1, 1\]\]", r"\[\[1, 1\], \[0, 2\]\]"),
    ],
)
def test_a_score_that_predictions_do_not_give_is_refused(fold, key, value, recorded, found):
    metrics = read_json(fold / "metrics.json")
    metrics["test"][key] = value
    write_json(fold / "metrics.json", metrics)
    words = f"{fold}: metrics.json has test.{key} {recorded}.*, but predictions.csv gives {found}"
    with pytest.raises(RunError, match=words):
        summarize(fold.parent.parent)


def test_rounding_is_no_contradiction(fold):
    metrics = read_json(fold / "metrics.json")
    metrics["test"]["wa"] += 1e-6
    write_json(fold / "metrics.json", metrics)
    assert summarize(fold.parent.parent).n == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 3}, "4 test rows, metrics.json has 3"),
        ({"classes": ["a", "c"]}, "no column prob_c"),
        ({"classes": ["a"]}, "line 3|'b'|add up"),
        ({"gate_mean": 0.5}, "gate_mean 0.5, but predictions.csv gives None"),
    ],
)
def test_other_counts_classes_or_gates_are_refused(fold, change, reason):
    metrics = read_json(fold / "metrics.json")
    where = metrics["test"] if "n" in change else metrics
    where.update(change)
    write_json(fold / "metrics.json", metrics)
    with pytest.raises(RunError, match=reason):
        summarize(fold.parent.parent)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("1,s,a,a,nan,0.5,", "line 2: its probabilities"),
        ("1,s,a,a,1.5,-0.5,", "line 2: its probabilities"),
        ("1,s,a,a,0.5,0.4,", "line 2: its probabilities"),
        ("1,s,a,a,1e400,0,", "line 2: its probabilities"),
        ("1,s,a,a,half,0.5,", "line 2: could not convert"),
        ("1,s,a,a,0.2,0.8,", "line 2: pred is a, which is not the most probable"),
        ("1,s,a,a,0.5,0.5,inf", "line 2: gate_mean is inf"),
        ("1,s,a,z,0.5,0.5,", "line 2: 'z'"),
        ("1,s,a,a,0.5", "cut short in line 2"),
    ],
)
def test_predictions_that_no_model_makes_are_refused(fold, values, reason):
    lines = (fold / "predictions.csv").read_text().splitlines()
    lines[1] = f"test,{values}"
    (fold / "predictions.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=f"predictions.csv .*{reason}.*remove {fold} and"):
        _ = read_run(fold.parent.parent).folds[0].test
