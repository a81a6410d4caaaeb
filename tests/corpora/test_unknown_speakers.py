"""Corpora whose speakers nobody knows: refused, or stamped wherever their scores are shown."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from config.schema import Config
from corpora.audit import audit
from corpora.audit_members import Members
from corpora.partial_plan import make_partial_plan
from corpora.partition import read_partition
from corpora.plan import make_plan, make_tuning_plan, plan_warnings
from corpora.stamps import STAMP_UNKNOWN, stamps
from corpora.survey import survey_corpus
from corpora.utterance import NO_SPEAKER
from evaluation.wording import count_speakers
from reports.explore_tables import headline
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, speech
from tests.conftest import RECIPE

RANDOM = {"split": "random-utterance", "n_folds": 3, "allow_speaker_overlap": True}


def config_of(root: Path, protocol: dict | None = None, train: dict | None = None, **corpus):
    """Write 6 speakers x 2 classes, a clip each, and return a config of the folder."""
    for n, who in enumerate("abcdef"):
        for m, label in enumerate(("joy", "awe")):
            path = root / "clips" / who / label / "1.wav"
            if corpus.get("layout") is None:
                part = ("train", "dev", "test")[n % 3]
                path = root / "clips" / part / label / f"{who}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, speech(100 * n + m, 0.3), RATE)
    values = {"name": "folder", "root": str(root / "clips"), "labels": "all"} | corpus
    protocol = protocol or {"split": "speaker-k-fold", "n_folds": 3}
    run = {"device": "cpu", "workers": 0, "store": str(root / "store")}
    parts = {"corpus": values, "protocol": protocol, "run": run}
    return Config(**RECIPE | parts | {"train": RECIPE["train"] | (train or {})})


@pytest.mark.parametrize(
    "protocol",
    [
        {"split": "speaker-k-fold", "n_folds": 3},
        {"split": "leave-one-speaker-out"},
        {"split": "leave-one-session-out"},
        {"split": "given"},
        {"split": "random-utterance", "n_folds": 3},
    ],
)
def test_no_protocol_pretends_to_keep_unknown_speakers_apart(tmp_path, protocol):
    with pytest.raises(InputError) as refused:
        make_plan(config_of(tmp_path, protocol))
    said = str(refused.value)
    assert f"nobody can show that protocol.split={protocol['split']} tests speakers" in said
    assert "corpus.layout={speaker}/{label}/*.wav" in said
    assert "protocol.allow_speaker_overlap=true" in said


@pytest.mark.parametrize(
    ("protocol", "scheme"),
    [(RANDOM, "random-utterance-3-fold"), ({"split": "given", "allow_speaker_overlap": True}, "g")],
)
def test_the_stamped_protocols_are_open(tmp_path, protocol, scheme):
    plan = make_plan(config_of(tmp_path, protocol))
    certificate = plan.certificate
    assert certificate["protocol"].split("/")[1].startswith(scheme)
    assert "-SPEAKER-DEPENDENT-SPEAKERS-UNKNOWN/dev-" in certificate["protocol"]
    assert certificate["speaker_dependent"] is True
    assert certificate["checks"]["speaker"] == "not checked: nobody knows the speakers"
    assert {u.speaker for u in plan.utterances} == {NO_SPEAKER}
    assert plan_warnings(plan)[0] == STAMP_UNKNOWN
    assert stamps(certificate["protocol"], True) == [STAMP_UNKNOWN]
    assert count_speakers(1, certificate["protocol"]) == "unknown speakers"


def test_identical_recordings_are_refused_all_the_same(tmp_path):
    config = config_of(tmp_path, {"split": "given", "allow_speaker_overlap": True})
    clips = tmp_path / "clips"
    (clips / "test/joy/c.wav").write_bytes((clips / "train/joy/a.wav").read_bytes())
    with pytest.raises(InputError, match="recording .* is in train .* and in test"):
        make_plan(config)


def test_a_fold_is_tuned_without_its_test_audio(tmp_path):
    config = config_of(tmp_path, {"split": "given", "allow_speaker_overlap": True})
    config = config.model_copy(update={"run": config.run.model_copy(update={"folds": [1]})})
    plan = make_tuning_plan(config)
    assert len(plan.splits[0].train) == 4 and "SPEAKERS-UNKNOWN" in plan.certificate["protocol"]


def test_folds_of_others_are_open_under_the_same_stamp(tmp_path):
    config = config_of(tmp_path, {"split": "given", "allow_speaker_overlap": True})
    rows = [f"{u.id},{n % 3}\n" for n, u in enumerate(make_plan(config).utterances)]
    (tmp_path / "folds.csv").write_text("".join(["utterance,fold\n", *sorted(rows)]))
    protocol = {"split": "given", "folds": str(tmp_path / "folds.csv"), "dev": "random"}
    with pytest.raises(InputError, match="nobody can show"):
        make_plan(config_of(tmp_path, protocol))
    plan = make_plan(config_of(tmp_path, protocol | {"allow_speaker_overlap": True}))
    assert "-SPEAKER-DEPENDENT-SPEAKERS-UNKNOWN" in plan.certificate["protocol"]


def test_statistics_of_speakers_need_speakers(tmp_path):
    with pytest.raises(InputError, match="train.normalize=speaker needs speakers"):
        make_plan(config_of(tmp_path, RANDOM, {"normalize": "speaker"}))


def test_some_known_speakers_are_not_enough(tmp_path):
    config = config_of(tmp_path, RANDOM)
    clip = tmp_path / "clips/train/joy/a.wav"
    clip.rename(clip.with_name("Ses01F_impro01_F000.wav"))  # a published name that tells one
    with pytest.raises(InputError, match="speakers of 11 utterances are unknown.* of 1 are known"):
        make_plan(config)


def test_a_pattern_with_speakers_is_kept_apart_as_ever(tmp_path):
    plan = make_plan(config_of(tmp_path, layout="{speaker}/{label}/*"))
    assert plan.certificate["protocol"] == "folder2/speaker-3-fold/dev-fold/all"
    assert plan.certificate["checks"]["speaker"] == "passed"


def test_the_overlap_key_has_no_effect_on_given_folds_of_known_speakers(tmp_path):
    protocol = {"split": "given", "allow_speaker_overlap": True}
    root, layout = tmp_path / "clips", "{split}/{label}/{speaker}.wav"
    config = config_of(tmp_path, protocol)
    corpus = config.corpus.model_copy(update={"layout": layout})
    assert root.is_dir()
    with pytest.raises(InputError, match="allow_speaker_overlap has no effect on given"):
        make_plan(config.model_copy(update={"corpus": corpus}))


def test_an_audit_does_not_compare_speakers_that_nobody_knows(tmp_path):
    plan = make_plan(config_of(tmp_path, RANDOM))
    (tmp_path / "s.csv").write_text("utterance,split\na,train\nb,test\n")
    partition = read_partition([tmp_path / "s.csv"])
    split = plan.splits[0]
    found = audit(partition, "folder", [Members("1", tuple(split.parts()))], [])
    checks = {check.name: check for check in found.checks}
    assert checks["speaker"].result == "not made: no speakers are known" and found.clean
    known = [(name, tuple(replace(u, speaker="x") for u in part)) for name, part in split.parts()]
    assert not audit(partition, "folder", [Members("1", tuple(known))], []).clean


def test_a_first_look_says_what_would_stop_a_run(tmp_path):
    config = config_of(tmp_path)
    (refusal,) = make_partial_plan(config)[1]
    assert "nobody can show that protocol.split=speaker-k-fold" in refusal
    assert headline(survey_corpus(config)).split(", ")[2] == "unknown speakers"
