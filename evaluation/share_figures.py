"""Figures of shares: of the sources in a gate, and of the layers of a speech model.

A source has one colour everywhere. Shares of an utterance, and weights of layers, add up to 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from config.fusions import BRANCH_TITLES
from evaluation.figures import (
    COLOURS,
    INK,
    RIGHT,
    WRONG,
    blank,
    name_rows,
    new_figure,
    set_ticks,
    style,
)
from evaluation.shares import share_polarity, titles

if TYPE_CHECKING:  # matplotlib is imported where a figure is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE_COLOURS = dict(zip(BRANCH_TITLES, (*COLOURS[:2], *COLOURS[3:5]), strict=True))
SOURCE_MARKERS = dict(zip(BRANCH_TITLES, "osPX", strict=True))
DASHED = (0, (4, 3))
LEAST_NUMBER = 0.06  # share from which a bar has room for its number


def class_shares(shares: NDArray, classes: Sequence[str], sources: Sequence[str]) -> "Figure":
    """Draw the mean shares of each class as a bar whose parts add up to 1.

    Args:
        shares: (K, n) mean share of each source in each class; NaN where there is no utterance.
        classes: Names of the classes.
        sources: Names of the sources.
    """
    figure, axes = blank(0.9 + 0.3 * len(classes))
    ends = shares.cumsum(1)  # (K, n)
    for s, source in enumerate(sources):
        start = ends[:, s] - shares[:, s]
        colour = SOURCE_COLOURS[source]
        axes.barh(np.arange(len(classes)), shares[:, s], 0.7, start, color=colour)
        for row, share in enumerate(shares[:, s]):
            if share >= LEAST_NUMBER:
                words, x = f"{share:.2f}", start[row] + share / 2
                axes.text(x, row, words, ha="center", va="center", color="white", fontsize=8)
    name_rows(axes, classes)
    axes.set(xlim=(0, 1), xlabel="mean share of the gate; the shares add up to 1")
    source_legend(figure, sources)
    return figure


def share_histograms(shares: NDArray, right: NDArray, sources: Sequence[str]) -> "Figure":
    """Draw a histogram of each source's shares, right and wrong stacked: (N, n), (N,)."""
    with style():
        figure = new_figure(0.5 + 0.95 * len(sources))
        panels = figure.subplots(len(sources), sharex=True, squeeze=False)[:, 0]
        edges = np.linspace(0, 1, 51).tolist()
        for axes, values, source in zip(panels, shares.T, sources, strict=True):
            axes.hist([values[right], values[~right]], edges, stacked=True, color=[RIGHT, WRONG])
            axes.axvline(1 / len(sources), color=INK, linewidth=0.8, linestyle=DASHED)
            axes.set_title(share_title(source), loc="left", fontsize=9, pad=2)
            set_ticks(axes.yaxis, 2)
        panels[-1].set(xlim=(0, 1), xlabel="mean share of an utterance")
        figure.supylabel("utterances", fontsize=9)
    return figure


def layer_bars(layers: Sequence[int], weights: NDArray) -> "Figure":
    """Draw the mean weight of each layer as a bar, and the weights of all models as dots.

    Args:
        layers: (L,) numbers of the hidden states, as `model.speech.layers` names them.
        weights: (M, L) weights in M models.
    """
    figure, axes = blank(2.1)
    places = np.arange(len(layers))
    axes.bar(places, weights.mean(0), 0.7, color=SOURCE_COLOURS["speech"], alpha=0.6)
    for model in weights:
        axes.plot(places, model, ".", color=INK, markersize=4, alpha=0.6, mew=0)
    axes.axhline(1 / len(layers), color=INK, linewidth=0.8, linestyle=DASHED)
    every = -(-len(layers) // 13)  # names that fit side by side
    axes.set_xticks(places[::every], [str(layer) for layer in layers[::every]])
    axes.set(xlabel="hidden state of the speech model: 0 enters the first layer", ylabel="weight")
    axes.set_ylim(0, None)
    return figure


def share_title(source: str) -> str:
    """Return what a share of one source means, above a panel.

    >>> share_title("speech")
    'share of speech: 0 = without speech ... 1 = speech alone'
    """
    return f"share of {BRANCH_TITLES[source]}: {share_polarity(source)}"


def source_legend(figure: "Figure", sources: Sequence[str]) -> None:
    """Name the colours of the sources above a figure."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker=SOURCE_MARKERS[s], color=SOURCE_COLOURS[s], linestyle="")
        for s in sources
    ]
    facts = {"ncols": len(sources), "frameon": False, "fontsize": 8}
    figure.legend(marks, titles(sources), loc="outside upper right", **facts)


def dot(
    axes: "Axes", row: float, value: float, interval: Sequence[float] | None, source: str
) -> None:
    """Draw a source's value with its interval in a row."""
    colour = SOURCE_COLOURS[source]
    if interval is not None:
        axes.plot(list(interval), [row, row], color=colour, linewidth=1.4)
    axes.plot(value, row, SOURCE_MARKERS[source], color=colour, markersize=5)
