"""Scores of predictions as fractions: WA, UA, F1, confusion."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(targets: Sequence[int], preds: Sequence[int], n_classes: int) -> NDArray:
    """Count utterances by target (row) and prediction (column): (N,), (N,) -> (K, K).

    Raises:
        ValueError: No utterances, lengths differ, or a class is outside 0..K-1.
    """
    matrix = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(matrix, _class_pairs(targets, preds, n_classes), 1)
    return matrix


def recalls(confusion: NDArray) -> NDArray:
    """Return each class's recall, NaN where no utterance has the class: (..., K, K) -> (..., K)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return hits / confusion.sum(-1)


def weighted_accuracy(confusion: NDArray) -> NDArray:
    """Return WA, the share of all utterances that is right: (..., K, K) -> (...)."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def unweighted_accuracy(confusion: NDArray) -> NDArray:
    """Return UA, the mean recall of the classes that occur: (..., K, K) -> (...)."""
    return np.nanmean(recalls(confusion), axis=-1)


def macro_f1(confusion: NDArray) -> NDArray:
    """Return the mean F1 of the classes that are a target or a prediction: (..., K, K) -> (...)."""
    return np.nanmean(_f1(confusion), axis=-1)


def weighted_f1(confusion: NDArray) -> NDArray:
    """Return the mean F1 weighted by the utterances of each class: (..., K, K) -> (...)."""
    support = confusion.sum(-1)  # (..., K)
    return np.nansum(_f1(confusion) * support, axis=-1) / support.sum(-1)


SCORES: dict[str, Callable[[NDArray], NDArray]] = {  # all (..., K, K) -> (...), within 0..1
    "ua": unweighted_accuracy,
    "wa": weighted_accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
}


def scores(targets: Sequence[int], preds: Sequence[int], n_classes: int) -> dict[str, Any]:
    """Return all scores of one set of predictions, ready for JSON.

    Classes that occur neither as target nor as prediction do not enter macro-F1, as in
    scikit-learn; classes without utterances do not enter UA and have recall None.

    Raises:
        ValueError: See `confusion_matrix`.

    >>> result = scores([0, 0, 0, 1], [0, 0, 1, 1], 2)
    >>> result["wa"], round(result["ua"], 4), result["confusion"]
    (0.75, 0.8333, [[2, 1], [0, 1]])
    """
    confusion = confusion_matrix(targets, preds, n_classes)
    return {
        **{name: float(score(confusion)) for name, score in SCORES.items()},
        "per_class_recall": [None if np.isnan(r) else float(r) for r in recalls(confusion)],
        "confusion": confusion.tolist(),
        "n": int(confusion.sum()),
    }


def speaker_confusions(
    targets: Sequence[int], preds: Sequence[int], speakers: Sequence[str], n_classes: int
) -> tuple[NDArray, NDArray]:
    """Count utterances by speaker: (N,), (N,), (N,) -> sorted names (S,), counts (S, K, K).

    Raises:
        ValueError: No utterances, lengths differ, or a class is outside 0..K-1.
    """
    target, pred, speaker = np.asarray(targets), np.asarray(preds), np.asarray(speakers)
    if len(target) == 0 or not target.shape == pred.shape == speaker.shape:
        raise ValueError(
            "need one prediction and one speaker for each utterance, and an utterance, got "
            f"{len(pred)} and {len(speaker)} for {len(target)}"
        )
    names = np.unique(speaker)
    counts = [confusion_matrix(target[speaker == s], pred[speaker == s], n_classes) for s in names]
    return names, np.stack(counts)


def _f1(confusion: NDArray) -> NDArray:
    """Return each class's F1, NaN where it is neither target nor prediction: -> (..., K)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        return 2 * hits / (confusion.sum(-1) + confusion.sum(-2))


def _class_pairs(
    targets: Sequence[int], preds: Sequence[int], n_classes: int
) -> tuple[NDArray, NDArray]:
    """Return both as checked index arrays; numpy would broadcast and wrap bad ones silently."""
    pairs = np.asarray(targets, dtype=int), np.asarray(preds, dtype=int)  # (N,), (N,)
    if len(pairs[0]) == 0 or pairs[0].shape != pairs[1].shape:
        raise ValueError(
            f"need one prediction for each utterance, and an utterance, got {len(preds)} for "
            f"{len(targets)}"
        )
    for name, classes in zip(("targets", "preds"), pairs, strict=True):
        if classes.min() < 0 or classes.max() >= n_classes:
            raise ValueError(f"{name} must be in 0..{n_classes - 1}, got {np.unique(classes)}")
    return pairs
