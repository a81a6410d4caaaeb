"""Several corpora as one: common classes, ids, folds, the certificate, and what is refused."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from config.loading import load_config
from corpora.dev_draw import draw_dev
from corpora.plan import list_trainable, make_plan, make_tuning_plan, plan_warnings
from corpora.several import cross_corpus_splits
from corpora.utterance import Utterance
from system.errors import InputError
from tests.support.ratings import rate_corpus
from tests.support.several import (
    CLASSES,
    iemocap,
    own,
    ravdess,
    write_config,
    write_own,
    write_ravdess,
)


@pytest.fixture(scope="module")
def places(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("several")
    return {
        "ravdess": write_ravdess(folder / "R"),
        "iemocap": corpus_root,
        "folder": write_own(folder / "F"),
    }


@pytest.fixture
def three(places, tmp_path):
    return write_config(
        tmp_path,
        [
            ravdess(places["ravdess"]),
            iemocap(places["iemocap"], role="test"),
            own(places["folder"], role="test"),
        ],
    )


def said_by(corpus: str, n: int, genders: str = "FM") -> list[Utterance]:
    """n speakers of each gender with two utterances."""
    return [
        Utterance(f"{corpus}/{g}{k}-{i}", Path(f"{corpus}{g}{k}{i}"), "ab"[i], f"{corpus}/{g}{k}")
        for g in genders
        for k in range(n)
        for i in range(2)
    ]


def members(corpus: str, n: int, **more: object) -> list[Utterance]:
    return [
        replace(one, corpus=corpus, gender=one.speaker.partition("/")[2][0], **more)
        for one in said_by(corpus, n)
    ]


def test_each_fold_tests_a_whole_corpus_and_all_train_on_the_same():
    utterances = [*members("c", 2), *members("a", 5), *members("b", 3), *members("d", 2)]
    roles = {"d": "test", "a": "train", "c": "test", "b": "train"}
    first, second = cross_corpus_splits(roles, utterances)
    assert [split.fold for split in (first, second)] == [1, 2]
    assert {u.id for u in first.test} == {u.id for u in members("d", 2)}  # in the list's order
    assert {u.id for u in second.test} == {u.id for u in members("c", 2)}
    assert first.train == second.train and first.dev == second.dev
    # by hand: a fifth of 5 women is one of them, of 3 one, too; men alike
    dev = {u.speaker for u in first.dev}
    by_corpus = {key: sorted(s[2] for s in dev if s.startswith(key)) for key in "ab"}
    assert by_corpus == {"a": ["F", "M"], "b": ["F", "M"]}
    assert not dev & {u.speaker for u in first.train}
    assert len(first.train) + len(first.dev) == len(members("a", 5)) + len(members("b", 3))


def test_dev_is_drawn_from_each_training_corpus_as_if_alone():
    a, b = members("a", 4), members("b", 4)
    b = [replace(one, session=f"b/{one.speaker[-1]}") for one in b]  # sessions, which a has not
    split = cross_corpus_splits(
        {"a": "train", "b": "train", "c": "test"}, [*a, *b, *members("c", 1)]
    )
    assert {u.id for u in split[0].dev} == draw_dev("speakers", a) | draw_dev("speakers", b)
    assert not {u.session for u in split[0].dev} & ({u.session for u in split[0].train} - {None})


def test_a_training_corpus_without_speakers_to_spare_is_refused():
    with pytest.raises(InputError, match="a: no dev split can be drawn"):
        cross_corpus_splits({"a": "train", "b": "test"}, [*members("a", 1), *members("b", 1)])
    with pytest.raises(InputError, match="no utterance is left of b"):
        cross_corpus_splits({"a": "train", "b": "test"}, members("a", 3))


def test_ids_speakers_and_labels_of_three_corpora(three):
    listed = list_trainable(load_config(three))
    assert listed.labels.classes == ("neutral", "happy", "sad", "angry")  # as the first has them
    by_corpus = {key: [u for u in listed.utterances if u.corpus == key] for key in listed.corpora}
    assert {key: len(of) for key, of in by_corpus.items()} == {
        **{"ravdess": 24, "iemocap": 40, "folder": 8},
    }
    assert all(u.id.startswith(f"{key}/") for key, of in by_corpus.items() for u in of)
    assert {u.label for u in listed.utterances} == set(CLASSES)  # joy, exc and hap are happy
    speakers = {key: {u.speaker for u in of} for key, of in by_corpus.items()}
    assert "ravdess/01" in speakers["ravdess"] and "folder/01" in speakers["folder"]  # two people
    assert {u.session for u in by_corpus["iemocap"]} == {f"iemocap/Session{k}" for k in range(1, 6)}
    assert listed.relabelled.mapped == {"folder/joy": "happy"}
    name = "ravdess8(neutral,happy,sad,angry)-to-iemocap4-exc+"
    assert listed.protocol.id.startswith(name)
    assert listed.protocol.id.endswith("/cross-corpus/dev-speakers/all")


def test_the_certificate_names_all_corpora_and_the_plan_says_the_cost(three):
    plan = make_plan(load_config(three))
    certificate = plan.certificate
    assert (
        certificate["corpus"]["name"]
        == "IEMOCAP and the corpus of the folder F, trained on RAVDESS"
    )
    assert list(certificate["corpora"]) == ["ravdess", "iemocap", "folder"]
    assert certificate["corpora"]["folder"]["role"] == "test"
    assert certificate["corpora"]["iemocap"] == {
        **{"name": "IEMOCAP", "synthetic": False, "role": "test", "labels": "iemocap4-exc"},
        **{"subset": "all", "utterances": 40, "speakers": 10},
        "classes": {"angry": 10, "happy": 10, "neutral": 10, "sad": 10},
    }
    assert [fold["test"]["utterances"] for fold in certificate["folds"]] == [40, 8]
    assert certificate["checks"]["speaker"] == "passed"
    assert "in no fold" in certificate["checks"]["tested exactly once"]
    assert certificate["checks"]["text"].startswith("not checked")
    assert any("All 2 folds train on the same utterances" in line for line in plan_warnings(plan))
    train, dev = ({one["assignment"] for one in certificate["folds"]} for _ in range(2))
    assert train == dev and plan.splits[0].train == plan.splits[1].train


def test_an_equal_recording_in_two_corpora_is_a_leak(places, tmp_path):
    both = [ravdess(places["ravdess"]), ravdess(places["ravdess"], role="test")]
    with pytest.raises(InputError, match="(?s)leak.*take one of.*recording .* is in train"):
        make_plan(load_config(write_config(tmp_path / "same", both)))
    root = tmp_path / "F"
    shutil.copytree(places["folder"], root)
    actor = next((places["ravdess"] / "Actor_01").iterdir())
    shutil.copy(actor, root / "01" / "neutral" / "0.wav")
    one = [ravdess(places["ravdess"]), own(root, role="test")]
    with pytest.raises(InputError, match=r"(?s)the folds leak.*ravdess/03-01.*folder/01/neutral/0"):
        make_plan(load_config(write_config(tmp_path / "one", one)))


def test_classes_must_be_the_same_everywhere(places, tmp_path):
    corpora = [ravdess(places["ravdess"]), own(places["folder"], role="test", label_map=None)]
    with pytest.raises(InputError) as found:
        list_trainable(load_config(write_config(tmp_path / "other", corpora)))
    said = str(found.value)
    assert "ravdess: angry, happy, neutral, sad" in said and "folder: angry, joy, neutral" in said
    assert "corpus.KEY.classes" in said and "corpus.KEY.label_map" in said
    fewer = [ravdess(places["ravdess"]), own(places["folder"], role="test", labels=CLASSES[1:])]
    with pytest.raises(InputError, match="different classes"):  # no UA over fewer classes
        list_trainable(load_config(write_config(tmp_path / "fewer", fewer)))


def test_an_error_of_one_corpus_names_it_and_counts_are_still_checked(places, tmp_path):
    corpora = [
        ravdess(places["ravdess"], expect_published_counts=True),
        iemocap(places["iemocap"], role="test"),
    ]
    with pytest.raises(InputError, match=r"(?s)^ravdess: .*differ from the published"):
        list_trainable(load_config(write_config(tmp_path, corpora)))


def test_unread_audio_is_named_with_its_corpus(places, tmp_path):
    root = tmp_path / "R"
    shutil.copytree(places["ravdess"], root)
    (root / "extra.mp3").touch()
    corpora = [ravdess(root), iemocap(places["iemocap"], role="test")]
    listed = list_trainable(load_config(write_config(tmp_path, corpora)))
    assert listed.unread.files == ("ravdess/extra.mp3",)


def test_unknown_speakers_may_be_tested_and_are_stamped_never_trained_on(places, tmp_path):
    blind = {"layout": "*/{label}/*.wav"}
    corpora = [ravdess(places["ravdess"]), own(places["folder"], role="test", **blind)]
    file = write_config(tmp_path / "test", corpora)
    with pytest.raises(InputError, match=f"nothing says who speaks in .*{places['folder'].name}"):
        make_plan(load_config(file))
    plan = make_plan(load_config(file, ["protocol.allow_speaker_overlap=true"]))
    assert "SPEAKER-DEPENDENT-SPEAKERS-UNKNOWN" in plan.certificate["protocol"]
    assert plan.certificate["corpora"]["folder"]["speakers"] is None
    corpora = [own(places["folder"], **blind), ravdess(places["ravdess"], role="test")]
    with pytest.raises(InputError, match="can be tested, not trained on"):
        make_plan(
            load_config(
                write_config(tmp_path / "train", corpora), ["protocol.allow_speaker_overlap=true"]
            )
        )


def test_the_overlap_key_is_refused_where_all_speakers_are_known(three):
    with pytest.raises(InputError, match="allow_speaker_overlap has no effect"):
        list_trainable(load_config(three, ["protocol.allow_speaker_overlap=true"]))


@pytest.mark.parametrize("role", ["train", "test"])
def test_a_list_needs_both_roles(places, tmp_path, role):
    corpora = [ravdess(places["ravdess"], role=role), iemocap(places["iemocap"], role=role)]
    with pytest.raises(InputError, match=f"here are ravdess {role}, iemocap {role}"):
        load_config(write_config(tmp_path, corpora))


def test_a_study_opens_no_audio_of_the_test_corpora(three):
    config = load_config(three, ["run.folds=[2]"])
    plan = make_tuning_plan(config)
    assert {u.corpus for u in plan.utterances} == {"ravdess"} and plan.splits[0].test == ()


def test_ratings_of_other_scales_meet_on_one(places, tmp_path):
    rated = rate_corpus(places["iemocap"], tmp_path)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = [
            [f"Actor_01/{path.name}", "01", 1, 4, 7]
            for path in (places["ravdess"] / "Actor_01").iterdir()
        ]
        csv.writer(file).writerows([["path", "speaker", "valence", "arousal", "dominance"], *rows])
    table = {"name": "manifest", "manifest": str(tmp_path / "list.csv"), "scale": [1, 7]}
    corpora = [
        {"name": "iemocap", "root": str(rated), "labels": "all", "expect_published_counts": False},
        {**table, "root": str(places["ravdess"]), "labels": "all", "role": "test"},
    ]
    listed = list_trainable(load_config(write_config(tmp_path, corpora, task="dimensions")))
    assert listed.labels.scale == (-1.0, 1.0)
    tested = {u.target for u in listed.utterances if u.corpus == "manifest"}
    assert tested == {(-1.0, 0.0, 1.0)}  # 1, 4 and 7 of 1 to 7
    assert all(-1 <= value <= 1 for u in listed.utterances for value in u.target)
