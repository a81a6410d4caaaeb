"""What a model says of one recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.fusions import share_column
from config.tasks import RatingScale
from system.errors import InputError
from system.extras import check_extra

SILENCE = "silence"  # the problem of a part of a recording in which nothing is to be heard


@dataclass(frozen=True)
class Prediction:
    """The probabilities or ratings that a model gives one recording, or why it gives none.

    Attributes:
        name: Path of the file, or `array N` for the N-th array of a list.
        probs: Probability by class, or rating by dimension; empty where there is a `problem`.
        gate: Mean gate weight, 1 = CQT, 0 = Mel; None of a fusion without a gate.
        problem: Reason for which the recording is not labelled.
        unsure: Whether the confidence is below the threshold of the stated risk; None without one.
        unlike: What lies outside of the training data, by kind, see `inference.unlike`.
        scale: Scale of the ratings; None of classes.
        start: Where it begins in its recording, s; None of a whole recording.
        end: Where it ends, s.
        gate_shares: Mean share of each source in the gate, which sum to 1, of a fusion of other
            sources than both images; None of others.

    >>> found = Prediction("a.wav", {"happy": 0.75, "sad": 0.25}, gate=0.6)
    >>> found.emotion, found.confidence
    ('happy', 0.75)
    >>> Prediction("b.wav", {}, problem="holds no samples").emotion is None
    True
    """

    name: str
    probs: Mapping[str, float]
    gate: float | None = None
    problem: str | None = None
    unsure: bool | None = None
    unlike: Mapping[str, str] = field(default_factory=dict)
    scale: RatingScale | None = None
    start: float | None = None
    end: float | None = None
    gate_shares: Mapping[str, float] | None = None

    @property
    def emotion(self) -> str | None:
        """Most probable class; None of ratings, and where there is a `problem`."""
        if self.problem is not None or self.scale is not None:
            return None
        return max(self.probs, key=self.probs.__getitem__)

    @property
    def confidence(self) -> float | None:
        """Probability of `emotion`."""
        return None if self.emotion is None else self.probs[self.emotion]


def check_risk(risk: float) -> None:
    """Refuse a stated risk that is not in (0, 1) with an InputError."""
    if not 0 < risk < 1:
        raise InputError(f"the risk must be in (0, 1), such as 0.2, got {risk:g}")


def to_frame(predictions: Sequence[Prediction]) -> Any:
    """Return predictions as a pandas frame, one row each, in their order.

    Columns: name, emotion, confidence, one for each class or dimension, gate, unsure, problem; of
    parts of recordings also start and end, behind the name; where the gate has shares of sources,
    gate_<source> of each, behind the gate.

    Raises:
        InputError: pandas is not installed.
    """
    check_extra("a frame", "pandas", "formats")
    import pandas  # an extra

    outputs = next((list(one.probs) for one in predictions if one.probs), [])
    times = ["start", "end"] if any(one.start is not None for one in predictions) else []
    sources = next((list(one.gate_shares) for one in predictions if one.gate_shares), [])
    shares = [share_column(source) for source in sources]
    columns = ["name", *times, "emotion", "confidence", *outputs, "gate", *shares]
    rows = [
        [one.name, *(getattr(one, time) for time in times), one.emotion, one.confidence]
        + [one.probs.get(output) for output in outputs]
        + [one.gate, *((one.gate_shares or {}).get(source) for source in sources)]
        + [one.unsure, one.problem]
        for one in predictions
    ]
    return pandas.DataFrame(rows, columns=[*columns, "unsure", "problem"])
