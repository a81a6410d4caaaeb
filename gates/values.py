"""The gates of frozen weights on the test utterances: by utterance, and by unit.

Polarity of both images, everywhere: 1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2. Of other sources each
has its share of the gate: 1 = this source alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.fusions import IMAGES
from gates.frozen import FrozenFold, Fused
from gates.results import group_names
from gates.statistics import speaker_counts
from storage.run_folder import Run

UTTERANCE = "fold seed utterance speaker gender seconds target pred right confidence".split()
OVER_UNITS = ["mean", "std", "min", "max"]
MEASURES = [f"gate_{name}" for name in OVER_UNITS]
UNIT_MEASURES = ["gate_mean", "gate_std", "explained_by_class"]


class FoldGates(NamedTuple):
    """One source's share of the gate for the test utterances of one fold and seed.

    Utterances are in the order of predictions.csv.
    """

    fold: int
    seed: int
    utterances: NDArray  # (N,)
    speakers: NDArray  # (N,)
    targets: NDArray  # (N,) class, or group of like targets
    preds: NDArray  # (N,) likewise
    confidence: NDArray  # (N,) highest probability; NaN of ratings
    gate: NDArray  # (N, D), or (N, 1) of a scalar gate
    share: NDArray  # (N,) the source's share of the size of the fused vector


Gates = Mapping[str, Sequence[FoldGates]]  # of all models by source; of images CQT's alone


class RunGates(NamedTuple):
    """One source's shares for the test utterances of all folds, once for each seed: M = R * N."""

    utterances: NDArray
    speakers: NDArray
    folds: NDArray
    targets: NDArray
    right: NDArray  # True where the prediction is right
    gate: NDArray  # mean over units
    share: NDArray
    seeds: NDArray


def fold_gates(frozen: FrozenFold, fused: Fused) -> dict[str, FoldGates]:
    """Return the gates of a gated fold by source: of both images those of CQT alone."""
    gate, share, sources = fused.gate, fused.share, frozen.model.reads
    if gate is None or share is None:
        raise ValueError("this fusion has no gate")
    result, table, task = frozen.result, frozen.result.test, frozen.fold.task
    shares = [gate, 1 - gate] if gate.ndim == 2 else [gate[:, s] for s in range(len(sources))]
    return {
        source: FoldGates(
            *(result.fold, result.seed, table.utterances, table.speakers),
            *(task.group_of(table.targets), task.group_of(fused.preds)),
            *(task.certainty(fused.probs), shares[s], share[:, s]),
        )
        for s, source in enumerate(sources[:1] if sources == IMAGES else sources)
    }


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


def utterance_columns(gates: Gates) -> list[str]:
    """Return the head of utterances.csv; of other sources than images a column names its source."""
    if tuple(gates) == IMAGES[:1]:
        return [*UTTERANCE, *MEASURES, "cqt_share"]
    named = [f"{name}_{source}" for source in gates for name in (*MEASURES, "vector_share")]
    return [*UTTERANCE, *named]


def utterance_rows(run: Run, gates: Gates) -> Iterator[list[Any]]:
    """Yield the rows of utterances.csv, one for each utterance and seed."""
    names = group_names(run)
    for folds in zip(*gates.values(), strict=True):
        measures = [
            values
            for one in folds
            for values in (*(getattr(one.gate, name)(1) for name in OVER_UNITS), one.share)
        ]
        fold = folds[0]
        for i, name in enumerate(fold.utterances.tolist()):
            about = run.about.get(name, {})
            target, pred = names[fold.targets[i]], names[fold.preds[i]]
            yield [
                *(fold.fold, fold.seed, name, fold.speakers[i]),
                *(about.get("gender", ""), about.get("seconds", ""), target, pred),
                *(int(target == pred), _cell(fold.confidence[i])),
                *(f"{values[i]:.6f}" for values in measures),
            ]


def unit_columns(run: Run, gates: Gates) -> list[str]:
    """Return the head of units.csv; of other sources than images a row names its source."""
    source = [] if tuple(gates) == IMAGES[:1] else ["source"]
    means = [f"mean_{name}" for name in group_names(run)]
    return ["fold", "seed", *source, "unit", *UNIT_MEASURES, *means]


def unit_rows(run: Run, gates: Gates) -> Iterator[list[Any]]:
    """Yield the rows of units.csv; units of different folds and seeds are different units."""
    for folds in zip(*gates.values(), strict=True):
        for source, fold in zip(gates, folds, strict=True):
            named = [] if tuple(gates) == IMAGES[:1] else [source]
            by_class = unit_means(fold, len(group_names(run)))
            explained = explained_by_class(fold.gate, fold.targets)
            for unit, values in enumerate(by_class):
                column = fold.gate[:, unit]
                cells = [column.mean(), column.std(), explained[unit], *values]
                yield [fold.fold, fold.seed, *named, unit, *map(_cell, cells)]


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
