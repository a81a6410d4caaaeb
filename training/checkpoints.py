"""Checkpoints of one training: its progress and its saved states."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from data import Batch
from models.losses import LossTerms
from storage.fold_folder import TrainingIssues
from storage.tensors import (
    StateCopy,
    load_state,
    load_tensors,
    read_state_values,
    write_state,
    write_tensors,
)
from system.errors import RunError
from system.files import corrupt_file, is_unreachable
from training.collapse import CollapseWarning

log = logging.getLogger(__name__)

STATES_KEPT = 2
INCIDENTS_KEPT = 20
STATE_NAME = re.compile(r"epoch-(\d+)_batch-(\d+)_best-(\d+)\.safetensors")


class Place(NamedTuple):
    """How far a training was when its state was saved; later places are larger."""

    epoch: int  # finished epochs
    batch: int  # finished batches of the next epoch
    best_epoch: int  # 0 before the first

    @property
    def name(self) -> str:
        """File name of the state, without suffix."""
        return f"epoch-{self.epoch:04d}_batch-{self.batch:05d}_best-{self.best_epoch:04d}"


@dataclass
class Progress:
    """How far a training is and what went wrong on the way; plain values, ready for JSON."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the next epoch
    best_epoch: int = 0
    best_score: float = -2.0  # on dev, see `Task.main`; below any that it can be
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of this epoch
    measured: dict[str, float] = field(default_factory=dict)  # sums over the steps of this epoch
    history: list[dict[str, float]] = field(default_factory=list)
    bad_in_row: int = 0  # steps skipped since the last good one
    bad_steps: int = 0  # skipped steps in all
    incidents: list[dict[str, Any]] = field(default_factory=list)  # the first skipped steps
    float32_fallbacks: list[dict[str, Any]] = field(default_factory=list)  # returns to an epoch
    float32: list[str] = field(default_factory=list)  # parts that continued in float32
    collapse_warnings: list[CollapseWarning] = field(default_factory=list)  # one of each kind

    @property
    def place(self) -> Place:
        """Place of a state saved now."""
        return Place(self.epoch, self.batch, self.best_epoch)

    def is_done(self, epochs: int, patience: int | None) -> bool:
        """Whether all epochs are finished, or `patience` of them since the best one."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= epochs or (patience is not None and waited >= patience)

    def add_step(
        self,
        window: Sequence[Batch],
        losses: Sequence[Mapping[str, float]],
        measures: Mapping[str, float],
    ) -> None:
        """Add a step to the sums of the epoch.

        Args:
            window: Batches of the step.
            losses: Losses of each batch by name; none where the step was skipped.
            measures: What was measured in it; the history has the mean over the good steps.
        """
        self.batch += len(window)
        if not losses:
            return
        for terms, batch in zip(losses, window, strict=True):
            n = len(batch.targets)
            for name, value in [*((name, value * n) for name, value in terms.items()), ("n", n)]:
                self.sums[name] = self.sums.get(name, 0.0) + value
        for name, value in [*measures.items(), ("steps", 1.0)]:
            self.measured[name] = self.measured.get(name, 0.0) + value

    def record_warnings(self, warnings: Sequence[CollapseWarning]) -> list[CollapseWarning]:
        """Record the warnings of an epoch; return those of a kind that is new."""
        known = {warning["what"]: warning for warning in self.collapse_warnings}
        fresh = [warning for warning in warnings if warning["what"] not in known]
        for warning in warnings:
            first = known.get(warning["what"], warning)
            epochs = [*first.get("epochs", [first["epoch"]])] if first is not warning else []
            known[warning["what"]] = {**first, "epochs": [*epochs, warning["epoch"]]}
        self.collapse_warnings = list(known.values())
        return fresh

    def record_skipped_step(self, incident: dict[str, Any], terms: LossTerms) -> None:
        """Count a step that was not taken; its losses get columns but do not count."""
        for name in terms.named():
            self.sums.setdefault(name, 0.0)
        self.bad_in_row += 1
        self.bad_steps += 1
        self.sums["skipped_steps"] = self.sums.get("skipped_steps", 0.0) + 1
        self.incidents = [*self.incidents, incident][:INCIDENTS_KEPT]

    def close_epoch(
        self,
        rates: Mapping[str, float],
        dev: Mapping[str, float],
        measures: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """End the epoch and return its row of the history.

        Args:
            rates: Learning rate of each part of the model.
            dev: Loss and scores on the dev split.
            measures: More columns, see `training.collapse`.
        """
        sums = {"total": 0.0, **self.sums}
        n, skipped = sums.pop("n", 0.0), sums.pop("skipped_steps", 0.0)
        means = {name: value / n if n else float("nan") for name, value in sums.items()}
        self.epoch += 1
        steps = self.measured.pop("steps", 0.0)
        measured = {k: v / steps if steps else float("nan") for k, v in self.measured.items()}
        self.batch, self.sums, self.measured = 0, {}, {}
        record = {"epoch": self.epoch, "loss": means.pop("total"), **means}
        record |= {**rates, **dev, "skipped_steps": int(skipped), **measured, **(measures or {})}
        rows = [*self.history, record]  # an epoch without a good step has fewer columns
        columns = list(dict.fromkeys(name for row in rows for name in row))
        self.history = [{name: row.get(name, float("nan")) for name in columns} for row in rows]
        return self.history[-1]

    def training_issues(self) -> TrainingIssues:
        """Return what a reader of the scores should know about this training."""
        return TrainingIssues(
            **{field.name: getattr(self, field.name) for field in fields(TrainingIssues)}
        )


class Checkpoints:
    """Saved states of one training: the newest two, and the newest at the end of an epoch.

    `epoch-<e>_batch-<b>_best-<k>.safetensors` is the state after e epochs and b batches of the
    next; `best-<k>.safetensors` holds the weights of epoch k, the best until then.

    Args:
        folder: Folder of these files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: StateCopy, place: Place) -> None:
        """Write a state, then remove the states and best weights that it replaces.

        Raises:
            RunError: The state cannot be written; earlier states are unchanged.
        """
        write_state(self._file(place), state)
        places = self._places()
        kept = {*places[:STATES_KEPT], *[place for place in places if place.batch == 0][:1]}
        needed = {*map(self._file, kept), *(self.best(place.best_epoch) for place in kept)}
        for file in set(self.folder.glob("*.safetensors")) - needed:
            file.unlink(missing_ok=True)

    def save_best(self, weights: Mapping[str, Tensor], epoch: int) -> None:
        """Write copied weights of the best epoch so far, before the state that names it."""
        write_tensors(self.best(epoch), weights)

    def best(self, epoch: int) -> Path:
        """Return the file with the weights of an epoch that was the best."""
        return self.folder / f"best-{epoch:04d}.safetensors"

    def load(self, between_epochs: bool = False) -> dict[str, Any] | None:
        """Return the newest intact state, or None where none was saved.

        Corrupt states are removed once an older intact one is found. Of several processes the first
        calls it for all.

        Args:
            between_epochs: Consider only states at the end of an epoch or before the first.

        Raises:
            RunError: All states are corrupt.
        """
        broken: list[Path] = []
        reason: object = None
        for place in [place for place in self._places() if not (between_epochs and place.batch)]:
            file = self._file(place)
            try:
                state = load_state(file)
                if place.best_epoch:
                    load_tensors(self.best(place.best_epoch))
            except RunError as error:
                if isinstance(error.__cause__, Exception) and is_unreachable(error.__cause__):
                    raise  # the disk failed; the file may be intact
                broken.append(file)
                reason = error.__cause__ or error
                continue
            _remove_corrupt(broken, file.name)
            return state
        if broken:
            raise corrupt_file(broken[0], reason, remove=self.folder.parent)
        return None

    @property
    def is_begun(self) -> bool:
        """Whether a state was saved."""
        return bool(self._places())

    def processes(self) -> int | None:
        """Return how many processes saved the newest readable state; None is unknown."""
        return self._number("processes")

    def divisor(self) -> int | None:
        """Return how many processes began the training, see `TrainBatches`; None is unknown."""
        return self._number("divisor") or self.processes()

    def _number(self, key: str) -> int | None:
        for place in self._places():
            with suppress(RunError):  # `load` says so
                number = read_state_values(self._file(place)).get(key)
                return number if isinstance(number, int) else None
        return None

    def remove_after(self, place: Place) -> None:
        """Remove the states later than a place to which training has returned."""
        for later in [saved for saved in self._places() if saved > place]:
            self._file(later).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all states: the fold is tested."""
        for file in self.folder.glob("*.safetensors"):
            file.unlink(missing_ok=True)

    def _file(self, place: Place) -> Path:
        return self.folder / f"{place.name}.safetensors"

    def _places(self) -> list[Place]:
        """Return the places of all states, the newest first."""
        matches = [STATE_NAME.fullmatch(path.name) for path in self.folder.glob("epoch-*")]
        return sorted((Place(*map(int, m.groups())) for m in matches if m), reverse=True)


def _remove_corrupt(broken: list[Path], used: str) -> None:
    for file in broken:
        log.warning("%s is corrupt and was removed; resuming from %s", file, used)
        file.unlink(missing_ok=True)
