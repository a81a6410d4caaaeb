"""Geometry and sentences of an answer: what the template of the page needs, ready to show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from typing import Any, NamedTuple

import numpy as np

from config.fusions import BRANCH_TITLES, FUSIONS, IMAGES
from config.tasks import RatingScale
from inference.intervals import own_regions
from inference.prediction import Prediction
from inference.timeline_figure import COLOURS
from web.images import Tick, clock, time_ticks

EVEN = 0.02  # a gate this near to a half weighs both alike
BEAM, TILT = 105.0, 24.0  # half the length of the balance's beam; degrees at gate 0 and 1
PIVOT_X, PIVOT_Y = 150.0, 48.0
NAMED_SHARE = 0.07  # of the timeline's width, from which a run of one label has its name on it


class Bar(NamedTuple):
    """A probability or a rating."""

    name: str
    share: float  # of the whole bar, 0..1
    text: str
    colour: str


class Balance(NamedTuple):
    """Ends of the beam of a balance: Mel at the left, CQT at the right; the heavier is lower."""

    left_x: float
    left_y: float
    right_x: float
    right_y: float
    mel: float  # weight, 0..1
    cqt: float


class Run(NamedTuple):
    """Neighbouring windows with the same label, as percent of the width."""

    left: float
    width: float
    name: str  # empty of silence
    colour: str
    is_named: bool


@dataclass(frozen=True)
class Timeline:
    """The windows over time; every x is in thousandths of the duration, every y in 0..100.

    Attributes:
        areas: Name, colour and SVG path of each class or dimension.
        is_stacked: Whether the paths are areas that stand on one another, else lines.
        runs: Runs of one label; none of ratings.
        gate: SVG path of the gate, 100 = Mel, 0 = CQT; empty without a gate.
        ticks: Of the time.
        windows: For the script and the table: start, end and what is said of each.
    """

    areas: list[tuple[str, str, str]]
    is_stacked: bool
    runs: list[Run]
    gate: str
    ticks: list[Tick]
    windows: list[dict[str, Any]]


def colour(place: int) -> str:
    """Return the colour of a class by its place; the ninth has that of the first again."""
    return COLOURS[place % len(COLOURS)]


def bars(prediction: Prediction) -> list[Bar]:
    """Return a bar for each class, the most probable first, or for each dimension."""
    places = {name: place for place, name in enumerate(prediction.probs)}
    rows = [
        Bar(
            name,
            share_of(value, prediction.scale),
            f"{100 * value:.1f} %" if prediction.scale is None else f"{value:.2f}",
            colour(places[name]),
        )
        for name, value in prediction.probs.items()
    ]
    return rows if prediction.scale is not None else sorted(rows, key=lambda bar: -bar.share)


def share_of(value: float, scale: RatingScale | None) -> float:
    """Return the length of a bar: a probability, or the place of a rating on its scale."""
    share = value if scale is None else (value - scale.low) / (scale.high - scale.low)
    return round(min(max(share, 0.0), 1.0), 4)


def gate_sentence(
    gate: float | None,
    fusion: str,
    branches: Sequence[str] | None = None,
    shares: Mapping[str, float] | None = None,
) -> str:
    """Return what a gate says, or why there is none.

    Args:
        gate: 1 = CQT, 0 = Mel; None of other fusions.
        fusion: Name of the fusion.
        branches: What it reads; None is what the fusion reads without `model.branches`.
        shares: Share of each branch in the gate, of other branches than both images.

    >>> gate_sentence(2 / 3, "gmu")
    'Gate 0.67: the model weighed the CQT image more than the Mel image (2.0 : 1).'
    >>> gate_sentence(0.49, "gmu")
    'Gate 0.49: the model weighed both images about equally.'
    """
    branches = branches or FUSIONS[fusion].branches
    if shares:
        said = ", ".join(f"{BRANCH_TITLES[b]} {100 * share:.0f} %" for b, share in shares.items())
        return f"The gate's shares: {said}."
    if gate is None and len(branches) == 1:
        read = f"{BRANCH_TITLES[branches[0]]} {'image' if branches[0] in IMAGES else 'model'}"
        return f"This model reads the {read} alone: it has no gate."
    if gate is None and not set(branches) <= set(IMAGES):
        return f"The fusion {fusion} has no gate: it does not say how it weighs its sources."
    if gate is None:
        return f"The fusion {fusion} has no gate: it does not say how it weighs both images."
    if abs(gate - 0.5) < EVEN:
        return f"Gate {gate:.2f}: the model weighed both images about equally."
    more, less = ("CQT", "Mel") if gate > 0.5 else ("Mel", "CQT")
    ratio = max(gate, 1 - gate) / max(min(gate, 1 - gate), 0.001)
    said = f"{ratio:.1f} : 1" if ratio < 100 else "more than 100 : 1"
    return (
        f"Gate {gate:.2f}: the model weighed the {more} image more than the {less} image ({said})."
    )


def balance(gate: float) -> Balance:
    """Return the balance of a gate, 1 = CQT, 0 = Mel.

    >>> level = balance(0.5)
    >>> level.left_y == level.right_y, balance(0.9).right_y > balance(0.9).left_y
    (True, True)
    """
    angle = radians((2 * gate - 1) * TILT)
    x, y = BEAM * cos(angle), BEAM * sin(angle)
    left_x, left_y, right_x, right_y = (
        round(value, 1) for value in (PIVOT_X - x, PIVOT_Y - y, PIVOT_X + x, PIVOT_Y + y)
    )
    return Balance(left_x, left_y, right_x, right_y, 1 - gate, gate)


def timeline(parts: Sequence[Prediction], seconds: float) -> Timeline:
    """Return the timeline of windows, of which at least one is labelled.

    Args:
        parts: The windows in their order, with their times.
        seconds: Duration of the recording.
    """
    times = np.array([(part.start, part.end) for part in parts], float)  # (n, 2)
    spans = own_regions(times).tolist()
    edges = [(1000 * a / seconds, 1000 * b / seconds) for a, b in spans]
    scale = parts[0].scale
    names = list(next(part.probs for part in parts if part.probs))
    steps = list(zip(edges, parts, strict=True))
    paths = _stacked(steps, names) if scale is None else _lines(steps, names, scale)
    return Timeline(
        [(name, colour(i), path) for i, (name, path) in enumerate(zip(names, paths, strict=True))],
        scale is None,
        list(_runs(steps, names)) if scale is None else [],
        _gate_line(steps),
        time_ticks(0.0, seconds),
        [_window(part, span, seconds) for part, span in zip(parts, spans, strict=True)],
    )


Steps = Sequence[tuple[tuple[float, float], Prediction]]


def _stacked(steps: Steps, names: Sequence[str]) -> list[str]:
    """Return for each class the path of its areas: the first class on top."""
    paths: list[list[str]] = [[] for _ in names]
    for (left, right), one in steps:
        top = 0.0
        for path, name in zip(paths, names, strict=True):
            if one.probs:
                height = 100 * one.probs[name]
                path.append(
                    f"M{left:.1f} {top:.1f}H{right:.1f}V{top + height:.1f}H{left:.1f}Z",
                )
                top += height
    return ["".join(path) for path in paths]


def _lines(steps: Steps, names: Sequence[str], scale: RatingScale) -> list[str]:
    """Return for each dimension the path of its line; silence leaves a gap."""
    return [
        _line(steps, [share_of(one.probs[name], scale) if one.probs else None for _, one in steps])
        for name in names
    ]


def _gate_line(steps: Steps) -> str:
    return _line(steps, [one.gate for _, one in steps])


def _line(steps: Steps, shares: Sequence[float | None]) -> str:
    path, is_drawing = [], False
    for ((left, right), _), share in zip(steps, shares, strict=True):
        if share is not None:
            y = f"{100 * (1 - share):.1f}"
            path.append(f"V{y}H{right:.1f}" if is_drawing else f"M{left:.1f} {y}H{right:.1f}")
        is_drawing = share is not None
    return "".join(path)


def _runs(steps: Steps, names: Sequence[str]) -> Iterator[Run]:
    """Yield runs of windows with the same most probable class, and runs of silence."""
    colours: Mapping[str, str] = {name: colour(i) for i, name in enumerate(names)}
    start = steps[0][0][0]
    for i, ((_, right), one) in enumerate(steps):
        name = one.emotion or ""
        following = steps[i + 1][1].emotion or "" if i + 1 < len(steps) else None
        if name != following:
            width = right - start
            is_named = width >= 1000 * NAMED_SHARE
            yield Run(
                round(start / 10, 2),
                round(width / 10, 2),
                name,
                colours.get(name, "transparent"),
                is_named,
            )
            start = right


def _window(part: Prediction, span: Sequence[float], seconds: float) -> dict[str, Any]:
    """Return what the script and the table say of a window."""
    return {
        "from": round(span[0], 3),
        "to": round(span[1], 3),
        "time": f"{clock(part.start or 0.0, seconds)} to {clock(part.end or 0.0, seconds)}",
        "says": in_words(part),
    }


def in_words(prediction: Prediction) -> str:
    """Return a prediction in a few words: its class, or its ratings."""
    if prediction.problem is not None:
        return prediction.problem
    if prediction.scale is not None:
        return ", ".join(f"{name} {value:.2f}" for name, value in prediction.probs.items())
    return f"{prediction.emotion} {100 * (prediction.confidence or 0):.0f} %"
