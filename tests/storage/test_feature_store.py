"""The feature store: keyed by all settings, never zeros, never half-written, never recomputed."""

import errno
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio import cqt
from audio.reading import inspect_audio, read_audio
from config.loading import flatten
from config.schema import FeaturesConfig
from features import SpectrogramImages
from storage import feature_store as store_module
from storage import row_store
from storage.feature_store import FeatureStore
from system.errors import RunError
from system.files import append, write_all

RATE = 8000
SETTINGS = {
    "sample_rate": RATE,
    "image_size": 8,
    "cqt": {"fmin": 200.0, "n_bins": 20, "bins_per_octave": 6, "hop_length": 64},
    "mel": {"n_fft": 256, "hop_length": 64, "n_mels": 16},
}
RECORD_BYTES = 2 * 8 * 8  # float16, one channel


@pytest.fixture
def clips(tmp_path: Path) -> dict[str, Path]:
    """{audio hash: file} of seven clips of different lengths."""
    paths = []
    for i in range(7):
        draw = np.random.default_rng(i)
        path = tmp_path / "audio" / f"clip{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * draw.standard_normal(800 + 100 * i), RATE)
        paths.append(path)
    return {key: path for path, key in hashes_of(paths).items()}


def hashes_of(paths) -> dict[Path, str]:
    return {path: inspect_audio(path).hash for path in paths}


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FeatureStore]:
    def make(folder: str = "store") -> FeatureStore:
        return FeatureStore(tmp_path / folder, SpectrogramImages(**SETTINGS))

    return make


def read_counter(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note every file that is read for its images."""
    read: list[Path] = []

    def counted(path: Path, *which: object) -> np.ndarray:
        read.append(path)
        return read_audio(path, *which)

    monkeypatch.setattr(store_module, "read_audio", counted)
    return read


OTHER_SETTINGS = {
    "sample_rate": 48_000,
    "cqt.fmin": 40.0,
    "cqt.n_bins": 60,
    "cqt.bins_per_octave": 14,
    "cqt.hop_length": 256,
    "cqt.window": "hamming",
    "cqt.filter_scale": 0.5,
    "mel.n_fft": 2048,
    "mel.hop_length": 512,
    "mel.n_mels": 64,
    "mel.fmin": 20.0,
    "mel.fmax": 8000.0,
    "mel.window": "hamming",
    "mel.win_length": 1024,
    "top_db": 60.0,
    "reference": "full_scale",
    "channels": "delta",
    "seconds": 2.0,
    "trim_db": 40.0,
    "input_rate": 16_000,
    "image_size": 64,
}


def test_peer_12_key_changes_with_every_feature_setting_and_front_end_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {**FeaturesConfig().model_dump(), "image_size": 224}
    assert flatten(base).keys() == OTHER_SETTINGS.keys()

    def folder(settings) -> Path:
        return FeatureStore(tmp_path, SpectrogramImages(**settings)).folder

    folders = {folder(base)}
    for key, value in OTHER_SETTINGS.items():
        section, _, name = key.rpartition(".")
        changed = {**base[section], name: value} if section else value
        folders.add(folder({**base, section or name: changed}))
    monkeypatch.setattr(SpectrogramImages, "version", -1)
    folders.add(folder(base))
    assert len(folders) == 1 + len(OTHER_SETTINGS) + 1
    assert folder(base) in folders


def test_stores_that_are_on_disk_keep_their_names(tmp_path: Path) -> None:
    settings = {**FeaturesConfig().model_dump(), "image_size": 224}  # published
    store = FeatureStore(tmp_path, SpectrogramImages(**settings))
    assert store.folder.name == "ca7f4227332993dc"
    assert store.settings == settings


def test_same_audio_under_two_names_is_stored_once(clips, make_store, tmp_path: Path) -> None:
    key, original = next(iter(clips.items()))
    copy = tmp_path / "audio" / "again.wav"
    copy.write_bytes(original.read_bytes())
    hashes = hashes_of([original, copy])
    assert hashes == {original: key, copy: key}
    store = make_store()
    store.build({hashes[path]: path for path in hashes}, workers=0)
    assert store.rows == {key: range(1)} and len(store.images("mel")) == 1


def test_records_equal_images_computed_directly(clips, make_store) -> None:
    store = make_store()
    store.build(clips, workers=0)
    images = SpectrogramImages(**SETTINGS)
    for key, path in clips.items():
        waveform = torch.from_numpy(read_audio(path, RATE))[None]
        pair = images(waveform, torch.tensor([waveform.shape[1]]))
        for name, image in zip(("cqt", "mel"), pair, strict=True):
            stored = store.images(name)[store.rows[key].start]
            np.testing.assert_array_equal(stored, image[0].half().numpy())
            assert stored.std() > 0.1  # dB: an image, not a constant


class Levels:
    """A front end of one's own: each image is the level of a quarter of the recording."""

    version, settings, input_rate, record = 1, {"quarters": 4}, RATE, (1, 1, 1)

    def cut(self, waveform: torch.Tensor) -> torch.Tensor:
        return waveform.unfold(0, len(waveform) // 4, len(waveform) // 4)[:4]

    def __call__(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels = crops.square().mean(1)[:, None, None, None]
        return levels, -levels


def test_a_store_takes_any_front_end(clips, make_store, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", Levels())
    assert store.build(clips, workers=0) == {} and store.folder != make_store().folder
    assert [len(rows) for rows in store.rows.values()] == [4] * len(clips)
    for key, path in clips.items():
        quarter = np.split(read_audio(path, RATE), 4)[2]
        levels = [store.images(name)[store.rows[key][2]].item() for name in ("cqt", "mel")]
        np.testing.assert_allclose(levels, np.mean(quarter**2) * np.array([1, -1]), rtol=1e-3)


def test_threads_give_the_same_store(clips, make_store) -> None:
    alone, threaded = make_store("alone"), make_store("threaded")
    alone.build(clips, workers=0)
    threaded.build(clips, workers=2)
    assert alone.rows == threaded.rows
    for name in ("cqt", "mel"):
        np.testing.assert_array_equal(alone.images(name), threaded.images(name))


def test_view_is_memory_mapped_and_read_only(clips, make_store) -> None:
    store = make_store()
    store.build(clips, workers=0)
    images = store.images("cqt")
    assert isinstance(images, np.memmap) and images.shape == (7, 1, 8, 8)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_statistics_are_of_the_chosen_rows_only(clips, make_store, monkeypatch) -> None:
    monkeypatch.setattr(store_module, "COMMIT_EVERY", 2)  # sums go over several blocks
    store = make_store()
    store.build(clips, workers=0)
    rows = [5, 0, 3]
    for name, (mean, std) in store.statistics(rows).items():
        chosen = np.asarray(store.images(name)[rows], dtype=np.float64)
        np.testing.assert_allclose(mean.numpy(), chosen.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(std.numpy(), chosen.std((0, 2, 3)), rtol=1e-6)
        assert not np.allclose(mean.numpy(), np.asarray(store.images(name)).mean(), rtol=1e-4)


def test_peer_09_bad_audio_is_named_with_its_reason_and_never_stored(
    clips, make_store, tmp_path: Path
) -> None:
    broken = {
        "empty.wav": ("holds no samples", np.zeros(0)),
        "nan.wav": ("NaN", np.array([0.1, np.nan] * 200)),
    }
    reasons = {}
    for name, (reason, samples) in broken.items():
        soundfile.write(tmp_path / name, samples, RATE, subtype="FLOAT")
        reasons[tmp_path / name] = reason
    (tmp_path / "text.wav").write_text("no audio at all")
    reasons[tmp_path / "text.wav"] = "cannot be read"
    store = make_store()
    found = store.build(clips | {path.name: path for path in reasons}, workers=2)
    assert found.keys() == reasons.keys()  # all of them in one go, past the first
    for path, reason in reasons.items():
        assert reason in found[path]
    assert store.rows.keys() == clips.keys()


def test_interrupted_build_resumes_and_repeats_nothing(clips, make_store, monkeypatch) -> None:
    monkeypatch.setattr(row_store, "COMMIT_EVERY", 2)
    fifth = list(clips.values())[4]

    def interrupted(path: Path, *which: object) -> np.ndarray:
        if path == fifth:
            raise KeyboardInterrupt
        return read_audio(path, *which)

    monkeypatch.setattr(store_module, "read_audio", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_store().build(clips, workers=0)
    read = read_counter(monkeypatch)
    second = make_store()
    assert list(second.rows) == list(clips)[:4]
    second.build(clips, workers=0)
    assert read == list(clips.values())[4:]
    whole = make_store("whole")
    whole.build(clips, workers=0)
    for name in ("cqt", "mel"):
        np.testing.assert_array_equal(second.images(name), whole.images(name))


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("most", [1, 1e12])  # bytes
def test_long_files_are_committed_sooner(clips, make_store, monkeypatch, most) -> None:
    """All images between two writes of the index are held in memory."""
    monkeypatch.setattr(row_store, "COMMIT_BYTES", most)
    written = []
    append = store_module.FeatureStore._append
    monkeypatch.setattr(
        store_module.FeatureStore,
        "_append",
        lambda self, computed: written.append(len(computed)) or append(self, computed),
    )
    store = make_store()
    store.build(clips, workers=0)
    assert sum(written) == len(clips) == len(store.rows)
    assert max(written) == (1 if most == 1 else len(clips))


@pytest.mark.promise("bad_audio")
def test_truncated_data_file_heals(clips, make_store, monkeypatch) -> None:
    first = make_store()
    first.build(clips, workers=0)
    before = np.array(first.images("mel"))
    file = first.folder / "mel.f16"
    file.write_bytes(file.read_bytes()[: 5 * RECORD_BYTES + 3])  # five whole records and a bit
    read = read_counter(monkeypatch)
    second = make_store()
    assert list(second.rows) == list(clips)[:5]
    second.build(clips, workers=0)
    assert read == list(clips.values())[5:]
    np.testing.assert_array_equal(second.images("mel"), before)


def test_two_builders_at_once_give_one_whole_store(clips, make_store, monkeypatch) -> None:
    monkeypatch.setattr(row_store, "COMMIT_EVERY", 2)
    read = read_counter(monkeypatch)
    items = list(clips.items())
    wishes = [dict(items[:5]), dict(reversed(items)), dict(items)]
    builders = [make_store() for _ in wishes]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda b, w: b.build(w, 0), builders, wishes)) == [{}, {}, {}]
    assert sorted(read) == sorted(clips.values())  # each clip once
    store, whole = make_store(), make_store("whole")
    whole.build(clips, workers=0)
    assert sorted(rows.start for rows in store.rows.values()) == list(range(7))
    for name in ("cqt", "mel"):
        for key in clips:
            np.testing.assert_array_equal(
                store.images(name)[store.rows[key].start], whole.images(name)[whole.rows[key].start]
            )


def test_damage_and_a_crash_never_give_a_clip_the_images_of_another(
    clips, make_store, monkeypatch
) -> None:
    first = make_store()
    first.build(clips, workers=0)
    mel = np.array(first.images("mel"))
    file = first.folder / "mel.f16"
    file.write_bytes(file.read_bytes()[: 3 * RECORD_BYTES])

    def crash(path: Path, lines: bytes) -> None:
        raise KeyboardInterrupt  # after the records were written, before the index is

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "append", crash)
        with pytest.raises(KeyboardInterrupt):
            make_store().build(dict(reversed(clips.items())), workers=0)
    last = make_store()
    last.build(clips, workers=0)
    for row, key in enumerate(clips):
        np.testing.assert_array_equal(last.images("mel")[last.rows[key].start], mel[row])


def test_full_disk_names_the_folder_and_commits_nothing(clips, make_store, monkeypatch) -> None:
    first = make_store()
    items = list(clips.items())
    first.build(dict(items[:2]), workers=0)
    index = first.folder / "index.json"
    file = first.folder / "mel.f16"
    file.unlink()

    def full(opened, data: bytes) -> None:
        if Path(opened.name) == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(opened, data)

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "write_all", full)
        with pytest.raises(RunError, match="(?s)cannot write.*No space left.*run.store") as caught:
            make_store().build(clips, workers=0)
    assert str(first.folder) in str(caught.value)
    assert index.read_text() == "" and make_store().rows == {}
    again = make_store()
    assert again.build(clips, workers=0) == {} and again.rows.keys() == clips.keys()


def test_full_disk_at_the_index_commits_nothing(clips, make_store, monkeypatch) -> None:
    store = make_store()

    def full(opened, data: bytes) -> None:
        opened.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("system.files.write_all", full)
        with pytest.raises(RunError, match="cannot append .*No space left"):
            store.build(clips, workers=0)
    assert make_store().rows == {} and (store.folder / "index.json").read_bytes() == b""
    again = make_store()
    assert again.build(clips, workers=0) == {} and again.rows.keys() == clips.keys()


def test_a_full_disk_gives_back_the_room_of_what_was_not_finished(
    clips, make_store, monkeypatch
) -> None:
    items = list(clips.items())
    store = make_store()
    store.build(dict(items[:2]), workers=0)
    synced = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:  # the records of cqt are there, those of mel are not
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("storage.row_store.os.fsync", full)
        with pytest.raises(RunError, match=r"mel.f16 .*No space left on device \(needs 1.3 kB"):
            make_store().build(clips, workers=0)
    sizes = [(store.folder / f"{name}.f16").stat().st_size for name in ("cqt", "mel")]
    assert sizes == [2 * RECORD_BYTES] * 2 and make_store().rows.keys() == dict(items[:2]).keys()


def test_kernels_are_made_once_a_length_however_lengths_are_mixed(tmp_path, monkeypatch) -> None:
    made: list[int] = []
    make = cqt.CQT._make_kernels
    monkeypatch.setattr(cqt, "BUCKETS", 1)
    monkeypatch.setattr(
        cqt.CQT, "_make_kernels", lambda self, q, *to: (made.append(q), make(self, q, *to))[1]
    )
    files = [tmp_path / f"{i}.wav" for i in range(12)]
    for i, path in enumerate(files):
        noise = np.random.default_rng(i).standard_normal(4000 * (1 + i % 3))
        soundfile.write(path, 0.1 * noise, 16000)
    paths = {key: path for path, key in hashes_of(files).items()}
    settings = {"sample_rate": 16000, "image_size": 32, "cqt": {"hop_length": 256, "n_bins": 24}}
    settings |= {"mel": {"n_fft": 512, "n_mels": 24}, "channels": "static"}
    store = FeatureStore(tmp_path / "store", SpectrogramImages(**settings))
    assert store.build(paths, workers=0) == {}
    assert len(made) == len(set(made)) > 1


WRONG_LINES = ["3", "null", '"text"', '["a"]', '["a", 3]', '["a", "x", "y"]', '["a", 0, 2, 0]']
WRONG_LINES += ['["a", 3, 3]', '["a", -5, -3]', '["a", 0, 1.0]', "text", "\0"]
WRONG_OBJECTS = [{"a": 3}, {"a": ["x", "y"]}, {"a": None}, {"a": [0, 2, 0]}, {"a": [3, 3]}]


@pytest.mark.parametrize("index", [*WRONG_LINES, *map(json.dumps, WRONG_OBJECTS)])
def test_an_index_that_is_not_as_written_is_reported(make_store, clips, index) -> None:
    store = make_store()
    store.build(clips, workers=0)
    (store.folder / "index.json").write_text(f"{index}\n")
    with pytest.raises(RunError, match="rows are not as written.*remove") as caught:
        make_store()
    assert str(store.folder) in str(caught.value)


def lines_of(store: FeatureStore) -> list[list]:
    """Read the index by itself."""
    lines = (store.folder / "index.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("junk", [b"", b'["', b"\0" * 40, b"\xff\xfe"])
def test_a_torn_last_line_counts_as_missing_and_is_cut(
    make_store, clips, monkeypatch, junk, count
) -> None:
    store = make_store()
    store.build(clips, workers=0)
    before, index = np.array(store.images("cqt")), store.folder / "index.json"
    index.write_bytes(index.read_bytes()[:-5] + junk)
    read = read_counter(monkeypatch)
    again = make_store()
    assert list(again.rows) == list(clips)[:-1]
    assert again.build(clips, workers=0) == {} and read == list(clips.values())[-1:]
    assert lines_of(again) == [[key, i, i + 1] for i, key in enumerate(clips)]
    np.testing.assert_array_equal(again.images("cqt"), before)
    count("corrupt stores")


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("size", [1, 20, -3])
def test_a_torn_index_is_reported_with_the_fix(make_store, clips, size, count) -> None:
    store = make_store()
    store.build(clips, workers=0)
    index = store.folder / "index.json"
    index.write_text(older_index(store)[:size])
    with pytest.raises(RunError, match=f"{index} is .*corrupt .*remove {store.folder} and run"):
        make_store()
    index.unlink()
    assert make_store().build(clips, workers=0) == {}
    count("corrupt stores")


def older_index(store: FeatureStore) -> str:
    """Return the index as it was written until November 2026."""
    rows = {key: [place.start, place.stop] for key, place in store.rows.items()}
    return json.dumps(rows, indent=2) + "\n"


def test_an_index_of_an_older_version_is_carried_over(make_store, clips, monkeypatch) -> None:
    items = list(clips.items())
    store = make_store()
    store.build(dict(items[:5]), workers=0)
    index = store.folder / "index.json"
    index.write_text(older := older_index(store))
    again = make_store()
    assert again.rows == store.rows and again.build(dict(items[:5]), workers=0) == {}
    assert index.read_text() == older  # a complete store is not written to: it may be read-only
    read = read_counter(monkeypatch)
    assert again.build(clips, workers=0) == {} and read == list(clips.values())[5:]
    assert lines_of(again) == [[key, i, i + 1] for i, key in enumerate(clips)]
    assert make_store().rows == again.rows


def test_the_index_only_grows(make_store, clips, monkeypatch) -> None:
    """What a commit writes does not depend on how much is stored."""
    monkeypatch.setattr(row_store, "COMMIT_EVERY", 2)
    written: list[int] = []
    monkeypatch.setattr(
        row_store, "append", lambda path, data: written.append(len(data)) or append(path, data)
    )
    monkeypatch.setattr(row_store, "write_text", None)  # would write it anew
    store = make_store()
    store.build(clips, workers=0)
    assert len(written) == 4 and max(written) < 2 * 80
    assert sum(written) == (store.folder / "index.json").stat().st_size
    assert make_store().rows == store.rows


def test_an_index_removed_in_a_build_is_written_anew(make_store, clips, monkeypatch) -> None:
    monkeypatch.setattr(row_store, "COMMIT_EVERY", 2)
    store = make_store()
    last = list(clips.values())[-1]

    def read_and_remove(path: Path, *which: object) -> np.ndarray:
        if path == last:
            (store.folder / "index.json").unlink()
        return read_audio(path, *which)

    monkeypatch.setattr(store_module, "read_audio", read_and_remove)
    assert store.build(clips, workers=0) == {}
    assert make_store().rows == store.rows and store.rows.keys() == clips.keys()


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("views", [["cqt"], ["mel"], ["cqt", "mel"]])
def test_a_store_without_its_images_makes_them_again(make_store, clips, views, count) -> None:
    store = make_store()
    store.build(clips, workers=0)
    before = {name: np.array(store.images(name)) for name in ("cqt", "mel")}
    for name in views:
        (store.folder / f"{name}.f16").unlink()
    again = make_store()
    assert again.rows == {} and again.build(clips, workers=0) == {}
    for name, images in before.items():
        np.testing.assert_array_equal(again.images(name), images)
    count("corrupt stores")


@pytest.mark.promise("bad_audio")
def test_a_store_of_another_version_stays_and_is_not_read(
    make_store, clips, monkeypatch, count
) -> None:
    old = make_store()
    old.build(clips, workers=0)
    before = {path: path.read_bytes() for path in old.folder.iterdir()}
    monkeypatch.setattr(SpectrogramImages, "version", -1)
    new = make_store()
    assert new.rows == {} and new.build(clips, workers=0) == {}
    assert new.folder != old.folder and len(new.rows) == len(clips)
    assert {path: path.read_bytes() for path in old.folder.iterdir()} == before
    count("corrupt stores")


@pytest.mark.promise("bad_audio")
def test_a_store_in_the_place_of_another_is_refused(make_store, clips, tmp_path, count) -> None:
    store = make_store()
    store.build(clips, workers=0)
    other = FeatureStore(tmp_path / "store", SpectrogramImages(**SETTINGS, top_db=40.0))
    shutil.copytree(store.folder, other.folder)
    with pytest.raises(RunError, match="made with other settings.*remove") as caught:
        FeatureStore(tmp_path / "store", SpectrogramImages(**SETTINGS, top_db=40.0))
    assert str(other.folder) in str(caught.value)
    count("corrupt stores")


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("rate", [RATE, RATE + 1])
def test_a_file_that_changed_since_it_was_indexed_is_named_and_not_stored(
    make_store, clips, rate, count
) -> None:
    (key, path), *others = clips.items()
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples[::-1] if rate == RATE else samples, rate)
    store = make_store()
    assert store.build(clips, workers=2) == {path: "has changed since it was indexed"}
    assert store.rows.keys() == dict(others).keys()
    soundfile.write(path, samples, RATE)
    assert store.build(clips, workers=0) == {} and key in store.rows
    count("files that changed in between")
