"""Gates and interventions of other sources than both images: by hand, and whole runs."""

import csv
import json
import shutil
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config.loading import load_config
from corpora.plan import make_plan
from evaluation.summary import summarize
from gates import analysis as gate_analysis
from gates import share_figures
from gates.agreement import judge_sources
from gates.analysis import analyze
from gates.branch_ablation import draw_sources, intervene
from gates.description import describe_gates, share_differences
from gates.drawing import has_epochs
from gates.frozen import FrozenFold, Fused, _share, open_run
from gates.head_inputs import HeadInputs
from gates.results import (
    SHARE_FIGURES,
    BranchDifference,
    Estimate,
    ShareDifference,
    read_analysis,
)
from gates.values import FoldGates, utterance_columns, utterance_rows
from reports.publish import gather
from reports.report import write_report
from storage.ledger import read_ledger
from storage.run_folder import read_run
from system.errors import InputError
from tests.support.runs import run_experiment, without_images
from tests.support.speech_models import save_model
from training import beside

THREE = ("cqt", "mel", "speech")


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory):
    pytest.importorskip("transformers")
    return save_model(tmp_path_factory.mktemp("speech") / "wavlm", "wavlm-layer")


@pytest.fixture(scope="module")
def runs(recipe, speech_model, tmp_path_factory):
    """Runs by name, each made when it is asked for: two folds with one seed."""
    root, made = tmp_path_factory.mktemp("sources"), {}
    plan = make_plan(load_config(recipe, []))
    names = np.array([u.id for u in plan.utterances])
    np.savez(root / "v.npz", names=names, vectors=np.random.default_rng(0).normal(size=(40, 5)))
    speech, vectors = f"model.speech.model={speech_model}", f"model.vectors={root / 'v.npz'}"
    wishes = {
        "three": (speech, "model.branches=[cqt,mel,speech]", "model.speech.layers=[0,2]"),
        "two": (speech, vectors, *without_images("speech", "file")),
        "speech": (speech, *without_images("speech"), "model.speech.layers=[0,2]"),
        "images": (),
    }

    def run_of(name):
        if name not in made:
            own = [f"run.root={root}", f"name={name}", "run.folds=[1,2]", "train.epochs=1"]
            with torch.inference_mode(False):
                made[name] = run_experiment(load_config(recipe, [*own, *wishes[name]]), [])
        return made[name]

    yield run_of
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def analyzed(runs):
    beside = [runs("speech"), runs("images")]
    return runs("three"), analyze(runs("three"), beside, n_draws=2, progress=False)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def by_hand(model, features, gate=None):
    """Return classes and shares of a GMU of three sources by plain tensors."""
    gmu = model.head.gmu
    hidden = [
        torch.tanh(project(feature))
        for project, feature in zip(
            (gmu.project_cqt, gmu.project_mel, gmu.project_speech), features, strict=True
        )
    ]
    one, two = gmu.gate(torch.cat(hidden, 1)).chunk(2, 1)
    powers = [one.exp(), two.exp(), torch.ones_like(one)]
    shares = [power / sum(powers) for power in powers]
    if gate is not None:
        shares = [torch.full_like(one, share) for share in gate]
    terms = [share * h for share, h in zip(shares, hidden, strict=True)]
    sizes = torch.stack([term.abs().sum(1) for term in terms], 1)
    logits = model.head.classify(sum(terms))
    return logits.argmax(1), torch.stack(shares, 1), sizes / sizes.sum(1, keepdim=True)


@torch.inference_mode()
def test_interventions_on_three_sources_are_what_plain_tensors_make_of_them(runs):
    frozen = next(iter(open_run(read_run(runs("three"))).folds()))
    inputs, model = frozen.head_inputs("test"), frozen.model
    features, means = inputs.features[:3], frozen.means("train")
    train = frozen.head_inputs("train").features
    for mean, every in zip(means[:3], train, strict=False):
        torch.testing.assert_close(mean, every.mean(0), atol=1e-5, rtol=1e-5)
    assert means[3] is None and inputs.features[3] is None
    intact = frozen.fuse(inputs)
    preds, shares, sizes = by_hand(model, features)
    assert intact.preds.tolist() == preds.tolist()
    np.testing.assert_allclose(intact.gate, shares.numpy(), atol=1e-5)
    np.testing.assert_allclose(intact.share, sizes.numpy(), atol=1e-5)
    measured = intervene(frozen, inputs, intact, 2)
    table = frozen.result.test
    given = [draw_sources(table.targets, table.speakers, False, (1, i)) for i in range(2)]
    expected = {("intact", ""): [preds]}
    for s, source in enumerate(THREE):
        changed = [*features]
        changed[s] = means[s].expand_as(features[s])
        expected[source, "train mean"] = [by_hand(model, changed)[0]]
        drawn = [[f[d] if t == s else f for t, f in enumerate(features)] for d in given]
        expected[source, "other class"] = [by_hand(model, each)[0] for each in drawn]
        alone = [float(t == s) for t in range(3)]
        expected["gate", source] = [by_hand(model, features, alone)[0]]
    expected["gate", "equal"] = [by_hand(model, features, [1 / 3] * 3)[0]]
    assert set(measured.counts) - set(expected) == {(s, "same class") for s in THREE}
    for key, each in expected.items():
        found = measured.counts[key].confusions.sum(1)  # (draws, K, K)
        for confusion, own in zip(found, each, strict=True):
            counts = np.zeros((4, 4), int)
            np.add.at(counts, (table.targets, own.numpy()), 1)
            assert confusion.tolist() == counts.tolist(), key


@torch.inference_mode()
def test_speech_features_are_the_weighted_sum_of_the_stored_states(runs):
    frozen = next(iter(open_run(read_run(runs("three"))).folds()))
    model = frozen.model
    (store,) = frozen.fold.session.sources.values()
    keys = frozen.fold.hashes(frozen.fold.split.test)
    states = torch.from_numpy(store.means([store.rows[key].start for key in keys])).float()
    scaled = (states - model.speech_mean) / model.speech_std  # (N, L, D)
    weights = model.speech_branch.scores.softmax(0)
    expected = weights[0] * scaled[:, 0] + weights[1] * scaled[:, 1]
    found = frozen.head_inputs("test").of("speech")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_share_of_the_vector_by_hand():
    gate = torch.tensor([[[0.5], [0.25], [0.25]]])  # (1, 3, 1), of all units
    hidden = [torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([[2.0, 2.0]])]
    torch.testing.assert_close(_share(gate, hidden), torch.tensor([[1 / 3, 1 / 3, 1 / 3]]))
    two = _share(torch.tensor([[0.75]]), [torch.tensor([[1.0]]), torch.tensor([[-1.0]])])
    torch.testing.assert_close(two, torch.tensor([[0.75, 0.25]]))


class SpeechFold(FrozenFold):
    """A fold whose head reads the class from speech alone, whatever its gate says."""

    def means(self, part, on_batch=None):
        return torch.zeros(2), None, torch.zeros(2), None

    def fuse(self, inputs, forced_gate=None):
        probs = torch.nn.functional.one_hot(inputs.features[2][:, 0].long(), 2).numpy()
        gate = np.full((len(probs), 1), 0.9)
        return Fused(probs.astype(float), gate, None, probs.argmax(1))


def test_a_head_that_reads_speech_loses_with_speech_alone(runs):
    table = read_run(runs("images")).folds[0].test
    one = SimpleNamespace(test=table.take(np.arange(8)), classes=("a", "b"), fold=1, seed=0)
    one.task, one.scale = "class", None
    targets = one.test.targets % 2
    object.__setattr__(one.test, "targets", targets)
    frozen = SpeechFold(one, None, None)
    feature = torch.tensor(targets).float()[:, None].expand(-1, 2)
    inputs = HeadInputs(np.arange(8), (feature, None, feature, None))
    counts = intervene(frozen, inputs, frozen.fuse(inputs), 3).counts
    right = {
        key: np.trace(each.confusions.sum(1), axis1=1, axis2=2).tolist()
        for key, each in counts.items()
    }
    assert right["cqt", "train mean"] == [8] and right["speech", "train mean"] == [4]
    assert right["cqt", "other class"] == [8] * 3 and right["speech", "other class"] == [0] * 3
    assert {key[1] for key in counts if key[0] == "gate"} == {"cqt", "speech", "equal"}
    with pytest.raises(ValueError, match="there is no mel branch"):
        inputs.replaced("mel", torch.zeros(2))


def made_up(shares, speakers=4, utterances=6):
    """Return gates of sources, constant but for the class, in one fold: (n, K) mean shares."""
    n_classes = len(shares[0])
    targets = np.tile(np.arange(n_classes), speakers * utterances // n_classes)
    names = np.repeat([f"s{i}" for i in range(speakers)], utterances)
    ids, ones = np.arange(len(targets)).astype(str), np.ones(len(targets))
    noise = 0.001 * np.arange(speakers).repeat(utterances)
    signs = (1, -1, 0)
    return {
        source: [
            FoldGates(
                *(1, 0, ids, names, targets, targets, ones),
                *((np.array(own)[targets] + sign * noise)[:, None], ones / 3),
            )
        ]
        for source, own, sign in zip(THREE, shares, signs, strict=False)
    }


@pytest.fixture
def run():
    fold = SimpleNamespace(task="class", classes=("a", "b"), scale=None)
    return SimpleNamespace(classes=("a", "b"), folds=[fold], about={})


def test_questions_about_three_sources_are_corrected_together(run):
    found = describe_gates(run, made_up([[0.2, 0.4], [0.3, 0.1], [0.5, 0.5]]))
    assert list(found) == list(THREE)
    assert [found[s].mean.value for s in THREE] == pytest.approx([0.3015, 0.1985, 0.5])
    tests = {s: {q.key: q for q in found[s].questions} for s in THREE}
    assert [list(own) for own in tests.values()] == [["class"]] * 3
    # four speakers in one order: 1 of 2^3 arrangements; a share without classes has p = 1
    assert [tests[s]["class"].p for s in THREE] == pytest.approx([1 / 8, 1 / 8, 1])
    assert [tests[s]["class"].p_holm for s in THREE] == pytest.approx([3 / 8, 3 / 8, 1])
    assert [row.value for row in found["mel"].deviations] == pytest.approx([0.1, -0.1])


def test_of_two_sources_the_first_alone_is_asked_about(run):
    found = describe_gates(run, made_up([[0.2, 0.4], [0.8, 0.6]]))
    assert [len(own.questions) for own in found.values()] == [1, 0]
    assert found["cqt"].questions[0].p_holm == found["cqt"].questions[0].p
    assert found["mel"].mean.value == pytest.approx(1 - found["cqt"].mean.value)
    assert share_differences(run, made_up([[0.2, 0.4], [0.8, 0.6]])) == []


def test_shares_are_compared_in_pairs_over_speakers(run):
    found = share_differences(run, made_up([[0.2, 0.4], [0.3, 0.1], [0.5, 0.5]]))
    by = {(one.class_name, one.a, one.b): one for one in found}
    assert set(by) == {(k, *pair) for k in (None, "a", "b") for pair in combinations(THREE, 2)}
    assert by["a", "cqt", "mel"].value == pytest.approx(-0.1 + 2 * 0.0015)
    assert by[None, "cqt", "speech"].value == pytest.approx(-0.2 + 0.0015)
    # Student's t of the speakers' 0, 1, 2 and 3 thousandths: t(3) = 3.182, s = 1.291, n = 4
    reach = 3.18245 * 0.00129099 / 2
    low, high = by[None, "cqt", "speech"].interval
    assert (low, high) == pytest.approx((-0.1985 - reach, -0.1985 + reach), abs=1e-6)


def test_columns_name_their_sources(run):
    gates = made_up([[0.2, 0.4], [0.3, 0.1], [0.5, 0.5]])
    head = utterance_columns(gates)
    assert head[-5:] == [f"gate_{n}_speech" for n in ("mean", "std", "min", "max")] + [
        "vector_share_speech"
    ]
    first = dict(zip(head, next(iter(utterance_rows(run, gates))), strict=True))
    shares = [float(first[f"gate_mean_{source}"]) for source in THREE]
    assert shares == pytest.approx([0.2, 0.3, 0.5])


def pairs(of, cqt_mel, cqt_speech, mel_speech):
    """Return differences of the three pairs; a value or a value and half its interval."""
    found = []
    for (a, b), value in zip(
        combinations(THREE, 2), (cqt_mel, cqt_speech, mel_speech), strict=True
    ):
        middle, half = value if isinstance(value, tuple) else (value, 0.01)
        found.append(of(a, b, Estimate(middle, [middle - half, middle + half])))
    return found


def lead(a, b, one):
    return ShareDifference(one.value, one.interval, None, a, b)


def fall(a, b, one):
    return BranchDifference(None, one, 0.01, [0.05, 0.2], a, b)


@pytest.mark.parametrize(
    ("shares", "falls", "verdict", "leans", "relies"),
    [
        ((0.0, -0.2, -0.2), (0.0, -0.2, -0.2), "agree", "speech", "speech"),
        ((0.2, 0.3, 0.1), (0.1, 0.2, 0.1), "agree", "CQT", "CQT"),
        ((0.2, 0.3, 0.1), (-0.1, 0.1, 0.2), "disagree", "CQT", "Mel"),
        ((0.2, (0.05, 0.06), -0.1), (0.1, 0.2, 0.1), "undecided", None, "CQT"),  # not sure of one
        ((0.2, 0.03, -0.1), (0.1, 0.2, 0.1), "undecided", None, "CQT"),  # sure, but by too little
        ((0.2, 0.3, 0.1), (0.1, (0.2, 0.3), 0.1), "undecided", "CQT", None),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "undecided", None, None),
    ],
)
def test_a_source_must_lead_each_other(shares, falls, verdict, leans, relies):
    found = judge_sources(pairs(lead, *shares), pairs(fall, *falls))
    assert (found.verdict, found.leans, found.relies) == (verdict, leans, relies)
    assert ("no source alone" in found.words) == (leans is None)


def test_a_source_whose_loss_costs_nothing_is_not_relied_on():
    free = [
        BranchDifference(None, Estimate(0.2, [0.1, 0.3]), 0.01, [-0.1, 0.1], a, b)
        for a, b in combinations(THREE, 2)
    ]
    found = judge_sources(pairs(lead, 0.2, 0.3, 0.1), free)
    assert (found.leans, found.relies) == ("CQT", None)
    assert "the loss of CQT, Mel or speech costs no UA significantly" in found.words


def test_an_analysis_of_three_sources_is_that_of_its_predictions(analyzed):
    folder, found = analyzed
    run, table = read_run(folder), rows(folder / "gates/utterances.csv")
    assert found.sources == list(THREE) and list(found.described) == list(THREE)
    shares = np.concatenate([fold.test.shares for fold in run.folds])
    for s, source in enumerate(THREE):
        there = [float(row[f"gate_mean_{source}"]) for row in table]
        assert there == pytest.approx(shares[:, s].tolist(), abs=1e-4)
        speakers = np.array([row["speaker"] for row in table])
        means = [np.mean(np.array(there)[speakers == name]) for name in np.unique(speakers)]
        assert found.described[source].mean.value == pytest.approx(np.mean(means), abs=1e-6)
    units = rows(folder / "gates/units.csv")
    assert {row["source"] for row in units} == set(THREE)
    width = len(units) // (2 * 3)
    assert [int(row["unit"]) for row in units[:width]] == list(range(width))
    changed = [(one.changed, one.how) for one in found.branch_ablation.interventions]
    assert len(changed) == 3 * 3 + 4 and ("gate", "speech") in changed
    assert {(b.a, b.b) for b in found.branch_ablation.branches} == set(combinations(THREE, 2))
    kinds = [line["kind"] for line in read_ledger(folder)]
    assert kinds.count("gates") == kinds.count("branch ablation") == 2


def test_the_tables_say_which_source_a_share_is_of(analyzed):
    folder, found = analyzed
    text = (folder / "gates/gates.md").read_text()
    assert "Mel-STFT / MViTv2 and the speech model, which add up to 1: 1 = that source" in text
    assert "| source | mean share of the gate |" in text and "0 = Mel" not in text
    assert "| share of | question |" in text and "Does the mean share differ" in text
    assert "| gate forced to speech alone |" in text and "| gate forced to equal shares |" in text
    assert "| speech trained alone (speech) |" in text
    assert "| CQT and Mel trained alone (images) |" in text
    assert "speech differs from the run in fusion and branches alone." in text
    assert f"On IEMOCAP, t{found.verdicts[0].words[1:]}" in text[:400]
    for name in SHARE_FIGURES:
        svg = (folder / f"gates/{name}.svg").read_text()
        assert "0 = Mel" not in svg
        assert name in ("falls", "class_deviations", "class_shares") or "alone" in svg, name
    assert has_epochs(read_run(folder), THREE)
    assert read_analysis(read_run(folder)).results == found


def test_two_sources_that_are_not_both_images(runs):
    folder = runs("two")
    found = analyze(folder, [], n_draws=1, progress=False)
    assert found.sources == ["speech", "file"] and not found.of_images
    means = [gates.mean.value for gates in found.described.values()]
    assert sum(means) == pytest.approx(1, abs=1e-6)
    assert found.others["file"].questions == [] and found.gates.questions
    assert {v.leans for v in found.verdicts} <= {"speech", "file", None}
    text = (folder / "gates/gates.md").read_text()
    assert "shares of the speech model and the vectors of model.vectors, which add up" in text
    assert "The share of file is 1 minus that of speech" in text and "CQT" not in text


def test_another_speech_model_or_other_vectors_are_refused(runs, tmp_path, monkeypatch):
    folder = runs("two")
    before = (folder / "ledger.jsonl").read_bytes()
    other = save_model(tmp_path / "other", "hubert-layer")
    with pytest.raises(InputError, match=r"other is not the .*wavlm that the branch speech of"):
        analyze(folder, overrides=[f"model.speech.model={other}"], progress=False)
    np.savez(tmp_path / "v.npz", one=np.ones(5))
    with pytest.raises(InputError, match=r"v.npz is not the v.npz that the branch file of"):
        analyze(folder, overrides=[f"model.vectors={tmp_path / 'v.npz'}"], progress=False)
    assert (folder / "ledger.jsonl").read_bytes() == before
    (model,) = [read_run(folder).config["model.speech.model"]]
    moved = shutil.copytree(model, tmp_path / "wavlm")
    monkeypatch.setattr(gate_analysis, "draw", lambda *_: {})
    analyze(folder, ablate=False, overrides=[f"model.speech.model={moved}"], progress=False)


def test_kept_states_are_analyzed_without_the_speech_model(
    runs, speech_model, tmp_path, monkeypatch
):
    folder = runs("two")
    monkeypatch.setattr(gate_analysis, "draw", lambda *_: {})
    expected = analyze(folder, n_draws=1, progress=False)
    away = speech_model.rename(tmp_path / "away")
    beside._open.cache_clear()  # a new process
    try:
        assert analyze(folder, n_draws=1, progress=False) == expected
        for words in ([f"run.store={tmp_path}"], [f"model.speech.model={speech_model}"]):
            with pytest.raises(InputError, match=f"the speech model {speech_model}: there is no"):
                analyze(folder, n_draws=1, overrides=words, progress=False)
        with pytest.raises(
            InputError, match="lacks hidden states of some recordings: give model.s"
        ):
            analyze(folder, overrides=[f"run.store={tmp_path}"], progress=False)
        with pytest.raises(InputError, match="there is no such folder"):
            open_run(read_run(folder), trains=True)
        found = analyze(
            folder,
            n_draws=1,
            overrides=[f"run.store={tmp_path}", f"model.speech.model={away}"],
            progress=False,
        )
        assert found == expected
    finally:
        away.rename(speech_model)


def test_runs_of_other_branches_cannot_stand_beside(runs):
    with pytest.raises(InputError, match=r"\(cqt_only or mel_only\) can be compared"):
        analyze(runs("images"), [runs("speech")], progress=False)
    several = r"\(cqt_only or mel_only or speech_only\), or that join some of cqt, mel, speech,"
    with pytest.raises(InputError, match=several):
        analyze(runs("three"), [runs("two")], progress=False)


def test_layers_have_the_softmax_of_their_scores_in_summary_and_page(analyzed, runs):
    folder, _ = analyzed
    summary, run = summarize(folder), read_run(folder)
    own = summary.layer_weights
    assert own.layers == [0, 2] and list(own.weights) == ["fold 1 seed 0", "fold 2 seed 0"]
    scores = [fold.model.speech_branch.scores for fold in open_run(run).folds()]
    expected = np.array([np.exp(s.tolist()) / np.exp(s.tolist()).sum() for s in scores])
    np.testing.assert_allclose(list(own.weights.values()), expected, atol=1e-6)
    means, spreads = expected.mean(0), expected.std(0, ddof=1)
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads, strict=True)]
    text = (folder / "summary.md").read_text()
    assert f"| state | three |\n|---|---:|\n| 0 | {cells[0]} |\n| 2 | {cells[1]} |" in text
    assert "layer_weights" in json.loads((folder / "summary.json").read_text())
    assert summarize(runs("images")).layer_weights is None
    page = folder.parent / "page.html"
    write_report(page, *gather([folder, runs("images")]), audio=False)
    html = page.read_text()
    section = html.partition('<section id="layers">')[2].partition("</section>")[0]
    assert cells[0] in section and section.count("<img") == 1
    gates = html.partition('<section id="gates">')[2].partition("</section>")[0]
    assert "1 weights CQT / MaxViT alone" in gates and "each has a share of the gate" in gates
    assert gates.count("<img") == 4  # two of each run
    ablation = html.partition('<section id="branch-ablation">')[2].partition("</section>")[0]
    assert "shares of CQT / MaxViT, Mel-STFT / MViTv2 and the speech model" in ablation
    assert ablation.count('src="data:image/png') == len(SHARE_FIGURES)


def test_bars_of_a_class_add_up_to_one():
    from evaluation.share_figures import class_shares

    shares = np.array([[0.2, 0.3, 0.5], [np.nan] * 3])
    (axes,) = class_shares(shares, ["a", "none"], THREE).axes
    bars = [bar for bar in axes.patches if bar.get_y() < 0]  # of the first class
    assert [bar.get_width() for bar in bars] == pytest.approx([0.2, 0.3, 0.5])
    assert [bar.get_x() for bar in bars] == pytest.approx([0, 0.2, 0.5])
    assert [text.get_text() for text in axes.texts] == ["0.20", "0.30", "0.50"]


def test_figures_of_shares_take_few_and_equal_values():
    shares = [np.full((2, 3), 1 / 3), np.zeros((0, 3))]
    right = np.array([True, False])
    lines = [share_figures.ShareEpochs([1.0], {s: [0.3] for s in THREE}, 1)] * 31
    for figure in (
        share_figures.class_histograms(shares, ["a", "$x_1$"], THREE),
        share_figures.gate_and_confidence(shares[0], np.ones(2), right, THREE),
        share_figures.gate_over_epochs(lines, THREE),
    ):
        assert figure.axes
    assert figure._suptitle.get_text() == "first 30 of 31 models"
