"""The results of an evaluation: dataclasses, their JSON, and the reader of comparison.json.

Scores, recalls and differences are fractions, intervals are 95 % intervals over speakers. The
fields are the keys of the JSON files, in their order.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AliasChoices, ConfigDict, Field

from config.tasks import CLASS
from evaluation.calibration import Calibration, RiskCoverage
from storage.fold_folder import TrainingIssues
from storage.layer_weights import LayerWeights

# Fields of a comparison that all its runs share
SHARED = (
    "corpus synthetic task protocol certificate speaker_dependent classes folds n_folds".split()
)
SHARED += ["seeds", "n", "n_speakers"]
UNKNOWN = "a corpus that was not recorded"  # in files of earlier versions


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """One score of a run on test.

    Attributes:
        mean: Mean over folds of the mean over seeds.
        std: Standard deviation over folds (n - 1); None for one fold.
        seed_std: Standard deviation over the seeds' means (n - 1); None for one seed.
        folds: Mean over seeds of each fold, by fold number.
        pooled: Score of all test utterances together, mean over seeds.
        interval: Interval of `pooled`; None where speakers do not vary.
    """

    mean: float
    std: float | None
    seed_std: float | None
    folds: dict[str, float]
    pooled: float
    interval: list[float] | None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """All scores of a run, the content of summary.json.

    Attributes:
        name: Name of the run; its folder in a comparison of two runs of one name.
        fusion: `model.fusion`, or the kind of baseline and the functionals that it reads.
        baseline: Whether it is a baseline.
        frozen: Whether heads alone were trained, on features of frozen branches.
        branch_seed: Seed of the one training a fold from which the branches of all seeds come; None
            where each seed has its own.
        corpus: Name of the corpus, for people.
        synthetic: Whether it is the demo corpus, whose speech is synthetic.
        task: What was predicted, see `evaluation.tasks`.
        protocol: Labels and splits in words.
        certificate: Id of the split certificate.
        speaker_dependent: Whether the same speakers are in train and test.
        classes: (K,) class names, in the order of the targets; of ratings, the dimensions.
        folds: Fold numbers that every seed has finished.
        seeds: Seeds of these folds.
        n_folds: Number of folds of the protocol, finished or not.
        n: Number of test utterances, each counted once.
        n_speakers: Number of their speakers.
        test: Each score of `Task.measures` by its name.
        per_class_recall: (K,) over folds and seeds; None for a class without a test utterance;
            empty of ratings.
        confusion: (K, K) target by prediction; an utterance counts once for each seed; empty of
            ratings.
        gate_mean: Mean over utterances and seeds, 1 = CQT, 0 = Mel; None for a run without a gate.
        gate_shares: Likewise of each source, where others than both images are gated; else None.
        layer_weights: Of the layers of a speech model; None for a run without one.
        missing_classes: Classes without a test utterance, by fold number.
        left_out: Folders of finished folds that some seed has not finished.
        test_evaluations: How often each fold was tested, by kind, see `ledger`.
        runs_before: Number of other runs beside it that tested one of these folds before.
        unknown_origin: Whether it started from a model of which nobody knows what trained it.
        shared_texts: Number of texts in train and test, by fold number; only where there are some.
        training_issues: Issues of the folds that had some, by fold and seed.
        tracker_failures: Reasons by tracker for which it lacks a part of a fold, by fold and seed.
        unread_audio: Audio files below `corpus.root` that were not read, in words.
        commits: Commits of this code that made the folds.
        made_with: Values of each fact behind the folds, see `storage.environment`; several where
            sessions differed.
    """

    name: str
    fusion: str
    baseline: bool = False
    frozen: bool = False
    branch_seed: int | None = None
    corpus: str = UNKNOWN
    synthetic: bool = False
    task: str = CLASS
    protocol: str
    certificate: str
    speaker_dependent: bool
    classes: list[str]
    folds: list[int]
    seeds: list[int]
    n_folds: int
    n: int
    n_speakers: int
    test: dict[str, ScoreSummary]
    per_class_recall: list[float | None]
    confusion: list[list[int]]
    gate_mean: float | None
    gate_shares: dict[str, float] | None = None
    layer_weights: LayerWeights | None = None
    missing_classes: dict[str, list[str]]
    left_out: list[str]
    test_evaluations: Annotated[
        dict[str, dict[str, int]],
        Field(validation_alias=AliasChoices("test_evaluations", "looks")),  # the older key
    ]
    runs_before: int = 0
    unknown_origin: bool = False
    shared_texts: dict[str, int] = field(default_factory=dict)
    training_issues: dict[str, TrainingIssues] = field(default_factory=dict)  # once not written
    tracker_failures: dict[str, dict[str, str]] = field(default_factory=dict)  # once not written
    unread_audio: list[str] = field(default_factory=list)
    commits: list[str]
    made_with: dict[str, list[str]] = field(default_factory=dict)  # once not written


@dataclass(frozen=True, kw_only=True)
class PairTest:
    """The paired test of one score of two runs, see `paired_tests.PairedTest`.

    Attributes:
        a: Name of the first run.
        b: Name of the second run.
        metric: Name of the score.
        difference: Score of a minus score of b.
        p: Two-sided p-value.
        smallest_p: Smallest p that this design allows.
        n_speakers: Number of speakers.
        interval: Interval of the difference; None for fewer than three folds.
        d_z: Cohen's d_z over speakers; None where it is undefined.
        p_speakers: p of exchanging speakers.
        p_trainings: p of exchanging fold x seed pairs; None in files of earlier versions.
        p_folds: p of whole folds; None in files of earlier versions, whose p counts speakers alone.
        p_holm: p, Holm-corrected over the pairs of this score.
    """

    a: str
    b: str
    metric: str
    difference: float
    p: float
    smallest_p: float
    n_speakers: int
    interval: list[float] | None
    d_z: float | None
    p_speakers: float | None = None
    p_trainings: float | None = None
    p_folds: float | None = None
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class McNemarRow:
    """McNemar's test of two runs with one seed, see `significance.McNemar`.

    Attributes:
        a: Name of the first run.
        b: Name of the second run.
        seed: Seed of both.
        only_a: Utterances that only a has right.
        only_b: Utterances that only b has right.
        p: Two-sided exact p-value.
        g: Cohen's g; None where both have the same utterances right.
        p_holm: p, Holm-corrected over the pairs and seeds.
    """

    a: str
    b: str
    seed: int
    only_a: int
    only_b: int
    p: float
    g: float | None
    p_holm: float


@dataclass(frozen=True)
class MadeWith:
    """Commit, device and number of threads behind some of the folds."""

    git_commit: str
    device: str
    threads: str


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Scores of a run on a group of test utterances, means over seeds.

    Attributes:
        group: Value that the utterances share, or a range of durations.
        n: Number of utterances, each counted once.
        speakers: Number of their speakers.
        ua: Mean recall of the classes that occur in the group.
        wa: Accuracy.
        interval: Interval of `ua`; None where speakers do not vary.
        classes: Number of classes that occur; None where all do.
    """

    group: str
    n: int
    speakers: int
    ua: float
    wa: float
    interval: list[float] | None
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Result of `subgroups.breakdown`.

    Attributes:
        groups: Groups by grouping, such as gender; a grouping without any value is left out.
        calibration: Calibration before and after temperature scaling.
        risk_coverage: The risk-coverage curve, before scaling.
    """

    groups: dict[str, list[GroupScores]]
    calibration: Calibration
    risk_coverage: RiskCoverage


@dataclass(frozen=True, kw_only=True)
class ConditionScores:
    """Scores of a run under one condition, pooled over folds, means over seeds.

    Attributes:
        condition: Name of the condition.
        kind: Its kind, see `robustness.Condition`.
        ua: Mean recall of the classes.
        wa: Accuracy.
        interval: Interval of `ua`; None where speakers do not vary.
        ua_change: `ua` minus that of the clean utterances.
    """

    condition: str
    kind: str
    ua: float
    wa: float
    interval: list[float] | None
    ua_change: float


@dataclass(frozen=True, kw_only=True)
class FoldConfusions:
    """Counts of one fold and seed under all conditions.

    Attributes:
        weights: SHA-256 of the weights.
        speakers: (S,) names, sorted.
        confusions: (S, K, K) counts by speaker, target and prediction, by condition.
    """

    weights: str
    speakers: list[str]
    confusions: dict[str, list[list[list[int]]]]


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Result of `robustness.measure_robustness`, the content of robustness.json.

    Attributes:
        protocol: Labels and splits in words.
        speaker_dependent: Whether the same speakers are in train and test.
        certificate: Id of the split certificate.
        classes: (K,) class names, in the order of the targets.
        conditions: Scores; empty while folds are being measured.
        folds: The counts behind them, by fold and seed.
    """

    protocol: str
    speaker_dependent: bool
    certificate: str
    classes: list[str]
    conditions: list[ConditionScores]
    folds: dict[str, FoldConfusions]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of one protocol side by side, the content of comparison.json.

    The first fields are those of `RunSummary` that are equal for all runs.

    Attributes:
        runs: Summaries of the runs.
        reference: Name of the run with which each of the others is compared; None is all pairs.
        config_differences: Values by run of each config key that differs; a run in which the key
            has no effect is left out.
        tests: Paired tests, empty for one run.
        mcnemar: McNemar's tests, empty for one run.
        made_with: What the folds were made with, each once.
        robustness: Robustness by run, where asked for.
        breakdown: Scores by group and calibration by run, where asked for.
    """

    corpus: str = UNKNOWN
    synthetic: bool = False
    task: str = CLASS
    protocol: str
    certificate: str
    speaker_dependent: bool
    classes: list[str]
    folds: list[int]
    n_folds: int
    seeds: list[int]
    n: int
    n_speakers: int
    runs: list[RunSummary]
    reference: str | None = None  # once not written
    config_differences: dict[str, dict[str, Any]]
    tests: list[PairTest]
    mcnemar: list[McNemarRow]
    made_with: list[MadeWith]
    robustness: dict[str, Robustness] | None = None
    breakdown: dict[str, Breakdown] | None = None
    # For the reader; it holds for the nested dataclasses, too.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def shared_facts(run: RunSummary) -> dict[str, Any]:
    """Return the first fields of a `Comparison` from one of its runs."""
    return {name: getattr(run, name) for name in SHARED}


def side_by_side(run: RunSummary) -> Comparison:
    """Return a run as a comparison with no other, for the tables."""
    return Comparison(
        **shared_facts(run), runs=[run], config_differences={}, tests=[], mcnemar=[], made_with=[]
    )
