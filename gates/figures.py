"""Figures of both images' gates and of the branch ablation; a gate axis says which branch 1 is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.figures import (
    COLOURS,
    INK,
    POLARITY,
    RIGHT,
    WRONG,
    blank,
    colour,
    name_rows,
    new_figure,
    set_ticks,
    short,
    style,
)
from evaluation.share_figures import SOURCE_COLOURS, SOURCE_MARKERS
from evaluation.tasks import Measure
from gates.agreement import UA
from gates.results import BranchAblation, ClassDeviation, Cost, Estimate
from gates.wording import short_name, trained_label

if TYPE_CHECKING:  # matplotlib is imported where a figure is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_ZOOM = 0.02  # shortest gate axis, so that rounding is not magnified
MAX_PANELS = 6  # models in one figure
MAX_LINES = 30  # models whose epochs are drawn
DASHED = (0, (4, 3))
GATE_MAP = "PuOr"  # orange low, Mel; purple high, CQT


class Units(NamedTuple):
    """The units of one model."""

    title: str
    means: NDArray  # (D,) mean gate
    by_class: NDArray  # (D, K) mean gate by class, NaN where there is no utterance
    ends: tuple[str, str] = ("0 = Mel", "1 = CQT")  # what a gate of 0 and of 1 is
    balance: float = 0.5  # share that a source has where all have the same


class Epochs(NamedTuple):
    """The gate of one model on the dev utterances, by epoch."""

    epochs: Sequence[float]
    means: Sequence[float]
    spreads: Sequence[float]  # standard deviation over utterances
    best: float  # epoch whose weights were tested


KINDS = {  # colour and marker of what is changed
    **{name: (SOURCE_COLOURS[name], SOURCE_MARKERS[name]) for name in SOURCE_COLOURS},
    "gate": (COLOURS[2], "^"),
    "alone": (INK, "D"),
}


def class_histograms(gates: Sequence[NDArray], classes: Sequence[str]) -> "Figure":
    """Draw histograms of the mean gates of each class, one panel a class, on one axis.

    Args:
        gates: Mean gates of the utterances of each class, (N_k,) each.
        classes: Names of the classes.
    """
    with style():
        figure = new_figure(0.6 + 0.75 * len(classes))
        panels = figure.subplots(len(classes), sharex=True, sharey=True, squeeze=False)[:, 0]
        low, high, zoomed = limits(np.concatenate([*gates, np.zeros(0)]))
        edges = np.linspace(low, high, 41).tolist()
        for axes, values, name, place in zip(panels, gates, classes, range(99), strict=False):
            axes.hist(values, edges, color=colour(place), alpha=0.85)
            if len(values):
                axes.axvline(float(np.mean(values)), color=INK, linewidth=1.3)
            if low < 0.5 < high:
                axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=DASHED)
            axes.set_title(short(name), loc="left", fontsize=9, pad=2, parse_math=False)
            set_ticks(axes.yaxis, 2)
        panels[-1].set(xlim=(low, high), xlabel=_gate_label("mean gate of an utterance", zoomed))
        figure.supylabel("utterances", fontsize=9)
    return figure


def class_deviations(deviations: Sequence[ClassDeviation]) -> "Figure":
    """Draw each class's gate minus the same speaker's mean over classes, with intervals."""
    figure, axes = blank(0.75 + 0.34 * len(deviations))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=DASHED)
    for row, deviation in enumerate(deviations):
        _dot(axes, row, deviation, colour(row), "o")
    name_rows(axes, [deviation.class_name for deviation in deviations])
    axes.set_xlabel(f"gate, class mean − speaker mean\n({POLARITY}: right is toward CQT)")
    axes.grid(axis="x")
    return figure


def unit_heat_maps(
    models: Sequence[Units],
    classes: Sequence[str],
    n_models: int | None = None,
    colours: str = f"{POLARITY}: purple is toward CQT",
) -> "Figure":
    """Draw each unit's class means minus its own mean, units sorted by their mean gate.

    The line above shows that mean. Each model has its own panel: unit 7 of one model is not unit 7
    of another.

    Args:
        models: The models to draw, at most `MAX_PANELS`.
        classes: Names of the classes.
        n_models: Number of models in the run; None if all are drawn.
        colours: What the colours mean.
    """
    away = [model.by_class - model.means[:, None] for model in models]
    most = max([float(np.nanquantile(np.abs(values), 0.99)) for values in away] + [1e-6])
    with style():
        rows = 0.16 * len(classes)  # inches
        ratios = [0.5, rows] * len(models)
        height = 0.9 + sum(ratios) + 0.42 * len(models)
        figure = new_figure(height)
        what = "models" if models[0].ends == Units._field_defaults["ends"] else "panels"
        note_omitted(figure, len(models), n_models or len(models), what)
        panels = figure.subplots(2 * len(models), height_ratios=ratios, squeeze=False)[:, 0]
        for i, (model, values) in enumerate(zip(models, away, strict=True)):
            line, heat = panels[2 * i], panels[2 * i + 1]
            order = np.argsort(model.means, kind="stable")
            line.plot(np.arange(len(order)), model.means[order], color=INK, linewidth=1.2)
            line.axhline(model.balance, color=INK, linewidth=0.7, linestyle=DASHED)
            line.set(xlim=(-0.5, len(order) - 0.5), ylim=(-0.05, 1.05), yticks=[0, 1], xticks=[])
            line.set_yticklabels(model.ends)
            line.set_title(short(model.title, 40), loc="left", fontsize=9, pad=3, parse_math=False)
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
        bar.set_label(f"class mean − unit mean\n({colours})")
        set_ticks(bar.ax.xaxis, 5, whole=False)
    return figure


def gate_and_confidence(gate: NDArray, confidence: NDArray, right: NDArray) -> "Figure":
    """Draw each utterance's confidence over its mean gate, right and wrong marked: (N,) x 3."""
    figure, axes = blank(3.0)
    low, high, zoomed = limits(gate)
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
    axes.set(xlabel=_gate_label("mean gate of an utterance", zoomed), ylabel="confidence, percent")
    axes.grid()
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def gate_over_epochs(lines: Sequence[Epochs]) -> "Figure":
    """Draw the mean gate of the dev utterances by epoch, with its spread over them as a band."""
    figure, axes = blank(2.6)
    shown = lines[:MAX_LINES]
    note_omitted(figure, len(shown), len(lines))
    for place, line in enumerate(shown):
        x, mean, spread = (np.asarray(v, float) for v in (line.epochs, line.means, line.spreads))
        axes.fill_between(
            x, mean - spread, mean + spread, color=colour(place), alpha=0.18, linewidth=0
        )
        axes.plot(x, mean, color=colour(place), linewidth=1.3)
        chosen = x == line.best
        axes.plot(x[chosen], mean[chosen], "o", color=colour(place), markersize=5)
    edges = [
        np.add(line.means, side * np.asarray(line.spreads)) for line in shown for side in (-1, 1)
    ]
    low, high, zoomed = limits(np.concatenate(edges))
    if low < 0.5 < high:
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=DASHED)
    axes.set(ylim=(low, high), xlabel="epoch")
    axes.set_ylabel(f"gate of the dev utterances{', zoomed' * zoomed}\n{POLARITY}")
    set_ticks(axes.xaxis)
    axes.grid()
    return figure


def falls(ablation: BranchAblation, measure: Measure = UA) -> "Figure":
    """Draw the fall in the main score under each intervention, with intervals."""
    rows: list[tuple[str, str, Cost]] = [
        (short_name(row.changed, row.how), row.changed, row) for row in ablation.interventions
    ]
    rows += [(trained_label(row.branch), "alone", row) for row in ablation.unimodal]
    figure, axes = blank(0.75 + 0.3 * len(rows))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=DASHED)
    for place, (_, kind, row) in enumerate(rows):
        _dot(axes, place, row.fall, *KINDS[kind], scale=100 if measure.in_percent else 1)
    name_rows(axes, [name for name, _, _ in rows])
    unit = ", points" * measure.in_percent
    axes.set_xlabel(f"fall in {measure.name} against the intact weights{unit}")
    axes.grid(axis="x")
    return figure


def note_omitted(figure: "Figure", shown: int, n: int, what: str = "models") -> None:
    """Write above the figure how many models it shows, if not all."""
    if shown < n:
        figure.suptitle(f"first {shown} of {n} {what}", fontsize=9)


def _dot(axes: "Axes", row: int, estimate: Estimate, ink: str, mark: str, scale: float = 1) -> None:
    if estimate.interval is not None:
        ends = [scale * end for end in estimate.interval]
        axes.plot(ends, [row, row], color=ink, linewidth=1.4)
    axes.plot(scale * estimate.value, row, mark, color=ink, markersize=5)


def limits(values: NDArray) -> tuple[float, float, bool]:
    """Return the ends of a gate axis, and whether it is zoomed, that is, shorter than 0 to 1."""
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
