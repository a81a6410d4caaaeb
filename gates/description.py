"""The gates of a run by group with intervals, and the tests of five questions."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.significance import holm
from evaluation.subgroups import UNKNOWN, Groups, group_by_quartile, group_by_value
from gates.results import (
    ClassDeviation,
    GateDescription,
    GroupMean,
    ModelGate,
    Question,
    ShareDifference,
    SpeakerMean,
    TestResult,
    group_names,
)
from gates.statistics import (
    class_intervals,
    class_test,
    group_test,
    sign_flip_test,
    speaker_counts,
    speaker_means,
    unit_test,
    within_interval,
)
from gates.values import (
    FoldGates,
    Gates,
    RunGates,
    explained_by_class,
    join_gates,
    unit_blocks,
)
from gates.within_class import rank_correlations, right_minus_wrong
from storage.run_folder import Run
from training.collapse import EDGE


def describe_gates(run: Run, gates: Gates) -> dict[str, GateDescription]:
    """Return the gates by source and group with intervals, and the tests of five questions.

    A group's mean is the mean over speakers of their own means, over utterances and seeds; its
    interval is Student's t over speakers within folds, see `statistics.within_interval`. P-values
    are Holm-corrected over the questions that can be asked, of all sources together. Of two sources
    they are asked of the first alone: the share of the other is 1 minus its share.

    Args:
        run: The analyzed run.
        gates: Gates of all its folds and seeds, by source.

    Raises:
        RunError: utterances.csv is corrupt.
    """
    n_asked = 1 if len(gates) == 2 else len(gates)
    tests = {source: _tests(run, gates[source]) for source in list(gates)[:n_asked]}
    asked = [(source, key) for source, own in tests.items() for key in own]
    ps = [tests[source][key].p for source, key in asked]
    adjusted = dict(zip(asked, holm(ps) if ps else [], strict=True))
    return {
        source: _describe(
            run,
            folds,
            [
                Question(**vars(test), key=key, p_holm=adjusted[source, key])
                for key, test in tests.get(source, {}).items()
            ],
        )
        for source, folds in gates.items()
    }


def share_differences(run: Run, gates: Gates) -> list[ShareDifference]:
    """Return how much larger the share of each source is than that of each other, as `GroupMean`.

    Over all utterances, and by class; empty of two sources, of which the share of one tells all.
    """
    if len(gates) < 3:
        return []
    pooled = {source: join_gates(folds) for source, folds in gates.items()}
    rows = []
    for a, b in combinations(pooled, 2):
        one, difference = pooled[a], pooled[a].gate - pooled[b].gate
        inside: dict[str | None, NDArray] = {None: np.ones(len(difference), bool)}
        inside |= {name: one.targets == k for k, name in enumerate(group_names(run))}
        for name, some in inside.items():
            if some.any():
                mean = _mean(difference[some], one.speakers[some], one.folds[some])
                rows.append(ShareDifference(mean.value, mean.interval, name, a, b))
    return rows


def _describe(run: Run, gates: Sequence[FoldGates], questions: list[Question]) -> GateDescription:
    pooled, names = join_gates(gates), group_names(run)
    cells = speaker_means(pooled.gate, pooled.speakers, pooled.targets, len(names))  # (S, K)
    return GateDescription(
        mean=_mean(pooled.gate, pooled.speakers, pooled.folds),
        share=_mean(pooled.share, pooled.speakers, pooled.folds),
        groups={
            name: _group_means(pooled, groups) for name, groups in _groupings(run, pooled).items()
        },
        deviations=[
            ClassDeviation(*deviation[:2], name, deviation[2])
            for name, deviation in zip(names, class_intervals(cells), strict=True)
            if deviation is not None
        ],
        questions=questions,
        models=[_model_gate(fold, len(names)) for fold in gates],
    )


def _mean(values: NDArray, speakers: NDArray, folds: NDArray) -> SpeakerMean:
    means = _one_mean_each(values, speakers)  # (S,)
    interval = within_interval(means, _blocks(speakers, folds))
    return SpeakerMean(float(means.mean()), interval, len(values), len(means))


def _one_mean_each(values: NDArray, speakers: NDArray) -> NDArray:
    """Return the mean of each speaker over all utterances: (M,), (M,) -> (S,)."""
    return speaker_means(values, speakers, np.zeros(len(values), int), 1)[:, 0]


def _blocks(speakers: NDArray, folds: NDArray) -> NDArray:
    """Return the fold of each speaker, in sorted order, or 0 where some have several: (S,)."""
    names, first = np.unique(speakers, return_index=True)
    in_one = all(len(np.unique(folds[speakers == name])) == 1 for name in names)
    return folds[first] if in_one else np.zeros(len(names), int)


def _groupings(run: Run, pooled: RunGates) -> dict[str, Groups]:
    groupings = {
        "class": Groups(list(group_names(run)), pooled.targets),
        "prediction": Groups(["wrong", "right"], pooled.right.astype(int)),
        "gender": group_by_value(_about(run, pooled, "gender")),
        "duration": group_by_quartile(_about(run, pooled, "seconds")),
        "speaker": group_by_value(pooled.speakers.tolist()),
    }
    return {name: groups for name, groups in groupings.items() if groups.names != [UNKNOWN]}


def _about(run: Run, pooled: RunGates, column: str) -> list[str]:
    return [run.about.get(name, {}).get(column, "") for name in pooled.utterances.tolist()]


def _seconds(run: Run, pooled: RunGates) -> NDArray:
    return np.array([float(value or "nan") for value in _about(run, pooled, "seconds")])


def _group_means(pooled: RunGates, groups: Groups) -> list[GroupMean]:
    columns, rows = (pooled.gate, pooled.speakers, pooled.folds), []
    for place, name in enumerate(groups.names):
        inside = groups.place == place
        if inside.any():
            mean = _mean(*(column[inside] for column in columns))
            rows.append(GroupMean(**vars(mean), group=name))
    return rows


def _tests(run: Run, gates: Sequence[FoldGates]) -> dict[Any, TestResult]:
    """Test the five questions; leave out those that these utterances cannot answer.

    The units of a scalar gate are not asked about: their question is that of the class.
    """
    pooled = join_gates(gates)
    gender = _groupings(run, pooled).get("gender")
    n_groups = len(group_names(run))
    cells = speaker_means(pooled.gate, pooled.speakers, pooled.targets, n_groups)  # (S, K)
    has_units = any(fold.gate.shape[1] > 1 for fold in gates)
    counts = speaker_counts(pooled.speakers, pooled.targets, cells.shape[1])
    tests: dict[Any, TestResult | None] = {
        "class": class_test(cells, counts),
        "units": unit_test(*unit_blocks(gates, cells.shape[1])) if has_units else None,
        "right": sign_flip_test(_right_minus_wrong(pooled)),
        "gender": _gender_test(pooled, gender),
        "duration": sign_flip_test(_duration_correlations(pooled, _seconds(run, pooled)), most=1.0),
    }
    return {key: test for key, test in tests.items() if test is not None}


def _right_minus_wrong(pooled: RunGates) -> NDArray:
    """Return each speaker's difference, the mean over the seeds that have one: (U,)."""
    differences = []
    for seed in np.unique(pooled.seeds):
        own = pooled.seeds == seed
        # (S,), the same speakers for every seed
        differences.append(
            right_minus_wrong(
                pooled.gate[own], pooled.right[own], pooled.speakers[own], pooled.targets[own]
            )
        )
    values = np.array(differences)  # (R, S)
    return np.nanmean(values[:, ~np.isnan(values).all(0)], axis=0)


def _gender_test(pooled: RunGates, groups: Groups | None) -> TestResult | None:
    """Compare the genders within folds, or among folds where each fold tests one speaker.

    None where each fold tests one gender: its model could be what differs.
    """
    if groups is None or len(known := [n for n in groups.names if n != UNKNOWN]) != 2:
        return None
    speakers, first = np.unique(pooled.speakers, return_index=True)
    gender = groups.place[first]  # (S,), of each speaker's first utterance
    is_known = gender < len(known)
    means = _one_mean_each(pooled.gate, pooled.speakers)
    blocks = _blocks(pooled.speakers, pooled.folds)
    if not _mixed(blocks[is_known], gender[is_known]):
        if np.unique(blocks[is_known], return_counts=True)[1].max() > 1:
            return None
        blocks = np.zeros(len(speakers), int)  # one speaker a fold: permuted among folds
    return group_test(means[is_known], gender[is_known] == 0, blocks[is_known])


def _mixed(blocks: NDArray, gender: NDArray) -> bool:
    return any(len(np.unique(gender[blocks == block])) > 1 for block in np.unique(blocks))


def _duration_correlations(pooled: RunGates, seconds: NDArray) -> NDArray:
    """Return each speaker's rank correlation with duration, seeds averaged first: (U,)."""
    first = pooled.seeds == pooled.seeds[0]
    place = np.unique(pooled.utterances, return_inverse=True)[1]
    gate = np.bincount(place, pooled.gate) / np.bincount(place)  # (N,) sorted by utterance
    order = np.argsort(pooled.utterances[first])
    about = (seconds, pooled.speakers, pooled.targets)
    return rank_correlations(gate, *(column[first][order] for column in about))


def _model_gate(gates: FoldGates, n_classes: int) -> ModelGate:
    gate = gates.gate
    explained = explained_by_class(gate, gates.targets)
    explained = explained[~np.isnan(explained)]
    n_present = min(n_classes, len(np.unique(gates.targets)))
    return ModelGate(
        fold=gates.fold,
        seed=gates.seed,
        units=gate.shape[1],
        mean=float(gate.mean()),
        spread_over_utterances=float(gate.std(0).mean()),
        spread_over_units=float(gate.std(1).mean()),
        saturated=float(((gate < EDGE) | (gate > 1 - EDGE)).mean()),
        explained_by_class=float(explained.mean()) if len(explained) else None,
        explained_by_chance=(n_present - 1) / max(1, len(gate) - 1),
    )
