"""Warnings that a fusion collapses, measured in every epoch: gate, gradients, embeddings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from config.fusions import BRANCH_TITLES, SOURCES
from models.contrastive import alignment, mean_over, pairs_of, uniformity
from training.distributed import gather_rows

# Far from the worst epoch of small networks that learned (the demo configs; ravdess_small_gmu and
# _gmu_contrastive, fold 1, 5 epochs): 10 % of the gate values are saturated, gates vary by 0.0055,
# gradients are 10 times apart, embeddings spread by 4 % of their length and fill 5.3 directions for
# 4 classes, uniformity is -0.016. Views that were one point (same_class positives) had -0.0001.
EDGE = 0.02  # a gate value nearer than this to 0 or 1 is saturated
MOST_SATURATED = 0.9  # share of such values at which the gate no longer mixes
LEAST_SPREAD = 5e-4  # deviation over utterances, mean over units, below which a gate is a constant
GRADIENT_FACTOR = 100.0  # between the branches' gradients, root mean square of a parameter
POINT = 1e-3  # spread of embeddings, as a part of their length, below which they are one point
DIRECTIONS_LEFT = 0.5  # of the K - 1 that K classes need, and of the most that were filled
ONE_DIRECTION = 1.2  # effective rank near 1: too few directions for any number of classes
LEAST_EVEN = -5e-4  # uniformity above which views are one point: minus 2 x squared distance
MOST_CROPS = 1024  # evenly spread over the dev split, for ranks and views

CollapseWarning = dict[str, Any]  # epoch, what, words


class CollapseMonitor:
    """Monitors one model: gradients of its branches in training, embeddings of the dev split.

    Args:
        model: The plain model (not wrapped for DDP), with `parts` and a `head` that takes the
            features of its `branches` and returns a `FusionOutput`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        parts = model.parts()  # type: ignore[operator]
        self.branches = {name: part for name, part in parts.items() if name != "head"}
        self._seen: dict[str, list[Tensor]] = {}  # rows of the dev crops, by name

    def gradient_norms(self) -> dict[str, Tensor]:
        """Return the root mean square gradient of a parameter of each branch, before clipping.

        0 for a branch that gets none.
        """
        found = {}
        for part, parameters in self.branches.items():
            slopes = [p.grad for p in parameters if p.grad is not None]
            n = max(sum(slope.numel() for slope in slopes), 1)
            norm = nn.utils.get_total_norm(slopes) if slopes else parameters[0].new_zeros(())
            found[f"grad_{part}"] = norm.detach() / math.sqrt(n)
        return found

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record inputs and outputs of the head for all crops evaluated inside this block."""
        self._seen = {}
        hook = self.model.head.register_forward_hook(self._keep)  # type: ignore[union-attr]
        try:
            yield
        finally:
            hook.remove()

    def epoch_measures(self, gate: NDArray | None, accelerator: Accelerator) -> dict[str, float]:
        """Return the columns of the history that describe the recorded dev crops.

        Args:
            gate: Gates of the dev split, (N, D) or (N, n, D) of n sources, or None.
            accelerator: Processes of this training; each has recorded its share of the crops.
        """
        seen = {
            name: _spread(gather_rows(torch.cat(kept), accelerator))
            for name, kept in self._seen.items()
        }
        self._seen = {}
        branches = self.model.head.branches  # type: ignore[union-attr]
        found = {} if gate is None else gate_measures(gate, branches)  # type: ignore[arg-type]
        for branch in SOURCES:
            if branch in seen:
                found[f"rank_{branch}"] = effective_rank(seen[branch])
        views = {branch: seen[f"z_{branch}"] for branch in SOURCES if f"z_{branch}" in seen}
        if views:
            found["alignment"] = float(mean_over(pairs_of(list(views.values())), alignment))
            found |= {f"uniformity_{name}": float(uniformity(z)) for name, z in views.items()}
        return found

    def _keep(self, head: nn.Module, features: Sequence[Any], output: Any) -> None:
        branches: tuple[str, ...] = head.branches  # type: ignore[assignment]
        rows = dict(zip(branches, features, strict=True))
        if output.views is not None:
            rows |= dict(zip((f"z_{branch}" for branch in branches), output.views, strict=True))
        for name, tensor in rows.items():
            pooled = tensor.mean(1) if tensor.ndim == 3 else tensor  # tokens have a mean
            self._seen.setdefault(name, []).append(pooled.float().cpu())


def _spread(rows: Tensor) -> Tensor:
    """Return the rows, or `MOST_CROPS` of them that are evenly apart."""
    if len(rows) <= MOST_CROPS:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, MOST_CROPS).long()]


def gate_measures(gate: NDArray, branches: Sequence[str] = ("cqt", "mel")) -> dict[str, float]:
    """Return mean, spread over utterances (mean over units) and saturated share of gates.

    Args:
        gate: (N, D), the share of the first of two sources; or (N, n, D), the shares of n sources,
            which have a mean each. Their values of a unit are saturated where one share is near 1.
        branches: Names of the sources.

    >>> import numpy as np
    >>> gate_measures(np.array([[0.0, 0.5], [1.0, 0.5]]))
    {'gate_mean': 0.5, 'gate_spread': 0.25, 'gate_saturated': 0.5}
    """
    if gate.ndim == 2:
        means = {"gate_mean": float(gate.mean())}
        saturated = (gate < EDGE) | (gate > 1 - EDGE)
    else:
        shares = gate.mean((0, 2))  # (n,)
        means = {f"gate_mean_{b}": float(s) for b, s in zip(branches, shares, strict=True)}
        saturated = gate.max(1) > 1 - EDGE  # (N, D)
    return {
        **means,
        "gate_spread": float(gate.std(0).mean()),
        "gate_saturated": float(saturated.mean()),
    }


def effective_rank(embeddings: Tensor) -> float:
    """Return how many directions embeddings fill: (N, D) -> 1 to min(N - 1, D).

    The exponential of the entropy of the singular values of the centred embeddings. 0 where they
    are nearly one point; NaN for a single embedding, and where some are not finite.

    Source:
        Roy & Vetterli 2007; there nothing is centred.
    """
    if len(embeddings) < 2 or not embeddings.isfinite().all():
        return math.nan
    centred = embeddings - embeddings.mean(0)
    if centred.norm() <= POINT * embeddings.norm():
        return 0.0
    values = torch.linalg.svdvals(centred)  # (min(N, D),)
    return float(torch.special.entr(values / values.sum()).sum().exp())


def collapse_warnings(
    history: Sequence[Mapping[str, float]], n_classes: int
) -> list[CollapseWarning]:
    """Return the warnings for the last epoch of a history.

    Args:
        history: One row an epoch; a value that is missing or NaN gives no warning.
        n_classes: Number of classes K.
    """
    now = history[-1]
    words = {
        "gate saturated": _saturated(now),
        "gate constant": _constant(now),
        "gradients apart": _apart(now),
        **{
            f"{title} embeddings collapse": _narrow(history, f"rank_{branch}", n_classes)
            for branch, title in BRANCH_TITLES.items()
        },
        "views collapse": _uneven(now),
    }
    return [
        {"epoch": int(now["epoch"]), "what": what, "words": said}
        for what, said in words.items()
        if said
    ]


def _saturated(now: Mapping[str, float]) -> str:
    share = now.get("gate_saturated", math.nan)
    if not share > MOST_SATURATED:
        return ""
    return (
        f"{100 * share:.0f} % of its values are within {EDGE} of 0 or 1, where it no longer mixes"
    )


def _constant(now: Mapping[str, float]) -> str:
    spread = now.get("gate_spread", math.nan)
    if not spread < LEAST_SPREAD:
        return ""
    return f"its values vary by {spread:.5f} over the dev utterances, whatever the input"


def _apart(now: Mapping[str, float]) -> str:
    slopes = {  # of the backbones: adapters of a speech model have gradients of another size
        name: now.get(key, math.nan) for name, key in (("CQT", "grad_cqt"), ("Mel", "grad_mel"))
    }
    weak, strong = sorted(slopes, key=slopes.__getitem__)
    if not slopes[weak] * GRADIENT_FACTOR < slopes[strong]:
        return ""
    if slopes[weak] == 0:
        return f"the {weak} branch gets no gradient"
    times = slopes[strong] / slopes[weak]
    return f"a parameter of the {strong} branch gets {times:.0f} times the gradient of the {weak}'s"


def _narrow(history: Sequence[Mapping[str, float]], key: str, n_classes: int) -> str:
    ranks = [row[key] for row in history if not math.isnan(row.get(key, math.nan))]
    if not ranks or math.isnan(history[-1].get(key, math.nan)):
        return ""
    if ranks[-1] == 0:
        return "all dev embeddings are nearly identical"
    least = max(DIRECTIONS_LEFT * (n_classes - 1), ONE_DIRECTION)
    if ranks[-1] >= min(least, DIRECTIONS_LEFT * max(ranks)):
        return ""
    return f"they fill {ranks[-1]:.1f} directions, after {max(ranks):.1f} at best"


def _uneven(now: Mapping[str, float]) -> str:
    found = {
        title: now.get(f"uniformity_{branch}", math.nan) for branch, title in BRANCH_TITLES.items()
    }
    points = [title for title, value in found.items() if value > LEAST_EVEN]
    if not points:
        return ""
    return f"the {' and '.join(points)} views of all dev utterances are nearly one point"
