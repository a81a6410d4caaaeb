"""predict.py on long recordings: options, lines that resume, timelines, live sound."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import predict
from inference import load
from inference.long_recordings import timeline_names
from inference.timeline import Parts
from system.errors import InputError
from tests.support.models import write_small_fold
from tests.support.paths import ROOT

RATE = 16_000
SECONDS = 100  # in which a process must have answered


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    return write_small_fold(tmp_path_factory.mktemp("fold"))


@pytest.fixture
def talks(tmp_path, monkeypatch):
    """Two recordings of equal names, and the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i, folder in enumerate(("one", "two")):
        Path(folder).mkdir()
        sound = rng.normal(0, 0.1, round((3 + i) * RATE))
        soundfile.write(Path(folder, "talk.wav"), sound, RATE)
    return [Path("one/talk.wav"), Path("two/talk.wav")]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
    return predict.main()


MISTAKES = [
    (["a.wav", "--hop", "1"], "--hop needs --window"),
    (["a.wav", "--window", "3", "--segments", "energy"], "leave --window and --hop out"),
    (["a.wav", "--timeline", "out"], "--timeline needs --window 3"),
    (["a.wav", "--window", "3", "--timeline", "out", "--out", "x"], "leave --out and --format out"),
    (["a.wav", "--window", "3", "--timeline", "o", "--format", "csv"], "--out and --format out"),
    (["a.wav", "--window", "3", "--timeline", __file__], "needs a folder, and"),
    (["a.wav", "--pcm", "16000", "--window", "3"], "leave INPUT out"),
    (["--pcm", "16000", "--window", "3", "--out", "x"], "leave --out out"),
    (["--pcm", "16000", "--segments", "energy"], "leave --segments out"),
    (["--pcm", "16000"], "--pcm needs --window"),
    (["--pcm", "0", "--window", "3"], "--pcm must be 1000 to 768000 Hz, got 0"),
    (["a.wav", "--pcm-format", "s16le"], "--pcm-format needs --pcm"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_options_that_do_not_go_together_are_refused(monkeypatch, capsys, words, said):
    assert run(monkeypatch, "/nowhere", *words) == 2
    assert said in capsys.readouterr().err


def test_windows_are_printed_with_their_times(fold, talks, monkeypatch, capsys):
    words = [fold, *talks, "--window", 1, "--hop", 0.5, "--format", "csv"]
    assert run(monkeypatch, *words) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:5] == ["path", "start", "end", "emotion", "confidence"]
    assert [row[:3] for row in rows[1:6]] == [
        ["one/talk.wav", f"{x:.3f}", f"{x + 1:.3f}"] for x in (0, 0.5, 1, 1.5, 2)
    ]
    assert [row[0] for row in rows[6:]] == ["two/talk.wav"] * 7


def interrupt_after(monkeypatch, n):
    """Let Ctrl-C come when n parts are labelled."""
    count = iter(range(n))
    labelled = Parts.__next__

    def interrupted(parts):
        one = labelled(parts)
        if next(count, None) is None:
            raise KeyboardInterrupt(signal.SIGINT)
        return one

    monkeypatch.setattr(Parts, "__next__", interrupted)


def test_a_file_that_comes_in_front_does_not_hide_the_one_that_was_begun(fold, talks, monkeypatch):
    first, second = talks
    words = ["--window", 1, "--hop", 0.5, "--format", "csv", "--out", "parts"]
    for files, n in (([second], 3), ([first, second], 2), ([first, second], 99)):
        with monkeypatch.context() as stopped:
            interrupt_after(stopped, n)
            assert run(stopped, fold, *files, *words) == (0 if n == 99 else 130)
    names = [line.split(",")[0] for line in Path("parts").read_text().splitlines()[1:]]
    assert names == [str(second)] * 7 + [str(first)] * 5


@pytest.mark.parametrize("form", ["csv", "jsonl", "table"])
def test_an_interrupted_file_of_lines_resumes_inside_a_recording(
    fold, talks, monkeypatch, capsys, form
):
    words = [fold, *talks, "--window", 1, "--hop", 0.5, "--format", form, "--out"]
    assert run(monkeypatch, *words, "whole") == 0
    with monkeypatch.context() as stopped:
        interrupt_after(stopped, 8)  # five of the first recording, three of the second
        assert run(stopped, *words, "parts") == 130
    assert "To resume" in capsys.readouterr().err
    before = Path("parts").read_text()
    assert Path("whole").read_text().startswith(before) and before.count("two/talk.wav") == 3
    labelled = []
    label = Parts.__next__

    def counted(parts):
        labelled.append(label(parts))
        return labelled[-1]

    with monkeypatch.context() as counting:
        counting.setattr(Parts, "__next__", counted)
        assert run(counting, *words, "parts") == 0
    assert Path("parts").read_text() == Path("whole").read_text()
    assert len(labelled) == 4
    assert run(monkeypatch, *words, "parts") == 2  # it is finished
    assert "--out parts exists" in capsys.readouterr().err


def test_a_recording_that_may_be_unfinished_must_be_named_again(fold, talks, monkeypatch, capsys):
    words = ["--window", 1, "--out", "lines"]
    with monkeypatch.context() as stopped:
        interrupt_after(stopped, 2)
        assert run(stopped, fold, *talks, *words) == 130
    assert run(monkeypatch, fold, talks[1], *words) == 2
    assert "may end in the middle of one/talk.wav: name that file, too" in capsys.readouterr().err


def test_timelines_of_equal_names_stay_apart_and_are_skipped_once_whole(
    fold, talks, monkeypatch, capsys
):
    words = [fold, *talks, "--window", 1, "--timeline", "out"]
    assert run(monkeypatch, *words) == 0
    suffixes = ("csv", "json", "png", "TextGrid", "vtt")
    expected = {f"out/{talk}.{suffix}" for talk in talks for suffix in suffixes}
    assert {str(path) for path in Path("out").rglob("*") if path.is_file()} == expected
    found = json.loads(Path("out/two/talk.wav.json").read_text())
    assert found["seconds"] == 4.0 and len(found["parts"]) == 10
    written = {path: os.stat(path).st_mtime_ns for path in expected}
    capsys.readouterr()
    assert run(monkeypatch, *words) == 0
    assert written == {path: os.stat(path).st_mtime_ns for path in expected}
    assert run(monkeypatch, *words[:-2], "--hop", 1, "--timeline", "out") == 2
    assert "was made with another hop: name another folder" in capsys.readouterr().err


def test_an_interrupted_timeline_resumes_at_its_last_part(fold, talks, monkeypatch):
    words = [fold, *talks, "--segments", "energy", "--timeline"]
    assert run(monkeypatch, *words, "whole") == 0
    words = [fold, *talks, "--window", 1, "--timeline"]
    assert run(monkeypatch, *words, "windows") == 0
    with monkeypatch.context() as stopped:
        interrupt_after(stopped, 9)
        assert run(stopped, *words, "parts") == 130
    assert not Path("parts/two/talk.wav.json").exists()
    assert Path("parts/two/talk.wav.csv").read_text().count("\n") == 3
    assert run(monkeypatch, *words, "parts") == 0
    for path in Path("windows").rglob("*.*"):
        if path.is_file():
            assert (Path("parts") / path.relative_to("windows")).read_bytes() == path.read_bytes()


def test_a_bad_part_is_named_and_the_status_says_so_again_when_it_is_whole(
    fold, talks, monkeypatch, capsys, caplog
):
    sound = np.random.default_rng(0).normal(0, 0.1, 4 * RATE)
    sound[RATE : 2 * RATE], sound[3 * RATE + 5] = 0, np.nan
    soundfile.write("one/talk.wav", sound, RATE, subtype="FLOAT")
    for out in (["--timeline", "out"], ["--timeline", "out"], ["--out", "lines"]):
        assert run(monkeypatch, fold, *talks, "--window", 1, "--hop", 1, *out) == 1
        assert "1 of 2 files are not usable audio" in capsys.readouterr().err
    assert "one/talk.wav, from 3.00 s on: holds samples that are NaN" in caplog.text
    silent = np.zeros(2 * RATE)
    soundfile.write("two/talk.wav", silent, RATE)
    assert run(monkeypatch, fold, talks[1], "--window", 1) == 0  # silence is no fault


def test_what_is_unlike_training_in_most_windows_is_told_once(fold, talks, monkeypatch, capsys):
    spread = {"min": 5.0, "p1": 5.0, "median": 6.0, "p99": 7.0, "max": 7.0}
    level = {"min": -20.0, "p1": -20.0, "median": -20.0, "p99": -20.0, "max": -20.0}
    known = {"seconds": spread, "level": level, "bandwidth": {k: 8000.0 for k in level}}
    known["rates"] = [{"rate": RATE, "recordings": 9}]
    other = write_small_fold(fold / "trained", training_data=known)
    assert run(monkeypatch, other, *talks, "--window", 1) == 0
    said = capsys.readouterr().err
    assert said.count("trained on 5.0 to 7.0 s") == 1
    assert "2 of 2 files (one/talk.wav has 1.0 s, two/talk.wav has 1.0 s)" in said


def test_names_are_paths_from_here_or_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [Path("a.wav"), Path("calls/a.wav"), Path("a.flac"), Path("/data/a.wav"), Path("-")]
    assert [str(name) for name in timeline_names(files).values()] == [
        "a.wav.csv",
        "calls/a.wav.csv",
        "a.flac.csv",
        "data/a.wav.csv",
        "-.csv",
    ]
    with pytest.raises(InputError, match=r"a.wav and calls/../a.wav are one file"):
        timeline_names([Path("a.wav"), Path("calls/../a.wav")])


@pytest.fixture
def live(fold):
    """Start predict.py on a pipe."""
    started, timers = [], []

    def start(*words):
        command = [sys.executable, "predict.py", str(fold), *map(str, words)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        started.append(subprocess.Popen(command, cwd=ROOT, env=buffered, **pipes))
        timers.append(threading.Timer(SECONDS, started[-1].kill))  # a read then ends
        timers[-1].start()
        return started[-1]

    yield start
    for timer in timers:
        timer.cancel()
    for process in started:
        process.kill()
        process.communicate()


def test_a_line_comes_as_soon_as_its_window_is_complete(live, fold):
    sound = np.random.default_rng(0).integers(-3000, 3000, 3 * RATE, np.int16)
    process = live("--pcm", RATE, "--window", 1, "--hop", 0.5, "--format", "jsonl")
    process.stdin.write(sound[: round(1.6 * RATE)].tobytes())
    process.stdin.flush()
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))  # still open
    assert [(row["start"], row["end"]) for row in (first, second)] == [(0, 1), (0.5, 1.5)]
    rest, errors = process.communicate(sound[round(1.6 * RATE) : round(2.7 * RATE)].tobytes())
    assert process.returncode == 0, errors
    rows = [first, second, *map(json.loads, rest.splitlines())]
    assert [row["start"] for row in rows] == [0, 0.5, 1, 1.5, 1.7]  # the last is moved back
    model = load(fold)
    for row in rows:
        cut = sound[round(RATE * row["start"]) : round(RATE * row["end"])]
        expected = model.predict(cut, RATE).probs
        assert list(row["probs"].values()) == pytest.approx(list(expected.values()), abs=1e-5)


def test_ctrl_c_ends_live_sound_with_130_and_one_message(live):
    process = live("--pcm", RATE, "--window", 0.5, "--format", "csv")
    process.stdin.write(bytes(2 * RATE))  # a second of silence
    process.stdin.flush()
    header, line = process.stdout.readline(), process.stdout.readline()
    assert header.startswith(b"path,start") and b",silence," in line
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGINT and "Traceback" not in errors


def test_live_sound_of_nothing_is_a_mistake(live):
    process = live("--pcm", RATE, "--window", 1)
    _, errors = process.communicate(b"")
    assert process.returncode == 2
    assert b"--pcm: what standard input has holds no samples" in errors


def test_live_sound_that_cannot_be_used_ends_with_1(fold, monkeypatch, capsys):
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype("<f4")
    sound[100] = np.nan
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sound.tobytes())))
    words = ["--pcm", RATE, "--pcm-format", "f32le", "--window", 1, "--hop", 1, "--format", "csv"]
    assert run(monkeypatch, fold, *words) == 1
    said = capsys.readouterr()
    assert "NaN or infinite" in said.out and "1 of 1 files are not usable audio" in said.err
