"""The task `class`: one class for each utterance."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from config.tasks import CLASS
from corpora.utterance import Utterance
from evaluation.metrics import SCORES, confusion_matrix, scores, speaker_confusions
from evaluation.softmax_task import SoftmaxTask
from evaluation.task import Measure
from storage.fold_folder import PredictionTable
from storage.scores import AnyScores, Scores


class ClassTask(SoftmaxTask):
    """The class of an utterance, by its most probable one; UA selects."""

    kind = CLASS
    main = "ua"
    columns = ("ua", "wa", "macro_f1", "weighted_f1")
    pair = ("ua", "wa")
    explained = (
        "UA is the mean recall of the classes, WA the accuracy over all utterances. All figures "
        "are percent"
    )
    caption = "Percent"
    differences = "difference in points"

    @property
    def pooled(self) -> tuple[str, ...]:
        """UA and WA."""
        return ("ua", "wa")

    @property
    def measures(self) -> Mapping[str, Measure]:
        """UA, WA and both F1."""
        names = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1", "weighted_f1": "weighted-F1"}
        return {key: Measure(name, SCORES[key]) for key, name in names.items()}

    def targets(self, utterances: Sequence[Utterance]) -> list[Any]:
        """Return class indices."""
        return [self.names.index(utterance.label) for utterance in utterances]

    def by_speaker(self, table: PredictionTable) -> NDArray:
        """Return confusion counts: (S, K, K)."""
        columns = (table.targets.tolist(), table.preds.tolist(), table.speakers.tolist())
        return speaker_confusions(*columns, len(self.names))[1]

    def scores(self, targets: NDArray, preds: NDArray, outputs: NDArray) -> AnyScores:
        """Return all scores of class predictions."""
        return Scores(**scores(targets.tolist(), preds.tolist(), len(self.names)))

    def confusion(self, targets: NDArray, preds: NDArray) -> NDArray | None:
        """Return counts by target and prediction: (K, K)."""
        return confusion_matrix(targets.tolist(), preds.tolist(), len(self.names))

    def chance(self, scores: Mapping[str, float], tested: Sequence[float | None]) -> float:
        """Return 1 over the number of classes that were tested."""
        return 1 / sum(recall is not None for recall in tested)
