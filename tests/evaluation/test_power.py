"""Power of a design: shares by hand, Student's t as reference, more is not less."""

import numpy as np
import pytest
from scipy import stats

from evaluation.metrics import SCORES
from evaluation.power import Design, power, power_table, simulate_pair
from scripts.power import main

UA = SCORES["ua"]


def test_pairs_have_the_difference_and_the_sizes_of_the_design():
    design = Design(6, 4, 3, 60, 0.0, 0.0)
    draw = np.random.default_rng(0)
    pairs = [simulate_pair(draw, design, 0.1) for _ in range(200)]
    a, b = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
    assert a.shape == (200, 3, 24, 2, 2) and (a.sum((-1, -2)) == 60).all()
    assert (a[..., 0, :].sum(-1) == 40).all()  # two thirds are of class 0
    difference = UA(a.sum((1, 2))).mean() - UA(b.sum((1, 2))).mean()
    assert difference == pytest.approx(0.1, abs=0.004)  # 5 standard errors of 200 x 4320 draws


def test_chance_by_speaker_and_by_training_is_as_large_as_given():
    draw, n = np.random.default_rng(1), 300
    for sizes, n_seeds in (((0.05, 0.0), 1), ((0.0, 0.05), 1), ((0.0, 0.05), 4)):
        design = Design(5, 1, n_seeds, 3000, *sizes)  # many utterances: little else varies
        found = [
            np.subtract(*(UA(x.sum(0)) for x in simulate_pair(draw, design))) for _ in range(n)
        ]
        expected = 0.05 * np.sqrt(2 / (1 if sizes[0] else n_seeds))
        assert np.std(found) == pytest.approx(expected, rel=0.15)


def test_power_of_many_folds_is_near_that_of_students_t():
    # Each fold is one speaker with one seed: differences of folds are independent and normal, so
    # the noncentral t gives the power; utterances add 2 p (1 - p) / n of binomial variance.
    design, difference = Design(12, 1, 1, 1000, 0.03, 0.03), 0.05
    se = np.sqrt((2 * (0.03**2 + 0.03**2) + 2 * 0.25 / 1000 * 9 / 8) / 12)
    reach, freedom = stats.t.ppf(0.975, 11), 11
    expected = stats.nct.sf(reach, freedom, difference / se)
    found = power(design, difference, n=300)
    assert expected - 0.12 < found < expected + 0.06  # the largest of three p-values counts


def test_without_a_difference_power_is_at_most_the_level():
    assert power(Design(6, 4, 1), 0.0, n=200) <= 0.08


def test_larger_differences_and_more_seeds_are_found_more_often():
    rows = power_table(Design(6, 4, 1), [1, 5], [0.02, 0.08], n=100)
    found = {(row["seeds"], row["difference"]): row["power"] for row in rows}
    assert found[1, 0.02] < found[1, 0.08] <= 1 and found[1, 0.08] <= found[5, 0.08]
    assert found[1, 0.02] <= found[5, 0.02]


def test_a_design_that_can_show_nothing_is_called_so(capsys):
    assert power_table(Design(2, 2, 1), [1], [0.5])[0] == {
        **{"seeds": 1, "difference": 0.5, "power": None, "smallest_p": 0.5}
    }
    words = "--folds 5 --speakers 2 --seeds 1 3 --differences 20 --pairs 20".split()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| 1 | cannot be tested: p >= 0.06 |" in said and "| 3 | cannot" not in said


def test_the_command_prints_a_table_and_writes_its_figures(tmp_path, capsys):
    words = ["--folds", "3", "--speakers", "2", "--seeds", "1", "--differences", "20", "--pairs"]
    assert main([*words, "20", "--json", str(tmp_path / "power.json")]) == 0
    said = capsys.readouterr().out
    assert "| seeds | 20 points |" in said and "3 folds of 2 speakers with 60 utterances" in said
    assert "10 points in both runs alike and 5 in each apart" in said and "trainings 4. 20" in said
    assert '"difference": 0.2' in (tmp_path / "power.json").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folds", "0", "--speakers", "2"], "--folds must be 1 to 1000, got 0"),
        (["--folds", "6", "--speakers", "4", "--seeds", "0"], "--seeds must be 1 to 100, got 0"),
        (
            ["--folds", "6", "--speakers", "4", "--by-speaker", "nan"],
            "--by-speaker must be 0 to 50",
        ),
    ],
)
def test_numbers_that_make_no_design_are_refused(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err
