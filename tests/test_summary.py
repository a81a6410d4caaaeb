"""Seeds and folds are averaged only over what they have in common; damage is told."""

import pytest
from conftest import write_fold, write_run

from errors import InputError, RunError
from ledger import looks, note, read_ledger
from run_folder import read_run
from summary import summarize


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


def finish(run, fold, seed, right, wrong):
    """Write a finished fold with clips of class a, some right and some wrong, two speakers."""
    clips = [(f"{fold}-{i}", f"s{i % 2}", "a", "ba"[i < right]) for i in range(right + wrong)]
    return write_fold(run, fold, seed, clips)


def test_only_folds_that_every_seed_has_finished_count(run):
    finish(run, 1, 0, 9, 1)
    finish(run, 2, 0, 1, 9)
    finish(run, 1, 1, 7, 3)
    summary = summarize(run)
    assert (summary["folds"], summary["seeds"], summary["n"]) == ([1], [0, 1], 10)
    assert summary["test"]["wa"]["mean"] == pytest.approx(0.8)
    assert summary["test"]["wa"]["pooled"] == pytest.approx(0.8)
    assert summary["test"]["wa"]["seed_std"] == pytest.approx(0.2 / 2**0.5)
    assert summary["test"]["wa"]["std"] is None


def test_without_a_common_fold_the_furthest_seed_speaks(run):
    finish(run, 1, 0, 9, 1)
    finish(run, 10, 0, 5, 5)
    finish(run, 2, 1, 1, 9)
    summary = summarize(run)
    assert (summary["folds"], summary["seeds"]) == ([1, 10], [0])
    assert summary["test"]["wa"]["std"] == pytest.approx(0.4 / 2**0.5)
    assert summary["commits"] == ["1", "10"]
    assert "made by 2 commits" in (run / "summary.md").read_text()


def test_the_ledger_counts_looks_at_the_same_clips_only(run):
    folder = finish(run, 1, 0, 9, 1)
    card = {"protocol": "p", "certificate": "x", "fold": 1, "seed": 0}
    note(run, card, 10, folder, "robustness", "noise")
    note(run, card | {"certificate": "of other splits"}, 10, folder, "test", "because")
    assert looks(run, "x") == {"fold 1 seed 0": {"test": 1, "robustness": 1}}
    assert len(read_ledger(run)) == 3
    assert summarize(run)["looks"] == looks(run, "x")
    said = "read more than once: fold 1 seed 0: 1 x robustness, 1 x test."
    assert said in (run / "summary.md").read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ledger.jsonl", '{"when": 1}\n'),
        ("ledger.jsonl", '{"wh'),
        ("folds/fold-1_seed-0/predictions.csv", "split,utterance\n"),
        ("folds/fold-1_seed-0/predictions.csv", "split,utterance,speaker\ntest,a,b\n"),
        ("folds/fold-1_seed-0/metrics.json", "{}"),
        ("split_certificate.json", "[]"),
    ],
)
def test_damage_is_told_with_the_way_on(run, name, text):
    finish(run, 1, 0, 9, 1)
    (run / name).write_text(text)
    with pytest.raises(RunError, match=f"{name.split('/')[-1]} is missing, damaged"):
        summarize(run)


def test_folders_that_are_no_runs_are_told_apart(run):
    with pytest.raises(InputError, match="no finished fold yet"):
        read_run(run)
    folder = finish(run, 1, 0, 9, 1)
    with pytest.raises(InputError, match=f"name the run that this fold belongs to: {run}$"):
        read_run(folder)
    with pytest.raises(InputError, match=f"runs in it: {run}"):
        read_run(run.parent)
