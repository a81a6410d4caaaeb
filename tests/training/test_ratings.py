"""Whole tiny runs of ratings: trained, scored, compared, analysed, shown and predicted with."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from audio.augment import Mix
from baselines.fold import run_fold
from baselines.session import open_baseline
from config.baselines import load_baseline
from config.loading import load_config
from config.tasks import RatingScale
from evaluation.comparison import compare
from evaluation.conclusion import conclusion
from evaluation.consistency import check_scores
from evaluation.summary import summarize
from evaluation.tables import comparison_latex, comparison_markdown
from experiments.jobs import finished_epochs
from gates.analysis import analyze
from inference import load
from inference.output import Lines
from models.losses import FusionLoss, ccc_loss, mix_targets
from reports.publish import gather, publish
from storage.run_folder import read_run
from system.errors import InputError, RunError
from tests.support.ratings import rate_corpus
from tests.support.runs import run_experiment

FUSIONS = ("concat", "gmu", "gmu_contrastive")
NAMES = ("valence", "arousal", "dominance")


@pytest.fixture(scope="module")
def words(corpus_root, tmp_path_factory) -> list[str]:
    """Overrides that read the rated corpus."""
    folder = tmp_path_factory.mktemp("rated")
    return [
        *("task=dimensions", "corpus.labels=all", "run.folds=[1,2,3]", "train.epochs=3"),
        *(f"run.root={folder / 'runs'}", f"corpus.root={rate_corpus(corpus_root, folder)}"),
    ]


@pytest.fixture(scope="module")
def runs(recipe, words):
    """A finished run of three folds for each of some fusions."""
    return {
        fusion: run_experiment(
            load_config(recipe, [*words, f"name={fusion}", f"model.fusion={fusion}"]), ["x"]
        )
        for fusion in FUSIONS
    }


def predictions(run, split="test"):
    """Return targets and predictions of fold 1, as the file has them: (N, 3) each."""
    with (run / "folds/fold-1_seed-0/predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return tuple(
        np.array([[float(row[f"{kind}_{name}"]) for name in NAMES] for row in rows])
        for kind in ("target", "pred")
    )


def plain_ccc(x, y):
    bias = 2 * np.cov(x, y, bias=True)[0, 1]
    return bias / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_metrics_are_those_of_the_predictions_in_units_of_the_corpus(runs, fusion):
    targets, preds = predictions(runs[fusion])
    assert targets.min() >= 1 and targets.max() <= 5
    metrics = json.loads((runs[fusion] / "folds/fold-1_seed-0/metrics.json").read_text())
    found = metrics["test"]["scores"]
    each = [plain_ccc(targets[:, i], preds[:, i]) for i in range(3)]
    assert [found[f"ccc_{name}"] for name in NAMES] == pytest.approx(each, abs=1e-5)
    assert found["ccc"] == pytest.approx(np.mean(each), abs=1e-5)
    errors = np.sqrt(((targets - preds) ** 2).mean(0))
    assert [found[f"rmse_{name}"] for name in NAMES] == pytest.approx(errors.tolist(), abs=1e-5)
    assert (metrics["task"], metrics["scale"]) == ("dimensions", [1, 5])


def test_tones_are_rated_better_than_by_a_constant(runs):
    for run in runs.values():
        assert summarize(run).test["ccc"].pooled > 0.3


def test_the_best_epoch_is_that_of_the_highest_dev_ccc(runs):
    for run in runs.values():
        with (run / "folds/fold-1_seed-0/history.csv").open() as file:
            rows = list(csv.DictReader(file))
        scores = [float(row["dev_ccc"]) for row in rows]
        metrics = json.loads((run / "folds/fold-1_seed-0/metrics.json").read_text())
        assert metrics["best_epoch"] == 1 + int(np.argmax(scores))
        assert metrics["dev"]["scores"]["ccc"] == pytest.approx(max(scores), abs=1e-6)
        assert "ccc_loss" in rows[0] and "cross_entropy" not in rows[0]
    assert "nt_xent" in rows[0]  # of gmu_contrastive


def test_pooled_scores_are_of_all_test_utterances_together(runs):
    run = read_run(runs["gmu"])
    table = run.of_seed(0)
    each = [plain_ccc(table.targets[:, i], table.probs[:, i]) for i in range(3)]
    assert summarize(run.folder).test["ccc"].pooled == pytest.approx(np.mean(each))


def test_a_changed_prediction_contradicts_the_scores(runs, tmp_path):
    copy = shutil.copytree(runs["concat"], tmp_path / "concat")
    file = copy / "folds/fold-1_seed-0/predictions.csv"
    lines = file.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[6] = "4.9" if float(cells[6]) < 3 else "1.1"
    file.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    with pytest.raises(RunError, match="test.ccc"):
        check_scores(read_run(copy))


def test_a_rating_that_is_no_number_is_a_corrupt_file(runs, tmp_path):
    copy = shutil.copytree(runs["concat"], tmp_path / "concat")
    file = copy / "folds/fold-1_seed-0/predictions.csv"
    file.write_text(file.read_text().replace(",1.", ",nan", 1))
    with pytest.raises(RunError, match="not finite numbers|could not convert"):
        check_scores(read_run(copy))


def test_runs_are_compared_by_ccc_on_every_table_and_the_page(runs, tmp_path):
    found, comparison = gather([runs["gmu"], runs["concat"]])
    table = comparison_markdown(comparison)
    assert "| gmu − concat | model.fusion: gmu / concat | CCC valence |" in table
    assert "difference in CCC between gmu and concat" in conclusion(comparison)
    assert "McNemar" not in table and "UA" not in table
    several = replace(comparison, protocol="a-to-b/cross-corpus/dev-speakers/all")
    unit = "the ratings of all corpora are on the scale -1 to 1"
    assert unit in comparison_markdown(several) and unit not in table
    assert "CCC" in comparison_latex(comparison)
    assert {test.metric for test in comparison.tests} == {"ccc", *(f"ccc_{n}" for n in NAMES)}
    publish(tmp_path / "out", found, comparison)
    page = (tmp_path / "out/report.html").read_text()
    assert "CCC is the concordance" in page and "3 dimensions: valence, arousal" in page
    assert 'id="classes"' not in page and "largest error" in page
    number = comparison.runs[0].test["ccc"].pooled
    assert f'<data value="{number}">{number:.3f}</data>' in page


def test_runs_of_another_task_are_not_compared(runs, recipe, words):
    root = next(word for word in words if word.startswith("run.root="))
    classes = run_experiment(load_config(recipe, [root, "name=classes"]), ["x"])
    with pytest.raises(InputError, match="protocol differs"):
        compare([read_run(runs["gmu"]), read_run(classes)])


def test_breakdown_and_robustness_are_refused(runs):
    for wish in ({"breakdowns": True}, {"robustness": True}):
        with pytest.raises(InputError, match="for classes alone, and task=dimensions"):
            gather([runs["gmu"]], **wish)


def test_gates_are_analysed_by_parts_of_the_scale_and_falls_of_ccc(runs):
    results = analyze(runs["gmu_contrastive"], n_draws=2, progress=False)
    assert results.classes[0] == "low valence, low arousal" and len(results.classes) == 4
    assert results.branch_ablation.intact.value == pytest.approx(
        summarize(runs["gmu_contrastive"]).test["ccc"].pooled, abs=1e-5
    )
    lost = {(row.changed, row.how): row.ua.value for row in results.branch_ablation.interventions}
    assert min(lost.values()) < results.branch_ablation.intact.value - 0.1
    text = (runs["gmu_contrastive"] / "gates/gates.md").read_text()
    assert "Here a class is a part of the scale" in text and "CCC of the frozen head" in text
    gather([runs["gmu_contrastive"]])


def test_predict_gives_the_ratings_of_the_test(runs):
    run = read_run(runs["gmu"])
    table = run.folds[0].test
    model = load(run.folds[0].folder)
    names = table.utterances[:3].tolist()
    labels = [model.predict(run.audio_file(name)) for name in names]
    found = [list(label.probs.values()) for label in labels]
    np.testing.assert_allclose(found, table.probs[:3], atol=1e-3)
    lines = Lines("table", NAMES, model.scale)
    assert lines.header()[0].split("\t")[2:5] == list(NAMES)
    assert lines.line(labels[0]).split("\t")[1] == "ratings, 1 to 5"


def test_progress_of_jobs_is_a_ccc(runs):
    n, said = finished_epochs(runs["gmu"] / "folds/fold-1_seed-0")
    assert n == 3 and said.startswith("dev CCC 0.")


@pytest.mark.parametrize("kind", ["majority", "svm_images"])
def test_baselines_of_ratings(recipe, words, runs, kind):
    config = load_baseline(recipe, kind, None, [word for word in words if "train." not in word])
    with open_baseline(config, ["baseline.py"]) as baseline:
        for fold in baseline.folds():
            run_fold(baseline, fold)
    summary = summarize(baseline.session.folder)
    if kind == "majority":
        assert summary.test["ccc"].mean == pytest.approx(0, abs=1e-9)
        train = [u.target for u in fold.split.train]
        preds = predictions(baseline.session.folder)[1]
        first = next(iter(baseline.folds()))
        mean = np.mean([u.target for u in first.split.train], axis=0)
        np.testing.assert_allclose(preds, np.tile(mean, (len(preds), 1)), atol=1e-6)
        assert train
    else:
        assert summary.test["ccc"].pooled > 0.3
    compare([read_run(runs["gmu"]), read_run(baseline.session.folder)])


def test_the_lstm_baseline_has_no_ratings(recipe, words):
    config = load_baseline(recipe, "lstm", None, [word for word in words if "train." not in word])
    with pytest.raises(InputError, match="the baseline lstm is for classes alone"):
        with open_baseline(config, ["baseline.py"]):
            pass


def test_ccc_loss_is_1_minus_the_ccc_of_the_batch():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(24, 3, generator=draw, dtype=torch.float64)
    y = 0.5 * x + torch.randn(24, 3, generator=draw, dtype=torch.float64)
    each = [plain_ccc(x[:, i].numpy(), y[:, i].numpy()) for i in range(3)]
    assert float(ccc_loss(y, x)) == pytest.approx(1 - np.mean(each))
    assert torch.autograd.gradcheck(ccc_loss, (y.requires_grad_(), x))


def test_the_loss_of_ratings_is_on_the_scale_of_the_network():
    ratings = torch.tensor([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0], [5.0, 4.0]])
    loss = FusionLoss(rating_scale=RatingScale(1, 5))
    terms = loss((ratings - 3) / 2, ratings, None)
    assert float(terms.total) == pytest.approx(0, abs=1e-6)
    assert set(terms.named()) == {"total", "ccc_loss"}
    shifted = loss((ratings - 3) / 2 + 0.5, ratings, None)
    assert float(shifted.total) > 0.05


def test_mixed_ratings_are_those_between_two_utterances():
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.75, 0.5]))
    found = mix_targets(torch.tensor([[1.0, 2.0], [5.0, 4.0]]), mix)
    assert found.tolist() == [[2.0, 2.5], [3.0, 3.0]]


def test_a_batch_that_does_not_vary_has_a_finite_slope():
    values = torch.zeros(4, 2, requires_grad=True)
    ccc_loss(values, torch.zeros(4, 2)).backward()
    assert values.grad.isfinite().all()


def test_small_batches_have_a_larger_loss():
    """The bias that docs/DECISIONS.md tells: the CCC of a batch is below that of all."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.normal(size=(8000, 1)))
    y = 0.6 * x + torch.from_numpy(0.5 * draw.normal(size=x.shape))
    whole = float(ccc_loss(y, x))
    by_size = [
        np.mean([float(ccc_loss(y[i : i + b], x[i : i + b])) for i in range(0, 8000, b)])
        for b in (4, 32)
    ]
    assert by_size[0] > by_size[1] > whole
    assert stats.pearsonr(x[:, 0], y[:, 0])[0] > 1 - whole
