"""The tests of gates against hand-worked cases and plain loops; their level by simulation."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from gates.statistics import (
    class_intervals,
    class_test,
    deviations,
    group_test,
    sign_flip_test,
    speaker_means,
    t_interval,
    unit_test,
    within_interval,
)
from gates.within_class import rank_correlations, right_minus_wrong

NAN = np.nan


def p_by_loops(cells):
    """Permute each speaker's own values over its own classes, one by one."""
    known = [{k: v for k, v in enumerate(row) if not np.isnan(v)} for row in cells]
    centred = [{k: v - np.mean(list(row.values())) for k, v in row.items()} for row in known]

    def statistic(rows):
        by_class = [[row[k] for row in rows if k in row] for k in range(cells.shape[1])]
        return sum(np.mean(values) ** 2 for values in by_class if values)

    every = [
        [dict(zip(row, order, strict=True)) for order in permutations(row.values())]
        for row in centred
    ]
    found = [statistic(rows) for rows in product(*every)]
    return np.mean(np.array(found) >= statistic(centred) - 1e-12), min(
        np.mean(np.array(found) >= one - 1e-12) for one in found
    )


def test_three_speakers_of_two_classes_by_hand():
    found = class_test(np.array([[0.2, 0.4], [0.5, 0.9], [0.1, 0.7]]))
    # deviations -+0.1, -+0.2, -+0.3: mean -0.2, 0.2; of 8 orders only two have all signs alike
    assert found.value == pytest.approx(0.2)
    assert (found.p, found.smallest_p, found.n_speakers, found.exact) == (0.25, 0.25, 3, True)
    against = class_test(np.array([[0.2, 0.4], [0.9, 0.5], [0.1, 0.7]]))
    assert against.value == pytest.approx(0.2 / 3) and against.p == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    "missing", [[], [(0, 1)], [(0, 0), (1, 0)], [(0, 2), (1, 2), (2, 2)], [(0, 0), (1, 1), (2, 2)]]
)
def test_the_class_test_is_that_of_plain_loops(missing):
    cells = np.random.default_rng(3).normal(size=(3, 3)) * 0.02 + 0.5
    for place in missing:
        cells[place] = NAN
    found = class_test(cells)
    p, smallest = p_by_loops(cells)
    assert (found.p, found.smallest_p) == (pytest.approx(p), pytest.approx(smallest))


def test_an_offset_of_the_fold_is_not_a_difference_between_classes():
    cells = np.random.default_rng(1).normal(size=(4, 3))
    moved = cells + np.array([[0.0], [5.0], [-3.0], [8.0]])
    assert class_test(moved).p == class_test(cells).p
    assert class_test(moved).value == pytest.approx(class_test(cells).value)


def test_random_permutations_agree_with_all_of_them(monkeypatch):
    cells = np.random.default_rng(2).normal(size=(3, 4))
    exact = class_test(cells)
    monkeypatch.setattr("gates.statistics.MAX_EXACT", 10)
    drawn = class_test(cells, n_draws=4000)
    assert exact.exact and not drawn.exact
    assert drawn.p == pytest.approx(exact.p, abs=0.03)
    units = np.random.default_rng(2).normal(size=(3, 3, 5))
    drawn = unit_test([units], n_draws=4000)
    monkeypatch.undo()
    assert drawn.p == pytest.approx(unit_test([units]).p, abs=0.03) and not drawn.exact
    many = np.ones((20, 4)) * [0, 1, 2, 3]
    assert class_test(many, n_draws=99).p == class_test(many, n_draws=99).smallest_p == 1 / 100


def test_a_constant_gate_differs_nowhere():
    assert class_test(np.full((3, 4), 0.1) + 1e-17).p == 1
    assert unit_test([np.full((3, 4, 5), 0.3)]).p == 1
    assert sign_flip_test(np.zeros(4)).p == 1
    assert group_test(np.full(4, 0.7), np.array([1, 0, 1, 0], bool), np.zeros(4)).p == 1


def test_where_nothing_can_be_asked_there_is_no_answer():
    assert class_test(np.array([[0.1, NAN], [NAN, 0.3]])) is None
    assert unit_test([np.zeros((1, 3, 4))]) is None
    assert sign_flip_test(np.zeros(0)) is None
    assert group_test(np.zeros(3), np.ones(3, bool), np.zeros(3)) is None


@pytest.mark.parametrize("level", [0.06, 0.2])
def test_the_level_is_kept_where_classes_do_not_differ(level):
    """Speakers and folds differ, clips are heavy-tailed, a class is rare."""
    draw = np.random.default_rng(11)
    n = 250
    found = []
    for _ in range(n):
        cells = draw.standard_t(3, size=(3, 3)) + 4 * draw.normal(size=(3, 1))
        cells[0, 0] = NAN if draw.random() < 0.3 else cells[0, 0]
        units = draw.standard_t(3, size=(2, 3, 4)) + 4 * draw.normal(size=(2, 1, 4))
        signs = draw.standard_t(3, size=6)
        mixed = draw.normal(size=8) + np.repeat([0.0, 9.0], 4)
        first, blocks = np.tile([True, False], 4), np.repeat([0, 1], 4)
        tests = (
            class_test(cells),
            unit_test([units, units[:, ::-1] * 0 + draw.normal(size=(2, 3, 4))]),
        )
        found.append(
            [t.p for t in (*tests, sign_flip_test(signs), group_test(mixed, first, blocks))]
        )
    rates = (np.array(found) <= level).mean(0)  # of each test
    most = stats.binom.ppf(0.999, n, level) / n
    assert (rates <= most).all()
    assert (rates > level / 4).all()  # nor do they always say no


@pytest.mark.parametrize("counts", [[2, 20, 20, 20], [4, 8, 8, 8]])
def test_the_level_is_kept_where_a_class_has_few_clips(counts):
    """Means of few clips vary more: the rare class must not pass for a different one."""
    draw, n, n_units = np.random.default_rng(3), 300, 16
    many, spread = np.tile(counts, (8, 1)), 1 / np.sqrt(counts)
    found = []
    for seed in range(n):
        cells = spread * draw.standard_normal((8, 4))
        units = spread[:, None] * draw.standard_normal((4, 4, n_units))
        chance = {"n_draws": 199, "seed": seed}
        tests = {
            "8 speakers": class_test(cells, many, **chance),
            "4 speakers": class_test(cells[:4], many[:4], **chance),
            "units": unit_test([units], [many[:4]], **chance),
            "8 speakers, plain": class_test(cells, **chance),
        }
        found.append([t.p for t in tests.values()])
    rates = dict(zip(tests, (np.array(found) <= 0.05).mean(0).tolist(), strict=True))
    print(counts, "clips a class:", ", ".join(f"{k} {100 * v:.1f} %" for k, v in rates.items()))
    most = stats.binom.ppf(0.999, n, 0.05) / n
    plain = rates.pop("8 speakers, plain")
    assert all(0.01 < rate <= most for rate in rates.values())
    assert plain > most or counts[0] > 2  # why the squares are weighed


def test_the_interval_of_a_mean_is_given_the_models():
    """By hand: two folds of two speakers, 0.1 apart within, 0.4 apart between."""
    values, folds = np.array([0.3, 0.4, 0.7, 0.8]), np.array([1, 1, 2, 2])
    spread = np.sqrt((0.05**2 * 4) / 2)
    reach = stats.t.ppf(0.975, 2) * spread / 2
    assert within_interval(values, folds) == pytest.approx([0.55 - reach, 0.55 + reach])
    assert within_interval(values, np.arange(4)) == t_interval(values)
    assert within_interval(values, np.zeros(4)) == pytest.approx(t_interval(values))
    assert within_interval(np.array([0.3]), np.array([1])) is None


def test_a_difference_is_found():
    draw = np.random.default_rng(5)
    effect = np.array([0.05, 0.0, -0.05])
    cells = 0.5 + effect + 0.01 * draw.normal(size=(4, 3)) + 0.2 * draw.normal(size=(4, 1))
    found = class_test(cells)
    assert found.p == pytest.approx(found.smallest_p) and found.p == pytest.approx(1 / 216)
    assert found.value == pytest.approx(np.sqrt(2 / 3) * 0.05, rel=0.3)


def test_units_differ_though_their_mean_does_not():
    draw = np.random.default_rng(6)
    pattern = draw.normal(size=(1, 3, 40))
    pattern -= pattern.mean(2, keepdims=True)  # each class has the same mean over units
    blocks = [pattern + 0.1 * draw.normal(size=(2, 3, 40)) for _ in range(2)]
    found = unit_test(blocks)
    assert found.p == found.smallest_p == 1 / 36 and found.n_speakers == 4
    assert found.value == pytest.approx(
        np.sqrt(np.mean([(b - b.mean(1, keepdims=True)).mean(0) ** 2 for b in blocks]))
    )


def test_the_unit_test_is_that_of_plain_loops():
    draw = np.random.default_rng(7)
    blocks = [draw.normal(size=(2, 3, 4)), draw.normal(size=(3, 2, 4))]

    def size(values):
        return (values.mean(0) ** 2).sum()

    centred = [b - b.mean(1, keepdims=True) for b in blocks]
    every = [
        [
            size(np.stack([row[list(order)] for row, order in zip(b, orders, strict=True)]))
            for orders in product(permutations(range(b.shape[1])), repeat=len(b))
        ]
        for b in centred
    ]
    sums = np.add.outer(*map(np.array, every)).ravel()
    assert unit_test(blocks).p == pytest.approx(np.mean(sums >= sum(map(size, centred)) - 1e-12))


def test_a_speaker_without_a_class_of_its_fold_is_left_out_of_the_units():
    block = np.random.default_rng(8).normal(size=(3, 3, 4))
    block[0, 1] = NAN
    assert unit_test([block]) == unit_test([block[1:]])
    without = np.concatenate([block[1:], np.full((2, 1, 4), NAN)], 1)  # no clip of a fourth class
    assert unit_test([without]).p == unit_test([block[1:]]).p


def test_signs_are_turned_by_hand():
    found = sign_flip_test(np.array([1.0, 2.0, 4.0]))
    # |+-1 +-2 +-4| is 7 only where all signs are alike: 2 of 8
    assert (found.p, found.smallest_p, found.value) == (0.25, 0.25, pytest.approx(7 / 3))
    assert sign_flip_test(np.array([-1.0, 2.0, 4.0])).p == pytest.approx(0.5)  # 5 and 7, 4 of 8
    many = sign_flip_test(np.linspace(1, 2, 30), n_draws=999)
    assert (many.p, many.exact) == (1 / 1000, False)


def test_the_sign_test_agrees_with_scipy():
    values = np.random.default_rng(9).normal(0.4, 1, 9)
    theirs = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_test(values).p == pytest.approx(theirs.pvalue)


def test_genders_are_exchanged_within_folds_by_hand():
    means = np.array([0.3, 0.1, 0.9, 0.6])
    first = np.array([True, False, True, False])
    folds = np.array([1, 1, 2, 2])
    third = group_test(np.r_[means, 0.5, 0.1], np.r_[first, True, False], np.r_[folds, 3, 3])
    reach = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)  # of 0.2, 0.3 and 0.4
    assert third.interval == pytest.approx([0.3 - reach, 0.3 + reach])
    found = group_test(means, first, folds)
    # differences +-0.2 and +-0.3: as large as 0.25 are both alike, 2 of 4
    assert (found.value, found.p, found.smallest_p) == (pytest.approx(0.25), 0.5, 0.5)
    assert found.interval is None  # two folds
    together = group_test(means, first, np.zeros(4))
    # of 6 choices of two: sums 1.2 and its mirror 0.7 and those beyond
    sums = np.array([0.4, 1.2, 0.9, 1.0, 0.7, 1.5])
    assert together.p == np.mean(np.abs(sums - 0.95) >= 0.25 - 1e-12)


def test_one_block_of_genders_agrees_with_scipy():
    draw = np.random.default_rng(10)
    means, first = draw.normal(size=8), np.arange(8) < 3
    theirs = stats.permutation_test(
        (means[first], means[~first]), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf
    )
    difference = np.abs(theirs.null_distribution) >= abs(theirs.statistic) - 1e-12
    found = group_test(means, first, np.zeros(8))
    assert found.p == pytest.approx(difference.mean()) and found.smallest_p == 1 / 56
    ends = stats.ttest_ind(means[first], means[~first], equal_var=False).confidence_interval()
    assert found.interval == pytest.approx([ends.low, ends.high])


def test_intervals_are_students():
    values = np.array([0.41, 0.45, 0.52, 0.38])
    ends = stats.ttest_1samp(values, 0).confidence_interval()
    assert t_interval(values) == pytest.approx([ends.low, ends.high])
    assert t_interval(values[:2]) is None and t_interval(np.full(3, 0.2)) is None
    cells = np.array([[0.1, 0.3, NAN], [0.2, 0.6, 0.1], [NAN, 0.5, NAN]])
    first, second, third = class_intervals(cells)
    assert first == (pytest.approx(-0.1), None, 2)  # both deviate alike
    assert second[0] == pytest.approx((0.1 + 0.3) / 2) and second[2] == 2
    assert third == (pytest.approx(-0.2), None, 1)


def test_the_interval_of_a_correlation_ends_at_one():
    found = sign_flip_test(np.array([-0.9, 0.9, 0.3]), most=1.0)
    assert found.interval == [-1, 1] and found.value == pytest.approx(0.1)
    narrow = np.array([0.3, 0.31, 0.32])
    assert sign_flip_test(narrow, most=1.0).interval == t_interval(narrow)


def test_means_of_speakers_and_ranks_with_duration():
    speakers = np.array(["b", "a", "b", "a", "b", "b", "c"])
    gate = np.array([0.1, 0.5, 0.3, 0.7, 0.2, 0.4, 0.9])
    groups = np.array([0, 1, 0, 1, 1, 1, 0])
    cells = speaker_means(gate, speakers, groups, 2)
    assert cells == pytest.approx(np.array([[NAN, 0.6], [0.2, 0.3], [0.9, NAN]]), nan_ok=True)
    assert len(deviations(cells)) == 1
    seconds = np.array([1.0, 1, 3, 2, 2, 4, NAN])
    expected = stats.spearmanr([0.1, 0.3, 0.2, 0.4], [1, 3, 2, 4]).statistic
    one = np.zeros(7, int)
    assert rank_correlations(gate, seconds, speakers, one) == pytest.approx([expected])
    assert len(rank_correlations(np.full(7, 0.5), seconds, speakers, one)) == 0


def test_duration_and_rightness_are_asked_within_classes():
    # Class 1 is longer, has the larger gate and is mostly right; within a class nothing follows.
    speakers, classes = np.array(["s"] * 8), np.array([0] * 4 + [1] * 4)
    seconds = np.array([1.0, 2, 3, 4, 11, 12, 13, 14])
    gate = np.array([0.1, 0.2, 0.2, 0.1, 0.6, 0.7, 0.7, 0.6])
    assert rank_correlations(gate, seconds, speakers, classes) == pytest.approx([0.0], abs=1e-12)
    assert stats.spearmanr(gate, seconds).statistic > 0.7
    right = np.array([True, False, False, False, True, True, True, False])
    # class 0: 0.1 - 0.5/3, weight 3/4; class 1: 2/3 - 0.6, weight 3/4
    found = right_minus_wrong(gate, right, speakers, classes)
    assert found == pytest.approx([(0.1 - 0.5 / 3 + 2 / 3 - 0.6) / 2], abs=1e-12)
    right[:4], right[4:] = [True, False, False, False], True  # class 1 has no wrong one
    assert right_minus_wrong(gate, right, speakers, classes) == pytest.approx([0.1 - 0.5 / 3])
    assert np.isnan(right_minus_wrong(gate, classes == 1, speakers, classes)).all()
