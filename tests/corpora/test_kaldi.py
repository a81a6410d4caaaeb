"""Kaldi data directories, written as its documentation says; no command in them is executed."""

import logging
from pathlib import Path

import pytest

from corpora.readers import read_corpus
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError
from tests.corpora.test_readers import touch

FILES = {
    "wav.scp": "rec1 audio/1.wav\nrec2 audio/2.flac\n",
    "segments": "ann-1 rec1 0.50 1.25\nann-2 rec1 1.50 -1\nbob-1\trec2 0 2.0\n",
    "utt2spk": "ann-1 ann\nann-2 ann\nbob-1 bob\n",
    "utt2emo": "ann-1 joy\nann-2 awe\nbob-1 joy\n",
    "text": "ann-1 OH NO\nann-2\nbob-1 yes\n",
    "spk2gender": "ann f\nbob m\n",
}


def directory(root: Path, files: dict[str, str] = FILES, audio: str = "audio") -> Path:
    touch(root, f"{audio}/1.wav", f"{audio}/2.flac")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def read(root: Path, **columns: str | None) -> list[Utterance]:
    return read_corpus("folder", root, columns=columns or None)


def test_a_data_directory_with_segments(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = read(directory(tmp_path, FILES | {"spk2utt": "ann ann-1 ann-2\n"}))
    assert [(u.id, u.label, u.speaker, u.gender, u.text_id, u.start, u.end) for u in found] == [
        ("ann-1", "joy", "ann", "F", "oh no", 0.5, 1.25),
        ("ann-2", "awe", "ann", "F", None, 1.5, None),
        ("bob-1", "joy", "bob", "M", "yes", 0.0, 2.0),
    ]
    assert found[0].path == tmp_path / "audio/1.wav"
    assert "label from utt2emo, speaker from utt2spk, text from text" in caplog.text
    assert "files that are not used: spk2utt" in caplog.text


def test_without_segments_a_recording_is_an_utterance(tmp_path):
    files = {"wav.scp": FILES["wav.scp"], "utt2spk": "rec1 ann\nrec2 bob\n"}
    files["emotion"] = "rec1 joy\nrec2 awe\n"
    found = read(directory(tmp_path, files))
    assert [(u.id, u.label, u.speaker, u.start, u.end) for u in found] == [
        ("rec1", "joy", "ann", 0.0, None),
        ("rec2", "awe", "bob", 0.0, None),
    ]


def test_several_directories_are_splits(tmp_path):
    for part in ("train", "dev", "test"):
        files = {name: text.replace("-", f"-{part}") for name, text in FILES.items()}
        files["segments"] = FILES["segments"].replace("n-", f"n-{part}").replace("b-", f"b-{part}")
        directory(tmp_path / part, files)
        files = {"wav.scp": FILES["wav.scp"].replace("audio", f"{part}/audio")}
        (tmp_path / part / "wav.scp").write_text(files["wav.scp"])
    found = read(tmp_path)
    assert len(found) == 9
    assert {(u.id.split("-")[1][:-1], u.split) for u in found} == {
        ("train", "train"),
        ("dev", "dev"),
        ("test", "test"),
    }
    (tmp_path / "dev").rename(tmp_path / "other")
    with pytest.raises(InputError, match="3 data directories.* names of .*/other do not say train"):
        read(tmp_path)


def test_ids_that_two_directories_share_are_said_with_the_directories(tmp_path):
    files = {name: text.replace("audio/", "train/audio/") for name, text in FILES.items()}
    directory(tmp_path / "train", files)
    test = {name: text.replace("bob-1", "eve-1") for name, text in files.items()}
    directory(tmp_path / "train/test_part", test)
    with pytest.raises(InputError) as refused:
        read(tmp_path)
    directories = f"{tmp_path / 'train'} and {tmp_path / 'train/test_part'}"
    said = f"the data directories {directories} share the ids of 2 utterances, the first is 'ann-1'"
    assert said in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    marked = {name: f"\ufeff{text}" for name, text in FILES.items()}
    found = read(directory(tmp_path, marked))
    assert [(u.id, u.label, u.speaker, u.text_id) for u in found] == [
        ("ann-1", "joy", "ann", "oh no"),
        ("ann-2", "awe", "ann", None),
        ("bob-1", "joy", "bob", "yes"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        "sph2pipe -f wav -p -c 1 audio/1.sph |",
        "cat audio/1.wav|",
        "touch {marker} |",
        "sox audio/1.wav -t wav - rate 16k | ",
    ],
)
def test_a_command_is_never_executed(tmp_path, value):
    marker = tmp_path / "executed"
    scp = f"rec2 audio/2.flac\nrec1 {value.format(marker=marker)}\n"
    with pytest.raises(InputError) as refused:
        read(directory(tmp_path, FILES | {"wav.scp": scp}))
    said = str(refused.value)
    assert f"{tmp_path / 'wav.scp'}, line 2: rec1 is the output of a command" in said
    assert "1 of 2 are" in said and "never executed: run them yourself" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"wav.scp": "rec1 raw.ark:1234\n"}, "line 1: rec1 is a part of an archive"),
        ({"wav.scp": "rec1\n"}, "wav.scp, line 1: 'rec1' has no value"),
        ({"wav.scp": "a 1.wav\na 2.wav\n"}, "line 2: 'a' was given in line 1: each key"),
        ({"segments": "ann-1 rec1 0.5\n"}, "segments, line 1: must be UTTERANCE RECORDING START"),
        ({"segments": "ann-1 rec9 0 1\n"}, "line 1: wav.scp has no recording 'rec9'"),
        ({"segments": "ann-1 rec1 x 1\n"}, "segments, line 1: 'start' must be seconds"),
        ({"segments": "ann-1 rec1 3 1\n"}, "must end at least .* ms after its start"),
        ({"utt2spk": "ann-1 ann\n"}, "segments, line 2: no speaker"),
        ({"utt2emo": "ann-1 joy\n"}, "2 of 3 rows .*\n.*line 2: 'label' is empty"),
        ({"utt2emotion": "ann-1 joy\n"}, "has utt2emo and utt2emotion, which both give label"),
        (
            {"reco2file_and_channel": "rec1 f A\nrec2 f B\n"},
            "line 2: rec2 is channel 'B' of a file; channels are not read",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, changed, words):
    with pytest.raises(InputError, match=words):
        read(directory(tmp_path, FILES | changed))


def test_files_of_other_names_are_chosen_and_speakers_may_be_unknown(tmp_path):
    root = directory(tmp_path, FILES | {"mood": "ann-1 a\nann-2 b\nbob-1 a\n", "day": "ann-1 x\n"})
    assert [u.label for u in read(root, label="mood")] == ["a", "b", "a"]
    assert [u.session for u in read(root, session="day")] == ["x", None, None]
    assert {u.speaker for u in read(root, speaker=None)} == {NO_SPEAKER}
    with pytest.raises(InputError, match="takes label from 'moot'.*did you mean 'mood'"):
        read(root, label="moot")
    with pytest.raises(InputError, match=r"columns=\{path: ...\} has no effect on a Kaldi"):
        read(root, path="wav.scp")


@pytest.mark.parametrize(("file", "name"), [("utt2emo", "label"), ("utt2spk", "speaker")])
def test_a_missing_file_is_named_with_the_way_on(tmp_path, file, name):
    root = directory(tmp_path, {key: text for key, text in FILES.items() if key != file})
    with pytest.raises(InputError, match=rf"no file of the {name}s .*columns=\{{{name}: FILE\}}"):
        read(root)


def test_lines_of_other_utterances_are_said(tmp_path, caplog):
    root = directory(tmp_path, FILES | {"utt2emo": FILES["utt2emo"] + "eve-1 awe\n"})
    with caplog.at_level(logging.INFO):
        read(root)
    assert "utt2emo names 1 other utterances: eve-1" in caplog.text
