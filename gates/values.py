"""What the gates of frozen weights do on the test clips: by clip, by unit, by group of clips.

Polarity everywhere: 1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.significance import holm
from evaluation.subgroups import UNKNOWN, Groups, group_by_quartile, group_by_value
from gates.frozen import FrozenFold, Fused
from gates.statistics import (
    Finding,
    class_intervals,
    class_test,
    group_test,
    rank_correlations,
    sign_flip_test,
    speaker_counts,
    speaker_means,
    unit_test,
    within_interval,
)
from storage.run_folder import Run
from training.collapse import EDGE

CLIP_COLUMNS = (
    "fold seed utterance speaker gender seconds target pred right confidence "
    "gate_mean gate_std gate_min gate_max cqt_share"
).split()
UNIT_COLUMNS = ["fold", "seed", "unit", "gate_mean", "gate_std", "explained_by_class"]


class Gates(NamedTuple):
    """The gates of the test clips of one fold and seed, in the order of predictions.csv."""

    fold: int
    seed: int
    utterances: NDArray  # (N,)
    speakers: NDArray  # (N,)
    targets: NDArray  # (N,)
    preds: NDArray  # (N,)
    confidence: NDArray  # (N,) highest probability
    gate: NDArray  # (N, D), or (N, 1) of a scalar gate
    share: NDArray  # (N,) CQT's part of the size of the fused vector


class Clips(NamedTuple):
    """The test clips of all folds, once for each seed: M = R * N."""

    utterances: NDArray
    speakers: NDArray
    folds: NDArray
    targets: NDArray
    right: NDArray  # whether the prediction is
    gate: NDArray  # mean over units
    share: NDArray
    seeds: NDArray


def gates_of(frozen: FrozenFold, fused: Fused) -> Gates:
    """Return the gates of a gated fold."""
    if fused.gate is None or fused.share is None:
        raise ValueError("this fusion has no gate")
    one, table = frozen.one, frozen.one.test
    probs = fused.probs
    return Gates(
        *(one.fold, one.seed, table.utterances, table.speakers, table.targets),
        *(fused.preds, probs.max(1), fused.gate, fused.share),
    )


def describe_gates(run: Run, found: Sequence[Gates]) -> dict[str, Any]:
    """Return the gates by group with intervals, and five questions, ready for JSON.

    A group's mean is the mean over speakers of their own means, over clips and seeds; its interval
    is Student's t over speakers within folds, see `gate_statistics.within_interval`. P-values are
    Holm-corrected over the questions that can be asked.

    Args:
        run: That they are of.
        found: Of all its folds and seeds.

    Raises:
        RunError: utterances.csv is corrupt.
    """
    clips = joined(found)
    places = _groupings(run, clips)
    cells = speaker_means(clips.gate, clips.speakers, clips.targets, len(run.classes))
    return {
        "mean": _mean(clips.gate, clips.speakers, clips.folds),
        "share": _mean(clips.share, clips.speakers, clips.folds),
        "groups": {name: _groups(clips, groups) for name, groups in places.items()},
        "deviations": _deviations(run.classes, cells),
        "questions": _questions(found, clips, cells, places, _seconds(run, clips)),
        "models": [_model(one, len(run.classes)) for one in found],
    }


def joined(found: Sequence[Gates]) -> Clips:
    """Return the clips of all folds and seeds, one after another."""
    columns = zip(
        *(
            (
                *(one.utterances, one.speakers, np.full(len(one.targets), one.fold), one.targets),
                *(one.preds == one.targets, one.gate.mean(1), one.share),
                np.full(len(one.targets), one.seed),
            )
            for one in found
        ),
        strict=True,
    )
    return Clips(*(np.concatenate(column) for column in columns))


def clip_rows(run: Run, found: Sequence[Gates]) -> Iterator[list[Any]]:
    """Yield the rows of clips.csv."""
    for one in found:
        gate = one.gate
        measures = (gate.mean(1), gate.std(1), gate.min(1), gate.max(1), one.share)
        for i, name in enumerate(one.utterances.tolist()):
            about = run.about.get(name, {})
            target, pred = run.classes[one.targets[i]], run.classes[one.preds[i]]
            yield [
                *(one.fold, one.seed, name, one.speakers[i]),
                *(about.get("gender", ""), about.get("seconds", ""), target, pred),
                *(int(target == pred), f"{one.confidence[i]:.6f}"),
                *(f"{values[i]:.6f}" for values in measures),
            ]


def unit_rows(run: Run, found: Sequence[Gates]) -> Iterator[list[Any]]:
    """Yield the rows of units.csv; units of different folds and seeds are different units."""
    for one in found:
        by_class = unit_means(one, len(run.classes))
        explained = explained_by_class(one.gate, one.targets)
        for unit, values in enumerate(by_class):
            column = one.gate[:, unit]
            cells = [column.mean(), column.std(), explained[unit], *values]
            yield [one.fold, one.seed, unit, *("" if np.isnan(v) else f"{v:.6f}" for v in cells)]


def unit_means(one: Gates, n_classes: int) -> NDArray:
    """Return the mean gate of each unit and class, NaN where there is no clip: (D, K)."""
    means = [one.gate[one.targets == k] for k in range(n_classes)]
    missing = np.full(one.gate.shape[1], np.nan)
    return np.stack([m.mean(0) if len(m) else missing for m in means], 1)


def explained_by_class(gate: NDArray, targets: NDArray) -> NDArray:
    """Return the part of each unit's variance over clips that is between classes: (N, D) -> (D,).

    NaN for a unit that is a constant. Of chance alone it is about (K - 1) / (N - 1).

    >>> explained_by_class(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]),
    ...                    np.array([0, 0, 1, 1])).tolist()
    [1.0, 0.0]
    """
    gate = gate.astype(float)
    middle = gate.mean(0)
    between = np.zeros(gate.shape[1])
    for k in np.unique(targets):
        own = gate[targets == k]
        between += len(own) * (own.mean(0) - middle) ** 2
    whole = ((gate - middle) ** 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > len(gate) * 1e-14, between / whole, np.nan)


def _mean(values: NDArray, speakers: NDArray, folds: NDArray) -> dict[str, Any]:
    """Return the mean over speakers of some clips, with its interval given the folds' models."""
    own = speaker_means(values, speakers, np.zeros(len(values), int), 1)[:, 0]  # (S,)
    counted = {"n": len(values), "speakers": len(own)}
    interval = within_interval(own, _blocks(speakers, folds))
    return {**counted, "mean": float(own.mean()), "interval": interval}


def _blocks(speakers: NDArray, folds: NDArray) -> NDArray:
    """Return the fold of each speaker, in sorted order, or 0 where some have several: (S,)."""
    names, first = np.unique(speakers, return_index=True)
    in_one = all(len(np.unique(folds[speakers == name])) == 1 for name in names)
    return folds[first] if in_one else np.zeros(len(names), int)


def _groupings(run: Run, clips: Clips) -> dict[str, Groups]:
    genders = [run.about.get(u, {}).get("gender", "") for u in clips.utterances.tolist()]
    seconds = [run.about.get(u, {}).get("seconds", "") for u in clips.utterances.tolist()]
    found = {
        "class": Groups(list(run.classes), clips.targets),
        "prediction": Groups(["wrong", "right"], clips.right.astype(int)),
        "gender": group_by_value(genders),
        "duration": group_by_quartile(seconds),
        "speaker": group_by_value(clips.speakers.tolist()),
    }
    return {name: groups for name, groups in found.items() if groups.names != [UNKNOWN]}


def _groups(clips: Clips, groups: Groups) -> list[dict[str, Any]]:
    rows, of_clip = [], (clips.gate, clips.speakers, clips.folds)
    for place, name in enumerate(groups.names):
        inside = groups.place == place
        if inside.any():
            rows.append({"group": name, **_mean(*(c[inside] for c in of_clip))})
    return rows


def _deviations(classes: Sequence[str], cells: NDArray) -> list[dict[str, Any]]:
    """Return each class's deviation from the speaker's mean over its classes."""
    return [
        {"class": name, "mean": found[0], "interval": found[1], "speakers": found[2]}
        for name, found in zip(classes, class_intervals(cells), strict=True)
        if found is not None
    ]


def _seconds(run: Run, clips: Clips) -> NDArray:
    values = [run.about.get(u, {}).get("seconds", "") for u in clips.utterances.tolist()]
    return np.array([float(value or "nan") for value in values])


def _questions(
    gates: Sequence[Gates],
    clips: Clips,
    cells: NDArray,
    places: Mapping[str, Groups],
    seconds: NDArray,
) -> list[dict[str, Any]]:
    """Ask all five; those that cannot be asked of these clips are left out.

    Of a scalar gate the units are no question beside the class.
    """
    has_units = any(one.gate.shape[1] > 1 for one in gates)
    found = {
        "class": class_test(cells, speaker_counts(clips.speakers, clips.targets, cells.shape[1])),
        "units": unit_test(*unit_blocks(gates, cells.shape[1])) if has_units else None,
        "right": sign_flip_test(_right_minus_wrong(clips)),
        "gender": _by_gender(clips, places.get("gender")),
        "duration": sign_flip_test(_with_duration(clips, seconds), most=1.0),
    }
    asked = {key: one for key, one in found.items() if one is not None}
    adjusted = holm([one.p for one in asked.values()]) if asked else []
    return [
        {"key": key, **one._asdict(), "p_holm": p}
        for (key, one), p in zip(asked.items(), adjusted, strict=True)
    ]


def unit_blocks(gates: Sequence[Gates], n_classes: int) -> tuple[list[NDArray], list[NDArray]]:
    """Return each fold's unit means by speaker and class, seeds side by side, and their clips.

    Shape:
        (S, K, D) and (S, K), for each fold
    """
    found: dict[int, list[NDArray]] = {}
    counts: dict[int, NDArray] = {}
    for one in gates:
        place = np.unique(one.speakers, return_inverse=True)[1]
        count = counts[one.fold] = speaker_counts(one.speakers, one.targets, n_classes)
        total = np.zeros((*count.shape, one.gate.shape[1]))
        np.add.at(total, (place, one.targets), one.gate)
        with np.errstate(invalid="ignore"):
            found.setdefault(one.fold, []).append(total / count[..., None])
    return [np.concatenate(seeds, 2) for seeds in found.values()], list(counts.values())


def _right_minus_wrong(clips: Clips) -> NDArray:
    """Return each speaker's difference, mean over the seeds that have both: (U,)."""
    each = []
    for seed in np.unique(clips.seeds):
        own = clips.seeds == seed
        right = clips.right[own].astype(int)
        cells = speaker_means(clips.gate[own], clips.speakers[own], right, 2)
        each.append(cells[:, 1] - cells[:, 0])  # (S,), every seed tested the same speakers
    values = np.array(each)  # (R, S)
    return np.nanmean(values[:, ~np.isnan(values).all(0)], axis=0)


def _by_gender(clips: Clips, groups: Groups | None) -> Finding | None:
    """Compare the genders within folds; where each fold tests one speaker, among them.

    Not asked where the folds are of one gender each: their models could be the difference.
    """
    if groups is None or len(known := [n for n in groups.names if n != UNKNOWN]) != 2:
        return None
    speakers, first = np.unique(clips.speakers, return_index=True)
    gender = groups.place[first]  # (S,), of the first clip of each
    told = gender < len(known)
    own = speaker_means(clips.gate, clips.speakers, np.zeros(len(clips.gate), int), 1)[:, 0]
    blocks = _blocks(clips.speakers, clips.folds)
    if not _mixed(blocks[told], gender[told]):
        if np.unique(blocks[told], return_counts=True)[1].max() > 1:
            return None  # a fold's speakers share a model: it may be that which differs
        blocks = np.zeros(len(speakers), int)  # one speaker a fold: exchanged among folds
    return group_test(own[told], gender[told] == 0, blocks[told])


def _mixed(blocks: NDArray, gender: NDArray) -> bool:
    return any(len(np.unique(gender[blocks == block])) > 1 for block in np.unique(blocks))


def _with_duration(clips: Clips, seconds: NDArray) -> NDArray:
    """Return each speaker's rank correlation of gate and duration, seeds averaged first: (U,)."""
    first = clips.seeds == clips.seeds[0]
    place = np.unique(clips.utterances, return_inverse=True)[1]
    gate = np.bincount(place, clips.gate) / np.bincount(place)  # (N,) sorted by utterance
    order = np.argsort(clips.utterances[first])
    return rank_correlations(gate, seconds[first][order], clips.speakers[first][order])


def _model(one: Gates, n_classes: int) -> dict[str, Any]:
    """Return what one fold and seed's gate does as a whole."""
    gate = one.gate
    explained = explained_by_class(gate, one.targets)
    told = explained[~np.isnan(explained)]
    return {
        "fold": one.fold,
        "seed": one.seed,
        "units": gate.shape[1],
        "mean": float(gate.mean()),
        "spread_over_clips": float(gate.std(0).mean()),
        "spread_over_units": float(gate.std(1).mean()),
        "saturated": float(((gate < EDGE) | (gate > 1 - EDGE)).mean()),
        "explained_by_class": float(told.mean()) if len(told) else None,
        "by_chance": (min(n_classes, len(np.unique(one.targets))) - 1) / max(1, len(gate) - 1),
    }
