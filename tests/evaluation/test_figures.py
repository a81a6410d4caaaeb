"""Plots say what they were given, whatever the names; spectrograms have low tones at the bottom."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from evaluation.figures import (
    COLOURS,
    Bars,
    Dots,
    Line,
    colour,
    curves,
    dot_plot,
    epochs,
    gate_by_class,
    gate_histogram,
    marker,
    reliability_plot,
    spectrogram_png,
)

SVG = "{http://www.w3.org/2000/svg}"
LUMA = np.array([0.299, 0.587, 0.114])


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def places(svg: str, of_colour: str) -> list[tuple[float, float]]:
    """Return where markers of a colour stand, in points from the upper left."""
    uses = ElementTree.fromstring(svg).iter(f"{SVG}use")
    return [
        (float(use.get("x", "")), float(use.get("y", "")))
        for use in uses
        if f"fill: {of_colour}" in use.get("style", "")
    ]


def test_runs_differ_in_colour_or_marker_as_long_as_there_can_be():
    looks = [(colour(run), marker(run)) for run in range(49)]
    assert len(set(looks)) == 49
    assert len({colour(run) for run in range(7)}) == 7 == len({marker(run) for run in range(7)})


def test_dots_stand_at_their_values_and_none_is_left_out():
    svg = dot_plot(["a", "b", "c"], [Dots([0.0, 0.5, None], [None] * 3)], "percent")
    (left, first), (middle, second) = places(svg, COLOURS[0])
    svg = dot_plot(["a"], [Dots([1.0], [None])], "percent")
    assert first < second  # rows from top to bottom
    full = dot_plot(["a", "b", "c"], [Dots([0.0, 0.5, 1.0], [None] * 3)], "percent")
    right = places(full, COLOURS[0])[2][0]
    assert middle == pytest.approx((left + right) / 2)


def test_an_interval_reaches_from_end_to_end():
    svg = dot_plot(["a"], [Dots([0.5], [[0.0, 1.0]])], "percent")
    line = next(
        node.get("d", "")
        for node in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if f"stroke: {COLOURS[0]}; stroke-width: 1.4" in node.get("style", "")
    )
    start, end = [float(part.split()[0]) for part in line.replace("M", "").split("L")]
    assert places(svg, COLOURS[0])[0][0] == pytest.approx((start + end) / 2)
    assert end - start > 150


def test_chance_crosses_its_own_row_alone():
    rows, dots = ["WA", "UA", "F1"], [Dots([0.25] * 3, [None] * 3)]
    svg = dot_plot(rows, dots, "percent", {"UA": 0.25})
    ((x0, y0, x1, y1),) = [
        [float(word) for word in node.get("d", "").split() if word not in "ML"]
        for node in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if "dasharray" in node.get("style", "")
    ]
    (x, wa), (_, ua), (_, f1) = places(svg, COLOURS[0])
    assert (x0, x1) == pytest.approx((x, x))
    assert wa < min(y0, y1) < ua < max(y0, y1) < f1
    assert "dasharray" not in dot_plot(rows, dots, "percent")


@pytest.mark.parametrize("name", ["<b>&", "$x^2$", "_hidden", "$", "a very long name of a class"])
def test_names_are_text_and_no_formulas(name):
    svgs = [
        dot_plot([name], [Dots([0.5], [None])], "percent"),
        gate_by_class([[0.5]], [name], 0),
    ]
    shown = name if len(name) <= 22 else f"{name[:21]}…"
    assert all(shown in texts(svg) for svg in svgs)


def test_the_marked_epoch_is_where_it_was():
    svg = epochs([Line(0, [1, 2, 3], [0.1, 0.9, 0.4], mark=2)], "dev UA, percent", percent=True)
    ((x, y),) = places(svg, COLOURS[0])
    assert {"epoch", "dev UA, percent", "1", "2", "3", "80"} <= set(texts(svg))
    later = epochs([Line(0, [1, 2, 3], [0.1, 0.9, 0.4], mark=3)], "dev UA, percent", percent=True)
    ((x_later, y_later),) = places(later, COLOURS[0])
    assert x < x_later and y < y_later  # 0.4 is lower than 0.9


def test_gates_are_on_the_whole_axis_with_its_ends_named():
    svg = gate_histogram([0.5, 0.51], [0.4])
    assert {"0.0", "1.0", "mean gate: 0 = Mel ... 1 = CQT"} <= set(texts(svg))
    assert gate_histogram([], [0.4]).count("</svg>") == 1


def test_the_same_values_make_the_same_file_and_it_needs_no_other():
    plots = [
        lambda: curves([Line(1, [0.5, 1.0], [0.1, 0.2])], "x", "y", percent=True),
        lambda: reliability_plot(Bars([0.5], [0.4], [3]), Bars([], [], [])),
        lambda: gate_by_class([[0.5, 0.6], []], ["a", "b"], 1),
    ]
    for plot in plots:
        assert plot() == plot()
        assert "href" not in plot().replace('xlink:href="#', "").replace("xmlns:xlink", "")


def test_a_spectrogram_has_low_frequencies_at_the_bottom_and_loud_ones_bright():
    figure = np.full((4, 3), -80.0)
    figure[0, 2] = 0.0  # the lowest frequency, last in time
    figure[3, 0] = 20.0  # above the reference: as bright as 0 dB
    image = Image.open(io.BytesIO(spectrogram_png(figure, -80.0)))
    pixels = np.asarray(image.convert("RGB")) @ LUMA
    assert image.size == (3, 4)
    assert pixels[3, 2] == pixels[0, 0] == pixels.max() > 200
    assert pixels[3, 0] == pixels.min() < 5
