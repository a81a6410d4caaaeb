"""Two runs side by side: hand-worked differences, refusals that name the key, tables to paste."""

import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.multitest import multipletests

from evaluation.calibration import Bin, Calibration, RiskCoverage
from evaluation.comparison import compare
from evaluation.comparison_file import comparison_json, read_comparison
from evaluation.conclusion import conclusion, is_at_chance
from evaluation.results import (
    Breakdown,
    ConditionScores,
    FoldConfusions,
    GroupScores,
    Robustness,
    ScoreSummary,
)
from evaluation.tables import comparison_latex, comparison_markdown
from storage.run_folder import read_run
from system.errors import InputError, RunError
from system.files import write_json
from tests.conftest import write_fold, write_run

# speaker -> (clips of class a, right of them; clips of class b, right of them), by run
FIRST = {"s1": (4, 4, 4, 2), "s2": (4, 3, 4, 3), "s3": (4, 4, 4, 4)}
SECOND = {"s1": (4, 3, 4, 2), "s2": (4, 1, 4, 2), "s3": (4, 4, 4, 1)}
THIRD = {"s1": (4, 2, 4, 2), "s2": (4, 2, 4, 2), "s3": (4, 2, 4, 2)}


def clips(table: dict[str, tuple[int, int, int, int]]) -> list[tuple[str, str, str, str]]:
    found = []
    for speaker, (n_a, right_a, n_b, right_b) in table.items():
        found += [(f"{speaker}a{i}", speaker, "a", "ba"[i < right_a]) for i in range(n_a)]
        found += [(f"{speaker}b{i}", speaker, "b", "ab"[i < right_b]) for i in range(n_b)]
    return found


@pytest.fixture
def make(tmp_path):
    def make(name, table, seeds=(0,), fusion="gmu", fold=1, apart=False, **certificate):
        """Write a run of one fold, or of one for each speaker where they are apart."""
        run = write_run(tmp_path / name, fusion, **certificate)
        tables = [{name: row} for name, row in table.items()] if apart else [table]
        for seed in seeds:
            for place, part in enumerate(tables):
                write_fold(run, fold + place, seed, clips(part))
        return read_run(run)

    return make


def test_differences_and_tests_are_those_worked_by_hand(make):
    found = compare(
        [
            make("one", FIRST, fusion="concat", apart=True),
            make("two", SECOND, apart=True),
            make("three", THIRD, apart=True),
        ]
    )
    assert [run.name for run in found.runs] == ["one", "two", "three"]
    # class a: 11 of 12 and 8 of 12; class b: 9 of 12 and 5 of 12
    ua, other = (11 / 12 + 9 / 12) / 2, (8 / 12 + 5 / 12) / 2
    assert found.runs[0].test["ua"].pooled == pytest.approx(ua)
    first = found.tests[0]
    assert (first.a, first.b, first.metric) == ("one", "two", "ua")
    assert first.difference == pytest.approx(ua - other)
    # speakers differ by 1, 3 and 3 right clips, all one way: 2 of 8 exchanges are as large; the
    # folds are the speakers, and Student's t of 1, 3, 3 is smaller
    assert first.p_speakers == first.p_trainings == pytest.approx(2 / 8)
    assert first.p_folds == pytest.approx(ttest_1samp([1, 3, 3], 0).pvalue, rel=0.15)
    assert first.p == first.smallest_p == pytest.approx(2 / 8)
    assert first.n_speakers == 3
    # 7 clips only the first has right, none only the second
    test = found.mcnemar[0]
    assert (test.only_a, test.only_b) == (7, 0)
    assert test.p == pytest.approx(binomtest(7, 7).pvalue)
    assert len(found.tests) == 6 and len(found.mcnemar) == 3
    for metric in ("ua", "wa"):
        tests = [t for t in found.tests if t.metric == metric]
        expected = multipletests([t.p for t in tests], method="holm")[1]
        assert [t.p_holm for t in tests] == pytest.approx(list(expected))
    expected = multipletests([t.p for t in found.mcnemar], method="holm")[1]
    assert [t.p_holm for t in found.mcnemar] == pytest.approx(list(expected))
    json.dumps(comparison_json(found), allow_nan=False)


def test_only_keys_that_matter_are_shown_as_different(make, tmp_path):
    one, two = make("one", FIRST, fusion="concat"), make("two", SECOND)
    assert compare([one, two]).config_differences == {
        "model.fusion": {"one": "concat", "two": "gmu"}
    }
    config = yaml.safe_load((tmp_path / "two/config.yaml").read_text())
    config |= {"optim": {"lr": 0.5}, "run": {"device": "cpu"}}
    (tmp_path / "two/config.yaml").write_text(yaml.safe_dump(config))
    found = compare([one, read_run(tmp_path / "two")])
    assert found.config_differences["optim.lr"] == {"one": 0.02, "two": 0.5}
    assert found.config_differences.keys() == {"model.fusion", "optim.lr"}
    assert "| model.fusion: concat / gmu, optim.lr: 0.02 / 0.5 |" in comparison_markdown(found)


def test_a_number_and_a_rate_for_each_branch_are_compared_branch_by_branch(make, tmp_path):
    for name, scale in (("one", 0.1), ("two", {"cqt": 0.1, "mel": 2.0}), ("three", 0.1)):
        make(name, FIRST)
        file = tmp_path / name / "config.yaml"
        values = yaml.safe_load(file.read_text()) | {"optim": {"backbone_lr_scale": scale}}
        file.write_text(yaml.safe_dump(values))
    one, two, three = (read_run(tmp_path / name) for name in ("one", "two", "three"))
    assert compare([one, three]).config_differences == {}
    rates = {"one": 0.1, "two": 2.0}
    assert compare([one, two]).config_differences == {"optim.backbone_lr_scale.mel": rates}


def test_folders_of_this_machine_are_shown_only_where_they_are_the_difference(make, tmp_path):
    places = {"one": "/mine/first/cqt", "two": "/mine/cqt_again", "three": "/yours/cqt"}
    for name, place in places.items():
        make(name, FIRST)
        file = tmp_path / name / "config.yaml"
        values = yaml.safe_load(file.read_text())
        values["model"]["cqt_from"] = place
        file.write_text(yaml.safe_dump(values))
    one, two, three = (read_run(tmp_path / name) for name in places)
    shown = {"one": "path/to/cqt", "two": "path/to/cqt_again"}
    assert compare([one, two]).config_differences == {"model.cqt_from": shown}
    del places["two"]
    assert compare([one, three]).config_differences == {"model.cqt_from": places}


def test_each_run_beside_a_reference_and_no_other(make):
    runs = [make("one", FIRST, fusion="concat"), make("two", SECOND), make("three", THIRD)]
    alone, found = compare(runs), compare(runs, reference=1)
    assert alone.reference is None and found.reference == "two"
    pairs = [("one", "two"), ("three", "two")]
    assert [(test.a, test.b) for test in found.tests] == 2 * pairs
    assert [(test.a, test.b) for test in found.mcnemar] == pairs
    for metric in ("ua", "wa"):
        tests = [test for test in found.tests if test.metric == metric]
        expected = multipletests([test.p for test in tests], method="holm")[1]
        assert [test.p_holm for test in tests] == pytest.approx(list(expected))
    other = next(t for t in alone.tests if (t.a, t.b) == ("two", "three"))
    assert found.tests[1].difference == pytest.approx(-other.difference)
    assert found.tests[1].p == pytest.approx(other.p)
    text, latex = comparison_markdown(found), comparison_latex(found)
    assert "same utterances, each run with `two`: diff" in text and "each run with two: " in latex
    assert "corrected for 2 comparisons" in text and "each run with" not in comparison_markdown(
        alone
    )


def test_a_key_that_one_run_cannot_have_differs_where_the_other_has_not_its_usual_value(
    make, tmp_path
):
    changes = {
        "usual": {},
        "learned": {"temperature_range": [0.01, 1.0]},
        "strong": {"alpha": 1.5},
    }
    runs = [make("gmu", FIRST)]
    for name, loss in changes.items():
        make(name, FIRST, fusion="gmu_contrastive")
        file = tmp_path / name / "config.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"loss": loss}))
        runs.append(read_run(tmp_path / name))
    rows = comparison_markdown(compare(runs)).splitlines()
    rows = [line for line in rows if "| UA |" in line and " − " in line]
    fusion = "model.fusion: gmu / gmu_contrastive"
    learned = "loss.temperature_range: {} / [0.01, 1.0]"
    assert [row.split("|")[2].strip() for row in rows] == [
        fusion,
        f"{fusion}, {learned.format('–')}",
        f"{fusion}, loss.alpha: – / 1.5",
        learned.format("null"),
        "loss.alpha: 0.3 / 1.5",
        "loss.alpha: 0.3 / 1.5, loss.temperature_range: [0.01, 1.0] / null",
    ]
    only = compare([runs[0], runs[3]]).config_differences  # no other to disagree with
    assert only.keys() == {"model.fusion", "loss.alpha"} and only["loss.alpha"] == {"strong": 1.5}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": "q"}, "protocol differs"),
        ({"id": "y"}, r"certificate \(utterances, labels or folds\) differs"),
    ],
)
def test_runs_tested_otherwise_are_refused(make, changed, words):
    with pytest.raises(InputError, match=f"(?s)cannot be compared, their {words}.*two: "):
        compare([make("one", FIRST), make("two", SECOND, **changed)])


def test_it_is_said_which_folds_are_of_other_clips(make, tmp_path):
    one, folds = make("one", FIRST), [{"fold": k, "assignment": str(k)} for k in (1, 2)]
    found = [one, make("two", SECOND, id="y", utterances=24)]
    for run, assigned in zip(found, ("1", "other"), strict=True):
        file = run.folder / "split_certificate.json"
        certificate = json.loads(file.read_text()) | {"utterances": 24}
        changed = [folds[0] | {"assignment": assigned}, folds[1]]
        tested = [{**fold, "test": {"recordings": "r"}} for fold in changed]
        file.write_text(json.dumps(certificate | {"folds": tested}))
    with pytest.raises(InputError, match=r"utterances: one 24, two 24; folds that differ: 1$"):
        compare([read_run(run.folder) for run in found])


def test_runs_with_other_folds_or_seeds_are_refused(make):
    one = make("one", FIRST)
    with pytest.raises(InputError, match=r"finished folds differs(.|\n)*two: \[2\]"):
        compare([one, make("two", SECOND, fold=2)])
    with pytest.raises(InputError, match=r"finished seeds differs(.|\n)*three: \[0, 1\]"):
        compare([one, make("three", SECOND, seeds=(0, 1))])


def test_runs_of_one_name_are_distinguished_and_none_is_taken_twice(make):
    one, other = make("x/run", FIRST), make("y/run", SECOND)
    names = [run.name for run in compare([one, other]).runs]
    assert names == [str(one.folder), str(other.folder)]
    with pytest.raises(InputError, match="named twice"):
        compare([one, one])


def test_seeds_stay_apart_from_folds(make):
    found = compare([make("one", FIRST, seeds=(0, 1)), make("two", SECOND, seeds=(0, 1))])
    assert found.n == 24 and len(found.mcnemar) == 2
    assert found.tests[0].n_speakers == 3
    assert found.runs[0].test["ua"].seed_std == 0
    text = comparison_markdown(found)
    assert "seeds 0, 1, 24 utterances of 3 speakers" in text and "| UA ± over seeds |" in text


def test_clips_meet_by_name_whatever_the_order_of_the_rows(make, tmp_path):
    one, two = make("one", FIRST), make("two", SECOND)
    turned = write_run(tmp_path / "turned", "gmu")
    write_fold(turned, 1, 0, clips(SECOND)[::-1])
    pairs = [compare([one, other]).mcnemar[0] for other in (two, read_run(turned))]
    assert pairs[0].only_a == pairs[1].only_a and pairs[0].only_b == pairs[1].only_b


def test_the_table_shows_the_seed_that_speaks_least_for_a_difference(make, tmp_path):
    one, two = make("one", FIRST, seeds=(0, 1)), write_run(tmp_path / "two", "gmu")
    write_fold(two, 1, 0, clips(SECOND))
    write_fold(two, 1, 1, clips(FIRST))  # with this seed the runs are alike: p is 1
    found = compare([one, read_run(two)])
    assert [test.p_holm for test in found.mcnemar] == [pytest.approx(2 / 2**6), 1.0]
    lines = comparison_markdown(found).splitlines()
    row = next(line for line in lines if line.startswith("| one − two") and "| WA |" in line)
    assert row.split("|")[-2].strip() == "1.000"


def test_a_single_run_has_no_tests(make):
    found = compare([make("one", FIRST)])
    assert found.tests == found.mcnemar == []
    assert "Paired" not in comparison_markdown(found) + comparison_latex(found)


def test_the_stamp_stands_above_every_table(make):
    runs = [make(name, t, speaker_dependent=True) for name, t in (("a_b", FIRST), ("c", SECOND))]
    found = compare(runs)
    assert comparison_markdown(found).startswith("**SPEAKER-DEPENDENT: the same speakers")
    assert comparison_latex(found).count("SPEAKER-DEPENDENT") == 2


def test_rows_of_all_tables_are_as_long_as_their_head(make):
    found = compare([make("a|b_1%", FIRST), make("two", SECOND)])
    for table in re.findall(r"(?:^\|.*\n)+", comparison_markdown(found), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    latex = comparison_latex(found)
    assert r"a|b\_1\%" in latex
    for table in re.findall(r"\\toprule\n(.*?)\\bottomrule", latex, re.DOTALL):
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in rows}) == 1


def test_the_conclusion_says_that_nothing_is_shown_and_whether_anything_could_be(make, tmp_path):
    runs = [make("one", FIRST, fusion="concat"), make("two", SECOND), make("three", THIRD)]
    found = compare(runs)
    sentence = (
        "no difference in UA between one, two and three can be shown on 3 speakers in 1 fold with "
        "1 seed: nothing can be tested with this design, which allows no p below 1.000 (1.000 "
        "corrected); one, two and three are not "
        "shown to be above chance (UA 50.0)"
    )
    assert conclusion(found) == f"On IEMOCAP, {sentence}."
    assert comparison_markdown(found).startswith(f"On IEMOCAP, {sentence}.\n\nProtocol")
    assert f"On IEMOCAP, {sentence}. Protocol" in comparison_latex(found)
    for run in runs:  # what the certificate says counts; the corpus may be gone
        run.certificate["corpus"] = {"name": "the demo corpus", "synthetic": True}
    assert conclusion(compare(runs)) == (
        f"On the demo corpus, {sentence}; the speech is synthetic and says nothing about people."
    )
    assert conclusion(compare(runs[:1])).startswith(
        "On the demo corpus, one has UA 83.3 on 3 speakers, not shown to be above chance (UA "
        "50.0); the speech"
    )


def test_the_conclusion_names_who_is_better_and_by_how_much(make):
    good = {f"s{i}": (4, 4, 4, 4) for i in range(8)}
    poor = {f"s{i}": (4, 3, 4, 2) for i in range(8)}
    runs = [make("poor", poor, apart=True), make("good", good, apart=True)]
    runs.append(make("also", good, apart=True))
    on = "8 speakers in 8 folds with 1 seed"
    assert conclusion(compare(runs)) == (
        "On IEMOCAP, good beats poor by 37.5 points of UA (p 0.023), also beats poor by 37.5 "
        "points of UA (p 0.023); no other difference is shown; p corrected for 3 comparisons, "
        f"{on}."
    )
    assert conclusion(compare(runs[:2])) == (
        "On IEMOCAP, good beats poor by 37.5 points of UA (p 0.008); p corrected for 1 comparison, "
        f"{on}."
    )
    near = {speaker: (4, 4, 4, 3 + (speaker < "s4")) for speaker in good}
    far = {speaker: (4, 4, 4, 3 + (speaker >= "s4")) for speaker in good}
    runs = [make("near", near, apart=True), make("far", far, apart=True)]
    assert conclusion(compare(runs)) == (
        f"On IEMOCAP, no difference in UA between near and far is shown on {on}: the smallest p is "
        "1.000."
    )


def test_the_conclusion_counts_the_comparisons_that_the_least_p_is_corrected_for(make):
    good = {f"s{i}": (4, 4, 4, 4) for i in range(6)}
    poor = {f"s{i}": (4, 3, 4, 2) for i in range(6)}
    runs = [make(name, good, apart=True) for name in ("one", "two")]
    found = compare([*runs, make("three", poor, apart=True)])
    why = "3 comparisons allow no corrected p below 0.094, so compare fewer runs"
    on = "6 speakers in 6 folds with 1 seed"
    assert conclusion(found).endswith(f"can be shown on {on}: {why}.")
    assert f"of whole folds; the interval is Student's t over folds. {on}: {why}." in (
        comparison_markdown(found)
    )
    assert f"{on}: the smallest possible p is 0.031." in comparison_markdown(compare(runs))


def test_the_conclusion_says_that_runs_differ_in_more_than_one_key(make):
    good = {f"s{i}": (4, 4, 4, 4) for i in range(8)}
    poor = {f"s{i}": (4, 3, 4, 2) for i in range(8)}
    runs = [make("good", good, apart=True), make("poor", poor, fusion="concat", apart=True)]
    assert "beats poor by 37.5 points of UA (p 0.008);" in conclusion(compare(runs))
    runs[1].config["optim.lr"] = 1.0
    assert "37.5 points of UA (p 0.008; they differ in 2 config keys);" in conclusion(compare(runs))


def test_the_conclusion_names_every_corpus(make):
    runs = [make("one", FIRST), make("two", SECOND)]
    runs[1].config["corpus.name"] = "ravdess"
    assert conclusion(compare(runs)).startswith("On IEMOCAP and RAVDESS, no difference")


def test_runs_that_always_predict_one_class_are_at_chance_for_any_number_of_classes_and_seeds():
    for n_classes, n_seeds in ((5, 3), (9, 5), (9, 6), (9, 7), (10, 3), (11, 6), (11, 7)):
        recall = [1.0] + [0.0] * (n_classes - 1)
        ua = float(np.mean([np.mean(recall)] * n_seeds))  # a rounding above 1 / K for some
        folds = {"1": ua}
        score = ScoreSummary(
            mean=ua, std=None, seed_std=None, folds=folds, pooled=ua, interval=None
        )
        facts = {"task": "class", "classes": [str(k) for k in range(n_classes)]}
        run = SimpleNamespace(test={"ua": score}, per_class_recall=recall, **facts)
        assert is_at_chance(run)


def test_a_corpus_is_named_as_people_know_it(make):
    run = make("one", FIRST)
    run.config["corpus.name"] = "cremad"
    assert conclusion(compare([run])).startswith("On CREMA-D, one has")
    run.config.update({"corpus.name": "manifest", "corpus.manifest": "lists/mine.csv"})
    assert conclusion(compare([run])).startswith("On the corpus of mine.csv, one has")


def test_texts_of_train_and_test_are_noted(make):
    shared = {"texts": 2, "test_utterances": 8}
    fold = {"fold": 1, "test": {"recordings": "clips 1"}, "text_in_train_and_test": shared}
    found = compare([make("one", FIRST, folds=[fold])])
    assert found.runs[0].shared_texts == {"1": 2}
    assert "Fold 1: 2 texts spoken in both train and test." in comparison_markdown(found)


def test_runs_that_tested_the_same_utterances_before_are_counted(make):
    runs = [make(name, FIRST) for name in ("one", "two", "other")]
    for run, when in zip(runs, ("2026-01-01", "2026-01-02", "2026-01-03"), strict=True):
        ledger = run.folder / "ledger.jsonl"
        line = json.loads(ledger.read_text()) | {"when": when}
        line |= {"clips": "of other utterances"} if run.name == "other" else {}
        ledger.write_text(json.dumps(line) + "\n")
    found = compare(runs)
    assert [run.runs_before for run in found.runs] == [0, 1, 2]  # other itself has no line of them
    assert "utterances of two were evaluated by 1 run before." in comparison_markdown(found)
    (runs[0].folder / "ledger.jsonl").write_text("torn")
    assert compare(runs).runs[1].runs_before == 0


def test_a_test_that_is_repeated_after_other_runs_comes_after_them(make):
    runs = [make(name, FIRST) for name in ("one", "two")]
    first, second = (run.folder / "ledger.jsonl" for run in runs)
    line = json.loads(first.read_text())
    dated = [json.dumps(line | {"when": f"2026-01-0{day}"}) for day in (1, 2, 3)]
    second.write_text(dated[1] + "\n")
    first.write_text(dated[0] + "\n")
    assert [run.runs_before for run in compare(runs).runs] == [0, 1]
    first.write_text(dated[0] + "\n" + dated[2] + "\n")  # as --overwrite leaves it
    assert [run.runs_before for run in compare(runs).runs] == [1, 1]


def test_a_ledger_of_another_run_that_cannot_be_read_is_named_and_ends_nothing(make, caplog):
    runs = [make("one", FIRST), make("other", FIRST)]
    ledger = runs[1].folder / "ledger.jsonl"
    ledger.unlink()
    os.mkfifo(ledger)
    assert compare(runs[:1]).runs[0].runs_before == 0
    assert "its evaluations are not counted: cannot read" in caplog.text
    assert str(ledger) in caplog.text


def test_a_comparison_is_read_as_it_was_written(make, tmp_path):
    found = compare([make("one", FIRST, seeds=(0, 1)), make("two", SECOND, seeds=(0, 1))])
    content = comparison_json(found)
    assert "breakdown" not in content and "robustness" not in content
    write_json(tmp_path / "comparison.json", content)
    assert read_comparison(tmp_path / "comparison.json") == found


def test_parts_that_were_asked_for_are_read_as_they_were_written(make, tmp_path):
    run = make("one", FIRST)
    score = {"n": 12, "speakers": 3, "ua": 0.5, "wa": 0.5, "interval": None}
    rows = [GroupScores(group="F", **score), GroupScores(group="M", classes=1, **score)]
    bins = [Bin(0.0, 0.5, 0, None, None), Bin(0.5, 1.0, 12, 0.75, 0.5)]
    measures = dict.fromkeys(("ece", "nll", "brier", "ece_scaled", "nll_scaled", "brier_scaled"), 1)
    parts = Breakdown(
        groups={"gender": rows},
        calibration=Calibration(
            temperature={"fold 1 seed 0": 1.5},
            reliability=bins,
            reliability_scaled=bins,
            **measures,
        ),
        risk_coverage=RiskCoverage(coverage=[0.5, 1.0], risk=[0.0, 0.5], area=0.25),
    )
    clean = {"condition": "clean", "kind": "clean", "ua": 0.5, "wa": 0.5, "interval": [0.25, 0.75]}
    counts = FoldConfusions(weights="w", speakers=["s"], confusions={"clean": [[[1, 0], [0, 1]]]})
    measured = Robustness(
        protocol="p",
        speaker_dependent=False,
        certificate="x",
        classes=["a", "b"],
        conditions=[ConditionScores(ua_change=0.0, **clean)],
        folds={"fold 1 seed 0": counts},
    )
    found = replace(compare([run]), breakdown={"one": parts}, robustness={"one": measured})
    content = comparison_json(found)
    assert list(content)[-2:] == ["robustness", "breakdown"]
    groups = content["breakdown"]["one"]["groups"]["gender"]
    assert groups == [{"group": "F", **score}, {"group": "M", **score, "classes": 1}]
    assert content["breakdown"]["one"]["calibration"]["reliability"][1]["n"] == 12
    write_json(tmp_path / "comparison.json", content)
    assert read_comparison(tmp_path / "comparison.json") == found


def test_a_comparison_of_an_earlier_version_is_read(make, tmp_path):
    found = compare([make("one", FIRST)])
    content = comparison_json(found)
    del content["reference"]
    for run in content["runs"]:
        run["looks"] = run.pop("test_evaluations")
        del run["training_issues"]
    write_json(tmp_path / "comparison.json", content)
    assert read_comparison(tmp_path / "comparison.json") == found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.update(n="24"), "n: Input should be a valid integer"),
        (lambda content: content.pop("made_with"), "made_with: Field required"),
        (lambda content: content.update(other=1), "other: Unexpected keyword"),
        (lambda content: content["runs"][0].update(trouble={}), "runs.0.trouble: Unexpected"),
        (lambda content: content["runs"][0]["test"]["ua"].pop("std"), "runs.0.test.ua.std: Field"),
        (lambda content: content.update(runs=[0]), "runs.0: "),
    ],
)
def test_a_comparison_that_is_not_as_written_is_reported(make, tmp_path, change, reason):
    content = comparison_json(compare([make("one", FIRST)]))
    change(content)
    write_json(tmp_path / "comparison.json", content)
    with pytest.raises(RunError, match=rf"comparison.json is .*\({reason}.*with compare.py --out"):
        read_comparison(tmp_path / "comparison.json")


def test_a_comparison_that_is_no_json_is_reported(tmp_path):
    for name, text in (("gone.json", None), ("torn.json", "{"), ("deep.json", "[" * 100_000)):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(RunError, match=f"{name} is missing, corrupt"):
            read_comparison(tmp_path / name)


def test_a_caption_says_which_chance_of_training_heads_on_frozen_branches_count(make):
    def change(run, features, seed):
        config = {**run.config, "train.features": features, "model.from_seed": seed}
        return replace(run, config=config)

    one, two = (
        make(name, table, (0, 1), apart=True) for name, table in (("one", FIRST), ("two", SECOND))
    )
    plain = comparison_markdown(compare([one, two]))
    assert "branches" not in plain and "chance of training: p is" in plain
    frozen = compare([change(one, "frozen", 0), change(two, "frozen", 0)])
    assert [(run.frozen, run.branch_seed) for run in frozen.runs] == [(True, 0)] * 2
    said = comparison_markdown(frozen)
    assert (
        "Of `one`, `two` the head alone is trained, on frozen branches. For all seeds the" in said
    )
    assert "branches of `one`, `two` are those of one training a fold (seed 0): its chance" in said
    assert "the chance of training (not that of branches of one seed): p is the largest" in said
    assert "one training a fold (seed 0)" in comparison_latex(frozen)
    same = comparison_markdown(compare([change(one, "frozen", None), two]))
    assert "Of `one` the head alone" in same and "one training a fold" not in same
    warm = comparison_markdown(compare([change(one, "trained", 3), two]))
    assert (
        "the branches of `one` start from one training a fold (seed 3): its chance is not" in warm
    )
    written = comparison_json(frozen)
    assert written["runs"][0]["branch_seed"] == 0 and written["runs"][0]["frozen"] is True
