"""Lines of predictions, and files of them that are resumed."""

import csv
import json

import pytest

from config.tasks import RatingScale
from inference.output import FORMATS, Lines, OutputFile, write_each
from inference.prediction import Prediction
from system.errors import InputError

GOOD = Prediction("a,b.wav", {"happy": 0.75, "sad": 0.25}, 0.5, unlike={"longer": "60.0 s"})
BAD = Prediction("x\ty.wav", {}, problem="holds no samples")
MADE_BY = {"model": ["abc"], "risk": None}


def test_csv_is_read_by_the_csv_module():
    lines = Lines("csv", ["happy", "sad"])
    rows = list(csv.DictReader([*lines.header(), lines.line(GOOD), lines.line(BAD)]))
    assert rows[0]["path"] == "a,b.wav" and float(rows[0]["happy"]) == 0.75
    assert rows[0]["emotion"] == "happy" and float(rows[0]["confidence"]) == 0.75
    assert rows[0]["gate"] == "0.500000" and rows[0]["unlike"] == "longer 60.0 s"
    assert rows[1]["problem"] == "holds no samples" and rows[1]["happy"] == ""
    assert "unsure" not in rows[0]


def test_json_lines_hold_everything():
    lines = Lines("jsonl", ["happy", "sad"], with_risk=True)
    sure = Prediction("a", {"happy": 0.75, "sad": 0.25}, None, unsure=False)
    row, bad = json.loads(lines.line(sure)), json.loads(lines.line(BAD))
    assert row["probs"] == {"happy": 0.75, "sad": 0.25} and row["unsure"] is False
    assert row["gate"] is None and row["problem"] is None and lines.header() == []
    assert bad["probs"] is None and bad["emotion"] is None and bad["path"] == "x\ty.wav"


def test_a_table_is_for_people():
    lines = Lines("table", ["happy", "sad"], with_risk=True)
    assert lines.line(GOOD).split("\t") == ["a,b.wav", "happy", "0.750", "0.250", "0.500", ""]
    assert lines.line(BAD) == "x\\ty.wav\tnot labelled: holds no samples"


def test_ratings_have_no_confidence():
    lines = Lines("csv", ["valence"], RatingScale(1, 5))
    rated = Prediction("a", {"valence": 3.5}, 0.5, scale=RatingScale(1, 5))
    [row] = csv.DictReader([*lines.header(), lines.line(rated)])
    assert row["valence"] == "3.500000" and "emotion" not in row
    row = json.loads(Lines("jsonl", ["valence"], RatingScale(1, 5)).line(rated))
    assert row["ratings"] == {"valence": 3.5}


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_resumed_where_it_was_left(tmp_path, form):
    path, lines = tmp_path / "out", Lines(form, ["happy", "sad"])
    OutputFile(path, lines, MADE_BY).write([GOOD])
    with path.open("a") as file:
        file.write('{"path": "torn')  # by a crash
    again = OutputFile(path, lines, MADE_BY)
    assert again.is_done(GOOD.name) and not again.is_done(BAD.name)
    again.write([BAD])
    third = OutputFile(path, lines, MADE_BY)
    assert third.is_done(BAD.name) and list(third.done.values()) == [False, True]
    third.finish()
    assert path.read_text().splitlines() == [*lines.header(), lines.line(GOOD), lines.line(BAD)]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    with pytest.raises(InputError, match="exists: remove it or name another file"):
        OutputFile(path, lines, MADE_BY)


def test_a_file_of_another_command_is_not_mixed(tmp_path):
    path, lines = tmp_path / "out", Lines("csv", ["happy", "sad"])
    OutputFile(path, lines, MADE_BY).write([GOOD])
    with pytest.raises(InputError, match="was begun with another model, risk"):
        OutputFile(path, lines, {"model": ["other"], "risk": 0.2})
    with pytest.raises(InputError, match="its header is another one"):
        OutputFile(path, Lines("csv", ["other"]), MADE_BY)
    with pytest.raises(InputError, match="there is no folder"):
        OutputFile(tmp_path / "no/out", lines, MADE_BY)


def test_what_is_labelled_when_the_work_stops_is_written():
    written = []

    def broken():
        yield GOOD
        yield BAD
        yield GOOD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_each(broken(), written.extend, 2)
    assert written == [GOOD, BAD, GOOD]
