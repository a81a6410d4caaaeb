"""1000 classes, the largest number that is allowed, give a page of bounded size."""

import re

import numpy as np
import pytest

from evaluation.figures import MANY
from evaluation.metrics import scores
from evaluation.results import Comparison, RunSummary, ScoreSummary
from reports.classes import largest_confusions, shown_classes
from reports.report import write_report
from storage.fold_folder import PredictionTable, Scores, write_metrics, write_predictions
from storage.run_folder import read_run
from system.files import write_json, write_text
from tests.conftest import made_metrics, write_card, write_run

SETTINGS = {"sample_rate": 8000, "image_size": 32, "cqt": {"n_bins": 40}}
SETTINGS |= {"mel": {"n_fft": 512, "n_mels": 16}}


def comparison_of(names: list[str], confusion: np.ndarray) -> Comparison:
    """Return the comparison of one run, without the statistics."""
    found = np.diagonal(confusion) / confusion.sum(1)
    score = ScoreSummary(
        mean=0.5, std=None, seed_std=None, folds={"1": 0.5}, pooled=0.5, interval=None
    )
    shared = {
        **{"protocol": "p", "certificate": "x", "speaker_dependent": False, "classes": names},
        **{"folds": [1], "n_folds": 10, "seeds": [0], "n": int(confusion.sum()), "n_speakers": 4},
    }
    run = RunSummary(
        **shared,
        name="run",
        fusion="gmu",
        test={name: score for name in ("ua", "wa", "macro_f1", "weighted_f1")},
        per_class_recall=found.tolist(),
        confusion=confusion.tolist(),
        gate_mean=0.5,
        missing_classes={},
        left_out=[],
        test_evaluations={},
        commits=["c"],
    )
    lists = {"tests": [], "mcnemar": [], "made_with": []}
    return Comparison(**shared, runs=[run], config_differences={}, **lists)


def test_the_largest_confusions_and_the_lowest_recalls_are_shown():
    n = MANY + 5
    confusion = 10 * np.eye(n, dtype=int)
    confusion[3, 7], confusion[4, 0] = 30, 10
    names = [f"c{k}" for k in range(n)]
    comparison = comparison_of(names, confusion)
    assert largest_confusions(comparison) == [
        [["c3", "c7", "30", "75.0"], ["c4", "c0", "10", "50.0"]]
    ]
    shown = shown_classes(comparison)
    assert len(shown) == MANY and {3, 4} <= set(shown)
    few = comparison_of(names[:MANY], confusion[:MANY, :MANY])
    assert largest_confusions(few) == [] and shown_classes(few) == list(range(MANY))


@pytest.fixture
def many(tmp_path):
    """A run of 1000 classes, each tested twice and once wrong."""
    names = [f"class {k}" for k in range(1000)]
    run = write_run(tmp_path / "run", "gmu")
    fold = run / "folds/fold-1_seed-0"
    fold.mkdir(parents=True)
    targets = np.repeat(np.arange(1000), 2)
    preds = np.where(np.arange(2000) % 2, targets, (targets + 1) % 1000)
    probs = np.full((2000, 1000), 0.5 / 999)
    probs[np.arange(2000), preds] = 0.5
    ids = np.array([f"u{i}" for i in range(2000)])
    speakers = np.array([f"s{i % 4}" for i in range(2000)])
    table = PredictionTable(ids, speakers, targets, preds, probs, np.full(2000, 0.5))
    write_predictions(fold, names, {"test": table})
    found = Scores(**scores(targets.tolist(), preds.tolist(), 1000))
    metrics = made_metrics(1, 0, names, 0, 2000, gate_mean=0.5)
    write_metrics(fold, type(metrics)(**{**vars(metrics), "test": found}))
    write_json(fold / "environment.json", {"command": [], "git_commit": "c"})
    write_text(fold / "history.csv", "epoch,loss,dev_ua\n1,1.0,0.5\n")
    write_text(run / "utterances.csv", "utterance,speaker,path\nu0,s0,gone.wav\n")
    write_card(fold, names, SETTINGS)
    return run, names, np.array(found.confusion)


def test_a_page_of_1000_classes_is_small(many, tmp_path):
    folder, names, confusion = many
    run = read_run(folder)
    assert run.folds[0].test.probs.shape == (2000, 1000)
    write_report(tmp_path / "page.html", [run], comparison_of(names, confusion), audio=False)
    page = (tmp_path / "page.html").read_text()
    assert len(page) < 2_000_000
    assert "Largest confusions" in page and '<table class="confusion">' not in page
    cards = re.findall(r'<table class="verdicts">(.*?)</table>', page, re.DOTALL)
    assert cards and all(card.count('class="bar') <= MANY for card in cards)
