"""The figures of tuning and of the range test, as PNG files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.figures import COLOURS, GRID, INK, STYLE
from system.files import atomic_write

DPI = 150
COLUMNS = 3  # of the slices
DONE, OTHER, BEST = COLOURS[0], "#8a9bb0", COLOURS[1]
MARKERS = {"complete": "o", "pruned": "v", "diverged": "x", "invalid": "+", "failed": "+"}


class Dot(NamedTuple):
    """A trial in a figure; without a dev UA it is drawn at the bottom."""

    number: int
    state: str
    dev_ua: float | None


class Sweep(NamedTuple):
    """The losses of one range test, one a step."""

    rates: Sequence[float]
    raw: Sequence[float]
    smooth: Sequence[float]
    diverged: float | None = None  # the rate at which it did


def draw_history(file: Path, dots: Sequence[Dot]) -> None:
    """Draw dev UA by trial, and the best so far of those complete."""
    figure, (axes,) = _new(1, 6.0, 3.4)
    _scatter(axes, [dot.number for dot in dots], dots)
    complete = [dot for dot in dots if dot.state == "complete"]
    best = np.maximum.accumulate([100 * (dot.dev_ua or 0) for dot in complete])
    axes.step([d.number for d in complete], best, color=BEST, where="post", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel="best dev UA of the trial, percent")
    _legend(axes)
    _save(figure, file)


def draw_importance(file: Path, importance: Mapping[str, float], words: str) -> None:
    """Draw the share of each key; where there are none, the words that say why."""
    figure, (axes,) = _new(1, 6.0, 0.9 + 0.35 * max(len(importance), 3))
    if importance:
        names = list(importance)[::-1]
        axes.barh(range(len(names)), [100 * importance[name] for name in names], color=DONE)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    else:
        axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    axes.set(
        xlabel="importance for dev UA of the complete trials (PED-ANOVA), percent", xlim=(0, 100)
    )
    _save(figure, file)


def draw_slices(
    file: Path, dots: Sequence[Dot], values: Mapping[str, Sequence[Any]], logs: Sequence[str]
) -> None:
    """Draw dev UA by the value of each key.

    Args:
        file: To write.
        dots: The trials.
        values: For each key one value a trial; words, true, false and null are evenly spaced.
        logs: Keys whose axis is logarithmic.
    """
    n_rows = -(-len(values) // COLUMNS)
    figure, grid = _new(len(values), 3.2 * min(COLUMNS, len(values)), 2.6 * n_rows)
    for axes, (key, column) in zip(grid, values.items(), strict=True):
        if any(isinstance(value, bool | str | None) for value in column):
            names = sorted({_word(value) for value in column}, key=_in_order)
            axes.set_xticks(range(len(names)), names, parse_math=False)
            column = [names.index(_word(value)) for value in column]
            axes.margins(x=0.2)
        elif key in logs:
            axes.set_xscale("log")
        _scatter(axes, column, dots)
        axes.set_xlabel(key, parse_math=False)
    for axes in grid[::COLUMNS]:
        axes.set_ylabel("dev UA, percent")
    _legend(grid[0])
    _save(figure, file)


def draw_sweep(
    file: Path,
    sweeps: Sequence[Sweep],
    mean: Sweep,
    marks: Mapping[str, float],
    band: Sequence[float] | None,
) -> None:
    """Draw the smoothed loss by the learning rate, that of each seed and the raw ones behind it.

    Args:
        file: To write.
        sweeps: One a seed.
        mean: Of them.
        marks: Rates at which a line stands, by their names.
        band: Lowest and highest usable rate, shaded; None is none.
    """
    figure, (axes,) = _new(1, 6.4, 3.8)
    for i, (rates, raw, smooth, _) in enumerate(sweeps):
        axes.plot(rates, raw, color=GRID, linewidth=0.8, zorder=1)
        label = "each seed" if i == 0 and len(sweeps) > 1 else None
        axes.plot(rates, smooth, color=DONE, linewidth=0.8, alpha=0.5, label=label)
    axes.plot(mean.rates, mean.smooth, color=DONE, linewidth=2, label="smoothed loss")
    shown = np.concatenate([sweep.smooth for sweep in sweeps])
    shown = shown[np.isfinite(shown)]
    spread = max(float(shown.max() - shown.min()), 1e-3)
    axes.set_ylim(float(shown.min()) - 0.15 * spread, float(shown.max()) + 0.15 * spread)
    styles = ["-", "--", ":", "-."]
    for (name, rate), style in zip(marks.items(), styles, strict=False):
        axes.axvline(rate, color=BEST if style == "-" else INK, linestyle=style, label=name)
    if band is not None:
        axes.axvspan(*band, color=COLOURS[2], alpha=0.15, label="usable", linewidth=0)
    axes.set(xscale="log", xlabel="learning rate of the head", ylabel="training loss")
    axes.grid()
    _legend(axes)
    _save(figure, file)


def _scatter(axes: Axes, x: Sequence[float], dots: Sequence[Dot]) -> None:
    """Draw trials by their state; those without a score at the bottom."""
    scores = [100 * dot.dev_ua for dot in dots if dot.dev_ua is not None]
    bottom = min(scores, default=0.0)
    for state, marker in MARKERS.items():
        chosen = [i for i, dot in enumerate(dots) if dot.state == state]
        if chosen:
            y = [bottom if (ua := dots[i].dev_ua) is None else 100 * ua for i in chosen]
            colour = DONE if state == "complete" else OTHER
            axes.plot([x[i] for i in chosen], y, marker, color=colour, markersize=5, label=state)
    axes.grid()


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _in_order(word: str) -> tuple[float, str]:
    """Numbers by their size, words behind them."""
    try:
        return float(word), ""
    except ValueError:
        return float("inf"), word


def _new(n: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        columns = min(n, COLUMNS)
        grid = figure.subplots(-(-n // columns), columns, squeeze=False, sharey=n > 1).ravel()
        for axes in grid[n:]:
            axes.set_visible(False)
        return figure, list(grid[:n])


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def _save(figure: Figure, file: Path) -> None:
    with matplotlib.rc_context(STYLE), atomic_write(file) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
