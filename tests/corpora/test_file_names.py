"""What published file names say, on names of each corpus; empty files suffice."""

from pathlib import Path

import pytest

from corpora.audio_files import unread_audio
from corpora.file_names import NAMINGS, from_name
from corpora.label_sets import LABEL_SETS
from corpora.labels import label_set, select_labels
from corpora.published import PUBLISHED
from corpora.readers import READERS, read_corpus
from system.errors import InputError
from tests.corpora.test_readers import touch

# corpus: {published path: (id, label, speaker, text, gender)}
SAID = {
    "savee": {
        "AudioData/DC/a01.wav": ("DC_a01", "anger", "DC", None, "M"),
        "AudioData/JK/sa15.wav": ("JK_sa15", "sadness", "JK", None, "M"),
        "ALL/KL_su02.wav": ("KL_su02", "surprise", "KL", None, "M"),
        "JE_n30.wav": ("JE_n30", "neutral", "JE", None, "M"),
    },
    "tess": {
        "OAF_Fear/OAF_lid_fear.wav": ("OAF_lid_fear", "fear", "OAF", "lid", "F"),
        "OAF_neutral/OA_bite_neutral.wav": ("OAF_bite_neutral", "neutral", "OAF", "bite", "F"),
        "YAF_pleasant_surprised/YAF_food_ps.wav": (
            *("YAF_food_ps", "pleasant surprise", "YAF", "food", "F"),
        ),
    },
    "emovo": {
        "f2/gio-f2-b2.wav": ("gio-f2-b2", "joy", "f2", "b2", "F"),
        "m3/tri-m3-n5.wav": ("tri-m3-n5", "sadness", "m3", "n5", "M"),
    },
    "nemo": {
        "samples/WR0_surprised_64.wav": ("WR0_surprised_64", "surprised", "WR0", "64", "M"),
        "samples/EB0_neutral_13.wav": ("EB0_neutral_13", "neutral", "EB0", "13", "F"),
        "samples/MK0_anger_90.wav": ("MK0_anger_90", "anger", "MK0", "90", "F"),
    },
    "aesdd": {
        "anger/a03 (3).wav": ("a03 (3)", "anger", "3", "03", None),
        "fear/f10 (01).wav": ("f10 (01)", "fear", "1", "10", None),
        "disgust/d04 (5)b.wav": ("d04 (5)b", "disgust", "5", "04", None),
    },
    "urdu": {
        "Neutral/SM20_F8_N012.wav": ("SM20_F8_N012", "Neutral", "SM20", None, "M"),
        "Angry/SM4_F48_A0100.wav": ("SM4_F48_A0100", "Angry", "SM4", None, "M"),
        "Sad/SF11_F3_S05.wav": ("SF11_F3_S05", "Sad", "SF11", None, "F"),
    },
}
FOREIGN = {
    "savee": ["DC_a00", "DC_n31", "AB_a01", "DC_x01", "DC_a1", "DC_a01b"],
    "tess": ["OAF_back_surprise", "AF_back_angry", "OAF_angry", "OAF_BACK_angry"],
    "emovo": ["gio-f4-b2", "gio-f2-b4", "joy-f2-b2", "gio-f2-l5", "gio-f2-d3"],
    "nemo": ["WR1_anger_1", "WR0_joy_1", "WR0_anger_0", "WR0_anger_100"],
    "aesdd": ["a03", "n03 (1)", "a21 (1)", "a03 (1)c", "a03(1)"],
    "urdu": ["SX1_F1_A01", "SM1_F1_X01", "SM1_A01", "SM1_F1_A1"],
}
CASES = [(corpus, name) for corpus, names in SAID.items() for name in names]


@pytest.mark.parametrize(("corpus", "name"), CASES)
def test_a_published_name_says_who_speaks_what_and_how(tmp_path, corpus, name):
    (one,) = read_corpus(corpus, touch(tmp_path, name))
    found = (one.id, one.label, one.speaker, one.text_id, one.gender)
    assert found == SAID[corpus][name]
    assert one.path == tmp_path / name and one.session is None


@pytest.mark.parametrize("corpus", FOREIGN)
def test_a_name_outside_the_scheme_is_not_guessed(tmp_path, corpus):
    published = next(iter(SAID[corpus]))
    for stem in FOREIGN[corpus]:
        assert from_name(corpus, stem, Path(f"{stem}.wav")) is None
    strange = str(Path(published).with_name(f"{FOREIGN[corpus][0]}.wav"))
    touch(tmp_path, published, strange)
    with pytest.raises(InputError, match=f"1 of 2 audio files .* not named as in {corpus}"):
        read_corpus(corpus, tmp_path)


def test_every_naming_has_a_label_set_that_knows_its_labels():
    for corpus, naming in NAMINGS.items():
        for labels in LABEL_SETS[corpus]:
            assert set(labels.classes_of) == set(naming.labels.values())
    assert set(PUBLISHED) == set(LABEL_SETS) == set(READERS)


def test_the_copy_of_tess_that_kaggle_nests_is_not_read_and_told(tmp_path):
    title = "TESS Toronto emotional speech set data"
    for folder in (tmp_path / title, tmp_path / title / title):
        touch(folder, "OAF_angry/OAF_back_angry.wav", "YAF_sad/YAF_back_sad.wav")
    found = read_corpus("tess", tmp_path)
    assert len(found) == 2 and all(one.path.parts.count(title) == 1 for one in found)
    (line,) = unread_audio(tmp_path, [one.path for one in found]).words()
    assert line.startswith("2 audio files below corpus.root were not read") and title in line


def test_the_copy_of_ravdess_that_kaggle_adds_is_not_read_and_told(tmp_path):
    name = "Actor_01/03-01-01-01-01-01-01.wav"
    touch(tmp_path, name, f"audio_speech_actors_01-24/{name}")
    (one,) = read_corpus("ravdess", tmp_path)
    assert one.path == tmp_path / name
    (line,) = unread_audio(tmp_path, [one.path]).words()
    assert "audio_speech_actors_01-24/Actor_01" in line


def test_the_file_of_aesdd_that_cannot_be_decoded_is_told(tmp_path):
    touch(tmp_path, "sadness/s05 (3).wav", "sadness/s05 (4).wav")
    (one,) = read_corpus("aesdd", tmp_path)
    assert one.id == "s05 (4)"
    assert unread_audio(tmp_path, [one.path]).files == ("sadness/s05 (3).wav",)


def test_both_layouts_of_savee_have_the_same_ids_and_are_not_mixed(tmp_path):
    touch(tmp_path, "AudioData/DC/a01.wav", "ALL/DC_a01.wav")
    with pytest.raises(InputError, match="savee: 1 ids occur more than once: DC_a01"):
        read_corpus("savee", tmp_path)


def test_an_incomplete_corpus_shows_both_counts(tmp_path):
    speakers = ("DC", "JE", "JK", "KL")
    codes = {"n": 30, "a": 15, "d": 15, "f": 15, "h": 15, "sa": 15, "su": 15}
    names = [
        f"AudioData/{who}/{code}{number:02d}.wav"
        for who in speakers
        for code, n in codes.items()
        for number in range(1, n + 1)
    ]
    touch(tmp_path, *names)
    labels = label_set("savee", "savee7", [])
    assert len(select_labels(read_corpus("savee", tmp_path), labels, "all", True)) == 480
    (tmp_path / names[0]).unlink()
    with pytest.raises(InputError, match=r"neutral +120 +119\n"):
        select_labels(read_corpus("savee", tmp_path), labels, "all", True)
