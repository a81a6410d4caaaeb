"""A trained model that labels recordings: the ensemble of a run's folds, or one model.

Each member's probabilities are calibrated by a temperature that was fitted on the dev split of its
fold; the ensemble's are their mean, as is its gate. Ratings are averaged as they are.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from audio.description import RecordingFacts
from audio.opening import BadAudio
from audio.parallel import in_parallel
from config.tasks import CLASS
from inference.calibration import UNKNOWN, Calibration, read_calibration, threshold
from inference.ensemble import Ensemble, ReadRecording
from inference.members import member_folders, own_speech_model
from inference.prediction import Prediction, check_risk, to_frame
from inference.predictor import FULL_SCALE, FoldModel
from inference.sound import Sound, read_array, read_sound
from inference.unlike import unlike
from inference.vectors import VectorReader, vectors_of
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
        speech_model: Folder of the speech model, or its name on the hub; None is where the training
            had it.
        vectors: File with vectors of the recordings, in a format of `model.vectors`.

    Attributes:
        classes: Names of the outputs, in their order: classes, or rated dimensions.
        sample_rate: Rate in Hz at which waveforms are read, of several the first.
        rates: All rates in Hz at which recordings are read.
        sources: Names of the shares of the gate; empty where there is none, or the one gate.

    Raises:
        InputError: A folder is not of a finished fold, needs statistics of speakers, or reads
            another speech model or other vectors; an option has no effect.
        RunError: A file of one is corrupt, or the speech model cannot be downloaded.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        device: str = "cpu",
        calibrated: bool = True,
        onnx: bool = True,
        speech_model: str | None = None,
        vectors: Path | None = None,
    ) -> None:
        device = choose_device(device, "device").name
        first = FoldModel(folders[0], device, onnx=onnx, speech_model=speech_model)
        others = (
            FoldModel(folder, device, shared=first, onnx=onnx, speech_model=speech_model)
            for folder in folders[1:]
        )
        self.members = [first, *others]
        self._check_options(speech_model, vectors)
        width = first.model.settings.vector_width
        self.vectors = None if width is None else VectorReader(first.folder, width, vectors)
        self.classes: Sequence[str] = first.classes
        self.protocol, self.task, self.scale = first.protocol, first.task, first.scale
        self.sources = first.sources
        self.rates = list(dict.fromkeys(r for member in self.members for r in member.rates))
        self.sample_rate: int = self.rates[0]
        self.training_data = first.training_data
        self._threshold: float | None = None
        self.calibrations: list[Calibration] = [
            read_calibration(folder) if calibrated and self.task == CLASS else UNKNOWN
            for folder in folders
        ]
        self.ensemble = Ensemble(self.members, self.calibrations)

    def _check_options(self, speech_model: str | None, vectors: Path | None) -> None:
        """Refuse what has no effect on these members, with an InputError."""
        reads = self.members[0].reads
        for given, option, branch in (
            (speech_model, "a speech model", "speech"),
            (vectors, "a file of vectors", "file"),
        ):
            if given is not None and branch not in reads:
                raise InputError(
                    f"{self.members[0].folder} reads {' and '.join(reads)}: {option} has no effect "
                    "on it, leave it out"
                )

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

    @property
    def stream_rate(self) -> int | None:
        """Rate in Hz at which long recordings are cut; None is their own, of a speech model.

        Parts at their own rate are resampled alone, each as if it were a file.
        """
        return None if self.ensemble.reads_speech else self.sample_rate

    def predict(
        self,
        recordings: Any,
        sample_rate: int | None = None,
        as_frame: bool = False,
        vectors: Any = None,
    ) -> Any:
        """Label one recording, or each of a list.

        A recording that cannot be used gets a prediction with a `problem`.

        Args:
            recordings: Path of a file, as str or Path; or samples (T,), an array or a tensor,
                floating-point in [-1, 1] or int16; or a list of such.
            sample_rate: Rate of samples, Hz; they are resampled.
            as_frame: Return a pandas frame, one row each.
            vectors: The vector (D,) of one recording, or (n, D) of a list, for a model that reads
                the branch `file`; None looks them up in the file of vectors.

        Returns:
            A `Prediction`, or a list of them in the order of `recordings`.

        Raises:
            InputError: Samples without a rate, what is neither a path nor samples, or vectors that
                are missing, of another shape, or without an effect.
        """
        if as_frame:
            check_extra("a frame", "pandas", "formats")
        alone = not isinstance(recordings, list | tuple)
        some = [recordings] if alone else recordings
        readers = 1 if len(some) == 1 else READERS  # threads of their own would cost one time
        given = vectors_of(self.vectors, vectors, len(some))
        found = list(self._predict_each(zip(some, given, strict=True), sample_rate, readers))
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
        if self.vectors is not None:
            self.vectors.check()
        return self._predict_each(zip(recordings, repeat(None)), sample_rate, READERS)

    def _predict_each(
        self, recordings: Iterable[tuple[Any, Tensor | None]], sample_rate: int | None, readers: int
    ) -> Iterator[Prediction]:
        hashed = self.vectors is not None

        def read(item: tuple[int, Any]) -> tuple[RecordingFacts, ReadRecording]:
            number, (recording, vector) = item
            path = Path(recording) if isinstance(recording, str | Path) else None
            if path is not None:
                sound = read_sound(path, *self.rates, hashed=hashed)
            else:
                sound = read_array(recording, sample_rate, self.rates, number, hashed)
            if self.vectors is not None and vector is None:
                vector = self.vectors.of_recording(sound.hash or "", path)
            return sound.facts, self.inputs_of(sound, vector)

        results = in_parallel(read, enumerate(recordings, start=1), readers)
        while some := list(islice(results, AT_ONCE)):
            usable = [result for _, result in some if not isinstance(result, BadAudio)]
            labelled = iter(self.label([inputs for _, inputs in usable]))
            for (number, (recording, _)), result in some:
                is_file = isinstance(recording, str | Path)
                name = str(recording) if is_file else f"array {number}"
                if isinstance(result, BadAudio):
                    yield Prediction(name, {}, problem=str(result), scale=self.scale)
                else:
                    one = replace(next(labelled), name=name)
                    outside = {} if one.problem is not None else self.unlike(result[0])
                    yield replace(one, unlike=outside)

    def label_sound(self, sound: Sound) -> Prediction:
        """Return the prediction, without a name, for a recording at `rates`.

        Raises:
            BadAudio: The speech model cannot read it.
        """
        return self.label([self.inputs_of(sound)])[0]

    def outputs(self, waveforms: Sequence[Tensor]) -> tuple[NDArray, NDArray | None]:
        """Return outputs (n, K) and gates (n,) or None, of a model that reads images alone.

        Args:
            waveforms: n x (T,) at `sample_rate`.
        """
        sounds = [self.ensemble.inputs_of({self.sample_rate: one.numpy()}) for one in waveforms]
        found = self.ensemble.outputs(sounds, self.ensemble.records(sounds))
        return found.values.numpy(), None if found.gate is None else found.gate.numpy()

    def label(self, recordings: Sequence[ReadRecording]) -> list[Prediction]:
        """Return predictions without names; one that the speech model refuses has a problem."""
        records = self.ensemble.records(recordings)
        problems = [next((r for r in one if isinstance(r, BadAudio)), None) for one in records]
        usable = [i for i, problem in enumerate(problems) if problem is None]
        found = [Prediction("", {}, problem=str(problem), scale=self.scale) for problem in problems]
        if not usable:
            return found
        values, gate, shares = self.ensemble.outputs(
            [recordings[i] for i in usable], [records[i] for i in usable]
        )
        for k, (i, row) in enumerate(zip(usable, values.tolist(), strict=True)):
            found[i] = Prediction(
                "",
                dict(zip(self.classes, row, strict=True)),
                None if gate is None else float(gate[k]),
                unsure=None if self._threshold is None else max(row) < self._threshold,
                scale=self.scale,
                gate_shares=None
                if shares is None
                else dict(zip(self.sources, shares[k].tolist(), strict=True)),
            )
        return found

    def inputs_of(self, sound: Sound, vector: Tensor | None = None) -> ReadRecording:
        """Return what the members read of a recording at `rates`, and of its vector.

        Raises:
            BadAudio: It is too short for the speech model.
        """
        return self.ensemble.inputs_of(sound.waveforms, vector)

    def check_cuts(self) -> None:
        """Refuse to label parts of recordings where the model reads vectors of whole ones.

        Raises:
            InputError: It does.
        """
        if self.vectors is not None:
            raise InputError(
                f"{self.members[0].folder} reads a vector of each whole recording, and a part of "
                "one has none: cut recordings into files, and give each its vector; leave "
                "--window, --segments and --pcm out"
            )

    def unlike(self, facts: RecordingFacts) -> dict[str, str]:
        """Return what lies outside of the training data of all members, by kind."""
        reference = FULL_SCALE if any(one.keeps_level for one in self.members) else "clip"
        outside = [
            unlike(facts, member.training_data, max(self.rates), reference)
            for member in self.members
        ]
        return {kind: v for kind, v in outside[0].items() if all(kind in one for one in outside)}


def load(
    path: str | Path,
    device: str = "cpu",
    calibrated: bool = True,
    speech_model: str | Path | None = None,
    vectors: str | Path | None = None,
) -> EmotionModel:
    """Load a trained model.

    Args:
        path: Folder of a run (its finished folds together), a fold, a final model, or a bundle.
        device: As `run.device`.
        calibrated: Whether probabilities are calibrated on dev; else they are those that
            predictions.csv has.
        speech_model: Folder of the pretrained speech model, or its name on the hub, for a model
            that reads the branch `speech`; None is its copy in a bundle, or where the training
            had it.
        vectors: File with the vectors of recordings, for a model that reads the branch `file`.

    Raises:
        InputError: The folder is none of these, or an option does not fit the model.
        RunError: A file in it is corrupt, or the speech model cannot be downloaded.
    """
    folder = Path(path)
    members = member_folders(folder)
    speech = own_speech_model(folder) if speech_model is None else str(speech_model)
    return EmotionModel(
        members,
        device,
        calibrated,
        speech_model=speech,
        vectors=None if vectors is None else Path(vectors),
    )
