"""What a task says of itself: targets, predictions, scores, and what of them is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.tasks import RatingScale, TaskName
from corpora.utterance import Utterance
from evaluation.scale import FRACTION, Scale, Score
from evaluation.wording import percent
from storage.fold_folder import PredictionTable
from storage.scores import AnyScores

if TYPE_CHECKING:
    from torch import Tensor  # slow: torch


class Measure(NamedTuple):
    """A score, and how it is written.

    Args:
        name: As in tables.
        score: Function of sums that add up over speakers: (..., A, B) -> (...).
        scale: Range of the score, and what its sums are.
        in_percent: Whether it is printed in percent, else as a number with three decimals.
    """

    name: str
    score: Score
    scale: Scale = FRACTION
    in_percent: bool = True

    def words(self, value: float | None, sign: str = "") -> str:
        """Return a value as it is printed, or a dash for None."""
        if self.in_percent or value is None:
            return percent(value, sign)
        return f"{value:{sign}.3f}"

    def gap(self, value: float) -> str:
        """Return a difference in words.

        >>> Measure("UA", abs).gap(0.052), Measure("CCC", abs, in_percent=False).gap(0.052)
        ('5.2 points of UA', '0.052 of CCC')
        """
        return f"{self.words(value)}{' points' * self.in_percent} of {self.name}"


@dataclass(frozen=True)
class Task:
    """A task; the base of all.

    Args:
        names: Names of the K classes or D dimensions, in the order of the outputs.
        scale: Scale of the ratings; None for classes.
    """

    names: tuple[str, ...]
    scale: RatingScale | None = None

    kind: ClassVar[TaskName]
    main: ClassVar[str]  # the score that selects on dev and stands in conclusions
    columns: ClassVar[tuple[str, ...]]  # scores of a table: mean over folds
    caption: ClassVar[str]  # units of a table's scores
    differences: ClassVar[str]  # units of paired tests
    noun: ClassVar[str] = "class"
    parts: ClassVar[str] = "classes"
    explained: ClassVar[str]  # the scores, for people
    pair: ClassVar[tuple[str, str]]  # scores that are shown of each fold
    dev_loss: ClassVar[str] = "Cross-entropy"
    worst: ClassVar[str] = "most probable wrong prediction"
    groups_note: ClassVar[str] = ""  # what "class" means where gates are analysed

    @property
    def pooled(self) -> tuple[str, ...]:
        """Scores of a table over all test utterances, with intervals."""
        raise NotImplementedError

    @property
    def tested(self) -> tuple[str, ...]:
        """Scores of the paired tests."""
        return self.pooled

    @property
    def measures(self) -> Mapping[str, Measure]:
        """All scores by name."""
        raise NotImplementedError

    @property
    def n_directions(self) -> int:
        """Number of directions that embeddings need at least to tell all targets apart."""
        raise NotImplementedError

    def targets(self, utterances: Sequence[Utterance]) -> list[Any]:
        """Return the target of each utterance."""
        return [utterance.target for utterance in utterances]

    def outputs(self, logits: "Tensor") -> "Tensor":
        """Return predictions as they are stored: (B, K) -> (B, K)."""
        raise NotImplementedError

    def losses(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Return the loss of each utterance, whose mean is `dev_loss`: -> (B,)."""
        raise NotImplementedError

    def preds(self, outputs: NDArray) -> NDArray:
        """Return what is compared with the targets."""
        raise NotImplementedError

    def by_speaker(self, table: PredictionTable) -> NDArray:
        """Return the sums of each speaker, sorted by name, from which scores follow: (S, A, B)."""
        raise NotImplementedError

    def scores(self, targets: NDArray, preds: NDArray, outputs: NDArray) -> AnyScores:
        """Return the scores of some utterances, for metrics.json."""
        raise NotImplementedError

    def confusion(self, targets: NDArray, preds: NDArray) -> NDArray | None:
        """Return counts by target and prediction (K, K); None without classes."""
        return None

    def prediction(self, pred: Any) -> str:
        """Return one prediction in words: the class."""
        return self.names[pred]

    @property
    def group_names(self) -> tuple[str, ...]:
        """Groups of like targets, by which gates are analysed: the classes."""
        return self.names

    def group_of(self, values: NDArray) -> NDArray:
        """Return the group of each target or prediction: -> (N,) indices."""
        return values

    def certainty(self, outputs: NDArray) -> NDArray:
        """Return how sure each prediction is, 0 to 1, or NaN: (N, K) -> (N,)."""
        found: NDArray = outputs.max(1)
        return found

    def missed_by(self, target: NDArray, preds: NDArray, outputs: NDArray) -> NDArray:
        """Return how wrong each prediction is, 0 where it is right: -> (N,)."""
        return np.where(preds == target, 0.0, self.certainty(outputs))

    def chance(self, scores: Mapping[str, float], tested: Sequence[float | None]) -> float:
        """Return the main score of guessing without listening.

        Args:
            scores: Pooled scores by name.
            tested: Recall of each class, None for those without a test utterance.
        """
        raise NotImplementedError
