"""Folders of recordings: a folder for each class, patterns, and which layout is read."""

import logging
from pathlib import Path

import pytest

from corpora.folder_pattern import Pattern
from corpora.readers import read_corpus
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError
from tests.corpora.test_readers import touch


def read(root: Path, layout: str | None = None, **more) -> list[Utterance]:
    return read_corpus("folder", root, layout=layout, **more)


def test_a_folder_for_each_class(tmp_path, caplog):
    root = touch(tmp_path, "joy/1.wav", "joy/2.flac", "awe/1.mp3", "awe/notes.txt", "readme.md")
    with caplog.at_level(logging.INFO):
        found = read(root)
    assert [(u.id, u.label, u.speaker, u.split) for u in found] == [
        ("awe/1", "awe", NO_SPEAKER, None),
        ("joy/1", "joy", NO_SPEAKER, None),
        ("joy/2", "joy", NO_SPEAKER, None),
    ]
    assert "the folders name 2 labels: awe (1), joy (2)" in caplog.text
    assert "is read as a folder for each class: 3 utterances" in caplog.text


def test_splits_with_a_folder_for_each_class(tmp_path):
    root = touch(tmp_path, "train/joy/1.wav", "valid-1/joy/2.wav", "eval/awe/3.wav")
    assert [(u.id, u.label, u.split) for u in read(root)] == [
        ("eval/awe/3", "awe", "test"),
        ("train/joy/1", "joy", "train"),
        ("valid-1/joy/2", "joy", "dev"),
    ]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["joy/1.wav", "2.wav"], "1 files beside the folders .such as 2.wav., 1 files in CLASS/"),
        (["joy/1.wav", "awe/x/2.wav"], "1 files 2 folders deep .such as awe/x/2.wav"),
        (["train/1.wav", "test/2.wav"], "2 files right in a split .such as t"),
        (
            ["train/joy/1.wav", "joy/2.wav"],
            "1 files in .*CLASS/, 1 files in .*CLASS/",
        ),
        (["1.wav", "2.wav"], "2 files beside the folders"),
    ],
)
def test_other_depths_are_refused_with_the_way_on(tmp_path, names, words):
    with pytest.raises(InputError, match=words) as refused:
        read(touch(tmp_path, *names))
    assert "corpus.layout={speaker}/{label}/*.wav" in str(refused.value)


def test_columns_have_no_effect_where_there_are_none(tmp_path):
    root = touch(tmp_path, "joy/1.wav", "awe/1.wav")
    for layout in ("classes", "{label}/*"):
        with pytest.raises(InputError, match="corpus.columns has no effect"):
            read(root, layout, columns={"label": "emotion"})


# Patterns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("{speaker}/{label}/*.wav", "ann/joy/1.wav", {"speaker": "ann", "label": "joy"}),
        ("{speaker}/{label}/*.wav", "ann/joy/deep/1.wav", None),
        ("{speaker}/{label}/*.wav", "ann/joy/1.flac", None),
        ("**/{label}.*", "a/b/joy.wav", {"label": "joy"}),
        ("**/{label}.*", "joy.wav", {"label": "joy"}),
        ("{speaker}_{label}_*", "ann_joy_1.wav", {"speaker": "ann", "label": "joy"}),
        (
            "{speaker}/{speaker}-{label}.wav",
            "ann/ann-joy.wav",
            {"speaker": "ann", "label": "joy"},
        ),
        ("{speaker}/{speaker}-{label}.wav", "ann/bob-joy.wav", None),
        ("{label}[1].wav", "joy[1].wav", {"label": "joy"}),
        ("./{label}/*", "joy/1.wav", {"label": "joy"}),
        (
            "*-*-*-*-{text}-*-{speaker}.{label}",
            "03-01-05-01-02-01-12.joy",
            {"text": "02", "speaker": "12", "label": "joy"},
        ),
    ],
)
def test_a_pattern_reads_paths(pattern, path, fields):
    assert Pattern(pattern).read(path) == fields


def test_a_path_that_can_be_read_in_two_ways_is_refused(tmp_path):
    root = touch(tmp_path, "ann_lee_joy.wav", "bob_awe.wav")
    with pytest.raises(InputError) as refused:
        read(root, "{speaker}_{label}.wav")
    assert "1 paths can be read in two ways" in str(refused.value)
    assert (
        "ann_lee_joy.wav can be read in two ways: speaker 'ann' and label 'lee_joy', or speaker "
        "'ann_lee' and label 'joy'" in str(refused.value)
    )


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("{speaker}/*.wav", "it must say where the class is, as {label}"),
        ("{label}/{who}/*.wav", "{who} is not known; Allowed: fold, gender, label"),
        ("{label}{speaker}.wav", "nothing separates {label} and {speaker}"),
        ("{label/{label}.wav", "a brace has no partner"),
        ("/data/{label}/*.wav", "it starts from corpus.root"),
        ("../{label}/*.wav", "starts from corpus.root"),
        ("x/{label}/*.wav", "matches none of 1 audio files .*: joy/1.wav"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(tmp_path, layout, words):
    with pytest.raises(InputError, match=words):
        read(touch(tmp_path, "joy/1.wav"), layout)


def test_a_pattern_gives_every_field(tmp_path):
    root = touch(tmp_path, "s1/ann.F/joy.t2.train.3_x.wav")
    layout = "{session}/{speaker}.{gender}/{label}.{text}.{split}.{fold}_*"
    (found,) = read(root, layout)
    assert (found.session, found.speaker, found.gender, found.label) == ("s1", "ann", "F", "joy")
    assert (found.text_id, found.split, found.fold) == ("t2", "train", "3")
    assert found.id == "s1/ann.F/joy.t2.train.3_x"


def test_names_of_folders_are_held_to_the_rules_of_tables(tmp_path):
    root = touch(tmp_path, "Ann/joy/1.wav", "ann/awe/2.wav")
    with pytest.raises(InputError, match="names that differ only in case .*\n.*speaker 'Ann'"):
        read(root, "{speaker}/{label}/*")
    root = touch(tmp_path / "two", "ann/nan/1.wav", "ann/joy/1.wav", "ann/joy/1.flac")
    with pytest.raises(InputError) as refused:
        read(root, "{speaker}/{label}/*")
    assert "ann/nan/1.wav: 'label' is 'nan', which stands for unknown" in str(refused.value)
    assert "id 'ann/joy/1' was given in ann/joy/1." in str(refused.value)


# Which layout -----------------------------------------------------------------------------------


def test_several_layouts_are_refused_until_one_is_chosen(tmp_path):
    root = touch(tmp_path, "joy/1.wav", "awe/2.wav")
    (root / "metadata.csv").write_text("file_name,label,speaker\njoy/1.wav,glad,ann\n")
    (root / "wav.scp").write_text("a joy/1.wav\n")
    with pytest.raises(InputError) as refused:
        read(root)
    assert "may be read as kaldi (wav.scp) and audiofolder (metadata.csv)" in str(refused.value)
    assert "set corpus.layout to kaldi or audiofolder" in str(refused.value)
    assert [u.label for u in read(root, "audiofolder")] == ["glad"]
    assert [u.label for u in read(root, "classes")] == ["awe", "joy"]


def test_a_layout_that_is_not_there_is_refused(tmp_path):
    root = touch(tmp_path, "joy/1.wav", "awe/2.wav")
    for layout, words in (
        ("kaldi", "has no wav.scp"),
        ("audiofolder", "has no metadata.csv, .*use corpus.layout=classes"),
        ("audformat", "has no db.yaml"),
    ):
        with pytest.raises(InputError, match=words):
            read(root, layout)


def test_audio_that_is_not_read_is_named(tmp_path):
    root = touch(tmp_path, "joy/1.m4a")
    with pytest.raises(InputError, match="no .wav, .flac.*it holds other audio: .*joy/1.m4a"):
        read(root)
