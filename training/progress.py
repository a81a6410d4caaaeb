"""How far a training has come, and what went wrong on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.losses import LossTerms
from storage.checkpoints import Place
from storage.fold_folder import TrainingIssues
from training.collapse import Alarm

INCIDENTS_KEPT = 20


@dataclass
class Progress:
    """With the weights and optimizers, all that going on needs; plain values, ready for JSON."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done of the next one
    best_epoch: int = 0
    best_ua: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)  # of the losses since the epoch began
    measured: dict[str, float] = field(default_factory=dict)  # in its steps, added up likewise
    history: list[dict[str, float]] = field(default_factory=list)
    bad_in_row: int = 0  # steps skipped since the last good one
    bad_steps: int = 0  # steps skipped at all
    incidents: list[dict[str, Any]] = field(default_factory=list)  # the first of them
    repairs: list[dict[str, Any]] = field(default_factory=list)  # returns to an earlier state
    float32: list[str] = field(default_factory=list)  # parts that went on in float32
    alarms: list[Alarm] = field(default_factory=list)  # a kind once, with its epochs

    @property
    def place(self) -> Place:
        """Where a state of now belongs."""
        return Place(self.epoch, self.batch, self.best_epoch)

    def is_done(self, epochs: int, patience: int | None) -> bool:
        """Return whether all epochs are done, or so many since the best one."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= epochs or (patience is not None and waited >= patience)

    def add(self, terms: LossTerms, n: int) -> None:
        """Add up the losses of n clips."""
        for name, value in terms._asdict().items():
            if value is not None:
                self.sums[name] = self.sums.get(name, 0.0) + float(value) * n
        self.sums["n"] = self.sums.get("n", 0.0) + n

    def measure(self, values: Mapping[str, float]) -> None:
        """Add up what is measured in a step, for its mean over the epoch's good steps."""
        for name, value in values.items():
            self.measured[name] = self.measured.get(name, 0.0) + value
        self.measured["steps"] = self.measured.get("steps", 0.0) + 1

    def sound(self, alarms: Sequence[Alarm]) -> list[Alarm]:
        """Note alarms and all epochs that had them; return those of kinds not heard before."""
        known = {alarm["what"]: alarm for alarm in self.alarms}
        fresh = [alarm for alarm in alarms if alarm["what"] not in known]
        for alarm in alarms:
            first = known.get(alarm["what"], alarm)
            epochs = [*first.get("epochs", [first["epoch"]])] if first is not alarm else []
            known[alarm["what"]] = {**first, "epochs": [*epochs, alarm["epoch"]]}
        self.alarms = list(known.values())
        return fresh

    def skip(self, incident: dict[str, Any], terms: LossTerms) -> None:
        """Note a step that was not taken; its losses are columns, but do not count."""
        for name, value in terms._asdict().items():
            if value is not None:
                self.sums.setdefault(name, 0.0)
        self.bad_in_row += 1
        self.bad_steps += 1
        self.sums["skipped_steps"] = self.sums.get("skipped_steps", 0.0) + 1
        self.incidents = [*self.incidents, incident][:INCIDENTS_KEPT]

    def close_epoch(
        self,
        rates: Mapping[str, float],
        dev: Mapping[str, float],
        signs: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """End the epoch and return its row of the history.

        Args:
            rates: Learning rates.
            dev: Scores of the dev split.
            signs: What else is worth a column, see `collapse`.
        """
        sums = {"total": 0.0, **self.sums}
        n, skipped = sums.pop("n", 0.0), sums.pop("skipped_steps", 0.0)
        means = {name: value / n if n else float("nan") for name, value in sums.items()}
        self.epoch += 1
        steps = self.measured.pop("steps", 0.0)
        measured = {k: v / steps if steps else float("nan") for k, v in self.measured.items()}
        self.batch, self.sums, self.measured = 0, {}, {}
        record = {"epoch": self.epoch, "loss": means.pop("total"), **means}
        record |= {**rates, **dev, "skipped_steps": int(skipped), **measured, **(signs or {})}
        self._append(record)
        return self.history[-1]

    def _append(self, record: Mapping[str, float]) -> None:
        """Let all rows have all columns: some epochs have no good step, some versions fewer."""
        rows = [*self.history, record]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        self.history = [{name: row.get(name, float("nan")) for name in columns} for row in rows]

    def training_issues(self) -> TrainingIssues:
        """Return what a reader of the scores should know."""
        return TrainingIssues(
            bad_steps=self.bad_steps,
            incidents=self.incidents,
            float32_fallbacks=self.repairs,
            float32=self.float32,
            collapse_warnings=[dict(alarm) for alarm in self.alarms],
        )
