"""What a single number tells of the class: by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.naive_bayes import CategoricalNB
from sklearn.preprocessing import KBinsDiscretizer

from corpora.shortcuts import BINS, find_shortcut

N = 1200
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 4, N)
SPEAKERS = np.arange(N) % 12
FOLDS = [(np.flatnonzero(SPEAKERS % 3 != k), np.flatnonzero(SPEAKERS % 3 == k)) for k in range(3)]


def found(values, categories=False, targets=TARGETS, folds=FOLDS):
    return find_shortcut("x", np.asarray(values), targets, SPEAKERS, folds, categories)


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_ua_is_that_of_naive_bayes_on_the_same_bins(noise: float) -> None:
    """Bins of equal counts, add-one smoothing; equal class priors weigh classes alike."""
    values = TARGETS + noise * RNG.standard_normal(N)
    preds = np.full(N, -1)
    for train, test in FOLDS:
        bins = KBinsDiscretizer(BINS, encode="ordinal", quantile_method="linear")
        x = bins.fit_transform(values[train, None]).astype(int)
        model = CategoricalNB(alpha=1.0, class_prior=[0.25] * 4, min_categories=BINS)
        preds[test] = model.fit(x, TARGETS[train]).predict(
            bins.transform(values[test, None]).astype(int)
        )
    expected = balanced_accuracy_score(TARGETS, preds)
    assert found(values).ua == pytest.approx(expected, abs=0.01)
    assert found(values).chance == 0.25


def test_a_category_that_is_the_class_tells_all_of_it() -> None:
    names = np.array(["a", "b", "c", "d"])[TARGETS]
    one = found(names, categories=True)
    assert one.ua == 1 and one.tells
    assert found(TARGETS.astype(float)).ua == 1


def test_what_training_never_saw_is_a_guess() -> None:
    """Each utterance has a category of its own."""
    one = found(np.arange(N).astype(str), categories=True)
    assert one.ua == pytest.approx(0.25) and not one.tells


def test_a_constant_or_an_untested_number_says_nothing() -> None:
    assert found(np.zeros(N)) is None
    assert found(RNG.random(N), folds=[]) is None
    assert find_shortcut("x", RNG.random(N), np.zeros(N, int), SPEAKERS, FOLDS) is None


@pytest.mark.parametrize("one_class", [0, 3])
def test_tested_utterances_of_one_class_say_nothing(one_class: int) -> None:
    """The class has any index, and training may hold others."""
    tested = np.flatnonzero(TARGETS == one_class)
    folds = [(np.flatnonzero(TARGETS != one_class), tested)]
    assert found(RNG.random(N), folds=folds) is None
    assert found(RNG.random(N), targets=np.full(N, one_class)) is None


def test_noise_does_not_tell() -> None:
    tells = [found(np.random.default_rng(seed).random(N)).tells for seed in range(60)]
    assert sum(tells) == 0


def test_noise_in_a_small_corpus_does_not_tell_either() -> None:
    """72 utterances: UA scatters by several points, so that the limit counts."""
    few = np.arange(72)
    folds = [(few[SPEAKERS[:72] % 3 != k], few[SPEAKERS[:72] % 3 == k]) for k in range(3)]
    draws = [np.random.default_rng(seed).random(72) for seed in range(100)]
    shortcuts = [find_shortcut("x", x, TARGETS[:72], SPEAKERS[:72], folds) for x in draws]
    assert max(one.ua for one in shortcuts) > 0.25 + 0.1 * 0.75
    assert not any(one.tells for one in shortcuts)


def test_the_speaker_alone_does_not_tell_within_shuffles() -> None:
    """The number is the speaker, who prefers a class: no fold knows a tested speaker."""
    targets = np.where(RNG.random(N) < 0.7, SPEAKERS % 4, TARGETS)
    one = found(SPEAKERS.astype(float), targets=targets)
    assert not one.tells


def test_a_weak_shortcut_below_a_tenth_of_the_way_is_not_named() -> None:
    """Means of the classes differ a little: beyond chance in a large corpus, and weak."""
    targets = np.tile(TARGETS, 20)
    speakers = np.tile(SPEAKERS, 20)
    folds = [
        (np.flatnonzero(speakers % 3 != k), np.flatnonzero(speakers % 3 == k)) for k in range(3)
    ]
    rng = np.random.default_rng(1)
    values = 0.1 * targets + rng.standard_normal(len(targets))
    one = find_shortcut("x", values, targets, speakers, folds)
    assert one.limit < one.ua < 0.25 + 0.1 * 0.75 and not one.tells
