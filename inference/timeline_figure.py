"""The picture of a timeline: labels, probabilities and gate over time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from config.fusions import BRANCH_TITLES
from evaluation import figures
from inference.intervals import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 11.0  # inches
STRETCHES = 700  # most points over time: of more parts, means of neighbours are drawn
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)  # s between ticks
MOST_TICKS = 12
NAMED = 24  # classes in the legend
# Of the first classes: distinguishable for colour-blind readers; of more, matplotlib's tab20
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#882255")


def timeline_png(found: Timeline) -> bytes:
    """Draw a timeline as PNG.

    From top to bottom: a strip with the most probable class (of classes), probabilities as areas
    that add up to 1, or ratings as lines; the gate, or the shares of its sources, where there is
    one. White is silence, or
    what could not be labelled. Of more than 700 parts, each point is the mean of its neighbours.
    """
    from matplotlib.figure import Figure

    edges, values, gate = stretches(found)
    shares = None if found.shares is None else _stretched(found, found.shares)
    with_gate = not np.isnan(gate if shares is None else shares).all()
    with figures.style():
        heights = [0.35] * (found.scale is None) + [3.2] + [1.2] * with_gate
        figure = Figure(figsize=(WIDTH, 1.0 + sum(heights)), layout="constrained")
        rows = figure.subplots(
            len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
        ).ravel()
        colours = class_colours(len(found.outputs))
        if found.scale is None:
            _strip(rows[0], edges, values, colours)
            _areas(rows[1], edges, values, found, colours)
        else:
            _lines(rows[0], edges, values, found, colours)
        if with_gate and shares is None:
            _gate(rows[-1], edges, gate)
        elif with_gate and shares is not None:
            _shares(rows[-1], edges, shares, found.sources)
        _time_axis(rows[-1], found.seconds)
        n = -(-len(found.times) // len(values))
        mean = f", each point the mean of {n} parts" if n > 1 else ""
        figure.suptitle(
            f"{figures.short(found.name, 90)}: {len(found.times)} parts{mean}",
            parse_math=False,
            fontsize=9,
        )
    return figures.png_bytes(figure)


def stretches(found: Timeline) -> tuple[NDArray, NDArray, NDArray]:
    """Return what is drawn: start and end (m, 2), outputs (m, K) and gate (m,), NaN for nothing.

    Each is a part's own region, or of more than 700 parts the mean over some neighbours that are
    labelled.
    """
    regions = found.regions()
    n = -(-len(regions) // STRETCHES)
    if n <= 1:
        return regions, found.probs, found.gate
    firsts = np.arange(0, len(regions), n)
    lasts = np.minimum(firsts + n, len(regions)) - 1
    edges = np.stack([regions[firsts, 0], regions[lasts, 1]], 1)
    return edges, _stretched(found, found.probs), _stretched(found, found.gate[:, None])[:, 0]


def _stretched(found: Timeline, values: NDArray) -> NDArray:
    """Return values of what is drawn, of values of each part: (n, k) -> (m, k)."""
    n = -(-len(found.times) // STRETCHES)
    return values if n <= 1 else _means(values, np.arange(0, len(values), n))


def class_colours(n: int) -> list[Any]:
    """Return n colours, repeated beyond 20."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    from matplotlib import colormaps

    return [colormaps["tab20"](i % 20) for i in range(n)]


def _means(values: NDArray, firsts: NDArray) -> NDArray:
    """Return the mean over rows that are not NaN, from each first one to the next."""
    there = ~np.isnan(values)
    sums = np.add.reduceat(np.where(there, values, 0.0), firsts, 0)
    counts = np.add.reduceat(there.astype(float), firsts, 0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _steps(edges: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    """Return x (2 m,) and y (2 m, ...) of steps that are level from start to end; gaps are NaN."""
    return edges.ravel(), np.repeat(values, 2, 0)


def _strip(axes: "Axes", edges: NDArray, values: NDArray, colours: list[Any]) -> None:
    labelled = ~np.isnan(values[:, 0])
    spans = [(start, end - start) for start, end in edges[labelled]]
    best = np.argmax(values[labelled], 1)
    axes.broken_barh(spans, (0, 1), facecolors=[colours[k] for k in best], linewidth=0)
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_ylabel("label", rotation=0, ha="right", va="center")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)


def _areas(
    axes: "Axes", edges: NDArray, values: NDArray, found: Timeline, colours: list[Any]
) -> None:
    tops = np.cumsum(values, 1)
    bottom = np.zeros(len(values)) + 0 * tops[:, 0]
    for k, name in enumerate(found.outputs):
        for start, stop in _unbroken(edges, values):
            x, y = _steps(edges[start:stop], tops[start:stop, k])
            low = _steps(edges[start:stop], bottom[start:stop])[1]
            axes.fill_between(x, low, y, color=colours[k], linewidth=0)
        bottom = tops[:, k]
        if k < NAMED:
            axes.fill_between([], [], color=colours[k], label=figures.short(name))
    axes.set(ylim=(0, 1), ylabel="probability")
    _legend(axes, len(found.outputs))


def _lines(
    axes: "Axes", edges: NDArray, values: NDArray, found: Timeline, colours: list[Any]
) -> None:
    for k, name in enumerate(found.outputs):
        label: str | None = figures.short(name)
        for start, stop in _unbroken(edges, values):
            x, y = _steps(edges[start:stop], values[start:stop, k])
            axes.plot(x, y, color=colours[k], linewidth=1.3, label=label)
            label = None
    assert found.scale is not None
    axes.set(ylim=(found.scale.low, found.scale.high), ylabel="rating")
    axes.grid(axis="y")
    _legend(axes, len(found.outputs))


def _gate(axes: "Axes", edges: NDArray, gate: NDArray) -> None:
    for start, stop in _unbroken(edges, gate[:, None]):
        axes.plot(*_steps(edges[start:stop], gate[start:stop]), color=figures.INK, linewidth=1.1)
    axes.axhline(0.5, color=figures.INK, linewidth=0.6, linestyle=(0, (4, 3)))
    axes.set(ylim=(0, 1), ylabel="gate", yticks=[0, 0.5, 1])
    axes.set_yticklabels(["0 Mel", "0.5", "1 CQT"])


def _shares(axes: "Axes", edges: NDArray, shares: NDArray, sources: Sequence[str]) -> None:
    for k, (source, colour) in enumerate(zip(sources, class_colours(len(sources)), strict=True)):
        label: str | None = BRANCH_TITLES[source]
        for start, stop in _unbroken(edges, shares):
            x, y = _steps(edges[start:stop], shares[start:stop, k])
            axes.plot(x, y, color=colour, linewidth=1.1, label=label)
            label = None
    axes.set(ylim=(0, 1), ylabel="share", yticks=[0, 0.5, 1])
    _legend(axes, len(sources))


def _legend(axes: "Axes", n: int) -> None:
    """Name the classes beside the plot."""
    title = f"first {NAMED} of {n}" if n > NAMED else None
    legend = axes.legend(
        loc="center left",
        bbox_to_anchor=(1.005, 0.5),
        frameon=False,
        title=title,
        fontsize=8,
        reverse=True,  # as the areas lie
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _unbroken(edges: NDArray, values: NDArray) -> list[tuple[int, int]]:
    """Return first and stop of the stretches that touch and have values."""
    there = ~np.isnan(values[:, 0])
    runs, first = [], None
    for i, has in enumerate([*there.tolist(), False]):
        gap = first is not None and i < len(edges) and edges[i, 0] - edges[i - 1, 1] > 0.0015
        if first is not None and (not has or gap):
            runs.append((first, i))
            first = None
        if has and first is None:
            first = i
    return runs


def _time_axis(axes: "Axes", seconds: float) -> None:
    """Write times as h:mm:ss, m:ss below an hour, at steps that people count in."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    hours = 3600 * np.ceil(seconds / 3600 / MOST_TICKS)
    step = next((step for step in STEPS if seconds / step <= MOST_TICKS), hours)
    ticks = np.arange(0, seconds + 0.5 * step, step)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= seconds]))

    def shown(x: float, _: int | None = None) -> str:
        minutes, s = divmod(round(x), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{s:02d}" if seconds >= 3600 else f"{minutes}:{s:02d}"

    axes.xaxis.set_major_formatter(FuncFormatter(shown))
    axes.set(
        xlim=(0, max(seconds, 1e-3)), xlabel=f"time, {'h:mm:ss' if seconds >= 3600 else 'm:ss'}"
    )
