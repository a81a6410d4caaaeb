"""The scores of one split, as metrics.json has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.issues import Count, Fraction, Words


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one split as fractions; `evaluation.metrics.scores` returns these keys."""

    ua: Fraction
    wa: Fraction
    macro_f1: Fraction
    weighted_f1: Fraction
    per_class_recall: Sequence[Fraction | None]  # (K,); None where the split lacks the class
    confusion: Sequence[Sequence[Count]]  # (K, K), target by prediction
    n: Count  # utterances

    def named(self) -> dict[str, float]:
        """Return the scores by name."""
        return {name: getattr(self, name) for name in ("ua", "wa", "macro_f1", "weighted_f1")}


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Scores of one split where the task is not `class`, by their names in `evaluation.tasks`."""

    scores: dict[Words, float]
    n: Count  # utterances

    def named(self) -> dict[str, float]:
        """Return the scores by name."""
        return dict(self.scores)


AnyScores = Scores | TaskScores
