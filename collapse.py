"""Signs that a fusion collapses, measured in every epoch: gate, gradients, rank of embeddings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contrast import alignment, uniformity

EDGE = 0.02  # a gate value nearer than this to 0 or 1 is saturated
MOST_SATURATED = 0.9  # share of such values at which the gate no longer mixes
LEAST_SPREAD = 0.005  # deviation over clips, mean over units, below which a gate is a constant
GRADIENT_FACTOR = 30.0  # between the branches' gradients, root mean square of a parameter
RANK_LEFT = 0.5  # of the highest rank so far
MOST_CLIPS = 1024  # of the dev split, for the ranks

Alarm = dict[str, Any]  # epoch, what, words


class Signs:
    """Watches one model: gradients of its branches in training, embeddings of the dev clips.

    Args:
        model: Not wrapped; with `head`, called with the features of both branches, and `parts`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._features: dict[str, list[Tensor]] = {}
        self._views: list[tuple[Tensor, Tensor]] = []

    def gradients(self) -> dict[str, float]:
        """Return the root mean square gradient of a parameter of each branch, before clipping."""
        found = {}
        for part, parameters in self.model.parts().items():  # type: ignore[operator]
            slopes = [p.grad for p in parameters if p.grad is not None]
            if part != "head" and slopes:
                n = sum(slope.numel() for slope in slopes)
                found[f"grad_{part}"] = float(nn.utils.get_total_norm(slopes)) / math.sqrt(n)
        return found

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the head gets and makes of the clips that pass meanwhile."""
        self._features, self._views = {"cqt": [], "mel": []}, []
        hook = self.model.head.register_forward_hook(self._keep)  # type: ignore[union-attr]
        try:
            yield
        finally:
            hook.remove()

    def of_epoch(self, gate: NDArray | None) -> dict[str, float]:
        """Return what is worth a column of the history, of the dev clips that passed.

        Args:
            gate: (N, D) of the dev clips, or None.
        """
        found: dict[str, float] = {}
        if gate is not None:
            found |= gate_measures(gate)
        for branch, parts in self._features.items():
            if parts:
                found[f"rank_{branch}"] = effective_rank(torch.cat(parts))
        if self._views:
            z_cqt, z_mel = (torch.cat(views) for views in zip(*self._views, strict=True))
            found["alignment"] = float(alignment(z_cqt, z_mel))
            found["uniformity_cqt"] = float(uniformity(z_cqt))
            found["uniformity_mel"] = float(uniformity(z_mel))
        return found

    def _keep(self, head: nn.Module, features: Sequence[Any], output: Any) -> None:
        for branch, feature in zip(self._features, features, strict=False):
            kept = self._features[branch]
            if feature is not None and sum(map(len, kept)) < MOST_CLIPS:
                pooled = feature.mean(1) if feature.ndim == 3 else feature  # tokens have a mean
                kept.append(pooled.float().cpu())
        if output.z_cqt is not None and sum(len(a) for a, _ in self._views) < MOST_CLIPS:
            self._views.append((output.z_cqt.float().cpu(), output.z_mel.float().cpu()))


def gate_measures(gate: NDArray) -> dict[str, float]:
    """Return mean, spread over clips, and saturation of gates (N, D).

    >>> gate_measures(np.array([[0.0, 0.5], [1.0, 0.5]]))
    {'gate_mean': 0.5, 'gate_spread': 0.25, 'gate_saturated': 0.5}
    """
    saturated = (gate < EDGE) | (gate > 1 - EDGE)
    return {
        "gate_mean": float(gate.mean()),
        "gate_spread": float(gate.std(0).mean()),
        "gate_saturated": float(saturated.mean()),
    }


def effective_rank(embeddings: Tensor) -> float:
    """Return how many directions embeddings fill, 1 to D, or 0 for a single point: (N, D) -> ().

    The exponential of the entropy of the singular values of the centred embeddings.

    Source:
        Roy & Vetterli 2007.
    """
    values = torch.linalg.svdvals(embeddings - embeddings.mean(0))  # (min(N, D),), largest first
    if values[0] <= 1e-6 * embeddings.norm():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def alarms(history: Sequence[Mapping[str, float]], n_classes: int) -> list[Alarm]:
    """Return what the last epoch of a history gives reason to warn of.

    Args:
        history: Rows, the last one of now.
        n_classes: K: less than K - 1 directions cannot hold K classes apart.
    """
    now = history[-1]
    words = {
        "gate saturated": _saturated(now),
        "gate constant": _constant(now),
        "gradients apart": _apart(now),
        "CQT embeddings collapse": _narrow(history, "rank_cqt", n_classes - 1),
        "Mel embeddings collapse": _narrow(history, "rank_mel", n_classes - 1),
    }
    return [
        {"epoch": int(now["epoch"]), "what": what, "words": said}
        for what, said in words.items()
        if said
    ]


def _saturated(now: Mapping[str, float]) -> str:
    share = now.get("gate_saturated", 0.0)
    if share <= MOST_SATURATED:
        return ""
    return f"{100 * share:.0f} % of its values are within {EDGE} of 0 or 1: it mixes no more"


def _constant(now: Mapping[str, float]) -> str:
    spread = now.get("gate_spread", math.inf)
    if spread >= LEAST_SPREAD:
        return ""
    return f"its values vary by {spread:.4f} over the dev clips: it is a constant"


def _apart(now: Mapping[str, float]) -> str:
    slopes = {name: now.get(f"grad_{key}", 0.0) for name, key in (("CQT", "cqt"), ("Mel", "mel"))}
    weak, strong = sorted(slopes, key=slopes.__getitem__)
    if not 0 < slopes[weak] * GRADIENT_FACTOR < slopes[strong]:
        return ""
    times = slopes[strong] / slopes[weak]
    return f"a parameter of the {strong} branch has {times:.0f} times the gradient of {weak}'s"


def _narrow(history: Sequence[Mapping[str, float]], key: str, least: int) -> str:
    ranks = [row[key] for row in history if key in row]
    if not ranks or ranks[-1] >= min(least, RANK_LEFT * max(ranks)):
        return ""
    return f"they fill {ranks[-1]:.1f} directions, {max(ranks):.1f} at best before"
