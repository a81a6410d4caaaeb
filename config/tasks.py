"""What a model predicts: a class, ratings on dimensions, or a distribution over classes.

`evaluation.tasks` has an object for each task that says how it is predicted, scored and shown.
"""

from typing import Any, Literal, NamedTuple

from system.errors import InputError

TaskName = Literal["class", "dimensions", "distribution"]
CLASS: TaskName = "class"
RATINGS: TaskName = "dimensions"
DISTRIBUTION: TaskName = "distribution"
DIMENSIONS = ("valence", "arousal", "dominance")  # in the order of IEMOCAP's label lines


class RatingScale(NamedTuple):
    """The lowest and the highest rating that raters could give.

    A network predicts r = (rating - centre) / half, so that the scale is -1..1 for it. It may
    predict beyond both ends.

    >>> RatingScale(1, 5).to_rating(0.5), RatingScale(1, 5).to_unit(4.0)
    (4.0, 0.5)
    """

    low: float
    high: float

    @property
    def centre(self) -> float:
        """Rating in the middle."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """Distance from the middle to both ends."""
        return (self.high - self.low) / 2

    def to_unit(self, rating: Any) -> Any:
        """Return ratings (a number, array or tensor) on -1..1."""
        return (rating - self.centre) / self.half

    def to_rating(self, unit: Any) -> Any:
        """Return the ratings of values (a number, array or tensor) on -1..1."""
        return self.centre + self.half * unit


def check_classes(task: str, what: str) -> None:
    """Refuse a task other than `class`.

    Args:
        task: Value of `task`.
        what: What works for classes alone, as the subject of a sentence.

    Raises:
        InputError: It is another task.
    """
    if task != CLASS:
        raise InputError(f"{what} for classes alone, and task={task}: use a config with task=class")


# Source: IEMOCAP, Busso et al. 2008 (self-assessment manikins, 1 to 5); MSP-Podcast, Lotfian and
# Busso 2019 (manikins, 1 to 7)
SCALES = {"iemocap": RatingScale(1.0, 5.0), "msppodcast": RatingScale(1.0, 7.0)}
