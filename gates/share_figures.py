"""Figures of the shares of three sources or more, or of two that are not both images.

Every figure names the source of a share; a share of 1 is that source alone.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.fusions import BRANCH_TITLES
from evaluation.figures import (
    INK,
    RIGHT,
    WRONG,
    blank,
    name_rows,
    new_figure,
    set_ticks,
    short,
    style,
)
from evaluation.share_figures import (
    DASHED,
    SOURCE_COLOURS,
    dot,
    share_title,
    source_legend,
)
from gates.figures import MAX_LINES, limits, note_omitted
from gates.results import GateDescription

if TYPE_CHECKING:  # matplotlib is imported where a figure is drawn
    from matplotlib.figure import Figure


class ShareEpochs(NamedTuple):
    """The shares of one model on the dev utterances, by epoch."""

    epochs: Sequence[float]
    means: Mapping[str, Sequence[float]]  # by source
    best: float  # epoch whose weights were tested


def class_histograms(
    shares: Sequence[NDArray], classes: Sequence[str], sources: Sequence[str]
) -> "Figure":
    """Draw histograms of the shares of each class, one panel a class, a colour a source.

    Args:
        shares: Shares of the utterances of each class, (N_k, n) each.
        classes: Names of the classes.
        sources: Names of the sources.
    """
    with style():
        figure = new_figure(0.8 + 0.75 * len(classes))
        panels = figure.subplots(len(classes), sharex=True, sharey=True, squeeze=False)[:, 0]
        low, high, zoomed = limits(np.concatenate([*(v.ravel() for v in shares), np.zeros(0)]))
        edges = np.linspace(low, high, 51).tolist()
        for axes, values, name in zip(panels, shares, classes, strict=True):
            for s, source in enumerate(sources):
                own, colour = values[:, s], SOURCE_COLOURS[source]
                axes.hist(own, edges, color=colour, alpha=0.6)
                if len(own):
                    axes.axvline(float(own.mean()), color=colour, linewidth=1.3)
            if low < 1 / len(sources) < high:
                axes.axvline(1 / len(sources), color=INK, linewidth=0.8, linestyle=DASHED)
            axes.set_title(short(name), loc="left", fontsize=9, pad=2, parse_math=False)
            set_ticks(axes.yaxis, 2)
        label = f"share in the gate of an utterance{', zoomed' * zoomed}: 1 = that source alone"
        panels[-1].set(xlim=(low, high), xlabel=label)
        figure.supylabel("utterances", fontsize=9)
        source_legend(figure, sources)
    return figure


def class_deviations(described: Mapping[str, GateDescription], most: int) -> "Figure":
    """Draw each source's share in a class minus the speaker's mean over classes.

    Args:
        described: Gates by source.
        most: Number of classes that are drawn, the first.
    """
    names = [row.class_name for row in next(iter(described.values())).deviations[:most]]
    figure, axes = blank(1.0 + 0.16 * (len(described) + 1) * len(names))
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=DASHED)
    offsets = (np.arange(len(described)) - (len(described) - 1) / 2) * 0.7 / len(described)
    for offset, (source, gates) in zip(offsets, described.items(), strict=True):
        for row, one in enumerate(gates.deviations[:most]):
            dot(axes, row + float(offset), one.value, one.interval, source)
    name_rows(axes, names)
    axes.set_xlabel("share, class mean − speaker mean\n(right: the source has a larger share)")
    set_ticks(axes.xaxis, 5, whole=False)
    axes.grid(axis="x")
    source_legend(figure, list(described))
    return figure


def gate_and_confidence(
    shares: NDArray, confidence: NDArray, right: NDArray, sources: Sequence[str]
) -> "Figure":
    """Draw confidence over each source's share, right and wrong marked: (N, n), (N,) x 2."""
    with style():
        figure = new_figure(0.6 + 1.5 * len(sources))
        panels = figure.subplots(len(sources), sharex=True, sharey=True, squeeze=False)[:, 0]
        low, high, zoomed = limits(shares)
        for axes, values, source in zip(panels, shares.T, sources, strict=True):
            marks = ((right, "right", RIGHT, "o"), (~right, "wrong", WRONG, "x"))
            for inside, name, ink, mark in marks:
                words = {"label": f"{name} ({int(inside.sum())})"} if source == sources[0] else {}
                points = values[inside], 100 * confidence[inside], mark
                axes.plot(*points, color=ink, markersize=3.5, alpha=0.7, **words)
            if low < 1 / len(sources) < high:
                axes.axvline(1 / len(sources), color=INK, linewidth=0.8, linestyle=DASHED)
            axes.set_title(share_title(source), loc="left", fontsize=9, pad=2)
            axes.grid()
        label = f"mean share of an utterance{', zoomed' * zoomed}"
        panels[-1].set(xlim=(low, high), ylim=(0, 102), xlabel=label)
        figure.supylabel("confidence, percent", fontsize=9)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def gate_over_epochs(lines: Sequence[ShareEpochs], sources: Sequence[str]) -> "Figure":
    """Draw the mean share of each source over the dev utterances by epoch, a line a model."""
    figure, axes = blank(2.8)
    shown = lines[:MAX_LINES]
    note_omitted(figure, len(shown), len(lines))
    for line in shown:
        for source in sources:
            x, y = np.asarray(line.epochs), np.asarray(line.means[source])
            axes.plot(x, y, color=SOURCE_COLOURS[source], linewidth=1.2, alpha=0.8)
            chosen = x == line.best
            axes.plot(x[chosen], y[chosen], "o", color=SOURCE_COLOURS[source], markersize=5)
    every = [np.asarray(line.means[source]) for line in shown for source in sources]
    low, high, zoomed = limits(np.concatenate(every))
    if low < 1 / len(sources) < high:
        axes.axhline(1 / len(sources), color=INK, linewidth=0.8, linestyle=DASHED)
    axes.set(ylim=(low, high), xlabel="epoch")
    axes.set_ylabel(f"dev share{', zoomed' * zoomed}\n1 = that source alone")
    set_ticks(axes.xaxis)
    axes.grid()
    source_legend(figure, sources)
    return figure


def units_title(model: str, source: str) -> str:
    """Return the title of a source's panel in the heat maps.

    >>> units_title("fold 1 seed 0", "speech")
    'fold 1 seed 0: share of speech'
    """
    return f"{model}: share of {BRANCH_TITLES[source]}"
