"""Rows that name a part of their file: read, refused by line, indexed, and kept apart."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import reading
from audio.reading import inspect_audio
from audio.segment import Segment
from config.loading import load_config
from config.schema import Config
from corpora.plan import Plan, make_plan, make_tuning_plan
from corpora.readers import read_corpus
from corpora.recordings import FILE, index_audio
from corpora.segments import read_segment, segment_id
from corpora.utterance import Utterance
from system.errors import InputError
from tests.conftest import RECIPE, tone
from tests.corpora.test_recordings import opened  # noqa: F401

RATE = 16_000


@pytest.mark.parametrize(
    ("row", "times"),
    [
        ({}, (0, None)),
        ({"start": "", "end": ""}, (0, None)),
        ({"start": None, "end": None}, (0, None)),  # a row that a table cuts short
        ({"start": "0", "end": "NaT"}, (0, None)),
        ({"start": "1.5", "end": "nan"}, (1.5, None)),
        ({"start": "", "end": "2"}, (0, 2)),
        ({"start": "1.5", "end": "3"}, (1.5, 3)),
        ({"begin": "1.5", "end": "3"}, (1.5, 3)),
        ({"start_time": "1.5", "end_time": "3"}, (1.5, 3)),
        ({"begin_time": "1.5", "end_time": "3"}, (1.5, 3)),
        ({"onset": "1.5", "offset": "3"}, (1.5, 3)),
        ({"onset": "1.5", "offset": "3", "duration": "1.5"}, (1.5, 3)),
        ({"onset": "", "offset": "3"}, (0, 3)),
        ({"onset": "1.5", "duration": "1.5"}, (1.5, 3)),
        ({"onset": "1.5", "end": "3"}, (1.5, 3)),
        ({"offset": "1.5", "duration": "1.5"}, (1.5, 3)),
        ({"offset": "0.1", "duration": "0.2"}, (0.1, 0.3)),
        ({"duration": "3"}, (0, 3)),
        ({"start": "1e-1", "end": ".5"}, (0.1, 0.5)),
        ({"start": "1.5", "end": "3", "duration": "1.504"}, (1.5, 3)),
        ({"start": "0 days 00:00:01.5", "end": "0 days 00:00:03"}, (1.5, 3)),
        ({"start": "00:01:01.250000", "end": "1 days 01:00:00.5"}, (61.25, 90_000.5)),
    ],
)
def test_times_are_read_from_the_words_of_several_tools(row, times):
    assert read_segment(row) == times


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"start": "-1", "end": "3"}, "'start' must be seconds from 0 on.* got '-1'"),
        ({"start": "1", "end": "-1"}, "'end' must be .*leave it empty for .* the end of the file"),
        ({"start": "1,5", "end": "3"}, "'start' must be seconds .* got '1,5'"),
        ({"offset": "inf"}, "'offset' must be"),
        ({"offset": "1e300"}, "'offset' must be"),
        ({"offset": "1_0"}, "'offset' must be"),
        ({"offset": "[1]"}, "'offset' must be"),
        ({"duration": "True"}, "'duration' must be"),
        ({"end": "00:61:00"}, "'end' must be"),
        ({"start": "3", "end": "1"}, "from 3 s to 1 s must end at least 10 ms after its start"),
        ({"start": "3", "end": "3"}, "from 3 s to 3 s must end at least 10 ms after its start"),
        ({"start": "3", "end": "3.009"}, "from 3 s to 3.009 s must end at least 10 ms"),
        ({"offset": "3", "duration": "0"}, "from 3 s to 3 s must end"),
        ({"start": "1", "offset": "2"}, "contradict each other: start 1 s, offset 2 s; keep one"),
        ({"onset": "2", "offset": "1"}, "from 2 s to 1 s must end"),
        (
            {"start": "1", "end": "3", "duration": "1"},
            r"contradict each other: end 3 s, start \+ duration 2 s",
        ),
    ],
)
def test_wrong_times_are_refused_by_line(tmp_path, row, reason):
    (tmp_path / "a.wav").touch()
    columns = ["path", "label", "speaker", *row]
    values = ["a.wav", "x", "s", *(f'"{value}"' for value in row.values())]
    (tmp_path / "list.csv").write_text(f"{','.join(columns)}\n{','.join(values)}\n")
    with pytest.raises(InputError, match=rf"1 of 1 rows are wrong(.|\n)*  line 2: (.*){reason}"):
        read_corpus("manifest", tmp_path, tmp_path / "list.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ("start_ms,end_ms", "'end_ms', 'start_ms'"),
        ("Begin Time (s),End Time (s)", r"'begin_time_\(s\)', 'end_time_\(s\)'"),
        ("begin_time,stop", "'stop'"),
        ("StartTime,EndTime", "'endtime', 'starttime'"),
        ("xmin,xmax", "'xmax', 'xmin'"),
        ("frame_offset,num_frames", "'frame_offset'"),
        ("segment-start,segment-end", "'segment_end', 'segment_start'"),
        ("end,start_sample", "'start_sample'"),
        ("duration,start_frame", "'start_frame'"),
        ("start,duration_ms", "'duration_ms'"),
        ("onset,n_samples", "'n_samples'"),
    ],
)
def test_times_that_are_not_read_are_refused_by_name(tmp_path, columns, named, suffix):
    with pytest.raises(InputError, match=rf"list.{suffix}: the columns {named} look.*in seconds"):
        read_times(tmp_path, columns, ("1", "2"), suffix)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "values", "times"),
    [
        ("onset,offset", (1, 2), (1, 2)),
        ("offset,onset", (2, 1), (1, 2)),
        ("start,end,duration_ms,start_frame", (1, 2, 1000, 16_000), (1, 2)),
        ("num_frames,duration_ms", (16_000, 1000), (0, None)),  # of the whole file
        ("start_date,front_end,end_reason", (2024, "x", "y"), (0, None)),
        ("sample_rate,length,trend,weekend", (16_000, 3, 0, 1), (0, None)),
    ],
)
def test_columns_beside_the_times_are_not_taken_for_times(tmp_path, columns, values, times, suffix):
    found = read_times(tmp_path, columns, values, suffix)
    assert (found.start, found.end) == times


def read_times(folder: Path, columns: str, values: tuple[object, ...], suffix: str) -> Utterance:
    """Return the utterance of a list of one row with some columns."""
    (folder / "a.wav").touch()
    row = {"path": "a.wav", "label": "x", "speaker": "s"}
    row |= dict(zip(columns.split(","), map(str, values), strict=True))
    table = f"{','.join(row)}\n{','.join(row.values())}\n"
    (folder / f"list.{suffix}").write_text(table if suffix == "csv" else json.dumps(row))
    (found,) = read_corpus("manifest", folder, folder / f"list.{suffix}")
    return found


def test_an_offset_is_an_end_in_a_row_that_is_cut_short_before_its_onset(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "list.csv").write_text("path,label,speaker,offset,onset\na.wav,x,s,2\n")
    (found,) = read_corpus("manifest", tmp_path, tmp_path / "list.csv")
    assert (found.start, found.end) == (0, 2)


def test_csv_and_jsonl_give_the_same_segments_and_ids_of_their_own(tmp_path):
    (tmp_path / "d.wav").touch()
    (tmp_path / "list.csv").write_text(
        "path,label,speaker,start,end,id\nd.wav,x,s,0,1.5,\nd.wav,y,s,1.5,,\nd.wav,x,s,2,3,mine\n"
    )
    rows = [
        {"path": "d.wav", "label": "x", "speaker": "s", "offset": 0, "duration": 1.5},
        {"path": "d.wav", "label": "y", "speaker": "s", "offset": 1.5, "duration": None},
        {"path": "d.wav", "label": "x", "speaker": "s", "offset": 2, "duration": 1, "id": "mine"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_corpus("manifest", tmp_path, tmp_path / "list.csv")
    assert found == read_corpus("manifest", tmp_path, tmp_path / "list.jsonl")
    assert [(u.id, u.start, u.end) for u in found] == [
        ("d_0-1.5", 0.0, 1.5),
        ("d_1.5-end", 1.5, None),
        ("mine", 2.0, 3.0),
    ]
    assert found[1].audio == Segment(tmp_path / "d.wav", 1.5)
    assert segment_id("a/d", 0.0, None) == "a/d"


def test_a_published_name_in_the_id_of_a_segment_gives_the_speaker(tmp_path):
    (tmp_path / "Ses01F_impro01.wav").touch()
    (tmp_path / "list.csv").write_text(
        "path,label,speaker,start,end,id\n"
        "Ses01F_impro01.wav,neu,,1,2,Ses01F_impro01_F000\n"
        "Ses01F_impro01.wav,neu,,2,3,Ses01F_impro01_M000\n"
    )
    found = read_corpus("manifest", tmp_path, tmp_path / "list.csv")
    assert [(u.speaker, u.start) for u in found] == [("Ses01_F", 1.0), ("Ses01_M", 2.0)]


def test_a_file_of_segments_is_opened_once_and_not_decoded_again(tmp_path, opened, monkeypatch):  # noqa: F811
    path = tmp_path / "d.wav"
    soundfile.write(path, tone(300, 3.0, 0), RATE)
    sources = [Segment(path, 0.0, 1.0), Segment(path, 1.0), path, Segment(path, 2.0, 9.0)]
    opened.clear()
    first, bad = index_audio(sources, 0, tmp_path / "store", keep=True)
    assert opened[path] == 1
    assert list(first) == sources[:3] and list(bad) == sources[3:]
    assert len({recording.hash for recording in first.values()}) == 3
    assert {recording.file_hash for recording in first.values()} == {first[path].file}
    monkeypatch.setattr(reading.fingerprint, "fingerprint", lambda *args: 1 / 0)
    again, _ = index_audio(sources, 2, tmp_path / "store", keep=True)
    assert {source: r.hash for source, r in again.items()} == {
        source: r.hash for source, r in first.items()
    }
    assert again[sources[1]].seconds == 2.0


def test_a_missing_file_is_a_reason_for_each_of_its_segments(tmp_path):
    sources = [Segment(tmp_path / "gone.wav", 0.0, 1.0), Segment(tmp_path / "gone.wav", 1.0)]
    found, bad = index_audio(sources, 0, tmp_path / "store")
    assert not found and list(bad) == sources
    assert all("No such file" in reason for reason in bad.values())


def make_config(folder: Path, rows: list[str], *overrides: str, split: str = "") -> Config:
    """Return the config of a manifest of three speakers in one file each, and of more rows."""
    lines = ["path,label,speaker,start,end"]
    for i, speaker in enumerate("pqr"):
        samples = [tone(200 + 300 * i + 40 * n, 1.0, 10 * i + n) for n in range(4)]
        soundfile.write(folder / f"{speaker}.wav", np.concatenate(samples), RATE)
        lines += [f"{speaker}.wav,{'ab'[n % 2]},{speaker},{n},{n + 1}" for n in range(4)]
    (folder / "list.csv").write_text("\n".join(lines + rows) + "\n")
    corpus = {"name": "manifest", "root": str(folder), "manifest": str(folder / "list.csv")}
    values = RECIPE | {"corpus": {**corpus, "labels": "all", "expect_published_counts": None}}
    values["protocol"] = {"split": "speaker-k-fold", "n_folds": 3}
    if split == "random-utterance":
        values["protocol"] = {"split": split, "n_folds": 3, "allow_speaker_overlap": True}
    values["run"] = {**RECIPE["run"], "root": str(folder / "runs"), "store": str(folder / "store")}
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return load_config(path, list(overrides))


def counts(plan: Plan) -> list[tuple[int, int, int]]:
    return [(len(s.train), len(s.dev), len(s.test)) for s in plan.splits]


def test_segments_that_touch_are_recordings_of_their_own(tmp_path):
    plan = make_plan(make_config(tmp_path, []))
    assert counts(plan) == [(4, 4, 4)] * 3
    assert len(set(plan.hashes.values())) == 12
    assert {recording.seconds for recording in plan.recordings.values()} == {1.0}
    assert plan.certificate["checks"]["overlap"] == "passed"
    assert plan.certificate["near_identical"]["pairs"] == 0
    assert plan.certificate["identical_recordings"]["recordings"] == 0


@pytest.mark.parametrize("near", ["refuse", "count"])
def test_segments_of_one_file_that_overlap_across_splits_are_refused(tmp_path, near):
    """The overlap of 50 ms is far too short for a fingerprint."""
    config = make_config(tmp_path, ["p.wav,a,q,3.95,4"], f"protocol.near_identical={near}")
    with pytest.raises(InputError, match="the folds leak") as error:
        make_plan(config)
    leaks = [line.strip() for line in str(error.value).splitlines() if "overlap" in line]
    assert len(leaks) == 3  # in each fold p and q are apart
    assert leaks[0] == (
        "fold 1: p_3.95-4 (dev) and p_3-4 (test) overlap: segments of one file, p.wav (3.95 s to 4 "
        "s) and p.wav (3 s to 4 s)"
    )


def test_a_whole_file_overlaps_its_segments(tmp_path):
    with pytest.raises(InputError, match=r"p \(dev\) and p_0-1 \(test\) overlap"):
        make_plan(make_config(tmp_path, ["p.wav,a,q,,"]))


def test_a_copy_of_a_file_under_another_name_is_the_same_file(tmp_path):
    make_config(tmp_path, [])
    (tmp_path / "copy.wav").write_bytes((tmp_path / "p.wav").read_bytes())
    with pytest.raises(InputError, match=r"copy_3.95-4 \(dev\) and p_3-4 \(test\) overlap"):
        make_plan(make_config(tmp_path, ["copy.wav,a,q,3.95,4"]))


def test_segments_of_one_speaker_may_overlap(tmp_path):
    plan = make_plan(make_config(tmp_path, ["p.wav,a,p,3.95,4", "p.wav,b,p,,"]))
    assert sum(len(split.test) for split in plan.splits) == 14


def test_equal_samples_in_two_segments_are_one_recording(tmp_path):
    config = make_config(tmp_path, [])
    samples, _ = soundfile.read(tmp_path / "p.wav", dtype="int16")
    soundfile.write(tmp_path / "q.wav", np.concatenate([samples, samples]), RATE)
    with pytest.raises(InputError, match=r"recording \w{12} is in dev \(q_0-1\) and in test"):
        make_plan(config)


def test_a_random_split_keeps_overlapping_segments_together(tmp_path):
    rows = [f"{who}.wav,a,{who},{n}.95,{n + 1}.05" for who in "pqr" for n in range(3)]
    plan = make_plan(make_config(tmp_path, rows, split="random-utterance"))
    for split in plan.splits:
        fold_of = {u.path: name for name, part in split.parts() for u in part}
        assert all(fold_of[u.path] == name for name, part in split.parts() for u in part)


def test_a_tuning_plan_refuses_an_overlap_of_train_and_dev(tmp_path):
    with pytest.raises(InputError, match=r"are not apart:\n.*overlap"):
        make_tuning_plan(make_config(tmp_path, ["r.wav,a,q,0.9,1.1"]))


def test_segments_beyond_their_file_are_named_or_left_out(tmp_path):
    rows = ["p.wav,a,p,3,4.5", "q.wav,b,q,9,"]
    with pytest.raises(InputError, match="2 audio files cannot be used") as error:
        make_plan(make_config(tmp_path, rows))
    assert "2 files, each of which reaches beyond its file, which ends at 4 s" in str(error.value)
    for name in ("p.wav (3 s to 4.5 s)", "q.wav (9 s to end)"):
        assert f"{name}\n" in str(error.value)
    plan = make_plan(make_config(tmp_path, rows, "corpus.on_bad_audio=skip"))
    assert counts(plan) == [(4, 4, 4)] * 3 and len(plan.bad) == 2


def test_what_a_corpus_of_whole_files_stores_is_as_before(tmp_path):
    """Names in the index are SHA-256 of files alone; no check of overlaps is written."""
    paths = [tmp_path / f"{n}.wav" for n in range(6)]
    for n, path in enumerate(paths):
        soundfile.write(path, tone(300 + 200 * n, 0.5, n), RATE)
    rows = [f"{path.name},{'ab'[n % 2]},s{n // 2}" for n, path in enumerate(paths)]
    config = make_config(tmp_path, [])
    (tmp_path / "list.csv").write_text("path,label,speaker\n" + "\n".join(rows) + "\n")
    plan = make_plan(config, keep=True)
    with np.load(tmp_path / "store" / FILE) as index:
        assert Counter(index["sha256"].tolist()) == {inspect_audio(p).file: 1 for p in paths}
        assert {len(name) for name in index["sha256"].tolist()} == {64}
    assert list(plan.recordings) == paths
    assert "overlap" not in plan.certificate["checks"]
