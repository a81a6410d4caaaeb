"""Files are written atomically: the new content or the old, never a part."""

import errno
import math
import os
import stat
from pathlib import Path

import pytest

from system import files
from system.errors import RunError, nearest


class DiskFullError(OSError):
    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


@pytest.fixture
def old(tmp_path):
    """Return a file that exists already."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def assert_untouched(path):
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]  # no temporary left


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    path.parent.mkdir()
    for text in ("first", "sécond"):
        files.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_exception_in_the_body_leaves_the_old_file_and_passes_on(old, error):
    with pytest.raises(type(error)), files.atomic_write(old) as temporary:
        temporary.write_text("half")
        raise error
    assert_untouched(old)


def test_peer_25_a_full_disk_leaves_the_old_file_and_is_a_run_error(old, monkeypatch):
    def full(*args, **kwargs):
        raise DiskFullError

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left.*needs 3 B.*Nothing was changed"):
        files.write_text(old, "new")
    monkeypatch.undo()
    assert_untouched(old)


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failing_last_step_leaves_the_old_file(old, monkeypatch, step):
    def full(*args, **kwargs):
        raise DiskFullError

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(RunError, match=str(old)):
        files.write_text(old, "new")
    monkeypatch.undo()
    assert_untouched(old)


def test_a_folder_that_is_a_file_is_a_run_error(old):
    with pytest.raises(RunError, match="cannot write"):
        files.write_text(old / "below.txt", "new")
    with pytest.raises(RunError, match="cannot append"):
        files.append_line(old / "below.txt", "new")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, make) -> None:
    place = tmp_path / "place"
    make(place)
    kind = stat.S_IFMT(place.stat().st_mode)
    with pytest.raises(RunError, match="not a regular file: name another file$"):
        files.write_text(place, "text")
    assert stat.S_IFMT(place.stat().st_mode) == kind and list(tmp_path.iterdir()) == [place]


def test_json_comes_back_and_holds_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"ua": 0.5, "list": [None, 1]})
    assert files.read_json(tmp_path / "a.json") == {"ua": 0.5, "list": [None, 1]}
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "b.json", math.nan)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("content", [None, "{", "\udc00"])
def test_a_json_file_that_cannot_be_read_is_a_run_error(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match="a.json"):
        files.read_json(path)


def test_a_csv_quotes_what_needs_it(tmp_path):
    files.write_csv(tmp_path / "a.csv", ["id", "text"], [["é", 'say "a, b"'], [1, None]])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == ('id,text\né,"say ""a, b"""\n1,\n')


def test_lines_are_appended(tmp_path):
    for line in ("one", "two"):
        files.append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_the_nearest_word_comes_first():
    assert nearest("fuson", ["alpha", "fusion"]) == "did you mean 'fusion'? Allowed: alpha, fusion"
    assert nearest("zzz", ["b", "a"]) == "Allowed: a, b"
