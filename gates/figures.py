"""Figures of gates and of what branches are worth; gate axes say which way 1 points."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from evaluation.figures import (
    COLOURS,
    INK,
    POLARITY,
    RIGHT,
    STYLE,
    WIDTH,
    WRONG,
    blank,
    colour,
    name_rows,
    short,
)

LEAST_ZOOM = 0.02  # of the gate's axis, so that rounding is not magnified
MAX_PANELS = 6  # models in one figure
MAX_LINES = 30  # models whose epochs are drawn
DASHED = (0, (4, 3))
GATE_MAP = "PuOr"  # orange low, Mel; purple high, CQT


class Units(NamedTuple):
    """The units of one model."""

    title: str
    means: NDArray  # (D,) mean gate
    by_class: NDArray  # (D, K) mean gate by class, NaN where there is no clip


class Epochs(NamedTuple):
    """The gate of one model along its training, on the dev clips."""

    epochs: Sequence[float]
    means: Sequence[float]
    spreads: Sequence[float]  # standard deviation over clips
    best: float  # epoch whose weights were tested


class Fall(NamedTuple):
    """What one intervention costs."""

    name: str
    kind: str  # cqt, mel, gate or alone
    value: float  # fraction
    interval: Sequence[float] | None


KINDS = {  # colour and marker of what is changed
    "cqt": (COLOURS[0], "o"),
    "mel": (COLOURS[1], "s"),
    "gate": (COLOURS[2], "^"),
    "alone": (INK, "D"),
}


def class_histograms(gates: Sequence[NDArray], classes: Sequence[str]) -> Figure:
    """Draw how many clips of each class have which mean gate, one panel a class, on one axis.

    Args:
        gates: Mean gates of the clips of each class, (N_k,) each.
        classes: Names.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 0.75 * len(classes)), layout="constrained")
        panels = figure.subplots(len(classes), sharex=True, sharey=True, squeeze=False)[:, 0]
        low, high, zoomed = _limits(np.concatenate([*gates, np.zeros(0)]))
        edges = np.linspace(low, high, 41).tolist()
        for axes, values, name, place in zip(panels, gates, classes, range(99), strict=False):
            axes.hist(values, edges, color=colour(place), alpha=0.85)
            if len(values):
                axes.axvline(float(np.mean(values)), color=INK, linewidth=1.3)
            if low < 0.5 < high:
                axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=DASHED)
            axes.set_title(short(name), loc="left", fontsize=9, pad=2, parse_math=False)
            axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        panels[-1].set(xlim=(low, high), xlabel=_gate_label("mean gate of a clip", zoomed))
        figure.supylabel("clips", fontsize=9)
    return figure


def class_deviations(
    classes: Sequence[str], means: Sequence[float], intervals: Sequence[Sequence[float] | None]
) -> Figure:
    """Draw how far each class's gate is from the speaker's own mean, with intervals."""
    figure, axes = blank(0.75 + 0.34 * len(classes))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=DASHED)
    for row, (mean, interval) in enumerate(zip(means, intervals, strict=True)):
        _dot(axes, row, mean, interval, colour(row), "o")
    name_rows(axes, classes)
    axes.set_xlabel(f"gate, class mean − speaker mean\n({POLARITY}: right is toward CQT)")
    axes.grid(axis="x")
    return figure


def unit_heat_maps(
    models: Sequence[Units], classes: Sequence[str], of: int | None = None
) -> Figure:
    """Draw each unit's class means minus its own mean, units sorted by their mean gate.

    The line above shows that mean. Models are apart: unit 7 of one is not unit 7 of another.

    Args:
        models: At most `MAX_PANELS`.
        classes: Names.
        of: How many models there are; None is as many as are drawn.
    """
    away = [one.by_class - one.means[:, None] for one in models]
    most = max([float(np.nanquantile(np.abs(values), 0.99)) for values in away] + [1e-6])
    with matplotlib.rc_context(STYLE):
        rows = 0.16 * len(classes)  # inches
        ratios = [0.5, rows] * len(models)
        height = 0.9 + sum(ratios) + 0.42 * len(models)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        _say_part(figure, len(models), of or len(models))
        panels = figure.subplots(2 * len(models), height_ratios=ratios, squeeze=False)[:, 0]
        for i, (one, values) in enumerate(zip(models, away, strict=True)):
            line, heat = panels[2 * i], panels[2 * i + 1]
            order = np.argsort(one.means, kind="stable")
            line.plot(np.arange(len(order)), one.means[order], color=INK, linewidth=1.2)
            line.axhline(0.5, color=INK, linewidth=0.7, linestyle=DASHED)
            line.set(xlim=(-0.5, len(order) - 0.5), ylim=(-0.05, 1.05), yticks=[0, 1], xticks=[])
            line.set_yticklabels(["0 = Mel", "1 = CQT"])
            line.set_title(short(one.title, 40), loc="left", fontsize=9, pad=3, parse_math=False)
            image = heat.imshow(
                values[order].T,
                cmap=GATE_MAP,
                vmin=-most,
                vmax=most,
                aspect="auto",
                interpolation="nearest",
            )
            heat.set_yticks(range(len(classes)), [short(n) for n in classes], parse_math=False)
            heat.tick_params(axis="both", length=0)
            heat.set_xticks([])
        panels[-1].set_xlabel("units of the gate, sorted by their mean")
        bar = figure.colorbar(
            image, ax=list(panels), orientation="horizontal", pad=0.02, aspect=40, shrink=0.9
        )
        bar.set_label(f"class mean − unit mean\n({POLARITY}: purple is toward CQT)")
        bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def gate_and_confidence(gate: NDArray, confidence: NDArray, right: NDArray) -> Figure:
    """Draw each clip's confidence over its mean gate, right and wrong marked: (N,) x 3."""
    figure, axes = blank(3.0)
    low, high, zoomed = _limits(gate)
    for inside, name, ink, mark in ((right, "right", RIGHT, "o"), (~right, "wrong", WRONG, "x")):
        axes.plot(
            gate[inside],
            100 * confidence[inside],
            mark,
            color=ink,
            markersize=3.5,
            alpha=0.7,
            label=f"{name} ({int(inside.sum())})",
        )
    if low < 0.5 < high:
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=DASHED)
    axes.set(xlim=(low, high), ylim=(0, 102))
    axes.set(xlabel=_gate_label("mean gate of a clip", zoomed), ylabel="confidence, percent")
    axes.grid()
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def gate_over_epochs(lines: Sequence[Epochs]) -> Figure:
    """Draw the mean gate of the dev clips, and its spread over them as a band, along training."""
    figure, axes = blank(2.6)
    shown = lines[:MAX_LINES]
    _say_part(figure, len(shown), len(lines))
    for place, line in enumerate(shown):
        x, mean, spread = (np.asarray(v, float) for v in (line.epochs, line.means, line.spreads))
        axes.fill_between(
            x, mean - spread, mean + spread, color=colour(place), alpha=0.18, linewidth=0
        )
        axes.plot(x, mean, color=colour(place), linewidth=1.3)
        chosen = x == line.best
        axes.plot(x[chosen], mean[chosen], "o", color=colour(place), markersize=5)
    edges = [np.add(one.means, side * np.asarray(one.spreads)) for one in shown for side in (-1, 1)]
    low, high, zoomed = _limits(np.concatenate(edges))
    if low < 0.5 < high:
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=DASHED)
    axes.set(ylim=(low, high), xlabel="epoch")
    axes.set_ylabel(f"gate of the dev clips{', zoomed' * zoomed}\n{POLARITY}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return figure


def falls(rows: Sequence[Fall]) -> Figure:
    """Draw the points of UA that each intervention costs, with intervals."""
    figure, axes = blank(0.75 + 0.3 * len(rows))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=DASHED)
    for row, one in enumerate(rows):
        interval = None if one.interval is None else [100 * end for end in one.interval]
        _dot(axes, row, 100 * one.value, interval, *KINDS[one.kind])
    name_rows(axes, [one.name for one in rows])
    axes.set_xlabel("fall in UA against the intact weights, points")
    axes.grid(axis="x")
    return figure


def _say_part(figure: Figure, shown: int, there: int) -> None:
    """Say above the figure how many models it leaves out, if any."""
    if shown < there:
        figure.suptitle(f"first {shown} of {there} models", fontsize=9)


def _dot(
    axes: Axes, row: int, value: float, interval: Sequence[float] | None, ink: str, mark: str
) -> None:
    if interval is not None:
        axes.plot(interval, [row, row], color=ink, linewidth=1.4)
    axes.plot(value, row, mark, color=ink, markersize=5)


def _limits(values: NDArray) -> tuple[float, float, bool]:
    """Return the ends of a gate's axis, and whether it is less than the whole from 0 to 1."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0, False
    low, high = float(values.min()), float(values.max())
    room = 0.06 * max(high - low, LEAST_ZOOM) + max(0.0, LEAST_ZOOM - (high - low)) / 2
    if high - low > 0.6:
        return 0.0, 1.0, False
    return max(0.0, low - room), min(1.0, high + room), True


def _gate_label(what: str, zoomed: bool) -> str:
    return f"{what}{', zoomed' * zoomed}: {POLARITY}"
