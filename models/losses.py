"""What is minimised: cross-entropy, and the contrastive terms of GloMER."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.augment import Mix
from models.contrastive import consistency, diversity, nt_xent

SIGNS = {"minimised": 1.0, "maximised": -1.0}


class LossTerms(NamedTuple):
    """The sum that is minimised and its parts, scalars; None where the fusion has no such part."""

    total: Tensor
    cross_entropy: Tensor
    nt_xent: Tensor | None
    consistency: Tensor | None
    diversity: Tensor | None

    def detach(self) -> "LossTerms":
        """Return the values without their graphs."""
        return LossTerms(*(None if term is None else term.detach() for term in self))  # type: ignore[arg-type]


class FusionLoss(nn.Module):
    """L = L_CE + L_NTXent + alpha * (L_con + L_div); L_CE alone where there are no views.

    Args:
        alpha: Weight of consistency and diversity, 0 to 1.5.
        temperature: Of NT-Xent, see `Temperature`; smaller is harder.
        form: See `contrast.nt_xent`.
        label_smoothing: Of cross-entropy.
        class_weights: (K,) of cross-entropy, or None.
        same_class: See `contrast.nt_xent`.
        temperature_range: Lowest and highest where the temperature is learned, or None.
        diversity_is: `minimised` as published, or `maximised`: L_div counts with minus alpha.

    Source:
        GloMER, its total loss. Both views come from one clip, so the positives need no labels.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        temperature: float = 0.07,
        form: str = "simclr",
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        same_class: str = "negatives",
        temperature_range: Sequence[float] | None = None,
        diversity_is: str = "minimised",
    ) -> None:
        super().__init__()
        self.alpha, self.form, self.same_class = alpha, form, same_class
        self.sign = SIGNS[diversity_is]
        self.temperature = Temperature(temperature, temperature_range)
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        views: tuple[Tensor, Tensor] | None,
        mix: Mix | None = None,
        view_labels: Tensor | None = None,
    ) -> LossTerms:
        """Return the terms.

        Args:
            logits: (B, K).
            targets: (B,).
            views: 2 x (N, P), of the clips of all processes, or None.
            mix: Which clips hold a second one.
            view_labels: (N,) classes of the views' clips; None is `targets`.
        """
        cross_entropy = self._cross_entropy(logits.float(), targets, mix)
        if views is None:
            return LossTerms(cross_entropy, cross_entropy, None, None, None)
        z_cqt, z_mel = views[0].float(), views[1].float()
        labels = targets if view_labels is None else view_labels
        contrast = nt_xent(z_cqt, z_mel, self.temperature(), self.form, labels, self.same_class)
        agree, differ = consistency(z_cqt, z_mel), diversity(z_cqt, z_mel)
        total = cross_entropy + contrast + self.alpha * (agree + self.sign * differ)
        return LossTerms(total, cross_entropy, contrast, agree, differ)

    @torch.no_grad()
    def learned(self) -> dict[str, float]:
        """Return what this loss has learned, by name."""
        return {} if self.temperature.place is None else {"temperature": float(self.temperature())}

    def _cross_entropy(self, logits: Tensor, targets: Tensor, mix: Mix | None) -> Tensor:
        """Return the mean over the clips; a mixed clip counts with both of its targets."""
        settings: dict[str, Any] = {
            "weight": self.class_weights,
            "label_smoothing": self.label_smoothing,
        }
        if mix is None:
            return F.cross_entropy(logits, targets, **settings)
        targets = torch.cat([targets, targets[mix.partner]])  # (2B,)
        shares = torch.cat([mix.share, 1 - mix.share])  # (2B,)
        losses = F.cross_entropy(logits.repeat(2, 1), targets, reduction="none", **settings)
        weights = shares if self.class_weights is None else shares * self.class_weights[targets]
        return (shares * losses).sum() / weights.sum()


class Temperature(nn.Module):
    """A temperature, fixed or learned between two bounds.

    log temperature = log low + log(high / low) * sigmoid(place), so it is never beyond a bound.
    Its one parameter is trained as those of the head are, and clipped with them; it does not decay.

    Args:
        value: Where it begins.
        between: Lowest and highest; None keeps it fixed.

    Raises:
        ValueError: It does not begin between the bounds.

    Shape:
        -> (), or a float where it is fixed

    Source:
        Learned on a log scale as by Radford et al. 2021, who clip it after each step: a bound that
        is reached then has no slope. Here the slope fades towards the bounds.
    """

    def __init__(self, value: float, between: Sequence[float] | None = None) -> None:
        super().__init__()
        self.value, self.between = value, between
        self.place: nn.Parameter | None = None
        if between is not None:
            low, high = between
            if not 0 < low < value < high:
                raise ValueError(f"temperature {value:g} must lie between {low:g} and {high:g}")
            part = math.log(value / low) / math.log(high / low)  # of the way from low to high
            self.place = nn.Parameter(torch.tensor(math.log(part / (1 - part))))

    def forward(self) -> float | Tensor:
        """Return the temperature of now."""
        if self.place is None or self.between is None:
            return self.value
        low, high = self.between
        place = math.log(low) + math.log(high / low) * self.place.sigmoid()
        return place.exp().clamp(low, high)  # exp may round beyond them
