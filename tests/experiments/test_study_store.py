"""A study's database that is damaged or a stranger's ends in one message, not in memory or time."""

import os
import sqlite3
from contextlib import closing

import pytest

from experiments.storages import SQLITE, STORE_FILES
from experiments.study import Study
from experiments.study_store import MAX_STORE, check_store
from system.errors import RunError
from tests.experiments.test_study import EPOCHS, SPACE, finish_all

STORE = STORE_FILES[SQLITE]


@pytest.fixture
def file(tmp_path):
    """The store of a study with three trials."""
    finish_all(Study(tmp_path, SPACE, 0, EPOCHS), 3)
    return tmp_path / STORE


def change(file, *statements):
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            database.execute(statement)


def refused(file, words):
    with pytest.raises(RunError, match=f"cannot read or write the trials in .*{words}") as error:
        Study(file.parent, SPACE, 0, EPOCHS)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a text", "not an SQLite database"),
        (b"SQLite format 3\0", "not a database|malformed"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "not a database|malformed"),
    ],
)
def test_another_file_is_refused(file, content, words):
    file.write_bytes(content)
    refused(file, words)


def test_a_large_file_a_pipe_and_a_folder_are_refused(file):
    os.truncate(file, MAX_STORE + 1)
    refused(file, "larger than 200 MB")
    file.unlink()
    os.mkfifo(file)
    refused(file, "not a regular file")
    file.unlink()
    file.mkdir()
    refused(file, "not a regular file")


def test_a_torn_file_is_refused(file):
    os.truncate(file, file.stat().st_size // 2)
    refused(file, "malformed|missing|[Tt]ree|[Pp]age")


def test_a_page_of_garbage_is_refused(file):
    content = bytearray(file.read_bytes())
    for start in range(4096, len(content), 8192):
        content[start : start + 2000] = b"\xa5" * 2000
    file.write_bytes(bytes(content))
    refused(file, ".")


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE trials", f"CREATE VIEW trials AS {ENDLESS}"],
        [f"CREATE VIEW more AS {ENDLESS}"],
        ["CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM studies; END"],
        ["CREATE TABLE big (a INT, b TEXT GENERATED ALWAYS AS (zeroblob(900000000)))"],
        ["CREATE VIRTUAL TABLE words USING fts5(body)"],
    ],
)
def test_a_schema_that_computes_is_refused_before_it_does(file, statements):
    change(file, *statements)
    refused(file, "not a plain table")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET state = 'NONSENSE'",
        "UPDATE trials SET number = 'a'",
        "UPDATE trials SET datetime_start = 'yesterday'",
        "UPDATE trial_params SET distribution_json = '['",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trial_params SET distribution_json = '" + "[" * 100_000 + "'",
        "UPDATE trial_params SET param_value = 'a'",
        "UPDATE trial_params SET param_value = 1e300",
        "UPDATE trial_user_attributes SET value_json = '" + "[" * 100_000 + "'",
        "UPDATE trial_user_attributes SET value_json = 'x'",
        "UPDATE trial_values SET value = 'a'",
        "UPDATE version_info SET schema_version = 1",
        "UPDATE studies SET study_name = 'other'",
        "DROP TABLE trial_params",
        "DELETE FROM study_directions",
        "UPDATE trials SET state = 'PRUNED'",
    ],
)
def test_rows_that_optuna_did_not_write_give_a_value_or_one_message(file, statement):
    change(file, statement)
    try:
        Study(file.parent, SPACE, 0, EPOCHS).results()
    except RunError as error:
        assert "cannot read or write the trials" in str(error) and len(str(error)) < 2000


def test_a_whole_store_an_empty_one_and_none_pass(file, tmp_path):
    check_store(file, 1)
    (tmp_path / "empty").touch()
    check_store(tmp_path / "empty", 1)
    check_store(tmp_path / "missing", 1)
    finish_all(study := Study(file.parent, SPACE, 0, EPOCHS), 5)
    assert study.n_finished() == 5
