"""The results of `analyze_gates.py`: dataclasses, and the reader of their file gates.json.

The gate of both images is 1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2 everywhere. Of other sources each
has its share of the gate, 1 = this source alone, and they add up to 1. Scores and falls are
fractions.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from config.fusions import IMAGES
from config.tasks import TaskName
from evaluation.tasks import task_of
from inference.predictor import weights_digests
from storage.run_folder import Run
from system.errors import RunError
from system.files import MAX_CLASSES, MAX_WORD, corrupt_file, is_unreachable, read_text
from system.text import short_repr

FOLDER = "gates"
FILE = "gates.json"
MAX_RESULTS = 20_000_000  # bytes; a row for each of 10 000 speakers has 200
MAX_PNG = 5_000_000  # bytes; the figures drawn here have up to 200 000
MAX_SIDE = 4000  # pixels
MAX_ROWS = 20_000  # speakers, or folds and seeds
FIGURES = {  # file name without suffix: caption; of many classes the first are drawn
    "class_histograms": "Mean gate of the test utterances by class. Line: mean; dashed: balance.",
    "class_deviations": "Mean gate of each class minus the same speaker's mean over classes, 95 % "
    "interval over speakers.",
    "unit_heat_maps": "Class means of each unit minus the unit's own mean; above, that mean.",
    "gate_and_confidence": "Confidence of each test utterance over its mean gate.",
    "gate_over_epochs": "Gate of the dev utterances during training; band: standard deviation over "
    "utterances; dot: the epoch whose weights were tested.",
    "falls": "Fall in UA under each intervention, in points, 95 % interval over speakers.",
}
SHARE_FIGURES = {  # the same of other sources than both images
    "class_shares": "Mean share of each source by class; the shares of a class add up to 1.",
    "class_histograms": "Share of each source in the gate of a test utterance, by class. Line: "
    "mean; dashed: equal shares.",
    "class_deviations": "Mean share of each source in a class minus the same speaker's mean over "
    "classes, 95 % interval over speakers.",
    "unit_heat_maps": "Class means of each unit's share minus the unit's own mean; above, the "
    "mean.",
    "gate_and_confidence": "Confidence of each test utterance over the share of each source.",
    "gate_over_epochs": "Mean share of each source over the dev utterances during training, a line "
    "a model; dot: the epoch whose weights were tested.",
    "falls": FIGURES["falls"],
}
JOINED = "+"  # between the branches of a run beside
EQUAL = "equal"  # the forced gate that gives all sources the same share

Word = Annotated[str, Field(max_length=MAX_WORD)]
Words = Annotated[str, Field(max_length=10 * MAX_WORD)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None  # 95 %, over speakers
Weights = Annotated[dict[Word, Word], Field(max_length=MAX_ROWS)]  # SHA-256 by fold and seed
Count = Annotated[int, Field(ge=0, le=10**12)]
Branch = Literal["CQT", "Mel", "speech", "file"] | None


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None where speakers do not vary or are too few."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class SpeakerMean(Estimate):
    """The mean over speakers of their own means."""

    n: Count  # utterances, each counted once for every seed
    n_speakers: Count


@dataclass(frozen=True)
class GroupMean(SpeakerMean):
    """The mean gate of a group of utterances; of other sources than images, a source's share."""

    group: Word


@dataclass(frozen=True)
class ClassDeviation(Estimate):
    """Mean gate of a class minus the same speaker's mean over classes, mean over speakers."""

    class_name: Word
    n_speakers: Count


@dataclass(frozen=True)
class TestResult(Estimate):
    """A permutation test of the gate; the value is in units of the gate, or a correlation.

    Attributes:
        p: Two-sided p-value.
        smallest_p: Smallest p that any arrangement of these speakers' values gives.
        n_speakers: Number of speakers that entered the test.
        exact: True if all permutations were made, False if random ones.
    """

    __test__ = False  # no test class for pytest

    p: float
    smallest_p: float
    n_speakers: Count
    exact: bool


@dataclass(frozen=True)
class Question(TestResult):
    """One of the questions in `gates.tables.QUESTIONS`, with p corrected over those asked."""

    key: Literal["class", "units", "right", "gender", "duration"]
    p_holm: float


@dataclass(frozen=True)
class ModelGate:
    """The gate of the model of one fold and seed as a whole, on its test utterances."""

    fold: int
    seed: int
    units: Count
    mean: float
    spread_over_utterances: float  # standard deviation, mean over units
    spread_over_units: float  # standard deviation, mean over utterances
    saturated: float  # share of values within `collapse.EDGE` of 0 or 1
    explained_by_class: float | None  # share of a unit's variance, mean over units
    explained_by_chance: float


@dataclass(frozen=True)
class GateDescription:
    """What `description.describe_gates` returns of one source: of both images, of CQT."""

    mean: SpeakerMean
    share: SpeakerMean  # the source's share of the size of the fused vector
    groups: dict[Word, Annotated[list[GroupMean], Field(max_length=MAX_ROWS)]]
    deviations: Annotated[list[ClassDeviation], Field(max_length=MAX_CLASSES)]
    questions: Annotated[list[Question], Field(max_length=5)]
    models: Annotated[list[ModelGate], Field(max_length=MAX_ROWS)]


@dataclass(frozen=True)
class ShareDifference(Estimate):
    """Share of source a minus that of source b, mean over speakers."""

    class_name: Word | None  # None is all utterances
    a: Word
    b: Word


@dataclass(frozen=True)
class Cost:
    """A UA (of ratings a CCC), and how far it is below that of the intact weights."""

    ua: Estimate
    fall: Estimate
    p: float
    smallest_p: float
    # Of each class; empty of ratings
    recall_falls: Annotated[list[float | None], Field(max_length=MAX_CLASSES)]


@dataclass(frozen=True)
class Intervention(Cost):
    """The cost of replacing the features of one branch, or of forcing the gate."""

    changed: Literal["cqt", "mel", "speech", "file", "gate"]
    how: Word
    draws: Count  # random draws of the utterances that give the features
    p_holm: float
    follows: float | None  # share predicted as the class of the utterance that gave the features


@dataclass(frozen=True)
class UnimodalRun(Cost):
    """A run trained on fewer branches; its fall is against the analyzed run."""

    run: Word
    branch: Word  # its branches, between them `JOINED`
    weights: Weights
    differs: Annotated[list[Words], Field(max_length=100)]  # config keys beside the fusion


@dataclass(frozen=True)
class BranchDifference:
    """Fall without source a minus fall without b: of UA, or of a class's balanced accuracy."""

    class_name: Word | None  # None is UA
    difference: Estimate
    p: float
    larger_fall: Interval  # of the larger of the two falls
    a: Word = IMAGES[0]
    b: Word = IMAGES[1]


@dataclass(frozen=True)
class BranchAblation:
    """What `branch_ablation.describe_ablation` returns."""

    intact: Estimate  # UA
    interventions: Annotated[list[Intervention], Field(min_length=1, max_length=20)]
    branches: Annotated[list[BranchDifference], Field(max_length=6 * (MAX_CLASSES + 1))]
    unimodal: Annotated[list[UnimodalRun], Field(max_length=100)]


@dataclass(frozen=True)
class Verdict:
    """Whether gate and branch ablation name the same branch, see `agreement.judge`."""

    class_name: Word | None  # None is all utterances
    leans: Branch  # branch that the gate leans to; None is undecided
    relies: Branch  # branch whose loss costs more; None is undecided
    verdict: Literal["agree", "disagree", "undecided"]
    words: Words


@dataclass(frozen=True)
class GateResults:
    """All of gates.json."""

    version: Literal[2]
    run: Word
    fusion: Word
    protocol: Word
    certificate: Word
    speaker_dependent: bool
    classes: Annotated[list[Word], Field(max_length=MAX_CLASSES)]
    weights: Weights
    n: Count  # test utterances
    n_speakers: Count
    speaker_per_fold: bool  # whether each fold tests one speaker, of several
    without_epochs: bool  # whether history.csv has no gate
    gates: GateDescription | None  # of the first source; None for a fusion without a gate
    branch_ablation: BranchAblation | None  # None where not asked for
    verdicts: Annotated[list[Verdict], Field(max_length=MAX_CLASSES + 1)]
    corpus: Word = "a corpus that was not recorded"
    task: TaskName = "class"  # of ratings, `classes` are groups of them
    sources: Annotated[list[Word], Field(min_length=2)] = field(default_factory=lambda: [*IMAGES])
    # Of the other sources, but of both images, of which the gate of CQT tells all
    others: dict[Word, GateDescription] = field(default_factory=dict)
    leads: Annotated[list[ShareDifference], Field(max_length=6 * (MAX_CLASSES + 1))] = field(
        default_factory=list
    )
    # For the reader; it holds for the nested dataclasses, too.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @property
    def of_images(self) -> bool:
        """Whether both images are gated, whose gate is one number."""
        return tuple(self.sources) == IMAGES

    @property
    def described(self) -> dict[str, GateDescription]:
        """The gates by source: of both images that of CQT; empty without a gate."""
        return {} if self.gates is None else {self.sources[0]: self.gates, **self.others}


class Stale(RunError):
    """An analysis of other weights, or by another version of this code."""


class Analysis(NamedTuple):
    """The stored analysis of a run's present weights."""

    results: GateResults
    figures: dict[str, bytes]  # PNG by name


def group_names(run: Run) -> tuple[str, ...]:
    """Return the classes of a run; of other tasks, groups of like targets."""
    return task_of(run.folds[0]).group_names


def read_gates(path: Path) -> GateResults:
    """Read a gates.json; raises OSError or ValueError for another file."""
    return TypeAdapter(GateResults).validate_json(read_text(path, MAX_RESULTS))


def read_analysis(run: Run) -> Analysis | None:
    """Return the stored analysis of a run, None where there is none.

    Raises:
        RunError: A file is corrupt.
        Stale: The analysis is of other weights or folds, or of an older format.
    """
    folder = run.folder / FOLDER
    if not (folder / FILE).exists():
        return None
    again = f"Run python analyze_gates.py {run.folder} again"
    try:
        results = read_gates(folder / FILE)
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError) and _is_older(error):
            raise Stale(f"{folder / FILE} has an older format and is not shown. {again}") from error
        raise _corrupt(folder / FILE, error) from error
    if results.weights != weights_digests(run) or tuple(results.classes) != group_names(run):
        raise Stale(
            f"The gate analysis in {folder} is of other weights or folds than the run has now "
            f"and is not shown. {again}"
        )
    drawn = FIGURES if results.of_images else SHARE_FIGURES
    figures = {name: _read_png(folder / f"{name}.png") for name in drawn}
    return Analysis(results, {name: data for name, data in figures.items() if data is not None})


def _is_older(error: ValidationError) -> bool:
    """Return whether a refused file is of version 1, which has a key `reliance` and no version."""
    return {("version",), ("reliance",)} <= {detail["loc"] for detail in error.errors()}


def _read_png(path: Path) -> bytes | None:
    """Return a figure if it is a PNG of bounded size, None where there is none."""
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > MAX_PNG:
            raise ValueError(f"it is not a file of at most {MAX_PNG} bytes")
        data = path.read_bytes()
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE:
                raise ValueError(f"it is {image.size[0]} x {image.size[1]} pixels")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _corrupt(path, error) from error
    return data


def _corrupt(path: Path, error: Exception) -> RunError:
    if is_unreachable(error):  # unreadable now, but perhaps intact
        return corrupt_file(path, error)
    reason = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{short_repr(place)}: {first['msg']}" if place else first["msg"]
    return RunError(
        f"{path} is corrupt or of another version ({reason}): run python analyze_gates.py "
        f"{path.parent.parent} again, or remove it"
    )
