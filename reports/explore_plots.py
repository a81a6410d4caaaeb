"""Figures of a corpus: histograms, percentiles by class, what single numbers tell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corpora.shortcuts import Shortcut
from evaluation import figures

BLUE = figures.COLOURS[0]
BARS = 40


def histogram(values: NDArray[np.float64], label: str, mark: float | None = None) -> str:
    """Draw how many utterances have which value, from the 0.5th to the 99.5th percentile.

    Args:
        values: One value an utterance.
        label: Label of the x axis.
        mark: Value with a dashed line.
    """
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    figure, axes = figures.blank(2.1)
    axes.hist(np.clip(values, low, high), np.linspace(low, high, BARS + 1).tolist(), color=BLUE)
    if mark is not None:
        axes.axvline(mark, color=figures.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(xlabel=label, ylabel="utterances")
    figures.set_ticks(axes.yaxis, 4)
    return figures.svg_text(figure)


def percentiles(
    rows: Sequence[str],
    values: Sequence[NDArray[np.float64]],
    label: str,
    at_zero: bool = False,
) -> str:
    """Draw median, quartiles and the 5th to 95th percentile of each row.

    Args:
        rows: Names, from top to bottom.
        values: Values of each row.
        label: Label of the x axis.
        at_zero: Whether the axis begins at 0.
    """
    figure, axes = figures.blank(0.7 + 0.34 * len(rows))
    for row, of_row in enumerate(values):
        if not len(of_row):
            continue
        p5, q1, median, q3, p95 = np.percentile(of_row, [5, 25, 50, 75, 95])
        axes.plot([p5, p95], [row] * 2, color=BLUE, linewidth=1.3, solid_capstyle="butt")
        axes.plot([q1, q3], [row] * 2, color=BLUE, linewidth=7, solid_capstyle="butt", alpha=0.45)
        axes.plot([median] * 2, [row - 0.26, row + 0.26], color=figures.INK, linewidth=2)
    figures.name_rows(axes, rows)
    axes.set_xlabel(label)
    if at_zero:
        axes.set_xlim(0, None)
    axes.grid(axis="x")
    return figures.svg_text(figure)


def shortcut_plot(shortcuts: Sequence[Shortcut]) -> str:
    """Draw UA of each number alone, chance, and how far shuffled labels come."""
    figure, axes = figures.blank(0.75 + 0.34 * len(shortcuts))
    for row, one in enumerate(shortcuts):
        axes.plot([0, 100 * one.limit], [row] * 2, color=figures.RIGHT, linewidth=9)
        axes.lines[-1].set(alpha=0.45, solid_capstyle="butt")
        face = BLUE if one.tells else "none"
        axes.plot(100 * one.ua, row, "o", color=BLUE, markersize=7, markerfacecolor=face)
        axes.lines[-1].set_clip_on(False)
    chance = 100 * shortcuts[0].chance
    axes.axvline(chance, color=figures.INK, linewidth=0.9, linestyle=(0, (4, 3)))
    figures.name_rows(axes, [one.name for one in shortcuts])
    axes.set(xlim=(0, 100), xlabel="UA of that number alone, percent")
    axes.grid(axis="x")
    return figures.svg_text(figure)
