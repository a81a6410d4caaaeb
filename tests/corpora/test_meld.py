"""MELD: tables and folders as published, with synthetic sound in the place of its audio."""

import csv
import shutil
from pathlib import Path

import pytest

from corpora.audio_files import unread_audio
from corpora.fold_names import Names
from corpora.meld import EXTRACT, FOLDERS, TABLES, read_meld
from corpora.partition import Entry
from corpora.plan import make_plan, plan_warnings
from corpora.readers import read_corpus
from system.errors import InputError
from system.placeholders import LFS_START
from tests.corpora.test_published_folds import config_of, write_audio
from tests.corpora.test_readers import touch

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
HEADER += ",StartTime,EndTime"
EMOTIONS = ("neutral", "joy", "anger", "sadness", "fear", "disgust", "surprise")
GIVEN = {"split": "given"}
OVERLAP = {**GIVEN, "allow_speaker_overlap": True}


def write_tables(root: Path, speakers: tuple[str, ...] = ("Joey", "Mona")) -> list[str]:
    """Write two dialogues a part, each class once in one; return the paths of their audio."""
    paths = []
    for k, (part, table) in enumerate(TABLES.items()):
        rows = []
        for dialog in range(2):
            for number, emotion in enumerate(EMOTIONS):
                speaker = speakers[(number + dialog + k) % len(speakers)].format(part=part)
                text = f"Said “{part}”, {dialog} and {number}."
                place = [dialog, number, 8, 21, "00:16:16,059", "00:16:21,731"]
                rows.append([len(rows) + 1, text, speaker, emotion, "neutral", *place])
                paths.append(f"{FOLDERS[part]}/dia{dialog}_utt{number}.wav")
        (root / table).parent.mkdir(parents=True, exist_ok=True)
        with (root / table).open("w", newline="", encoding="utf-8") as file:
            file.write(f"{HEADER}\n")
            csv.writer(file).writerows(rows)
    return paths


@pytest.fixture
def meld(tmp_path: Path) -> Path:
    """Empty files in the published folders."""
    root = tmp_path / "MELD.Raw"
    return touch(root, *write_tables(root))


def test_a_row_is_an_utterance_and_a_dialogue_is_a_session(meld):
    found = {one.id: one for one in read_corpus("meld", meld)}
    assert len(found) == 42
    one = found["dia1_utt2-test"]
    assert one.path == meld / "output_repeated_splits_test/dia1_utt2.wav"
    assert (one.label, one.speaker, one.session) == ("anger", "Mona", "test dialogue 1")
    assert one.split == "test" and one.text_id == "said “test”, 1 and 2."
    assert found["dia1_utt2-train"].session == "train dialogue 1"
    assert found["dia1_utt2-train"].path.parent.name == "train_splits"


@pytest.mark.parametrize(
    "folder",
    ["train_splits_wav", "audio/train", "Train", "wav/MELD_train_16k", "dev/train_splits"],
)
def test_the_nearest_folder_that_says_a_part_tells_it(meld, folder):
    moved = meld / folder
    moved.parent.mkdir(parents=True, exist_ok=True)
    (meld / "train_splits").rename(moved)
    found = {one.id: one.path for one in read_corpus("meld", meld)}
    assert found["dia0_utt0-train"] == moved / "dia0_utt0.wav"


def test_a_name_may_tell_the_part_and_no_part_is_guessed(meld):
    for path in (meld / "dev_splits_complete").iterdir():
        path.rename(meld / f"dev_{path.name}")
    touch(meld, "elsewhere/dia0_utt0.wav", "output_repeated_splits_test/dia101_utt0.wav")
    found = {one.id: one.path for one in read_corpus("meld", meld)}
    assert found["dia0_utt0-dev"] == meld / "dev_dia0_utt0.wav"
    unread = unread_audio(meld, found.values())
    expected = ("elsewhere/dia0_utt0.wav", "output_repeated_splits_test/dia101_utt0.wav")
    assert unread.files == expected


def test_emobox_names_the_utterances_alike(meld):
    found = read_corpus("meld", meld)
    row = {"id": "meld-dia0_utt0-dev", "path": "downloads/meld/dev_splits_complete/dia0_utt0.mp4"}
    entry = Entry("", "dev", row, "line 1")
    assert Names(found, by_speaker=False).find(entry) == "dia0_utt0-dev"


def test_a_table_that_git_lfs_has_not_fetched_is_told(meld):
    (meld / TABLES["dev"]).write_bytes(LFS_START + b"v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="dev_sent_emo.csv: it is a Git LFS pointer"):
        read_corpus("meld", meld)


def as_video(root: Path, *parts: str) -> None:
    for part in parts:
        for path in (root / FOLDERS[part]).iterdir():
            path.rename(path.with_suffix(".mp4"))


def test_videos_alone_name_the_missing_step(meld):
    as_video(meld, "train", "dev", "test")
    with pytest.raises(InputError) as error:
        read_corpus("meld", meld)
    said = str(error.value)
    assert said.startswith("meld: 42 of 42 utterances lie there as video and not as audio: ")
    assert "dev_splits_complete/dia0_utt0.mp4" in said and said.endswith(EXTRACT)


def test_an_interrupted_extraction_is_no_smaller_corpus(meld):
    as_video(meld, "test")
    with pytest.raises(InputError, match="14 of 42 utterances lie there as video"):
        read_corpus("meld", meld)


def test_the_two_utterances_without_usable_audio_are_bad_audio(tmp_path):
    root = touch(tmp_path, *write_tables(tmp_path))
    with (root / TABLES["train"]).open("a", encoding="utf-8") as file:
        file.write("15,Hi,Joey,joy,positive,125,3,8,21,0,1\n")
    with (root / TABLES["dev"]).open("a", encoding="utf-8") as file:
        file.write("15,Hi,Joey,joy,positive,110,7,8,21,0,1\n")
    touch(root, "train_splits/dia125_utt3.mp4")
    missing = [one for one in read_meld(root) if not one.path.exists()]
    assert {one.id for one in missing} == {"dia125_utt3-train", "dia110_utt7-dev"}


@pytest.mark.parametrize("table", TABLES.values())
def test_a_missing_table_is_named(meld, table):
    (meld / table).unlink()
    with pytest.raises(InputError, match=f"there is no {table} below .* data/MELD of the repos"):
        read_corpus("meld", meld)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Emotion,", "Feeling,", "has no column Emotion, but Sr No., Utterance"),
        (
            ",joy,neutral,0,1,",
            ",joy,neutral,zero,1,",
            "row 3: Dialogue_ID and Utterance_ID must be",
        ),
        (",joy,neutral,0,1,", ",joy,neutral,0,²,", "row 3: Dialogue_ID and Utterance_ID must be"),
        pytest.param(
            ",joy,neutral,0,1,",
            f",joy,neutral,0,{'1' * 5000},",
            "row 3: .*numbers",
            id="5000 digits",
        ),
        (",Joey,neutral", ",,neutral", "row 2: Speaker is empty"),
        ("“train”", '“train"', "line 2: "),
    ],
)
def test_a_table_that_is_not_the_published_one_is_refused(meld, old, new, reason):
    table = meld / TABLES["train"]
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        read_corpus("meld", meld)


def test_a_speaker_in_two_spellings_is_refused(meld):
    table = meld / TABLES["test"]
    table.write_text(table.read_text(encoding="utf-8").replace("Joey", "joey"), encoding="utf-8")
    with pytest.raises(InputError, match=r"'Joey' \(dia\d_utt\d-\w+\) and 'joey' \(.*-test\)"):
        read_corpus("meld", meld)


def test_a_nested_copy_is_not_read_and_two_beside_each_other_are_not_chosen_between(meld):
    shutil.copytree(meld, meld / "MELD.Raw")
    found = read_corpus("meld", meld)
    assert len(found) == 42 and not any("MELD.Raw/MELD.Raw" in str(one.path) for one in found)
    assert len(unread_audio(meld, [one.path for one in found]).files) == 42
    (meld / "MELD.Raw").rename(meld.parent / "second")
    with pytest.raises(InputError, match="train_sent_emo.csv is in 2 places"):
        read_corpus("meld", meld.parent)


def test_a_root_without_audio_says_so(meld):
    for path in meld.rglob("*.wav"):
        path.unlink()
    with pytest.raises(InputError, match="none of 42 utterances has a WAV or FLAC file below"):
        read_corpus("meld", meld)


def test_the_published_split_shares_speakers_and_is_refused_unless_stamped(tmp_path):
    root = write_audio(tmp_path, write_tables(tmp_path), seed=7000)
    with pytest.raises(InputError, match="speaker Joey is in train .* and in test") as error:
        make_plan(config_of("meld", root, GIVEN))
    assert "protocol.allow_speaker_overlap=true accepts these folds" in str(error.value)
    plan = make_plan(config_of("meld", root, OVERLAP))
    (split,) = plan.splits
    assert [len(part) for _, part in split.parts()] == [14, 14, 14]
    assert {one.split for one in split.test} == {"test"}
    assert "SPEAKER-DEPENDENT" in plan.certificate["protocol"]
    assert plan.certificate["speaker_dependent"]
    given = plan.certificate["given"]
    assert given["table"] == "MELD's own split" and "Poria et al. 2019" in given["made_by"]
    assert plan_warnings(plan)[0].startswith("SPEAKER-DEPENDENT: the same speakers are in train")


def test_a_subset_of_speakers_that_are_apart_needs_no_stamp(tmp_path):
    paths = write_tables(tmp_path, ("Ann of {part}", "Bob of {part}"))
    root = write_audio(tmp_path, paths, seed=7100)
    plan = make_plan(config_of("meld", root, GIVEN))
    assert plan.certificate["checks"]["speaker"] == "passed"
    assert plan.certificate["checks"]["session"] == "passed"
    with pytest.raises(InputError, match="allow_speaker_overlap has no effect on MELD's own split"):
        make_plan(config_of("meld", root, OVERLAP))


def test_groups_of_speakers_would_divide_dialogues(tmp_path):
    root = write_audio(tmp_path, write_tables(tmp_path, ("Ann", "Bob", "Cid")), seed=7200)
    with pytest.raises(InputError, match="session dev dialogue 0 is in train .* and in dev"):
        make_plan(config_of("meld", root, {"split": "speaker-k-fold", "n_folds": 3}))
