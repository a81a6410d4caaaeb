"""final.json of a final model: how long it was trained, on what, and what is known of it."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from config.section import Count, Section
from config.tasks import TaskName
from storage.folders import FINAL
from storage.run_folder import FINALS
from system.errors import first_line
from system.files import corrupt_file, read_json, write_json

SEED_NAME = "seed-{}"
UNMEASURED = (
    "no score of this model is measured: it was trained on every utterance of the run, and none is "
    "left to test it. `estimate` is of the run's folds, each trained on a part of them"
)
EPOCHS_FROM = "median of the epochs that dev chose in the run's folds and seeds, halves rounded up"
TEMPERATURE_FROM = (
    "fitted on the dev predictions of the run's folds and seeds, pooled: of models like this one"
)

Epochs = Annotated[dict[str, Count], Field(min_length=1)]


class FinalPlan(Section):
    """How long a final model is trained, settled before its first step."""

    epochs: Count
    chosen: Epochs
    """Epoch that dev chose, by name of the fold."""
    factors: list[float] = []
    """Factor of the learning rates in each epoch, where the schedule followed dev: the median of
    the folds that were still trained."""


class Estimate(Section):
    """A test score of the run's folds."""

    mean: float
    """Over folds, of the means over seeds."""
    std: float | None
    """Over folds; None of one fold."""
    pooled: float
    """Of all test utterances together, mean over seeds."""


class FinalFacts(FinalPlan):
    """The whole file."""

    epochs_from: str = EPOCHS_FROM
    run: str
    """Name of the run whose folds it follows."""
    seed: Annotated[int, Field(ge=0)]
    task: TaskName
    utterances: Count
    speakers: Count
    n_folds: Count
    """Folds of the protocol, of which `chosen` may name a part."""
    measured: str = UNMEASURED
    estimate: dict[str, Estimate]
    """Test scores of the run's folds, by name: fractions, or as the task has them."""
    temperature: float | None
    """Divides the logits before the softmax, which calibrates the probabilities; None of ratings
    and votes."""
    temperature_from: str | None = None
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of model.safetensors."""


def final_folder(run: Path, seed: int) -> Path:
    """Return the folder of a run's final model."""
    return run / FINALS / SEED_NAME.format(seed)


def write_final(folder: Path, facts: FinalFacts) -> None:
    """Write final.json; call it last, since it marks the model as finished."""
    write_json(folder / FINAL, facts.model_dump())


def read_final(folder: Path) -> FinalFacts:
    """Read final.json.

    Args:
        folder: Folder of a final model, `runs/<name>/final/seed-<s>`.

    Raises:
        RunError: It is missing or corrupt.
    """
    file = folder / FINAL
    content = read_json(file, remove=folder)
    try:
        return FinalFacts.model_validate_json(json.dumps(content))
    except (ValidationError, RecursionError) as error:
        raise corrupt_file(file, first_line(error), remove=folder) from error


def write_plan(file: Path, plan: FinalPlan) -> None:
    """Write the plan of a training that begins."""
    write_json(file, plan.model_dump())


def read_plan(file: Path) -> FinalPlan:
    """Read the plan of a training that was begun.

    Raises:
        RunError: It is corrupt.
    """
    try:
        return FinalPlan.model_validate_json(json.dumps(read_json(file, remove=file.parent.parent)))
    except (ValidationError, RecursionError) as error:
        raise corrupt_file(file, first_line(error), remove=file.parent.parent) from error
