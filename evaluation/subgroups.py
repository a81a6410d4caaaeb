"""Scores of a run by group, its calibration, risk and coverage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.tasks import CLASS
from evaluation.calibration import (
    Calibration,
    RiskCoverage,
    apply_temperature,
    area_under_risk_coverage,
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)
from evaluation.metrics import SCORES
from evaluation.results import Breakdown, GroupScores
from evaluation.significance import speaker_interval
from evaluation.tasks import make_task
from evaluation.wording import in_markdown, markdown_table, percent, with_interval
from storage.fold_folder import PredictionTable
from storage.run_folder import Run
from system.files import corrupt_file
from system.text import count_of

GROUPINGS = ("gender", "speaker", "duration", "portion", "text")
UNKNOWN = "unknown"  # group of the utterances without a value
MAX_TEXTS = 20  # rows of the table; JSON has all
MEASURES = {  # of probabilities (N, K) and targets (N,)
    "ece": expected_calibration_error,
    "nll": negative_log_likelihood,
    "brier": brier,
}
MEASURE_NAMES = {
    "ece": "ECE, percent",
    "nll": "negative log-likelihood, nats",
    "brier": "Brier score, 0 to 2",
}
COVERAGES = (100, 90, 80, 70, 50)  # percent, in the table


class Groups(NamedTuple):
    """The groups of the test utterances: that of an utterance is `names[place]`."""

    names: list[str]  # (G,), in the order of the table
    place: NDArray  # (N,)


def breakdown(run: Run) -> Breakdown:
    """Return scores by group, calibration and the risk-coverage curve.

    `groups` holds rows by gender, speaker, quartile of duration, portion and text; a grouping
    without any value is left out. UA is the mean recall of the classes that occur in the group;
    `classes` is their number where not all do. Scores are means over seeds, utterances are counted
    once, the interval is over speakers; it is None where they do not vary.

    `calibration` pools all folds and seeds, so that an utterance counts once for each seed. The
    temperatures are fitted on the dev utterances of each fold and seed and applied to its test
    utterances: keys that end in `_scaled` are after that. `risk_coverage` is the mean over seeds at
    equal coverage, before scaling, and its `area` the mean risk over all coverages.

    Raises:
        RunError: A file of the run is corrupt.
    """
    tables = [run.of_seed(seed) for seed in run.seeds]
    utterances = tables[0].utterances.tolist()
    groupings = {name: _grouped(run, utterances, name) for name in GROUPINGS}
    return Breakdown(
        groups={
            name: [
                _row(tables, groups.place == i, group, len(run.classes))
                for i, group in enumerate(groups.names)
            ]
            for name, groups in groupings.items()
            if groups.names != [UNKNOWN]
        },
        calibration=_calibration(run),
        risk_coverage=_risk_coverage(tables),
    )


def group_by_value(values: Sequence[str]) -> Groups:
    """Group utterances by value, alphabetically; empty values are the last group, "unknown".

    >>> groups = group_by_value(["M", "F", "", "M"])
    >>> groups.names, groups.place.tolist()
    (['F', 'M', 'unknown'], [1, 0, 2, 1])
    """
    known = sorted({value for value in values if value})
    names = known + [UNKNOWN] * ("" in values)
    place = {**{name: i for i, name in enumerate(known)}, "": len(known)}
    return Groups(names, np.array([place[value] for value in values]))


def group_by_size(values: Sequence[str]) -> Groups:
    """Group utterances by value, the most frequent value first.

    >>> group_by_size(["b", "a", "c", "c"]).names
    ['c', 'a', 'b']
    """
    groups = group_by_value(values)
    counts = np.bincount(groups.place, minlength=len(groups.names))
    n_known = len(groups.names) - ("" in values)
    order = np.argsort(-counts[:n_known], kind="stable").tolist()
    order += range(n_known, len(groups.names))  # unknown stays last
    names = [groups.names[i] for i in order]
    return Groups(names, np.argsort(order)[groups.place])


def group_by_quartile(values: Sequence[str]) -> Groups:
    """Group utterances by the quartile of their duration in seconds; equal ones stay together.

    An edge is the duration of an utterance and belongs to the bin below it. Where many utterances
    are equally long there are fewer than four bins.

    >>> groups = group_by_quartile(["1.0", "2.0", "3.0", "4.5", "5.0"])
    >>> groups.names, groups.place.tolist()
    (['1.0 to 2.0 s', '2.0 to 3.0 s', '3.0 to 4.5 s', '4.5 to 5.0 s'], [0, 0, 1, 2, 3])
    """
    seconds = np.array([float(value or "nan") for value in values])  # (N,)
    known = seconds[~np.isnan(seconds)]
    if len(known) == 0:
        return group_by_value(values)
    edges = np.unique(np.quantile(known, [0.25, 0.5, 0.75, 1.0], method="inverted_cdf"))
    names = _ranges([float(known.min()), *edges.tolist()])
    place = np.where(np.isnan(seconds), len(edges), np.searchsorted(edges, seconds, side="left"))
    return Groups(names + [UNKNOWN] * (len(known) < len(seconds)), place)


def breakdown_markdown(name: str, parts: Breakdown) -> str:
    """Return the tables of one run in percent.

    Args:
        name: Name of the run.
        parts: Result of `breakdown`.
    """
    blocks = [
        f"**{in_markdown(name)} by group.** Percent, mean over seeds, [95 % interval over "
        "speakers]; UA is the mean recall of the classes that occur in the group."
    ]
    for grouping, rows in parts.groups.items():
        known = [row for row in rows if row.group != UNKNOWN]
        hidden = known[MAX_TEXTS:] if grouping == "text" else []
        blocks.append(_group_table(grouping, [row for row in rows if row not in hidden]))
        if hidden:
            n = sum(row.n for row in hidden)
            blocks.append(f"{len(hidden)} more texts ({count_of(n, 'utterance')}) are not shown.")
    blocks += [_calibration_text(name, parts.calibration)]
    blocks += [_risk_text(name, parts.risk_coverage)]
    return "\n\n".join(blocks) + "\n"


def _grouped(run: Run, utterances: Sequence[str], grouping: str) -> Groups:
    if grouping == "duration":
        try:
            return group_by_quartile(_about(run, utterances, "seconds"))
        except ValueError as error:
            raise corrupt_file(run.folder / "utterances.csv", f"seconds: {error}") from error
    values = _about(run, utterances, grouping)
    return group_by_size(values) if grouping == "text" else group_by_value(values)


def _about(run: Run, utterances: Sequence[str], column: str) -> list[str]:
    try:
        return [run.about[utterance][column] for utterance in utterances]
    except KeyError as error:
        reason = f"no {error} in it"
        raise corrupt_file(run.folder / "utterances.csv", reason) from error


def _row(
    tables: Sequence[PredictionTable], inside: NDArray, group: str, n_classes: int
) -> GroupScores:
    """Score one group, given by a mask (N,) of its utterances."""
    task = make_task(CLASS, [str(k) for k in range(n_classes)])
    counts = np.stack([task.by_speaker(table.take(inside)) for table in tables])
    ua, wa = (float(np.mean(SCORES[score](counts.sum(1)))) for score in ("ua", "wa"))
    interval = speaker_interval(counts, SCORES["ua"])
    present = int((counts[0].sum((0, 2)) > 0).sum())
    return GroupScores(
        group=group,
        n=int(inside.sum()),
        speakers=counts.shape[1],
        ua=ua,
        wa=wa,
        interval=interval,
        classes=present if present < n_classes else None,
    )


def _ranges(edges: Sequence[float]) -> list[str]:
    """Name the bins between edges in seconds, with as many decimals as distinguish them."""
    distinct = len(set(edges))
    decimals = next((d for d in (1, 2) if len({f"{e:.{d}f}" for e in edges}) == distinct), 3)
    words = [f"{edge:.{decimals}f}" for edge in edges]
    return [f"{low} to {high} s" for low, high in zip(words, words[1:], strict=False)]


def _calibration(run: Run) -> Calibration:
    temperatures = {
        f"fold {fold.fold} seed {fold.seed}": fit_temperature(fold.dev.probs, fold.dev.targets)
        for fold in run.folds
    }
    targets = np.concatenate([fold.test.targets for fold in run.folds])
    probs = np.concatenate([fold.test.probs for fold in run.folds])  # (folds * seeds * n, K)
    scaled = np.concatenate(
        [
            apply_temperature(fold.test.probs, temperature)
            for fold, temperature in zip(run.folds, temperatures.values(), strict=True)
        ]
    )
    measured: dict[str, Any] = {}
    for ending, values in (("", probs), ("_scaled", scaled)):
        measured |= {name + ending: measure(values, targets) for name, measure in MEASURES.items()}
        measured[f"reliability{ending}"] = reliability(values, targets)
    return Calibration(temperature=temperatures, **measured)


def _risk_coverage(tables: Sequence[PredictionTable]) -> RiskCoverage:
    """Return the curve at each percent of coverage, or at each utterance if there are fewer."""
    curves = [risk_coverage(table.probs, table.targets) for table in tables]
    coverage = curves[0][0]  # (N,), of all seeds alike
    risk = np.mean([risk for _, risk in curves], axis=0)  # (N,)
    taken = np.unique(-(-len(risk) * np.arange(1, 101) // 100)) - 1  # places, rounded up
    return RiskCoverage(
        coverage=coverage[taken].tolist(),
        risk=risk[taken].tolist(),
        area=float(np.mean([area_under_risk_coverage(t.probs, t.targets) for t in tables])),
    )


def _group_table(grouping: str, rows: Sequence[GroupScores]) -> str:
    cells = []
    for row in rows:
        few = "" if row.classes is None else f" ({row.classes} class{'es' * (row.classes > 1)})"
        ua = with_interval(row.ua, row.interval)
        cells.append([row.group, str(row.n), str(row.speakers), ua + few, percent(row.wa)])
    return markdown_table([grouping, "utterances", "speakers", "UA", "WA"], cells)


def _calibration_text(name: str, values: Calibration) -> str:
    rows = []
    for measure, words in MEASURE_NAMES.items():
        pair = [getattr(values, measure), getattr(values, f"{measure}_scaled")]
        cells = [percent(v) if measure == "ece" else f"{v:.3f}" for v in pair]
        rows.append([words, *cells])
    temperatures = values.temperature.values()
    above = (
        f"**{in_markdown(name)}: calibration** on the test utterances of all folds and seeds, as "
        f"trained and with temperatures fitted on each fold's dev utterances "
        f"({min(temperatures):.2f} to {max(temperatures):.2f}; above 1 the model was "
        "overconfident). Lower is better."
    )
    return f"{above}\n\n{markdown_table(['', 'as trained', 'with temperature'], rows)}"


def _risk_text(name: str, curve: RiskCoverage) -> str:
    coverage = np.array(curve.coverage)
    first = [int(np.argmax(coverage >= wanted / 100 - 1e-9)) for wanted in COVERAGES]
    above = (
        f"**{in_markdown(name)}: errors among the most confident utterances**, in percent, by the "
        "share of the utterances that the model labels; area under the curve "
        f"{percent(curve.area)}."
    )
    head = ["coverage", *(f"{wanted} %" for wanted in COVERAGES)]
    risks = ["risk", *(percent(curve.risk[i]) for i in first)]
    return f"{above}\n\n{markdown_table(head, [risks])}"
