"""One object for each task: its targets, predictions, scores, and what of them is shown.

Training, evaluation, comparison, gates and reports ask it, and know neither classes nor ratings.
`make_task` makes it from the labels of a plan, `task_of` from the files of a finished fold.
"""

from collections.abc import Sequence
from typing import Any

from config.tasks import CLASS, DISTRIBUTION, RATINGS, RatingScale
from evaluation.class_task import ClassTask
from evaluation.rating_task import RatingTask
from evaluation.task import Measure, Task
from evaluation.vote_task import VoteTask
from storage.fold_result import FoldResult

__all__ = ["TASKS", "Measure", "Task", "make_task", "task_facts", "task_of"]

TASKS: dict[str, type[Task]] = {
    CLASS: ClassTask,
    RATINGS: RatingTask,
    DISTRIBUTION: VoteTask,
}


def make_task(
    kind: str, names: Sequence[str], scale: RatingScale | Sequence[float] | None = None
) -> Task:
    """Return the task of a kind.

    Args:
        kind: One of `TASKS`.
        names: Names of the classes or dimensions, in the order of the outputs.
        scale: Scale of the ratings; needed to train and to predict, not to score.
    """
    return TASKS[kind](tuple(names), None if scale is None else RatingScale(*scale))


def task_facts(task: Task) -> dict[str, Any]:
    """Return `task` and `scale` for metrics.json and model.json."""
    scale = None if task.scale is None else [task.scale.low, task.scale.high]
    return {"task": task.kind, "scale": scale}


def task_of(result: FoldResult) -> Task:
    """Return the task of a finished fold."""
    return make_task(result.task, result.classes, result.scale)
