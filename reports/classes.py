"""What a page shows of many classes: the worst recalls, the largest confusions."""

import numpy as np

from evaluation.figures import MANY
from evaluation.results import Comparison
from evaluation.wording import percent


def shown_classes(comparison: Comparison) -> list[int]:
    """Return the indices of all classes, or of those with the lowest recall of many; else none."""
    recalls = [[2.0 if r is None else r for r in run.per_class_recall] for run in comparison.runs]
    if not recalls[0]:
        return []  # of ratings
    mean = np.mean(recalls, axis=0)  # (K,)
    return sorted(np.argsort(mean, kind="stable")[:MANY].tolist())


def largest_confusions(comparison: Comparison) -> list[list[list[str]]]:
    """Return rows of target, prediction, count and percent by run; none for few classes."""
    classes = comparison.classes
    if len(classes) <= MANY or not comparison.runs[0].confusion:
        return []
    tables = []
    for run in comparison.runs:
        counts = np.array(run.confusion)  # (K, K)
        wrong = counts - np.diag(np.diagonal(counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MANY].tolist()
        rows = []
        for target, pred in (divmod(place, len(classes)) for place in order):
            if n := int(wrong[target, pred]):
                share = percent(n / counts[target].sum())
                rows.append([classes[target], classes[pred], str(n), share])
        tables.append(rows)
    return tables
