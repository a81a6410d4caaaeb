"""Features standardised by speaker, for `train.normalize: speaker`; no label is read."""

from collections.abc import Callable, Sequence

from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from corpora.utterance import Utterance

Features = Callable[[Sequence[Utterance]], list[NDArray]]


class BySpeaker:
    """Standardises features by the mean and deviation over all utterances of their speaker.

    A feature that does not vary over a speaker's utterances becomes 0. The statistics of a speaker
    are made when the first utterance of that speaker is asked for.

    Args:
        utterances: All utterances of the plan.
        features: Returns the features of utterances: (T, D) each, T rows that count alike.
    """

    def __init__(self, utterances: Sequence[Utterance], features: Features) -> None:
        self._features = features
        self._own: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._own.setdefault(utterance.speaker, []).append(utterance)
        self._scalers: dict[str, StandardScaler] = {}

    def __call__(self, utterances: Sequence[Utterance]) -> list[NDArray]:
        """Return the standardised features of utterances: (T, D) each."""
        found = self._features(utterances)
        return [
            self._scaler(u.speaker).transform(rows)
            for u, rows in zip(utterances, found, strict=True)
        ]

    def _scaler(self, speaker: str) -> StandardScaler:
        if speaker not in self._scalers:
            scaler = StandardScaler()
            for utterance in self._own[speaker]:  # one at a time: frames of all would fill memory
                scaler.partial_fit(self._features([utterance])[0].astype(float))
            self._scalers[speaker] = scaler
        return self._scalers[speaker]
