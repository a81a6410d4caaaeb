"""Folds from a manifest's column `split` or `fold`, assigned by hand: certified and hashed."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from config.schema import Config
from corpora.given import given_digest
from corpora.plan import make_plan, make_tuning_plan, plan_warnings
from corpora.splits import Split, make_splits
from corpora.utterance import Utterance
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, speech
from tests.conftest import RECIPE

SPEAKERS = "abcdef"


def corpus(**columns: str) -> list[Utterance]:
    """Two classes from each of six speakers; a column gives one letter or word a speaker."""
    return [
        Utterance(
            f"{who}{label}",
            Path(f"{who}{label}.wav"),
            label,
            who,
            **{name: words.split()[n] for name, words in columns.items()},
        )
        for n, who in enumerate(SPEAKERS)
        for label in ("joy", "awe")
    ]


def given(utterances: list[Utterance]) -> list[Split]:
    return make_splits(utterances, "given", None, None, {}, False)


def speakers(part) -> str:
    return "".join(sorted({one.speaker for one in part}))


def test_a_column_split_gives_one_fold():
    (fold,) = given(corpus(split="train Training valid validation TEST test"))
    assert fold.fold == 1
    assert [speakers(part) for _, part in fold.parts()] == ["ab", "cd", "ef"]


def test_a_column_fold_gives_one_fold_a_value_in_the_order_of_numbers():
    folds = given(corpus(fold="2 10 1 2 10 1"))
    assert [[speakers(part) for _, part in fold.parts()] for fold in folds] == [
        ["be", "ad", "cf"],  # train 10, dev 2, test 1
        ["cf", "be", "ad"],
        ["ad", "cf", "be"],
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "no column `split` .train, dev, test. or `fold`"),
        ({"split": "train " * 6, "fold": "1 " * 6}, "both columns `split` and `fold`"),
        (
            {"split": "train train dev dev eval eval"},
            "says 'eval' for .*; write one of train, training, dev",
        ),
        ({"split": "train train train train test test"}, "names no utterance for dev"),
        (
            {"split": "train train dev dev test nan"},
            "2 of 12 utterances have no `split`.* first is f",
        ),
        ({"fold": "1 1 1 2 2 2"}, "at least 3 values .* names 1, 2: .* column `split`"),
        ({"fold": "1 1.0 2 2 3 3"}, "says '1' and '1.0'"),
    ],
)
def test_columns_that_give_no_folds_are_refused(columns, words):
    with pytest.raises(InputError, match=words):
        given(corpus(**columns))


def test_the_digest_is_of_the_assignment_and_not_of_its_words():
    first = corpus(split="train train dev dev test test")
    other = corpus(split="training train valid val TEST testing")
    assert given_digest(first) == given_digest(other[::-1])
    assert given_digest(first) != given_digest(corpus(split="train train dev test dev test"))
    assert given_digest(first) != given_digest(corpus(fold="1 1 2 2 3 3"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("given")
    for seed, one in enumerate(corpus(), start=7000):
        soundfile.write(root / one.path, speech(seed, 0.3), RATE)
    return root


def config_of(clips: Path, rows: list[Utterance], split: str = "given", **more: object) -> Config:
    """Write a manifest and return a config that reads it."""
    header = ("path", "label", "speaker", "text", "split", "fold")
    with (clips / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for one in rows:
            writer.writerow([one.path, one.label, one.speaker, one.text_id, one.split, one.fold])
    values = {"name": "manifest", "root": str(clips), "manifest": str(clips / "list.csv")}
    values |= {"labels": "all", "expect_published_counts": None}
    run = {"device": "cpu", "workers": 0, "store": str(clips / "store"), "folds": [1]}
    folds = {"n_folds": 3} if split == "speaker-k-fold" else {}
    protocol = {"split": split, **folds, **more}
    return Config(**RECIPE | {"corpus": values, "protocol": protocol, "run": run})


PARTS = "train train dev dev test test"


def test_one_given_split_is_certified_and_says_where_it_comes_from(clips):
    config = config_of(clips, corpus(split=PARTS))
    plan = make_plan(config)
    digest = given_digest(plan.utterances)
    assert plan.certificate["protocol"] == f"manifest2/given-{digest}/dev-given/all"
    checks = plan.certificate["checks"]
    assert checks["folds"] == "given by the manifest's column split"
    assert checks["tested exactly once"] == "not applicable: there is one test split"
    assert checks["speaker"] == checks["recording"] == "passed"
    assert not any("not used" in line for line in plan_warnings(plan))
    tuning = make_tuning_plan(config)
    assert tuning.certificate["protocol"] == plan.certificate["protocol"]
    assert speakers(tuning.splits[0].train) == "ab" and not tuning.splits[0].test


def test_given_folds_are_certified_and_tested_once(clips):
    plan = make_plan(config_of(clips, corpus(fold="2 10 1 2 10 1")))
    assert plan.certificate["checks"]["folds"].endswith("column fold, in this order: 1, 2, 10")
    assert plan.certificate["checks"]["tested exactly once"] == "passed"
    tested = [fold["test"]["speakers"] for fold in plan.certificate["folds"]]
    assert tested == [["c", "f"], ["a", "d"], ["b", "e"]]


def test_a_given_split_that_shares_a_speaker_leaks(clips):
    rows = corpus(split=PARTS)
    rows[0] = replace(rows[0], split="test")
    with pytest.raises(InputError, match="fold 1: speaker a is in train .* and in test"):
        make_plan(config_of(clips, rows))


def test_a_given_split_is_crossed_with_texts_and_keeps_those_that_are_never_tested(clips):
    rows = [
        replace(one, text_id="only trained" if one.speaker in "ab" else f"text {one.speaker}")
        for one in corpus(split=PARTS)
    ]
    plan = make_plan(config_of(clips, rows, text_groups=2))
    assert [speakers(split.test) for split in plan.splits] == ["e", "f"]
    assert all(speakers(split.train) == "ab" for split in plan.splits)


def test_copies_within_the_training_part_of_a_given_split_are_listed(clips, tmp_path):
    rows = corpus(split=PARTS)
    soundfile.write(tmp_path / "awe.wav", speech(9000, 1.3), RATE)
    soundfile.write(tmp_path / "joy.wav", 0.5 * speech(9000, 1.3), RATE)
    rows[0] = replace(rows[0], path=tmp_path / "joy.wav")
    rows[1] = replace(rows[1], path=tmp_path / "awe.wav")
    config = config_of(clips, rows)
    corpus_ = config.corpus.model_copy(update={"absolute_paths": True})
    plan = make_plan(config.model_copy(update={"corpus": corpus_}))
    assert plan.certificate["near_identical"]["pairs"] == 1


@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_column_that_is_not_asked_for_is_said(clips, column):
    plan = make_plan(config_of(clips, corpus(**{column: PARTS}), "speaker-k-fold"))
    (line,) = [line for line in plan_warnings(plan) if "not used" in line]
    assert line.startswith(f"the column `{column}` is not used: protocol.split is speaker")
    assert "protocol.split=given" in line


def test_given_without_a_column_is_refused_before_audio_is_read(clips, monkeypatch):
    config = config_of(clips, corpus())
    monkeypatch.setattr("corpora.plan.index_audio", None)
    with pytest.raises(InputError, match="this corpus has no column `split`"):
        make_plan(config)


def test_speakers_of_one_utterance_each_are_said_and_certified(clips):
    rows = [replace(one, speaker=one.id) for one in corpus()]
    plan = make_plan(config_of(clips, rows, "speaker-k-fold"))
    assert any(line.startswith("12 of 12 utterances are the only") for line in plan_warnings(plan))
    assert "12 utterances are the only one" in plan.certificate["checks"]["speaker"]


@pytest.mark.parametrize(
    "words", ["train train dev dev test tset", "train train dev dev test test"]
)
def test_a_column_fold_that_holds_parts_is_refused(words):
    with pytest.raises(InputError, match="says 'dev', which is a part, not a fold: call the col"):
        given(corpus(fold=words))
