"""Scores: against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from evaluation.metrics import SCORES, recalls, scores

CLASSES = st.integers(0, 4)
PAIRS = st.lists(st.tuples(CLASSES, CLASSES), min_size=1, max_size=60).map(
    lambda pairs: tuple(zip(*pairs, strict=True))
)


@given(PAIRS)
@settings(max_examples=80, deadline=None)
def test_scores_are_scikit_learns(pairs):
    targets, preds = pairs
    found = scores(targets, preds, 5)
    present = sorted(set(targets))
    recall = sklearn.recall_score(targets, preds, labels=range(5), average=None, zero_division=0)
    assert found["wa"] == pytest.approx(sklearn.accuracy_score(targets, preds))
    assert found["ua"] == pytest.approx(recall[present].mean())
    for average in ("macro", "weighted"):
        expected = sklearn.f1_score(targets, preds, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    assert found["confusion"] == sklearn.confusion_matrix(targets, preds, labels=range(5)).tolist()
    for k in range(5):
        expected = pytest.approx(recall[k]) if k in present else None
        assert found["per_class_recall"][k] == expected
    assert found["n"] == len(targets)


def test_peer_05_wa_and_ua_by_hand_are_not_exchanged():
    targets = [0] * 8 + [1] * 2  # 8 clips of class 0, all right; 2 of class 1, one right
    preds = [0] * 8 + [1, 0]
    found = scores(targets, preds, 2)
    assert (found["wa"], found["ua"]) == (0.9, 0.75)
    assert found["per_class_recall"] == [1.0, 0.5]
    assert found["confusion"] == [[8, 0], [1, 1]]  # a row is a target
    assert found["macro_f1"] == pytest.approx((16 / 17 + 2 / 3) / 2)
    assert found["weighted_f1"] == pytest.approx(0.8 * 16 / 17 + 0.2 * 2 / 3)


def test_classes_without_clips_stay_out_of_ua():
    found = scores([0, 0], [0, 3], 4)
    assert (found["ua"], found["per_class_recall"]) == (0.5, [0.5, None, None, None])
    assert np.isnan(recalls(np.zeros((2, 2)))).all()


@pytest.mark.parametrize("name", ["ua", "wa", "macro_f1", "weighted_f1"])
def test_each_score_takes_many_confusions_at_once(name):
    counts = np.random.default_rng(0).integers(0, 3, (2, 7, 4, 4))  # (R, S, K, K), some rows empty
    counts[0, 0] = np.diag([2, 1, 0, 0])  # classes neither target nor prediction
    found = SCORES[name](counts)
    assert found.shape == (2, 7)
    for index in np.ndindex(2, 7):
        pairs = np.argwhere(counts[index] > 0).repeat(counts[index][counts[index] > 0], axis=0)
        assert found[index] == pytest.approx(scores(*pairs.T, 4)[name])
    assert found[0, 0] == 1.0


@pytest.mark.parametrize(
    ("targets", "preds"), [([], []), ([0], [0, 1]), ([0, 1], [0]), ([0, 1], [0, 2]), ([0], [-1])]
)
def test_predictions_that_cannot_be_scored_are_a_value_error(targets, preds):
    with pytest.raises(ValueError, match="need one prediction for each|must be in 0..1"):
        scores(targets, preds, 2)


def test_scores_are_plain_numbers_for_json():
    found = scores(np.array([0, 1]), np.array([0, 0]), 2)
    assert {type(found[name]) for name in ("wa", "ua", "macro_f1", "weighted_f1")} == {float}
    assert type(found["n"]) is int and type(found["confusion"][0][0]) is int
