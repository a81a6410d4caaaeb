"""Whole tiny runs of label distributions: trained, scored, compared, analysed, predicted with."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from baselines.fold import run_fold
from baselines.session import open_baseline
from config.baselines import load_baseline
from config.loading import load_config, load_stored_config
from corpora.plan import make_plan
from evaluation.comparison import compare
from evaluation.conclusion import conclusion
from evaluation.consistency import check_scores
from evaluation.summary import summarize
from evaluation.tables import comparison_markdown
from experiments.jobs import finished_epochs
from gates.analysis import analyze
from inference import load
from models.losses import FusionLoss
from reports.publish import gather, publish
from storage.run_folder import read_run
from system.errors import InputError, RunError
from tests.support.runs import run_experiment
from tests.support.votes import vote_on_corpus

FUSIONS = ("concat", "gmu_contrastive")
CLASSES = ("neutral", "happy", "angry", "sad")


@pytest.fixture(scope="module")
def words(corpus_root, tmp_path_factory) -> list[str]:
    """Overrides that read the corpus with votes."""
    folder = tmp_path_factory.mktemp("voted")
    return [
        *("task=distribution", "run.folds=[1,2,3]", "train.epochs=3"),
        *(f"run.root={folder / 'runs'}", f"corpus.root={vote_on_corpus(corpus_root, folder)}"),
    ]


@pytest.fixture(scope="module")
def runs(recipe, words):
    """A finished run of three folds for each of two fusions."""
    return {
        fusion: run_experiment(
            load_config(recipe, [*words, f"name={fusion}", f"model.fusion={fusion}"]), ["x"]
        )
        for fusion in FUSIONS
    }


def shares_of(run):
    """Return votes and predicted shares of fold 1, as the file has them: (N, 4) each."""
    with (run / "folds/fold-1_seed-0/predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return tuple(
        np.array([[float(row[f"{kind}_{name}"]) for name in CLASSES] for row in rows])
        for kind in ("target", "prob")
    )


def test_metrics_are_those_of_the_predictions(runs):
    for run in runs.values():
        votes, shares = shares_of(run)
        metrics = json.loads((run / "folds/fold-1_seed-0/metrics.json").read_text())
        js = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(votes, shares, strict=True)]
        assert metrics["test"]["scores"]["similarity"] == pytest.approx(1 - np.mean(js), abs=1e-5)
        assert metrics["task"] == "distribution"
        check_scores(read_run(run))


def test_tones_are_told_apart_better_than_by_equal_shares(runs):
    for run in runs.values():
        test = summarize(run).test
        assert test["similarity"].pooled > test["even"].pooled + 0.03


def test_dev_loss_is_the_cross_entropy_and_1_minus_jsd_selects(runs):
    with (runs["concat"] / "folds/fold-1_seed-0/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["dev_similarity"]) for row in rows]
    metrics = json.loads((runs["concat"] / "folds/fold-1_seed-0/metrics.json").read_text())
    assert metrics["best_epoch"] == 1 + int(np.argmax(scores)) and "cross_entropy" in rows[0]
    votes = np.array([u.target for u in _dev(runs["concat"])])
    own = -np.sum(np.where(votes > 0, votes * np.log(np.where(votes > 0, votes, 1)), 0), 1).mean()
    best = rows[metrics["best_epoch"] - 1]
    assert float(best["dev_loss"]) == pytest.approx(own + float(best["dev_kl"]), abs=1e-4)


def _dev(run):
    return make_plan(load_stored_config(run / "config.yaml")).splits[0].dev


def test_runs_are_compared_and_shown(runs, tmp_path):
    found, comparison = gather(list(runs.values()))
    table = comparison_markdown(comparison)
    assert "| 1 - JSD | macro-F1 | KL | cosine |" in table and "McNemar" not in table
    assert "1 - JSD" in conclusion(comparison)
    publish(tmp_path / "out", found, comparison)
    page = (tmp_path / "out/report.html").read_text()
    assert "largest divergence" in page and 'id="classes"' not in page
    with pytest.raises(InputError, match="for classes alone"):
        gather(list(runs.values()), breakdowns=True)


def test_gates_are_analysed_by_the_class_with_most_votes(runs):
    results = analyze(runs["gmu_contrastive"], n_draws=2, progress=False)
    assert tuple(results.classes) == CLASSES
    assert results.branch_ablation.intact.value == pytest.approx(
        summarize(runs["gmu_contrastive"]).test["similarity"].pooled, abs=1e-4
    )
    text = (runs["gmu_contrastive"] / "gates/gates.md").read_text()
    assert "the one with most votes" in text and "1 - JSD of the frozen head" in text


def test_predict_gives_the_shares_of_the_test(runs):
    run = read_run(runs["concat"])
    table = run.folds[0].test
    model = load(run.folds[0].folder)
    label = model.predict(run.audio_file(table.utterances[0]))
    np.testing.assert_allclose(list(label.probs.values()), table.probs[0], atol=1e-3)
    assert label.emotion == CLASSES[table.preds[0]]


def test_a_share_that_was_changed_is_a_corrupt_file(runs, tmp_path):
    copy = shutil.copytree(runs["concat"], tmp_path / "concat")
    file = copy / "folds/fold-1_seed-0/predictions.csv"
    lines = file.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[5] = "0.9"  # a share of the votes
    file.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    with pytest.raises(RunError, match="add up to 1"):
        check_scores(read_run(copy))


def test_progress_of_jobs_is_1_minus_jsd(runs):
    n, said = finished_epochs(runs["concat"] / "folds/fold-1_seed-0")
    assert n == 3 and said.startswith("dev 1 - JSD 0.")


def test_the_prior_is_the_baseline_and_others_are_refused(recipe, words, runs):
    wishes = [word for word in words if "train." not in word]
    with open_baseline(load_baseline(recipe, "majority", None, wishes), ["x"]) as baseline:
        for fold in baseline.folds():
            run_fold(baseline, fold)
        first = next(iter(baseline.folds()))
    summarize(baseline.session.folder)
    prior = np.mean([u.target for u in first.split.train], axis=0)
    np.testing.assert_allclose(shares_of(baseline.session.folder)[1][0], prior, rtol=1e-5)
    compare([read_run(runs["concat"]), read_run(baseline.session.folder)])
    with pytest.raises(InputError, match="the baseline svm_images is for classes alone"):
        with open_baseline(load_baseline(recipe, "svm_images", None, wishes), ["x"]):
            pass


def test_the_loss_is_the_cross_entropy_with_the_shares():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=draw)
    shares = torch.randn(6, 4, generator=draw).softmax(1)
    terms = FusionLoss()(logits, shares, None)
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(terms.total, expected)
