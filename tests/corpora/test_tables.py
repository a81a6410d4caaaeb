"""The one reader of tables: each form says the same; chosen columns, variables, wrong input."""

import json
import logging
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from config import corpus_keys
from corpora.manifest import COLUMNS
from corpora.readers import read_corpus
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError
from tests.corpora.test_readers import touch

ROWS = [
    {"path": "1.wav", "label": "joy", "speaker": "ann", "session": "a", "start": 0.5, "end": 1.25},
    {"path": "2.wav", "label": "awe", "speaker": "ann", "session": "a", "start": 1, "end": None},
    {"path": "3.flac", "label": "joy", "speaker": "bob", "session": "b", "start": 0, "end": 2},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return touch(tmp_path, "1.wav", "2.wav", "3.flac")


def write(root: Path, name: str, rows: list[dict]) -> Path:
    """Write a table in the form that its suffix says."""
    path, frame = root / name, pandas.DataFrame(rows)
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_json(path, orient="records")
    return path


def read(root: Path, table: Path, /, **columns: str | None) -> list[Utterance]:
    return read_corpus("manifest", root, table, columns=columns or None)


def test_each_column_that_a_config_may_name_is_read():
    assert set(corpus_keys.COLUMNS) <= set(COLUMNS)


EVERY = ["list.csv", "list.tsv", "list.jsonl", "list.json", "list.parquet"]


@pytest.mark.parametrize("name", EVERY)
def test_each_form_of_a_table_says_the_same(root, name):
    found = read(root, write(root, name, ROWS))
    assert [(u.id, u.label, u.speaker, u.session, u.start, u.end) for u in found] == [
        ("1_0.5-1.25", "joy", "ann", "a", 0.5, 1.25),
        ("2_1-end", "awe", "ann", "a", 1.0, None),
        ("3_0-2", "joy", "bob", "b", 0.0, 2.0),
    ]


@pytest.mark.parametrize("name", EVERY)
def test_columns_that_the_config_names_are_read_whatever_they_are_called(root, name, caplog):
    rows = [
        {"clip": r["path"], "what": r["label"], "Who Speaks": r["speaker"], "label": "never"}
        for r in ROWS
    ]
    chosen = {"path": "clip", "label": "what", "speaker": "who-speaks"}
    with caplog.at_level(logging.INFO):
        found = read(root, write(root, name, rows), **chosen)
    assert [(u.id, u.label, u.speaker) for u in found] == [
        ("1", "joy", "ann"),
        ("2", "awe", "ann"),
        ("3", "joy", "bob"),
    ]
    said = [record.message.partition(": ")[2] for record in caplog.records]
    assert said == [
        "column clip is read as path, what is read as label, who_speaks is read as speaker",
        "columns that are not used: label",
    ]


@pytest.mark.parametrize("name", EVERY)
def test_a_chosen_column_that_is_not_there_is_refused_with_those_that_are(root, name):
    with pytest.raises(InputError) as refused:
        read(root, write(root, name, ROWS), label="emotoin", speaker="speaker")
    assert f"cannot read {root / name}: " in str(refused.value)
    assert "takes label from 'emotoin', and there is no such column; " in str(refused.value)
    assert "end, label, path, session, speaker, start" in str(refused.value)


@pytest.mark.parametrize("name", EVERY)
def test_a_table_without_speakers_is_read_only_if_the_config_says_so(root, name):
    path = write(root, name, [{"path": r["path"], "label": r["label"]} for r in ROWS])
    with pytest.raises(InputError, match=r"speaker.*\{speaker: null\}"):
        read(root, path)
    assert {u.speaker for u in read(root, path, speaker=None)} == {NO_SPEAKER}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("lost", ["path", "label"])
def test_a_missing_column_is_named_alike_in_each_form(root, name, lost):
    rows = [{k: v for k, v in row.items() if k not in (lost, "session")} for row in ROWS]
    there = ", ".join(rows[0])
    with pytest.raises(InputError) as refused:
        read(root, write(root, name, rows))
    needed = "path, label" + ", speaker" * (not name.startswith("list.js"))  # file names may tell
    said = f"the columns {needed} are needed; {lost} not found in: {there}. Other names that are "
    assert said in str(refused.value)
    assert "corpus.columns={path: file, label: emotion}" in str(refused.value)


@pytest.mark.parametrize("name", ["list.jsonl", "list.json"])
def test_rows_of_json_may_name_different_columns(root, name):
    rows = [{"file": "1.wav", "label": "joy", "speaker": "ann"}, ROWS[1] | {"end": 2}]
    text = json.dumps(rows) if name == "list.json" else "\n".join(map(json.dumps, rows))
    (root / name).write_text(text)
    assert [one.path.name for one in read(root, root / name)] == ["1.wav", "2.wav"]


@pytest.mark.parametrize("name", EVERY)
def test_of_two_columns_that_mean_the_same_one_may_be_chosen(root, name):
    path = write(root, name, [{"Emotion": "never"} | row for row in ROWS])
    said = r"columns 'Emotion' and 'label' mean the same, label: .*, or choose one, as in "
    with pytest.raises(InputError, match=rf"{said}corpus.columns=\{{label: emotion\}}"):
        read(root, path)
    assert {one.label for one in read(root, path, label="emotion")} == {"never"}
    assert {one.label for one in read(root, path, label="label")} == {"joy", "awe"}


@pytest.mark.parametrize(
    ("header", "chosen"),
    [("path,Label,label,speaker", {}), ("path,Mood,mood,speaker", {"label": "mood"})],
)
def test_columns_that_only_case_tells_apart_cannot_be_chosen(root, header, chosen):
    (root / "list.csv").write_text(f"{header}\n1.wav,joy,awe,ann\n")
    with pytest.raises(InputError, match="mean the same, label: rename or remove all but one$"):
        read(root, root / "list.csv", **chosen)


@pytest.mark.parametrize("name", EVERY)
def test_one_column_is_not_two_fields_however_it_is_written(root, name):
    path = write(root, name, [{"Who Speaks": "x"} | row for row in ROWS])
    said = "takes speaker and session from one column, 'who-speaks' and 'Who Speaks'"
    with pytest.raises(InputError, match=said):
        read(root, path, speaker="who-speaks", session="Who Speaks")


def test_a_column_may_be_left_out(root):
    found = read(root, write(root, "list.csv", ROWS), session=None)
    assert {u.session for u in found} == {None} and {u.speaker for u in found} == {"ann", "bob"}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("times", [("start_ms", "end_ms"), ("Frame Offset",), ("onset_ms", "stop")])
def test_times_that_are_not_read_are_refused_in_each_form(root, name, times):
    rows = [{"path": r["path"], "label": "joy", "speaker": "ann"} for r in ROWS]
    path = write(root, name, [row | dict.fromkeys(times, 3) for row in rows])
    with pytest.raises(InputError, match="look like times of a part of the file and are not read"):
        read(root, path)


@pytest.mark.parametrize("name", EVERY)
def test_times_that_the_config_leaves_out_are_not_refused(root, name):
    found = read(root, write(root, name, ROWS), start=None, end=None)
    assert [(u.start, u.end) for u in found] == [(0.0, None)] * 3


# JSON -------------------------------------------------------------------------------------------


def test_s3prl_and_speechbrain_are_read(root, caplog):
    rows = [{"path": r["path"], "label": r["label"], "speaker": r["speaker"]} for r in ROWS]
    (root / "s3prl.json").write_text(json.dumps({"labels": {"joy": 0}, "meta_data": rows}))
    brain = {
        f"utt{n}": {"wav": "{data_root}/" + r["path"], "length": 1.5, "emo": r["label"], "spk": "x"}
        for n, r in enumerate(ROWS)
    }
    (root / "brain.json").write_text(json.dumps(brain))
    assert [u.id for u in read(root, root / "s3prl.json")] == ["1", "2", "3"]
    with caplog.at_level(logging.INFO):
        found = read(root, root / "brain.json")
    assert [(u.id, u.path.name) for u in found] == [
        ("utt0", "1.wav"),
        ("utt1", "2.wav"),
        ("utt2", "3.flac"),
    ]
    assert "{data_root} in 3 paths is read as corpus.root" in caplog.text


def test_a_duration_alone_is_that_of_the_file_in_lists_of_speechbrain(root, caplog):
    row = {"label": "joy", "speaker": "ann", "duration": 1.5}
    brain = {
        "whole": row | {"wav": "1.wav"},
        "part": row | {"wav": "2.wav", "start": 0.5},
        "first": row | {"wav": "3.flac", "start": 0},
    }
    (root / "brain.json").write_text(json.dumps(brain))
    found = {u.id: (u.start, u.end) for u in read(root, root / "brain.json")}
    assert found == {"whole": (0.0, None), "part": (0.5, 2.0), "first": (0.0, 1.5)}
    (root / "one.json").write_text(json.dumps({"whole": brain["whole"]}))
    with caplog.at_level(logging.INFO):
        assert read(root, root / "one.json")[0].end is None
    assert "columns that are not used: duration" in caplog.text
    assert read(root, root / "one.json", duration="duration")[0].end == 1.5


@pytest.mark.parametrize("word", ["$data_folder", "${data_folder}", "{data_folder}"])
def test_a_variable_is_the_root_unless_a_folder_is_called_so(root, word):
    path = write(root, "list.csv", [ROWS[0] | {"path": f"{word}/1.wav"}])
    assert read(root, path)[0].path == root / "1.wav"
    touch(root, f"{word}/1.wav")
    assert read(root, path)[0].path == root / word / "1.wav"
    with pytest.raises(InputError, match="leads out of corpus.root"):
        read(root, write(root, "out.csv", [ROWS[0] | {"path": f"{word}x/../../1.wav"}]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"path": "1.wav", "file": "1.wav"}]', "row 1: the columns 'path' and 'file' mean"),
        ('{"meta_data": 3}', "its rows must be a list of objects, got 3"),
        ('[{"path": "1.wav", "path": "2.wav"}]', "the key 'path' occurs twice"),
        ("[", "Expecting value"),
        ("[" * 100_000, "recursion|Expecting|nested"),
    ],
)
def test_json_that_is_no_table_is_refused(root, text, words):
    (root / "list.json").write_text(text)
    with pytest.raises(InputError, match=words):
        read(root, root / "list.json")


# Parquet ----------------------------------------------------------------------------------------


def parquet(root: Path, **columns: pyarrow.Array) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "list.parquet")
    return root / "list.parquet"


def test_times_categories_and_numbers_of_parquet(root):
    times = pandas.to_timedelta([0.25, 1.5], unit="s")
    frame = pandas.DataFrame(
        {
            "file": ["1.wav", "2.wav"],
            "emotion": pandas.Categorical(["joy", "awe"]),
            "speaker": [3, 4],
            "start": times,
            "end": [pandas.NaT, pandas.Timedelta("2.000000001s")],
        }
    )
    for unit in ("ns", "us", "ms", "s"):
        frame.assign(start=times.as_unit(unit)).to_parquet(root / "list.parquet")
        found = read(root, root / "list.parquet")
        start = [0.0 if unit == "s" else 0.25, 1.0 if unit == "s" else 1.5]
        assert [(u.label, u.speaker, u.start, u.end) for u in found] == [
            ("joy", "3", start[0], None),
            ("awe", "4", start[1], 2.000000001),
        ]


def test_columns_that_are_not_used_are_not_read(root, monkeypatch):
    asked = []
    file = pyarrow.parquet.ParquetFile
    monkeypatch.setattr(
        file,
        "read",
        lambda self, columns: (
            asked.append(columns)
            or self.reader.read_all(
                column_indices=[self.schema_arrow.get_field_index(name) for name in columns]
            )
        ),
    )
    big = pyarrow.array([b"x" * 1000])
    path = parquet(root, file=["1.wav"], label=["joy"], speaker=["ann"], pixels=big, more=[[1, 2]])
    assert len(read(root, path)) == 1
    assert asked == [["file", "label", "speaker"]]


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ([{"bytes": b"RIFF", "path": "1.wav"}], "column 'audio' holds the audio itself"),
        ([["1.wav"]], "column 'audio' must hold words or numbers, got list"),
        ([b"RIFF"], "column 'audio' must hold words or numbers, got binary"),
    ],
)
def test_audio_inside_of_parquet_is_refused_with_the_way_on(root, audio, words):
    path = parquet(root, audio=pyarrow.array(audio), label=["joy"], speaker=["ann"])
    with pytest.raises(InputError, match=f"cannot read .*list.parquet: the {words}"):
        read(root, path)


def test_a_file_that_is_no_parquet_is_refused(root):
    for content in (b"", b"path,label\n", b"PAR1" + bytes(100) + b"PAR1"):
        (root / "list.parquet").write_bytes(content)
        with pytest.raises(InputError, match="cannot read .*list.parquet: not Parquet"):
            read(root, root / "list.parquet")


def test_parquet_without_pyarrow_names_the_extra(root, monkeypatch):
    path = write(root, "list.parquet", ROWS)
    monkeypatch.setattr("system.extras.is_installed", lambda package: package != "pyarrow")
    with pytest.raises(InputError, match="needs pyarrow; .* requirements-formats.txt"):
        read(root, path)
