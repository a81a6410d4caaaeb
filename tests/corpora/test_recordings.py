"""Files are opened and decoded once, recognised by their bytes, and the bad ones named."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import reading
from audio.description import RecordingFacts
from audio.reading import Recording, inspect_audio, read_audio
from corpora import recordings as room
from corpora.recordings import index_audio, save_index
from system.errors import RunError
from tests.conftest import tone

RATE = 16_000


def write(path, pitch, seconds=1.0):
    soundfile.write(path, tone(pitch, seconds, 0), RATE)
    return path


def same(one, other):
    return one[:2] == other[:2] and np.array_equal(one.words, other.words)


@pytest.fixture
def opened(monkeypatch):
    """How often each file is opened."""
    counts, open_file, decode = Counter(), os.open, reading._Stream.__init__

    def open_and_count(path, *args, **kwargs):
        counts[Path(path)] += 1
        return open_file(path, *args, **kwargs)

    def decode_a_descriptor(self, file, *args, **kwargs):
        assert isinstance(file, int)  # libsndfile opens nothing itself
        decode(self, file, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_and_count)
    monkeypatch.setattr(reading._Stream, "__init__", decode_a_descriptor)
    return counts


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_is_opened_once_to_be_indexed_and_once_to_be_read(tmp_path, workers, opened):
    paths = [write(tmp_path / f"{i}.wav", 300 + 50 * i) for i in range(3)]
    opened.clear()
    recordings, _ = index_audio(paths, workers, tmp_path / "store", keep=True)
    assert [opened[path] for path in paths] == [1, 1, 1]
    index_audio(paths, workers, tmp_path / "store", keep=True)
    assert [opened[path] for path in paths] == [2, 2, 2]
    read_audio(paths[0], RATE, recordings[paths[0]].hash)
    assert opened[paths[0]] == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_in_the_index_is_not_decoded_again(tmp_path, monkeypatch, workers):
    paths = [write(tmp_path / f"{i}.wav", 300 + 50 * i, 0.2 + i) for i in range(3)]
    first, bad = index_audio(paths, workers, tmp_path / "store")
    assert not bad and list(first) == paths
    assert all(same(first[path], inspect_audio(path)) for path in paths)
    assert not (tmp_path / "store").exists()
    save_index([first[paths[0]]], tmp_path / "store")
    save_index(first.values(), tmp_path / "store")
    monkeypatch.setattr(reading.fingerprint, "fingerprint", lambda *args: 1 / 0)
    moved = paths[2].rename(tmp_path / "moved.wav")
    again, _ = index_audio([*paths[:2], moved], workers, tmp_path / "store")
    assert all(same(again[path], first[path]) for path in paths[:2])
    assert same(again[moved], first[paths[2]])
    write(paths[0], 999)  # as long as before under the old name
    with pytest.raises(ZeroDivisionError):
        index_audio(paths[:1], workers, tmp_path / "store")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_named_with_the_reason_each_time(tmp_path, workers):
    good = write(tmp_path / "a.wav", 300)
    soundfile.write(tmp_path / "short.wav", np.array([0.1, 0.2]), 44100)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    names = {
        "short.wav": "is too short: 0.0454 ms, where 10 ms are needed",
        "none.wav": "holds no samples",
        "text.wav": "cannot be read",
        "gone.wav": "No such file",
    }
    for _ in range(2):
        recordings, bad = index_audio(
            [good, *(tmp_path / n for n in names)], workers, tmp_path / "store"
        )
        assert list(recordings) == [good]
        assert [path.name for path in bad] == list(names)
        for name, reason in names.items():
            assert reason in bad[tmp_path / name]


@pytest.mark.parametrize("damage", [b"", b"no archive at all", 100, 700, -30])
def test_a_corrupt_index_is_refused(tmp_path, damage):
    path = write(tmp_path / "a.wav", 300)
    save_index([inspect_audio(path)], tmp_path / "store")
    kept = (tmp_path / "store" / room.FILE).read_bytes()
    damage = kept[:damage] if isinstance(damage, int) else damage
    (tmp_path / "store" / room.FILE).write_bytes(damage)
    with pytest.raises(RunError, match=f"{room.FILE} is missing, corrupt .* remove "):
        index_audio([path], 0, tmp_path / "store")


@pytest.mark.parametrize("n", [100, 400])
def test_what_is_written_grows_as_the_index_does(tmp_path, monkeypatch, n):
    """Each save rewrites the index: were it saved after every file, n / 2 times its size."""
    facts, words = RecordingFacts(1.0, RATE, -20.0, 4000.0), np.arange(500, dtype=np.uint32)
    monkeypatch.setattr(room, "SAVE_EVERY", 1)
    monkeypatch.setattr(
        room,
        "_inspect",
        lambda group, known: [Recording(group[0].name, facts, words, group[0].name)],
    )
    sizes, save = [], room._save

    def watched(path, known):
        save(path, known)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(room, "_save", watched)
    index_audio([Path(f"{i:04}.wav") for i in range(n)], 0, tmp_path, keep=True)
    assert len(room._load(tmp_path / room.FILE)) == n and len(sizes) > 8
    assert sum(sizes) < 4 * sizes[-1]


def test_an_interrupted_index_is_saved(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.wav", 300 + 100 * i) for i in range(7)]
    monkeypatch.setattr(room, "SAVE_EVERY", 2)
    saved = []
    save_index = room.save_index
    monkeypatch.setattr(room, "save_index", lambda *args: saved.append(1) or save_index(*args))

    def inspect_until_interrupted(path, known):
        if path == paths[5]:
            raise KeyboardInterrupt
        return inspect_audio(path, known)

    with monkeypatch.context() as patch:
        patch.setattr(room, "inspect_audio", inspect_until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            index_audio(paths, 0, tmp_path / "kept", keep=True)
    assert len(saved) == 3  # twice on the way, once at the end
    decoded, compute = [], reading.fingerprint.fingerprint
    monkeypatch.setattr(
        reading.fingerprint, "fingerprint", lambda *args: decoded.append(1) or compute(*args)
    )
    recordings, bad = index_audio(paths, 0, tmp_path / "kept")
    assert list(recordings) == paths and not bad and len(decoded) == len(paths[5:])


def packed(file, columns):
    np.savez_compressed(file, **columns)


def array_alone(file, columns):
    np.save(file, columns["lengths"])


def encrypted(file, columns):
    np.savez(file, **columns)
    file.seek(0)
    data = bytearray(file.read())
    for place in range(len(data)):
        if data[place : place + 4] == b"PK\x01\x02":
            data[place + 8] |= 1
        elif data[place : place + 4] == b"PK\x03\x04":
            data[place + 6] |= 1
    file.seek(0)
    file.write(data)


def no_arrays(file, columns):
    with zipfile.ZipFile(file, "w") as archive:
        for name in columns:
            archive.writestr(f"{name}.npy", b"no array")


def other(name, values):
    return lambda file, columns: np.savez(file, **(columns | {name: np.array(values)}))


STRANGE = {
    "packed": packed,
    "array_alone": array_alone,
    "encrypted": encrypted,
    "no_arrays": no_arrays,
    "lengths_of_floats": other("lengths", [1.0]),
    "lengths_of_words": other("lengths", ["a"]),
    "negative_lengths": other("lengths", [-1]),
    "lengths_beyond": other("lengths", [10**9]),
    "one_hash": other("hash", "a"),
    "words_of_floats": other("words", [1.0]),
    "levels_not_finite": other("level", [np.nan]),
    "rates_of_floats": other("rate", [8000.0]),
    "words_in_rows": other("words", np.zeros((3, 3), np.uint32)),
}


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("how", STRANGE)
def test_an_index_of_another_form_is_refused(tmp_path, how, count):
    path = write(tmp_path / "a.wav", 300)
    save_index([inspect_audio(path)], tmp_path)
    with np.load(tmp_path / room.FILE) as kept:
        columns = dict(kept)
    with (tmp_path / room.FILE).open("w+b") as file:
        STRANGE[how](file, columns)
    with pytest.raises(RunError, match=f"{room.FILE} is missing, corrupt .* remove "):
        index_audio([path], 0, tmp_path)
    count("hostile inputs tried")


def test_an_index_of_an_earlier_version_is_left_alone_and_made_again(tmp_path):
    path = write(tmp_path / "a.wav", 300)
    earlier = tmp_path / "store" / "recordings-3.npz"  # without rate, level and bandwidth
    earlier.parent.mkdir()
    np.savez(earlier, sha256=np.array(["a"]), seconds=np.array([1.0]))
    before = earlier.read_bytes()
    recordings, bad = index_audio([path], 0, tmp_path / "store", keep=True)
    assert not bad and recordings[path].facts == inspect_audio(path).facts
    assert earlier.read_bytes() == before and (tmp_path / "store" / room.FILE).exists()


def test_an_index_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / room.FILE)
    with pytest.raises(RunError, match="not a regular file"):
        index_audio([write(tmp_path / "a.wav", 300)], 0, tmp_path)
