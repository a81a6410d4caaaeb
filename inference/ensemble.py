"""The networks of some folds as one: what they read of recordings, and their mean outputs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features import Images
from inference.calibration import Calibration
from inference.predictor import FoldModel
from inference.recording import Inputs, Outputs


class ReadRecording(NamedTuple):
    """What the members read of a recording, before a speech model has run."""

    images: list[Images]  # by front end; empty if no image is read
    speech: list[NDArray[np.float32]]  # waveform (t,) for each speech model
    file: Tensor | None  # (D,)


class Ensemble:
    """The members of a model. Those with equal settings share a front end and a speech model.

    Args:
        members: Models of the folds.
        calibrations: Of each member.
    """

    def __init__(self, members: Sequence[FoldModel], calibrations: Sequence[Calibration]) -> None:
        self._members = list(zip(members, calibrations, strict=True))
        self._front_ends = {id(one.images): one for one in members if one.reads_images}
        self._readers = {id(one.speech): one.speech for one in members if one.speech is not None}

    @property
    def reads_speech(self) -> bool:
        """Whether a speech model runs on recordings."""
        return bool(self._readers)

    def inputs_of(
        self, waveforms: Mapping[int, NDArray[np.float32]], vector: Tensor | None = None
    ) -> ReadRecording:
        """Return what the members read of a recording.

        Args:
            waveforms: (T,) by rate in Hz, at all rates that the members read.
            vector: Vector (D,) of the branch `file`; None without that branch.

        Raises:
            BadAudio: It is too short for the speech model.
        """
        speech = []
        for reader in self._readers.values():
            reader.check(waveform := waveforms[reader.sample_rate])
            speech.append(waveform)
        images = [
            member.images_of(torch.from_numpy(waveforms[member.images.input_rate]))
            for member in self._front_ends.values()
        ]
        return ReadRecording(images, speech, vector)

    def records(self, recordings: Sequence[ReadRecording]) -> list[list[Any]]:
        """Return what the branch `speech` reads of each recording, by speech model.

        In the place of what a speech model refuses there is a BadAudio with the reason.
        """
        if not recordings or not self._readers:
            return [[] for _ in recordings]
        by_reader = [
            reader.records([one.speech[k] for one in recordings])
            for k, reader in enumerate(self._readers.values())
        ]
        return [list(some) for some in zip(*by_reader, strict=True)]

    @torch.inference_mode()
    def outputs(
        self, recordings: Sequence[ReadRecording], records: Sequence[Sequence[Any]]
    ) -> Outputs:
        """Return the mean outputs of the members, calibrated.

        Args:
            recordings: At least one, from `inputs_of`.
            records: Of each, from `records`, without refused ones.
        """
        front_ends, readers = list(self._front_ends), list(self._readers)
        values: list[NDArray] = []
        found: list[Outputs] = []
        for member, calibration in self._members:
            image = front_ends.index(id(member.images)) if member.reads_images else None
            state = None if member.speech is None else readers.index(id(member.speech))
            inputs = [
                Inputs(
                    None if image is None else one.images[image],
                    None if state is None else some[state],
                    one.file,
                )
                for one, some in zip(recordings, records, strict=True)
            ]
            found.append(member.outputs(inputs))
            values.append(calibration.apply(found[-1].values.numpy().astype(float)))
        return Outputs(
            torch.from_numpy(np.mean(values, 0)),
            _mean([one.gate for one in found if one.gate is not None]),
            _mean([one.shares for one in found if one.shares is not None]),
        )


def _mean(values: Sequence[Tensor]) -> Tensor | None:
    return torch.from_numpy(np.mean([one.numpy() for one in values], 0)) if values else None
