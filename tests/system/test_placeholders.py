"""Git LFS pointers are told as such, whichever file they stand for."""

import os
from pathlib import Path

import pytest

from config.loading import load_config
from corpora.readers import read_corpus
from experiments.storages import Store
from experiments.study import store_errors
from storage.fold_folder import read_metrics, read_table
from storage.tensors import load_tensors, tensor_shapes
from system.errors import InputError, RunError
from system.files import corrupt_file, read_json, read_text
from system.placeholders import is_lfs_pointer
from tests.corpora.test_readers import add_dialog, touch
from tests.support.battery import LFS

PULL = "is a Git LFS pointer, not the file itself: run `git lfs pull`"


def pointer(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LFS)
    return path


def test_a_pointer_is_known_by_its_first_line(tmp_path):
    assert is_lfs_pointer(pointer(tmp_path / "a.wav"))
    (tmp_path / "link").symlink_to("a.wav")
    assert is_lfs_pointer(tmp_path / "link")
    (tmp_path / "windows").write_bytes(LFS.replace("\n", "\r\n").encode())
    assert is_lfs_pointer(tmp_path / "windows")


def test_nothing_else_is_a_pointer(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("A version https://git-lfs.github.com/spec/v1\n")
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "text", "pipe", "gone", "gone/deeper", "a\0b", "."):
        assert not is_lfs_pointer(tmp_path / name)


def test_a_pointer_is_neither_text_nor_corrupt(tmp_path):
    path = pointer(tmp_path / "a.json")
    with pytest.raises(ValueError, match=f"it {PULL}"):
        read_text(path, 1000)
    assert str(corrupt_file(path, "no keys", remove=tmp_path)).startswith(f"{path} {PULL}")


READERS_OF_RUNS = {
    "metrics.json": read_metrics,
    "predictions.csv": lambda folder: read_table(folder / "predictions.csv", (), folder),
    "model.safetensors": lambda folder: load_tensors(folder / "model.safetensors"),
    "shapes.safetensors": lambda folder: tensor_shapes(folder / "shapes.safetensors"),
    "index.json": lambda folder: read_json(folder / "index.json"),
}


@pytest.mark.parametrize("name", READERS_OF_RUNS)
def test_a_pointer_in_a_run_folder_is_never_to_be_removed(tmp_path, name):
    pointer(tmp_path / name)
    with pytest.raises(RunError, match=PULL) as error:
        READERS_OF_RUNS[name](tmp_path)
    assert "remove" not in str(error.value)


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl"])
def test_a_manifest_that_is_a_pointer(tmp_path, name):
    with pytest.raises(InputError, match=PULL):
        read_corpus("manifest", tmp_path, pointer(tmp_path / name))


def test_a_config_that_is_a_pointer(tmp_path):
    with pytest.raises(InputError, match=PULL):
        load_config(pointer(tmp_path / "mine.yaml"), [])


def test_tables_of_published_corpora_that_are_pointers(tmp_path):
    touch(tmp_path / "c", "AudioWAV/1001_DFA_ANG_XX.wav")
    pointer(tmp_path / "c/VideoDemographics.csv")
    with pytest.raises(InputError, match=f"VideoDemographics.csv: it {PULL}"):
        read_corpus("cremad", tmp_path / "c")
    labels = add_dialog(tmp_path / "i", "Ses01F_impro01", {"F000": "neu"})
    pointer(labels)
    with pytest.raises(InputError, match=f"Ses01F_impro01.txt: it {PULL}"):
        read_corpus("iemocap", tmp_path / "i")


def test_a_study_that_is_a_pointer(tmp_path):
    store = Store(tmp_path)
    pointer(Path(store.place))
    with pytest.raises(RunError, match=PULL) as error, store_errors(store, ValueError):
        raise ValueError("file is not a database")
    assert "remove" not in str(error.value)
