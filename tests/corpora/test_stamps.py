"""The protocol of `train.normalize: speaker`: its id, its parts, its certificate, its stamp."""

import pytest

from corpora.certificate import certify, protocol_id, protocol_parts
from corpora.splits import STAMP, make_splits
from corpora.stamps import TRANSDUCTIVE, is_transductive, stamps
from corpora.text_groups import cross_with_texts
from system.errors import InputError
from tests.corpora.test_text_groups import base, corpus_of, hashes_of


@pytest.mark.parametrize("texts", [None, 2])
def test_the_id_says_so_and_names_the_other_parts_as_before(texts):
    plain = protocol_id("x", "speaker-k-fold", None, "all", 3, texts)
    own = protocol_id("x", "speaker-k-fold", None, "all", 3, texts, speaker_normalized=True)
    assert own == f"{plain}/speaker-normalized"
    assert is_transductive(own) and not is_transductive(plain)
    assert protocol_parts(plain)["train.normalize"] == "not speaker"
    assert protocol_parts(own) == {**protocol_parts(plain), "train.normalize": "speaker"}


def test_stamps_stand_together():
    own = "x/random-utterance-3-fold-SPEAKER-DEPENDENT/dev-random/all/speaker-normalized"
    assert stamps(own, True) == [STAMP, TRANSDUCTIVE]
    assert stamps(own, False) == [TRANSDUCTIVE]
    assert stamps("x/speaker-3-fold/dev-fold/all", False) == []
    assert TRANSDUCTIVE.lower() == "transductive: uses the tested speaker's unlabelled utterances"


def test_the_certificate_differs_and_its_folds_do_not():
    utterances = corpus_of()
    splits, hashes = base(utterances), hashes_of(utterances)
    names = [
        protocol_id("x", "speaker-k-fold", None, "all", 3, speaker_normalized=by_speaker)
        for by_speaker in (False, True)
    ]
    plain, own = (certify(splits, hashes, name, False) for name in names)
    assert plain["id"] != own["id"] and plain["folds"] == own["folds"]
    assert plain["checks"] == own["checks"]


def test_the_checks_of_text_groups_and_overlap_stay():
    utterances = corpus_of()
    splits, hashes = base(utterances), hashes_of(utterances)
    name = protocol_id("x", "speaker-k-fold", None, "all", 3, 2, speaker_normalized=True)
    with pytest.raises(InputError, match="text a is in"):
        certify(splits, hashes, name, False)
    assert certify(cross_with_texts(splits, 2), hashes, name, False)["protocol"] == name
    mixed = make_splits(utterances, "random-utterance", None, 3, hashes, True)
    name = protocol_id("x", "random-utterance", None, "all", 3, speaker_normalized=True)
    assert certify(mixed, hashes, name, True)["speaker_dependent"]
