"""Tests with a baseline are corrected apart, and are told in words of their own."""

from dataclasses import replace

import pytest

from evaluation.comparison import compare
from evaluation.conclusion import conclusion
from evaluation.families import families_of_pairs
from evaluation.significance import holm
from evaluation.tables import comparison_markdown
from tests.evaluation.test_comparison import FIRST, SECOND, THIRD, make  # noqa: F401


@pytest.fixture
def four(make):  # noqa: F811
    """Two fusions and two baselines on three speakers, each a fold."""
    tables = {"concat": FIRST, "gmu": SECOND, "svm_images": THIRD, "majority": THIRD}
    runs = [make(name, table, apart=True) for name, table in tables.items()]
    for run in runs[2:]:
        run.config.pop("model.fusion")
        run.config["baseline.kind"] = run.name
    return runs


def test_each_family_has_a_correction_of_its_own(four):
    found = compare(four)
    for metric in ("ua", "wa"):
        tests = [test for test in found.tests if test.metric == metric]
        pairs = [(test.a, test.b) for test in tests]
        assert pairs == [
            ("concat", "gmu"),
            ("concat", "svm_images"),
            ("concat", "majority"),
            ("gmu", "svm_images"),
            ("gmu", "majority"),
        ]
        assert tests[0].p_holm == tests[0].p
        assert [test.p_holm for test in tests[1:]] == holm([test.p for test in tests[1:]])
    assert found.mcnemar[0].p_holm == found.mcnemar[0].p
    assert compare(four[:2]).tests == [t for t in found.tests if (t.a, t.b) == ("concat", "gmu")]


def test_a_reference_keeps_the_families_apart():
    names = ["gmu", "mean", "svm", "majority"]
    assert families_of_pairs(names, {"svm", "majority"}, "gmu") == [
        [("mean", "gmu")],
        [("gmu", "svm"), ("gmu", "majority")],
    ]
    assert families_of_pairs(names[2:], {"svm", "majority"}, None) == [[("svm", "majority")]]


def test_the_conclusion_speaks_of_fusions_first_and_of_baselines_apart(four):
    found = compare(four)
    said = conclusion(found)
    assert "no difference in UA between concat and gmu can be shown" in said
    assert "the baseline svm_images and concat and gmu is shown" in said
    assert "(corrected apart, for 4 comparisons, which allow no p below 1.000)" in said
    assert said.endswith("; concat, gmu and svm_images are not shown to be above chance (UA 50.0).")
    tests = [
        replace(test, p_holm=0.01, difference=0.2 if test.a == "concat" else -0.1)
        if test.b == "svm_images"
        else test
        for test in found.tests
    ]
    said = conclusion(replace(found, tests=tests))
    assert "concat beats the baseline svm_images, the baseline svm_images beats gmu, " in said


def test_a_fusion_and_a_baseline_differ_in_their_method(four):
    four[2].config["features.top_db"] = 60.0
    rows = comparison_markdown(compare(four)).splitlines()
    row = next(row for row in rows if row.startswith("| gmu − svm_images | "))
    assert row.split(" | ")[1] == "method: gmu / svm_images, features.top_db: 80.0 / 60.0"
    row = next(row for row in rows if row.startswith("| gmu − majority | "))
    assert row.split(" | ")[1] == "method: gmu / majority"
