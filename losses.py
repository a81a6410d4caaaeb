"""Cross-entropy and the contrastive terms of GloMER."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augment import Mix


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
        temperature: Of NT-Xent; smaller is harder.
        form: `simclr` or `cross_modal`, see `nt_xent`.
        label_smoothing: Of cross-entropy.
        class_weights: (K,) of cross-entropy, or None.

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
    ) -> None:
        super().__init__()
        self.alpha, self.temperature, self.form = alpha, temperature, form
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        views: tuple[Tensor, Tensor] | None,
        mix: Mix | None = None,
    ) -> LossTerms:
        """Return the terms: logits (B, K), targets (B,), views 2 x (B or more, P) or None."""
        cross_entropy = self._cross_entropy(logits.float(), targets, mix)
        if views is None:
            return LossTerms(cross_entropy, cross_entropy, None, None, None)
        z_cqt, z_mel = views[0].float(), views[1].float()
        contrast = nt_xent(z_cqt, z_mel, self.temperature, self.form)
        agree, differ = consistency(z_cqt, z_mel), diversity(z_cqt, z_mel)
        total = cross_entropy + contrast + self.alpha * (agree + differ)
        return LossTerms(total, cross_entropy, contrast, agree, differ)

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


def nt_xent(z_cqt: Tensor, z_mel: Tensor, temperature: float, form: str = "simclr") -> Tensor:
    """Pull the two views of a clip together, push all other clips' views away.

    Args:
        z_cqt: One view of each clip, any length.
        z_mel: The other view, in the same order.
        temperature: Divides the cosine similarities.
        form: `simclr`: each of the 2B views looks for its partner among the other 2B - 1;
            `cross_modal`: each CQT view looks for its partner among the B Mel views.

    Shape:
        (B, P), (B, P) -> ()

    Source:
        `simclr`: Chen et al. 2020, equation 1. `cross_modal`: GloMER's code, one way only.
    """
    n = len(z_cqt)
    a, b = F.normalize(z_cqt, dim=1), F.normalize(z_mel, dim=1)  # (B, P)
    if form == "cross_modal":
        return F.cross_entropy(a @ b.T / temperature, torch.arange(n, device=a.device))
    z = torch.cat([a, b])  # (2B, P)
    similarity = z @ z.T / temperature  # (2B, 2B)
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    partner = torch.arange(2 * n, device=z.device).roll(n)  # view i and view i + B are one clip
    return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), partner)


def consistency(z_cqt: Tensor, z_mel: Tensor) -> Tensor:
    """Return 1 - mean cosine similarity of the two views: (B, P), (B, P) -> ()."""
    return 1 - F.cosine_similarity(z_cqt, z_mel, dim=1).mean()


def diversity(z_cqt: Tensor, z_mel: Tensor) -> Tensor:
    """Return the mean distance of the unit views: (B, P), (B, P) -> ().

    Source:
        GloMER's code, which minimises it: whatever the name says, that pulls the views together.
    """
    difference = F.normalize(z_cqt, dim=1) - F.normalize(z_mel, dim=1)  # (B, P)
    return (difference.square().sum(1) + 1e-12).sqrt().mean()  # finite slope where both agree
