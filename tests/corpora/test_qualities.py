"""Qualities are measured once, kept beside the audio index, and never of another recording."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.quality import Quality, measure_quality
from corpora import qualities as room
from corpora.qualities import FILE, measure_qualities
from corpora.recordings import index_audio
from system.errors import RunError
from tests.audio.test_fingerprint import RATE, speech


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{k}.wav" for k in range(3)]
    for k, path in enumerate(paths):
        soundfile.write(path, speech(k), RATE)
    return paths


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The sources that were decoded to be measured."""
    seen: list[object] = []

    def count(source: object, recording: str | None = None) -> Quality:
        seen.append(source)
        return measure_quality(source, recording)

    monkeypatch.setattr(room, "measure_quality", count)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_measured_is_kept(files, tmp_path, measured, workers) -> None:
    store = tmp_path / "store"
    recordings, _ = index_audio(files, workers, store)
    first, changed = measure_qualities(recordings, workers, store)
    assert sorted(measured) == files and changed == {}
    again, _ = measure_qualities(recordings, workers, store)
    assert again == first == {path: measure_quality(path) for path in files}
    assert len(measured) == 3
    soundfile.write(files[0], speech(9), RATE)
    recordings, _ = index_audio(files, workers, store)
    third, _ = measure_qualities(recordings, workers, store)
    assert measured[3:] == [files[0]] and third[files[0]] != first[files[0]]


def test_a_recording_that_changed_since_it_was_indexed_is_named(files, tmp_path) -> None:
    recordings, _ = index_audio(files, 0, tmp_path / "store")
    soundfile.write(files[1], speech(9), RATE)
    found, changed = measure_qualities(recordings, 0, tmp_path / "store")
    assert list(found) == [files[0], files[2]]
    assert changed == {files[1]: "has changed since it was indexed"}


def test_an_interrupted_measurement_keeps_what_it_has(files, tmp_path, monkeypatch) -> None:
    recordings, _ = index_audio(files, 0, tmp_path)

    def stop(source: Path, recording: str | None = None) -> Quality:
        if source == files[2]:
            raise KeyboardInterrupt
        return measure_quality(source, recording)

    with monkeypatch.context() as patch:
        patch.setattr(room, "measure_quality", stop)
        with pytest.raises(KeyboardInterrupt):
            measure_qualities(recordings, 0, tmp_path)
    with np.load(tmp_path / FILE) as kept:
        assert len(kept["name"]) == 2


@pytest.mark.parametrize("damage", ["cut", "text", "nan", "kind"])
def test_a_corrupt_file_is_named(files, tmp_path, damage) -> None:
    recordings, _ = index_audio(files, 0, tmp_path)
    measure_qualities(recordings, 0, tmp_path)
    path = tmp_path / FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "text":
        path.write_text("no archive")
    else:
        with np.load(path) as kept:
            columns = dict(kept)
        columns["peak"] = columns["peak"] * np.nan if damage == "nan" else columns["name"]
        np.savez(path, **columns)
    with pytest.raises(RunError, match=rf"{FILE}.*remove"):
        measure_qualities(recordings, 0, tmp_path)


def test_a_bar_is_shown_for_many_alone(files, tmp_path, monkeypatch, capsys) -> None:
    recordings, _ = index_audio(files, 0, tmp_path)
    measure_qualities(recordings, 0, tmp_path)
    assert capsys.readouterr().err == "" and logging.root
    monkeypatch.setattr(room, "SHOW_PROGRESS", 3)
    (tmp_path / FILE).unlink()
    measure_qualities(recordings, 0, tmp_path)
    assert "measure audio" in capsys.readouterr().err
