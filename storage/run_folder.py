"""A run folder, read: who was tested, what was predicted, and what it was made with."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.loading import flatten, load_config
from storage.folders import check_is_run
from system.errors import InputError
from system.files import MAX_TABLE, corrupt_file, read_json, read_text

METRICS_KEYS = ("protocol", "certificate", "fold", "seed", "classes", "best_epoch", "test", "val")
CERTIFICATE_KEYS = ("id", "protocol", "speaker_dependent", "folds")
METRICS_OF = {"dev": "val", "test": "test"}
COLUMNS = {  # that a table must have
    "history.csv": ("epoch", "loss", "dev_ua"),
    "predictions.csv": ("split", "utterance", "speaker", "target", "pred", "gate_mean"),
    "utterances.csv": ("utterance",),
}


@dataclass(frozen=True)
class Table:
    """Predictions of one part of one fold, in the order of predictions.csv."""

    utterances: NDArray  # (N,) ids
    speakers: NDArray  # (N,)
    targets: NDArray  # (N,) class indices
    preds: NDArray  # (N,)
    probs: NDArray  # (N, K)
    gate: NDArray | None  # (N,) mean over units, 1 = CQT, 0 = Mel

    def take(self, rows: NDArray) -> "Table":
        """Return some rows: an index or a mask (N,)."""
        return Table(
            self.utterances[rows],
            self.speakers[rows],
            self.targets[rows],
            self.preds[rows],
            self.probs[rows],
            None if self.gate is None else self.gate[rows],
        )


@dataclass(frozen=True)
class FoldResult:
    """One finished fold with one seed."""

    folder: Path
    fold: int
    seed: int
    classes: tuple[str, ...]
    metrics: Mapping[str, Any]

    @cached_property
    def test(self) -> Table:
        """Predictions of the test split."""
        return self._read("test")

    @cached_property
    def dev(self) -> Table:
        """Predictions of the dev split, by the same weights."""
        return self._read("dev")

    def history(self) -> list[dict[str, float]]:
        """Return one row an epoch: losses, learning rates, dev scores."""
        rows = _rows(self.folder, "history.csv")
        try:
            return [{key: float(row[key]) for key in row} for row in rows]
        except ValueError as error:
            raise corrupt_file(self.folder / "history.csv", error, remove=self.folder) from error

    def environment(self) -> dict[str, Any]:
        """Return what this fold was made with."""
        file = self.folder / "environment.json"
        found = read_json(file, "command", "git_commit", remove=self.folder)
        command, packages = found["command"], found.get("packages", {})
        words = isinstance(command, list) and all(isinstance(word, str) for word in command)
        numbers = isinstance(found.get("seconds", 0), int | float)
        if not (words and numbers and isinstance(packages, dict)):
            reason = "command, packages or seconds are not as written"
            raise corrupt_file(file, reason, remove=self.folder)
        return found

    def _read(self, part: str) -> Table:
        rows = [row for row in _rows(self.folder, "predictions.csv") if row["split"] == part]
        place = {name: i for i, name in enumerate(self.classes)}
        if len(rows) != self.metrics[METRICS_OF[part]]["n"]:
            raise corrupt_file(
                self.folder / "predictions.csv",
                f"{len(rows)} {part} rows, metrics.json has {self.metrics[METRICS_OF[part]]['n']}",
                remove=self.folder,
            )
        try:
            gate = [row["gate_mean"] for row in rows]
            return Table(
                np.array([row["utterance"] for row in rows]),
                np.array([row["speaker"] for row in rows]),
                np.array([place[row["target"]] for row in rows]),
                np.array([place[row["pred"]] for row in rows]),
                np.array([[float(row[f"prob_{name}"]) for name in self.classes] for row in rows]),
                None if "" in gate else np.array([float(value) for value in gate]),
            )
        except (KeyError, ValueError) as error:
            raise corrupt_file(
                self.folder / "predictions.csv", error, remove=self.folder
            ) from error


@dataclass(frozen=True)
class Run:
    """A run with at least one finished fold."""

    folder: Path
    config: Mapping[str, Any]  # dotted keys, resolved
    certificate: Mapping[str, Any]
    folds: Sequence[FoldResult]  # of the folds that every seed has finished
    left_out: Sequence[str] = ()  # finished folds that not every seed has finished

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.folder.resolve().name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the targets."""
        return self.folds[0].classes

    @property
    def seeds(self) -> list[int]:
        """Seeds, sorted."""
        return sorted({one.seed for one in self.folds})

    @property
    def fold_numbers(self) -> list[int]:
        """Folds, sorted."""
        return sorted({one.fold for one in self.folds})

    def of_seed(self, seed: int) -> Table:
        """Return the test predictions of all folds with one seed, sorted by utterance."""
        parts = [one.test for one in self.folds if one.seed == seed]
        return _joined(parts)

    @cached_property
    def about(self) -> Mapping[str, Mapping[str, str]]:
        """What is known of each utterance, by id: speaker, gender, session, portion, text..."""
        return {row["utterance"]: row for row in _rows(self.folder, "utterances.csv")}

    def audio_file(self, utterance: str) -> Path:
        """Return where the corpus keeps a clip; the corpus may have moved since.

        A relative corpus.root starts here or, where there is nothing, where the run was started.
        """
        root = Path(self.config["corpus.root"]).expanduser()
        if not root.is_absolute() and not root.exists():
            root = Path(self.folds[0].environment().get("folder", "."), root)
        return root / self.about[utterance]["path"]


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: It is not the folder of a run, or no fold of it is finished.
        RunError: A file in it is corrupt.
    """
    folder = Path(folder)
    check_is_run(folder)
    finished = [_read_fold(path) for path in sorted(folder.glob("folds/*/metrics.json"))]
    if not finished:
        raise InputError(f"{folder} has no finished fold yet: give its training command again")
    certificate = read_json(folder / "split_certificate.json", *CERTIFICATE_KEYS)
    try:
        dict.fromkeys((one["fold"], one["test"]["recordings"]) for one in certificate["folds"])
    except (LookupError, TypeError) as error:
        raise corrupt_file(folder / "split_certificate.json", f"folds: {error}") from error
    for one in finished:
        _check_belongs(one, certificate)
    common = of_common_folds(finished)
    left_out = [one.folder.name for one in finished if one not in common]
    config = flatten(load_config(folder / "config.yaml").model_dump())
    return Run(folder, config, certificate, common, left_out)


def of_common_folds(finished: Sequence[FoldResult]) -> list[FoldResult]:
    """Keep the folds that every seed has finished, in order, so that seeds can be averaged."""
    folds: dict[int, set[int]] = {}
    for one in finished:
        folds.setdefault(one.seed, set()).add(one.fold)
    common = set.intersection(*folds.values())
    if not common:  # no fold in common yet: the seed that is furthest speaks
        furthest = max(sorted(folds), key=lambda seed: len(folds[seed]))
        finished = [one for one in finished if one.seed == furthest]
        common = folds[furthest]
    kept = [one for one in finished if one.fold in common]
    return sorted(kept, key=lambda one: (one.fold, one.seed))


def _check_belongs(one: FoldResult, certificate: Mapping[str, Any]) -> None:
    """Refuse a fold that was made on other clips or splits than its run says."""
    for key, value in (("protocol", certificate["protocol"]), ("certificate", certificate["id"])):
        if one.metrics[key] != value:
            reason = f"its {key} is {one.metrics[key]}, that of the run {value}"
            raise corrupt_file(one.folder / "metrics.json", reason, remove=one.folder)


def _read_fold(metrics_file: Path) -> FoldResult:
    metrics = read_json(metrics_file, *METRICS_KEYS)
    numbers = isinstance(metrics["fold"], int) and isinstance(metrics["seed"], int)
    named = isinstance(metrics["classes"], list)
    named = named and all(isinstance(name, str) for name in metrics["classes"])
    parts = [metrics[key] for key in METRICS_OF.values()]
    counted = all(isinstance(part, dict) and isinstance(part.get("n"), int) for part in parts)
    if not (numbers and named and counted):
        reason = "fold, seed, classes or counts are not as written"
        raise corrupt_file(metrics_file, reason, remove=metrics_file.parent)
    classes = tuple(metrics["classes"])
    return FoldResult(metrics_file.parent, metrics["fold"], metrics["seed"], classes, metrics)


def _joined(parts: Sequence[Table]) -> Table:
    gates = [part.gate for part in parts if part.gate is not None]
    whole = Table(
        np.concatenate([part.utterances for part in parts]),
        np.concatenate([part.speakers for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.preds for part in parts]),
        np.concatenate([part.probs for part in parts]),
        np.concatenate(gates) if len(gates) == len(parts) else None,
    )
    return whole.take(whole.utterances.argsort(kind="stable"))


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    path = folder / name
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, MAX_TABLE), newline="")))
        if not rows or any(None in row or None in row.values() for row in rows):
            raise ValueError("it is empty or cut short")
        if missing := [column for column in COLUMNS[name] if column not in rows[0]]:
            raise ValueError(f"no {', '.join(missing)} in it")
    except (OSError, ValueError, csv.Error) as error:
        raise corrupt_file(path, error, remove=folder) from error
    return rows
