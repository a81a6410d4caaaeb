"""The task `distribution`: the shares of classes in the votes of several raters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.tasks import DISTRIBUTION
from evaluation.distributions import (
    DIVERGENCE,
    SHARE,
    even_similarity,
    jsd,
    macro_f1,
    mean_cosine,
    mean_kl,
    similarity,
    speaker_sums,
)
from evaluation.metrics import confusion_matrix
from evaluation.softmax_task import SoftmaxTask
from evaluation.task import Measure
from storage.fold_folder import PredictionTable
from storage.scores import AnyScores, TaskScores


class VoteTask(SoftmaxTask):
    """Shares of classes; 1 - JSD to the raters' shares selects."""

    kind = DISTRIBUTION
    main = "similarity"
    noun, worst = "shares", "largest divergence"
    pair = ("similarity", "macro_f1")
    columns = ("similarity", "macro_f1", "kl", "cosine", "even")
    explained = (
        "1 - JSD says how near the predicted shares are to those of the raters' votes, 1 at best; "
        "macro-F1 is of the classes whose share is above 1 / K; KL is a divergence in nats, 0 at "
        "best; cosine is 1 at best; last, 1 - JSD of equal shares for all classes"
    )
    caption = "1 - JSD in bits, KL in nats; macro-F1 of the classes whose share is above 1 / K"
    differences = "difference of scores"
    groups_note = (
        "Here the class of an utterance is the one with most votes, of equal ones the first."
    )

    @property
    def pooled(self) -> tuple[str, ...]:
        """All scores."""
        return self.columns

    @property
    def tested(self) -> tuple[str, ...]:
        """1 - JSD and macro-F1."""
        return self.pair

    @property
    def measures(self) -> Mapping[str, Measure]:
        """Scores of shares, and the one of equal shares for comparison."""
        return {
            "similarity": Measure("1 - JSD", similarity, SHARE, False),
            "macro_f1": Measure("macro-F1", macro_f1, SHARE, False),
            "kl": Measure("KL", mean_kl, DIVERGENCE, False),
            "cosine": Measure("cosine", mean_cosine, SHARE, False),
            "even": Measure("equal shares", even_similarity, SHARE, False),
        }

    def by_speaker(self, table: PredictionTable) -> NDArray:
        """Return sums of each speaker: (S, K + 1, 5)."""
        return speaker_sums(table.targets, table.probs, table.speakers.tolist())[1]

    def scores(self, targets: NDArray, preds: NDArray, outputs: NDArray) -> AnyScores:
        """Return all scores of shares."""
        sums = speaker_sums(targets, outputs, [""] * len(targets))[1][0]
        values = {key: float(measure.score(sums)) for key, measure in self.measures.items()}
        return TaskScores(scores=values, n=len(targets))

    def confusion(self, targets: NDArray, preds: NDArray) -> NDArray | None:
        """Count by the classes with most votes and the largest share: (K, K)."""
        most = targets.argmax(1).tolist()
        return confusion_matrix(most, preds.tolist(), len(self.names))

    def prediction(self, pred: Any) -> str:
        """Return one prediction in words, or the shares of votes."""
        if np.ndim(pred) == 0:
            return self.names[pred]
        shares = zip(self.names, pred, strict=True)
        return ", ".join(f"{name} {share:.2f}" for name, share in shares if share > 0)

    def group_of(self, values: NDArray) -> NDArray:
        """Return the class with most votes: (N, K) -> (N,); predictions are one already."""
        found: NDArray = values.argmax(1) if values.ndim == 2 else values
        return found

    def missed_by(self, target: NDArray, preds: NDArray, outputs: NDArray) -> NDArray:
        """Return the JSD of each prediction."""
        return jsd(target, outputs)

    def chance(self, scores: Mapping[str, float], tested: Sequence[float | None]) -> float:
        """Return the score of equal shares on these utterances."""
        return scores["even"]
