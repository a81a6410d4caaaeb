"""MSP-Podcast: its table as published, with synthetic sound in the place of its audio."""

import csv
from pathlib import Path

import pytest

from config.pairs import check_pairs
from config.schema import Config
from corpora.fold_lists import EXCLUDED
from corpora.msp_podcast import TABLE, read_msp_podcast
from corpora.odd import find_odd
from corpora.plan import make_plan, plan_warnings
from corpora.readers import read_corpus, select_subset
from corpora.stamps import stamps
from corpora.survey import survey_corpus
from corpora.unannotated_speakers import hold_back, is_unannotated, unannotated
from corpora.utterance import Utterance
from reports.explore import PAGE, write_exploration
from reports.explore_tables import class_cells, class_rows, exploration_json, headline
from system.errors import InputError
from tests.corpora.test_published_folds import config_of, write_audio
from tests.corpora.test_readers import touch

HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set".split(",")
LETTERS = "NHASFDUC"
FOUR = {"classes": ["neutral", "happy", "angry", "sad"]}
GIVEN = {"split": "given"}


def row(podcast: int, turn: int, label: str, speaker: str, part: str, gender: str = "Male"):
    name = f"MSP-PODCAST_{podcast:04d}_{turn:04d}.wav"
    return [name, label, "4.2", "3.6", "4.0", speaker, gender, part]


def rows_of(unknown: tuple[str, ...] = ("Train",)) -> list[list[str]]:
    """Return each class once for two speakers of each part, and once for an unknown one."""
    rows = []
    for k, part in enumerate(("Train", "Development", "Test1", "Test2"), start=1):
        speakers = [str(10 * k), str(10 * k + 1), *(["Unknown"] if part in unknown else [])]
        for s, speaker in enumerate(speakers):
            gender = "Unknown" if speaker == "Unknown" else ("Male", "Female")[s]
            for n, letter in enumerate("NHAS"):
                rows.append(row(k, 10 * s + n, letter, speaker, part, gender))
        rows.append(row(k, 90, "X", str(10 * k), part))
        rows.append(row(k, 91, "O", str(10 * k), part))
    return rows


def write_table(root: Path, rows: list[list[str]], header: list[str] = HEADER) -> list[str]:
    path = root / "Labels" / TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return [f"Audios/{one[0]}" for one in rows]


@pytest.fixture
def podcast(tmp_path: Path) -> Path:
    return touch(tmp_path, *write_table(tmp_path, rows_of()))


@pytest.fixture(scope="module")
def audible(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("podcast")
    rows = rows_of(("Train", "Development", "Test1"))
    return write_audio(root, write_table(root, rows), seed=8000)


def test_a_row_says_label_speaker_gender_and_part(podcast):
    found = {one.id: one for one in read_corpus("msppodcast", podcast)}
    assert len(found) == len(rows_of())
    one = found["MSP-PODCAST_0003_0010"]
    assert (one.label, one.speaker, one.gender) == ("N", "31", "F")
    assert (one.split, one.portion, one.session) == ("test", "test1", None)
    assert one.path == podcast / "Audios/MSP-PODCAST_0003_0010.wav"
    assert found["MSP-PODCAST_0002_0000"].split == "dev"
    assert found["MSP-PODCAST_0001_0020"].gender is None


def test_unknown_is_never_one_speaker(podcast):
    unknown = [u.speaker for u in read_corpus("msppodcast", podcast) if is_unannotated(u.speaker)]
    assert len(unknown) == len(set(unknown)) == 4


@pytest.mark.parametrize("word", ["Unknown", "unknown", " UNKNOWN ", "", "nan", "None"])
def test_every_way_to_say_unknown_is_one(tmp_path, word):
    touch(tmp_path, *write_table(tmp_path, [row(1, 1, "N", word, "Train")]))
    (one,) = read_msp_podcast(tmp_path)
    assert one.speaker == unannotated("MSP-PODCAST_0001_0001")


def test_words_of_gender_that_are_not_understood_are_told(tmp_path, caplog):
    words = ["Male", "FEMALE", "Unknown", "", "Femal", "Femal", "m"]
    rows = [row(1, n, "N", "10", "Train", word) for n, word in enumerate(words)]
    touch(tmp_path, *write_table(tmp_path, rows))
    with caplog.at_level("INFO"):
        found = read_corpus("msppodcast", tmp_path)
    assert [one.gender for one in found] == ["M", "F", None, None, None, None, None]
    assert "unless it is Male or Female: 'Femal' in 2 rows, 'm' in 1 rows" in caplog.text


def test_a_subset_is_one_test_with_train_and_development(podcast):
    found = read_corpus("msppodcast", podcast)
    chosen = select_subset(found, "test2")
    assert {one.portion for one in chosen} == {None, "test2"}
    assert {one.split for one in chosen} == {"train", "dev", "test"}
    assert len(select_subset(found, "all")) == len(found)
    with pytest.raises(InputError, match="'test3' does not occur; .*all, test1, test2"):
        select_subset(found, "test3")


def test_hidden_rows_of_test3_are_told_and_not_read(tmp_path, caplog):
    hidden = [row(9, n, "X", "Unknown", "Test3") for n in range(2)]
    touch(tmp_path, *write_table(tmp_path, [*rows_of(), *hidden]))
    with caplog.at_level("INFO"):
        found = read_corpus("msppodcast", tmp_path)
    assert len(found) == len(rows_of()) and not any(u.portion == "test3" for u in found)
    assert "2 rows of Test3 have neither label nor speaker" in caplog.text


def test_rows_of_test3_with_labels_are_a_subset(tmp_path):
    labelled = [row(9, n, letter, "90", "Test3") for n, letter in enumerate(LETTERS)]
    touch(tmp_path, *write_table(tmp_path, [*rows_of(), *labelled]))
    chosen = select_subset(read_corpus("msppodcast", tmp_path), "test3")
    assert sum(one.portion == "test3" for one in chosen) == 8


@pytest.mark.parametrize(
    ("rows", "header", "reason"),
    [
        ([row(1, 1, "N", "1", "Trian")], HEADER, "row 2: Split_Set says 'Trian'; did you mean 'tr"),
        ([row(1, 1, "N", "1", "Train")], [*HEADER[:5], "Speaker", *HEADER[6:]], "no column SpkrID"),
        ([["", *row(1, 1, "N", "1", "Train")[1:]]], HEADER, "row 2: FileName must name a file"),
        ([["a/b.wav", *row(1, 1, "N", "1", "Train")[1:]]], HEADER, "FileName must name a file"),
        ([], HEADER, "has no rows"),
        ([row(1, 1, "N", "1", "Train")[:-1]], HEADER, "line 2: 7 fields, the header has 8"),
    ],
)
def test_a_table_that_is_not_the_published_one_is_refused(tmp_path, rows, header, reason):
    write_table(tmp_path, rows, header)
    touch(tmp_path, "Audios/MSP-PODCAST_0001_0001.wav")
    with pytest.raises(InputError, match=reason):
        read_corpus("msppodcast", tmp_path)


def test_the_highest_table_is_read_and_those_of_earlier_releases_are_told(podcast, caplog):
    old = podcast / "Previous_releases_information/previous_releases_info/v1.10"
    write_table(old, [row(1, 1, "H", "1", "Train")])
    with caplog.at_level("INFO"):
        assert len(read_corpus("msppodcast", podcast)) == len(rows_of())
    assert "tables that are not read" in caplog.text and "v1.10" in caplog.text


def test_audio_is_found_where_it_lies_and_none_at_all_is_an_error(podcast):
    (podcast / "Audios").rename(podcast / "Audio")
    assert read_corpus("msppodcast", podcast)[0].path.parent.name == "Audio"
    for path in (podcast / "Audio").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="none of 44 labelled files has audio below"):
        read_corpus("msppodcast", podcast)


def test_the_own_split_leaves_out_unnamed_speakers_and_says_so(audible):
    plan = make_plan(config_of("msppodcast", audible, GIVEN, subset="test1", **FOUR))
    (split,) = plan.splits
    assert [len(part) for _, part in split.parts()] == [8, 8, 8]
    assert not any(is_unannotated(one.speaker) for one in plan.utterances)
    assert {one.portion for one in split.test} == {"test1"}
    given = plan.certificate["given"]
    assert given["unannotated_speakers"] == {"train": 0, "left_out": 12}
    assert given["excluded"] == 12 and given["table"] == "MSP-Podcast's own split"
    assert plan.certificate["protocol"].endswith("/dev-given/test1")
    assert "UNANNOTATED" not in plan.certificate["protocol"]
    assert any(line.startswith("12 utterances are left out") for line in plan_warnings(plan))
    assert plan.certificate["checks"]["speaker"] == "passed"


def test_unnamed_speakers_of_train_may_train_under_a_stamp_and_never_test(audible):
    values = {"subset": "test1", "unannotated_speakers": "train", **FOUR}
    config = config_of("msppodcast", audible, GIVEN, **values)
    plan = make_plan(config)
    (split,) = plan.splits
    assert [len(part) for _, part in split.parts()] == [12, 8, 8]
    assert sum(is_unannotated(one.speaker) for one in split.train) == 4
    certificate = plan.certificate
    assert "-UNANNOTATED-SPEAKERS-IN-TRAIN/" in certificate["protocol"]
    assert certificate["given"]["unannotated_speakers"] == {"train": 4, "left_out": 8}
    assert certificate["folds"][0]["train"]["speakers"] == ["10", "11"]
    assert certificate["folds"][0]["train"]["unannotated_speakers"] == 4
    assert "those of 4 training utterances" in certificate["checks"]["speaker"]
    above = stamps(certificate["protocol"], False)
    assert above == [line for line in plan_warnings(plan) if line.startswith("UNANNOTATED")]
    assert len(above) == 1
    by_speaker = config.train.model_copy(update={"normalize": "speaker"})
    with pytest.raises(InputError, match="train.normalize=speaker needs speakers"):
        make_plan(config.model_copy(update={"train": by_speaker}))


def test_the_page_counts_named_speakers_and_says_where_there_are_others(audible, tmp_path):
    """6 named speakers; 4 utterances of train by nobody knows whom."""
    values = {"subset": "test1", "unannotated_speakers": "train", **FOUR}
    config = config_of("msppodcast", audible, GIVEN, **values)
    survey = survey_corpus(config)
    assert [*survey.speakers] == ["10", "11", "20", "21", "30", "31"]
    assert survey.unknown == {"neutral": 1, "happy": 1, "angry": 1, "sad": 1}
    assert headline(survey).split(", ")[2] == "6 speakers (unknown in 4 utterances)"
    assert [cells[3] for cells in class_cells(class_rows(survey))] == ["6 and unknown"] * 5
    assert exploration_json(survey, [], [])["unknown_speakers"]["sad"] == 1
    findings = find_odd(survey, [])
    write_exploration(tmp_path, survey, [], findings, [], audio=False)
    for name in (PAGE, "recordings.csv"):
        text = (tmp_path / name).read_text()
        assert "unknown" in text and "not annotated" not in text
    assert "nobody has named the speakers of 4 training utterances" in " ".join(
        line for one in findings if one.id == "protocol" for line in one.details
    )


@pytest.mark.parametrize("split", ["speaker-k-fold", "leave-one-speaker-out"])
def test_other_splits_are_refused_where_speakers_are_unnamed(audible, split):
    n_folds = {"n_folds": 3} if split == "speaker-k-fold" else {}
    with pytest.raises(InputError, match="nobody has named those of 12 of 44 utterances"):
        make_plan(config_of("msppodcast", audible, {"split": split, **n_folds}, **FOUR))


def test_folds_of_others_leave_them_out_too(audible, tmp_path):
    found = read_corpus("msppodcast", audible)
    table = tmp_path / "mine.csv"
    rows = "".join(f"{one.id},{one.split}\n" for one in found)
    table.write_text(f"utterance,split\n{rows}")
    protocol = {**GIVEN, "folds": str(table)}
    plan = make_plan(config_of("msppodcast", audible, protocol, **FOUR))
    assert plan.certificate["given"]["unannotated_speakers"]["left_out"] == 12
    assert any("MSP-Podcast's own split is not used" in line for line in plan_warnings(plan))


def test_a_speaker_in_train_and_test_is_still_refused(tmp_path):
    rows = [[*one[:5], "10" if one[5] == "30" else one[5], *one[6:]] for one in rows_of(())]
    root = write_audio(tmp_path, write_table(tmp_path, rows), seed=8200)
    with pytest.raises(InputError, match="speaker 10 is in train .* and in test"):
        make_plan(config_of("msppodcast", root, GIVEN, subset="test1", **FOUR))


def test_a_speaker_in_two_spellings_is_refused(tmp_path):
    """Spreadsheets write 10.0: the leakage check would take it for another speaker."""
    rows = [[*one[:5], "10.0" if one[5] == "30" else one[5], *one[6:]] for one in rows_of()]
    write_table(tmp_path, rows)
    touch(tmp_path, *(f"Audios/{one[0]}" for one in rows))
    with pytest.raises(InputError, match=r"speakers that differ .*'10' \(MSP-.*'10.0' \(MSP-"):
        read_corpus("msppodcast", tmp_path)


def rated(root: Path, labels: str | list[str] = "all", subset: str = "test1", **more: object):
    config = config_of("msppodcast", root, GIVEN, subset=subset, labels=labels, **more)
    values = config.model_dump(exclude_unset=True) | {"task": "dimensions"}
    return make_plan(Config(**values))


def test_ratings_are_those_of_the_table_on_its_scale(audible):
    """Utterances without a class (O, X) count; hidden and unnamed ones are left out as always."""
    plan = rated(audible)
    assert plan.labels.classes == ("valence", "arousal", "dominance")
    assert tuple(plan.labels.scale) == (1.0, 7.0)
    assert {one.target for one in plan.utterances} == {(3.6, 4.2, 4.0)}  # EmoVal, EmoAct, EmoDom
    (split,) = plan.splits
    assert [len(part) for _, part in split.parts()] == [10, 10, 10]
    protocol = plan.certificate["protocol"]
    assert protocol.startswith("msppodcast-dimensions(valence+arousal+dominance)/given")
    assert protocol.endswith("/dev-given/test1")
    assert rated(audible, ["arousal"]).utterances[0].target == (4.2,)


def test_ratings_of_hidden_rows_are_not_read(tmp_path):
    hidden = [[*row(9, 0, "X", "Unknown", "Test3")[:2], "", "", "", "Unknown", "Unknown", "Test3"]]
    root = write_audio(tmp_path, write_table(tmp_path, [*rows_of(()), *hidden]), seed=8400)
    assert len(rated(root, subset="all").utterances) == 40


def test_a_rating_that_is_missing_or_no_number_is_refused(tmp_path):
    for cell, words in (("", "1 of 30 utterances lack a rating of .*_0001_0000"), ("x", "got 'x'")):
        rows = rows_of(())
        rows[0][3] = cell
        touch(tmp_path, *write_table(tmp_path, rows))
        with pytest.raises(InputError, match=words):
            rated(tmp_path)


def test_a_rating_beyond_the_scale_is_told_and_used(tmp_path, caplog):
    rows = rows_of(())
    rows[0][3] = "7.5"
    root = write_audio(tmp_path, write_table(tmp_path, rows), seed=8600)
    plan = rated(root)
    assert max(one.target[0] for one in plan.utterances) == 7.5
    assert "outside 1 to 7: MSP-PODCAST_0001_0000 7.5, 4.2, 4; they are used" in caplog.text


def test_the_ratings_have_a_scale_of_their_own(audible):
    with pytest.raises(InputError, match="no effect on msppodcast, whose ratings go from 1 to 7"):
        check_pairs(rated(audible, scale=[1, 5]).config)


def test_a_table_without_ratings_still_has_classes(tmp_path):
    header = [name for name in HEADER if name not in ("EmoAct", "EmoVal", "EmoDom")]
    rows = [[*one[:2], *one[5:]] for one in rows_of()]
    touch(tmp_path, *write_table(tmp_path, rows, header))
    assert {one.ratings for one in read_corpus("msppodcast", tmp_path)} == {None}


def test_hold_back_by_hand():
    one = Utterance("a", Path("a.wav"), "N", unannotated("a"))
    two = Utterance("b", Path("b.wav"), "N", "7")
    folds = [{"a": "train", "b": "test"}, {"a": "test", "b": "train"}]
    assert hold_back(folds, [one, two], may_train=False) == [
        {"a": EXCLUDED, "b": "test"},
        {"a": EXCLUDED, "b": "train"},
    ]
    assert hold_back(folds, [one, two], may_train=True)[0] == folds[0]
    assert hold_back(folds, [one, two], may_train=True)[1]["a"] == EXCLUDED
