"""One MLflow run for a fold and seed, through accelerate's tracker.

MLflow keeps every value that it is given, also a second one of the same step. So a resumed fold
asks which epochs its run has, and sends the others alone. The run is found by a tag: no id is lost
between its creation and a kill.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import MLflowTracker
from numpy.typing import NDArray

from system.files import make_folder
from system.locks import lock
from training.tracked_fold import FINISHED, STOPPED, TrackedFold

TAG = "maxmvit_gmu.fold"
STORE = "mlflow.db"  # in run.root, without MLFLOW_TRACKING_URI
# Of a server that is away: a training waits half a minute for it, not the hours of the defaults
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true"}  # nothing goes to a host that the user did not name


class MlflowRun:
    """The run of one fold.

    Args:
        fold: Names, id and hyperparameters.
    """

    name = "mlflow"

    def __init__(self, fold: TrackedFold) -> None:
        self.fold = fold
        self._tracker: MLflowTracker | None = None
        self._client: Any = None
        self._logged: dict[str, set[int]] = {}  # steps by name

    def start(self) -> None:
        """Begin the run, or resume it; read which epochs it has."""
        if self._tracker is not None:
            return
        client = _connect(self.fold.root)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.fold.group
        experiment = _experiment(client, name)
        found = client.search_runs([experiment], f"tags.`{TAG}` = '{self.fold.id}'")
        if found:
            run = found[0]
        else:
            tags = {TAG: self.fold.id}
            run = client.create_run(experiment, tags=tags, run_name=self.fold.name)
        tracker = MLflowTracker(name)
        tracker.run_id = run.info.run_id  # behind its constructor, which reads MLFLOW_RUN_ID
        tracker.start()
        self._tracker, self._client = tracker, client
        tracker.store_init_configuration(dict(self.fold.hyperparameters))
        for key in run.data.metrics:
            steps = client.get_metric_history(tracker.run_id, key)
            self._logged[key] = {metric.step for metric in steps}

    def log_epoch(
        self,
        history: Sequence[Mapping[str, float]],
        confusion: NDArray | None,
        gate: NDArray | None,
        n_new: int = 1,
    ) -> None:
        """Send the epochs that the run lacks; the step is the epoch. It cannot replace any."""
        for row in history:
            self._log({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Send the scores of the finished fold, if the run lacks them."""
        self._log(scores, step)

    def end(self, status: str) -> None:
        """End the run."""
        import mlflow

        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        if status == FINISHED:
            tracker.finish()
        else:
            mlflow.end_run("KILLED" if status == STOPPED else "FAILED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if self._tracker is None:
            raise RuntimeError("the run was not started")
        lacking = {k: v for k, v in values.items() if step not in self._logged.get(k, ())}
        if lacking:
            self._tracker.log(lacking, step=step)
            for key in lacking:
                self._logged.setdefault(key, set()).add(step)


def _connect(root: Path) -> Any:
    """Return a client of the store that the environment names, or of a local one in `root`."""
    for name, value in (PATIENCE | QUIET).items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a dozen lines for each new store
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{root.resolve() / STORE}")
    if not mlflow.get_tracking_uri().startswith("sqlite:"):
        return mlflow.MlflowClient()
    make_folder(root)
    with lock(root / ".lock.mlflow", f"MLflow's store for {root}", blocking=True):
        return mlflow.MlflowClient()  # the first makes the tables; two at once leave them broken


def _experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, made if missing; another process may make it meanwhile."""
    from mlflow.exceptions import MlflowException

    if (there := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            if (there := client.get_experiment_by_name(name)) is None:
                raise
    return str(there.experiment_id)
