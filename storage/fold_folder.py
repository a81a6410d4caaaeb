"""The folder of one fold with one seed: each of its files is written and read here.

model.safetensors  the tested weights
model.json         what rebuilds the model and its images, read by `storage.model_card`
history.csv        one row per epoch
predictions.csv    one row per utterance of dev and test
environment.json   what made it, session by session, see `storage.environment`
metrics.json       scores; written last: a fold that has it is finished
state/             checkpoints while the fold is trained
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from config.fusions import share_column
from config.tasks import CLASS, TaskName
from corpora.segments import TIME_COLUMNS
from storage.folders import METRICS
from storage.issues import Count, Fallbacks, Incidents, Warnings, Words
from storage.predictions import COLUMNS, FORMATS, GATE, read_rows
from storage.scores import AnyScores
from storage.scores import Scores as Scores
from system.errors import RunError
from system.files import (
    MAX_CLASSES,
    MAX_TABLE,
    corrupt_file,
    read_json,
    read_text,
    write_csv,
    write_json,
)
from system.tables import csv_table
from system.text import truncate

WEIGHTS, STATE = "model.safetensors", "state"
HISTORY, PREDICTIONS = "history.csv", "predictions.csv"
HISTORY_COLUMNS = ("epoch", "loss")  # that every version has written
# Keys of metrics.json and of states that an earlier version wrote, and their names now
RENAMED = {
    "val": "dev",
    "trouble": "training_issues",
    "repairs": "float32_fallbacks",
    "alarms": "collapse_warnings",
    "best_ua": "best_score",
}


@dataclass(frozen=True)
class PredictionTable:
    """Predictions for one split of one fold, in the order of predictions.csv."""

    utterances: NDArray  # (N,) ids
    speakers: NDArray  # (N,)
    targets: NDArray  # (N,) class indices, or (N, D) ratings
    preds: NDArray  # (N,), or (N, D)
    probs: NDArray  # (N, K) probabilities, or the predicted ratings (N, D)
    gate: NDArray | None  # (N,) mean over units, 1 = CQT, 0 = Mel; of two sources
    shares: NDArray | None = None  # (N, n) mean over units of the shares of n other sources

    def take(self, rows: NDArray) -> "PredictionTable":
        """Return the rows of an index or a mask (N,)."""
        return PredictionTable(
            self.utterances[rows],
            self.speakers[rows],
            self.targets[rows],
            self.preds[rows],
            self.probs[rows],
            None if self.gate is None else self.gate[rows],
            None if self.shares is None else self.shares[rows],
        )


@dataclass(frozen=True, kw_only=True)
class TrainingIssues:
    """What went wrong in training: values that are not finite, and signs of collapse.

    Args:
        bad_steps: Number of steps that were skipped because loss or gradient was not finite.
        incidents: The first of these steps: epoch, batch, what, parts, utterances (once `clips`).
        float32_fallbacks: Returns to the end of an earlier epoch: epoch, what, float32 (the parts
            that were trained in float32 from then on), back_to_epoch.
        float32: All parts that were trained in float32 at the end.
        collapse_warnings: Each kind of warning once, with the epochs that had it.
    """

    bad_steps: Count = 0
    incidents: Incidents = field(default_factory=list)
    float32_fallbacks: Fallbacks = field(default_factory=list)
    float32: list[str] = field(default_factory=list)
    collapse_warnings: Warnings = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there was any; a NaN in dev causes a fallback without a skipped step."""
        return bool(self.bad_steps or self.float32_fallbacks or self.collapse_warnings)


@dataclass(frozen=True, kw_only=True)
class FoldMetrics:
    """The content of metrics.json."""

    protocol: str
    certificate: str  # id
    fold: Count
    seed: Count
    classes: Annotated[Sequence[Words], Field(min_length=1, max_length=MAX_CLASSES)]
    # The epoch whose weights were tested, counted from 1; 0 of a baseline without epochs
    best_epoch: Count
    epochs: Count | None = None  # epochs trained; None in folders of an early version
    training_issues: TrainingIssues = field(default_factory=TrainingIssues)
    dev: AnyScores
    test: AnyScores
    gate_mean: float | None = None  # of test, over utterances and units; 1 = CQT, 0 = Mel
    gate_shares: dict[str, float] | None = (
        None  # likewise, of each source, of others than both images
    )
    # Facts of each session that trained the fold, see `environment.facts`; once not written
    made_with: list[dict[str, Any]] = field(default_factory=list)
    task: TaskName = CLASS  # not written of classes, as `scale`
    scale: list[float] | None = None  # of ratings


_METRICS = TypeAdapter(FoldMetrics)


def fold_name(fold: int, seed: int) -> str:
    """Return the name of a fold's folder."""
    return f"fold-{fold}_seed-{seed}"


def write_metrics(folder: Path, metrics: FoldMetrics) -> None:
    """Write metrics.json; call it last, since it marks the fold as finished."""
    content = asdict(metrics)
    if metrics.task == CLASS:
        del content["task"], content["scale"]
    if metrics.gate_shares is None:
        del content["gate_shares"]
    write_json(folder / METRICS, content)


def read_metrics(folder: Path) -> FoldMetrics:
    """Read metrics.json, also that of an earlier version.

    Raises:
        RunError: It is missing or corrupt.
    """
    content = read_json(folder / METRICS, remove=folder)
    try:
        metrics = _METRICS.validate_json(json.dumps(_with_new_names(content)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("Scores", "TaskScores")]
        reason = f"{truncate('.'.join(place))}: {first['msg']}"
        raise corrupt_file(folder / METRICS, reason, remove=folder) from error
    except RecursionError as error:
        raise corrupt_file(folder / METRICS, error, remove=folder) from error
    least = 0 if metrics.epochs == 0 else 1
    if metrics.epochs is not None and not least <= metrics.best_epoch <= metrics.epochs:
        reason = f"best_epoch is {metrics.best_epoch} of {metrics.epochs} epochs"
        raise corrupt_file(folder / METRICS, reason, remove=folder)
    if folder.name != (name := fold_name(metrics.fold, metrics.seed)):
        raise RunError(
            f"{folder} is not named {name}, the fold that its {METRICS} is of: a copy would count "
            f"twice. Move it out of {folder.parent}"
        )
    return metrics


def _with_new_names(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {
        RENAMED.get(key, key): _with_new_names(value) if key == "trouble" else value
        for key, value in content.items()
    }


def write_predictions(
    folder: Path,
    classes: Sequence[str],
    tables: Mapping[str, PredictionTable],
    segments: Mapping[str, Sequence[str]] | None = None,
    task: str = CLASS,
    sources: Sequence[str] = (),
) -> None:
    """Write predictions.csv.

    Args:
        folder: Folder of the fold.
        classes: Class names, in the order of the targets.
        tables: The predictions of each split, "dev" and "test".
        segments: From `segment_cells`; columns `start` and `end` are written if there are any.
        task: Task of the run.
        sources: Names of the fused sources, where tables have a share of each.
    """
    times, form = TIME_COLUMNS if segments else (), FORMATS[task](classes)
    has_shares = any(table.shares is not None for table in tables.values())
    named = [share_column(source) for source in sources if has_shares]
    header = [*COLUMNS, *form.before, *times, *form.after, GATE, *named]
    rows = []
    for split, table in tables.items():
        gates = [""] * len(table.targets)
        if table.gate is not None:
            gates = [f"{gate:.6f}" for gate in table.gate]
        shares = np.zeros((len(gates), 0)) if table.shares is None else table.shares
        columns = (table.utterances, table.speakers, table.targets, table.preds, table.probs)
        each = zip(*columns, gates, shares, strict=True)
        for utterance, speaker, target, pred, probs, gate, share in each:
            cells = segments[utterance] if segments else ()
            before, after = form.cells(target, pred, probs)
            last = [gate, *(f"{one:.6f}" for one in share)]
            rows.append([split, utterance, speaker, *before, *cells, *after, *last])
    write_csv(folder / PREDICTIONS, header, rows)


def read_predictions(
    folder: Path, classes: Sequence[str], split: str, n: int, task: str = CLASS
) -> PredictionTable:
    """Read the predictions of one split.

    Args:
        folder: Folder of the fold.
        classes: Class names, in the order of the targets.
        split: "dev" or "test".
        n: Number of utterances that metrics.json has.
        task: Task of the run.

    Raises:
        RunError: The file is missing or corrupt, or has another number of rows.
    """
    file = folder / PREDICTIONS
    try:
        form = FORMATS[task](classes)
        rows = list(read_rows(file, form, split))
    except (OSError, ValueError, csv.Error) as error:
        raise corrupt_file(file, error, remove=folder) from error
    if len(rows) != n:
        raise corrupt_file(file, f"{len(rows)} {split} rows, {METRICS} has {n}", remove=folder)
    gate = [row.gate for row in rows]
    return PredictionTable(
        np.array([row.utterance for row in rows]),
        np.array([row.speaker for row in rows]),
        form.column([row.target for row in rows]),
        form.column([row.pred for row in rows]),
        np.array([row.probs for row in rows]).reshape(len(rows), len(classes)),
        None if None in gate else np.array(gate, dtype=float),
        np.array([row.shares for row in rows]) if rows and rows[0].shares else None,
    )


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv.

    Args:
        folder: Folder of the fold.
        history: One mapping per epoch, all with the same keys in the same order.
    """
    rows = [list(epoch.values()) for epoch in history]
    write_csv(folder / HISTORY, list(history[-1]), rows)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read history.csv: one mapping per epoch with losses, learning rates and dev scores.

    Raises:
        RunError: It is missing or corrupt.
    """
    rows = read_table(folder / HISTORY, HISTORY_COLUMNS, remove=folder)
    try:
        return [{key: float(row[key]) for key in row} for row in rows]
    except ValueError as error:
        raise corrupt_file(folder / HISTORY, error, remove=folder) from error


def read_table(
    path: Path, columns: Sequence[str], remove: Path | None = None
) -> list[dict[str, str]]:
    """Read the rows of a CSV file of a run.

    Args:
        path: The file.
        columns: Columns that it must have.
        remove: Folder to remove so that the file is written again, for the message; None is the
            file alone.

    Raises:
        RunError: It is missing or corrupt.
    """
    try:
        rows = csv_table(read_text(path, MAX_TABLE))
        if not rows:
            raise ValueError("it has no rows")
        if missing := [column for column in columns if column not in rows[0]]:
            raise ValueError(f"it has no column {', '.join(missing)}")
    except (OSError, ValueError) as error:
        raise corrupt_file(path, error, remove) from error
    return rows
