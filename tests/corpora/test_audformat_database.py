"""audformat databases made by audformat itself; its own `Database.get` is the reference."""

import logging
import os
import pickle
import time
from pathlib import Path

import audformat
import pandas
import pytest
import yaml

from corpora.readers import read_corpus
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError
from tests.conftest import Payload
from tests.corpora.test_readers import touch

FILES = ["audio/1.wav", "audio/2.wav", "audio/3.wav"]


def read(root: Path, **columns: str | None) -> list[Utterance]:
    return read_corpus("folder", root, columns=columns or None)


def database() -> audformat.Database:
    """A database of whole files: emotions in one table, speakers in another, with a mapping."""
    db = audformat.Database("mood")
    db.schemes["emotion"] = audformat.Scheme(labels=["joy", "awe"])
    people = {"ann": {"gender": "female", "age": 30}, "bob": {"gender": "male", "age": 40}}
    db.schemes["speaker"] = audformat.Scheme(labels=people)
    db["emotion"] = audformat.Table(audformat.filewise_index(FILES))
    db["emotion"]["emotion"] = audformat.Column(scheme_id="emotion")
    db["emotion"]["emotion"].set(["joy", "awe", "joy"])
    db["emotion"]["emotion.confidence"] = audformat.Column()
    db["emotion"]["emotion.confidence"].set([0.9, 0.8, 0.7])
    db["files"] = audformat.Table(audformat.filewise_index(FILES))
    db["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    db["files"]["speaker"].set(["ann", "ann", "bob"])
    return db


def save(db: audformat.Database, root: Path, form: str = "csv") -> Path:
    db.save(str(root), storage_format=form)
    return touch(root, *FILES)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_database_of_whole_files(tmp_path, form, caplog):
    db = database()
    with caplog.at_level(logging.INFO):
        found = read(save(db, tmp_path, form))
    wanted = db.get("emotion", ["speaker", "gender"])  # audformat joins them itself
    assert [u.id for u in found] == ["audio/1", "audio/2", "audio/3"]
    assert [u.path for u in found] == [tmp_path / file for file in wanted.index]
    assert [u.label for u in found] == wanted["emotion"].tolist()
    assert [u.speaker for u in found] == wanted["speaker"].tolist()
    assert [u.gender for u in found] == [word[0].upper() for word in wanted["gender"]]
    assert all((u.start, u.end) == (0.0, None) for u in found)
    told = "label from emotion.emotion, speaker from files.speaker, gender from files.speaker -> ge"
    assert told in caplog.text
    assert f"read db.emotion.{form}, db.files.{form}" in caplog.text


def segmented() -> audformat.Database:
    """Segments, with ends that are not given; speakers by file, in a misc table."""
    db = database()
    db["people"] = audformat.MiscTable(pandas.Index(["ann", "bob"], name="who", dtype="string"))
    db["people"]["sex"] = audformat.Column()
    db["people"]["sex"].set(["female", "male"])
    db.schemes["who"] = audformat.Scheme("str", labels="people")
    db["files"].drop_columns("speaker", inplace=True)
    db["files"]["speaker"] = audformat.Column(scheme_id="who")
    db["files"]["speaker"].set(["ann", "ann", "bob"])
    index = audformat.segmented_index(
        [FILES[0], FILES[0], FILES[2]], ["0s", "1.5s", "00:00:00.25"], ["1.25s", None, None]
    )
    db["emotion"] = audformat.Table(index)
    db["emotion"]["emotion"] = audformat.Column(scheme_id="emotion")
    db["emotion"]["emotion"].set(["joy", "awe", "joy"])
    return db


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_segments_with_open_ends_take_what_is_known_of_their_file(tmp_path, form):
    found = read(save(segmented(), tmp_path, form))
    assert [(u.id, u.label, u.speaker, u.gender, u.start, u.end) for u in found] == [
        ("audio/1_0-1.25", "joy", "ann", "F", 0.0, 1.25),
        ("audio/1_1.5-end", "awe", "ann", "F", 1.5, None),
        ("audio/3_0.25-end", "joy", "bob", "M", 0.25, None),
    ]


def test_what_is_known_of_one_segment_is_not_taken_for_another(tmp_path):
    db = segmented()
    db["files"] = audformat.Table(db["emotion"].index[:1])
    db["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    db["files"]["speaker"].set(["ann"])
    with pytest.raises(InputError, match="2 of 3 rows .*\n  audio/1.wav .1.5, end.: no speaker"):
        read(save(db, tmp_path))


@pytest.mark.parametrize("name", ["start_ms", "Stop", "onset", "start"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_times_in_columns_of_a_table_of_whole_files_are_refused(tmp_path, name, form):
    db = database()
    db["emotion"][name] = audformat.Column()
    db["emotion"][name].set([1.0, 2.0, 3.0])
    with pytest.raises(InputError) as refused:
        read(save(db, tmp_path, form))
    assert f"the columns '{name}' of the table emotion look like times" in str(refused.value)
    assert "segmented_index" in str(refused.value)


def test_times_beside_segments_and_in_tables_without_labels_are_left_alone(tmp_path):
    db = segmented()
    db["emotion"]["start_ms"] = audformat.Column()
    db["files"]["onset_ms"] = audformat.Column()
    db["files"]["duration"] = audformat.Column()
    assert [u.start for u in read(save(db, tmp_path))] == [0.0, 1.5, 0.25]


def said_unused(caplog, root: Path, **columns: str | None) -> list[str]:
    with caplog.at_level(logging.INFO):
        read(root, **columns)
    return [r.message.removeprefix(f"{root}: ") for r in caplog.records if "not used" in r.message]


def test_columns_and_tables_that_are_not_used_are_said(tmp_path, caplog):
    db = segmented()  # the table people gives the gender
    db["votes"] = db["emotion"].copy()
    db["votes"].drop_columns("emotion", inplace=True)
    db["votes"]["vote"] = audformat.Column()
    db["places"] = audformat.MiscTable(pandas.Index(["lab"], name="place", dtype="string"))
    db["emotion"]["arousal"] = audformat.Column()
    db["files"]["device"] = audformat.Column()
    root = save(db, tmp_path)
    columns = "columns that are not used: emotion.arousal, files.device"
    assert said_unused(caplog, root) == ["tables that are not used: places, votes", columns]
    caplog.clear()
    assert said_unused(caplog, root, gender=None) == [
        "tables that are not used: people, places, votes"  # the columns are said once a run
    ]


def test_nothing_is_said_where_all_is_used(tmp_path, caplog):
    db = database()
    db["emotion"].drop_columns("emotion.confidence", inplace=True)
    assert said_unused(caplog, save(db, tmp_path)) == []


def split_tables() -> audformat.Database:
    db = database()
    del db.tables["emotion"]
    for name, kind, file in (("a", "train", 0), ("b", "dev", 1), ("c", "test", 2)):
        db.splits[kind] = audformat.Split(kind)
        db[f"emotion.{name}"] = audformat.Table(
            audformat.filewise_index(FILES[file : file + 1]), split_id=kind
        )
        db[f"emotion.{name}"]["emotion"] = audformat.Column(scheme_id="emotion")
        db[f"emotion.{name}"]["emotion"].set(["joy"])
    return db


def test_tables_of_splits_give_the_split(tmp_path):
    db = split_tables()
    found = read(save(db, tmp_path))
    assert [(u.id, u.split) for u in found] == [
        ("audio/1", "train"),
        ("audio/2", "dev"),
        ("audio/3", "test"),
    ]
    for kind, utterance in zip(("train", "dev", "test"), found, strict=True):
        assert db.get("emotion", splits=kind).index.tolist() == [f"{utterance.id}.wav"]


def test_an_utterance_of_two_splits_is_refused(tmp_path):
    db = split_tables()
    db["emotion.c"].extend_index(audformat.filewise_index(FILES[:1]), inplace=True)
    db["emotion.c"]["emotion"].set(["joy", "joy"])
    with pytest.raises(InputError, match="audio/1.wav is in tables of the splits train and test"):
        read(save(db, tmp_path))


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, caplog):
    db = database()
    db["emotion"]["emotion"].set(["joy", None, "awe"])
    with caplog.at_level(logging.INFO):
        found = read(save(db, tmp_path))
    assert [u.id for u in found] == ["audio/1", "audio/3"]
    assert (
        "1 of 3 rows have no label, or one that its scheme does not have, and are left"
        in caplog.text
    )


def test_columns_are_chosen_by_name_table_or_pattern(tmp_path):
    db = database()
    db["other"] = db["emotion"].copy()
    db["other"]["emotion"].set(["awe", "awe", "joy"])
    root = save(db, tmp_path)
    with pytest.raises(InputError) as refused:
        read(root)
    assert "mood: 1 times two columns contradict each other about label" in str(refused.value)
    assert "audio/1.wav is 'joy' in emotion.emotion and 'awe' in other.emotion" in str(
        refused.value
    )
    for word in ("other.emotion", "oth*.emotion"):
        assert [u.label for u in read(root, label=word)] == ["awe", "awe", "joy"]
    assert [u.label for u in read(root, label="emotion.confidence")] == ["0.9", "0.8", "0.7"]
    with pytest.raises(InputError, match="takes label from 'mood', and mood has no such column"):
        read(root, label="mood")
    assert {u.speaker for u in read(root, label="other.emotion", speaker=None)} == {NO_SPEAKER}


@pytest.mark.parametrize(("table", "name"), [("emotion", "label"), ("files", "speaker")])
def test_what_no_column_gives_is_named_with_the_columns(tmp_path, table, name):
    db = database()
    del db.tables[table]
    with pytest.raises(InputError, match=rf"no column .* to give the {name}: .*columns=\{{{name}:"):
        read(save(db, tmp_path))


# Which file of a table is read -------------------------------------------------------------------


def test_an_older_parquet_beside_a_newer_csv_is_refused_if_they_differ(tmp_path, caplog):
    """Found in practice: audformat reads the Parquet table, whatever CSV says since."""
    root = save(database(), tmp_path, "parquet")
    db = database()
    db["emotion"]["emotion"].set(["awe", "awe", "awe"])
    db["emotion"].save(str(root / "db.emotion"), storage_format="csv", update_other_formats=False)
    os.utime(root / "db.emotion.parquet", (time.time() - 100,) * 2)
    stale = audformat.Database.load(str(root), load_data=True)
    assert stale["emotion"].df["emotion"].tolist() == ["joy", "awe", "joy"]  # as audformat says
    with pytest.raises(InputError) as refused:
        read(root)
    said = str(refused.value)
    assert f"{root / 'db.emotion.parquet'} and {root / 'db.emotion.csv'} (3 and 3 rows)" in said
    assert "db.emotion.csv was written last, and audformat takes db.emotion.parquet: remove" in said
    (root / "db.emotion.parquet").unlink()
    assert {u.label for u in read(root)} == {"awe"}


def test_two_files_that_say_the_same_are_read_and_said(tmp_path, caplog):
    for db in (database(), segmented()):
        root = tmp_path / str(len(db.misc_tables))
        save(db, root, "parquet")
        db["emotion"].save(str(root / "db.emotion"), storage_format="csv")
        with caplog.at_level(logging.INFO):
            assert len(read(root)) == 3
        assert f"{root}: CSV and Parquet say the same of emotion" in caplog.text


def test_no_pickle_is_read(tmp_path):
    root = save(database(), tmp_path)
    marker = tmp_path / "executed"
    (root / "db.emotion.pkl").write_bytes(pickle.dumps(Payload(marker)))
    assert len(read(root)) == 3
    (root / "db.emotion.csv").unlink()
    with pytest.raises(InputError, match="db.emotion.pkl is not read, since a pickle can run code"):
        read(root)
    assert not marker.exists()


def test_a_header_that_would_run_code_is_refused(tmp_path):
    root = save(database(), tmp_path)
    marker = tmp_path / "executed"
    header = (root / "db.yaml").read_text()
    text = f"description: !!python/object/apply:os.system ['touch {marker}']\n"
    (root / "db.yaml").write_text(header + text)
    with pytest.raises(InputError, match="cannot read .*db.yaml as the header"):
        read(root)
    assert not marker.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "name: x", "tables: 3", "name: x\nsource: y\nusage: research\ntables: [1]"]
)
def test_a_header_that_is_none_is_refused_in_one_message(tmp_path, text):
    root = save(database(), tmp_path)
    (root / "db.yaml").write_text(text)
    with pytest.raises(InputError, match="db.yaml"):
        read(root)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"file,wrong\n1,2,3\n", b"file\n1\n"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_that_is_none_is_refused_in_one_message(tmp_path, form, content):
    root = save(database(), tmp_path, form)
    (root / f"db.emotion.{form}").write_bytes(content)
    with pytest.raises(InputError):
        read(root)


def test_columns_of_csv_in_another_order_than_the_header_are_refused(tmp_path):
    """audformat takes the columns of a CSV by their place."""
    root = save(database(), tmp_path)
    frame = pandas.read_csv(root / "db.emotion.csv", index_col="file")
    frame[["emotion.confidence", "emotion"]].to_csv(root / "db.emotion.csv")
    with pytest.raises(InputError) as refused:
        read(root)
    said = str(refused.value)
    assert f"{root / 'db.emotion.csv'}, line 1: the header must be file,emotion,emotion.con" in said
    assert "got file,emotion.confidence,emotion" in said


def test_labels_that_the_scheme_does_not_allow_are_counted(tmp_path, caplog):
    root = save(database(), tmp_path)
    text = (root / "db.emotion.csv").read_text()
    (root / "db.emotion.csv").write_text(text.replace("awe", "anger"))
    with caplog.at_level(logging.INFO):
        assert [u.label for u in read(root)] == ["joy", "joy"]
    assert "1 of 3 rows have no label, or one that its scheme does not have" in caplog.text
    (root / "db.emotion.csv").write_text(text.replace("awe", "anger").replace("joy", "fear"))
    with pytest.raises(InputError, match="none of 3 rows has a label that its scheme has"):
        read(root)


def test_aliases_of_a_header_are_read(tmp_path):
    root = save(database(), tmp_path)
    header = yaml.safe_load((root / "db.yaml").read_text())
    header["schemes"]["mood"] = header["schemes"]["emotion"]  # dumped as &id001 and *id001
    (root / "db.yaml").write_text(yaml.safe_dump(header))
    assert "&id001" in (root / "db.yaml").read_text() and len(read(root)) == 3


def test_files_may_not_lead_out(tmp_path):
    db = database()
    db["emotion"].map_files = None
    index = audformat.filewise_index(["../1.wav"])
    db["emotion"] = audformat.Table(index)
    db["emotion"]["emotion"] = audformat.Column(scheme_id="emotion")
    db["emotion"]["emotion"].set(["joy"])
    with pytest.raises(InputError, match="leads out of corpus.root"):
        read(save(db, tmp_path), speaker=None)


def test_without_audformat_the_extra_is_named(tmp_path, monkeypatch):
    root = save(database(), tmp_path)
    monkeypatch.setattr("system.extras.is_installed", lambda package: package != "audformat")
    with pytest.raises(InputError, match="needs audformat; .* requirements-formats.txt"):
        read(root)
