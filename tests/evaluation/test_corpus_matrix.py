"""The matrix of train x test corpora, by hand, and what it refuses."""

import json
from pathlib import Path

import pytest

from evaluation.corpus_matrix import corpus_matrix, is_cross_corpus, matrix_json, matrix_markdown
from storage.run_folder import read_run
from system.errors import InputError, RunError
from tests.conftest import write_fold, write_run

CROSS = "r8-to-i4/cross-corpus/dev-speakers/all"
RIGHT = [(f"u{k}", f"s{k % 3}", "ab"[k % 2], "ab"[k % 2]) for k in range(12)]
HALF = [(name, who, target, "a") for name, who, target, _ in RIGHT]  # recall of a 1, of b 0


def facts(name: str, role: str, labels: str = "l", n: int = 12) -> dict[str, object]:
    known = {"name": name, "synthetic": False, "role": role, "labels": labels, "subset": "all"}
    return {**known, "utterances": n, "classes": {}, "speakers": 3}


def cross(folder: Path, fusion: str = "gmu", corpora=None, tests=(HALF,), **more) -> Path:
    corpora = corpora or {"r": facts("R", "train", "r8"), "i": facts("I|x", "test", "i4")}
    folds = [{"fold": k, "test": {"recordings": f"clips {k}"}} for k in range(1, len(tests) + 1)]
    about = {"name": "I|x, trained on R", "synthetic": False}
    run = write_run(
        folder, fusion, protocol=CROSS, corpora=corpora, folds=folds, corpus=about, **more
    )
    for fold, clips in enumerate(tests, start=1):
        write_fold(run, fold, 0, clips)
    return run


def within(folder: Path, name: str = "R", labels: str = "r8", fusion: str = "gmu") -> Path:
    about = {"name": name, "synthetic": False}
    protocol = f"{labels}/speaker-3-fold/dev-fold/all"
    run = write_run(folder, fusion, protocol=protocol, corpus=about, id="w", utterances=12)
    write_fold(run, 1, 0, RIGHT[:6])
    write_fold(run, 2, 0, RIGHT[6:])
    return run


def test_cells_by_hand_with_the_diagonal_from_a_run_within(tmp_path):
    runs = [read_run(folder) for folder in (cross(tmp_path / "x"), within(tmp_path / "w"))]
    assert [is_cross_corpus(run) for run in runs] == [True, False]
    matrix = corpus_matrix(runs)
    assert matrix.columns == ["I|x", "R"] and len(matrix.rows) == 1
    away, at_home = matrix.rows[0].cells
    assert (away.tested_on, away.score, away.n, away.n_speakers) == ("I|x", 0.5, 12, 3)
    assert (at_home.tested_on, at_home.score, at_home.n, at_home.folds) == ("R", 1.0, 12, [1, 2])
    text = matrix_markdown(matrix)
    assert "| R | gmu | x, w | 50.0, n 12 | 100.0, n 12 |" in text
    assert "tested on I\\|x" in text and "guessing has 50.0" in text
    assert json.loads(json.dumps(matrix_json(matrix)))["rows"][0]["cells"][0]["run"] == "x"


def test_without_a_run_within_the_diagonal_stays_empty_and_fusions_are_rows(tmp_path):
    corpora = {"r": facts("R", "train"), "i": facts("I", "test"), "c": facts("C", "test")}
    folders = [
        cross(tmp_path / fusion, fusion, corpora, tests=(HALF, RIGHT)) for fusion in ("gmu", "sum")
    ]
    back = {"i": facts("I", "train"), "r": facts("R", "test")}
    folders.append(cross(tmp_path / "back", "gmu", back, id="y"))
    matrix = corpus_matrix([read_run(folder) for folder in folders])
    assert matrix.columns == ["I", "C", "R"]
    assert [(row.trained_on, row.method) for row in matrix.rows] == [
        *(("R", "gmu"), ("R", "sum"), ("I", "gmu"))
    ]
    assert [cell.score for cell in matrix.rows[0].cells] == [0.5, 1.0]
    assert "| I | gmu | back |  |  | 50.0, n 12 |" in matrix_markdown(matrix)


def test_two_runs_of_one_kind_have_two_rows(tmp_path):
    runs = [read_run(cross(tmp_path / name)) for name in ("one", "two")]
    assert [[c.run for c in row.cells] for row in corpus_matrix(runs).rows] == [["one"], ["two"]]


def test_two_label_sets_of_one_corpus_are_two_columns(tmp_path):
    corpora = {"r": facts("R", "train", "r8"), "i": facts("R", "test", "other", 7)}
    matrix = corpus_matrix([read_run(cross(tmp_path / "x", corpora=corpora))])
    assert matrix.columns == ["R (other, all, 7 utterances)"]
    assert matrix.rows[0].trained_on == "R (r8, all, 12 utterances)"


def test_other_classes_and_corrupt_certificates_are_refused(tmp_path):
    run = within(tmp_path / "w")
    for file in run.glob("folds/*/metrics.json"):
        file.write_text(file.read_text().replace('"b"', '"c"'))
    for file in run.glob("folds/*/predictions.csv"):
        file.write_text(file.read_text().replace(",b", ",c").replace("prob_b", "prob_c"))
    runs = [read_run(cross(tmp_path / "x")), read_run(run)]
    with pytest.raises(InputError, match="the same classes"):
        corpus_matrix(runs)
    spoiled = [{"r": {"name": "R"}}, {"r": facts("R", "train")}, 3]
    for number, corpora in enumerate(spoiled):
        folder = cross(tmp_path / str(number), corpora=corpora)
        with pytest.raises(RunError, match="split_certificate.json"):
            corpus_matrix([read_run(folder)])


def test_stamps_say_which_run_they_hold_for(tmp_path):
    folder = cross(tmp_path / "x", speaker_dependent=True)
    assert "**x: SPEAKER-DEPENDENT" in matrix_markdown(corpus_matrix([read_run(folder)]))
