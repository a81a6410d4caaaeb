"""Places on the page against values worked by hand: axes, bars, balance, timeline, sentences."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from config.tasks import RatingScale
from features import SpectrogramImages
from inference.prediction import Prediction
from tests.conftest import RECIPE, SAMPLE_RATE, tone
from web.drawing import balance, bars, gate_sentence, timeline
from web.images import AxesImage, shown_images, time_ticks

SETTINGS = {**RECIPE["features"], "image_size": 64}


def place_of(image: AxesImage, text: str) -> float:
    return next(tick.place for tick in image.hertz if tick.text == text)


def brightest_row(image: AxesImage) -> float:
    """Return the height of the brightest row, 0 at the bottom."""
    png = Image.open(io.BytesIO(base64.b64decode(image.uri.partition(",")[2])))
    rows = np.asarray(png).astype(float).mean(1)[::-1]
    return (rows.argmax() + 0.5) / len(rows)


@pytest.mark.parametrize("hertz", [500, 1000, 2000])
def test_a_tone_is_bright_at_its_tick(hertz: int) -> None:
    front_end = SpectrogramImages(**SETTINGS)
    sound = torch.from_numpy(tone(hertz, 0.5, 0))
    text = f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)
    for image in shown_images(sound, front_end, torch.device("cpu")).images:
        assert brightest_row(image) == pytest.approx(place_of(image, text), abs=0.04), image.name


def test_a_tone_that_begins_late_is_bright_at_its_second() -> None:
    front_end = SpectrogramImages(**SETTINGS)
    silence = np.zeros(SAMPLE_RATE, np.float32)
    sound = torch.from_numpy(np.concatenate([silence, tone(1000, 1.0, 0)]))
    shown = shown_images(sound, front_end, torch.device("cpu"), offset=10.0)
    assert (shown.start, shown.end, shown.is_trimmed, shown.n_crops) == (10.0, 12.0, False, 1)
    png = Image.open(io.BytesIO(base64.b64decode(shown.images[0].uri.partition(",")[2])))
    columns = np.asarray(png).astype(float).mean(0)
    begins = (columns > columns.max() / 2).argmax() / len(columns)
    assert begins == pytest.approx(0.5, abs=0.04)
    assert [tick.place for tick in shown.images[0].seconds if tick.text == "11"] == [0.5]


def test_axes_of_trimmed_sound_begin_where_it_does() -> None:
    front_end = SpectrogramImages(**SETTINGS, trim_db=30.0)
    silence = np.zeros(SAMPLE_RATE, np.float32)
    sound = torch.from_numpy(np.concatenate([silence, tone(1000, 1.0, 0), silence]))
    shown = shown_images(sound, front_end, torch.device("cpu"))
    assert shown.is_trimmed
    assert (shown.start, shown.end) == (pytest.approx(1, abs=0.05), pytest.approx(2, abs=0.05))
    seconds = front_end.cut(sound).shape[1] / SAMPLE_RATE
    assert shown.end - shown.start == pytest.approx(seconds)


def test_axes_of_crops_are_those_of_the_first() -> None:
    front_end = SpectrogramImages(**SETTINGS, seconds=0.4)
    shown = shown_images(torch.from_numpy(tone(1000, 1.0, 0)), front_end, torch.device("cpu"))
    assert (shown.start, shown.end, shown.n_crops) == (0.0, 0.4, 3)


@pytest.mark.parametrize(
    ("start", "end", "texts"),
    [
        (0.0, 0.25, ["0", "0.05", "0.1", "0.15", "0.2", "0.25"]),
        (0.0, 5.3, ["0", "1", "2", "3", "4", "5"]),
        (35.0, 38.0, ["35", "35.5", "36", "36.5", "37", "37.5", "38"]),
        (407.7, 410.7, ["6:48", "6:48.5", "6:49", "6:49.5", "6:50", "6:50.5"]),
        (0.0, 74.5, ["0:00", "0:15", "0:30", "0:45", "1:00"]),
        (0.0, 3600.0, ["0:00", "10:00", "20:00", "30:00", "40:00", "50:00", "1:00:00"]),
    ],
)
def test_ticks_are_round_times(start: float, end: float, texts: list[str]) -> None:
    ticks = time_ticks(start, end)
    assert [tick.text for tick in ticks] == texts
    assert [tick.place for tick in ticks] == sorted(tick.place for tick in ticks)
    assert 0 <= ticks[0].place and ticks[-1].place <= 1


def test_bars_of_classes_fall_and_those_of_ratings_lie_on_their_scale() -> None:
    found = bars(Prediction("", {"sad": 0.2, "happy": 0.75, "angry": 0.05}))
    assert [(bar.name, bar.share, bar.text) for bar in found] == [
        ("happy", 0.75, "75.0 %"),
        ("sad", 0.2, "20.0 %"),
        ("angry", 0.05, "5.0 %"),
    ]
    assert len({bar.colour for bar in found}) == 3
    rated = Prediction("", {"valence": 2.0, "arousal": 5.5}, scale=RatingScale(1, 5))
    assert [(bar.name, bar.share, bar.text) for bar in bars(rated)] == [
        ("valence", 0.25, "2.00"),
        ("arousal", 1.0, "5.50"),
    ]


@pytest.mark.parametrize(
    ("gate", "fusion", "said"),
    [
        (0.75, "gmu", "Gate 0.75: the model weighed the CQT image more than the Mel image (3.0 : "),
        (0.2, "gmu", "Gate 0.20: the model weighed the Mel image more than the CQT image (4.0 : "),
        (0.51, "gmu", "Gate 0.51: the model weighed both images about equally."),
        (1.0, "gmu", "Gate 1.00: the model weighed the CQT image more than the Mel image (more "),
        (None, "concat", "The fusion concat has no gate: "),
        (None, "mel_only", "This model reads the Mel image alone: it has no gate."),
    ],
)
def test_the_sentence_of_the_gate(gate: float | None, fusion: str, said: str) -> None:
    assert gate_sentence(gate, fusion).startswith(said)


def test_the_heavier_pan_hangs_lower() -> None:
    cqt, mel = balance(0.9), balance(0.1)
    assert cqt.right_y > cqt.left_y and mel.left_y > mel.right_y  # y grows downwards
    assert (cqt.left_y, cqt.right_y) == (mel.right_y, mel.left_y)
    assert balance(1.0).right_y - balance(1.0).left_y > cqt.right_y - cqt.left_y
    assert (cqt.cqt, cqt.mel) == (0.9, pytest.approx(0.1))


def part(start: float, gate: float | None = None, **probs: float) -> Prediction:
    problem = None if probs else "silence"
    return Prediction("", probs, gate, problem, start=start, end=start + 3.0)


def test_the_timeline_stacks_shares_and_leaves_silence_open() -> None:
    parts = [part(0, 0.25, a=0.25, b=0.75), part(1), part(2, 1.0, a=1.0, b=0.0)]
    drawn = timeline(parts, 5.0)
    assert drawn.is_stacked
    (a, b) = drawn.areas
    assert (a[0], a[2]) == (
        "a",
        "M0.0 0.0H400.0V25.0H0.0Z" + "M600.0 0.0H1000.0V100.0H600.0Z",
    )
    assert b[2] == "M0.0 25.0H400.0V100.0H0.0Z" + "M600.0 100.0H1000.0V100.0H600.0Z"
    assert drawn.gate == "M0.0 75.0H400.0" + "M600.0 0.0H1000.0"  # a gap, 0 is CQT
    assert [(run.left, run.width, run.name) for run in drawn.runs] == [
        (0.0, 40.0, "b"),
        (40.0, 20.0, ""),
        (60.0, 40.0, "a"),
    ]
    assert [(one["from"], one["to"], one["time"], one["says"]) for one in drawn.windows] == [
        (0.0, 2.0, "0 to 3", "b 75 %"),
        (2.0, 3.0, "1 to 4", "silence"),
        (3.0, 5.0, "2 to 5", "a 100 %"),
    ]


def test_neighbouring_windows_of_one_label_are_one_run() -> None:
    parts = [part(0, a=0.9, b=0.1), part(1, a=0.6, b=0.4), part(2, a=0.4, b=0.6)]
    runs = timeline(parts, 5.0).runs
    assert [(run.left, run.width, run.name) for run in runs] == [
        (0.0, 60.0, "a"),
        (60.0, 40.0, "b"),
    ]
    assert timeline(parts, 5.0).gate == ""


def test_ratings_over_time_are_lines_on_their_scale() -> None:
    scale = RatingScale(1, 5)
    parts = [
        Prediction("", {"valence": value}, scale=scale, start=i, end=i + 3.0)
        for i, value in enumerate((1.0, 3.0, 5.0))
    ]
    drawn = timeline(parts, 5.0)
    assert not drawn.is_stacked and drawn.runs == []
    assert drawn.areas[0][2] == "M0.0 100.0H400.0V50.0H600.0V0.0H1000.0"
    assert drawn.windows[1]["says"] == "valence 3.00"
