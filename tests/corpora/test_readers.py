"""Readers on made-up trees: empty files suffice, since no reader opens audio."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from corpora.readers import CORPORA, read_corpus, select_subset
from system.errors import InputError
from tests.support.paths import ROOT

RAVDESS = Path(os.environ.get("MAXMVIT_RAVDESS") or ROOT.parent / "shared" / "data" / "ravdess")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def label_line(utterance: str, label: str) -> str:
    return f"[6.2901 - 8.2357]\t{utterance}\t{label}\t[2.5000, 2.5000, 2.5000]"


def add_dialog(root: Path, dialog: str, labels: dict[str, str], audio: bool = True) -> Path:
    """Write one label file in the published format, with its rater lines, and the audio."""
    session = root / f"Session{dialog[4]}"
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for group, label in labels.items():
        lines += [
            label_line(f"{dialog}_{group}", label),
            "C-E2:\tNeutral; Anger;\t(curious, [sic])",
            "C-F1:\tNeutral;\t()",
            "A-E3:\tval 3; act 2; dom  ;\t(mild, but [loud])",
            "",
        ]
        if audio:
            touch(session / "sentences/wav" / dialog, f"{dialog}_{group}.wav")
    path = session / "dialog/EmoEvaluation" / f"{dialog}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe comment in no known encoding\n")
    return path


@pytest.fixture
def iemocap(tmp_path: Path) -> Path:
    root = tmp_path / "IEMOCAP_full_release"
    add_dialog(root, "Ses01F_impro01", {"F000": "neu", "M000": "xxx"})
    add_dialog(root, "Ses01M_impro01", {"F000": "fru", "M000": "exc"})
    add_dialog(root, "Ses05M_script01_1", {"F000": "hap"})
    add_dialog(root, "Ses05M_script01_1b", {"F000": "sad", "M000": "ang"})
    return root


def by_id(utterances):
    return {utterance.id: utterance for utterance in utterances}


def test_peer_07_speaker_is_the_letter_of_the_last_group(iemocap):
    found = by_id(read_corpus("iemocap", iemocap))
    assert found["Ses01F_impro01_M000"].speaker == "Ses01_M"
    assert found["Ses01M_impro01_F000"].speaker == "Ses01_F"
    assert found["Ses01M_impro01_F000"].gender == "F"
    assert found["Ses01F_impro01_F000"].speaker == found["Ses01M_impro01_F000"].speaker
    assert {one.speaker for one in found.values()} == {"Ses01_F", "Ses01_M", "Ses05_F", "Ses05_M"}


def test_iemocap_keeps_every_label_and_says_session_and_portion(iemocap):
    found = read_corpus("iemocap", iemocap)
    assert [one.id for one in found] == sorted(one.id for one in found)
    assert sorted(one.label for one in found) == ["ang", "exc", "fru", "hap", "neu", "sad", "xxx"]
    assert {one.session for one in found} == {"Session1", "Session5"}
    assert {one.portion for one in found if "impro" in one.id} == {"improvised"}
    assert {one.portion for one in found if "script" in one.id} == {"scripted"}


def test_iemocap_dialog_whose_name_begins_another(iemocap):
    found = by_id(read_corpus("iemocap", iemocap))
    assert found["Ses05M_script01_1_F000"].path.parent.name == "Ses05M_script01_1"
    assert found["Ses05M_script01_1b_F000"].path.parent.name == "Ses05M_script01_1b"
    assert found["Ses05M_script01_1b_F000"].path.is_file()


def test_iemocap_skips_appledouble_and_rater_folders(iemocap):
    evaluation = iemocap / "Session1/dialog/EmoEvaluation"
    (evaluation / "._Ses01F_impro01.txt").write_bytes(b"[\x00\x05\x16\x07")
    touch(iemocap, "Session1/sentences/wav/Ses01F_impro01/._Ses01F_impro01_F000.wav")
    for folder in ("Attribute", "Categorical", "Self-evaluation"):
        touch(evaluation / folder, "Ses01F_impro01_e2_cat.txt")
        (evaluation / folder / "Ses01F_impro01_e2_cat.txt").write_text("[not a label line\n")
    assert len(read_corpus("iemocap", iemocap)) == 7


@pytest.mark.parametrize("above", [0, 1])
def test_iemocap_nested_twice_or_one_level_up(iemocap, tmp_path, above):
    inner = tmp_path / "there" / iemocap.name / iemocap.name
    inner.parent.mkdir(parents=True)
    shutil.move(iemocap, inner)
    assert len(read_corpus("iemocap", inner.parents[above])) == 7


def test_iemocap_reads_flac(iemocap):
    wav = iemocap / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    wav.rename(wav.with_suffix(".flac"))
    found = by_id(read_corpus("iemocap", iemocap))
    assert found["Ses01F_impro01_F000"].path == wav.with_suffix(".flac")


def test_iemocap_text_of_scripts_only(iemocap):
    for session, dialog in [("1", "Ses01F_impro01"), ("5", "Ses05M_script01_1b")]:
        folder = iemocap / f"Session{session}/dialog/transcriptions"
        folder.mkdir(parents=True)
        (folder / f"{dialog}.txt").write_text(
            f"{dialog}_F000 [006.2901-008.2357]: Don't  say [LAUGHTER] so!\n"
            f"{dialog}_MXX0 [007.0000-008.0000]: Mmhm.\nM: a stage direction\n"
        )
    found = by_id(read_corpus("iemocap", iemocap))
    assert found["Ses05M_script01_1b_F000"].text_id == "dontsayso"
    assert found["Ses05M_script01_1b_M000"].text_id is None
    assert found["Ses01F_impro01_F000"].text_id is None


@pytest.mark.parametrize(
    "line",
    ["[6.2901 - 8.2357]\tSes01F_impro01_F001\tneu", label_line("Ses09F_impro01_F001", "neu")],
)
def test_iemocap_broken_label_line_names_file_and_line(iemocap, line):
    path = add_dialog(iemocap, "Ses01F_impro02", {"F000": "neu"})
    path.write_text(path.read_text(errors="replace") + line + "\n")
    with pytest.raises(InputError, match=r"Ses01F_impro02\.txt, line 9: not an IEMOCAP label line"):
        read_corpus("iemocap", iemocap)


def test_peer_11_labels_without_audio_are_an_error_not_an_empty_corpus(iemocap):
    for folder in iemocap.glob("Session*/sentences"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match="none of 7 labelled .*sentences/wav.*Ses01F_impro01_F000"):
        read_corpus("iemocap", iemocap)


def test_iemocap_labels_without_audio_among_others_are_left_to_be_indexed(iemocap):
    add_dialog(iemocap, "Ses01F_impro02", {"F000": "neu", "M000": "neu"}, audio=False)
    found = read_corpus("iemocap", iemocap)
    gone = [one.path.name for one in found if not one.path.exists()]
    assert len(found) == 9 and gone == ["Ses01F_impro02_F000.wav", "Ses01F_impro02_M000.wav"]


def test_peer_11_wrong_root_names_what_was_searched_and_what_is_there(tmp_path):
    touch(tmp_path, "Session1/dialog/wav/Ses01F_impro01.wav")
    with pytest.raises(InputError, match="dialog/EmoEvaluation.* holds: Session1"):
        read_corpus("iemocap", tmp_path)


def test_iemocap_without_a_label_line(tmp_path):
    touch(tmp_path, "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt")
    with pytest.raises(InputError, match="no label line"):
        read_corpus("iemocap", tmp_path)


def test_iemocap_duplicate_label(iemocap):
    path = iemocap / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    shutil.copy(path, path.with_name("copy.txt"))
    with pytest.raises(InputError, match="2 ids occur more than once: Ses01F_impro01_F000"):
        read_corpus("iemocap", iemocap)


@pytest.mark.parametrize("corpus", [name for name in CORPORA if name != "manifest"])
def test_every_reader_explains_a_missing_an_empty_and_a_foreign_root(tmp_path, corpus):
    touch(tmp_path, "unrelated/notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no folder .* holds: empty, unrelated"):
        read_corpus(corpus, tmp_path / "gone" / "deeper")
    with pytest.raises(InputError, match="it is empty"):
        read_corpus(corpus, tmp_path / "empty")
    words = "no .wav, .flac" if corpus == "folder" else f"no {corpus} corpus in .* searched"
    with pytest.raises(InputError, match=f"{words}.* holds: notes.txt"):
        read_corpus(corpus, tmp_path / "unrelated")


def test_unknown_corpus_and_misplaced_manifest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'iemocap'"):
        read_corpus("iemocab", tmp_path)
    with pytest.raises(InputError, match="needs corpus.manifest"):
        read_corpus("manifest", tmp_path)
    with pytest.raises(InputError, match="corpus.manifest needs corpus.name: manifest, got esd"):
        read_corpus("esd", tmp_path, manifest=tmp_path / "a.csv")


def test_two_copies_of_a_corpus_are_not_chosen_between(tmp_path):
    for copy in ("one", "two"):
        touch(tmp_path / copy / "wav", "03a01Fa.wav")
    with pytest.raises(InputError, match="emodb more than once.*one.*two"):
        read_corpus("emodb", tmp_path)


@pytest.mark.parametrize("part", ["", "train/", "evaluation/"])
def test_esd(tmp_path, part):
    root = tmp_path / "Emotional Speech Dataset (ESD)"
    touch(
        root / "Emotion Speech Dataset",
        f"0001/Neutral/{part}0001_000001.wav",
        f"0001/Angry/{part}0001_000351.wav",
        f"0011/Surprise/{part}0011_001750.wav",
        f"0011/Surprise/{part}._0011_001750.wav",
        "0011/0011.txt",
    )
    found = read_corpus("esd", root)
    assert [one.label for one in found] == ["Neutral", "Angry", "Surprise"]
    assert [one.text_id for one in found] == ["mandarin-001", "mandarin-001", "english-350"]
    assert [one.portion for one in found] == ["mandarin", "mandarin", "english"]
    assert [(one.speaker, one.gender) for one in found[1:]] == [("0001", "F"), ("0011", "M")]


def test_esd_has_five_women_and_five_men_a_language(tmp_path):
    touch(tmp_path, *(f"{n:04d}/Sad/{n:04d}_001051.wav" for n in range(1, 21)))
    found = read_corpus("esd", tmp_path)
    assert [int(one.speaker) for one in found if one.gender == "F"] == [
        1,
        2,
        3,
        7,
        9,
        *range(15, 20),
    ]
    for language in ("english", "mandarin"):
        genders = [one.gender for one in select_subset(found, language)]
        assert (genders.count("F"), genders.count("M")) == (5, 5)


def test_ravdess_skips_song_and_video_and_takes_flac(tmp_path):
    touch(
        tmp_path / "Actor_11",
        "03-01-01-01-01-01-11.wav",
        "03-01-08-02-02-02-11.flac",
        "03-02-03-01-01-01-11.wav",
        "01-01-03-01-01-01-11.wav",
    )
    touch(tmp_path / "Actor_12", "03-01-06-01-02-01-12.wav")
    found = read_corpus("ravdess", tmp_path)
    assert [one.label for one in found] == ["neutral", "fearful", "surprised"]
    assert [one.speaker for one in found] == ["11", "12", "11"]
    assert [one.gender for one in found] == ["M", "F", "M"]
    assert [one.text_id for one in found] == ["01", "02", "02"]


def test_the_same_clip_as_wav_and_flac_is_refused(tmp_path):
    touch(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/03-01-01-01-01-01-01.flac")
    with pytest.raises(InputError, match="1 ids occur more than once.*wav"):
        read_corpus("ravdess", tmp_path)


def test_a_strange_file_name_is_not_passed_over(tmp_path):
    touch(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/03-01-01-01-01-01-25.wav")
    with pytest.raises(InputError, match="1 of 2 audio files .* not named as in ravdess.*-25.wav"):
        read_corpus("ravdess", tmp_path)


def test_emodb(tmp_path):
    names = ["03a01Wa", "08a02Lb", "09a04Ea", "10a05Ac", "11b01Fa", "13b02Ta", "16b10Nd"]
    touch(tmp_path / "wav", *(f"{name}.wav" for name in names), "._03a01Wa.wav")
    found = read_corpus("emodb", tmp_path)
    labels = ["anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral"]
    assert [one.label for one in found] == labels
    assert [one.gender for one in found] == ["M", "F", "F", "M", "M", "F", "F"]
    assert [one.text_id for one in found] == ["a01", "a02", "a04", "a05", "b01", "b02", "b10"]


def test_cremad(tmp_path):
    touch(tmp_path / "AudioWAV", "1001_DFA_ANG_XX.wav", "1002_IEO_HAP_LO.wav")
    touch(tmp_path / "AudioWAV", "1040_ITS_SAD_X.wav")
    without = read_corpus("cremad", tmp_path)
    assert [one.label for one in without] == ["ANG", "HAP", "SAD"]
    assert [one.text_id for one in without] == ["DFA", "IEO", "ITS"]
    assert {one.gender for one in without} == {None}
    (tmp_path / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","-","-"\n1002,21,"Female","-","-"\n'
    )
    assert [one.gender for one in read_corpus("cremad", tmp_path)] == ["M", "F", None]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b'ActorID,Sex,Race\n1001,Male,"-\n1002,Female,"-"\n', "line 2: not CSV: a quote"),
        (b"ActorID,Sex,Race\n1001,Male,\xe4\n", "line 2: byte 0xE4 .* is not UTF-8"),
        (b"ActorID,Sex\n1001\n", "line 2: 1 fields, the header has 2"),
        (b"ActorID,Sex\n1001,x\n", "got 'x'"),
    ],
)
def test_the_genders_of_cremad_are_read_whole_or_refused(tmp_path, table, reason):
    touch(tmp_path / "AudioWAV", "1001_DFA_ANG_XX.wav")
    (tmp_path / "VideoDemographics.csv").write_bytes(table)
    with pytest.raises(InputError, match=reason):
        read_corpus("cremad", tmp_path)


def write_manifest(root: Path, name: str, text: str) -> Path:
    touch(root, "a/1.wav", "a/2.flac", "b/1.WAV")
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def test_manifest_csv(tmp_path):
    table = "path,label,speaker,session,text,gender\na/1.wav,joy,ann,s1,  Oh  No,F\n"
    table += 'b/1.WAV,anger,bob,,"oh, no",male\na/2.flac,joy,ann,,,\n'
    found = read_corpus("manifest", tmp_path, write_manifest(tmp_path, "mine.csv", table))
    assert [one.id for one in found] == ["a/1", "a/2", "b/1"]
    assert [one.session for one in found] == ["s1", None, None]
    assert [one.text_id for one in found] == ["oh no", None, "oh, no"]
    assert [one.gender for one in found] == ["F", None, "M"]
    assert found[2].path == tmp_path / "b/1.WAV"


def test_manifest_jsonl_with_own_ids(tmp_path):
    rows = [
        {"path": "a/1.wav", "label": "joy", "speaker": 7, "id": "one"},
        {"path": "./a/2.flac", "label": "joy", "speaker": 8, "id": "two"},
    ]
    table = "\n\n".join(map(json.dumps, rows))
    found = read_corpus("manifest", tmp_path, write_manifest(tmp_path, "mine.jsonl", table))
    assert [(one.id, one.speaker) for one in found] == [("one", "7"), ("two", "8")]


def emobox_row(dataset: str, key: str, wav: str, emo: str, **more: object) -> str:
    """Build a row as EmoBox/utils/preprocess_utils.py writes it: no speaker in it."""
    row = {"key": key, "dataset": dataset, "wav": wav, "type": "raw", "sample_rate": 16000}
    row |= {"num_frame": 16000.0, "task": "category", "length": 1.0, "emo": emo, "channel": 1}
    return json.dumps(row | more) + "\n"


EMOBOX = {
    "iemocap": "downloads/iemocap/Session1/sentences/wav/Ses01F_impro04/Ses01F_impro04_M000.wav",
    "esd": "downloads/esd/0018/Surprise/0018_001750.wav",
    "ravdess": "downloads/ravdess/audio/Actor_11/03-01-07-02-02-02-11.wav",
    "emodb": "downloads/emodb/wav/16b10Td.wav",
    "cremad": "downloads/cremad/AudioWAV/1053_TSI_HAP_XX.wav",
}
EMOBOX_SPEAKERS = {
    "iemocap": "Ses01_M",
    "esd": "0018",
    "ravdess": "11",
    "emodb": "16",
    "cremad": "1053",
}


@pytest.mark.parametrize("corpus", EMOBOX)
@pytest.mark.parametrize("inside", [False, True])
def test_emobox_jsonl_takes_the_speaker_from_the_file_name(tmp_path, corpus, inside):
    wav = EMOBOX[corpus]
    touch(tmp_path, wav)
    table = tmp_path / "fold.jsonl"
    key = f"{corpus}-{Path(wav).stem.replace('_', '-')}"
    table.write_text(emobox_row(corpus, key, wav, "Happy"))
    root = tmp_path / "downloads" / corpus if inside else tmp_path
    (found,) = read_corpus("manifest", root, table)
    assert (found.id, found.label, found.path) == (key, "Happy", tmp_path / wav)
    assert found.speaker == EMOBOX_SPEAKERS[corpus]


def test_peer_07_speaker_field_with_the_wrong_letter_is_ignored_and_reported(tmp_path, caplog):
    touch(tmp_path, EMOBOX["iemocap"])
    key = "iemocap-Ses01F_impro04_M000"
    table = tmp_path / "fold.jsonl"
    table.write_text(emobox_row("iemocap", key, EMOBOX["iemocap"], "neu", spk="Ses01F"))
    with caplog.at_level(logging.WARNING):
        (found,) = read_corpus("manifest", tmp_path, table)
    assert (found.speaker, found.session, found.gender) == ("Ses01_M", "Session1", "M")
    assert "in 1 of 1 rows the speaker differs" in caplog.text


def test_manifest_row_without_a_speaker_names_the_line(tmp_path):
    touch(tmp_path, "downloads/meld/1.wav")
    table = tmp_path / "fold.jsonl"
    table.write_text("\n" + emobox_row("meld", "meld-1", "downloads/meld/1.wav", "joy"))
    with pytest.raises(InputError, match=r"fold\.jsonl: 1 of 1 .*\n  line 2: no speaker"):
        read_corpus("manifest", tmp_path, table)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a/2.flac,,ann,", "'label' is empty"),
        (",joy,ann,", "'path' is empty"),
        ("a/3.m4a,joy,ann,", "'a/3.m4a' must end in one of .wav, .flac, .ogg, .opus, .mp3"),
        ("a/._1.wav,joy,ann,", "'a/._1.wav' must end in one of .* and not begin with a dot"),
        ("a/2.flac,joy,,", "no speaker"),
        ("a/1.wav,joy,ann,", "id 'a/1' was given in line 2"),
        ("a/2.flac,nan,ann,", "'label' is 'nan', which stands for unknown: fill it in, or remove"),
        ("a/2.flac,joy,N/A,", "'speaker' is 'N/A', which stands for unknown"),
        ("a/2.flac,joy,ann,F,more", "more fields than the header"),
    ],
)
def test_manifest_refuses_a_bad_row_with_its_line(tmp_path, row, reason):
    table = f"path,label,speaker,gender\na/1.wav,joy,ann,\n{row}\n"
    path = write_manifest(tmp_path, "mine.csv", table)
    with pytest.raises(InputError, match=rf"mine\.csv: 1 of 2 (.|\n)*line 3: {reason}"):
        read_corpus("manifest", tmp_path, path)


def test_manifest_counts_all_bad_rows_and_shows_the_first(tmp_path):
    table = "path,label,speaker\n" + "".join(f"{n}.wav,joy,\n" for n in range(30))
    path = write_manifest(tmp_path, "mine.csv", table)
    with pytest.raises(InputError, match="30 of 30 rows") as error:
        read_corpus("manifest", tmp_path, path)
    assert str(error.value).count("no speaker") == 8


def test_manifest_whose_files_are_all_missing_names_where_they_were_searched(tmp_path):
    table = "path,label,speaker\n" + "".join(f"gone{n}.wav,joy,ann\n" for n in range(30))
    path = write_manifest(tmp_path, "mine.csv", table)
    with pytest.raises(InputError) as error:
        read_corpus("manifest", tmp_path, path)
    said = "none of the 30 audio files exists, the first is 'gone0.wav'"
    assert said in str(error.value)
    assert f"corpus.root = {tmp_path}" in str(error.value)
    path.write_text(table + "a/1.wav,joy,ann\n")
    found = read_corpus("manifest", tmp_path, path)
    assert sum(not one.path.exists() for one in found) == 30  # found when indexed, named together


@pytest.mark.parametrize("there", ["a link", "a folder", "nothing"])
def test_emobox_paths_are_found_inside_the_corpus_whatever_is_there(tmp_path, there):
    touch(tmp_path, "wav/1.wav")
    if there == "a link":
        (tmp_path / "wav/2.wav").symlink_to("gone")
    elif there == "a folder":
        (tmp_path / "wav/2.wav").mkdir()
    table = tmp_path / "fold.jsonl"
    names = [f"downloads/meld/wav/{n}.wav" for n in (1, 2)]
    table.write_text("".join(emobox_row("meld", name, name, "joy", spk="p") for name in names))
    found = read_corpus("manifest", tmp_path, table)
    second = "wav/2.wav" if there != "nothing" else names[1]
    assert [one.path for one in found] == [tmp_path / "wav/1.wav", tmp_path / second]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            "mine.csv",
            "wo,label,speaker\n",
            "line 1: the columns path, label, speaker are needed; path not found in: wo.*file",
        ),
        ("mine.csv", "", "an empty file"),
        ("mine.csv", "path,label,speaker\n", "has no rows"),
        ("mine.jsonl", "{}\n{", "line 2: not JSON"),
        ("mine.jsonl", "[]\n", "line 1: must be an object"),
        ("mine.txt", "", "must end in one of .csv, .tsv, .jsonl, .json, .parquet"),
        ("mine.json", "[]", "has no rows"),
        ("mine.json", "3", "must hold a list of objects, .*SpeechBrain, .*s3prl, got 3"),
        ("mine.json", '{"rows": []}', r"got the keys \['rows'\]: jq .rows FILE > list.json"),
        ("mine.json", '[{"path": "a/1.wav"}, 3]', "row 2: must be an object, got 3"),
    ],
)
def test_manifest_that_is_not_a_table(tmp_path, name, text, reason):
    with pytest.raises(InputError, match=reason):
        read_corpus("manifest", tmp_path, write_manifest(tmp_path, name, text))
    with pytest.raises(InputError, match="there is no file"):
        read_corpus("manifest", tmp_path, tmp_path / "gone.csv")


def test_manifest_does_not_read_part_of_a_file_as_the_whole(tmp_path):
    row = emobox_row("pavoque", "1", "a/1.wav", "joy", spk="p", start_time=1.0, end_time=2.0)
    path = write_manifest(tmp_path, "mine.jsonl", row)
    [utterance] = read_corpus("manifest", tmp_path, path)
    assert (utterance.start, utterance.end) == (1.0, 2.0)


def test_select_subset(iemocap):
    found = read_corpus("iemocap", iemocap)
    assert select_subset(found, "all") == found
    assert len(select_subset(found, "improvised")) == 4
    assert len(select_subset(found, "scripted")) == 3
    with pytest.raises(InputError, match="did you mean 'improvised'. Allowed: all, improvised, sc"):
        select_subset(found, "improvized")


@pytest.mark.skipif(not RAVDESS.is_dir(), reason=f"no RAVDESS in {RAVDESS}; set MAXMVIT_RAVDESS")
def test_ravdess_as_published():
    found = read_corpus("ravdess", RAVDESS)
    assert len(found) == 1440
    assert len({one.speaker for one in found}) == 24
    assert len({one.speaker for one in found if one.gender == "F"}) == 12
    assert sum(one.label == "neutral" for one in found) == 96
    assert all(one.path.is_file() for one in found)
