"""predict.py: files in, lines out, resumed after an interruption, bad files told."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import predict
from tests.support.paths import ROOT


def said_by(monkeypatch, capsys, *words, status=0):
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
    assert predict.main() == status
    return capsys.readouterr()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten recordings, one of them silent."""
    draw = np.random.default_rng(0)
    for i in range(10):
        samples = draw.normal(0, 0.1 * (i != 4), 9000)
        soundfile.write(tmp_path / f"{i}.wav", samples, 16_000)
    return tmp_path


def test_a_folder_to_a_table(run, folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "labels.csv"
    said = said_by(
        monkeypatch, capsys, run.folder, folder, "--format", "csv", "--out", out, status=1
    )
    assert "mean of 2 models" in said.err and "1 of 10 files are not usable audio" in said.err
    assert f"each has its problem in {out}" in said.err
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [Path(row["path"]).name for row in rows] == [f"{i}.wav" for i in range(10)]
    assert "holds no sound" in rows[4]["problem"] and rows[5]["emotion"] in run.classes
    said = said_by(
        monkeypatch, capsys, run.folder, folder, "--format", "csv", "--out", out, status=2
    )
    assert "exists: remove it or name another file" in said.err


def test_a_stated_risk_marks_labels(run, folder, monkeypatch, capsys):
    words = [run.folder, folder / "1.wav", folder / "2.wav", "--risk", "0.3", "--format", "jsonl"]
    said = said_by(monkeypatch, capsys, *words)
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [type(row["unsure"]) for row in rows] == [bool, bool]
    assert "risk 0.3: a label is sure from a confidence of" in said.err
    n = sum(row["unsure"] for row in rows)
    assert (f"{n} of 2 labels are unsure" in said.err) == (n > 0)
    said = said_by(monkeypatch, capsys, *words[:3], "--risk", "2", status=2)
    assert "the risk must be in (0, 1)" in said.err


def test_options_may_stand_between_model_and_files(run, folder, monkeypatch, capsys):
    said = said_by(monkeypatch, capsys, run.folder, "--format", "jsonl", folder / "1.wav")
    assert json.loads(said.out)["path"] == str(folder / "1.wav")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "nowhere/out.csv"], "--out: there is no folder nowhere"),
        (["--out", "whole.csv"], "--out whole.csv exists: remove it or name another file"),
        (["--risk", "nan"], "the risk must be in (0, 1), such as 0.2, got nan"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(run, folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder)
    Path("whole.csv").touch()
    monkeypatch.setattr("inference.emotion_model.load", lambda *_: pytest.fail("it was loaded"))
    assert said in said_by(monkeypatch, capsys, run.folder, "1.wav", *words, status=2).err


def test_standard_input_is_labelled_under_its_name(run, folder, monkeypatch, capsys):
    content = (folder / "1.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    said = said_by(monkeypatch, capsys, run.folder, "-", folder / "1.wav", "--format", "jsonl")
    piped, named = (json.loads(line) for line in said.out.splitlines())
    assert piped["path"] == "-" and piped["probs"] == named["probs"]


def test_a_run_without_a_finished_fold_and_a_folder_that_is_none(
    run, tmp_path, monkeypatch, capsys
):
    (tmp_path / "config.yaml").touch()
    said = said_by(monkeypatch, capsys, tmp_path, "a.wav", status=2)
    assert "it is a run without a finished fold yet" in said.err
    said = said_by(monkeypatch, capsys, run.folder.parent, "a.wav", status=2)
    assert "is not a model: name a run" in said.err and "fold-1_seed-0" in said.err


def test_a_killed_command_is_resumed_by_itself(run, folder, tmp_path):
    many = tmp_path / "list.txt"
    links = tmp_path / "links"
    links.mkdir()
    for i in range(300):
        (links / f"{i:03}.wav").symlink_to(folder / f"{i % 4}.wav")
    many.write_text("".join(f"{path}\n" for path in sorted(links.iterdir())))
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    words = ["predict.py", str(run.folder), "--list", str(many), "--format", "csv", "--out"]
    started = subprocess.Popen(
        [sys.executable, *words, str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not out.exists() or len(out.read_text().splitlines()) < 20:
        assert started.poll() is None, "it ended before it was interrupted"
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGTERM)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 143 and "what was done is saved. To resume:" in said
    n = len(out.read_text().splitlines()) - 1
    assert 0 < n < 300
    again = subprocess.run(
        [sys.executable, *words, str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True
    )
    assert f"{300 - n} files are left" in again.stderr
    subprocess.run([sys.executable, *words, str(whole)], cwd=ROOT, check=True, capture_output=True)
    both = [list(csv.reader(file.read_text().splitlines())) for file in (out, whole)]
    assert [row[0] for row in both[0]] == [row[0] for row in both[1]]
    first, second = (np.array([row[2:-3] for row in rows[1:]], float) for rows in both)
    np.testing.assert_allclose(first, second, atol=2e-6)
