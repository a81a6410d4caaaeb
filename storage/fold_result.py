"""A finished fold, read from its folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from config.tasks import RatingScale
from storage.environment import read_environment
from storage.fold_folder import FoldMetrics, PredictionTable, read_history, read_predictions


@dataclass(frozen=True)
class FoldResult:
    """One finished fold with one seed."""

    folder: Path
    metrics: FoldMetrics

    @property
    def fold(self) -> int:
        """Fold number, counted from 1."""
        return self.metrics.fold

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.metrics.seed

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the targets."""
        return tuple(self.metrics.classes)

    @property
    def task(self) -> str:
        """Task, see `config.tasks`."""
        return self.metrics.task

    @property
    def scale(self) -> RatingScale | None:
        """Scale of the ratings; None of classes."""
        return None if self.metrics.scale is None else RatingScale(*self.metrics.scale)

    @cached_property
    def test(self) -> PredictionTable:
        """Predictions of the test split."""
        return read_predictions(self.folder, self.classes, "test", self.metrics.test.n, self.task)

    @cached_property
    def dev(self) -> PredictionTable:
        """Predictions of the dev split, by the same weights."""
        return read_predictions(self.folder, self.classes, "dev", self.metrics.dev.n, self.task)

    def history(self) -> list[dict[str, float]]:
        """Return one mapping per epoch: losses, learning rates, dev scores; none of no epochs."""
        return [] if self.metrics.epochs == 0 else read_history(self.folder)

    def environment(self) -> dict[str, Any]:
        """Return what sessions made this fold with, see `storage.environment`."""
        return read_environment(self.folder, remove=self.folder)
