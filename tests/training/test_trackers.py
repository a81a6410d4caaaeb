"""Trackers: each epoch once wherever a run is killed, scores in HPARAMS, and no training lost."""

import csv
import importlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from config.loading import flatten, load_config
from storage.epoch_table import write_epoch_table
from storage.folders import METRICS
from storage.tracker_files import read_tracker_failures
from system.errors import InputError, RunError
from system.extras import check_extra, is_installed
from system.files import read_json, write_json
from tests.support import kills
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from tests.support.trackers import Rows, fake_server, offline_rows, records_of
from training import trackers
from training.mlflow_tracker import MlflowRun
from training.tensorboard import Tracker
from training.tracked_fold import FINISHED, TrackedFold, hyperparameters
from training.trackers import FoldTrackers, without_secrets
from training.wandb_tracker import BLOCK, HEADER, offline_epochs, read_records

pytest.importorskip("wandb")
pytest.importorskip("mlflow")

FOLD = "folds/fold-1_seed-0"
SCORES = tuple(
    f"final/{one}" for one in "dev_ua test_ua test_wa test_macro_f1 test_weighted_f1".split()
)
SMALL = ["model.cqt_backbone=test_byobnet", "model.mel_backbone=test_vit", "train.batch_size=16"]


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
    for place, n in ((f"after {WHERE[tracker]}", 3), (WHERE[tracker], 1), ("writing metrics", 1)):
        assert run.until(place, n) == -signal.SIGKILL, run.log.read_text()
    assert run.until() == 0, run.log.read_text()
    assert len(history_of(run.folder)) == 5
    assert_has_each_epoch_once(tracker, run.folder)
    assert "failed" not in run.log.read_text()


@pytest.fixture(scope="module")
def tracked(recipe: Path, tmp_path_factory) -> Iterator[Path]:
    """Two folds of two epochs with all trackers, in a home of its own, behind a watched proxy."""
    root = tmp_path_factory.mktemp("home") / "runs"
    asked: list[str] = []
    with watched_proxy(asked) as proxy:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
        environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy"), proxy)
        environment |= {"https_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
        environment |= {"WANDB_MODE": "offline", "WANDB_API_KEY": SECRET, "HOME": str(root.parent)}
        command = [sys.executable, str(ROOT / "train_gmu.py"), "--config", str(recipe)]
        command += [f"run.root={root}", *SMALL, "run.folds=[1,2]", f"run.trackers=[{ALL}]"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    assert asked == [], "a tracker called a host"
    yield root / "tiny"
    shutil.rmtree(root)


ALL = ",".join(READERS)
SECRET = "0123456789abcdef" * 2 + "deadbeef"


@pytest.fixture(scope="module")
def scores(tracked: Path) -> dict[str, dict[str, float]]:
    """Return the scores of both folds, from metrics.json."""
    found = {}
    for fold in (FOLD, FOLD.replace("fold-1", "fold-2")):
        metrics = read_json(tracked / fold / METRICS)
        test = metrics["test"]
        values = (metrics["dev"]["ua"], *(test[n] for n in ("ua", "wa", "macro_f1", "weighted_f1")))
        found[fold] = dict(zip(SCORES, values, strict=True))
    return found


class watched_proxy:  # noqa: N801
    """A proxy that refuses all and remembers what it was asked for."""

    def __init__(self, asked: list[str]) -> None:
        self.asked, self.socket = asked, socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def _serve(self) -> None:
        while True:
            try:
                with self.socket.accept()[0] as asking:
                    self.asked.append(asking.recv(1000).decode(errors="replace"))
                    asking.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                return


def test_the_proxy_sees_who_calls_a_host() -> None:
    asked: list[str] = []
    with watched_proxy(asked) as proxy:
        code = "import requests; requests.get('http://example.org/there')"
        environment = {**os.environ, "http_proxy": proxy, "no_proxy": ""}
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert "example.org/there" in asked[0]


@pytest.mark.parametrize("tracker", READERS)
@pytest.mark.parametrize("fold", ["fold-1_seed-0", "fold-2_seed-0"])
def test_each_tracker_has_the_epochs_of_each_fold(tracked, tracker, fold) -> None:
    assert_has_each_epoch_once(tracker, tracked, f"folds/{fold}")
    assert len(history_of(tracked)) == 2


def test_tensorboard_shows_config_and_scores_of_all_folds_in_its_hparams_table(
    tracked, scores
) -> None:
    """Read by TensorBoard itself: the answer from which the tab HPARAMS draws its table."""
    events = EventMultiplexer()
    events.AddRunsFromDirectory(str(tracked))
    events.Reload()
    provider = MultiplexerDataProvider(events, str(tracked))
    context = backend_context.Context(TBContext(data_provider=provider))
    ask = api_pb2.ListSessionGroupsRequest(slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS])
    ask.allowed_statuses.append(api_pb2.STATUS_UNKNOWN)
    rows = list_session_groups.Handler(RequestContext(), context, "", ask).run().session_groups
    assert sorted(row.name for row in rows) == sorted(scores)
    config = flatten(load_config(tracked / "config.yaml").model_dump())
    for row in rows:
        shown = {value.name.tag: value.value for value in row.metric_values}
        assert shown == pytest.approx(scores[row.name])
        values = {key: value.number_value for key, value in row.hparams.items()}
        fold = int(row.name[len("folds/fold-")])
        assert (values["fold"], values["seed"], values["optim.lr"]) == (fold, 0, 1e-3)
        assert row.hparams["model.fusion"].string_value == "gmu"
        assert values["train.normalize"] == 1  # true
        lacking = {key for key, value in config.items() if value is not None} - set(values)
        assert lacking <= {"corpus.root"} | {key for key in config if key.startswith("run.")}


def test_the_plugin_data_of_a_fold_are_in_its_event_files(tracked) -> None:
    """And one process writes them once: an experiment, a session's start and its end."""
    events = EventAccumulator(str(tracked / FOLD)).Reload()
    content = events.PluginTagToContent("hparams")
    found = {tag: HParamsPluginData.FromString(data) for tag, data in content.items()}
    kinds = {data.WhichOneof("data") for data in found.values()}
    assert kinds == {"experiment", "session_start_info", "session_end_info"}
    for tag in SCORES:
        assert len(events.Scalars(tag)) == 1


def updates(records: list, kind: str) -> dict[str, object]:
    """Return what a wandb file says of the summary or the config in the end."""
    chosen = [getattr(r, kind) for r in records if r.WhichOneof("record_type") == kind]
    found = [update for record in chosen for update in record.update]
    return {one.key or one.nested_key[0]: json.loads(one.value_json) for one in found}


def test_wandb_groups_the_folds_of_a_run(tracked, scores) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    ids = set()
    for fold, expected in scores.items():
        (file,) = tracked.parent.glob(f"wandb/offline-run-*-{Path(fold).name}/*.wandb")
        records = [Record.FromString(data) for data in records_of(file.read_bytes())]
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert (run.run_group, run.display_name) == ("tiny", Path(fold).name)
        ids.add(run.run_id.partition("-")[0])
        assert run.run_id.endswith(Path(fold).name)
        sent = [
            u for r in records if r.WhichOneof("record_type") == "summary" for u in r.summary.update
        ]
        values = {u.key or u.nested_key[0]: json.loads(u.value_json) for u in sent}
        assert {tag: values[tag] for tag in SCORES} == pytest.approx(expected)
        configs = [
            u for r in records if r.WhichOneof("record_type") == "config" for u in r.config.update
        ]
        config = {u.key or u.nested_key[0]: json.loads(u.value_json) for u in configs}
        assert config["optim.lr"] == 1e-3 and config["fold"] == int(Path(fold).name[5])
    assert ids == {read_json(tracked / "trackers.json")["id"]}


def test_mlflow_has_an_experiment_with_a_run_for_each_fold(tracked, scores) -> None:
    client = mlflow_client(f"sqlite:///{tracked.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {Path(fold).name for fold in scores}
    for fold, expected in scores.items():
        run = runs[Path(fold).name]
        assert run.info.status == "FINISHED"
        found = {tag: run.data.metrics[tag] for tag in SCORES}
        assert found == pytest.approx(expected)
        assert float(run.data.params["optim.lr"]) == 1e-3
        assert all(len(client.get_metric_history(run.info.run_id, tag)) == 1 for tag in SCORES)


def test_no_key_and_no_home_is_in_the_run_folder_or_sent(tracked, corpus_root) -> None:
    """config.yaml and the list of commands hold the paths that the user gave, as ever."""
    home, own = str(tracked.parent.parent), ("config.yaml", "environment.json")
    for path in tracked.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data, path
            if path.name not in own and path.suffix != ".safetensors":
                assert home.encode() not in data, path
    for path in [*tracked.parent.glob("wandb/*/*.wandb"), tracked.parent / "mlflow.db"]:
        data = path.read_bytes()
        assert SECRET.encode() not in data and str(corpus_root).encode() not in data, path


def test_the_same_command_again_writes_nothing_to_trackers(tracked, recipe, monkeypatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a tracker was started for a finished fold")

    monkeypatch.setattr(trackers, "_trackers", refuse)
    wishes = [f"run.root={tracked.parent}", *SMALL, "run.folds=[1,2]", f"run.trackers=[{ALL}]"]
    run_experiment(load_config(recipe, wishes), [])


@pytest.mark.parametrize(
    "tracker",
    ["tensorboard", "mlflow", pytest.param("wandb", marks=pytest.mark.slow)],
)
def test_a_kill_between_scores_and_metrics_shows_the_scores_once(recipe, tmp_path, tracker) -> None:
    name = {"tensorboard": "TensorBoard"}.get(tracker, tracker)
    run = Run(recipe, tmp_path, tracker, "train.epochs=1")
    assert run.until(f"after writing scores to {name}") == -signal.SIGKILL
    assert run.until() == 0, run.log.read_text()
    assert_has_each_epoch_once(tracker, run.folder)
    if tracker == "tensorboard":
        events = EventAccumulator(str(run.folder / FOLD)).Reload()
        assert all(len(events.Scalars(tag)) == 1 for tag in SCORES)
    elif tracker == "mlflow":
        client = mlflow_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("run")
        (one,) = client.search_runs([experiment.experiment_id])
        assert all(len(client.get_metric_history(one.info.run_id, tag)) == 1 for tag in SCORES)


def test_a_tracker_that_a_run_gets_later_has_the_earlier_epochs(recipe, tmp_path) -> None:
    run = Run(recipe, tmp_path, "csv", "train.checkpoint_epochs=1")
    assert run.until("after writing the table of epochs", 3) == -signal.SIGKILL
    later = Run(recipe, tmp_path, ALL, "train.checkpoint_epochs=1")
    assert later.until() == 0, later.log.read_text()
    for tracker in READERS:
        assert_has_each_epoch_once(tracker, run.folder)


def test_a_stopped_run_is_marked_so_and_its_tracker_run_resumed(recipe, tmp_path) -> None:
    run = Run(recipe, tmp_path, "wandb,mlflow")
    assert run.until("writing to mlflow", 2, signal.SIGTERM) == 128 + signal.SIGTERM
    client = mlflow_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("run").experiment_id
    assert [r.info.status for r in client.search_runs([experiment])] == ["KILLED"]
    assert run.until() == 0, run.log.read_text()
    assert [r.info.status for r in client.search_runs([experiment])] == ["FINISHED"]
    for tracker in ("wandb", "mlflow"):
        assert_has_each_epoch_once(tracker, run.folder)


@pytest.mark.slow
def test_a_run_that_is_overwritten_has_other_tracker_runs(tiny, tmp_path) -> None:
    wishes = ["run.trackers=[mlflow]", "train.epochs=1", *SMALL]
    for overwrite in (False, True):
        run_experiment(tiny(*wishes), [], overwrite)
    client = mlflow_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(runs) == 2
    assert all(len(client.get_metric_history(r.info.run_id, "loss")) == 1 for r in runs)


def test_of_two_processes_one_writes_to_trackers(recipe, tmp_path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train_gmu.py"), "--config", str(recipe), f"run.root={tmp_path}"]
    command += [f"run.trackers=[{ALL}]", "protocol.split=speaker-k-fold", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for tracker in READERS:
        assert_has_each_epoch_once(tracker, tmp_path / "tiny")


AT_ONCE = """
import os, sys
from pathlib import Path
import mlflow
from training.mlflow_tracker import MlflowRun
from training.tracked_fold import FINISHED, TrackedFold

def track(i):
    run = MlflowRun(TrackedFold("run", f"fold-{i}", f"id-{i}", Path(sys.argv[1]), {"fold": i}))
    run.start()
    run.log_epoch([{"epoch": 1, "loss": 0.5}], None, None)
    run.end(FINISHED)

begin, opened = os.pipe()
children = []
for i in range(4):
    if not (child := os.fork()):
        os.close(opened)
        os.read(begin, 1)  # until all are there
        try:
            track(i)
        except Exception as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    children.append(child)
os.close(opened)
print([os.waitpid(child, 0)[1] for child in children])
"""


def test_jobs_that_begin_at_once_share_a_new_store_of_mlflow(tmp_path) -> None:
    """Two that made its tables at once would leave it broken."""
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.stdout.split("\n")[0] == "[0, 0, 0, 0]", done.stderr
    client = mlflow_client(f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("run").experiment_id])
    assert sorted(r.info.run_name for r in runs) == [f"fold-{i}" for i in range(4)]


def test_a_run_resumes_in_mlflow_with_its_table_of_folds_under_another_name(tiny, tmp_path) -> None:
    """As a run folder does: the certificate says whether the folds are the same."""
    config = tiny()
    for name in ("folds.csv", "same-folds.csv"):
        protocol = config.protocol.model_copy(update={"folds": name})
        moved = config.model_copy(update={"protocol": protocol})
        shown = hyperparameters(
            SimpleNamespace(config=moved, split=SimpleNamespace(fold=1), seed=0)
        )
        assert shown["protocol.split"] == "leave-one-session-out"
        run = MlflowRun(TrackedFold("run", "fold-1_seed-0", "abc", tmp_path, shown))
        run.start()
        run.end(FINISHED)


# A W&B server


def test_online_a_killed_run_is_one_run_with_each_epoch_once(recipe, tmp_path, monkeypatch) -> None:
    """What a kill kept from the server is sent by the process that resumes."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    run = Run(recipe, tmp_path, "wandb")
    with fake_server() as (server, address):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        for place, n in (("after writing to wandb", 3), ("writing to wandb", 2)):
            assert run.until(place, n) == -signal.SIGKILL, run.log.read_text()
        assert run.until() == 0, run.log.read_text()
    ((name, lines),) = server.runs.items()
    assert sorted(lines) == list(range(5))  # one line an epoch, none twice
    assert [lines[i]["_step"] for i in range(5)] == [1, 2, 3, 4, 5]
    assert server.groups == {name: "run"}
    assert [lines[i]["loss"] for i in range(5)] == pytest.approx(
        [row["loss"] for row in history_of(run.folder)]
    )
    test = read_json(run.folder / FOLD / METRICS)["test"]
    assert server.summaries[name]["final/test_ua"] == pytest.approx(test["ua"])


IMPATIENT = """
import sys
import training.wandb_tracker, train_gmu
training.wandb_tracker.SECONDS = 2
sys.exit(train_gmu.main(sys.argv[1:]))
"""


def test_offline_files_of_a_killed_run_are_synced_as_one(recipe, tmp_path, monkeypatch) -> None:
    """By `wandb sync` itself, which appends the second file behind the first."""
    run = Run(recipe, tmp_path, "wandb")
    assert run.until("writing to wandb", 4) == -signal.SIGKILL
    assert run.until() == 0, run.log.read_text()
    files = sorted(map(str, tmp_path.glob("wandb/offline-run-*")))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    with fake_server() as (server, address):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        command = [sys.executable, "-m", "wandb", "sync", "--yes", *files]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    (lines,) = server.runs.values()
    assert [lines[i]["_step"] for i in sorted(lines)] == [1, 2, 3, 4, 5]


def test_a_server_that_is_away_costs_no_training(recipe, tmp_path, monkeypatch) -> None:
    """Neither W&B's nor MLflow's; the summary says what they lack, and a key is nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    argv = ["--config", str(recipe), f"run.root={tmp_path}", f"run.trackers=[{ALL}]", *SMALL]
    command = [sys.executable, "-c", IMPATIENT, *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "tiny"
    for tracker in ("tensorboard", "csv"):
        assert_has_each_epoch_once(tracker, run)
    failures = read_tracker_failures(run / FOLD)
    assert set(failures) == {"wandb", "mlflow"}
    text = (run / "summary.md").read_text()
    for tracker in failures:
        assert done.stderr.count(f"the tracker {tracker} failed (") == 1
        assert f"In tiny, fold 1 seed 0: the tracker {tracker} lacks a part (" in text
    assert read_json(run / "summary.json")["tracker_failures"] == {"fold 1 seed 0": failures}
    assert SECRET not in text + done.stderr + json.dumps(failures)


# Failures in the middle


class Fickle:
    """A tracker that keeps what it is told, and fails when it is told to."""

    def __init__(self, name: str, fails: Callable[[str, int], bool]) -> None:
        self.name, self.fails = name, fails
        self.calls: list[str] = []
        self.epochs: list[int] = []
        self.scores: dict[str, float] = {}

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if self.fails(what, self.calls.count(what)):
            raise ConnectionResetError(f"{what} is away")

    def start(self) -> None:
        self._call("start")

    def log_epoch(self, history, confusion, gate, n_new=1) -> None:
        self._call("log")
        self.epochs += [int(r["epoch"]) for r in history if r["epoch"] not in self.epochs]

    def log_scores(self, scores, step) -> None:
        self._call("scores")
        self.scores = dict(scores)

    def end(self, status: str) -> None:
        self._call(f"end {status}")


def three_epochs(found: FoldTrackers) -> None:
    found.start()
    history: list[dict[str, float]] = []
    for epoch in (1, 2, 3):
        history.append({"epoch": epoch})
        found.log_epoch(history, np.zeros((2, 2)), None)
    found.close(history, {"final/test_ua": 0.5})


def test_what_failed_for_a_while_is_whole_in_the_end(tmp_path, caplog) -> None:
    fickle = Fickle("fickle", lambda what, n: (what, n) == ("log", 2))
    steady = Fickle("steady", lambda what, n: False)
    found = FoldTrackers([fickle, steady], tmp_path)
    three_epochs(found)
    for tracker in (fickle, steady):
        assert tracker.epochs == [1, 2, 3] and tracker.scores == {"final/test_ua": 0.5}
        assert tracker.calls[-1] == f"end {FINISHED}"
    assert found.failures == {} == read_tracker_failures(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the tracker fickle failed (ConnectionResetError: log is away)" in caplog.text


@pytest.mark.parametrize("what", ["start", "log", "scores", f"end {FINISHED}"])
def test_what_fails_to_the_end_is_recorded_and_ends_no_training(tmp_path, caplog, what) -> None:
    fickle = Fickle("fickle", lambda called, n: called == what)
    found = FoldTrackers([fickle], tmp_path)
    three_epochs(found)
    assert read_tracker_failures(tmp_path) == {"fickle": f"ConnectionResetError: {what} is away"}
    assert caplog.text.count("the tracker fickle failed") == 1
    assert fickle.calls[-1] == "end failed"  # nothing stays open for the next fold
    FoldTrackers([], tmp_path).close([], {})
    assert read_tracker_failures(tmp_path) == {}  # the process that resumes has closed all


def test_a_full_disk_of_a_tracker_costs_no_training(tiny, monkeypatch, caplog) -> None:
    def full(*args: object) -> None:
        raise RunError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.trackers.write_epoch_table", full)
        run = run_experiment(tiny("run.trackers=[tensorboard,csv]", *SMALL), [])
    assert len(history_of(run)) == 2 and not (run / "epochs.csv").exists()
    assert caplog.text.count("the tracker csv failed (RunError: No space left on device)") == 1
    assert "the tracker csv lacks a part" in (run / "summary.md").read_text()


def test_a_corrupt_record_of_failures_is_reported(tmp_path) -> None:
    for content in ([], {"wandb": 1}):
        write_json(tmp_path / "tracker_failures.json", content)
        with pytest.raises(RunError, match=r"tracker_failures\.json is missing, corrupt"):
            read_tracker_failures(tmp_path)


def test_messages_of_trackers_are_cleaned_of_secrets(monkeypatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "long-and-secret")
    monkeypatch.setenv("HOME", "/home/somebody")
    text = "GET https://me:pass@host/x: long-and-secret refused, see /home/somebody/wandb/log"
    assert without_secrets(text) == "GET https://host/x: ... refused, see ~/wandb/log"


# Mistakes


LACKING = """
import importlib.util as u, sys
find = u.find_spec
u.find_spec = lambda name, *rest: None if name in sys.argv[1].split(",") else find(name, *rest)
import train_gmu
status = train_gmu.main(sys.argv[2:])
print(status, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("lacking", "wanted", "said"),
    [
        ("wandb", "wandb", "run.trackers=wandb needs wandb; it comes with the extra `trackers`"),
        ("mlflow", "csv,mlflow", "run.trackers=mlflow needs mlflow; it comes with the extra"),
        ("-", "tensorbord", "run.trackers.0 .*; did you mean 'tensorboard'?"),
        ("-", "csv,csv", "run.trackers .*must name each once"),
    ],
)
def test_a_tracker_that_cannot_be_is_refused_before_torch_is_imported(
    recipe, tmp_path, lacking, wanted, said
) -> None:
    argv = ["--config", str(recipe), f"run.root={tmp_path}/runs", f"run.trackers=[{wanted}]"]
    command = [sys.executable, "-c", LACKING, lacking, *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert re.search(said, done.stderr) and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_wandb_without_a_key_is_refused_and_never_asks(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [sys.executable, str(ROOT / "train_gmu.py"), "--config", str(recipe)]
    command += [f"run.root={tmp_path}/runs", "run.trackers=[wandb]"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2, done.stderr
    assert "wandb has no API key. Run `wandb login`, set WANDB_API_KEY, or" in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "folds").exists()


@pytest.mark.parametrize("command", ["tune", "recipes", "lr_range", "habits"])
def test_commands_without_folds_of_a_run_refuse_trackers_of_runs(
    recipe, tmp_path, capsys, command, monkeypatch
) -> None:
    wishes = [f"run.root={tmp_path}", "run.trackers=[tensorboard,mlflow]"]
    words = [*([] if command == "lr_range" else ["--config"]), str(recipe), *wishes]
    table = tmp_path / "table.yaml"
    if command == "tune":
        table.write_text("optim.lr: {low: 1.0e-4, high: 1.0e-3}\n")
        monkeypatch.setattr(sys, "argv", ["tune.py", *words, "--space", str(table)])
        status = importlib.import_module("tune").main()
    else:
        table.write_text("start: {optim.lr: 1.0e-3}\nother: {optim.lr: 1.0e-4}\n")
        more = ["--recipes", str(table)] if command == "recipes" else []
        status = importlib.import_module(f"scripts.{command}").main([*words, *more])
    assert status == 2
    said = capsys.readouterr().err
    assert "run.trackers=mlflow has no effect on" in said
    assert "give run.trackers=[tensorboard]" in said


def test_a_baseline_refuses_the_key(recipe, capsys) -> None:
    argv = ["--config", str(recipe), "--kind", "majority", "run.trackers=[csv]"]
    assert importlib.import_module("baseline").main(argv) == 2
    assert "run.trackers has no effect on the baseline majority" in capsys.readouterr().err


# Parts


def test_wandbs_files_are_read_across_blocks_and_up_to_a_cut(tmp_path) -> None:
    """Written here as LevelDB's log format says, with records that span several blocks."""
    draw = np.random.default_rng(0)
    sizes = [0, 1, 100, BLOCK - 40, 3 * BLOCK, 5, 2 * BLOCK - 100, 17]
    written = [draw.bytes(size) for size in sizes]
    data = bytearray(b":W&B" + bytes(HEADER - 4))
    for record in written:
        rest, first = record, True
        while first or rest:
            room = BLOCK - len(data) % BLOCK
            if room < 7:
                data += bytes(room)
                room = BLOCK
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                (first, not rest)
            ]
            data += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
    file = tmp_path / "run.wandb"
    file.write_bytes(data)
    assert list(read_records(file)) == written == records_of(bytes(data))
    for n in (*range(20), len(data) // 2, len(data) - 1):
        file.write_bytes(data[:n])
        found = list(read_records(file))
        assert found == written[: len(found)] and len(found) < len(written)


def test_an_empty_offline_file_is_removed_for_the_others_to_be_synced(tmp_path) -> None:
    folders = [tmp_path / f"wandb/offline-run-2026{i}-abc" for i in range(2)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "run-abc.wandb").write_bytes(b":W&B" + bytes(HEADER - 4))
    (folders[0] / "run-other.wandb").write_bytes(b"")
    assert offline_epochs(tmp_path, "abc") == set()
    assert [path.name for path in tmp_path.rglob("*.wandb")] == ["run-other.wandb"]


def test_tensorboard_fills_in_what_its_files_lack_and_hides_what_is_trained_again(tmp_path) -> None:
    def row(epoch: int, loss: float) -> dict[str, float]:
        return {"epoch": epoch, "loss": loss, "dev_ua": loss / 2}

    def found() -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path)).Reload()
        return [(event.step, event.value) for event in events.Scalars("loss/loss")]

    history = [row(1, 0.5), row(2, 0.25), row(3, 0.125)]
    confusion = np.eye(2)
    first = Tracker(tmp_path, ("a", "b"))
    first.log_epoch(history[:2], confusion, None)  # the first one failed to be written
    assert found() == [(1, 0.5), (2, 0.25)]
    first.log_epoch(history, confusion, None)
    assert found() == [(1, 0.5), (2, 0.25), (3, 0.125)]
    again = [history[0], row(2, 4.0)]  # training went back to the end of the first
    first.log_epoch(again, confusion, None)
    assert found() == [(1, 0.5), (2, 4.0)]
    second = Tracker(tmp_path, ("a", "b"))  # another process resumes behind the first epoch
    second.log_epoch([history[0], row(2, 8.0)], confusion, None)
    second.log_epoch([history[0], row(2, 8.0), row(3, 16.0)], None, None)
    assert found() == [(1, 0.5), (2, 8.0), (3, 16.0)]
    third = Tracker(tmp_path, ("a", "b"))  # resumes behind the first, and writes two at once
    rows = [history[0], row(2, 32.0), row(3, 64.0)]
    third.log_epoch(rows, confusion, None, n_new=2)
    assert found() == [(1, 0.5), (2, 32.0), (3, 64.0)]
    files = sorted(tmp_path.iterdir())
    Tracker(tmp_path, ("a", "b")).log_epoch(rows, None, None, n_new=0)  # nothing was trained
    assert sorted(tmp_path.iterdir()) == files


def test_the_table_of_epochs_is_sorted_and_has_the_columns_of_all(tmp_path) -> None:
    for fold, columns in (("fold-10_seed-0", "loss,dev_ua"), ("fold-2_seed-1", "loss,dev_ua,new")):
        (tmp_path / "folds" / fold).mkdir(parents=True)
        rows = [f"epoch,{columns}"] + [f"{e},0.{e},0.5{',7' * ('new' in columns)}" for e in (1, 2)]
        (tmp_path / "folds" / fold / "history.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "folds" / "fold-3_seed-0").mkdir()  # no epoch yet
    (tmp_path / "folds" / "notes").mkdir()
    (tmp_path / "folds" / "notes" / "history.csv").write_text("epoch,loss,dev_ua\n1,1,1\n")
    write_epoch_table(tmp_path)
    assert (tmp_path / "epochs.csv").read_text().splitlines() == [
        "fold,seed,epoch,loss,dev_ua,new",
        "2,1,1,0.1,0.5,7",
        "2,1,2,0.2,0.5,7",
        "10,0,1,0.1,0.5,",
        "10,0,2,0.2,0.5,",
    ]


def test_a_folder_is_no_package(tmp_path, monkeypatch) -> None:
    """W&B makes a folder `wandb` where it is started."""
    (tmp_path / "some_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("some_tracker") and is_installed("json")
    with pytest.raises(InputError, match="needs some_tracker"):
        check_extra("it", "some_tracker", "some")
