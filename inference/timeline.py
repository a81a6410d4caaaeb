"""Emotion over time: what a model says of each window or voiced segment of a long recording."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from audio.conversion import readable
from audio.description import RecordingFacts
from audio.opening import BadAudio
from audio.parallel import in_parallel
from audio.streaming import open_stream
from inference.cuts import Cuts, Rule
from inference.emotion_model import AT_ONCE, READERS, EmotionModel
from inference.ensemble import ReadRecording
from inference.prediction import SILENCE, Prediction
from inference.sound import sound_of
from inference.voiced import voiced_segments
from inference.windows import Cut, check_length, pieces, windows

BATCH_SECONDS = 60.0  # of sound that the model labels together


class Parts(Iterator[Prediction]):
    """The predictions for the parts of a recording, labelled as they are asked for.

    Attributes:
        seconds: Duration of what was read so far; of the recording, after the last part.
    """

    def __init__(self, model: EmotionModel, path: Path, cuts: Cuts, skip: int) -> None:
        self.seconds = 0.0
        found = islice(self._cut(path, cuts, model), skip, None)
        self._labelled = label_cuts(model, found, str(path), at_once(cuts))

    def __next__(self) -> Prediction:
        return next(self._labelled)

    def _cut(self, path: Path, cuts: Cuts, model: EmotionModel) -> Iterator[Cut]:
        """Yield the parts; the reason why a file cannot be read on is the last one's problem."""
        end, nothing = 0.0, np.zeros(0, np.float32)
        try:
            with readable(path) as file:
                spans = None
                if cuts.segments is not None:
                    spans, seconds = voiced_segments(file, cuts.segments, model.training_data)
                    check_length(seconds)
                    if not spans:
                        self.seconds = seconds
                        yield Cut(0.0, seconds, nothing, SILENCE, model.sample_rate)
                        return
                with open_stream(file, model.stream_rate) as stream:
                    for cut in pieces(stream, spans) if spans else windows(stream, *cuts.times):
                        end, self.seconds = cut.end, stream.seconds
                        yield cut
                    self.seconds = stream.seconds
        except BadAudio as error:
            yield Cut(end, end, nothing, str(error), model.sample_rate)


def timeline(
    model: EmotionModel,
    path: str | Path,
    window: float | None = None,
    hop: float | None = None,
    segments: Rule | None = None,
    skip: int = 0,
) -> Parts:
    """Yield the prediction for each part of a recording of any length; memory holds a few parts.

    A silent part has the problem `silence`; one with samples that cannot be used has another. A
    file that cannot be read on ends with a prediction that has the reason.

    Args:
        model: The model.
        path: File of any format that is read.
        window: Length of a window, s; the last one is moved back to end with the recording.
        hop: From the start of a window to the next, s; None is a third of the window.
        segments: In the place of windows: `energy` or `silero` finds voiced segments, as long as
            the recordings of training where that is possible, see `inference.voiced`.
        skip: Number of parts at the beginning that are not labelled and not yielded.

    Returns:
        Iterator of predictions with `start` and `end` in s; see `Parts`.

    Raises:
        InputError: The window, the hop or the rule is wrong, Silero VAD is not installed, or the
            model reads vectors of whole recordings.

    >>> from inference import load
    >>> model = load("runs/demo_gmu")                            # doctest: +SKIP
    >>> for part in timeline(model, "call.wav", 3.0, 1.0):       # doctest: +SKIP
    ...     print(part.start, part.end, part.emotion)
    """
    model.check_cuts()
    return Parts(model, Path(path), Cuts(window, hop, segments), skip)


def label_cuts(
    model: EmotionModel, cuts: Iterator[Cut], name: str, n: int = 1
) -> Iterator[Prediction]:
    """Yield the prediction for each part of a sound.

    Args:
        model: The model.
        cuts: The parts, at the model's `stream_rate`.
        name: Name of the predictions.
        n: How many parts are waited for, to be labelled together. If they are 16, threads transform
            parts ahead of the network.
    """

    def transform(cut: Cut) -> tuple[RecordingFacts, ReadRecording] | None:
        if cut.problem is not None:
            return None
        sound = sound_of(cut.waveform, model.stream_rate or cut.rate, model.rates)
        return sound.facts._replace(rate=cut.rate), model.inputs_of(sound)

    found = in_parallel(transform, cuts, READERS if n >= AT_ONCE else 1)
    while some := list(islice(found, n)):
        usable = [result for _, result in some if isinstance(result, tuple)]
        labelled = iter(model.label([inputs for _, inputs in usable]))
        for cut, result in some:
            times: dict[str, Any] = {"name": name, "start": cut.start, "end": cut.end}
            if isinstance(result, tuple):
                one = replace(next(labelled), **times)
                yield replace(one, unlike={} if one.problem else model.unlike(result[0]))
            else:
                problem = cut.problem if result is None else str(result)
                yield Prediction(**times, probs={}, problem=problem, scale=model.scale)


def at_once(cuts: Cuts) -> int:
    """Return how many parts of a file are labelled together."""
    if cuts.window is None:
        return AT_ONCE
    return max(min(int(BATCH_SECONDS / cuts.window), AT_ONCE), 1)
