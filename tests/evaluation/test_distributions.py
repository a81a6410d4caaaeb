"""Scores of label distributions by hand, against scipy and scikit-learn, and as sums."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine as scipy_cosine
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.metrics import f1_score

from evaluation.distributions import (
    DIVERGENCE,
    SHARE,
    even_similarity,
    jsd,
    macro_f1,
    mean_cosine,
    mean_kl,
    similarity,
    speaker_sums,
    sums_of,
)
from evaluation.paired_tests import paired_test
from evaluation.significance import speaker_interval
from evaluation.tasks import make_task


def drawn(n: int = 60, seed: int = 0, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    votes = draw.multinomial(3, [0.4, 0.3, 0.2, 0.1][:k], n) / 3
    return votes, draw.dirichlet(np.ones(k), n)


def test_scores_are_those_of_scipy():
    p, q = drawn()
    sums = sums_of(p, q)
    js = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    assert similarity(sums) == pytest.approx(1 - np.mean(js))
    assert mean_kl(sums) == pytest.approx(np.mean(entropy(p, q, axis=1)))
    assert mean_cosine(sums) == pytest.approx(
        np.mean([1 - scipy_cosine(a, b) for a, b in zip(p, q, strict=True)])
    )
    even = [jensenshannon(a, np.full(4, 0.25), base=2) ** 2 for a in p]
    assert even_similarity(sums) == pytest.approx(1 - np.mean(even))


def test_macro_f1_is_that_of_thresholded_shares():
    p, q = drawn(200)
    there, said = (p > 0.25).astype(int), (q > 0.25).astype(int)
    assert macro_f1(sums_of(p, q)) == pytest.approx(f1_score(there, said, average="macro"))


def test_by_hand():
    # half of a two-class mass is moved: m = (3/4, 1/4)
    p, q = np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])
    expected = (np.log2(1 / 0.75) + 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)) / 2
    assert jsd(p, q)[0] == pytest.approx(expected)
    assert mean_kl(sums_of(p, q)) == pytest.approx(np.log(2))


def test_equal_shares_are_above_no_threshold():
    p = np.full((2, 4), 0.25)
    assert macro_f1(sums_of(p, p + 1e-8)) == 0 and similarity(sums_of(p, p)) == 1


def test_a_class_that_is_nowhere_does_not_enter_macro_f1():
    p = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert macro_f1(sums_of(p, p)) == 1


def test_a_share_of_0_has_a_finite_kl():
    assert np.isfinite(mean_kl(sums_of(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))))


def test_sums_of_speakers_add_up():
    p, q = drawn()
    names, sums = speaker_sums(p, q, [f"s{i % 5}" for i in range(60)])
    assert names.tolist() == [f"s{i}" for i in range(5)]
    np.testing.assert_allclose(sums.sum(0), sums_of(p, q))


def test_intervals_and_paired_tests_work_on_them():
    p, q = drawn(480)
    good = 0.7 * p + 0.3 * q
    speakers = [str(i % 12) for i in range(480)]
    a, b = (speaker_sums(p, shares, speakers)[1][None] for shares in (good, q))
    low, high = speaker_interval(a, similarity, scale=SHARE)
    assert low < float(similarity(a[0].sum(0))) < high
    assert speaker_interval(a, mean_kl, scale=DIVERGENCE)[0] > 0
    units = [str(i) for i in range(12)], [i // 2 for i in range(12)]
    test = paired_test(a, b, *units, similarity, scale=SHARE)
    assert test.difference > 0.1 and test.p < 0.05 and test.interval[0] > 0
    other = speaker_sums(np.roll(p, 1, axis=1), q, speakers)[1][None]
    with pytest.raises(ValueError, match="same utterances"):
        paired_test(a, other, *units, similarity, scale=SHARE)


def test_what_cannot_be_scored_is_a_value_error():
    with pytest.raises(ValueError, match="need a prediction for each target"):
        sums_of(np.zeros((3, 2)), np.zeros((3, 3)))


def test_groups_are_the_classes_with_most_votes():
    task = make_task("distribution", ("a", "b", "c"))
    assert task.group_of(np.array([[0.2, 0.4, 0.4], [0, 0, 1]])).tolist() == [1, 2]
    assert task.group_of(np.array([2, 0])).tolist() == [2, 0]
    assert task.prediction(np.array([0.0, 0.5, 0.5])) == "b 0.50, c 0.50"
    assert task.prediction(2) == "c"
