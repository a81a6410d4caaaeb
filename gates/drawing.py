"""The figures of an analysis, by the names in `results.FIGURES`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from config.fusions import IMAGES
from evaluation.figures import MANY
from evaluation.share_figures import class_shares
from gates import figures, share_figures
from gates.results import GateResults
from gates.values import FoldGates, Gates, join_gates, unit_means
from gates.wording import measure_of
from storage.run_folder import Run
from training.tensorboard import SHARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GATE_COLUMNS = ("gate_mean", "gate_spread")  # of history.csv, of both images


def draw(run: Run, results: GateResults, gates: Gates) -> dict[str, "Figure"]:
    """Return the figures of at most `MANY` classes; of other sources than images, of all shares."""
    drawn: dict[str, Figure] = {}
    if results.gates is not None:
        of_gates = _draw_gate if results.of_images else _draw_shares
        drawn |= of_gates(run, results, gates)
    if results.branch_ablation is not None:
        drawn["falls"] = figures.falls(results.branch_ablation, measure_of(results))
    return drawn


def has_epochs(run: Run, sources: Sequence[str]) -> bool:
    """Return whether history.csv of a fold has the gate of each epoch."""
    return bool(_epochs(run) if tuple(sources) == IMAGES[:1] else _share_epochs(run, sources))


def _draw_gate(run: Run, results: GateResults, by_source: Gates) -> dict[str, "Figure"]:
    (gates,) = by_source.values()
    drawn: dict[str, Figure] = {}
    pooled, classes = join_gates(gates), results.classes[:MANY]
    by_class = [pooled.gate[pooled.targets == k] for k in range(len(classes))]
    drawn["class_histograms"] = figures.class_histograms(by_class, classes)
    if results.gates is not None and results.gates.deviations:
        drawn["class_deviations"] = figures.class_deviations(results.gates.deviations[:MANY])
    if gates[0].gate.shape[1] > 1:  # one gate for all units is in the histograms
        units = [_units(fold, len(results.classes)) for fold in gates[: figures.MAX_PANELS]]
        drawn["unit_heat_maps"] = figures.unit_heat_maps(units, classes, len(gates))
    confidence = np.concatenate([fold.confidence for fold in gates])
    if not np.isnan(confidence).any():
        drawn["gate_and_confidence"] = figures.gate_and_confidence(
            pooled.gate, confidence, pooled.right
        )
    if lines := _epochs(run):
        drawn["gate_over_epochs"] = figures.gate_over_epochs(lines)
    return drawn


def _draw_shares(run: Run, results: GateResults, gates: Gates) -> dict[str, "Figure"]:
    drawn: dict[str, Figure] = {}
    pooled = {source: join_gates(folds) for source, folds in gates.items()}
    first, sources, classes = pooled[results.sources[0]], list(gates), results.classes[:MANY]
    shares = np.stack([one.gate for one in pooled.values()], 1)  # (M, n)
    by_class = [shares[first.targets == k] for k in range(len(classes))]
    drawn["class_shares"] = class_shares(_means(by_class), classes, sources)
    drawn["class_histograms"] = share_figures.class_histograms(by_class, classes, sources)
    if results.gates is not None and results.gates.deviations:
        drawn["class_deviations"] = share_figures.class_deviations(results.described, MANY)
    if gates[sources[0]][0].gate.shape[1] > 1:  # one share for all units is in the histograms
        models = list(zip(*gates.values(), strict=True))
        n_shown = max(1, figures.MAX_PANELS // len(sources))
        units = [
            _units(fold, len(results.classes), source, len(sources))
            for folds in models[:n_shown]
            for source, fold in zip(sources, folds, strict=True)
        ]
        drawn["unit_heat_maps"] = figures.unit_heat_maps(
            units,
            classes,
            len(models) * len(sources),
            "purple: a larger share of that source",
        )
    confidence = np.concatenate([fold.confidence for fold in gates[sources[0]]])
    if not np.isnan(confidence).any():
        drawn["gate_and_confidence"] = share_figures.gate_and_confidence(
            shares, confidence, first.right, sources
        )
    if lines := _share_epochs(run, sources):
        drawn["gate_over_epochs"] = share_figures.gate_over_epochs(lines, sources)
    return drawn


def _means(by_class: Sequence[NDArray]) -> NDArray:
    """Return the mean shares of each class, NaN where there is no utterance: (K, n)."""
    missing = np.full(by_class[0].shape[1], np.nan)
    return np.stack([values.mean(0) if len(values) else missing for values in by_class])


def _units(
    gates: FoldGates, n_classes: int, source: str | None = None, n_sources: int = 2
) -> figures.Units:
    title, means = f"fold {gates.fold} seed {gates.seed}", gates.gate.mean(0)
    by_class = unit_means(gates, n_classes)[:, :MANY]
    if source is None:
        return figures.Units(title, means, by_class)
    title = share_figures.units_title(title, source)
    return figures.Units(title, means, by_class, ("0", "1"), 1 / n_sources)


def _epochs(run: Run) -> list[figures.Epochs]:
    """Return the gate by epoch, of the folds whose history has it."""
    lines = []
    for result in run.folds:
        rows = result.history()
        if all(column in rows[0] for column in GATE_COLUMNS):
            epoch, mean, spread = ([row[name] for row in rows] for name in ("epoch", *GATE_COLUMNS))
            lines.append(figures.Epochs(epoch, mean, spread, result.metrics.best_epoch))
    return lines


def _share_epochs(run: Run, sources: Sequence[str]) -> list[share_figures.ShareEpochs]:
    """Return the shares by epoch, of the folds whose history has them."""
    lines = []
    for result in run.folds:
        rows, columns = result.history(), {name: f"{SHARE}{name}" for name in sources}
        if all(column in rows[0] for column in columns.values()):
            means = {name: [row[column] for row in rows] for name, column in columns.items()}
            epochs = [row["epoch"] for row in rows]
            lines.append(share_figures.ShareEpochs(epochs, means, result.metrics.best_epoch))
    return lines
