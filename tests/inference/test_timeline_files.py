"""Intervals, TextGrid, WebVTT, JSON and picture of timelines that are worked by hand."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from config.tasks import RatingScale
from inference.intervals import Interval, Timeline
from inference.output import Lines
from inference.prediction import SILENCE, Prediction
from inference.timeline_figure import stretches, timeline_png
from inference.timeline_files import as_json, read_timeline, textgrid, webvtt, write_others
from system.errors import RunError

NAN = float("nan")


def made(times, probs, problems=None, scale=None, outputs=("a", "b"), seconds=0.0, gate=None):
    n = len(times)
    return Timeline(
        name="talk.wav",
        outputs=outputs,
        scale=scale,
        times=np.array(times, float),
        probs=np.array(probs, float),
        gate=np.full(n, NAN) if gate is None else np.array(gate, float),
        problems=problems or [""] * n,
        unsure=[None] * n,
        seconds=seconds or times[-1][1],
    )


WINDOWS = [(0, 3), (1, 4), (2, 5), (3, 6), (3.4, 6.4)]  # window 3, hop 1, the last moved back
A, B = [0.9, 0.1], [0.3, 0.7]


def test_a_window_has_the_hop_around_its_centre():
    found = made(WINDOWS, [A] * 5).regions()
    assert found.ravel() == pytest.approx([0, 2, 2, 3, 3, 4, 4, 4.7, 4.7, 6.4])


def test_windows_side_by_side_and_segments_keep_their_times():
    assert made([(0, 3), (3, 6)], [A] * 2).regions().tolist() == [[0, 3], [3, 6]]
    assert made([(1, 3), (3.5, 6)], [A] * 2).regions().tolist() == [[1, 3], [3.5, 6]]


def test_neighbours_of_one_label_are_joined_with_their_mean_confidence():
    found = made(WINDOWS, [A, [0.7, 0.3], B, B, A]).intervals()
    assert found == {
        "emotion": [
            Interval(0, 3, "a", pytest.approx(0.8)),
            Interval(3, pytest.approx(4.7), "b", pytest.approx(0.7)),
            Interval(pytest.approx(4.7), 6.4, "a", pytest.approx(0.9)),
        ]
    }


def test_silence_and_pauses_part_equal_labels():
    silent = made([(0, 1), (1, 2), (2, 3)], [A, [NAN, NAN], A], ["", SILENCE, ""])
    assert [one[:3] for one in silent.intervals()["emotion"]] == [(0, 1, "a"), (2, 3, "a")]
    paused = made([(0, 1), (1.5, 2), (2, 3)], [A, A, A])
    assert [one[:2] for one in paused.intervals()["emotion"]] == [(0, 1), (1.5, 3)]


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 8.000
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "emotion"
        xmin = 0
        xmax = 8.000
        intervals: size = 5
        intervals [1]:
            xmin = 0.000
            xmax = 1.000
            text = ""
        intervals [2]:
            xmin = 1.000
            xmax = 3.500
            text = "so ""la"" so"
        intervals [3]:
            xmin = 3.500
            xmax = 5.000
            text = "b"
        intervals [4]:
            xmin = 5.000
            xmax = 6.000
            text = "so ""la"" so"
        intervals [5]:
            xmin = 6.000
            xmax = 8.000
            text = ""
"""


def test_a_textgrid_covers_the_recording_without_gaps():
    times = [(1, 3.5), (3.5, 5), (5, 6)]
    found = made(times, [A, B, A], outputs=('so "la" so', "b"), seconds=8.0)
    assert textgrid(found) == TEXTGRID


def test_a_textgrid_of_windows_has_neither_gaps_nor_overlaps():
    rng = np.random.default_rng(0)
    starts = np.arange(0, 50, 0.333)
    times = [(round(x, 3), round(x + 1, 3)) for x in starts] + [(50.111, 51.111)]
    problems = [SILENCE if x < 0.2 else "" for x in rng.random(len(times))]
    problems[3] = "holds samples that are NaN"
    drawn = zip(problems, rng.random(len(times)), strict=True)
    probs = [[NAN, NAN] if why else [x, 1 - x] for why, x in drawn]
    text = textgrid(made(times, probs, problems))
    for tier in ("emotion", "problem"):
        part = re.split(r"item \[\d+\]:", text)[1 + (tier == "problem")]
        assert f'name = "{tier}"' in part
        numbers = [float(x) for x in re.findall(r"xm\w+ = ([\d.]+)", part)]
        limits = np.array(numbers[2:]).reshape(-1, 2)
        assert numbers[:2] == [0, 51.111] == [limits[0, 0], limits[-1, 1]]
        assert (limits[1:, 0] == limits[:-1, 1]).all() and (limits[:, 1] > limits[:, 0]).all()
        assert int(re.search(r"size = (\d+)", part)[1]) == len(limits)
    assert '"holds samples that are NaN"' in part


def test_captions_worked_by_hand():
    times = [(0, 2), (2, 4), (3603, 3605.5)]
    found = made(times, [A, B, A], outputs=("<i>&", "b"))
    assert webvtt(found) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:02.000\n&lt;i&gt;&amp; (0.90)\n\n"
        "00:00:02.000 --> 00:00:04.000\nb (0.70)\n\n"
        "01:00:03.000 --> 01:00:05.500\n&lt;i&gt;&amp; (0.90)\n"
    )


def test_ratings_have_a_tier_for_each_dimension():
    scale = RatingScale(1, 5)
    probs = [[2.0, 3.0], [2.0, 4.5], [NAN, NAN]]
    found = made([(0, 2), (1, 3), (3, 4)], probs, ["", "", SILENCE], scale, ("valence", "arousal"))
    assert found.intervals() == {
        "valence": [Interval(0, 3, "2.00", None)],
        "arousal": [Interval(0, 1.5, "3.00", None), Interval(1.5, 3, "4.50", None)],
    }
    cues = webvtt(found).split("\n\n")[1:]
    assert cues[0] == "00:00:00.000 --> 00:00:01.500\nvalence 2.00, arousal 3.00"
    assert len(cues) == 2
    whole = as_json(found, {})
    assert whole["scale"] == [1, 5] and whole["dimensions"] == ["valence", "arousal"]
    assert whole["parts"][0] == {
        "start": 0,
        "end": 2,
        "ratings": {"valence": 2.0, "arousal": 3.0},
        "gate": None,
        "problem": None,
    }
    assert whole["intervals"]["arousal"][1] == {"start": 1.5, "end": 3, "label": "4.50"}


@pytest.fixture
def csv_file(tmp_path):
    """NAME.csv of three parts, as predict.py writes it."""
    lines = Lines("csv", ["a", "b"], None, with_risk=True, with_times=True)
    parts = [
        Prediction("x,\ny.wav", {"a": 0.75, "b": 0.25}, 0.5, unsure=False, start=0, end=3),
        Prediction("x,\ny.wav", {}, problem=SILENCE, start=1, end=4),
        Prediction("x,\ny.wav", {"a": 0.125, "b": 0.875}, 0.25, unsure=True, start=2, end=5),
    ]
    path = tmp_path / "talk.wav.csv"
    path.write_text("\n".join([*lines.header(), *map(lines.line, parts)]) + "\n")
    return path, lines


def test_the_other_files_are_made_from_the_csv(csv_file):
    path, lines = csv_file
    write_others(path, lines, {"window": 3.0}, 5.5)
    found = json.loads((path.parent / "talk.wav.json").read_text())
    assert found["path"] == "x,\\ny.wav" and found["seconds"] == 5.5
    assert found["made_by"] == {"window": 3.0} and found["classes"] == ["a", "b"]
    assert [part["emotion"] for part in found["parts"]] == ["a", None, "b"]
    assert found["parts"][2] == {
        "start": 2,
        "end": 5,
        "emotion": "b",
        "confidence": 0.875,
        "unsure": True,
        "probs": {"a": 0.125, "b": 0.875},
        "gate": 0.25,
        "problem": None,
    }
    assert found["parts"][1]["problem"] == SILENCE and found["parts"][1]["probs"] is None
    assert found["intervals"]["emotion"] == [
        {"start": 0, "end": 2, "label": "a", "confidence": 0.75},
        {"start": 3, "end": 5, "label": "b", "confidence": 0.875},
    ]
    assert "xmax = 5.500" in (path.parent / "talk.wav.TextGrid").read_text()
    assert (path.parent / "talk.wav.vtt").read_text().count("-->") == 2
    assert Image.open(path.parent / "talk.wav.png").size[0] > 1000


@pytest.mark.parametrize("line", ["x,0,3", "x,0,3,a,1,no,zero,0,,,", "x,0,3,a,1,no,1,0,,,,", None])
def test_a_corrupt_csv_is_named(csv_file, line):
    path, lines = csv_file
    head = path.read_text().splitlines()[0]
    path.write_text(f"{head}\n" + ("" if line is None else f"{line}\n"))
    with pytest.raises(RunError, match=r"talk.wav.csv is missing, corrupt"):
        read_timeline(path, lines)


def test_a_long_timeline_is_drawn_as_means_of_neighbours():
    n = 3601
    times = [(i, i + 3) for i in range(n)]
    rng = np.random.default_rng(0)
    probs = np.stack([x := rng.random(n), 1 - x], 1)
    problems = [""] * n
    for i in (0, *range(60, 72)):  # of six parts one, and two whole stretches
        probs[i], problems[i] = NAN, SILENCE
    edges, values, gate = stretches(made(times, probs, problems, gate=np.arange(n) / n))
    assert len(values) == 601  # 6 parts each
    assert values[0, 0] == pytest.approx(probs[1:6, 0].mean())
    assert np.isnan(values[10:12]).all() and values[12, 1] == pytest.approx(probs[72:78, 1].mean())
    assert gate[1] == pytest.approx(np.arange(6, 12).mean() / n)
    assert edges[0].tolist() == [0, 7] and edges[-1].tolist() == [3601, 3603]


def pixels(found):
    """Return the picture: (H, W, RGB)."""
    return np.array(Image.open(io.BytesIO(timeline_png(found))).convert("RGB"))


def share(image, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((image == rgb).all(2).mean())


def test_the_picture_has_areas_of_the_probabilities_and_nothing_in_silence():
    times = [(i, i + 1) for i in range(10)]
    blue, orange = "#0072b2", "#e69f00"
    whole = pixels(made(times, [[0.8, 0.2]] * 10))
    assert share(whole, blue) > 3 * share(whole, orange) > 0.1  # and the strip of labels is blue
    gaps = [[0.8, 0.2]] * 5 + [[NAN, NAN]] * 5
    half = pixels(made(times, gaps, [""] * 5 + [SILENCE] * 5))
    assert share(half, blue) == pytest.approx(share(whole, blue) / 2, rel=0.05)

    apart = pixels(made([(2 * i, 2 * i + 1) for i in range(5)] + [(9, 10)], [[0.8, 0.2]] * 6))
    assert share(apart, blue) == pytest.approx(share(whole, blue) * 0.6, rel=0.05)  # pauses


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("classes", 36_000), ("many", 0.1), ("ratings", 10), ("silence", 4000)],
)
def test_every_kind_of_timeline_is_drawn(kind, seconds):
    n, k = 40, 30 if kind == "many" else 2
    edges = np.linspace(0, seconds, n + 1)
    probs = np.random.default_rng(0).dirichlet(np.ones(k), n)
    scale = RatingScale(1, 5) if kind == "ratings" else None
    problems = [SILENCE] * n if kind == "silence" else [""] * n
    probs = np.full_like(probs, NAN) if kind == "silence" else probs
    names = [f"$class_{i}" for i in range(k)]  # never a formula
    gate = probs.mean(1)
    found = made(np.stack([edges[:-1], edges[1:]], 1), probs, problems, scale, names, 0.0, gate)
    assert len(np.unique(pixels(found) @ [65_536, 256, 1])) > 5
