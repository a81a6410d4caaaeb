"""Shares of the gate, and weights of the layers of a speech model, as the page shows them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from config.fusions import branches_of
from evaluation import share_figures
from evaluation.figures import svg_text
from evaluation.layer_table import CAPTION, layer_rows
from evaluation.results import Comparison
from evaluation.shares import titles
from evaluation.tasks import task_of
from reports.media import data_uri
from storage.run_folder import Run


def share_sections(runs: Sequence[Run], shown: Sequence[int]) -> list[dict[str, Any]]:
    """Return tables and figures of the runs that gate other sources than both images.

    Args:
        runs: All runs of the page.
        shown: Classes that are shown, by index; empty shows all groups of targets.
    """
    sections = []
    for place, run in enumerate(runs):
        tables = [fold.test for fold in run.folds]
        found = [table.shares for table in tables if table.shares is not None]
        if len(found) < len(tables):
            continue
        shares, task = np.concatenate(found), task_of(run.folds[0])  # (N, n)
        targets = np.concatenate([task.group_of(table.targets) for table in tables])
        preds = np.concatenate([task.group_of(table.preds) for table in tables])
        groups, sources = shown or range(len(task.group_names)), branches_of(run.config)
        means = np.full((len(groups), len(sources)), np.nan)
        for row, k in enumerate(groups):
            if (inside := targets == k).any():
                means[row] = shares[inside].mean(0)
        names = [task.group_names[k] for k in groups]
        plots = {
            "histograms": share_figures.share_histograms(shares, preds == targets, sources),
            "by_class": share_figures.class_shares(means, names, sources),
        }
        rows = [
            [name, *(f"{value:.3f}" for value in (own.mean(), own.min(), own.max()))]
            for name, own in zip(titles(sources), shares.T, strict=True)
        ]
        svgs = {name: _svg_uri(figure) for name, figure in plots.items()}
        sections.append({"run": place, "rows": rows, "n": len(shares), **svgs})
    return sections


def layer_section(comparison: Comparison) -> dict[str, Any] | None:
    """Return table and figures of the weights of a speech model's layers; None without any."""
    head, rows = layer_rows(comparison.runs)
    if not rows:
        return None
    plots = []
    for place, run in enumerate(comparison.runs):
        if (own := run.layer_weights) is not None:
            figure = share_figures.layer_bars(own.layers, np.array(list(own.weights.values())))
            plots.append({"run": place, "plot": _svg_uri(figure)})
    return {"caption": CAPTION, "head": head, "rows": rows, "plots": plots}


def _svg_uri(figure: Any) -> str:
    return data_uri("image/svg+xml", svg_text(figure).encode())
