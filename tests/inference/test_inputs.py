"""Files, folders, patterns and lists name the recordings to label."""

import io
from pathlib import Path

import pytest

from inference.inputs import find_recordings
from system.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.flac", "in/c.MP3", "in/deep/d.m4a", "in/note.txt", "in/.hidden.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()


def names(*found: str) -> list[Path]:
    return [Path(name) for name in found]


def pipe(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_file_is_itself_whatever_its_name_and_its_order_stays():
    assert find_recordings(["b.wav", "a.flac", "in/note.txt"]) == names(
        "b.wav", "a.flac", "in/note.txt"
    )


def test_a_folder_is_all_audio_below_it():
    assert find_recordings(["in"]) == names("in/c.MP3", "in/deep/d.m4a")


def test_each_file_comes_once():
    assert find_recordings(["in/c.MP3", "in"]) == names("in/c.MP3", "in/deep/d.m4a")


def test_a_pattern_that_no_shell_replaced_is_replaced():
    assert find_recordings(["in/**/*.m*"]) == names("in/deep/d.m4a")
    assert find_recordings(["*.wav"]) == names("b.wav")
    with pytest.raises(InputError, match=r"no file matches \*.ogg"):
        find_recordings(["*.ogg"])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file():
    Path("[1].wav").touch()
    assert find_recordings(["[1].wav"]) == names("[1].wav")


def test_a_list_names_files(monkeypatch):
    Path("list.txt").write_text("b.wav\n\n in/c.MP3 \r\n")
    assert find_recordings(["a.flac"], ["list.txt"]) == names("a.flac", "b.wav", "in/c.MP3")
    pipe(monkeypatch, b"b.wav\n")
    assert find_recordings([], ["-"]) == names("b.wav")
    Path("list.txt").write_text("\n")
    with pytest.raises(InputError, match="list.txt names no file"):
        find_recordings([], ["list.txt"])
    with pytest.raises(InputError, match=r"--list nosuch.txt cannot be read: .*No such file"):
        find_recordings([], ["nosuch.txt"])


def test_a_list_from_windows_is_read_and_one_that_is_not_utf8_is_refused(monkeypatch):
    text = "b.wav\r\nin/c.MP3\r\n".encode("utf-8-sig")
    Path("list.txt").write_bytes(text)
    assert find_recordings([], ["list.txt"]) == names("b.wav", "in/c.MP3")
    pipe(monkeypatch, text)
    assert find_recordings([], ["-"]) == names("b.wav", "in/c.MP3")
    pipe(monkeypatch, b"b.wav\nb\xffd.wav\n")
    with pytest.raises(InputError, match="--list - cannot be read: line 2: byte 0xFF .* not UTF-8"):
        find_recordings([], ["-"])


def test_a_line_ends_at_its_end_alone():
    Path("list.txt").write_text("a\u2028b.wav\n")
    Path("a\u2028b.wav").touch()
    assert find_recordings([], ["list.txt"]) == names("a\u2028b.wav")


def test_standard_input_is_read_once():
    with pytest.raises(InputError, match="standard input can be read once"):
        find_recordings(["-"], ["-"])


def test_standard_input_is_a_file():
    assert find_recordings(["-", "b.wav"]) == names("-", "b.wav")
    assert find_recordings(["-"]) == names("-")


def test_what_names_nothing_is_refused_in_one_message():
    with pytest.raises(InputError, match="there is nothing to label"):
        find_recordings([])
    with pytest.raises(InputError, match="there is no file nosuch.wav, other.wav"):
        find_recordings(["nosuch.wav", "other.wav"])
    with pytest.raises(InputError, match=r"empty has no audio files \(.wav, .flac"):
        find_recordings(["empty"])


def test_beside_a_file_what_is_missing_stops_nothing():
    assert find_recordings(["nosuch.wav", "empty", "b.wav"]) == names(
        "nosuch.wav", "empty", "b.wav"
    )
