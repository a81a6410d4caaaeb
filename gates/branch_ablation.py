"""What frozen weights lose without a branch: its features are replaced, or the gate is forced.

A gate says how the branches are mixed, not which of them carries the information; interventions on
the inputs of the fusion head (features, or tokens where the head reads tokens) measure that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.fusions import IMAGES, ONE_BRANCH, SOURCES
from config.tasks import CLASS
from evaluation.metrics import recalls
from evaluation.paired_tests import PairedTest, fixed_weights_test
from evaluation.significance import (
    Score,
    holm,
    pool_folds,
    speaker_interval,
)
from evaluation.tasks import Measure, task_of
from gates.frozen import FrozenFold, Fused, OnBatch
from gates.head_inputs import HeadInputs
from gates.results import (
    EQUAL,
    BranchAblation,
    BranchDifference,
    Estimate,
    Intervention,
    UnimodalRun,
)
from gates.retrained import cost_fields
from models.gmu import ForcedGate
from storage.run_folder import Run
from system.errors import InputError

MEAN, SAME, OTHER = "train mean", "same class", "other class"
FORCED = (0.0, 0.5, 1.0)  # gates of both images
N_DRAWS = 5  # of the utterances whose features are used instead

Key = tuple[Any, str]  # what is changed and how


class Counts(NamedTuple):
    """Test utterances of one fold and seed under one intervention.

    Attributes:
        confusions: (draws, S, K, K) counts by speaker, target and prediction, or other sums of
            `Task.by_speaker`.
        follows: Share of the utterances with features of another class that are predicted as that
            class, and how many there are.
    """

    confusions: NDArray
    follows: tuple[int, int] | None = None


class FoldCounts(NamedTuple):
    """The interventions on one fold and seed."""

    seed: int
    speakers: list[str]  # (S,)
    counts: dict[Key, Counts]


def check_joins(run: Run) -> None:
    """Refuse a run that joins no branches.

    Raises:
        InputError: It has one branch, or is of a baseline.
    """
    if run.is_baseline:
        raise InputError(f"{run.folder} is of a baseline, which has no branches: name a fusion's")
    if (fusion := run.config["model.fusion"]) in ONE_BRANCH:
        raise InputError(
            f"{run.folder} has model.fusion={fusion}, which reads one branch: there is no gate "
            "and no branch to replace. Name a run of two branches or more first, and this one "
            "after it to compare them"
        )


def intervene(
    frozen: FrozenFold,
    inputs: HeadInputs,
    intact: Fused,
    n_draws: int,
    on_batch: OnBatch = lambda: None,
) -> FoldCounts:
    """Replace each branch by its train mean and by other test utterances, and force the gate.

    The other utterances are drawn by fold and draw: the same for all branches, seeds and runs.

    Args:
        frozen: Frozen model of a fold and seed.
        inputs: Inputs of its head for the test utterances.
        intact: Outputs of the head for these inputs.
        n_draws: How often the other utterances are drawn.
        on_batch: Called after each batch of training utterances.
    """
    table, task = frozen.result.test, task_of(frozen.result)
    groups = task.group_of(table.targets)

    def confusions(outputs: Sequence[Fused]) -> NDArray:
        changed = [replace(table, preds=fused.preds, probs=fused.probs) for fused in outputs]
        return np.stack([task.by_speaker(one) for one in changed])

    counts: dict[Key, Counts] = {("intact", ""): Counts(confusions([intact]))}
    every = zip(SOURCES, frozen.means("train", on_batch), strict=False)
    means = {branch: mean for branch, mean in every if mean is not None}
    for branch, mean in means.items():
        fused = frozen.fuse(inputs.replaced(branch, mean))
        counts[branch, MEAN] = Counts(confusions([fused]))
    for how in (SAME, OTHER):
        draws = [
            draw_sources(groups, table.speakers, how == SAME, (frozen.result.fold, draw))
            for draw in range(n_draws)
        ]
        for branch in means:
            outputs = [frozen.fuse(inputs.resampled(branch, sources)) for sources in draws]
            preds = [task.group_of(fused.preds) for fused in outputs]
            follows = _follows(preds, groups, draws) if how == OTHER else None
            counts[branch, how] = Counts(confusions(outputs), follows)
    for how, gate in forced_gates(tuple(means)).items() if intact.gate is not None else ():
        counts["gate", how] = Counts(confusions([frozen.fuse(inputs, gate)]))
    return FoldCounts(frozen.result.seed, np.unique(table.speakers).tolist(), counts)


def forced_gates(branches: Sequence[str]) -> dict[str, ForcedGate]:
    """Return the gates that are forced, by name: of images numbers, else each source alone.

    >>> forced_gates(("cqt", "speech"))
    {'cqt': (1.0, 0.0), 'speech': (0.0, 1.0), 'equal': (0.5, 0.5)}
    """
    if branches == IMAGES:
        return {f"{value:g}": value for value in FORCED}
    alone = {branch: tuple(float(other == branch) for other in branches) for branch in branches}
    return {**alone, EQUAL: (1 / len(branches),) * len(branches)}


def draw_sources(targets: NDArray, speakers: NDArray, same: bool, seed: Sequence[int]) -> NDArray:
    """Draw for each utterance another one whose features it gets: (N,), (N,) -> (N,) indices.

    The other one is of another speaker where there is one. An utterance keeps its own features
    where no other is of the class asked for.

    Args:
        targets: Class of each utterance.
        speakers: Speaker of each utterance.
        same: Draw from the utterance's own class; False draws from all other classes.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng((*seed, int(same)))
    sources = np.arange(len(targets))
    for i in range(len(targets)):
        pool = (targets == targets[i]) == same
        pool[i] = False
        others = pool & (speakers != speakers[i])
        if len(places := np.flatnonzero(others if others.any() else pool)):
            sources[i] = rng.choice(places)
    return sources


def describe_ablation(
    run: Run, folds: Sequence[FoldCounts], unimodal: Sequence[UnimodalRun]
) -> BranchAblation:
    """Return the cost of each intervention.

    UA, of ratings CCC, is pooled over folds, the mean over seeds and draws, with its interval over
    speakers. A fall is the intact UA minus the UA under the intervention, with interval and p of
    `fixed_weights_test`; p is Holm-corrected over all interventions.

    Args:
        run: The analyzed run.
        folds: Interventions on all its folds and seeds.
        unimodal: Runs of fewer branches, from `retrained.compare_unimodal`.
    """
    pooled = {key: _pool(folds, key) for key in folds[0].counts}  # (R, S, K, K) each
    intact = pooled["intact", ""]
    interventions = list(pooled)[1:]
    task = task_of(run.folds[0])
    measure, classes = task.measures[task.main], run.classes if task.kind == CLASS else ()
    tests = [_test_fall(intact, pooled[key], measure) for key in interventions]
    adjusted = holm([test.p for test in tests])
    return BranchAblation(
        intact=_estimate(intact, measure),
        interventions=[
            Intervention(
                **cost_fields(_estimate(pooled[key], measure), test),
                recall_falls=_recall_falls(intact, pooled[key]) if classes else [],
                changed=key[0],
                how=key[1],
                draws=len(folds[0].counts[key].confusions),
                p_holm=p,
                follows=_share_that_follows(folds, key),
            )
            for key, test, p in zip(interventions, tests, adjusted, strict=True)
        ],
        branches=[
            difference
            for a, b in combinations([s for s in SOURCES if (s, MEAN) in pooled], 2)
            for difference in _differences(classes, measure, pooled, a, b)
        ],
        unimodal=list(unimodal),
    )


def _follows(
    preds: Sequence[NDArray], targets: NDArray, draws: Sequence[NDArray]
) -> tuple[int, int]:
    """Count the utterances predicted as the class of their source, and those with another class."""
    hits = n = 0
    for own, sources in zip(preds, draws, strict=True):
        foreign = targets[sources] != targets  # False for an utterance that keeps its own features
        hits += int((foreign & (own == targets[sources])).sum())
        n += int(foreign.sum())
    return hits, n


def _share_that_follows(folds: Sequence[FoldCounts], key: Key) -> float | None:
    pairs = [pair for fold in folds if (pair := fold.counts[key].follows) is not None]
    hits, n = sum(hits for hits, _ in pairs), sum(n for _, n in pairs)
    return hits / n if n else None


def _pool(folds: Sequence[FoldCounts], key: Key) -> NDArray:
    """Add up counts over the folds and draws of a seed: (R, S, K, K).

    Each draw holds the same utterances, so the score of the sum is the mean of the draws' scores:
    UA and recalls are linear in the counts of utterances whose targets are given. A CCC is not: of
    ratings it is that of all draws together.
    """
    return pool_folds([(f.seed, f.speakers, f.counts[key].confusions.sum(0)) for f in folds])


def _estimate(counts: NDArray, measure: Measure) -> Estimate:
    value = float(np.mean(measure.score(counts.sum(1))))
    return Estimate(value, speaker_interval(counts, measure.score, scale=measure.scale))


def _test_fall(a: NDArray, b: NDArray, measure: Measure) -> PairedTest:
    """Test a against b; a is repeated where b counts each utterance once for every draw."""
    n_a, n_b = (float(measure.scale.support(counts).sum()) for counts in (a, b))
    return fixed_weights_test(a * round(n_b / n_a), b, measure.score, scale=measure.scale)


def _recall_falls(intact: NDArray, changed: NDArray) -> list[float | None]:
    falls = recalls(intact.sum(1)) - recalls(changed.sum(1))  # (R, K)
    return [None if np.isnan(fall) else float(fall) for fall in falls.mean(0)]


def _differences(
    classes: Sequence[str],
    measure: Measure,
    pooled: Mapping[Key, NDArray],
    a: str,
    b: str,
) -> list[BranchDifference]:
    """Return how much more the loss of branch a costs than that of b, overall and by class.

    A class is scored by its balanced accuracy against the rest, which a shift of all predictions
    towards it does not raise.
    """
    intact, without_a, without_b = pooled["intact", ""], pooled[a, MEAN], pooled[b, MEAN]
    ways: list[tuple[str | None, Score, NDArray]] = [
        (None, measure.score, np.ones(intact.shape[1], bool))
    ]
    for k, name in enumerate(classes):
        support = without_a[0].sum(-1)  # (S, K)
        speakers = (support[:, k] > 0) & (support.sum(1) > support[:, k])  # of it and another class
        if speakers.any():
            ways.append((name, _balanced_accuracy(k), speakers))
    rows = []
    for class_name, score, some in ways:
        scale = measure.scale  # of a class, of its balanced accuracy
        test = fixed_weights_test(without_b[:, some], without_a[:, some], score, scale=scale)
        larger = without_a if test.difference > 0 else without_b
        fall = fixed_weights_test(intact[:, some], larger[:, some], score, scale=scale)
        larger_fall = fall.interval
        difference = Estimate(test.difference, test.interval)
        rows.append(BranchDifference(class_name, difference, test.p, larger_fall, a, b))
    return rows


def _balanced_accuracy(k: int) -> Score:
    """Return the score of a class against the rest: (recall + specificity) / 2."""

    def score(confusion: NDArray) -> NDArray:
        own, others = confusion[..., k, :], np.delete(confusion, k, -2)  # (..., K), (..., K-1, K)
        recall = own[..., k] / own.sum(-1)
        return (recall + 1 - others[..., k].sum(-1) / others.sum((-1, -2))) / 2

    return score
