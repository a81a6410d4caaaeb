"""Recordings to hear and see: two of each class, and the first of what is odd."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from audio.reading import BadAudio
from corpora.findings import CHECK, Finding
from corpora.survey import Survey
from corpora.unannotated_speakers import is_known
from corpora.utterance import Utterance
from evaluation.figures import MANY
from features import SpectrogramImages
from reports.media import image_uris, sound_uri

PER_CLASS = 2
ODD_SHOWN = 12  # recordings of what is odd
SOUND_SECONDS = 10.0  # of a recording in the page
MARKS = {  # Hz on the axes
    "CQT": (50, 100, 200, 500, 1000, 2000, 5000, 10_000),
    "Mel": (500, 1000, 2000, 4000, 8000, 16_000),
}
APART = 0.045  # of the height, between two marks


@dataclass(frozen=True)
class Card:
    """One recording on the page.

    Args:
        utterance: The utterance.
        numbers: Its numbers, by column of the survey.
        odd: Title of the finding that it is an example of; None for one of a class.
        sound: Data URI, or None.
        images: Data URI of each image.
        times: (share of the width, seconds) of each mark on the time axis.
        problem: Why there is neither sound nor image.
    """

    utterance: Utterance
    numbers: Mapping[str, float]
    odd: str | None
    sound: str | None
    images: Mapping[str, str]
    times: Sequence[tuple[float, str]]
    problem: str | None = None


def shown_classes(survey: Survey) -> list[str]:
    """Return the classes that occur, of many the largest, in their order."""
    names = [name for name in survey.classes if survey.class_counts[name]]
    largest = set(sorted(names, key=lambda name: -survey.class_counts[name])[:MANY])
    return [name for name in names if name in largest]


def class_examples(survey: Survey) -> dict[str, list[int]]:
    """Choose recordings near the middle of each class, of different speakers.

    Near is the distance in duration and level from the medians of the class, each divided by the
    interquartile range; the second is of another gender where there is one.
    """
    chosen = {}
    for name in shown_classes(survey):
        places = np.flatnonzero(survey.targets == survey.classes.index(name))
        distance = np.zeros(len(places))
        for column in (np.log(survey.columns["seconds"]), survey.columns["level"]):
            values = column[places]
            low, middle, high = np.percentile(values, [25, 50, 75])
            distance += np.abs(values - middle) / max(high - low, 1e-6)
        order = places[np.argsort(distance, kind="stable")].tolist()
        first = survey.utterances[order[0]]
        others = [i for i in order if _others(survey.utterances[i].speaker, first.speaker)]
        others.sort(key=lambda i: survey.utterances[i].gender == first.gender)  # stable
        chosen[name] = [order[0], *others[: PER_CLASS - 1]]
    return chosen


def _others(one: str, other: str) -> bool:
    """Return whether two speakers are known to be two."""
    return one != other and is_known(one) and is_known(other)


def odd_examples(survey: Survey, findings: Sequence[Finding]) -> list[tuple[int, str]]:
    """Choose the first utterances of each finding to check, with its title; copies as a pair."""
    place = {one.id: i for i, one in enumerate(survey.utterances)}
    chosen = []
    for finding in findings:
        if finding.weight == CHECK:
            n = 2 if finding.id == "near-identical" else 1
            chosen += [(place[name], finding.title) for name in finding.utterances[:n]]
    return chosen[:ODD_SHOWN]


def make_card(
    survey: Survey, place: int, front_end: SpectrogramImages, audio: bool, odd: str | None = None
) -> Card:
    """Read a recording and make its sound and images.

    Args:
        survey: The corpus.
        place: Index of the utterance.
        front_end: Makes the images of the config.
        audio: Include the sound.
        odd: Title of the finding that it is an example of.
    """
    one = survey.utterances[place]
    numbers = {name: float(values[place]) for name, values in survey.columns.items()}
    recording = survey.plan.hashes[one.audio]
    try:
        images, seconds = image_uris(one.audio, front_end, recording)
        sound = sound_uri(one.audio, recording, SOUND_SECONDS) if audio else None
    except BadAudio as error:
        return Card(one, numbers, odd, None, {}, (), f"{one.path.name} {error}")
    return Card(one, numbers, odd, sound, images, _times(seconds))


def _times(seconds: float) -> list[tuple[float, str]]:
    """Return marks on the time axis: at most six, at round seconds."""
    steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    step = next(s for s in steps if seconds / s <= 5 or s == steps[-1])
    marks = np.arange(0, seconds * 0.97, step).tolist()
    return [(mark / seconds, f"{mark:g}") for mark in marks]


def frequency_marks(front_end: SpectrogramImages) -> dict[str, list[tuple[float, str]]]:
    """Return (share of the height, frequency in words) of the marks of both images.

    Row i of a transform with n rows is centred at the share (i + 0.5) / n.
    """
    rows = {"CQT": np.log(front_end.cqt.frequencies), "Mel": front_end.mel.edges[1:-1]}
    marks = {}
    for view, centres in rows.items():
        found: list[tuple[float, str]] = []
        for mark in MARKS[view]:
            value = np.log(mark) if view == "CQT" else mark
            if not centres[0] <= value <= centres[-1]:
                continue
            place = float(np.interp(value, centres, np.arange(len(centres)))) + 0.5
            share = place / len(centres)
            if not found or share - found[-1][0] > APART:
                found.append((share, f"{mark / 1000:g}k" if mark >= 1000 else str(mark)))
        marks[view] = found
    return marks
