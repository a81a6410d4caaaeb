"""A trained model that labels recordings: the ensemble of a run's folds, or one model.

Each member's probabilities are calibrated by a temperature that was fitted on the dev split of its
fold; the ensemble's are their mean, as is its gate. Ratings are averaged as they are.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.description import RecordingFacts
from audio.opening import BadAudio
from audio.parallel import in_parallel
from config.tasks import CLASS
from features import Images
from inference.calibration import UNKNOWN, Calibration, read_calibration, threshold
from inference.members import member_folders
from inference.prediction import Prediction, check_risk, to_frame
from inference.predictor import FoldModel
from inference.sound import read_array, read_sound
from inference.unlike import unlike
from system.devices import choose_device
from system.errors import InputError
from system.extras import check_extra

AT_ONCE = 16  # recordings that are in memory together
READERS = max(min(os.cpu_count() or 2, 8), 2)  # threads that read ahead of the network


class EmotionModel:
    """The models of some folds as one.

    Args:
        folders: Folder of each member, with model.json and model.safetensors.
        device: As `run.device`.
        calibrated: Whether probabilities are calibrated; else they are those of predictions.csv.
        onnx: Run networks by ONNX Runtime where a bundle brings their graphs, on a CPU.

    Attributes:
        classes: Names of the outputs, in their order: classes, or rated dimensions.
        sample_rate: Rate in Hz at which waveforms are read.

    Raises:
        InputError: A folder is not of a finished fold, or needs statistics of speakers.
        RunError: A file of one is corrupt.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        device: str = "cpu",
        calibrated: bool = True,
        onnx: bool = True,
    ) -> None:
        device = choose_device(device, "device").name
        first = FoldModel(folders[0], device, onnx=onnx)
        others = (
            FoldModel(folder, device, images=first.images, onnx=onnx) for folder in folders[1:]
        )
        self.members = [first, *others]
        self.classes: Sequence[str] = first.classes
        self.protocol, self.task, self.scale = first.protocol, first.task, first.scale
        self.sample_rate: int = first.images.input_rate
        self.training_data = first.training_data
        self._threshold: float | None = None
        # The members with equal settings share one front end
        self._front_ends = {id(member.images): member for member in self.members}
        self.calibrations: list[Calibration] = [
            read_calibration(folder) if calibrated and self.task == CLASS else UNKNOWN
            for folder in folders
        ]

    @property
    def is_calibrated(self) -> bool:
        """Whether dev utterances have calibrated every member."""
        return all(len(one.confidence) for one in self.calibrations)

    def state_risk(self, risk: float) -> tuple[float, float]:
        """Mark predictions as unsure where a label would be wrong more often than stated.

        Args:
            risk: Share of the labels that may be wrong, in (0, 1).

        Returns:
            The confidence from which a label counts as sure, and the share of dev utterances with
            such a confidence.

        Raises:
            InputError: The model has no confidence, nothing is known of it, or no confidence keeps
                the risk.
        """
        check_risk(risk)
        if self.task != CLASS:
            raise InputError(f"a risk needs classes; this model was trained with task {self.task}")
        if not self.is_calibrated:
            raise InputError(
                "a risk needs dev predictions, and there is neither calibration.json nor "
                f"predictions.csv in {self.members[0].folder}: name the run or the whole fold"
            )
        found = threshold(self.calibrations, risk)
        if found is None:
            raise InputError(
                f"no confidence keeps the risk at {risk:g}: even the surest labels of dev "
                "are wrong more often. State a higher risk"
            )
        self._threshold = found[0]
        return found

    def predict(
        self, recordings: Any, sample_rate: int | None = None, as_frame: bool = False
    ) -> Any:
        """Label one recording, or each of a list.

        A recording that cannot be used gets a prediction with a `problem`.

        Args:
            recordings: Path of a file, as str or Path; or samples (T,), an array or a tensor,
                floating-point in [-1, 1] or int16; or a list of such.
            sample_rate: Rate of samples, Hz; they are resampled.
            as_frame: Return a pandas frame, one row each.

        Returns:
            A `Prediction`, or a list of them in the order of `recordings`.

        Raises:
            InputError: Samples without a rate, or what is neither a path nor samples.
        """
        if as_frame:
            check_extra("a frame", "pandas", "formats")
        alone = not isinstance(recordings, list | tuple)
        some = [recordings] if alone else recordings
        readers = 1 if len(some) == 1 else READERS  # threads of their own would cost one time
        found = list(self._predict_each(some, sample_rate, readers))
        if as_frame:
            return to_frame(found)
        return found[0] if alone else found

    def predict_each(
        self, recordings: Iterable[Any], sample_rate: int | None = None
    ) -> Iterator[Prediction]:
        """Yield the prediction for each recording, in order; memory holds a few of them.

        Args:
            recordings: As for `predict`.
            sample_rate: As for `predict`.

        Raises:
            InputError: As `predict`.
        """
        return self._predict_each(recordings, sample_rate, READERS)

    def _predict_each(
        self, recordings: Iterable[Any], sample_rate: int | None, readers: int
    ) -> Iterator[Prediction]:
        def read(item: tuple[int, Any]) -> tuple[RecordingFacts, list[Images]]:
            number, recording = item
            if isinstance(recording, str | Path):
                sound = read_sound(Path(recording), self.sample_rate)
            else:
                sound = read_array(recording, sample_rate, self.sample_rate, number)
            return sound.facts, self.images_of(torch.from_numpy(sound.waveform))

        results = in_parallel(read, enumerate(recordings, start=1), readers)
        while some := list(islice(results, AT_ONCE)):
            usable = [result for _, result in some if not isinstance(result, BadAudio)]
            labelled = iter(self.label_images([images for _, images in usable]))
            for (number, recording), result in some:
                is_file = isinstance(recording, str | Path)
                name = str(recording) if is_file else f"array {number}"
                if isinstance(result, BadAudio):
                    yield Prediction(name, {}, problem=str(result), scale=self.scale)
                else:
                    outside = self.unlike(result[0])
                    yield replace(next(labelled), name=name, unlike=outside)

    def predict_waveforms(
        self, waveforms: Sequence[NDArray[np.float32] | Tensor]
    ) -> list[Prediction]:
        """Label waveforms at `sample_rate` that are known to be usable: n x (T,), of any lengths.

        The prediction for one does not depend on the others, except for rounding.
        """
        return self.label_images(
            [self.images_of(torch.as_tensor(waveform)) for waveform in waveforms]
        )

    def outputs(self, waveforms: Sequence[Tensor]) -> tuple[NDArray, NDArray | None]:
        """Return outputs (n, K) and gates (n,) or None of waveforms n x (T,) at `sample_rate`."""
        return self._outputs([self.images_of(waveform) for waveform in waveforms])

    def label_images(self, images: Sequence[Sequence[Images]]) -> list[Prediction]:
        """Return predictions without names, of the images of each recording by front end."""
        if not images:
            return []
        probs, gates = self._outputs(images)
        found = []
        for i, row in enumerate(probs.tolist()):
            named = dict(zip(self.classes, row, strict=True))
            gate = None if gates is None else float(gates[i])
            unsure = None if self._threshold is None else max(row) < self._threshold
            found.append(Prediction("", named, gate, unsure=unsure, scale=self.scale))
        return found

    def images_of(self, waveform: Tensor) -> list[Images]:
        """Return the images of a recording by each front end, in the order of `_front_ends`."""
        return [member.images_of(waveform) for member in self._front_ends.values()]

    @torch.inference_mode()
    def _outputs(self, images: Sequence[Sequence[Images]]) -> tuple[NDArray, NDArray | None]:
        order = list(self._front_ends)
        all_probs, all_gates = [], []
        for member, calibration in zip(self.members, self.calibrations, strict=True):
            place = order.index(id(member.images))
            probs, gate = member.outputs([of_one[place] for of_one in images])
            all_probs.append(calibration.apply(probs.numpy().astype(float)))
            if gate is not None:
                all_gates.append(gate.numpy())
        return np.mean(all_probs, 0), np.mean(all_gates, 0) if all_gates else None

    def unlike(self, facts: RecordingFacts) -> dict[str, str]:
        """Return what lies outside of the training data of all members, by kind."""
        images = self.members[0].images
        outside = [
            unlike(facts, member.training_data, images.input_rate, images.reference)
            for member in self.members
        ]
        return {kind: v for kind, v in outside[0].items() if all(kind in one for one in outside)}


def load(path: str | Path, device: str = "cpu", calibrated: bool = True) -> EmotionModel:
    """Load a trained model.

    Args:
        path: Folder of a run (its finished folds together), a fold, a final model, or a bundle.
        device: As `run.device`.
        calibrated: Whether probabilities are calibrated on dev; else they are those that
            predictions.csv has.

    Raises:
        InputError: The folder is none of these.
        RunError: A file in it is corrupt.
    """
    return EmotionModel(member_folders(Path(path)), device, calibrated)
