"""Seeds and folds are averaged only over what they share; corrupt results are reported."""

import json
import os
from dataclasses import replace

import pytest

from evaluation import summary as summary_module
from evaluation.results import side_by_side
from evaluation.summary import summaries, summarize
from evaluation.tables import notes
from storage.ledger import count_test_evaluations, read_ledger, record_test_evaluation
from storage.run_folder import read_run
from system.errors import InputError, RunError
from system.files import read_json, write_json
from tests.conftest import write_fold, write_run


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
    assert (summary.folds, summary.seeds, summary.n) == ([1], [0, 1], 10)
    assert summary.test["wa"].mean == pytest.approx(0.8)
    assert summary.test["wa"].pooled == pytest.approx(0.8)
    assert summary.test["wa"].seed_std == pytest.approx(0.2 / 2**0.5)
    assert summary.test["wa"].std is None


def test_without_a_common_fold_the_furthest_seed_speaks(run):
    finish(run, 1, 0, 9, 1)
    finish(run, 10, 0, 5, 5)
    finish(run, 2, 1, 1, 9)
    summary = summarize(run)
    assert (summary.folds, summary.seeds) == ([1, 10], [0])
    assert summary.test["wa"].std == pytest.approx(0.4 / 2**0.5)
    assert summary.commits == ["1", "10"]
    assert "made by 2 commits" in (run / "summary.md").read_text()


@pytest.fixture
def clock(monkeypatch):
    """A clock, and the times at which a summary was begun; each takes a second."""
    now, begun = [0.0], []

    def write(folder):
        begun.append(now[0])
        now[0] += 1

    monkeypatch.setattr(summary_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(summary_module, "summarize", write)
    return now, begun


def train(clock, folder, folds, seconds):
    with summaries(folder) as after_fold:
        for _ in range(folds):
            clock[0][0] += seconds
            after_fold()


def test_where_folds_take_minutes_each_has_its_summary(clock, tmp_path):
    train(clock, tmp_path, 3, 100)
    assert clock[1] == [100, 201, 302]


def test_where_folds_take_a_second_summaries_take_a_tenth_and_the_last_is_written(clock, tmp_path):
    train(clock, tmp_path, 25, 1)
    assert clock[1] == [1, 12, 23, 28]


def test_a_run_that_ends_early_has_a_summary_of_what_it_finished(clock, tmp_path):
    with pytest.raises(KeyboardInterrupt), summaries(tmp_path) as after_fold:
        for _ in range(3):
            clock[0][0] += 1
            after_fold()
        raise KeyboardInterrupt
    assert clock[1] == [1, 4]
    with summaries(tmp_path) as after_fold:
        pass
    with summaries(tmp_path, is_main=False) as after_fold:
        after_fold()
    assert len(clock[1]) == 2


CARD = {"protocol": "p", "certificate": "x", "fold": 1, "seed": 0, "test_clips": "clips 1"}


def test_the_ledger_counts_looks_at_the_same_clips_only(run):
    folder = finish(run, 1, 0, 9, 1)
    record_test_evaluation(run, CARD, 10, folder, "robustness", "noise")
    record_test_evaluation(
        run, CARD | {"certificate": "of other training clips"}, 10, folder, "test", "because"
    )
    record_test_evaluation(run, CARD | {"test_clips": "others"}, 10, folder, "test", "because")
    found = {"fold 1 seed 0": {"test": 2, "robustness": 1}}
    assert count_test_evaluations(run, read_run(run).certificate) == found
    assert len(read_ledger(run)) == 4
    assert summarize(run).test_evaluations == found
    said = "evaluated more than once: fold 1 seed 0: 1 x robustness, 2 x test."
    assert said in (run / "summary.md").read_text()


def test_a_torn_line_of_the_ledger_costs_nothing_and_is_reported(run):
    folder = finish(run, 1, 0, 9, 1)
    whole = (run / "ledger.jsonl").read_text()
    (run / "ledger.jsonl").write_text(whole + "\n" + '{"when": "2026-1')
    record_test_evaluation(run, CARD, 10, folder, "test", "again")
    assert (run / "ledger.jsonl").read_text().endswith('"why": "again"}\n')
    found = {"fold 1 seed 0": {"test": 2}, "ledger": {"unreadable line": 1}}
    assert summarize(run).test_evaluations == found
    assert "ledger: 1 x unreadable line" in (run / "summary.md").read_text()
    (run / "ledger.jsonl").unlink()
    assert summarize(run).test_evaluations == {}


def test_a_line_that_cannot_be_written_leaves_nothing(run, monkeypatch):
    folder = finish(run, 1, 0, 9, 1)
    before = (run / "ledger.jsonl").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="cannot append to .*ledger.jsonl.*No space left"):
        record_test_evaluation(run, CARD, 10, folder, "test", "because")
    assert (run / "ledger.jsonl").read_bytes() == before


def test_a_fold_of_other_splits_is_refused(run):
    finish(run, 1, 0, 9, 1)
    folder = finish(run, 2, 0, 9, 1)
    metrics = read_json(folder / "metrics.json")
    for key in ("protocol", "certificate"):
        write_json(folder / "metrics.json", metrics | {key: "another"})
        with pytest.raises(RunError, match=f"its {key} is another, .* remove {folder} and run"):
            summarize(run)


def test_predictions_that_lost_rows_are_refused(run):
    folder = finish(run, 1, 0, 9, 1)
    lines = (folder / "predictions.csv").read_text().splitlines()
    (folder / "predictions.csv").write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(RunError, match=f"7 test rows, metrics.json has 10.* remove {folder} and"):
        summarize(run)


def test_what_is_left_out_is_said(run):
    finish(run, 1, 0, 9, 1)
    finish(run, 1, 1, 9, 1)
    finish(run, 2, 0, 9, 1)
    assert summarize(run).left_out == ["fold-2_seed-0"]
    text = (run / "summary.md").read_text()
    assert f"Left out of {run.name}, since not every seed has finished: fold-2_seed-0." in text
    assert "Fold 1 tests no utterance of b: its UA is over the other classes." in text


def test_audio_that_was_not_read_is_said_once_for_all_runs(run):
    finish(run, 1, 0, 9, 1)
    line = "2 audio files below corpus.root were not read: a/ (2); the first are a/1.mp3, a/2*.mp3"
    write_json(run / "unread_audio.json", {"words": [line], "files": []})
    summary = summarize(run)
    assert summary.unread_audio == [line] == read_json(run / "summary.json")["unread_audio"]
    assert line.replace("*", "\\*") + "." in (run / "summary.md").read_text()
    two = replace(side_by_side(summary), runs=[summary, summary])
    assert notes(two).count(f"{line}.") == 1


def test_a_missing_environment_names_the_fold_that_must_go(run):
    folder = finish(run, 1, 0, 9, 1)
    (folder / "environment.json").unlink()
    with pytest.raises(RunError, match=f"remove {folder} and run the same"):
        summarize(run)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("folds/fold-1_seed-0/predictions.csv", "split,utterance\n"),
        ("folds/fold-1_seed-0/predictions.csv", "split,utterance,speaker\ntest,a,b\n"),
        ("folds/fold-1_seed-0/metrics.json", "{}"),
        ("folds/fold-1_seed-0/predictions.csv", "a,b\ntest,a\n"),
        ("folds/fold-1_seed-0/predictions.csv", "\0" * 9),
        ("folds/fold-1_seed-0/environment.json", '{"command": [1], "git_commit": ""}'),
        (
            "folds/fold-1_seed-0/environment.json",
            '{"command": [], "git_commit": "", "packages": "x"}',
        ),
        (
            "folds/fold-1_seed-0/environment.json",
            '{"command": [], "git_commit": "", "seconds": []}',
        ),
        ("split_certificate.json", "[]"),
        (
            "split_certificate.json",
            '{"id": "x", "protocol": "p", "speaker_dependent": 0, "folds": [0]}',
        ),
    ],
)
def test_corruption_is_reported_with_the_fix(run, name, text):
    finish(run, 1, 0, 9, 1)
    (run / name).write_text(text)
    with pytest.raises(RunError, match=f"{name.split('/')[-1]} is missing, corrupt"):
        summarize(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", {}),
        ("fold", "1"),
        ("classes", [[], "b"]),
        ("test", []),
        ("dev", {"n": "8"}),
        ("test", {}),
    ],
)
def test_metrics_that_are_not_as_written_are_reported(run, key, value):
    file = finish(run, 1, 0, 9, 1) / "metrics.json"
    write_json(file, read_json(file) | {key: value})
    with pytest.raises(RunError, match="metrics.json is missing, corrupt"):
        read_run(run)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"kind": []}', "KIND"])
def test_a_strange_line_of_the_ledger_is_a_look(run, line):
    finish(run, 1, 0, 9, 1)
    known = read_ledger(run)[0]
    with (run / "ledger.jsonl").open("a") as file:
        file.write((json.dumps(known | {"kind": [[]]}) if line == "KIND" else line) + "\n")
    assert count_test_evaluations(run, read_run(run).certificate)["ledger"] == {
        "unreadable line": 1
    }


@pytest.mark.parametrize(
    "text",
    [
        "epoch,loss,dev_ua\n1,2,\n",
        "epoch,loss,dev_ua\n1,2\n1,2,3\n",
        "epoch,loss,dev_ua\n1,2,3,4\n",
        "epoch,dev_ua\n1,2\n",
        "1,2,3\n1,2,3\n",
    ],
)
def test_a_corrupt_history_is_reported_with_the_fix(run, text):
    folder = finish(run, 1, 0, 9, 1)
    (folder / "history.csv").write_text(text)
    with pytest.raises(RunError, match=f"history.csv is missing, corrupt.* remove {folder} and"):
        read_run(run).folds[0].history()


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("name", ["ledger.jsonl", "folds/fold-1_seed-0/predictions.csv"])
@pytest.mark.parametrize("what", ["a pipe", "no end", "a terabyte"])
def test_tables_of_a_run_are_neither_waited_for_nor_endless(run, name, what, count):
    finish(run, 1, 0, 9, 1)
    (run / name).unlink()
    if what == "a pipe":
        os.mkfifo(run / name)
    elif what == "no end":
        (run / name).symlink_to("/dev/zero")
    else:
        (run / name).touch()
        os.truncate(run / name, 10**12)
    words = "it is larger than 300 MB" if what == "a terabyte" else "it is not a regular file"
    with pytest.raises(RunError, match=f"{run / name}.*{words}"):
        summarize(run)
    count("hostile inputs tried")


def test_folders_that_are_not_runs_are_distinguished(run):
    with pytest.raises(InputError, match="no finished fold yet"):
        read_run(run)
    folder = finish(run, 1, 0, 9, 1)
    with pytest.raises(InputError, match=f"name the run that this fold belongs to: {run}$"):
        read_run(folder)
    with pytest.raises(InputError, match=f"runs in it: {run}"):
        read_run(run.parent)


def test_speakers_of_one_utterance_each_are_named_below_the_table(run):
    write_fold(run, 1, 0, [(f"u{i}", f"s{i}", "a", "ab"[i % 2]) for i in range(10)])
    summarize(run)
    assert "Nearly every utterance has a speaker of its own" in (run / "summary.md").read_text()
    finish(run, 2, 0, 9, 1)
    summarize(run)
    assert "a speaker of its own" not in (run / "summary.md").read_text()
