"""What each layer of a speech model is worth to a run: the learned weights over models, a table."""

from collections.abc import Sequence

import numpy as np

from config.fusions import branches_of
from evaluation.results import RunSummary
from evaluation.wording import markdown_table
from storage.layer_weights import LayerWeights, read_layer_weights
from storage.run_folder import Run

CAPTION = (
    "Learned weights of the hidden states of the speech model, which add up to 1 in each model: "
    "mean ± standard deviation over models (folds and seeds). State 0 enters the first layer, 1 "
    "leaves it. All states of a model start at the same weight, 1 / their number; each is "
    "standardised before it is weighed."
)


def layer_weights(run: Run) -> LayerWeights | None:
    """Return the weights of a run's models; None where it reads no speech model.

    Raises:
        RunError: A file of a fold is corrupt.
    """
    if run.is_baseline or "speech" not in branches_of(run.config):
        return None
    found = {f"fold {f.fold} seed {f.seed}": read_layer_weights(f.folder) for f in run.folds}
    layers = next(iter(found.values()))
    if not layers or any(weights.keys() != layers.keys() for weights in found.values()):
        return None
    return LayerWeights(
        layers=list(layers),
        weights={name: list(weights.values()) for name, weights in found.items()},
    )


def layer_rows(runs: Sequence[RunSummary]) -> tuple[list[str], list[list[str]]]:
    """Return the header, and one row a hidden state with a column a run; empty without any."""
    read = {run.name: run.layer_weights for run in runs if run.layer_weights is not None}
    layers = sorted({layer for weights in read.values() for layer in weights.layers})
    rows = [[str(layer), *(_cell(own, layer) for own in read.values())] for layer in layers]
    return ["state", *read], rows


def layers_markdown(runs: Sequence[RunSummary]) -> list[str]:
    """Return caption and table of the runs that read a speech model; empty without any."""
    head, rows = layer_rows(runs)
    if not rows:
        return []
    return [CAPTION, markdown_table(head, rows)]


def _cell(own: LayerWeights, layer: int) -> str:
    if layer not in own.layers:
        return "–"
    values = [weights[own.layers.index(layer)] for weights in own.weights.values()]
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"
