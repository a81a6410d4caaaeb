"""A final model: all utterances train, nothing selects or tests, and its folder says so."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from baseline import main as baseline
from config.loading import load_config
from evaluation.calibration import apply_temperature, negative_log_likelihood
from evaluation.summary import describe_run, summarize
from inference import load
from inference.predictor import FoldModel
from scripts.fit_all import main as fit_all
from storage.final_model import read_final
from storage.folders import check_is_fold
from storage.ledger import read_ledger
from storage.model_card import read_card
from storage.run_folder import read_run
from storage.tensors import load_tensors
from system.errors import InputError
from system.files import read_json
from tests.support.runs import run_experiment
from training import engine
from training import final as final_module
from training.optim import Schedule, build_optimizers

SMALL = ("corpus.subset=improvised", "train.batch_size=4", "train.epochs=3", "run.folds=[1,2,3]")


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of three folds and two seeds."""
    root = tmp_path_factory.mktemp("finished")
    wishes = [f"run.root={root}", *SMALL, "run.seeds=[0,1]"]
    yield run_experiment(load_config(recipe, wishes), [])
    shutil.rmtree(root)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run: it is moved, too."""
    return Path(shutil.copytree(finished, tmp_path / f"moved/{finished.name}"))


def choose(run: Path, epochs: list[int]) -> None:
    """Let dev have chosen these epochs in the folds and seeds of a run."""
    for file, epoch in zip(sorted(run.glob("folds/*/metrics.json")), epochs, strict=True):
        file.write_text(json.dumps(read_json(file) | {"best_epoch": epoch}))


def test_a_final_model_is_trained_on_all_utterances_for_the_median_of_epochs(run, capsys) -> None:
    choose(run, [1, 2, 2, 3, 1, 3])
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert fit_all([str(run), "--seed", "3"]) == 0
    folder = run / "final/seed-3"
    facts, card = read_final(folder), read_card(folder)
    assert facts.epochs == 2 == median([1, 2, 2, 3, 1, 3])
    rows = (folder / "history.csv").read_text().splitlines()
    assert len(rows) == 3 and "dev" not in rows[0]
    n = read_json(run / "split_certificate.json")["utterances"]
    assert (facts.utterances, facts.speakers) == (n, 5)
    assert sum(rate.recordings for rate in card.training_data.rates) == n
    assert (card.fold, card.seed, card.test_clips) == (None, 3, None)
    assert card.certificate == read_json(run / "split_certificate.json")["id"]
    assert read_json(folder / "environment.json")["command"][-3:] == [str(run), "--seed", "3"]
    said = capsys.readouterr().out
    assert "No score of it is measured" in said and f"predict.py {folder}" in said
    assert "no score of this model is measured" in facts.measured
    summary = read_json(run / "summary.json")
    assert facts.estimate["ua"].mean == pytest.approx(summary["test"]["ua"]["mean"])
    assert all(p.read_bytes() == content for p, content in before.items())  # no line in the ledger
    assert not list(folder.glob("state/*.safetensors"))
    model = load(folder)  # calibrated on the dev splits of all folds
    [calibration] = model.calibrations
    assert calibration.temperature == pytest.approx(facts.temperature)
    dev = [len(result.dev.targets) for result in read_run(run).folds]
    assert model.is_calibrated and len(calibration.confidence) == sum(dev)


def test_what_it_learned_from_is_everyone_and_normalised_by_everyone(run, monkeypatch) -> None:
    seen = set()
    train_step = engine.train_step

    def spy(state, window, look=True):
        seen.update(int(i) for batch in window for i in batch.utterance)
        return train_step(state, window, look)

    monkeypatch.setattr(engine, "train_step", spy)
    made: list = []
    build = final_module.build_training
    monkeypatch.setattr(
        final_module, "build_training", lambda fold, *a: made.append(fold) or build(fold, *a)
    )
    assert fit_all([str(run)]) == 0
    (fold,) = made
    everyone = {
        u.id for split in fold.session.plan.splits for _, part in split.parts() for u in part
    }
    assert {fold.split.train[i].id for i in seen} == everyone == set(fold.ids(fold.split.train))
    statistics = fold.session.store.statistics(
        [row for key in fold.hashes(fold.split.train) for row in fold.session.store.rows[key]]
    )
    weights = load_tensors(run / "final/seed-0/model.safetensors")
    assert torch.allclose(weights["cqt_mean"].flatten(), statistics["cqt"][0])


def test_its_weights_are_of_the_last_epoch_and_label_recordings(run, corpus_root) -> None:
    assert fit_all([str(run)]) == 0
    label = load(run / "final/seed-0").predict(next(corpus_root.rglob("*.wav")))
    assert set(label.probs) == set(read_run(run).classes) and label.problem is None
    own = load_tensors(run / "final/seed-0/model.safetensors")
    fold = load_tensors(run / "folds/fold-1_seed-0/model.safetensors")
    steps = "head.classify.1.num_batches_tracked"
    facts = read_final(run / "final/seed-0")
    per_epoch = -(-facts.utterances // 4)
    assert int(own[steps]) == facts.epochs * per_epoch
    assert any(not torch.equal(own[name], fold[name]) for name in own)


def test_the_temperature_fits_the_dev_predictions_of_all_folds(run) -> None:
    assert fit_all([str(run)]) == 0
    found = read_final(run / "final/seed-0").temperature
    folds = read_run(run).folds
    probs = np.concatenate([fold.dev.probs for fold in folds])
    targets = np.concatenate([fold.dev.targets for fold in folds])

    def loss(temperature: float) -> float:
        return negative_log_likelihood(apply_temperature(probs, temperature), targets)

    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2001))
    best = min(grid, key=loss)
    assert found == pytest.approx(best, rel=0.01)
    assert loss(found) <= loss(1.0)


def test_a_stopped_final_model_resumes_to_the_same_bytes(run, tmp_path, monkeypatch) -> None:
    choose(run, [3, 3, 3, 3, 3, 3])
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    assert fit_all([str(whole)]) == 0
    close = engine._close_epoch

    def stop(state, *args):
        if state.progress.epoch == 1:
            raise KeyboardInterrupt
        return close(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_close_epoch", stop)
        assert fit_all([str(run)]) == 130
    assert not (run / "final/seed-0/final.json").exists()
    assert fit_all([str(run)]) == 0
    for name in ("model.safetensors", "model.json", "history.csv"):
        ours, theirs = (one / "final/seed-0" / name for one in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_a_finished_one_is_skipped_and_an_outdated_one_named(run, monkeypatch, caplog) -> None:
    assert fit_all([str(run)]) == 0
    monkeypatch.setattr(final_module, "build_training", None)
    with caplog.at_level("INFO"):
        assert fit_all([str(run)]) == 0
    assert "final model, seed 0 is finished" in caplog.text and "remove it" not in caplog.text
    choose(run, [3, 3, 3, 3, 3, 2])
    assert fit_all([str(run)]) == 0
    assert "was trained after 6 folds, the run has 6 now: remove it" in caplog.text


def test_one_that_was_begun_for_other_epochs_is_refused(run, monkeypatch, capsys) -> None:
    choose(run, [2, 2, 2, 2, 2, 2])
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_close_epoch", interrupted)
        assert fit_all([str(run)]) == 130
    choose(run, [1, 1, 1, 1, 1, 1])
    assert fit_all([str(run)]) == 2
    assert "was begun for 2 epochs" in capsys.readouterr().err


def interrupted(*args: object) -> None:
    raise KeyboardInterrupt


def test_readers_of_scores_go_on_without_it(run, finished) -> None:
    assert fit_all([str(run)]) == 0
    assert [f.folder.name for f in read_run(run).folds] == [
        f.folder.name for f in read_run(finished).folds
    ]
    assert len(read_ledger(run)) == len(read_ledger(finished)) == 6
    with pytest.raises(InputError, match="final/seed-0"):
        check_is_fold(run)
    assert summarize(run) == describe_run(read_run(finished))


def test_a_schedule_that_follows_dev_is_replayed(run) -> None:
    """Of the folds' rates, the median in each epoch, as far as half of the folds were trained."""
    assert final_module._median_factors([[0.2, 0.02], [0.2], [0.2, 0.2]], 2, 0.2) == [1.0, 0.55]
    layers = {"head": [torch.nn.Parameter(torch.ones(2, 2))]}
    (optimizer,) = build_optimizers(layers, {"head": "sgd"}, lr=0.2)
    schedule = Schedule([optimizer], "replayed", factors=[1.0, 0.5, 0.25])
    optimizer.step()
    schedule.after_epoch(None)
    assert schedule.rates() == pytest.approx([0.1])
    resumed = Schedule([optimizer], "replayed", factors=[1.0, 0.5, 0.25])
    resumed.load_state_dict(schedule.state_dict())
    for expected in (0.05, 0.05):  # the last one stays
        resumed.after_epoch(None)
        assert resumed.rates() == pytest.approx([expected])


def test_a_plateau_has_the_rates_of_the_folds(tiny: Callable) -> None:
    wishes = ("optim.schedule=plateau", "optim.plateau_patience=0", "optim.plateau_factor=0.5")
    run = run_experiment(tiny(*SMALL, *wishes, "optim.lr=1e-6", "optim.min_lr=0"), [])
    choose(run, [3, 3, 3])
    assert fit_all([str(run)]) == 0
    folds = [[row["lr_head"] for row in fold.history()] for fold in read_run(run).folds]
    head, *rows = (run / "final/seed-0/history.csv").read_text().splitlines()
    at = head.split(",").index("lr_head")
    found = [float(row.split(",")[at]) for row in rows]
    assert found == pytest.approx([median(epoch) for epoch in zip(*folds, strict=True)])
    assert len(set(found)) > 1


def test_runs_that_can_have_none_are_refused(
    run, recipe, tiny, tmp_path, capsys, monkeypatch
) -> None:
    (run / "folds/fold-2_seed-1/metrics.json").unlink()
    assert fit_all([str(run)]) == 2
    said = capsys.readouterr().err
    assert "is not finished: fold-2_seed-1." in said and "give the run's training command" in said
    argv = ["--config", str(recipe), "--kind", "majority", f"run.root={tmp_path}/runs", SMALL[0]]
    assert baseline([*argv, "name=majority"]) == 0
    assert fit_all([f"{tmp_path}/runs/majority"]) == 2
    assert "is of a baseline" in capsys.readouterr().err
    by_speaker = run_experiment(tiny(*SMALL, "train.normalize=speaker", "name=by_speaker"), [])
    assert fit_all([str(by_speaker)]) == 2
    assert "standardised by all of a speaker's utterances" in capsys.readouterr().err
    assert fit_all([str(by_speaker), "optim.lr=1"]) == 2
    assert fit_all([str(run), "--seed", "-1"]) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert fit_all([str(run)]) == 2
    assert "trained by one process" in capsys.readouterr().err


def test_ratings_have_a_final_model_and_no_temperature(tiny: Callable) -> None:
    wishes = ("task=dimensions", "corpus.labels=all", "train.epochs=1", "train.batch_size=4")
    run = run_experiment(tiny(*wishes, "corpus.subset=improvised"), [])
    assert fit_all([str(run)]) == 0
    facts = read_final(run / "final/seed-0")
    assert facts.temperature is None and facts.temperature_from is None
    assert "ccc" in facts.estimate and FoldModel(run / "final/seed-0").scale is not None
