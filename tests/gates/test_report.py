"""The page shows the analysis of the run's own weights, as text; corrupt files are refused."""

import json
import re
import shutil
import struct
import zlib
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from evaluation.comparison import compare
from evaluation.figures import PNG_DPI, png_bytes, svg_text
from gates import figures as gate_figures
from gates.drawing import draw
from gates.results import (
    MAX_SIDE,
    BranchAblation,
    ClassDeviation,
    Estimate,
    GateResults,
    Intervention,
    Stale,
    UnimodalRun,
    read_analysis,
)
from gates.tables import gates_markdown
from gates.values import FoldGates
from inference.predictor import weights_digests
from reports.publish import gather
from reports.report import write_report
from storage.run_folder import read_run
from system.errors import RunError
from system.files import write_json, write_text
from tests.conftest import write_card, write_fold, write_run

EVIL = "<script>alert(1)</script>"
PNG = png_bytes(Figure(figsize=(0.5, 0.5)))
SETTINGS = {
    "sample_rate": 8000,
    "image_size": 32,
    "cqt": {"n_bins": 40},
    "mel": {"n_fft": 512, "n_mels": 16},
}


def results_of(run, **changes):
    """Return what gates.json could hold of a run of two classes; its words are hostile."""
    mean = {"value": 0.4, "interval": [0.35, 0.45], "n": 3, "n_speakers": 2}
    cost = {
        "ua": {"value": 0.5, "interval": None},
        "fall": {"value": 0.25, "interval": [0.1, 0.4]},
        "p": 0.5,
        "smallest_p": 0.5,
        "recall_falls": [0.5, None],
    }
    question = {"key": "class", "value": 0.01, "interval": None, "p": 0.5, "p_holm": 1.0}
    question |= {"smallest_p": 0.5, "n_speakers": 2, "exact": True}
    interventions = [
        {**cost, "changed": b, "how": h, "draws": 2, "p_holm": 1.0, "follows": f}
        for b in ("cqt", "mel")
        for h, f in (("train mean", None), (EVIL, 0.25))
    ]
    verdict = {"class_name": EVIL, "leans": "Mel", "relies": "CQT", "verdict": "disagree"}
    difference = {"value": 0.1, "interval": None}
    branches = {"class_name": None, "difference": difference, "p": 1.0, "larger_fall": None}
    values = {
        "run": EVIL,
        "fusion": "gmu",
        "protocol": EVIL,
        "certificate": "x",
        "speaker_dependent": False,
        "classes": ["a", "b"],
        "weights": weights_digests(run),
        "n": 3,
        "n_speakers": 2,
        "speaker_per_fold": False,
        "without_epochs": True,
        "gates": {
            "mean": mean,
            "share": mean,
            "groups": {"class": [{**mean, "group": EVIL}]},
            "deviations": [{"class_name": EVIL, "value": 0.1, "interval": None, "n_speakers": 2}],
            "questions": [question],
            "models": [],
        },
        "branch_ablation": {
            "intact": {"value": 0.75, "interval": None},
            "interventions": interventions,
            "branches": [branches],
            "unimodal": [
                {**cost, "run": EVIL, "branch": "cqt", "weights": {}, "differs": [f"a: {EVIL} / 2"]}
            ],
        },
        "verdicts": [{**verdict, "words": f"They disagree. {EVIL}"}],
        "version": 2,
    }
    return {**values, **changes}


def parsed(run, **changes):
    return TypeAdapter(GateResults).validate_json(json.dumps(results_of(run, **changes)))


@pytest.fixture
def run(tmp_path):
    folder = write_run(tmp_path / "mine", "gmu")
    fold = write_fold(
        folder, 1, 0, [("u", "s1", "a", "b"), ("v", "s2", "b", "b"), ("w", "s2", "a", "a")]
    )
    write_card(fold, ["a", "b"], SETTINGS)
    write_text(fold / "history.csv", "epoch,loss,dev_ua\n1,1.0,0.5\n")
    write_text(folder / "utterances.csv", "utterance,speaker,path,text\nu,s1,gone.wav,x\n")
    (folder / "gates").mkdir()
    return read_run(folder)


def page_of(run):
    write_report(run.folder / "report.html", *gather([run.folder]), audio=False)
    return (run.folder / "report.html").read_text()


def put(run, **changes):
    write_json(run.folder / "gates/gates.json", results_of(run, **changes))


def test_the_page_shows_statistics_costs_verdicts_and_images(run):
    put(run)
    (run.folder / "gates/falls.png").write_bytes(PNG)
    page = page_of(run)
    section = page.partition('<section id="branch-ablation">')[2].partition("</section>")[0]
    assert '<a href="#branch-ablation">' in page
    assert "Mean gate 0.400 [0.350, 0.450]" in section and "1 = CQT / MaxViT" in section
    assert "Does the mean gate differ between classes?" in section
    assert "too few speakers to decide" in section
    assert "CQT replaced by the mean of the training utterances" in section and "+50.0" in section
    assert '<li class="disagree">' in section and "They disagree." in section
    assert (
        "all units: Do its units differ between classes, even where the mean does not?" in section
    )
    assert "no fall can reach 0.05" in section and "older than the gate columns" in section
    assert section.count('src="data:image/png;base64,') == 1


def test_a_unimodal_run_that_was_trained_again_is_named(run):
    alone = write_run(run.folder.parent / "alone", "cqt_only")
    fold = write_fold(
        alone, 1, 0, [("u", "s1", "a", "b"), ("v", "s2", "b", "b"), ("w", "s2", "a", "a")]
    )
    write_card(fold, ["a", "b"], SETTINGS)
    write_text(fold / "history.csv", "epoch,loss,dev_ua\n1,1.0,0.5\n")
    found = results_of(run)
    row = {**found["branch_ablation"]["unimodal"][0], "run": "alone", "differs": []}
    for weights, warns in (
        (weights_digests(read_run(alone)), False),
        ({"fold 1 seed 0": "other"}, True),
    ):
        found["branch_ablation"]["unimodal"] = [{**row, "weights": weights}]
        put(run, branch_ablation=found["branch_ablation"])
        write_report(run.folder / "r.html", *gather([run.folder, alone]), audio=False)
        page = (run.folder / "r.html").read_text()
        assert ("alone was trained again since" in page) is warns
        assert "alone differs from the run in its fusion alone." in page


@pytest.mark.parametrize("one_speaker", [True, False])
def test_what_folds_of_one_speaker_mean_is_reported(run, one_speaker):
    put(run, speaker_per_fold=one_speaker)
    page = page_of(run)
    text = gates_markdown(parsed(run, speaker_per_fold=one_speaker))
    for words in (page, text):
        assert ("each fold tests one speaker" in words) is one_speaker
        assert ("over speakers, given these models." in words) is not one_speaker
    for words in (page, text):
        assert ("genders are permuted among folds" in words) is one_speaker


def test_words_of_the_folder_are_text(run):
    put(run)
    page = page_of(run)
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    text = gates_markdown(parsed(run))
    assert EVIL not in re.sub("`[^`]*`", "", text)  # in code nothing is a tag
    assert "&lt;script>" in text


def test_a_run_without_an_analysis_has_no_such_section(run):
    page = page_of(run)
    assert 'id="branch-ablation"' not in page and read_analysis(run) is None


@pytest.mark.parametrize(
    ("reference", "which"),
    [(None, "utterances: difference"), (0, "utterances, each run with mine: difference")],
)
def test_the_tests_say_what_p_is_corrected_over(run, reference, which):
    other = shutil.copytree(run.folder, run.folder.with_name("other"))
    runs = [run, read_run(other)]
    write_report(run.folder / "report.html", runs, compare(runs, reference), audio=False)
    page = (run.folder / "report.html").read_text()
    caption = page.partition("Paired tests on the same ")[2].partition("</caption>")[0]
    assert caption.startswith(which) and "Holm-corrected for 1 comparison;" in caption


def test_an_analysis_of_other_weights_is_named_and_not_shown(run):
    put(run)
    (run.folds[0].folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(Stale):
        read_analysis(run)
    page = page_of(run)
    assert "of other weights or folds" in page and f"analyze_gates.py {run.folder}" in page
    assert "Mean gate 0.4" not in page and "They disagree" not in page


def test_an_analysis_of_the_older_format_is_named_and_not_shown(run):
    put(run, reliance=None)
    values = json.loads((run.folder / "gates/gates.json").read_text())
    del values["version"]
    (run.folder / "gates/gates.json").write_text(json.dumps(values))
    with pytest.raises(Stale, match="older format"):
        read_analysis(run)
    page = page_of(run)
    assert f"older format and is not shown. Run python analyze_gates.py {run.folder} again" in page
    assert "Mean gate 0.4" not in page


def test_results_are_written_as_they_are_read(run):
    results = parsed(run)
    write_json(run.folder / "gates/gates.json", asdict(results))
    assert read_analysis(run).results == results


def test_more_folds_than_were_analyzed_are_reported(run):
    put(run)
    write_fold(run.folder, 2, 0, [("x", "s3", "a", "b"), ("y", "s3", "b", "b")])
    with pytest.raises(Stale, match="other weights or folds"):
        read_analysis(read_run(run.folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"gates": {"mean": 1}},
        {"version": 3},
        {"n": "3"},
        {"n": -1},
        {"fusion": ["gmu"]},
        {"branch_ablation": {"intact": {"value": 1.0, "interval": None}, "interventions": []}},
        {"classes": ["a"] * 5000},
        {"more": 1},
        {"protocol": "x" * 5000},
        {"verdicts": [{"class_name": None}]},
    ],
)
def test_a_file_of_another_form_is_refused(run, changes):
    put(run, **changes)
    with pytest.raises(RunError, match=r"gates.json is corrupt .*analyze_gates.py .* again") as e:
        read_analysis(run)
    assert len(str(e.value)) < 800


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, '{"run": NaN}', "x" * 100])
def test_a_file_that_is_not_json_is_refused(run, text):
    (run.folder / "gates/gates.json").write_text(text)
    with pytest.raises(RunError, match="gates.json"):
        page_of(run)


def test_infinite_numbers_are_refused(run):
    values = results_of(run)
    values["gates"]["mean"]["value"] = float("inf")
    (run.folder / "gates/gates.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match="gates.mean.value"):
        read_analysis(run)


def png_header(width, height):
    """Return the beginning of a PNG that says to be so large."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc


@pytest.mark.parametrize(
    "data",
    [b"<svg onload='x'/>", b"\xff\xd8\xff\xe0 JFIF", png_header(5000, 10), png_header(10**6, 10**6)]
    + [PNG + b"\0" * 5_000_001],
    ids=["svg", "jpeg", "wide", "bomb", "long"],
)
def test_a_figure_that_is_not_a_small_png_is_refused(run, data):
    put(run)
    (run.folder / "gates/class_histograms.png").write_bytes(data)
    with pytest.raises(RunError, match="class_histograms.png is corrupt"):
        read_analysis(run)


def test_a_image_of_another_name_is_left_alone(run):
    put(run)
    (run.folder / "gates/other.png").write_bytes(b"x")
    assert read_analysis(run).figures == {}


ODD = ["$x_1$", "a & b", "\x00\x1b[2J", "ä" * 60]


def test_images_take_odd_names_empty_classes_and_constant_gates():
    gates = [np.array([0.5, 0.5]), np.zeros(0), np.array([0.5]), np.array([0.5])]
    pairs = list(zip([None, [-0.1, 0.1], None, None], ODD, strict=True))
    cost = (Estimate(0.5, None), Estimate(0.1, None), 0.5, 0.5, [])
    alone = [UnimodalRun(*cost, name, "cqt", {}, []) for name in ODD]
    forced = [Intervention(*cost, "gate", name, 1, 0.5, None) for name in ODD]
    units = np.full((6, 4), 0.5)
    units[:, 1] = np.nan
    drawn = [
        gate_figures.class_histograms(gates, ODD),
        gate_figures.class_deviations([ClassDeviation(0.0, *pair, 1) for pair in pairs]),
        gate_figures.unit_heat_maps([gate_figures.Units("m", np.full(6, 0.5), units)] * 2, ODD),
        gate_figures.gate_and_confidence(np.full(3, 0.5), np.ones(3), np.array([True] * 3)),
        gate_figures.gate_over_epochs([gate_figures.Epochs([1.0], [0.5], [0.0], 1)] * 2),
        gate_figures.falls(BranchAblation(Estimate(0.5, None), forced, [], alone)),
    ]
    for figure in drawn:
        assert "\x1b" not in svg_text(figure) and png_bytes(figure).startswith(b"\x89PNG")


def test_figures_of_many_classes_are_small_enough_to_be_read_again(run):
    names, n = tuple(f"class {k}" for k in range(100)), 200
    rng = np.random.default_rng(0)
    ids, targets = np.array([f"u{i}" for i in range(n)]), np.arange(n) % 100
    ones, gate = np.ones(n), rng.random((n, 5))
    folds = [FoldGates(k, 0, ids, ids, targets, targets, ones, gate, ones) for k in range(6)]
    deviations = [ClassDeviation(0.0, None, name, 3) for name in names]
    many = SimpleNamespace(classes=names, folds=[])
    described = SimpleNamespace(deviations=deviations)
    results = SimpleNamespace(
        gates=described, branch_ablation=None, classes=list(names), of_images=True
    )
    drawn = draw(many, results, {"cqt": folds})
    assert {"class_histograms", "class_deviations", "unit_heat_maps"} <= drawn.keys()
    for name, figure in drawn.items():
        assert max(figure.get_size_inches()) * PNG_DPI <= MAX_SIDE, name


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.1, 0.9], (0.0, 1.0, False)),
        ([0.50, 0.52], (0.4988, 0.5212, True)),
        ([0.995, 0.999], (0.9858, 1.0, True)),
        ([], (0.0, 1.0, False)),
    ],
)
def test_a_narrow_gate_is_zoomed_and_says_so(values, ends):
    assert gate_figures.limits(np.array(values)) == pytest.approx(ends, abs=1e-4)
    figure = gate_figures.gate_and_confidence(
        np.array(values), np.ones(len(values)), np.ones(len(values), bool)
    )
    label = figure.axes[0].get_xlabel()
    assert ("zoomed" in label) == ends[2] and label.endswith("0 = Mel ... 1 = CQT")


def test_histograms_count_the_clips_of_each_class():
    figure = gate_figures.class_histograms(
        [np.array([0.2, 0.21, 0.9]), np.array([0.7])], ["a", "b"]
    )
    counts = [[patch.get_height() for patch in axes.patches] for axes in figure.axes]
    assert [sum(each) for each in counts] == [3, 1]
    assert figure.axes[0].get_xlim() == (0, 1)  # one axis for all


def title_of(figure):
    return figure._suptitle.get_text() if figure._suptitle else None


def test_models_that_are_not_drawn_are_reported():
    units = [gate_figures.Units("m", np.array([0.4, 0.6]), np.full((2, 2), 0.5))] * 2
    assert title_of(gate_figures.unit_heat_maps(units, ["a", "b"], 7)) == "first 2 of 7 models"
    assert title_of(gate_figures.unit_heat_maps(units, ["a", "b"], 2)) is None
    lines = [gate_figures.Epochs([1.0, 2.0], [0.5, 0.6], [0.1, 0.1], 2)] * 31
    assert title_of(gate_figures.gate_over_epochs(lines)) == "first 30 of 31 models"
    assert title_of(gate_figures.gate_over_epochs(lines[:30])) is None


def test_units_are_sorted_and_shown_against_their_own_mean():
    means = np.array([0.9, 0.1])
    by_class = np.array([[0.8, 1.0], [0.1, 0.1]])
    figure = gate_figures.unit_heat_maps([gate_figures.Units("m", means, by_class)], ["a", "b"])
    line, heat = figure.axes[:2]
    assert line.lines[0].get_ydata().tolist() == [0.1, 0.9]
    shown = heat.images[0].get_array()
    assert np.asarray(shown).tolist() == [[0, pytest.approx(-0.1)], [0, pytest.approx(0.1)]]
    # purple, where CQT is, has more blue than red; orange less
    low, high = (heat.images[0].cmap(heat.images[0].norm(v)) for v in (-0.1, 0.1))
    assert low[0] > low[2] and high[2] > high[0]
