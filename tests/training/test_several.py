"""Train on one corpus of tones, test on two others: from the config to tables, gates and page."""

import shutil
import sys
from pathlib import Path

import pytest

import compare
from config.loading import load_config
from gates.analysis import analyze
from inference import load
from storage.tensors import load_tensors
from system.files import read_json
from tests.support import kills
from tests.support.runs import run_experiment
from tests.support.several import (
    CLASSES,
    iemocap,
    own,
    ravdess,
    write_config,
    write_own,
    write_ravdess,
)

RESULTS = ("model.safetensors", "predictions.csv", "metrics.json", "history.csv")


@pytest.fixture(scope="module")
def places(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("several")
    return {
        "ravdess": write_ravdess(folder / "R"),
        "iemocap": corpus_root,
        "folder": write_own(folder / "F"),
    }


@pytest.fixture(scope="module")
def both(places: dict[str, Path]) -> list[dict]:
    """Train on RAVDESS, test on IEMOCAP and on the folder."""
    tested = iemocap(places["iemocap"], role="test"), own(places["folder"], role="test")
    return [ravdess(places["ravdess"]), *tested]


def compared(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    status = compare.main()
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def test_from_the_config_to_matrix_report_gates_and_prediction(
    places, both, tmp_path, monkeypatch, capsys
):
    folder = run_experiment(load_config(write_config(tmp_path, both)), [])
    home = {"name": "home", "protocol": {"split": "speaker-k-fold", "n_folds": 3}}
    home_config = load_config(
        write_config(tmp_path / "home", ravdess(places["ravdess"]), **home), ["run.folds=[1]"]
    )
    at_home = run_experiment(home_config, [])
    said = (folder / "summary.md").read_text()
    assert "On IEMOCAP and the corpus of the folder F, trained on RAVDESS" in said
    fold = folder / "folds" / "fold-1_seed-0"
    assert read_json(fold / "model.json", "corpus")["corpus"] == "ravdess"
    for split, corpus in (("dev", "ravdess"), ("test", "iemocap")):
        rows = (fold / "predictions.csv").read_text().splitlines()
        names = {row.split(",")[1].partition("/")[0] for row in rows if row.startswith(split)}
        assert names == {corpus}

    out = tmp_path / "out"
    text = compared(monkeypatch, capsys, folder, at_home, "--out", out)
    assert "| RAVDESS | gmu | several, home |" in text
    matrix = read_json(out / "matrix.json", "columns")
    assert matrix["columns"] == ["IEMOCAP", "the corpus of the folder F", "RAVDESS"]
    assert [cell["n"] for cell in matrix["rows"][0]["cells"]] == [40, 8, 8]  # one fold at home
    assert (out / "matrix.md").read_text().strip() in text
    assert not (out / "comparison.md").exists()  # other utterances: nothing is tested in pairs

    alone = tmp_path / "alone"
    assert "tested on IEMOCAP" in compared(monkeypatch, capsys, folder, "--out", alone)
    page = (alone / "report.html").read_text(encoding="utf-8")
    assert "trained on RAVDESS" in page and "<audio" in page  # found below the root of its corpus

    moved = Path(shutil.copytree(places["folder"], tmp_path / "moved" / "F"))
    analyze(folder, ablate=False, overrides=[f"corpus.folder.root={moved}"], progress=False)
    assert (folder / "gates").is_dir()
    heard = load(fold).predict(next(moved.rglob("*.wav")))
    assert heard.emotion in CLASSES


def test_weights_and_statistics_come_from_the_training_corpora_alone(
    places, both, tmp_path, monkeypatch, capsys
):
    runs = []
    for name, corpora in (("a", both[:2]), ("b", [both[0], both[2]])):
        config = load_config(write_config(tmp_path / name, corpora), ["train.epochs=1"])
        runs.append(run_experiment(config, []))
    # the same training corpus and seed: another test corpus changes neither weights nor statistics
    weights = [load_tensors(run / "folds/fold-1_seed-0/model.safetensors") for run in runs]
    assert any("mean" in key for key in weights[0])
    assert all(weights[0][key].equal(weights[1][key]) for key in weights[0])
    text = compared(monkeypatch, capsys, *runs)
    assert "| RAVDESS | gmu | several |" in text  # one row: trained alike, each tested elsewhere
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, runs), "--breakdown"])
    assert compare.main() == 2
    said = capsys.readouterr()
    assert "need runs of one certificate" in said.err and not said.out


def test_a_killed_run_resumes_to_the_same_bytes_where_a_corpus_moved(places, both, tmp_path):
    found = []
    for name, place in (("whole", ""), ("killed", "writing predictions")):
        file = write_config(tmp_path / name, both)
        wishes = ["run.folds=[2]", "train.epochs=1"]
        if place:
            process = kills.start(
                ["train_gmu.py", "--config", str(file), *wishes], tmp_path / "log", place
            )
            process.join(300)
            assert process.exitcode == -9
            moved = shutil.copytree(places["ravdess"], tmp_path / name / "moved")
            wishes.append(f"corpus.ravdess.root={moved}")
        folder = run_experiment(load_config(file, wishes), []) / "folds/fold-2_seed-0"
        found.append([(folder / result).read_bytes() for result in RESULTS])
    assert found[0] == found[1]
