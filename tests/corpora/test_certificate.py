"""Label sets against the published counts, splits by property, and planted leaks."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora.certificate import certify, protocol_id
from corpora.labels import LABEL_SETS, label_set, select_labels
from corpora.readers import Utterance, read_corpus, select_subset
from corpora.splits import DEV_OF_SPLIT, Split, get_fold, make_splits
from system.errors import InputError
from tests.support.paths import ROOT

RAVDESS = Path(os.environ.get("MAXMVIT_RAVDESS") or ROOT.parent / "shared" / "data" / "ravdess")

IEMOCAP_LABELS = "ang hap exc sad neu fru sur fea dis oth xxx".split()
# Label counts a speaker, and a portion, over the whole corpus; labels as above.
IEMOCAP_COUNTS = {
    "Ses01_F": (147, 69, 63, 78, 171, 107, 15, 5, 0, 0, 218),
    "Ses01_M": (82, 66, 80, 116, 213, 173, 10, 7, 1, 1, 197),
    "Ses02_F": (67, 70, 96, 113, 135, 165, 8, 5, 0, 1, 199),
    "Ses02_M": (70, 47, 114, 84, 227, 160, 9, 4, 0, 0, 237),
    "Ses03_F": (92, 80, 48, 172, 130, 199, 15, 2, 0, 0, 310),
    "Ses03_M": (148, 55, 103, 133, 190, 183, 13, 0, 1, 0, 262),
    "Ses04_F": (205, 31, 154, 62, 76, 188, 11, 2, 0, 0, 258),
    "Ses04_M": (122, 34, 84, 81, 182, 293, 8, 5, 0, 1, 306),
    "Ses05_F": (78, 77, 82, 132, 221, 161, 7, 8, 0, 0, 267),
    "Ses05_M": (92, 66, 217, 113, 163, 220, 11, 2, 0, 0, 253),
}
IMPROVISED = (289, 284, 663, 608, 1099, 971, 60, 8, 1, 1, 800)
TEST_SIZES = {"Session1": 1085, "Session2": 1023, "Session3": 1151, "Session4": 1031}


def clip(name: str, label: str, speaker: str, **more: str | None) -> Utterance:
    return Utterance(name, Path(f"{name}.wav"), label, speaker, **more)


def distinct(utterances) -> dict[Path, str]:
    """Hashes as of a corpus in which no two recordings are equal."""
    return {one.path: f"hash of {one.path}" for one in utterances}


@pytest.fixture(scope="module")
def iemocap() -> list[Utterance]:
    """Make a list of utterances that has the published number of each label."""
    improvised_left = dict(zip(IEMOCAP_LABELS, IMPROVISED, strict=True))
    found: list[Utterance] = []
    for speaker, counts in IEMOCAP_COUNTS.items():
        for label, count in zip(IEMOCAP_LABELS, counts, strict=True):
            for _ in range(count):
                improvised_left[label] -= 1
                portion = "improvised" if improvised_left[label] >= 0 else "scripted"
                facts = {"session": f"Session{speaker[4]}", "gender": speaker[-1]}
                found.append(
                    clip(f"{speaker}_{len(found):05d}", label, speaker, portion=portion, **facts)
                )
    return found


def test_iemocap_has_its_published_size(iemocap):
    assert len(iemocap) == 10039


@pytest.mark.parametrize(
    ("name", "subset", "total"),
    [
        ("iemocap4-exc", "all", 5531),
        ("iemocap4", "all", 4490),
        ("iemocap4-exc", "improvised", 2943),
        ("iemocap4", "improvised", 2280),
        ("iemocap4-exc", "scripted", 2588),
        ("iemocap4", "scripted", 2210),
    ],
)
def test_iemocap_label_sets_have_the_published_counts(iemocap, name, subset, total):
    kept = select_labels(iemocap, label_set("iemocap", name, iemocap), subset, True)
    assert len(kept) == total
    assert {one.label for one in kept} == {"neutral", "happy", "angry", "sad"}


def test_peer_04_excited_is_counted_and_its_absence_has_another_name(iemocap):
    merged = label_set("iemocap", "iemocap4-exc", iemocap)
    without = label_set("iemocap", "iemocap4", iemocap)
    assert merged.classes_of["exc"] == "happy"
    assert without.classes_of["exc"] is None
    ids = {
        protocol_id(labels.name, "leave-one-session-out", None, "all", None)
        for labels in (merged, without)
    }
    assert len(ids) == 2
    with pytest.raises(InputError) as error:
        unexcited = [one for one in iemocap if one.label != "exc"]
        select_labels(unexcited, merged, "all", True)
    lines = [line.split() for line in str(error.value).splitlines()]
    assert ["class", "published", "found"] in lines
    assert ["happy", "1636", "595"] in lines
    assert ["total", "5531", "4490"] in lines
    assert "corpus.expect_published_counts=false" in str(error.value)
    assert len(select_labels(unexcited, merged, "all", False)) == 4490


def test_a_label_outside_the_set_is_named(iemocap):
    labels = label_set("iemocap", "iemocap4", iemocap)
    strange = [*iemocap, clip("Ses01F_x", "hapy", "Ses01_F")]
    with pytest.raises(InputError, match="Ses01F_x is labelled 'hapy'.*did you mean 'hap'"):
        select_labels(strange, labels, "all", False)


def test_label_sets_know_their_published_totals_and_a_fixed_order():
    totals = {
        labels.name: sum(labels.published["all"].values())
        for sets in LABEL_SETS.values()
        for labels in sets
        if labels.published
    }
    assert totals == {
        "iemocap4-exc": 5531,
        "iemocap4": 4490,
        "esd5": 35000,
        "ravdess8": 1440,
        "emodb7": 535,
        "cremad6": 7442,
        "savee7": 480,
        "tess7": 2800,
        "emovo7": 588,
        "nemo6": 4481,
        "aesdd5": 604,
        "urdu4": 400,
        "meld7": 13708,
    }
    for sets in LABEL_SETS.values():
        for labels in sets:
            assert labels.classes[0] == "neutral" or labels.name == "aesdd5"
            assert set(labels.classes) == set(labels.classes_of.values()) - {None}
            assert all(tuple(counts) == labels.classes for counts in labels.published.values())


def test_label_set_errors():
    with pytest.raises(InputError, match="did you mean 'iemocap4'. Allowed: iemocap4, iemocap4-ex"):
        label_set("iemocap", "iemocap5", [])
    with pytest.raises(InputError, match="is not a label set of esd; Allowed: esd5"):
        label_set("esd", ["Happy", "Sad"], [])


def test_manifest_labels():
    found = [clip(str(n), label, "s") for n, label in enumerate(["joy", "fear", "rage", "joy"])]
    every = label_set("manifest", "all", found)
    assert every.classes == ("fear", "joy", "rage")
    some = label_set("manifest", ["rage", "joy"], found)
    assert some.classes == ("rage", "joy")
    assert some.name != every.name
    assert [one.label for one in select_labels(found, some, "all", True)] == ["joy", "rage", "joy"]
    with pytest.raises(InputError, match="'jo' does not occur .* did you mean 'joy'"):
        label_set("manifest", ["jo", "rage"], found)
    with pytest.raises(InputError, match="two different classes"):
        label_set("manifest", ["joy", "joy"], found)
    with pytest.raises(InputError, match="must be all, or a list such as .fear, joy, rage."):
        label_set("manifest", "iemocap4", found)


def test_a_class_without_a_clip_is_an_error(iemocap):
    labels = label_set("iemocap", "iemocap4", iemocap)
    with pytest.raises(InputError, match="no utterance of sad"):
        select_labels([one for one in iemocap if one.label != "sad"], labels, "all", False)


def corpus_of(n_sessions: int = 5, per_session: int = 2, clips: int = 4) -> list[Utterance]:
    """Make speakers in sessions, F and M in turn, each with every class."""
    return [
        clip(
            f"s{session}{who}-{n}",
            ("joy", "rage")[n % 2],
            f"s{session}{who}",
            session=f"session{session}",
            gender="FM"[who % 2],
            text_id=str(n),
        )
        for session in range(1, n_sessions + 1)
        for who in range(per_session)
        for n in range(clips)
    ]


def split_up(utterances, split, dev=None, n_folds=None, hashes=None, allow=False) -> list[Split]:
    hashes = distinct(utterances) if hashes is None else hashes
    return make_splits(utterances, split, dev, n_folds, hashes, allow)


def certified(utterances, split, dev=None, n_folds=None, hashes=None) -> dict:
    hashes = distinct(utterances) if hashes is None else hashes
    dependent = split == "random-utterance"
    splits = make_splits(utterances, split, dev, n_folds, hashes, dependent)
    return certify(splits, hashes, protocol_id("x", split, dev, "all", n_folds), dependent)


@st.composite
def corpora(draw) -> list[Utterance]:
    """Draw speakers of any gender, some in sessions, each with some clips of both classes."""
    n_speakers = draw(st.integers(min_value=6, max_value=14))
    in_sessions = draw(st.booleans())
    genders = draw(st.lists(st.sampled_from(["F", "M", None]), min_size=20, max_size=20))
    clips = draw(st.integers(min_value=2, max_value=5))
    found = []
    for who in range(n_speakers):
        session = min(who, n_speakers - 2) // 2  # an odd one out joins the last pair
        for n in range(clips):
            found.append(
                clip(
                    f"speaker{who:02d}-{n}",
                    ("joy", "rage")[n % 2],
                    f"speaker{who:02d}",
                    session=f"session{session}" if in_sessions else None,
                    gender=genders[who],
                )
            )
    return found


@settings(max_examples=60, deadline=None)
@given(utterances=corpora(), n_folds=st.integers(min_value=3, max_value=6), data=st.data())
def test_every_protocol_tests_each_utterance_once_and_keeps_speakers_apart(
    utterances, n_folds, data
):
    has_sessions = utterances[0].session is not None
    split = data.draw(st.sampled_from(sorted(set(DEV_OF_SPLIT) - {"cross-corpus"})))
    if split == "given":  # folds of the speakers
        speakers = sorted({one.speaker for one in utterances})
        utterances = [replace(one, fold=str(speakers.index(one.speaker) % 3)) for one in utterances]
    if split == "leave-one-session-out" and not has_sessions:
        return
    dev = data.draw(st.sampled_from([None, *DEV_OF_SPLIT[split]]))
    takes_folds = split in ("speaker-k-fold", "random-utterance")
    dependent = split == "random-utterance"
    splits = split_up(utterances, split, dev, n_folds if takes_folds else None, allow=dependent)

    assert [one.fold for one in splits] == list(range(1, len(splits) + 1))
    tested = Counter(one.id for fold in splits for one in fold.test)
    assert tested == Counter(one.id for one in utterances)
    for fold in splits:
        everyone = sorted(one.id for _, part in fold.parts() for one in part)
        assert everyone == sorted(one.id for one in utterances)
        assert fold.train and fold.dev and fold.test
        speakers = [{one.speaker for one in part} for _, part in fold.parts()]
        if not dependent:
            assert sum(map(len, speakers)) == len(set.union(*speakers))
        if has_sessions and split.startswith("leave-one"):
            train, dev_sessions, test = ({one.session for one in part} for _, part in fold.parts())
            assert train.isdisjoint(dev_sessions | test)
            assert dev_sessions.isdisjoint(test) == (split == "leave-one-session-out")


@settings(max_examples=60, deadline=None)
@given(utterances=corpora(), n_folds=st.integers(min_value=3, max_value=6))
def test_speaker_groups_differ_by_one_speaker_at_most(utterances, n_folds):
    folds = split_up(utterances, "speaker-k-fold", n_folds=n_folds)
    sizes = [len({one.speaker for one in fold.test}) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for gender in ("F", "M"):
        counts = [len({u.speaker for u in fold.test if u.gender == gender}) for fold in folds]
        assert max(counts) - min(counts) <= 1


def test_leave_one_session_out_rotates(iemocap):
    kept = select_labels(iemocap, label_set("iemocap", "iemocap4-exc", iemocap), "all", True)
    folds = split_up(kept, "leave-one-session-out")
    for fold, (session, size) in zip(folds, TEST_SIZES.items(), strict=False):
        assert {one.session for one in fold.test} == {session}
        assert len(fold.test) == size
        assert {one.session for one in fold.dev} == {f"Session{fold.fold % 5 + 1}"}
        assert len({one.session for one in fold.train}) == 3
    assert {one.session for one in get_fold(folds, 5).dev} == {"Session1"}


def test_leave_one_speaker_out_selects_on_the_partner():
    folds = split_up(corpus_of(), "leave-one-speaker-out")
    assert len(folds) == 10
    assert {one.speaker for one in folds[0].test} == {"s10"}
    assert {one.speaker for one in folds[0].dev} == {"s11"}
    assert {one.speaker for one in folds[1].dev} == {"s10"}
    assert "session1" not in {one.session for one in folds[0].train}


def test_leave_one_speaker_out_without_sessions_selects_on_the_next():
    folds = split_up([replace(one, session=None) for one in corpus_of()], "leave-one-speaker-out")
    assert {one.speaker for one in folds[1].dev} == {"s20"}
    assert {one.speaker for one in folds[-1].dev} == {"s10"}
    assert len({one.speaker for one in folds[0].train}) == 8


def ravdess_like() -> list[Utterance]:
    return [
        clip(f"{actor:02d}-{n}", "ab"[n], f"{actor:02d}", gender="FM"[actor % 2])
        for actor in range(1, 25)
        for n in range(2)
    ]


def test_speaker_six_fold_of_ravdess_holds_four_actors_in_order():
    folds = split_up(ravdess_like(), "speaker-k-fold", n_folds=6)
    assert sorted({one.speaker for one in folds[0].test}) == ["01", "02", "03", "04"]
    assert sorted({one.speaker for one in folds[0].dev}) == ["05", "06", "07", "08"]
    assert sorted({one.speaker for one in folds[5].dev}) == ["01", "02", "03", "04"]


def test_speaker_k_fold_with_one_dev_speaker_of_each_gender():
    folds = split_up(ravdess_like(), "speaker-k-fold", dev="speakers", n_folds=6)
    assert sorted({one.speaker for one in folds[0].dev}) == ["05", "06"]
    assert len({one.speaker for one in folds[0].train}) == 18
    assert sorted({one.speaker for one in folds[5].dev}) == ["01", "02"]


def test_random_utterance_is_stratified_fixed_and_keeps_equal_recordings_together():
    utterances = [clip(f"{label}{n:03d}", label, f"s{n % 4}") for label in "ab" for n in range(40)]
    hashes = distinct(utterances)
    twin = hashes[Path("a001.wav")]
    hashes[Path("a000.wav")] = hashes[Path("b000.wav")] = twin
    folds = split_up(utterances, "random-utterance", n_folds=5, hashes=hashes, allow=True)
    for fold in folds:
        counts = Counter(one.label for one in fold.test)
        assert abs(counts["a"] - 8) <= 2 and abs(counts["b"] - 8) <= 2
        for _, part in fold.parts():
            assert len({"a000", "a001", "b000"} & {one.id for one in part}) in (0, 3)
    backwards = utterances[::-1]
    assert folds == split_up(backwards, "random-utterance", None, 5, hashes, allow=True)


def test_random_utterance_draws_the_same_share_of_each_class():
    utterances = [clip(f"{label}{n:03d}", label, f"s{n % 4}") for label in "ab" for n in range(40)]
    folds = split_up(utterances, "random-utterance", n_folds=5, allow=True)
    for fold in folds:
        assert Counter(one.label for one in fold.test) == {"a": 8, "b": 8}
    first = [int(one.id[1:]) for one in folds[0].test if one.label == "a"]
    assert len({n % 5 for n in first}) > 1 and max(first) - min(first) > 8


def test_peer_01_random_split_is_refused_by_default_and_named_where_it_is_allowed():
    with pytest.raises(InputError, match="same speakers .*protocol.allow_speaker_overlap=true"):
        split_up(corpus_of(), "random-utterance", n_folds=5)
    name = protocol_id("esd5", "random-utterance", None, "all", 5)
    assert name == "esd5/random-utterance-5-fold-SPEAKER-DEPENDENT/dev-random/all"
    certificate = certified(corpus_of(), "random-utterance", n_folds=5)
    assert certificate["speaker_dependent"]
    assert certificate["checks"]["speaker"] == "not checked: SPEAKER-DEPENDENT"
    folds = split_up(corpus_of(), "random-utterance", n_folds=5, allow=True)
    with pytest.raises(InputError, match="speaker s.* is in train"):
        certify(folds, distinct(corpus_of()), "x/speaker-5-fold/dev-fold/all", False)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"split": "leave-one-sesion-out"}, "did you mean 'leave-one-session-out'"),
        ({"split": "leave-one-session-out", "dev": "fold"}, "does not go with .* Allowed: session"),
        ({"split": "leave-one-session-out", "n_folds": 5}, "n_folds=5 has no effect on"),
        ({"split": "speaker-k-fold"}, "needs protocol.n_folds of at least 3 .* got None"),
        ({"split": "speaker-k-fold", "n_folds": 2}, "at least 3 .* got 2"),
        ({"split": "speaker-k-fold", "n_folds": 11}, "at least 11 speakers, .* there are 10"),
        ({"split": "speaker-k-fold", "n_folds": 5, "allow": True}, "has no effect on speaker-k"),
        ({"split": "random-utterance", "n_folds": 50, "allow": True}, "at least 50 different rec"),
    ],
)
def test_settings_that_do_not_go_together(settings, reason):
    with pytest.raises(InputError, match=reason):
        split_up(corpus_of(), **settings)


def test_corpora_that_lack_what_the_split_needs():
    utterances = corpus_of()
    without = [replace(one, session=None) for one in utterances]
    with pytest.raises(InputError, match="needs sessions and this corpus has none"):
        split_up(without, "leave-one-session-out")
    with pytest.raises(InputError, match="1 of 40 utterances have no session, the first is s10-0"):
        split_up([without[0], *utterances[1:]], "leave-one-session-out")
    with pytest.raises(InputError, match="at least 3 sessions, .* there are 2: session1, session2"):
        split_up(corpus_of(n_sessions=2), "leave-one-session-out")
    with pytest.raises(InputError, match="at least 3 speakers"):
        split_up(corpus_of(n_sessions=1), "leave-one-speaker-out")
    with pytest.raises(InputError, match="at least 2 sessions"):
        split_up(corpus_of(n_sessions=1, per_session=4), "leave-one-speaker-out")
    with pytest.raises(InputError, match="s10 is alone in session1"):
        split_up(corpus_of(per_session=1), "leave-one-speaker-out")
    moved = [replace(utterances[0], session="session2"), *utterances[1:]]
    with pytest.raises(InputError, match="s10 is in more than session1"):
        split_up(moved, "leave-one-speaker-out")
    both = [replace(utterances[0], gender="M"), *utterances[1:]]
    with pytest.raises(InputError, match="s10 has two genders"):
        split_up(both, "speaker-k-fold", n_folds=5)


def test_a_class_missing_from_training_is_named():
    utterances = [
        replace(one, label="awe") if one.speaker in ("s10", "s20") and one.text_id == "0" else one
        for one in corpus_of()
    ]
    with pytest.raises(InputError, match="fold 1 would train without awe"):
        split_up(utterances, "leave-one-session-out")


def test_get_fold():
    folds = split_up(corpus_of(), "leave-one-session-out")
    assert get_fold(folds, 5).fold == 5
    for wrong in (0, 9):
        with pytest.raises(InputError, match=rf"fold must be in 1\.\.5, got {wrong}"):
            get_fold(folds, wrong)


LOSO = "x/leave-one-session-out/dev-session/all"


def digest_of(recordings) -> str:
    """Sha256 of a sorted JSON list, as a reader of a certificate would check it."""
    return hashlib.sha256(
        json.dumps(sorted(recordings), separators=(",", ":")).encode()
    ).hexdigest()


def leak(into: str, planted: Utterance) -> tuple[list[Split], dict[Path, str]]:
    """Put one more clip into a part of fold 1 of a sound split."""
    utterances = corpus_of()
    folds = split_up(utterances, "leave-one-session-out")
    parts = {name: part + (planted,) * (name == into) for name, part in folds[0].parts()}
    fold = Split(1, **parts)
    return [fold, *folds[1:]], distinct([*utterances, planted])


@pytest.mark.parametrize("into", ["train", "dev"])
def test_peer_06_a_fold_list_that_shares_a_speaker_is_refused(into):
    planted = clip("planted", "joy", "s10", session="session9")
    with pytest.raises(
        InputError, match=rf"fold 1: speaker s10 is in {into} \(planted\) and in te"
    ):
        certify(*leak(into, planted), LOSO, False)


def test_a_shared_session_is_refused():
    planted = clip("planted", "joy", "someone new", session="session1")
    with pytest.raises(InputError, match=r"session session1 is in train \(planted\) and in test"):
        certify(*leak("train", planted), LOSO, False)
    with pytest.raises(InputError, match=r"session session1 is in dev \(planted\) and in test"):
        certify(*leak("dev", planted), LOSO, False)


def test_leave_one_speaker_out_shares_a_session_between_dev_and_test_only():
    certificate = certified(corpus_of(), "leave-one-speaker-out")
    assert certificate["checks"]["session"] == "passed; dev and test may share one"
    folds = split_up(corpus_of(), "leave-one-speaker-out")
    planted = clip("planted", "joy", "someone new", session="session1")
    folds[0] = replace(folds[0], train=(*folds[0].train, planted))
    with pytest.raises(InputError, match=r"session session1 is in train \(planted\)"):
        certify(
            folds,
            distinct([*corpus_of(), planted]),
            "x/leave-one-speaker-out/dev-speaker/all",
            False,
        )


@pytest.mark.parametrize("dependent", [False, True])
def test_an_identical_recording_in_two_parts_is_refused(dependent):
    utterances = corpus_of()
    split = "random-utterance" if dependent else "leave-one-session-out"
    n_folds = 5 if dependent else None
    folds = split_up(utterances, split, n_folds=n_folds, allow=dependent)
    hashes = distinct(utterances)
    hashes[folds[0].train[0].path] = hashes[folds[0].test[0].path]
    with pytest.raises(InputError, match="fold 1: recording hash of .* is in train .* and in test"):
        certify(folds, hashes, protocol_id("x", split, None, "all", n_folds), dependent)


def test_an_utterance_tested_twice_or_never_is_refused():
    folds = split_up(corpus_of(), "leave-one-session-out")
    hashes = distinct(corpus_of())
    with pytest.raises(InputError, match="is tested 2 times"):
        certify([*folds, replace(folds[0], fold=6)], hashes, LOSO, False)
    with pytest.raises(InputError, match="s10-0 is tested 0 times(.|\n)*and 3 more of this kind"):
        certify(folds[1:], hashes, LOSO, False)


def test_the_name_and_the_flag_agree():
    folds = split_up(corpus_of(), "leave-one-session-out")
    with pytest.raises(ValueError, match="speaker_dependent=True"):
        certify(folds, distinct(corpus_of()), LOSO, True)
    with pytest.raises(ValueError, match=r"no audio hash for s\d0-0\.wav"):
        certify(folds, {}, LOSO, False)


def test_certificate_counts_and_is_reproducible():
    utterances = [replace(one, path=Path("/somewhere") / one.path) for one in corpus_of()]
    utterances[2] = replace(utterances[2], label="awe")
    utterances[20] = replace(utterances[20], label="awe", session="session3")
    hashes = {one.path: one.id for one in utterances}
    hashes[utterances[1].path] = hashes[utterances[2].path] = "rage and awe"
    hashes[utterances[5].path] = hashes[utterances[7].path] = "rage twice"
    certificate = certified(utterances, "leave-one-session-out", hashes=hashes)
    fold = certificate["folds"][0]
    assert certificate["checks"] == {
        "tested exactly once": "passed",
        "recording": "passed",
        "near-identical": "passed",
        "text": "counted, not refused: see each fold",
        "speaker": "passed",
        "session": "passed",
    }
    assert certificate["utterances"] == 40
    assert certificate["identical_recordings"] == {
        "recordings": 2,
        "utterances": 4,
        "recordings_with_different_classes": 1,
    }
    assert fold["test"] == {
        "utterances": 8,
        "classes": {"awe": 1, "joy": 3, "rage": 4},
        "missing_classes": [],
        "speakers": ["s10", "s11"],
        "sessions": ["session1"],
        "recordings": digest_of(hashes[one.path] for one in utterances if "s1" in one.id),
    }
    assert fold["dev"]["missing_classes"] == ["awe"]
    assert fold["text_in_train_and_test"] == {"texts": 4, "test_utterances": 8}
    assert "/somewhere" not in json.dumps(certificate)

    moved = [replace(one, path=Path("/elsewhere") / one.path.name) for one in utterances[::-1]]
    moved_hashes = {one.path: hashes[Path("/somewhere") / one.path.name] for one in moved}
    assert certified(moved, "leave-one-session-out", hashes=moved_hashes) == certificate
    other_audio = certified(
        utterances, "leave-one-session-out", hashes=hashes | {utterances[0].path: "other audio"}
    )
    assert len(other_audio["id"]) == 10 and other_audio["id"] != certificate["id"]


def test_certificate_without_sessions():
    certificate = certified(ravdess_like(), "speaker-k-fold", n_folds=6)
    assert certificate["checks"]["session"] == "not applicable: the corpus has no sessions"
    assert certificate["protocol"] == "x/speaker-6-fold/dev-fold/all"


@pytest.mark.skipif(not RAVDESS.is_dir(), reason=f"no RAVDESS in {RAVDESS}; set MAXMVIT_RAVDESS")
def test_ravdess_six_folds_are_certified():
    found = read_corpus("ravdess", RAVDESS)
    kept = select_labels(found, label_set("ravdess", "ravdess8", found), "all", True)
    assert select_subset(kept, "all") == kept
    certificate = certified(kept, "speaker-k-fold", n_folds=6)
    assert [fold["test"]["utterances"] for fold in certificate["folds"]] == [240] * 6
    assert certificate["folds"][0]["test"]["speakers"] == ["01", "02", "03", "04"]
    assert certificate["folds"][0]["text_in_train_and_test"] == {"texts": 2, "test_utterances": 240}
