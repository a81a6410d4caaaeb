"""What the page says of one recording: computed, not yet drawn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import torch

from audio.conversion import readable
from audio.opening import BadAudio, open_file
from audio.reading import open_audio
from inference.emotion_model import EmotionModel
from inference.prediction import Prediction
from inference.sound import Sound, read_sound
from inference.timeline import timeline
from inference.unlike import unlike_lines
from reports.media import samples_uri
from system.text import format_duration
from web.images import ShownImages, shown_images

WINDOW, HOP = 3.0, 1.0  # s
LONG = 30.0  # s; longer ones are labelled by windows if the range of training is unknown
MAX_PARTS = 200  # windows of a recording; of longer ones they start further apart

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """What a model says of a recording.

    Attributes:
        prediction: Of the whole recording, or the mean over its windows.
        parts: Of its windows, with their times; none of a short one.
        is_mean: Whether `prediction` is the mean over the windows.
        seconds: Duration.
        unlike: Sentences on what is unlike the training data.
        branches: Branches that the fusion reads.
        fusion: Its name.
        sound: The sound, as a data URI.
        images: Both images: of the recording, or of one window.
    """

    prediction: Prediction
    parts: list[Prediction]
    is_mean: bool
    seconds: float
    unlike: list[str]
    branches: tuple[str, ...]
    fusion: str
    sound: str
    images: ShownImages


def answer(model: EmotionModel, path: Path, most_seconds: float, report: Report) -> Answer:
    """Label a recording.

    Args:
        model: The model.
        path: The file.
        most_seconds: Longest recording that is labelled.
        report: Is told how many of how many windows are labelled.

    Raises:
        BadAudio: The file is not usable audio, or longer.
    """
    parts: list[Prediction] = []
    with readable(path, most_seconds + 1) as file:
        _check_length(file, most_seconds)
        sound = read_sound(file, *model.rates, model.members[0].images.input_rate)
        seconds = sound.facts.seconds
        if seconds >= 2 * WINDOW:
            parts = list(_windows(model, file, seconds, report))
    unlike = model.unlike(sound.facts)
    is_long = "longer" in unlike if model.training_data is not None else seconds > LONG
    if is_mean := is_long and any(part.probs for part in parts):
        prediction = mean_of(parts)
        unlike.pop("longer", None)
    else:
        prediction = model.label_sound(sound)
        if prediction.problem is not None:
            raise BadAudio(prediction.problem)
    settings = model.members[0].model.settings
    return Answer(
        prediction,
        parts,
        is_mean,
        seconds,
        list(unlike_lines({path.name: unlike} if unlike else {}, model.training_data, 1)),
        settings.reads,
        settings.fusion,
        samples_uri(sound.waveform, model.sample_rate),
        _images(model, sound, parts if is_mean else []),
    )


def mean_of(predictions: Sequence[Prediction]) -> Prediction:
    """Return the mean of the predictions that have no problem; there is one."""
    usable = [one for one in predictions if one.probs]
    probs = {name: float(np.mean([one.probs[name] for one in usable])) for name in usable[0].probs}
    gates = [one.gate for one in usable if one.gate is not None]
    gate = float(np.mean(gates)) if gates else None
    shares = [one.gate_shares for one in usable if one.gate_shares]
    mean = {name: float(np.mean([one[name] for one in shares])) for name in (shares or [{}])[0]}
    one = replace(usable[0], probs=probs, gate=gate, gate_shares=mean or None)
    return replace(one, start=None, end=None)


def _windows(
    model: EmotionModel, file: Path, seconds: float, report: Report
) -> Iterator[Prediction]:
    """Yield the predictions for the windows of a recording, and report them."""
    hop = min(max(HOP, seconds / MAX_PARTS), WINDOW)
    n = 1 + ceil(round((seconds - WINDOW) / hop, 3))
    for done, part in enumerate(timeline(model, file, WINDOW, hop), start=1):
        yield part
        report(min(done, n), n)


def _check_length(file: Path, most_seconds: float) -> None:
    with open_file(file) as opened, open_audio(opened) as audio:
        seconds = audio.frames / audio.samplerate
    if seconds > most_seconds:
        limit = format_duration(most_seconds)
        raise BadAudio(f"is longer than {limit}, the most that this page takes: cut it into parts")


def _images(model: EmotionModel, sound: Sound, parts: Sequence[Prediction]) -> ShownImages:
    """Return the images of a recording, or of the window that the model is surest of."""
    member, start = model.members[0], 0.0
    rate = member.images.input_rate
    waveform = sound.waveforms[rate]
    labelled = [part for part in parts if part.probs]
    if labelled:
        part = max(labelled, key=lambda one: one.confidence or 0.0)
        start, end = part.start or 0.0, part.end or 0.0
        waveform = waveform[round(start * rate) : round(end * rate)]
    samples = torch.from_numpy(np.ascontiguousarray(waveform))
    return shown_images(samples, member.images, member.device, start)
