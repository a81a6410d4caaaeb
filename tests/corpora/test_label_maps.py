"""`corpus.label_map`: classes of other names, what is left out, and what the protocol id says."""

from pathlib import Path

import pytest

from corpora.label_maps import describe_labels, map_labels
from corpora.labels import label_set, select_labels
from corpora.plan import make_plan, make_tuning_plan, plan_warnings
from corpora.utterance import Utterance
from storage.audio_lists import read_unread_audio, write_audio_lists
from system.errors import InputError
from tests.corpora.test_unknown_speakers import config_of

LABELS = "hap exc ang xxx hap exc ang xxx hap".split()
MAP = {"hap": "happy", "exc": "happy", "xxx": None}


def utterances() -> list[Utterance]:
    return [Utterance(str(n), Path(f"{n}.wav"), label, "s") for n, label in enumerate(LABELS)]


@pytest.mark.parametrize("corpus", ["manifest", "folder"])
def test_labels_become_classes_or_are_left_out(corpus):
    labels = label_set(corpus, "all", utterances(), MAP)
    assert labels.classes == ("ang", "happy")
    kept = select_labels(utterances(), labels, "all", False)
    assert [u.label for u in kept] == "happy happy ang happy happy ang happy".split()
    found = describe_labels("manifest", labels.classes_of, LABELS)
    assert found.mapped == {"hap": "happy", "exc": "happy"} and found.left_out == {"xxx": 2}
    assert found.words() == [
        "labels: exc is happy, hap is happy",
        "2 utterances are left out by their labels: xxx (2)",
    ]


def test_the_name_of_the_set_says_the_map_and_only_what_it_changes():
    def name(label_map, labels="all"):
        return label_set("manifest", labels, utterances(), label_map).name

    assert name(None) == "manifest4" and name({"hap": "happy", "exc": "happy", "ang": "ang"}) == (
        name({"exc": "happy", "hap": "happy"})
    )
    names = {
        name(MAP),
        name(MAP | {"ang": "angry"}),
        name({"hap": "happy", "exc": "happy"}),
        name({"hap": "glad", "exc": "glad", "xxx": None}),
    }
    assert len(names) == 4 and all("-mapped-" in one for one in names)
    assert name(MAP, ["happy", "ang"]).startswith("manifest(happy+ang)-mapped-")


def test_labels_names_classes_after_the_map():
    labels = label_set("manifest", ["happy", "xxx"], utterances(), {"hap": "happy"})
    found = describe_labels("manifest", labels.classes_of, LABELS)
    assert labels.classes == ("happy", "xxx") and found.left_out == {"ang": 2, "exc": 2}
    with pytest.raises(InputError, match="'hap' does not occur in the manifest, after corpus.lab"):
        label_set("manifest", ["hap", "ang"], utterances(), {"hap": "happy"})


@pytest.mark.parametrize(
    ("label_map", "words"),
    [
        ({"happ": "happy"}, "label 'happ' does not occur; did you mean 'hap'"),
        ({"hap": "hap"}, "corpus.label_map has no effect"),
        ({"hap": " "}, "the class of 'hap' is empty: name it, or write null"),
        ({"hap": "Ang"}, "makes the classes 'Ang' and 'ang', which differ only in case"),
    ],
)
def test_a_map_that_cannot_be_is_refused(label_map, words):
    with pytest.raises(InputError, match=words):
        map_labels(LABELS, label_map)


def test_a_map_that_leaves_one_class_is_refused():
    with pytest.raises(InputError, match="at least two different classes, got happy"):
        label_set("manifest", "all", utterances(), MAP | {"ang": None})


def test_a_plan_says_and_records_what_became_of_the_labels(tmp_path):
    config = config_of(tmp_path, layout="{speaker}/{label}/*", label_map={"joy": "glad"})
    plan = make_plan(config)
    assert plan.labels.classes == ("awe", "glad")
    assert "-mapped-" in plan.certificate["protocol"]
    assert plan.certificate["labels"] == {"mapped": {"joy": "glad"}, "left_out": {}}
    assert "labels: joy is glad" in plan_warnings(plan)
    write_audio_lists(tmp_path, plan)
    assert read_unread_audio(tmp_path) == ["labels: joy is glad"]
    tuning = make_tuning_plan(config.model_copy(update={"run": run_of_one(config)}))
    assert tuning.certificate["protocol"] == plan.certificate["protocol"]


def run_of_one(config):
    return config.run.model_copy(update={"folds": [1]})
