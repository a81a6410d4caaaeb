"""How much the confidence of a model is worth, learnt on the dev split of its fold.

One temperature makes the probabilities calibrated (`evaluation.calibration`). A stated risk r then
gives a threshold: the smallest confidence c such that, of the dev utterances with a confidence of
c or more, a share of at most r is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from config.section import Section
from evaluation.calibration import apply_temperature, fit_temperature
from storage.fold_folder import PREDICTIONS, PredictionTable, read_metrics, read_predictions
from storage.folders import METRICS
from system.files import MAX_TABLE, corrupt_file, read_json, write_json

FILE = "calibration.json"
DECIMALS = 6  # of the confidences in the file

Probability = Annotated[float, Field(ge=0, le=1)]


class CalibrationFile(Section):
    """calibration.json: a calibration that goes with weights which have no predictions.csv."""

    temperature: Annotated[float, Field(gt=0, lt=1000)]
    confidence: list[Probability]
    """Of the dev utterances, falling."""
    is_right: list[bool]
    """Whether each of them was labelled right."""


@dataclass(frozen=True)
class Calibration:
    """What dev utterances say of the confidence.

    Attributes:
        temperature: Divides the logarithms of the probabilities; None where nothing is known.
        confidence: (N,) of dev utterances, after the temperature, falling.
        is_right: (N,) whether each was labelled right.
    """

    temperature: float | None
    confidence: NDArray[np.float64]
    is_right: NDArray[np.bool_]

    def apply(self, probs: NDArray) -> NDArray:
        """Return calibrated probabilities (N, K); as they are, ratings too, if nothing is known."""
        return probs if self.temperature is None else apply_temperature(probs, self.temperature)


UNKNOWN = Calibration(None, np.zeros(0), np.zeros(0, bool))


def calibrate(tables: Sequence[PredictionTable]) -> Calibration:
    """Return the calibration of dev predictions of one task of classes, pooled over tables."""
    probs = np.concatenate([table.probs for table in tables])  # (N, K)
    targets = np.concatenate([table.targets for table in tables])  # (N,)
    temperature = fit_temperature(probs, targets)
    scaled = apply_temperature(probs, temperature)
    confidence, is_right = scaled.max(1), scaled.argmax(1) == targets
    order = np.argsort(-confidence, kind="stable")
    return Calibration(temperature, confidence[order], is_right[order])


def read_calibration(folder: Path) -> Calibration:
    """Return the calibration of a fold of classes: its calibration.json, or by its dev predictions.

    Without either it is `UNKNOWN`.

    Raises:
        RunError: A file is corrupt.
    """
    if (folder / FILE).exists():
        return _read(folder / FILE)
    if not (folder / METRICS).exists() or not (folder / PREDICTIONS).exists():
        return UNKNOWN
    metrics = read_metrics(folder)
    return calibrate(
        [read_predictions(folder, metrics.classes, "dev", metrics.dev.n, metrics.task)]
    )


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write calibration.json."""
    write_json(
        folder / FILE,
        {
            "temperature": calibration.temperature,
            "confidence": calibration.confidence.round(DECIMALS).tolist(),
            "is_right": calibration.is_right.tolist(),
        },
    )


def threshold(calibrations: Sequence[Calibration], risk: float) -> tuple[float, float] | None:
    """Return the confidence from which labels reach a stated risk, and the share so labelled.

    Args:
        calibrations: Of the members of an ensemble; their dev utterances are pooled. The mean
            probabilities of the ensemble are flatter than those of its members, and their errors
            fewer, so that the risk errs on the safe side.
        risk: Share of the labels that may be wrong, in (0, 1).

    Returns:
        Threshold and coverage on dev; None where no threshold reaches the risk.
    """
    confidence = np.concatenate([one.confidence for one in calibrations])
    is_right = np.concatenate([one.is_right for one in calibrations])
    order = np.argsort(-confidence, kind="stable")
    confidence, is_right = confidence[order], is_right[order]
    if not len(confidence):
        return None
    wrong = np.cumsum(~is_right) / np.arange(1, len(is_right) + 1)  # (N,) risk of the first n
    is_last = np.append(confidence[1:] < confidence[:-1], True)  # of equal confidences
    found = np.flatnonzero((wrong <= risk) & is_last)
    if not len(found):
        return None
    return float(confidence[found[-1]]), float((found[-1] + 1) / len(confidence))


def _read(file: Path) -> Calibration:
    try:
        content = CalibrationFile.model_validate(read_json(file, limit=MAX_TABLE))
    except ValidationError as error:
        raise corrupt_file(file, error.errors()[0]["msg"]) from error
    if len(content.confidence) != len(content.is_right):
        raise corrupt_file(file, "confidence and is_right differ in length")
    confidence = np.array(content.confidence, dtype=float)
    return Calibration(content.temperature, confidence, np.array(content.is_right, dtype=bool))
