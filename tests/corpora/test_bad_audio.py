"""Bad audio is told by reason, with counts, ten names, and a file with all of it."""

import csv
from pathlib import Path

import pytest

from corpora.bad_audio import describe_bad_audio, group_by_reason
from corpora.plan import make_plan
from system.errors import InputError
from tests.audio.test_bad_audio import good_clips, write_corpus
from tests.support.battery import APPLE_DOUBLE, LFS


def test_reasons_that_differ_in_a_number_are_one_and_the_most_frequent_comes_first():
    bad = {
        Path("d"): "is empty: 0 bytes",
        Path("b"): "is too short: 3 ms, where 10 ms are needed",
        Path("a"): "is too short: 0.0625 ms, where 10 ms are needed",
        Path("c"): "holds samples up to 1e+30, where full scale is 1",
    }
    assert [list(map(str, paths)) for paths in group_by_reason(bad).values()] == [
        ["a", "b"],
        ["c"],
        ["d"],
    ]


def test_ten_names_are_shown_and_all_are_in_a_file(tmp_path):
    bad = {tmp_path / f"{n:02d}.wav": "holds no samples" for n in range(72)}
    bad[tmp_path / "x.wav"] = "is empty: 0 bytes"
    file = tmp_path / "store" / "bad.csv"
    lines = describe_bad_audio(bad, file)
    assert lines[0] == "  72 files, each of which holds no samples:"
    assert lines[1:11] == [f"    {tmp_path}/{n:02d}.wav" for n in range(10)]
    assert lines[11:] == [
        "    and 62 more",
        f"  {tmp_path}/x.wav is empty: 0 bytes",
        f"All 73 are listed in {file}",
    ]
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {Path(row["path"]): row["reason"] for row in rows} == bad


def test_ten_of_a_kind_need_no_file(tmp_path):
    bad = {tmp_path / f"{n}.wav": "holds no samples" for n in range(10)}
    assert len(describe_bad_audio(bad, tmp_path / "bad.csv")) == 11
    assert not (tmp_path / "bad.csv").exists()


def test_a_list_that_cannot_be_written_is_said(tmp_path):
    bad = {tmp_path / f"{n}.wav": "holds no samples" for n in range(11)}
    (tmp_path / "store").touch()
    lines = describe_bad_audio(bad, tmp_path / "store" / "bad.csv")
    assert lines[-1].startswith("A list of all 11 could not be written: ")


PLACEHOLDERS = {
    "LFS": (LFS.encode(), "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    "nothing": (b"", "is empty: 0 bytes"),
    "HTML": (b"<!DOCTYPE html><html><body>Not found", "is a web page (HTML or XML), not audio"),
    "macOS": (APPLE_DOUBLE, "holds what macOS keeps beside a file (._name), not the sound"),
}


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_placeholders_get_their_reason_once(tiny, tmp_path, kind):
    content, reason = PLACEHOLDERS[kind]
    rows = good_clips(tmp_path)
    for n in range(12):
        (tmp_path / f"{n}.wav").write_bytes(content)
        rows.append({"path": f"{n}.wav", "label": "joy", "speaker": "p0"})
    config = tiny(*write_corpus(tmp_path, rows))
    with pytest.raises(InputError) as error:
        make_plan(config)
    said = str(error.value)
    assert said.startswith(f"12 audio files cannot be used:\n  12 files, each of which {reason}")
    assert said.count(reason) == 1 and len(said.splitlines()) == 15
    assert f"All 12 are listed in {tmp_path / 'store'}/bad_audio-{config.name}.csv" in said
    assert "emove" not in said


def test_a_manifest_counts_the_files_that_it_does_not_list(tiny, tmp_path):
    rows = good_clips(tmp_path)
    for n in range(3):
        (tmp_path / f"more{n}.wav").touch()
    (tmp_path / "note.txt").touch()
    plan = make_plan(tiny(*write_corpus(tmp_path, rows)))
    assert plan.unread.words() == [
        "3 audio files below corpus.root were not read: the manifest does not list them"
    ]
