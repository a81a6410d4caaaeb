"""The gates of frozen weights on the test utterances: by utterance, by unit, by group.

Polarity everywhere: 1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.significance import holm
from evaluation.subgroups import UNKNOWN, Groups, group_by_quartile, group_by_value
from gates.frozen import FrozenFold, Fused
from gates.results import (
    ClassDeviation,
    GateDescription,
    GroupMean,
    ModelGate,
    Question,
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
from gates.within_class import rank_correlations, right_minus_wrong
from storage.run_folder import Run
from training.collapse import EDGE

UTTERANCE_COLUMNS = (
    "fold seed utterance speaker gender seconds target pred right confidence "
    "gate_mean gate_std gate_min gate_max cqt_share"
).split()
UNIT_COLUMNS = ["fold", "seed", "unit", "gate_mean", "gate_std", "explained_by_class"]


class FoldGates(NamedTuple):
    """The gates of the test utterances of one fold and seed, in the order of predictions.csv."""

    fold: int
    seed: int
    utterances: NDArray  # (N,)
    speakers: NDArray  # (N,)
    targets: NDArray  # (N,) class, or group of like targets
    preds: NDArray  # (N,) likewise
    confidence: NDArray  # (N,) highest probability; NaN of ratings
    gate: NDArray  # (N, D), or (N, 1) of a scalar gate
    share: NDArray  # (N,) CQT's share of the size of the fused vector


class RunGates(NamedTuple):
    """The test utterances of all folds, once for each seed: M = R * N."""

    utterances: NDArray
    speakers: NDArray
    folds: NDArray
    targets: NDArray
    right: NDArray  # True where the prediction is right
    gate: NDArray  # mean over units
    share: NDArray
    seeds: NDArray


def fold_gates(frozen: FrozenFold, fused: Fused) -> FoldGates:
    """Return the gates of a gated fold."""
    if fused.gate is None or fused.share is None:
        raise ValueError("this fusion has no gate")
    result, table, task = frozen.result, frozen.result.test, frozen.fold.task
    return FoldGates(
        *(result.fold, result.seed, table.utterances, table.speakers, task.group_of(table.targets)),
        *(task.group_of(fused.preds), task.certainty(fused.probs), fused.gate, fused.share),
    )


def describe_gates(run: Run, gates: Sequence[FoldGates]) -> GateDescription:
    """Return the gates by group with intervals, and the tests of five questions.

    A group's mean is the mean over speakers of their own means, over utterances and seeds; its
    interval is Student's t over speakers within folds, see `statistics.within_interval`. P-values
    are Holm-corrected over the questions that can be asked.

    Args:
        run: The analyzed run.
        gates: Gates of all its folds and seeds.

    Raises:
        RunError: utterances.csv is corrupt.
    """
    pooled = join_gates(gates)
    groupings = _groupings(run, pooled)
    names = group_names(run)
    cells = speaker_means(pooled.gate, pooled.speakers, pooled.targets, len(names))  # (S, K)
    return GateDescription(
        mean=_mean(pooled.gate, pooled.speakers, pooled.folds),
        share=_mean(pooled.share, pooled.speakers, pooled.folds),
        groups={name: _group_means(pooled, groups) for name, groups in groupings.items()},
        deviations=[
            ClassDeviation(*deviation[:2], name, deviation[2])
            for name, deviation in zip(names, class_intervals(cells), strict=True)
            if deviation is not None
        ],
        questions=_questions(gates, pooled, cells, groupings, _seconds(run, pooled)),
        models=[_model_gate(fold, len(names)) for fold in gates],
    )


def join_gates(gates: Sequence[FoldGates]) -> RunGates:
    """Return the utterances of all folds and seeds, one fold and seed after another."""

    def join(columns: Iterable[NDArray]) -> NDArray:
        return np.concatenate(list(columns))

    return RunGates(
        join(fold.utterances for fold in gates),
        join(fold.speakers for fold in gates),
        join(np.full(len(fold.targets), fold.fold) for fold in gates),
        join(fold.targets for fold in gates),
        join(fold.preds == fold.targets for fold in gates),
        join(fold.gate.mean(1) for fold in gates),
        join(fold.share for fold in gates),
        join(np.full(len(fold.targets), fold.seed) for fold in gates),
    )


def utterance_rows(run: Run, gates: Sequence[FoldGates]) -> Iterator[list[Any]]:
    """Yield the rows of utterances.csv, one for each utterance and seed."""
    names = group_names(run)
    for fold in gates:
        gate = fold.gate
        measures = (gate.mean(1), gate.std(1), gate.min(1), gate.max(1), fold.share)
        for i, name in enumerate(fold.utterances.tolist()):
            about = run.about.get(name, {})
            target, pred = names[fold.targets[i]], names[fold.preds[i]]
            yield [
                *(fold.fold, fold.seed, name, fold.speakers[i]),
                *(about.get("gender", ""), about.get("seconds", ""), target, pred),
                *(int(target == pred), _cell(fold.confidence[i])),
                *(f"{values[i]:.6f}" for values in measures),
            ]


def unit_rows(run: Run, gates: Sequence[FoldGates]) -> Iterator[list[Any]]:
    """Yield the rows of units.csv; units of different folds and seeds are different units."""
    for fold in gates:
        by_class = unit_means(fold, len(group_names(run)))
        explained = explained_by_class(fold.gate, fold.targets)
        for unit, values in enumerate(by_class):
            column = fold.gate[:, unit]
            cells = [column.mean(), column.std(), explained[unit], *values]
            yield [fold.fold, fold.seed, unit, *map(_cell, cells)]


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"


def unit_means(gates: FoldGates, n_classes: int) -> NDArray:
    """Return the mean gate of each unit and class, NaN where there is no utterance: (D, K)."""
    by_class = [gates.gate[gates.targets == k] for k in range(n_classes)]
    missing = np.full(gates.gate.shape[1], np.nan)
    return np.stack([gate.mean(0) if len(gate) else missing for gate in by_class], 1)


def explained_by_class(gate: NDArray, targets: NDArray) -> NDArray:
    """Return the share of each unit's variance that lies between classes: (N, D) -> (D,).

    NaN for a constant unit. By chance alone it is about (K - 1) / (N - 1).

    >>> explained_by_class(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]),
    ...                    np.array([0, 0, 1, 1])).tolist()
    [1.0, 0.0]
    """
    gate = gate.astype(float)
    mean = gate.mean(0)
    between = np.zeros(gate.shape[1])
    for k in np.unique(targets):
        own = gate[targets == k]
        between += len(own) * (own.mean(0) - mean) ** 2
    total = ((gate - mean) ** 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > len(gate) * 1e-14, between / total, np.nan)


def unit_blocks(gates: Sequence[FoldGates], n_classes: int) -> tuple[list[NDArray], list[NDArray]]:
    """Return each fold's unit means by speaker and class, and the number of utterances of each.

    Shape:
        (S, K, D), the units of all seeds side by side, and (S, K), for each fold
    """
    means: dict[int, list[NDArray]] = {}
    counts: dict[int, NDArray] = {}
    for fold in gates:
        speaker = np.unique(fold.speakers, return_inverse=True)[1]
        count = counts[fold.fold] = speaker_counts(fold.speakers, fold.targets, n_classes)
        total = np.zeros((*count.shape, fold.gate.shape[1]))
        np.add.at(total, (speaker, fold.targets), fold.gate)
        with np.errstate(invalid="ignore"):
            means.setdefault(fold.fold, []).append(total / count[..., None])
    return [np.concatenate(seeds, 2) for seeds in means.values()], list(counts.values())


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


def _questions(
    gates: Sequence[FoldGates],
    pooled: RunGates,
    cells: NDArray,
    groupings: Mapping[str, Groups],
    seconds: NDArray,
) -> list[Question]:
    """Test the five questions; leave out those that these utterances cannot answer.

    The units of a scalar gate are not asked about: their question is that of the class.
    """
    has_units = any(fold.gate.shape[1] > 1 for fold in gates)
    counts = speaker_counts(pooled.speakers, pooled.targets, cells.shape[1])
    tests: dict[Any, TestResult | None] = {
        "class": class_test(cells, counts),
        "units": unit_test(*unit_blocks(gates, cells.shape[1])) if has_units else None,
        "right": sign_flip_test(_right_minus_wrong(pooled)),
        "gender": _gender_test(pooled, groupings.get("gender")),
        "duration": sign_flip_test(_duration_correlations(pooled, seconds), most=1.0),
    }
    asked = {key: test for key, test in tests.items() if test is not None}
    adjusted = holm([test.p for test in asked.values()]) if asked else []
    return [
        Question(**vars(test), key=key, p_holm=p)
        for (key, test), p in zip(asked.items(), adjusted, strict=True)
    ]


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
