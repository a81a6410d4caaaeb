"""`corpus.classes`: fewer or merged classes of a published corpus, as a protocol of its own."""

import pytest

from config.loading import load_config
from corpora.labels import choose_classes, label_set, select_labels
from corpora.readers import read_corpus
from system.errors import InputError
from tests.corpora.test_certificate import clip
from tests.corpora.test_published_folds import plan_of, write_corpus
from tests.corpora.test_readers import touch
from tests.support.paths import ROOT

RAVDESS8 = label_set("ravdess", "ravdess8", [])


def test_fewer_classes_keep_the_order_of_the_label_set_and_its_counts():
    four = choose_classes(RAVDESS8, ["sad", "neutral", "angry", "happy"])
    assert four.classes == ("neutral", "happy", "sad", "angry")
    assert four.published == {"all": {"neutral": 96, "happy": 192, "sad": 192, "angry": 192}}
    assert four.name == "ravdess8(neutral,happy,sad,angry)"
    assert four == choose_classes(RAVDESS8, ["angry", "happy", "neutral", "sad"])
    assert four.classes_of["calm"] is None and four.classes_of["sad"] == "sad"


@pytest.mark.parametrize(
    ("word", "name", "in_the_protocol"),
    [
        ("calm+neutral", "neutral+calm", "neutral+calm"),
        ("neutral = neutral+calm", "neutral", "neutral=neutral+calm"),
        ("rest=calm+neutral", "rest", "rest=neutral+calm"),
    ],
)
def test_merged_classes_have_the_sum_of_the_counts(word, name, in_the_protocol):
    merged = choose_classes(RAVDESS8, ["angry", word])
    assert merged.classes == (name, "angry")
    assert merged.published == {"all": {name: 288, "angry": 192}}
    assert merged.name == f"ravdess8({in_the_protocol},angry)"
    assert merged.describe() == {name: ["calm", "neutral"], "angry": ["angry"]}
    chosen = [clip("a", "neutral", "1"), clip("b", "calm", "1"), clip("c", "angry", "2")]
    chosen += [clip("d", "happy", "2")]
    assert [u.label for u in select_labels(chosen, merged, "all", False)] == [name, name, "angry"]


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (["hapy", "sad"], "'hapy' is not a class of ravdess8; did you mean 'happy'"),
        (["happy", "sad+"], "'' is not a class of ravdess8"),
        (["happy"], "must leave at least two classes, got happy"),
        ([], "must leave at least two classes, got none"),
        (["happy", "happy"], "names the class 'happy' twice"),
        (["happy", "glad=happy+surprised"], "takes 'happy' twice"),
        (["sad=happy+surprised", "angry"], "calls 'happy.surprised' 'sad', which is another class"),
        (
            ["Sad=happy+surprised", "angry"],
            "calls 'happy.surprised' 'Sad', .* .there 'sad'.: choose",
        ),
        (["up=happy+surprised", "Up=sad+angry"], "calls 'happy.surprised' 'up', .* .there 'Up'."),
        (["all=happy+surprised", "angry"], "no class can be called 'all', the row of all classes"),
        (["All=happy+surprised", "angry"], "no class can be called 'All'"),
        pytest.param(
            ["a" * 1001 + "=happy+surprised", "angry"],
            "has 1001 characters, at most 1000 are allowed",
            id="long",
        ),
        (["a/b=happy+surprised", "angry"], "must name the class in letters, digits and _"),
        (["=happy+surprised", "angry"], "must name the class in letters, digits and _"),
        ([*reversed(RAVDESS8.classes)], "names all classes of ravdess8, which changes nothing"),
    ],
)
def test_what_cannot_be_chosen_is_named(classes, reason):
    with pytest.raises(InputError, match=reason):
        choose_classes(RAVDESS8, classes)


def test_protocol_and_certificate_say_which_classes(tmp_path):
    root = write_corpus("emovo", tmp_path)
    protocol = {"split": "leave-one-speaker-out"}
    whole = plan_of("emovo", root, protocol).certificate
    plan = plan_of("emovo", root, protocol, classes=["neutral", "low=sad+fearful"])
    found = plan.certificate
    labels, _, rest = found["protocol"].partition("/")
    assert labels == "emovo7(neutral,low=sad+fearful)"
    assert rest == "leave-one-speaker-out/dev-speaker/all"
    assert found["classes"] == {"neutral": ["neutral"], "low": ["fear", "sadness"]}
    assert found["id"] != whole["id"] and whole["classes"]["happy"] == ["joy"]
    assert found["folds"][0]["test"]["classes"] == {"low": 2, "neutral": 1}
    assert {u.label for u in plan.utterances} == {"neutral", "low"}


def test_counts_of_chosen_classes_are_checked(tmp_path):
    touch(tmp_path, "Angry/SM1_F1_A01.wav", "Sad/SM1_F1_S01.wav")
    labels = choose_classes(label_set("urdu", "urdu4", []), ["angry", "sad"])
    with pytest.raises(InputError, match=r"urdu4.angry,sad., subset all: the counts differ"):
        select_labels(read_corpus("urdu", tmp_path), labels, "all", True)


def test_a_list_from_the_command_line_and_none_for_a_manifest():
    words = ["corpus.classes=[neutral, positive=happy+surprised]"]
    config = load_config(ROOT / "configs/ravdess.yaml", words)
    assert config.corpus.classes == ["neutral", "positive=happy+surprised"]
    manifest = ["corpus.name=manifest", "corpus.manifest=a.csv", "corpus.labels=all"]
    with pytest.raises(InputError, match="corpus.classes .* has no effect with corpus.name=manif"):
        load_config(ROOT / "configs/ravdess.yaml", [*words, *manifest])
