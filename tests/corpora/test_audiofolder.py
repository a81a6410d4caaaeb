"""Hugging Face audiofolders, laid out as the Hub's documentation of audio datasets shows them."""

import logging
from functools import partial
from pathlib import Path

import datasets
import pandas
import pytest

from config.pairs import check_pairs
from config.schema import Config
from corpora.audiofolder import split_of_folder
from corpora.listing import list_corpus
from corpora.readers import read_corpus
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError
from tests.conftest import RECIPE
from tests.corpora.test_readers import touch


def read(root: Path, **columns: str | None) -> list[Utterance]:
    return read_corpus("folder", root, columns=columns or None)


def metadata(folder: Path, *names: str, suffix: str = "csv", **more: list) -> None:
    frame = pandas.DataFrame({"file_name": names, "label": "joy", "speaker_id": "ann"} | more)
    file = folder / f"metadata.{suffix}"
    if suffix == "csv":
        frame.to_csv(file, index=False)
    elif suffix == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_beside_the_audio(tmp_path, suffix, caplog):
    root = touch(tmp_path, "1.wav", "2.wav")
    metadata(root, "1.wav", "2.wav", suffix=suffix)
    with caplog.at_level(logging.INFO):
        found = read(root)
    assert [(u.id, u.label, u.speaker, u.split) for u in found] == [
        ("1", "joy", "ann", None),
        ("2", "joy", "ann", None),
    ]
    assert f"read metadata.{suffix}" in caplog.text
    assert "is read as a Hugging Face audiofolder: 2 utterances" in caplog.text


def classes_in_splits(root: Path) -> None:
    parts = ("train", "test", "validation")
    touch(root, *(f"{part}/{label}/{label}.wav" for part in parts for label in ("joy", "awe")))


def metadata_of_each_split(root: Path, suffix: str = "csv") -> None:
    touch(root, "train/1.wav", "train/2.wav", "test/audio/2.wav")
    metadata(root / "train", "1.wav", "2.wav", label=["joy", "awe"], suffix=suffix)
    metadata(root / "test", "audio/2.wav", suffix=suffix)


@pytest.mark.parametrize(
    "make",
    [
        classes_in_splits,
        metadata_of_each_split,
        partial(metadata_of_each_split, suffix="jsonl"),
    ],
)
def test_the_library_datasets_reads_the_same(tmp_path, make, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    root = tmp_path / "root"
    root.mkdir()
    make(root)
    label = datasets.ClassLabel(names=["awe", "joy"])
    if make is not classes_in_splits:
        label = datasets.Value("string")
    features = {"audio": datasets.Audio(decode=False), "label": label}
    if make is not classes_in_splits:
        features["speaker_id"] = datasets.Value("string")
    theirs = datasets.load_dataset(
        "audiofolder",
        data_dir=str(root),
        features=datasets.Features(features),
        cache_dir=str(tmp_path / "cache"),
    )
    expected = {
        (
            row["audio"]["path"],
            row["label"] if isinstance(row["label"], str) else label.int2str(row["label"]),
            "dev" if split == "validation" else str(split),
        )
        for split, rows in theirs.items()
        for row in rows
    }
    assert {(str(one.path), one.label, one.split) for one in read(root)} == expected


def test_ratings_of_metadata_are_predicted_as_those_of_a_table(tmp_path):
    root = touch(tmp_path, "1.wav", "2.wav")
    metadata(root, "1.wav", "2.wav", valence=[1, 4.5], arousal=[7, 2], dominance=[3, 3])
    corpus = {"name": "folder", "root": str(root), "labels": ["arousal"], "scale": [1, 7]}
    corpora = {**RECIPE, "task": "dimensions", "corpus": corpus}
    config = Config(**corpora | {"protocol": {"split": "leave-one-speaker-out"}})
    check_pairs(config)
    listed = list_corpus(config)
    assert [one.target for one in listed.chosen] == [(7.0,), (2.0,)]


def test_several_splits_each_with_its_metadata_and_audio_below_it(tmp_path):
    root = touch(tmp_path, "data/train/1.wav", "data/test/audio/2.wav", "data/validation/3.wav")
    metadata(root / "data/train", "1.wav")
    metadata(root / "data/test", "audio/2.wav")
    metadata(root / "data/validation", "3.wav")
    assert [(u.id, u.split) for u in read(root)] == [
        ("data/test/audio/2", "test"),
        ("data/train/1", "train"),
        ("data/validation/3", "dev"),
    ]


def test_blanks_around_names_are_kept_where_a_file_is_called_so(tmp_path):
    root = touch(tmp_path, "train/ ann /1.wav", "train/2.wav")
    metadata(root / "train", " ann /1.wav", " 2.wav ")
    paths = sorted(one.path for one in read(root))
    assert paths == [root / "train/ ann /1.wav", root / "train/2.wav"]


def test_one_metadata_file_above_the_splits(tmp_path):
    root = touch(tmp_path, "train/1.wav", "test/2.wav")
    metadata(root, "train/1.wav", "test/2.wav")
    assert [(u.id, u.split) for u in read(root)] == [("test/2", "test"), ("train/1", "train")]


def test_a_column_split_must_agree_with_the_folders(tmp_path):
    root = touch(tmp_path, "train/1.wav")
    metadata(root, "train/1.wav", split=["training"])
    assert read(root)[0].split == "training"
    metadata(root, "train/1.wav", split=["test"])
    with pytest.raises(InputError, match="`split` says 'test' and the folders .* say train"):
        read(root)
    assert read(root, split=None)[0].split == "train"


def test_the_words_of_a_folder_that_name_a_split():
    """The keywords of the Hub's page on file names and splits, and its delimiters."""
    for split, words in (
        ("train", "train training my_train-1 train.0"),
        ("dev", "validation valid val dev my-validation_00001"),
        ("test", "test testing eval evaluation test2"),
    ):
        assert {split_of_folder(word) for word in words.split()} == {split}
    for word in ("contest", "trains", "audio", "train_test", ""):
        assert split_of_folder(word) is None


def test_metadata_without_speakers_or_labels_names_the_columns(tmp_path):
    root = touch(tmp_path, "train/1.wav")
    (root / "train/metadata.csv").write_text("file_name,animal\n1.wav,cat\n")
    with pytest.raises(InputError) as refused:
        read(root)
    said = str(refused.value)
    assert f"corpus.root: cannot read {root / 'train/metadata.csv'}: line 1: " in said
    assert "label, speaker not found in: file_name, animal" in said
    (found,) = read(root, label="animal", speaker=None)
    assert (found.label, found.speaker) == ("cat", NO_SPEAKER)


def test_a_wrong_row_is_named_with_its_file_and_line(tmp_path):
    root = touch(tmp_path, "train/1.wav", "test/2.wav")
    metadata(root / "train", "1.wav")
    metadata(root / "test", "2.txt")
    with pytest.raises(InputError, match=r"test/metadata.csv, line 2: 'test/2.txt' must end in"):
        read(root)
    metadata(root / "test", "../train/1.wav")
    with pytest.raises(InputError, match="leads out of corpus.root"):
        read(root)


def test_two_metadata_files_of_one_folder_are_refused(tmp_path):
    root = touch(tmp_path, "1.wav")
    metadata(root, "1.wav")
    metadata(root, "1.wav", suffix="jsonl")
    with pytest.raises(InputError, match="has several of metadata.csv, .*: keep one"):
        read(root)


def test_what_a_dataset_card_configures_is_said_not_to_be_read(tmp_path, caplog):
    root = touch(tmp_path, "1.wav")
    metadata(root, "1.wav")
    card = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: test\n---\ndata_files: x\n"
    (root / "README.md").write_text(card)
    with caplog.at_level(logging.INFO):
        read(root)
    assert "README.md sets data_files, which is not read" in caplog.text
