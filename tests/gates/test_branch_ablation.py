"""Interventions do what they say to features, and cost what the counts say; verdicts by hand."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from audio.reading import read_audio
from config.loading import load_config
from evaluation.metrics import SCORES, recalls
from evaluation.paired_tests import fixed_weights_test
from evaluation.significance import speaker_confusions, speaker_interval
from gates import analysis as gate_analysis
from gates import retrained
from gates.agreement import judge
from gates.analysis import analyze
from gates.branch_ablation import Counts, FoldCounts, describe_ablation, draw_sources, intervene
from gates.frozen import FrozenFold, Fused, open_run
from gates.head_inputs import HeadInputs
from gates.results import (
    BranchAblation,
    BranchDifference,
    Estimate,
    GateDescription,
    GroupMean,
    SpeakerMean,
)
from inference.predictor import FoldModel, weights_digests
from storage.run_folder import read_run
from system.errors import InputError
from tests.support.runs import run_experiment

RATE = 16_000
ALONE = {
    "cqt_only": ("model.mel_backbone=null", "optim.optimizer.mel=null"),
    "mel_only": ("model.cqt_backbone=null", "optim.optimizer.cqt=null"),
}


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """Runs by fusion, each made when it is asked for; gmu and one branch have two folds."""
    root, made = tmp_path_factory.mktemp("ablation"), {}

    def run_of(fusion, folds="[1]"):
        if (fusion, folds) not in made:
            wishes = [f"run.root={root}", "train.epochs=1", f"run.folds={folds}"]
            wishes += [f"name={fusion}_{len(made)}", f"model.fusion={fusion}"]
            config = load_config(recipe, [*wishes, *ALONE.get(fusion, ())])
            with torch.inference_mode(False):
                made[fusion, folds] = run_experiment(config, [])
        return made[fusion, folds]

    yield run_of
    shutil.rmtree(root)


@pytest.fixture(autouse=True)
def no_images(monkeypatch):
    monkeypatch.setattr(gate_analysis, "draw", lambda *_: {})


def inputs_of(crops, width=3, branches=("cqt", "mel")):
    """Return features that name their utterance and crop: utterance + crop / 10."""
    utterance = np.repeat(np.arange(len(crops)), crops)
    nth = np.concatenate([np.arange(n) for n in crops])
    feature = torch.tensor(utterance + nth / 10).float()[:, None].expand(-1, width)
    return HeadInputs(utterance, tuple(feature * (1 + i) for i, _ in enumerate(branches)))


def test_crops_of_the_source_are_taken_in_turn():
    inputs = inputs_of([2, 3, 1])
    sources = np.array([1, 0, 1])
    cqt, kept = inputs.resampled("cqt", sources).features
    assert torch.equal(kept, inputs.features[1])
    kept, mel = inputs.resampled("mel", sources).features
    assert torch.equal(kept, inputs.features[0])
    assert cqt[:, 0].tolist() == pytest.approx([1.0, 1.1, 0.0, 0.1, 0.0, 1.0])
    assert mel[:, 0].tolist() == pytest.approx([2.0, 2.2, 0.0, 0.2, 0.0, 2.0])
    own, _ = inputs.resampled("cqt", np.arange(3)).features
    assert torch.equal(own, inputs.features[0])


def test_one_branch_is_replaced_and_the_other_stays():
    inputs = inputs_of([1, 2])
    swapped = inputs.replaced("mel", torch.full((3,), 7.0))
    assert torch.equal(swapped.features[0], inputs.features[0])
    assert (swapped.features[1] == 7).all() and swapped.features[1].shape == (3, 3)
    with pytest.raises(ValueError, match="no mel branch"):
        HeadInputs(inputs.utterance, (inputs.features[0], None)).replaced("mel", torch.zeros(3))
    with pytest.raises(ValueError, match="no mel branch"):
        HeadInputs(inputs.utterance, (inputs.features[0], None)).resampled("mel", np.arange(2))


@pytest.mark.parametrize("same", [True, False])
def test_sources_are_of_the_class_asked_for_and_of_another_speaker(same):
    draw = np.random.default_rng(0)
    targets, speakers = draw.integers(0, 3, 60), np.array(list("abc"))[draw.integers(0, 3, 60)]
    drawn = [draw_sources(targets, speakers, same, (1, i)) for i in range(20)]
    for sources in drawn:
        assert ((targets[sources] == targets) == same).all()
        assert (speakers[sources] != speakers).all()
    assert (draw_sources(targets, speakers, same, (1, 0)) == drawn[0]).all()
    assert len({tuple(sources) for sources in drawn}) == 20
    first = np.array(drawn)[:, 0]
    allowed = ((targets == targets[0]) == same) & (speakers != speakers[0])
    assert set(first) <= set(np.flatnonzero(allowed)) and len(set(first)) > 5


def test_sources_of_few_utterances():
    targets, speakers = np.array([0, 0, 1]), np.array(["a", "a", "a"])
    assert draw_sources(targets, speakers, True, (1, 0)).tolist() == [1, 0, 2]  # none for the last
    assert draw_sources(targets, speakers, False, (1, 0))[:2].tolist() == [2, 2]


def images_of(run, part):
    """Yield each clip's images from its recording, with nothing of the store."""
    frozen = next(iter(open_run(run).folds()))
    model = FoldModel(frozen.result.folder)
    for utterance in dict(frozen.fold.split.parts())[part]:
        yield model.images_of(torch.from_numpy(read_audio(utterance.path, RATE)))


@torch.inference_mode()
def test_train_means_are_those_of_the_training_clips(runs):
    run = read_run(runs("gmu", "[1,2]"))
    frozen = next(iter(open_run(run).folds()))
    each = [frozen.model.features(*pair) for pair in images_of(run, "train")]
    assert len(each) == 24
    for place, mean in enumerate(frozen.means("train")):
        expected = torch.cat([pair[place] for pair in each]).mean(0)
        assert torch.allclose(mean, expected, atol=1e-5)


@torch.inference_mode()
def test_a_clip_of_many_crops_counts_once_in_the_mean(tiny):
    with torch.inference_mode(False):
        folder = run_experiment(tiny("features.seconds=0.15", "train.epochs=1"), [])
    run = read_run(folder)
    frozen = next(iter(open_run(run).folds()))
    clips = [frozen.model.features(*pair) for pair in images_of(run, "train")]
    assert {len(cqt) for cqt, _ in clips} == {2}
    store = frozen.fold.session.store
    key = frozen.fold.hashes(frozen.fold.split.train)[0]
    store.rows[key] = range(store.rows[key].start, store.rows[key].start + 1)  # one crop alone
    expected = torch.stack([clips[0][0][0], *(cqt.mean(0) for cqt, _ in clips[1:])]).mean(0)
    assert torch.allclose(frozen.means("train")[0], expected, atol=1e-5)


def by_hand(model, features, gate=None):
    """Return the class of GMU features by plain tensors."""
    gmu = model.head.gmu
    h_cqt, h_mel = (
        torch.tanh(gmu.project_cqt(features[0])),
        torch.tanh(gmu.project_mel(features[1])),
    )
    if gate is None:
        gate = torch.sigmoid(gmu.gate(torch.cat([h_cqt, h_mel], 1)))
    return model.head.classify(gate * h_cqt + (1 - gate) * h_mel).argmax(1)


@torch.inference_mode()
def test_interventions_are_what_plain_tensors_make_of_them(runs):
    run = read_run(runs("gmu", "[1,2]"))
    frozen = next(iter(open_run(run).folds()))
    inputs = frozen.head_inputs("test")
    cqt, mel = (
        torch.cat(f)
        for f in zip(*[frozen.model.features(*p) for p in images_of(run, "test")], strict=True)
    )
    assert torch.allclose(inputs.features[0], cqt, atol=1e-4)
    measured = intervene(frozen, inputs, frozen.fuse(inputs), 2)
    means = frozen.means("train")
    table = frozen.result.test
    given = [draw_sources(table.targets, table.speakers, False, (1, i)) for i in range(2)]
    expected = {
        ("intact", ""): [by_hand(frozen.model, (cqt, mel))],
        ("cqt", "train mean"): [by_hand(frozen.model, (means[0].expand_as(cqt), mel))],
        ("mel", "train mean"): [by_hand(frozen.model, (cqt, means[1].expand_as(mel)))],
        ("cqt", "other class"): [by_hand(frozen.model, (cqt[d], mel)) for d in given],
        ("mel", "other class"): [by_hand(frozen.model, (cqt, mel[d])) for d in given],
        ("gate", "0"): [by_hand(frozen.model, (cqt, mel), 0.0)],
        ("gate", "0.5"): [by_hand(frozen.model, (cqt, mel), 0.5)],
        ("gate", "1"): [by_hand(frozen.model, (cqt, mel), 1.0)],
    }
    assert set(measured.counts) - set(expected) == {("cqt", "same class"), ("mel", "same class")}
    for key, preds in expected.items():
        lists = table.targets.tolist(), table.speakers.tolist()
        counts = [speaker_confusions(lists[0], p.tolist(), lists[1], 4)[1] for p in preds]
        assert measured.counts[key].confusions.tolist() == np.stack(counts).tolist(), key
    for branch in ("cqt", "mel"):
        hits = [
            int((p.numpy() == table.targets[d]).sum())
            for p, d in zip(expected[branch, "other class"], given, strict=True)
        ]
        assert measured.counts[branch, "other class"].follows == (sum(hits), 2 * len(table.targets))


class FakeFold(FrozenFold):
    """A fold whose head reads the class from CQT alone, whatever its gate says."""

    def means(self, part, on_batch=None):
        return torch.zeros(2), torch.zeros(2)

    def fuse(self, inputs, forced_gate=None):
        probs = torch.nn.functional.one_hot(inputs.features[0][:, 0].long(), 2).numpy()
        return Fused(probs.astype(float), np.full((len(probs), 1), 0.1), None, probs.argmax(1))


def test_a_head_that_reads_one_branch_loses_with_that_branch_alone(runs):
    run = read_run(runs("gmu", "[1,2]"))
    table = run.folds[0].test
    targets = table.targets % 2
    one = SimpleNamespace(test=table.take(np.arange(8)), classes=("a", "b"), fold=1, seed=0)
    one.task, one.scale = "class", None
    object.__setattr__(one.test, "targets", targets)
    frozen = FakeFold(one, None, None)
    feature = torch.tensor(targets).float()[:, None].expand(-1, 2)
    inputs = HeadInputs(np.arange(8), (feature, feature))
    counts = intervene(frozen, inputs, frozen.fuse(inputs), 3).counts
    right = {
        key: np.trace(one.confusions.sum(1), axis1=1, axis2=2).tolist()
        for key, one in counts.items()
    }
    assert right["intact", ""] == [8] and right["mel", "train mean"] == [8]
    assert right["mel", "other class"] == [8] * 3 and right["cqt", "other class"] == [0] * 3
    assert right["cqt", "train mean"] == [4] and right["cqt", "same class"] == [8] * 3
    assert counts["cqt", "other class"].follows == (24, 24)  # three draws of eight utterances
    assert counts["mel", "other class"].follows == (0, 24)


@pytest.fixture(scope="module")
def counted():
    """Counts of two seeds and two folds, three draws, four speakers, two classes."""
    draw = np.random.default_rng(3)
    support = np.array([[5, 3], [4, 4], [6, 2], [3, 5]])

    def counts(n, sure):
        right = draw.binomial(support, sure, (n, 4, 2))
        each = np.zeros((n, 4, 2, 2), int)
        for k in (0, 1):
            each[:, :, k, k], each[:, :, k, 1 - k] = right[..., k], support[:, k] - right[..., k]
        return each

    keys = {
        ("intact", ""): (1, 0.9),
        ("cqt", "train mean"): (1, 0.4),
        ("mel", "train mean"): (1, 0.8),
    }
    keys |= {("cqt", "other class"): (3, 0.3), ("mel", "other class"): (3, 0.7)}
    of_seed = [{key: counts(*how) for key, how in keys.items()} for _ in range(2)]
    names = ["s1", "s2", "s3", "s4"]
    measured = []
    for seed, found in enumerate(of_seed):
        folds = ((slice(0, 2), (1, 10)), (slice(2, 4), (20, 30)))
        for some, follows in folds:  # two speakers each
            parts = {
                key: Counts(each[:, some], follows if "other class" in key else None)
                for key, each in found.items()
            }
            measured.append(FoldCounts(seed, names[some], parts))
    fold = SimpleNamespace(task="class", classes=("a", "b"), scale=None)
    run = SimpleNamespace(classes=fold.classes, seeds=[0, 1], folds=[fold])
    return of_seed, describe_ablation(run, measured, [])


def test_draws_count_as_further_seeds_beside_repeated_intact_ones(counted):
    of_seed, found = counted
    intact = np.concatenate([one["intact", ""] for one in of_seed])  # (2, 4, 2, 2)
    assert found.intact.value == pytest.approx(np.mean(SCORES["ua"](intact.sum(1))))
    rows = {(row.changed, row.how): row for row in found.interventions}
    for key, n in ((("cqt", "other class"), 3), (("mel", "train mean"), 1)):
        changed = np.concatenate([one[key] for one in of_seed])
        test = fixed_weights_test(np.repeat(intact, n, 0), changed, SCORES["ua"])
        row = rows[key]
        assert row.draws == n
        assert (row.fall.value, row.p) == (pytest.approx(test.difference), test.p)
        assert row.fall.interval == pytest.approx(test.interval, abs=1e-9)
        assert row.ua.interval == pytest.approx(speaker_interval(changed, SCORES["ua"]), abs=1e-9)
        falls = recalls(np.repeat(intact, n, 0).sum(1)) - recalls(changed.sum(1))
        assert row.recall_falls == pytest.approx(falls.mean(0).tolist())
    assert rows["cqt", "other class"].follows == 21 / 40  # utterances count, not folds
    assert rows["cqt", "train mean"].follows is None
    assert all(row.p_holm >= row.p for row in rows.values())


def balanced(confusion, k):
    """Return the balanced accuracy of a class against the rest, by scikit-learn."""
    cells = [(t, p) for t in (0, 1) for p in (0, 1) for _ in range(confusion[t, p])]
    target, pred = np.array(cells).T
    return balanced_accuracy_score(target == k, pred == k)


def test_branches_are_compared_by_their_losses(counted):
    of_seed, found = counted
    cqt, mel = (np.concatenate([o[b, "train mean"] for o in of_seed]) for b in ("cqt", "mel"))
    overall, first, second = found.branches
    assert (overall.class_name, first.class_name, second.class_name) == (None, "a", "b")
    ua = SCORES["ua"]
    assert overall.difference.value == pytest.approx((ua(mel.sum(1)) - ua(cqt.sum(1))).mean())
    for k, one in enumerate((first, second)):
        accuracy = [[balanced(c, k) for c in each.sum(1)] for each in (mel, cqt)]
        assert one.difference.value == pytest.approx(np.subtract(*accuracy).mean())
        assert one.difference.interval[0] < one.difference.value < one.difference.interval[1]


@pytest.mark.parametrize(
    ("gate", "difference", "verdict", "leans", "relies"),
    [
        ([0.55, 0.65], [0.02, 0.2], "agree", "CQT", "CQT"),
        ([0.35, 0.45], [-0.2, -0.02], "agree", "Mel", "Mel"),
        ([0.35, 0.45], [0.02, 0.2], "disagree", "Mel", "CQT"),
        ([0.55, 0.65], [-0.2, -0.02], "disagree", "CQT", "Mel"),
        ([0.45, 0.55], [0.02, 0.2], "undecided", None, "CQT"),
        ([0.505, 0.515], [0.02, 0.2], "undecided", None, "CQT"),  # surely above, but by 0.01
        ([0.485, 0.495], [-0.2, -0.02], "undecided", None, "Mel"),
        ([0.55, 0.65], [-0.02, 0.2], "undecided", "CQT", None),
        (None, [0.02, 0.2], "undecided", None, "CQT"),
        ([0.55, 0.65], None, "undecided", "CQT", None),
    ],
)
def test_verdicts_need_both_to_speak(gate, difference, verdict, leans, relies):
    differs = Estimate(float(np.mean(difference or [0.1])), difference)
    mean = Estimate(float(np.mean(gate or [0.6])), gate)
    found = judge(mean, BranchDifference(None, differs, 0.01, [0.1, 0.3]))
    assert (found.verdict, found.leans, found.relies) == (verdict, leans, relies)
    said = {"agree": "they agree.", "disagree": "they disagree.", "undecided": "undecided."}
    assert found.words.endswith(said[verdict])


@pytest.mark.parametrize("cost", [[-0.4, -0.2], [-0.1, 0.3], None])
def test_a_branch_whose_loss_costs_nothing_is_not_relied_on(cost):
    """Both replacements may improve a score: the smaller improvement is not a cost."""
    branches = BranchDifference("a", Estimate(0.23, [0.13, 0.33]), 0.01, cost)
    found = judge(Estimate(0.6, [0.55, 0.65]), branches)
    assert (found.verdict, found.relies) == ("undecided", None)
    assert "nor that of Mel costs balanced accuracy significantly" in found.words


def test_verdicts_take_gate_and_loss_of_the_same_class():
    mean = SpeakerMean(0.6, [0.55, 0.65], 9, 3)
    groups = {"class": [GroupMean(0.4, [0.3, 0.45], 9, 3, "b")]}
    branches = [
        BranchDifference(name, Estimate(0.1, [0.05, 0.2]), 0.01, [0.1, 0.3]) for name in (None, "b")
    ]
    overall, of_class = gate_analysis._verdicts(
        GateDescription(mean, mean, groups, [], [], []),
        BranchAblation(Estimate(0.5, None), [], branches, []),
    )
    assert (overall.class_name, overall.verdict) == (None, "agree") and "UA" in overall.words
    assert (of_class.class_name, of_class.verdict) == ("b", "disagree")
    assert "costs more balanced accuracy" in of_class.words


def test_runs_of_one_branch_stand_beside(runs):
    gmu, cqt, mel = (runs(f, "[1,2]") for f in ("gmu", "cqt_only", "mel_only"))
    found = analyze(gmu, [cqt, mel], n_draws=1, progress=False)
    assert [(one.run, one.branch) for one in found.branch_ablation.unimodal] == [
        (cqt.name, "cqt"),
        (mel.name, "mel"),
    ]
    for folder, one in zip((cqt, mel), found.branch_ablation.unimodal, strict=True):
        tables = [read_run(f).of_seed(0) for f in (gmu, folder)]
        ua = [
            np.mean([(t.preds == t.targets)[t.targets == k].mean() for k in range(4)])
            for t in tables
        ]
        assert one.ua.value == pytest.approx(ua[1]) and one.fall.value == pytest.approx(
            ua[0] - ua[1]
        )
        assert one.weights == weights_digests(read_run(folder)) and one.differs == []
    text = (gmu / "gates/gates.md").read_text()
    whole = found.verdicts[0]
    assert whole.class_name is None and f"\n\nOn IEMOCAP, t{whole.words[1:]}\n\n" in text[:300]
    assert f"CQT trained alone ({cqt.name})" in text and f"Mel trained alone ({mel.name})" in text


def test_a_run_beside_differs_in_what_both_have_but_the_fusion():
    differences = {
        "model.fusion": {"both": "gmu", "one": "cqt_only"},
        "train.epochs": {"both": 15, "one": 5},
        "optim.optimizer.mel": {"both": {"name": "radam"}, "one": None},  # has no such branch
        "model.gate": {"both": "scalar"},  # has no gate
        "loss.label_smoothing": {"both": 0.1, "one": 0.1, "third": 0.0},
    }
    assert retrained._config_differences(differences, "both", "one") == ["train.epochs: 15 / 5"]


def test_other_runs_are_refused_before_any_evaluation(runs):
    gmu, cqt = runs("gmu", "[1,2]"), runs("cqt_only", "[1,2]")
    before = (gmu / "ledger.jsonl").read_bytes()
    with pytest.raises(InputError, match="model.fusion=gmu: only runs of one branch"):
        analyze(gmu, [gmu], progress=False)
    baseline = replace(read_run(cqt), config={"baseline.kind": "majority"})
    with pytest.raises(InputError, match="is of the baseline majority: only runs of one branch"):
        retrained.compare_unimodal(read_run(gmu), [baseline])
    with pytest.raises(InputError, match="finished folds differ") as caught:
        analyze(gmu, [runs("cqt_only")], progress=False)
    assert "[1, 2]" in str(caught.value) and "[1]" in str(caught.value)
    with pytest.raises(InputError, match="model.fusion=cqt_only, which reads one branch"):
        analyze(cqt, progress=False)
    with pytest.raises(InputError, match="drop --no-branch-ablation"):
        analyze(gmu, [cqt], ablate=False, progress=False)
    with pytest.raises(InputError, match="no gate"):
        analyze(runs("concat"), ablate=False, progress=False)
    assert (gmu / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize("fusion", ["concat", "mean", "sum"])
def test_fusions_without_a_gate_have_branches_to_ablate(runs, fusion):
    folder = runs(fusion)
    found = analyze(folder, n_draws=1, progress=False)
    assert (
        found.gates is None
        and found.verdicts == []
        and not (folder / "gates/utterances.csv").exists()
    )
    assert {one.changed for one in found.branch_ablation.interventions} == {"cqt", "mel"}
    text = (folder / "gates/gates.md").read_text()
    assert "\n\nOn IEMOCAP, this fusion has no gate; the branch" in text
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    assert ['"kind": "branch ablation"' in line for line in lines] == [False, True]


@pytest.mark.parametrize("fusion", ["cross_attention", "cross_attention_contrastive"])
@torch.inference_mode()
def test_cross_attention_is_asked_by_its_tokens(runs, fusion):
    folder = runs(fusion)
    frozen = next(iter(open_run(read_run(folder)).folds()))
    inputs = frozen.head_inputs("test")
    assert inputs.features[0].ndim == 3
    means = frozen.means("train")
    assert means[0].shape == inputs.features[0].shape[1:]
    swapped = inputs.replaced("cqt", means[0])
    expected = frozen.model.head(means[0].expand_as(inputs.features[0]), inputs.features[1])
    assert np.allclose(frozen.fuse(swapped).probs, expected.logits.softmax(1).numpy(), atol=1e-5)
    found = analyze(folder, n_draws=1, progress=False)
    assert found.gates is not None and len(found.branch_ablation.interventions) == 9
    assert "changed tokens of one branch" in (folder / "gates/gates.md").read_text()
