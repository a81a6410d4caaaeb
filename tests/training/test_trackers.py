"""Trackers: each epoch once wherever a run is killed, scores in HPARAMS, and no training lost."""

import csv
import os
import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import kills
from tests.support.trackers import Rows, offline_rows

pytest.importorskip("wandb")
pytest.importorskip("mlflow")

FOLD = "folds/fold-1_seed-0"
SCORES = ("final/dev_ua", "final/test_ua", "final/test_wa", "final/test_macro_f1")
SMALL = ["model.mel_backbone=test_vit", "train.batch_size=16"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No tracker of the user is asked or told anything."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def history_of(run: Path, fold: str = FOLD) -> list[dict[str, float]]:
    with (run / fold / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


# What each tracker holds of a fold, read by its own reader: (epoch, values), as they were sent


def in_tensorboard(run: Path, fold: str = FOLD) -> Rows:
    events = EventAccumulator(str(run / fold), {"scalars": 0}).Reload()
    tags = {"loss": "loss/loss", "dev_ua": "dev/ua", "dev_loss": "dev/loss"}
    found = {name: events.Scalars(tag) for name, tag in tags.items()}
    steps = [event.step for event in found["loss"]]
    assert all([event.step for event in events] == steps for events in found.values())
    return [(s, {n: found[n][i].value for n in tags}) for i, s in enumerate(steps)]


def in_csv(run: Path, fold: str = FOLD) -> Rows:
    number, seed = (part.partition("-")[2] for part in Path(fold).name.split("_"))
    with (run / "epochs.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["fold"], r["seed"]) == (number, seed)]
    names = ("loss", "dev_ua", "dev_loss")
    return [(int(row["epoch"]), {name: float(row[name]) for name in names}) for row in rows]


def in_wandb(run: Path, fold: str = FOLD) -> Rows:
    return offline_rows(run.parent, Path(fold).name)


def mlflow_client(uri: str):
    import mlflow

    return mlflow.MlflowClient(uri)


def in_mlflow(run: Path, fold: str = FOLD) -> Rows:
    client = mlflow_client(f"sqlite:///{run.parent.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run.name)
    runs = client.search_runs([experiment.experiment_id])
    (one,) = [r for r in runs if r.info.run_name == Path(fold).name]
    names = [name for name in one.data.metrics if not name.startswith("final/")]
    found = {name: client.get_metric_history(one.info.run_id, name) for name in names}
    steps = [metric.step for metric in found["loss"]]
    assert all([metric.step for metric in metrics] == steps for metrics in found.values())
    return [(s, {n: found[n][i].value for n in names}) for i, s in enumerate(steps)]


READERS = {"tensorboard": in_tensorboard, "csv": in_csv, "wandb": in_wandb, "mlflow": in_mlflow}


def assert_has_each_epoch_once(tracker: str, run: Path, fold: str = FOLD) -> None:
    history, rows = history_of(run, fold), READERS[tracker](run, fold)
    assert [epoch for epoch, _ in rows] == [int(row["epoch"]) for row in history], tracker
    for (_, values), row in zip(rows, history, strict=True):
        for name in ("loss", "dev_ua", "dev_loss"):
            assert values[name] == pytest.approx(row[name], rel=1e-6), (tracker, name)


class Run:
    """One run of the tiny corpus, killed and started again as often as asked."""

    def __init__(self, recipe: Path, folder: Path, wanted: str, *overrides: str) -> None:
        wishes = [f"run.root={folder}", "name=run", "train.epochs=5", "train.checkpoint_epochs=2"]
        wishes += [f"run.trackers=[{wanted}]", *SMALL, *overrides]
        self.argv = ["train_gmu.py", "--config", str(recipe), *wishes]
        self.folder, self.log = folder / "run", folder / "log"
        folder.mkdir(parents=True, exist_ok=True)

    def until(self, place: str = "", n: int = 1, number: int = signal.SIGKILL) -> int | None:
        process = kills.start(self.argv, self.log, place, n, number)
        process.join(180)
        assert process.exitcode is not None, f"it hangs: {self.log.read_text()}"
        return process.exitcode


WHERE = {
    "tensorboard": "writing TensorBoard",
    "csv": "writing the table of epochs",
    "wandb": "writing to wandb",
    "mlflow": "writing to mlflow",
}


@pytest.mark.parametrize("tracker", WHERE)
def test_a_killed_run_resumes_with_each_epoch_once(recipe, tmp_path, tracker) -> None:
    """Behind and before the third epoch is logged, with a state of the second; then at the end."""
    run = Run(recipe, tmp_path, tracker)
    places = [(f"after {WHERE[tracker]}", 3), (WHERE[tracker], 1), (f"after {WHERE[tracker]}", 2)]
    places += [("writing metrics", 1)]
    for place, n in places:
        assert run.until(place, n) == -signal.SIGKILL, run.log.read_text()
    assert run.until() == 0, run.log.read_text()
    assert len(history_of(run.folder)) == 5
    assert_has_each_epoch_once(tracker, run.folder)
    assert "failed" not in run.log.read_text()
