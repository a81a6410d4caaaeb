"""Figures from plain values: SVG text for plots, PNG bytes for spectrograms.

Each run has one colour and one marker everywhere, by its place in the list; the names of the runs
are in the page, not in the plots. Users' own names are drawn literally, never as formulas.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from system.text import printable

if TYPE_CHECKING:  # matplotlib takes half a second: it is imported where a figure is drawn
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# By run; distinguishable for colour-blind readers (Okabe & Ito 2008; orange and sky blue darkened)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a67c00", "#56a4d9", "#333333")
MARKERS = "os^Dv*P"  # by run, so that colour is never the only difference
RIGHT, WRONG = "#8a9bb0", "#d55e00"
INK, GRID = "#2b2b2b", "#dddddd"
POLARITY = "0 = Mel ... 1 = CQT"  # label of every gate axis
PNG_DPI = 144
MANY = 20  # classes; of more, figures and pages show some: all would need gigabytes
WIDTH = 4.6  # inches at 72 dots an inch: a column of the page, and nearly a phone's
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "figures",  # the same values, the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.axisbelow": True,
}


class Dots(NamedTuple):
    """The values of one run in a `dot_plot`, one for each row; None is not drawn."""

    values: Sequence[float | None]
    intervals: Sequence[Sequence[float] | None]


class Line(NamedTuple):
    """One curve of one run; `mark` is the x of its large marker, None for no marker."""

    run: int
    x: Sequence[float]
    y: Sequence[float]
    mark: float | None = None


class Bars(NamedTuple):
    """Mean confidence, accuracy and number of utterances of the bins that are not empty."""

    confidence: Sequence[float]
    accuracy: Sequence[float]
    n: Sequence[int]


def colour(run: int) -> str:
    """Return the colour of a run by its place."""
    return COLOURS[run % len(COLOURS)]


def marker(run: int) -> str:
    """Return the marker of a run by its place; with the colour it is unique for 49 runs."""
    return MARKERS[(run + run // len(COLOURS)) % len(MARKERS)]


def dot_plot(
    rows: Sequence[str],
    runs: Sequence[Dots],
    label: str,
    chance: Mapping[str, float] | None = None,
    percent: bool = True,
) -> str:
    """Draw a dot with its interval for each row and run, in percent from 0 to 100.

    Args:
        rows: Names, from top to bottom.
        runs: Fractions in 0..1, as many as there are rows.
        label: Label of the x axis.
        chance: Name of a row -> fraction at which a dashed line crosses this row alone.
        percent: False draws the values as they are, such as a CCC, from 0 or the lowest to 1.
    """
    scale = 100 if percent else 1
    height = 0.7 + len(rows) * max(0.34, 0.1 + 0.14 * len(runs))
    figure, axes = blank(height)
    offsets = (np.arange(len(runs)) - (len(runs) - 1) / 2) * 0.7 / max(len(runs), 3)
    for run, (dots, offset) in enumerate(zip(runs, offsets, strict=True)):
        for row, (value, interval) in enumerate(zip(*dots, strict=True)):
            if value is None:
                continue
            if interval is not None:
                ends = [scale * end for end in interval]
                axes.plot(ends, [row + offset] * 2, color=colour(run), linewidth=1.4)
            (dot,) = axes.plot(scale * value, row + offset, marker(run), color=colour(run))
            dot.set(markersize=5, clip_on=False)  # whole at 0 and 100, too
    for name, value in (chance or {}).items():
        row = rows.index(name)
        ends = [row - 0.5, row + 0.5]
        axes.plot([scale * value] * 2, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    name_rows(axes, rows)
    lowest = 0.0 if percent else min(0.0, axes.get_xlim()[0])
    axes.set(xlim=(lowest, scale), xlabel=label)
    axes.grid(axis="x")
    return svg_text(figure)


def curves(lines: Sequence[Line], x_label: str, y_label: str, percent: bool = False) -> str:
    """Draw thin curves; a curve of one point is a dot.

    Args:
        lines: The curves.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        percent: True if x and y are fractions in 0..1, to be drawn from 0 to 100.
    """
    figure, axes = blank(3.0)
    scale = 100 if percent else 1
    for line in lines:
        x, y = scale * np.asarray(line.x), scale * np.asarray(line.y)
        single = "." if len(x) == 1 else ""
        axes.plot(x, y, marker=single, color=colour(line.run), linewidth=1.1, alpha=0.8)
        if line.mark is not None:
            chosen = x == scale * line.mark
            axes.plot(x[chosen], y[chosen], marker(line.run), color=colour(line.run), markersize=6)
    axes.set(xlabel=x_label, ylabel=y_label)
    if percent:
        axes.set(xlim=(0, 100), ylim=(0, None))
    else:
        set_ticks(axes.xaxis)
    axes.grid()
    return svg_text(figure)


def epochs(lines: Sequence[Line], y_label: str, percent: bool = False) -> str:
    """Draw curves over epochs; `percent` scales y alone, from 0 to 100."""
    scale = 100 if percent else 1
    scaled = [line._replace(y=[scale * y for y in line.y]) for line in lines]
    return curves(scaled, "epoch", y_label)


def gate_histogram(right: Sequence[float], wrong: Sequence[float]) -> str:
    """Draw a histogram of mean gates, 0 = Mel ... 1 = CQT, right and wrong stacked."""
    figure, axes = blank(2.1)
    edges = np.linspace(0, 1, 51).tolist()
    axes.hist([right, wrong], edges, stacked=True, color=[RIGHT, WRONG])
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), xlabel=f"mean gate: {POLARITY}", ylabel="utterances")
    set_ticks(axes.yaxis)
    return svg_text(figure)


def gate_by_class(gates: Sequence[Sequence[float]], classes: Sequence[str], run: int) -> str:
    """Draw each utterance's mean gate by class, and the class means, zoomed to the values."""
    figure, axes = blank(0.7 + 0.4 * len(classes))
    rng = np.random.default_rng(0)  # random heights, so that points do not hide each other
    for row, values in enumerate(gates):
        heights = row + rng.uniform(-0.28, 0.28, len(values))
        axes.plot(values, heights, ".", color=colour(run), markersize=4, alpha=0.45, mew=0)
        if len(values):
            axes.plot([np.mean(values)] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=1.6)
    name_rows(axes, classes)
    axes.set_xlabel(f"mean gate, zoomed: {POLARITY}")
    axes.grid(axis="x")
    return svg_text(figure)


def reliability_plot(before: Bars, after: Bars) -> str:
    """Draw accuracy over confidence, before (grey) and after (black) temperature scaling."""
    figure, axes = blank(3.4)
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for bars, face, edge in ((before, "#b8b8b8", "#8c8c8c"), (after, "none", INK)):
        x, y = 100 * np.asarray(bars.confidence), 100 * np.asarray(bars.accuracy)
        axes.plot(x, y, color=edge, linewidth=1)
        axes.scatter(x, y, 8 + 160 * np.sqrt(_parts(bars.n)), face, edgecolors=edge, zorder=3)
    axes.set(xlim=(0, 102), ylim=(0, 102), xlabel="confidence, percent", ylabel="accuracy, percent")
    axes.grid()
    return svg_text(figure)


def spectrogram_png(image: NDArray, floor: float) -> bytes:
    """Return a spectrogram in dB as PNG, a pixel a value, low frequencies at the bottom.

    Args:
        image: (H, W) in dB, row 0 the lowest frequency.
        floor: dB of the darkest colour; 0 dB is the brightest.
    """
    from matplotlib import colormaps

    unit = np.clip((image - floor) / -floor, 0, 1)[::-1]  # (H, W), the highest frequency on top
    indices = np.round(255 * unit).astype(np.uint8)
    png = Image.fromarray(indices, mode="P")
    palette = colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    png.putpalette(palette.tobytes())
    file = io.BytesIO()
    png.save(file, "PNG", optimize=True)
    return file.getvalue()


def style() -> AbstractContextManager[None]:
    """Return a context in which matplotlib draws in `STYLE`."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def new_figure(height: float) -> "Figure":
    """Return a figure of the page's width without axes; height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def blank(height: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure of the page's width, and its axes; height in inches."""
    with style():
        figure = new_figure(height)
        return figure, figure.subplots()


def set_ticks(axis: "Axis", n: int | None = None, whole: bool = True) -> None:
    """Let an axis have at most n steps between ticks, which are whole numbers by default."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto" if n is None else n, integer=whole))


def svg_text(figure: "Figure") -> str:
    """Return a figure as SVG, text as text, on the page's own background."""
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def png_bytes(figure: "Figure") -> bytes:
    """Return a figure as PNG on white."""
    file = io.BytesIO()
    with style():
        figure.savefig(
            file, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None}
        )
    return file.getvalue()


def name_rows(axes: "Axes", rows: Sequence[str]) -> None:
    """Write names beside rows 0, 1, ... from top to bottom."""
    axes.set_yticks(range(len(rows)), [short(row) for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def short(name: str, most: int = 22) -> str:
    """Return a name as a plot can hold it."""
    name = printable(name, keep="")  # XML has no control characters
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _parts(n: Sequence[int]) -> NDArray:
    return np.asarray(n) / max(sum(n), 1)
