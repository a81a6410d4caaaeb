"""What `analyze_gates.py` leaves in a run folder: its format, and a reader that believes little.

`<run>/gates/` is replaced whole, so that its tables and figures are of one analysis.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from PIL import Image
from pydantic import Field, ValidationError

from config.schema import Section
from inference.predictor import weights_digest
from storage.run_folder import FoldResult, Run
from system.errors import RunError
from system.files import MAX_CLASSES, MAX_WORD, corrupt_file, is_unreachable, read_text
from system.text import short_repr

FOLDER = "gates"
FILE = "gates.json"
MAX_RESULTS = 20_000_000  # bytes; a row for each of 10 000 speakers has 200
MAX_PICTURE = 5_000_000  # bytes; ours have up to 200 000
MAX_SIDE = 4000  # pixels
MAX_ROWS = 20_000  # speakers, or folds and seeds
FIGURES = {  # name of the file: what it shows
    "class_histograms": "Mean gate of the test clips by class. Line: mean; dashed: balance.",
    "class_deviations": "Each class's gate against the speaker's own mean, 95 % interval over "
    "speakers.",
    "unit_heat_maps": "Each unit's class means minus its own mean; above, that mean.",
    "gate_and_confidence": "Confidence of each clip over its gate.",
    "gate_over_epochs": "Gate of the dev clips along training; band: standard deviation over "
    "clips; dot: the epoch whose weights were tested.",
    "falls": "Points of UA that each intervention costs, 95 % interval over speakers.",
}

Word = Annotated[str, Field(max_length=MAX_WORD)]
Words = Annotated[str, Field(max_length=10 * MAX_WORD)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
Weights = Annotated[dict[Word, Word], Field(max_length=MAX_ROWS)]  # SHA-256 by fold and seed
Count = Annotated[int, Field(ge=0, le=10**12)]
Branch = Literal["CQT", "Mel"] | None
Recalls = Annotated[list[float | None], Field(max_length=MAX_CLASSES)]


class Mean(Section):
    """A mean over speakers."""

    n: Count
    speakers: Count
    mean: float
    interval: Interval


class Group(Mean):
    """The mean gate of a group of clips."""

    group: Word


class Deviation(Section):
    """Gate of a class minus the speaker's mean over classes."""

    name: Word = Field(alias="class")
    mean: float
    interval: Interval
    speakers: Count


class Question(Section):
    """One of the five questions, see `gate_tables.QUESTIONS` and `gate_statistics.Finding`."""

    key: Literal["class", "units", "right", "gender", "duration"]
    estimate: float
    interval: Interval
    p: float
    p_holm: float
    smallest_p: float
    n_speakers: Count
    exact: bool


class Model(Section):
    """The gate of one fold and seed as a whole."""

    fold: int
    seed: int
    units: Count
    mean: float
    spread_over_clips: float
    spread_over_units: float
    saturated: float
    explained_by_class: float | None
    by_chance: float


class GatesFound(Section):
    """What `gates.describe_gates` returns."""

    mean: Mean
    share: Mean
    groups: dict[Word, Annotated[list[Group], Field(max_length=MAX_ROWS)]]
    deviations: Annotated[list[Deviation], Field(max_length=MAX_CLASSES)]
    questions: Annotated[list[Question], Field(max_length=5)]
    models: Annotated[list[Model], Field(max_length=MAX_ROWS)]


class Score(Section):
    """A UA with its interval."""

    ua: float
    interval: Interval


class Cost(Score):
    """A UA and how far it is below that of the intact weights."""

    fall: float
    fall_interval: Interval
    p: float
    smallest_p: float
    recall_falls: Recalls


class Intervention(Cost):
    """What was changed, and how."""

    changed: Literal["cqt", "mel", "gate"]
    how: Word
    draws: Count
    p_holm: float
    follows_donor: float | None


class Unimodal(Cost):
    """A run of one branch, trained alone, and what of its config differs beside the fusion."""

    run: Word
    branch: Literal["cqt", "mel"]
    weights: Weights
    differs: Annotated[list[Words], Field(max_length=100)]


class Branches(Section):
    """Fall without CQT minus fall without Mel: of UA (None) or a class's balanced accuracy."""

    name: Word | None = Field(alias="class")
    difference: float
    interval: Interval
    cost_interval: Interval  # of the larger fall
    p: float


class RelianceFound(Section):
    """What `reliance.describe_reliance` returns."""

    intact: Score
    interventions: Annotated[list[Intervention], Field(min_length=1, max_length=20)]
    branches: Annotated[list[Branches], Field(max_length=MAX_CLASSES + 1)]
    unimodal: Annotated[list[Unimodal], Field(max_length=100)]


class Judged(Section):
    """A verdict of `agreement.judge`."""

    of: Word | None  # a class; None is all clips
    gate: float
    gate_interval: Interval
    difference: float
    interval: Interval
    cost_interval: Interval
    leans: Branch
    relies: Branch
    verdict: Literal["agree", "disagree", "undecided"]
    words: Words


class GateResults(Section):
    """gates.json: `gates` is null for a fusion without a gate, `reliance` where not wanted."""

    run: Word
    fusion: Word
    protocol: Word
    certificate: Word
    speaker_dependent: bool
    classes: Annotated[list[Word], Field(max_length=MAX_CLASSES)]
    weights: Weights
    n: Count
    n_speakers: Count
    speaker_per_fold: bool  # whether each fold tests one speaker, of several
    without_epochs: bool  # whether history.csv has no gate
    gates: GatesFound | None
    reliance: RelianceFound | None
    verdicts: Annotated[list[Judged], Field(max_length=MAX_CLASSES + 1)]


class Shown(NamedTuple):
    """An analysis that is of the run's weights."""

    results: GateResults
    figures: dict[str, bytes]  # PNG by name


def model_name(one: FoldResult) -> str:
    """Return what a fold with a seed is called."""
    return f"fold {one.fold} seed {one.seed}"


def digests(run: Run) -> dict[str, str]:
    """Return the SHA-256 of the weights of all folds and seeds."""
    return {model_name(one): weights_digest(one.folder) for one in run.folds}


def read_results(run: Run) -> Shown | None:
    """Return what was found of a run's gates, None where nothing was.

    Raises:
        RunError: A file is not as we write it.
        Stale: It is of other weights or folds.
    """
    folder = run.folder / FOLDER
    if not (folder / FILE).exists():
        return None
    try:
        results = GateResults.model_validate(json.loads(read_text(folder / FILE, MAX_RESULTS)))
    except (OSError, ValueError, RecursionError) as error:
        raise _again(folder / FILE, error) from error
    if results.weights != digests(run) or tuple(results.classes) != run.classes:
        raise Stale(
            f"The analysis of gates in {folder} is of other weights or folds than the run has now "
            f"and is not shown: give python analyze_gates.py {run.folder} again"
        )
    found = {name: _figure(folder / f"{name}.png") for name in FIGURES}
    return Shown(results, {name: data for name, data in found.items() if data is not None})


class Stale(RunError):
    """An analysis of weights that are no more."""


def _figure(path: Path) -> bytes | None:
    """Return a figure, if it is a PNG of a bounded size."""
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > MAX_PICTURE:
            raise ValueError(f"it is no file of at most {MAX_PICTURE} bytes")
        data = path.read_bytes()
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE:
                raise ValueError(f"it is {image.size[0]} x {image.size[1]} pixels")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _again(path, error) from error
    return data


def _again(path: Path, error: Exception) -> RunError:
    if is_unreachable(error):  # it may be whole
        return corrupt_file(path, error)
    reason = _first(error) if isinstance(error, ValidationError) else str(error)
    run = path.parent.parent
    return RunError(
        f"{path} is corrupt or of another version ({reason}): give python analyze_gates.py {run} "
        "again, or remove it"
    )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{short_repr(place)}: {first['msg']}" if place else first["msg"]
