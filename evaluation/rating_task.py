"""The task `dimensions`: ratings of valence, arousal and dominance."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from config.tasks import RATINGS
from corpora.rating_parts import part_names, parts_of
from evaluation.ratings import (
    CONCORDANCE,
    ERROR,
    ccc,
    mean_ccc,
    mean_rmse,
    of_dimension,
    rmse,
    speaker_moments,
)
from evaluation.scale import Score
from evaluation.task import Measure, Task
from storage.fold_folder import PredictionTable
from storage.scores import AnyScores, TaskScores

if TYPE_CHECKING:
    from torch import Tensor  # slow: torch


class RatingTask(Task):
    """Ratings on dimensions, in units of the corpus; the mean CCC over dimensions selects."""

    kind = RATINGS
    main = "ccc"
    noun, parts = "rating", "dimensions"
    pair = ("ccc", "rmse")
    dev_loss = "Mean squared error, on the scale -1 to 1,"
    worst = "largest error"
    explained = (
        "CCC is the concordance of predicted and true ratings, 1 at best and 0 for a constant; "
        "RMSE is the error in units of the ratings, 0 at best. Without a name both are the mean "
        "over dimensions"
    )
    columns = ("ccc", "rmse")
    caption = "CCC, and RMSE in units of the ratings, each the mean over dimensions or of one"
    differences = "difference of CCC"
    groups_note = (
        "Here a class is a part of the scale of ratings, of valence and arousal where there are "
        "both (its middle is high), and a prediction is right where it is in the target's part."
    )

    @property
    def pooled(self) -> tuple[str, ...]:
        """CCC of all dimensions and of each, and RMSE."""
        return ("ccc", *self._each("ccc"), "rmse", *self._each("rmse"))

    @property
    def tested(self) -> tuple[str, ...]:
        """CCC of all dimensions and of each."""
        return ("ccc", *self._each("ccc"))

    @property
    def measures(self) -> Mapping[str, Measure]:
        """CCC and RMSE, the mean over dimensions and each."""
        found = {"ccc": _concordance("CCC", mean_ccc), "rmse": _error("RMSE", mean_rmse)}
        for i, name in enumerate(self.names if len(self.names) > 1 else ()):
            found[f"ccc_{name}"] = _concordance(f"CCC {name}", of_dimension(ccc, i))
            found[f"rmse_{name}"] = _error(f"RMSE {name}", of_dimension(rmse, i))
        return found

    @property
    def n_directions(self) -> int:
        """One for each dimension."""
        return len(self.names)

    def outputs(self, logits: "Tensor") -> "Tensor":
        """Return ratings in units of the corpus, which may lie beyond its scale."""
        assert self.scale is not None
        found: Tensor = self.scale.to_rating(logits)
        return found

    def losses(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Return the squared error on the scale -1..1; a CCC has no value for one utterance."""
        assert self.scale is not None
        return (logits - self.scale.to_unit(targets)).square().mean(1)

    def preds(self, outputs: NDArray) -> NDArray:
        """Return the ratings themselves: (N, D)."""
        return outputs

    def by_speaker(self, table: PredictionTable) -> NDArray:
        """Return sums of ratings and their products: (S, D, 6)."""
        return speaker_moments(table.targets, table.probs, table.speakers.tolist())[1]

    def scores(self, targets: NDArray, preds: NDArray, outputs: NDArray) -> AnyScores:
        """Return CCC and RMSE."""
        sums = speaker_moments(targets, preds, [""] * len(targets))[1][0]
        values = {key: float(measure.score(sums)) for key, measure in self.measures.items()}
        return TaskScores(scores=values, n=len(targets))

    def prediction(self, pred: Any) -> str:
        """Return one prediction in words: all ratings."""
        return ", ".join(f"{name} {x:.2f}" for name, x in zip(self.names, pred, strict=True))

    @property
    def group_names(self) -> tuple[str, ...]:
        """Quarters of valence and arousal, where there are both, else halves of one dimension."""
        return part_names(self.names)

    def group_of(self, values: NDArray) -> NDArray:
        """Return the part of the scale; its middle belongs to the higher half: (N, D) -> (N,)."""
        assert self.scale is not None
        return parts_of(values, self.names, self.scale)

    def certainty(self, outputs: NDArray) -> NDArray:
        """A rating says nothing of it: NaN."""
        return np.full(len(outputs), np.nan)

    def missed_by(self, target: NDArray, preds: NDArray, outputs: NDArray) -> NDArray:
        """Return the root mean square error over dimensions."""
        found: NDArray = np.sqrt(((outputs - target) ** 2).mean(1))
        return found

    def chance(self, scores: Mapping[str, float], tested: Sequence[float | None]) -> float:
        """Return 0, the CCC of any constant."""
        return 0.0

    def _each(self, score: str) -> tuple[str, ...]:
        return tuple(f"{score}_{name}" for name in self.names if len(self.names) > 1)


def _concordance(name: str, score: Score) -> Measure:
    return Measure(name, score, CONCORDANCE, in_percent=False)


def _error(name: str, score: Score) -> Measure:
    return Measure(name, score, ERROR, in_percent=False)
