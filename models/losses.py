"""The training loss: cross-entropy or concordance, and the contrastive terms of GloMER."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.augment import Mix
from config.tasks import RatingScale
from models.contrastive import consistency, diversity, mean_over, nt_xent, pairs_of

PAIRS = "pairs"  # of `contrast`: all pairs of branches
TINY = 1e-8  # keeps the slope of a CCC finite where nothing varies
SIGNS = {"minimised": 1.0, "maximised": -1.0}


class LossTerms(NamedTuple):
    """The total loss and its terms, scalars; None for terms that the fusion does not have."""

    total: Tensor
    cross_entropy: Tensor
    nt_xent: Tensor | None
    consistency: Tensor | None
    diversity: Tensor | None

    def named(self) -> dict[str, Tensor]:
        """Return the total and the terms that there are, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def detach(self) -> "LossTerms":
        """Return the same values without their graphs."""
        return type(self)(*(None if term is None else term.detach() for term in self))  # type: ignore[arg-type]


class RatingLossTerms(LossTerms):
    """The terms where `ccc_loss` takes the place of the cross-entropy, under its own name."""

    def named(self) -> dict[str, Tensor]:
        """Return the total and the terms that there are, by name."""
        found = super().named()
        return {"ccc_loss" if name == "cross_entropy" else name: found[name] for name in found}


class FusionLoss(nn.Module):
    """L = L_CE + w * L_NTXent + alpha * (L_con + L_div); L_CE alone without views.

    With focal_gamma g above 0, L_CE = sum_i (1 - p_i)^g l_i / sum_i w_i, with l_i the cross-entropy
    of an utterance, smoothed and weighted or not, p_i the probability of its target and w_i the
    weight of its class, 1 without class weights. So the mean is weighted as by `F.cross_entropy`,
    and a confident utterance counts less without others counting more.

    L_NTXent, L_con and L_div compare the views of two branches. Of more they are means over pairs.

    Keyword names are those of section `loss` of a config.

    Args:
        alpha: Weight of consistency and diversity. NT-Xent stays at alpha 0.
        alpha_on: Both act on the `views`, or on the pooled `features`.
        temperature: Divides the similarities in NT-Xent; the start value if it is learned.
        nt_xent: `simclr`, `cross_modal` or `symmetric`, see `contrastive.nt_xent`.
        nt_xent_weight: Weight w of NT-Xent.
        nt_xent_warmup_epochs: Epochs over which w rises linearly from 0, see `start_epoch`.
        label_smoothing: Label smoothing of the cross-entropy.
        focal_gamma: Exponent g of the focal loss; 0 is plain cross-entropy.
        class_weights: (K,) weights of the cross-entropy, or None.
        contrast: `pairs`: means over all pairs of branches; or the name of one branch, the anchor:
            over its pairs with each other branch. Of two branches all are the same.
        branches: Names of the branches, in the order of their views; needed for an anchor.
        same_class: `negatives`, `ignored` or `positives`, see `contrastive.nt_xent`.
        temperature_range: [lowest, highest] learned temperature, or None to keep it fixed.
        diversity: `minimised` as in GloMER's code, or `maximised`: L_div counts with -alpha.
        rating_scale: Scale of ratings, which are then the targets: `ccc_loss` takes the place of
            L_CE. None for classes.

    Raises:
        ValueError: `contrast` is neither `pairs` nor one of `branches`.

    Source:
        GloMER's code, total loss, with w = 1 throughout, `cross_modal`, and L_con and L_div on the
        pooled features. The two views of an utterance are each other's positives, so NT-Xent needs
        no labels. The focal loss is that of Lin et al. 2017, equation 4, over the softmax of all
        classes in place of a sigmoid each; slopes pass through its factor, as in theirs.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        alpha_on: str = "views",
        temperature: float = 0.07,
        nt_xent: str = "simclr",
        nt_xent_weight: float = 1.0,
        nt_xent_warmup_epochs: int = 0,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        class_weights: Tensor | None = None,
        contrast: str = PAIRS,
        branches: Sequence[str] = ("cqt", "mel"),
        same_class: str = "negatives",
        temperature_range: Sequence[float] | None = None,
        diversity: str = "minimised",
        rating_scale: RatingScale | None = None,
    ) -> None:
        super().__init__()
        if contrast not in (PAIRS, *branches):
            raise ValueError(
                f"contrast must be one of {', '.join((PAIRS, *branches))}, got {contrast!r}"
            )
        self.branches = tuple(branches)
        self.anchor = None if contrast == PAIRS else self.branches.index(contrast)
        self.alpha, self.alpha_on = alpha, alpha_on
        self.form, self.same_class = nt_xent, same_class
        self.full_weight, self.warmup_epochs = nt_xent_weight, nt_xent_warmup_epochs
        self.weight = nt_xent_weight  # of NT-Xent, in the current epoch
        self.sign, self.rating_scale = SIGNS[diversity], rating_scale
        self.temperature = Temperature(temperature, temperature_range)
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)

    def start_epoch(self, epoch: int) -> None:
        """Set the weight of NT-Xent for an epoch, counted from 0; until then it is the full one.

        >>> loss = FusionLoss(nt_xent_weight=0.5, nt_xent_warmup_epochs=2)
        >>> [loss.start_epoch(epoch) or loss.weight for epoch in range(4)]
        [0.0, 0.25, 0.5, 0.5]
        """
        done = min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        self.weight = self.full_weight * done

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        views: Sequence[Tensor] | None,
        mix: Mix | None = None,
        view_labels: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
    ) -> LossTerms:
        """Return the total loss and its terms.

        Args:
            logits: Class scores (B, K), or ratings on -1..1 (B, D).
            targets: Class indices (B,), or ratings (B, D).
            views: n x (N, P) views of the utterances of all processes by each branch, or None.
            mix: Partners and shares of mixup, or None.
            view_labels: (N,) classes of the utterances in `views`; None is `targets`.
            features: n x (N, D) pooled features of the same utterances, for `alpha_on=features`.

        Raises:
            ValueError: Features are needed and missing, or an anchor has views of other branches.
        """
        terms = LossTerms
        if self.rating_scale is None:
            main = self._cross_entropy(logits.float(), targets, mix)
        else:
            terms = RatingLossTerms
            main = ccc_loss(logits.float(), self.rating_scale.to_unit(mix_targets(targets, mix)))
        if views is None:
            return terms(main, main, None, None, None)
        labels = targets if view_labels is None else view_labels
        temperature = self.temperature()

        def of_pair(first: Tensor, second: Tensor) -> Tensor:
            return nt_xent(first, second, temperature, self.form, labels, self.same_class)

        pairs = self._pairs(views)
        contrast = mean_over(pairs, of_pair)
        if self.alpha_on == "features":
            if features is None:
                raise ValueError("alpha_on=features needs the pooled features of all branches")
            pairs = self._pairs(features)  # of (N, D)
        l_con, l_div = mean_over(pairs, consistency), mean_over(pairs, diversity)
        total = main + self.weight * contrast
        total = total + self.alpha * (l_con + self.sign * l_div)
        return terms(total, main, contrast, l_con, l_div)

    @torch.no_grad()
    def learned(self) -> dict[str, float]:
        """Return learned values by name: the temperature, unless it is fixed."""
        return {} if self.temperature.place is None else {"temperature": float(self.temperature())}

    def _pairs(self, views: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs that are compared, in float32."""
        if self.anchor is not None and len(views) != len(self.branches):
            raise ValueError(
                f"the loss has the branches {', '.join(self.branches)}, got {len(views)} views"
            )
        return pairs_of([view.float() for view in views], self.anchor)

    def _cross_entropy(self, logits: Tensor, targets: Tensor, mix: Mix | None) -> Tensor:
        """Return the mean over the batch; a mixed utterance counts with both of its targets."""
        settings: dict[str, Any] = {
            "weight": self.class_weights,
            "label_smoothing": self.label_smoothing,
        }
        if mix is None and self.focal_gamma == 0:
            return F.cross_entropy(logits, targets, **settings)
        shares = torch.ones_like(logits[:, 0])  # (B,)
        if mix is not None:
            logits, targets = logits.repeat(2, 1), torch.cat([targets, targets[mix.partner]])
            shares = torch.cat([mix.share, 1 - mix.share])  # (2B,)
        losses = F.cross_entropy(logits, targets, reduction="none", **settings)
        if self.focal_gamma:
            losses = focal_factor(logits, targets, self.focal_gamma) * losses
        weights = shares if self.class_weights is None else shares * self.class_weights[targets]
        return (shares * losses).sum() / weights.sum()


def ccc_loss(values: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - CCC over a batch, mean over dimensions; see `evaluation.ratings` for CCC.

    Means and variances are those of the batch, with divisor B. So it is no mean over utterances:
    the loss of two batches is not that of both together, and small batches, whose means vary, have
    a larger one. A batch whose targets and values do not vary has a loss of 1 and a finite slope.

    Shape:
        (B, D), (B, D) -> ()

    Source:
        The baseline of the Odyssey 2024 emotion recognition challenge trains and selects with it
        (batches of 32; there the sum over dimensions).

    >>> ccc_loss(torch.tensor([[2.0], [3.0], [4.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
    tensor(0.4286)
    """
    m_values, m_targets = values.mean(0), targets.mean(0)  # (D,)
    d_values, d_targets = values - m_values, targets - m_targets  # (B, D)
    shared = (d_values * d_targets).mean(0)
    spread = (d_values**2).mean(0) + (d_targets**2).mean(0) + (m_values - m_targets) ** 2
    return (1 - 2 * shared / (spread + TINY)).mean()


def mix_targets(targets: Tensor, mix: Mix | None) -> Tensor:
    """Return ratings or distributions mixed as the images are: (B, D) -> (B, D)."""
    if mix is None:
        return targets
    share = mix.share[:, None]
    return share * targets + (1 - share) * targets[mix.partner]


def focal_factor(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return (1 - p)^gamma, with p the probability of the target.

    1 - p is the sum of the other classes' probabilities. As a difference it would be 0 where the
    logit of the target leads by 17 in float32, and its power without a finite slope for gamma < 1.

    Args:
        logits: Class scores.
        targets: Class indices.
        gamma: Exponent, above 0.

    Shape:
        (B, K), (B,) -> (B,)

    >>> focal_factor(torch.tensor([[3.0, 1.0]]).log(), torch.tensor([0]), 2.0)
    tensor([0.0625])
    """
    is_target = F.one_hot(targets, logits.shape[1]).bool()  # (B, K)
    others = logits.masked_fill(is_target, -math.inf).logsumexp(1)
    return (gamma * (others - logits.logsumexp(1))).exp()


class Temperature(nn.Module):
    """A temperature, fixed or learned within a range.

    log temperature = log low + log(high / low) * sigmoid(place), which cannot leave the range.
    `place` is trained and clipped together with the head's parameters, without weight decay.

    Args:
        value: Start value, or the fixed value.
        between: [low, high]; None keeps the value fixed.

    Raises:
        ValueError: The start value lies outside the range.

    Shape:
        -> (), or a float if it is fixed

    Source:
        Radford et al. 2021 also learn it on a log scale, but clip it after each step, which leaves
        no gradient at a bound. Here the gradient fades towards the bounds.
    """

    def __init__(self, value: float, between: Sequence[float] | None = None) -> None:
        super().__init__()
        self.value, self.between = value, between
        self.place: nn.Parameter | None = None
        if between is not None:
            low, high = between
            if not 0 < low < value < high:
                raise ValueError(f"temperature {value:g} must lie between {low:g} and {high:g}")
            fraction = math.log(value / low) / math.log(high / low)  # of the way from low to high
            self.place = nn.Parameter(torch.tensor(math.log(fraction / (1 - fraction))))

    def forward(self) -> float | Tensor:
        """Return the current temperature."""
        if self.place is None or self.between is None:
            return self.value
        low, high = self.between
        log_temperature = math.log(low) + math.log(high / low) * self.place.sigmoid()
        return log_temperature.exp().clamp(low, high)  # exp may round beyond the bounds
