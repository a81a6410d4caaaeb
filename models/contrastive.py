"""Contrastive terms between the two views of each clip, and what they do to the sphere of views."""

import torch
from torch import Tensor
from torch.nn import functional as F

FORMS = ("simclr", "cross_modal", "symmetric")
SAME_CLASS = ("negatives", "ignored", "positives")


def nt_xent(
    z_cqt: Tensor,
    z_mel: Tensor,
    temperature: float | Tensor,
    form: str = "simclr",
    labels: Tensor | None = None,
    same_class: str = "negatives",
) -> Tensor:
    """Pull the two views of a clip together, push other clips' views away.

    The mean over views i of -log softmax of the similarities of i, at its partners.

    Args:
        z_cqt: One view of each clip, any length.
        z_mel: The other view, in the same order.
        temperature: Divides the cosine similarities.
        form: `simclr`: each of the 2B views looks for its partner among the other 2B - 1;
            `cross_modal`: each CQT view looks for its partner among the B Mel views;
            `symmetric`: the mean of that and of the Mel views among the CQT views.
        labels: Class of each clip; needed but for `negatives`.
        same_class: Other clips of the clip's class are `negatives` as all others, `ignored`, or
            `positives`: partners too, each with an equal share.

    Shape:
        (B, P), (B, P), labels (B,) -> ()

    Raises:
        ValueError: An unknown word, or no labels where they are needed.

    Source:
        `simclr`: Chen et al. 2020, equation 1; with `positives` Khosla et al. 2020, equation 2
        (L_out). `cross_modal`: GloMER's code, one way only. `symmetric`: Radford et al. 2021.
        `ignored`: as Huynh et al. 2022 eliminate false negatives, here known by their labels.
    """
    if form not in FORMS or same_class not in SAME_CLASS:
        raise ValueError(
            f"form is one of {', '.join(FORMS)} and same_class of {', '.join(SAME_CLASS)}, "
            f"got {form!r} and {same_class!r}"
        )
    a, b = F.normalize(z_cqt, dim=1), F.normalize(z_mel, dim=1)  # (B, P)
    partners, left_out = _roles(len(a), labels, same_class, a.device)  # (B, B) each
    if form == "simclr":
        views = torch.cat([a, b])  # (2B, P)
        itself = torch.eye(len(views), dtype=torch.bool, device=a.device)  # (2B, 2B)
        partners, left_out = partners.repeat(2, 2) & ~itself, left_out.repeat(2, 2) | itself
        return _find(views @ views.T / temperature, partners, left_out)
    similarity = a @ b.T / temperature  # (B, B), CQT views by Mel views
    one_way = _find(similarity, partners, left_out)
    if form == "cross_modal":
        return one_way
    return (one_way + _find(similarity.T, partners, left_out)) / 2


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


def alignment(z_cqt: Tensor, z_mel: Tensor) -> Tensor:
    """Return how far the views of a clip are apart on the unit sphere, 0 is together.

    The mean squared distance, 0 to 4: (B, P), (B, P) -> ().

    Source:
        Wang & Isola 2020, with their exponent 2.
    """
    return (F.normalize(z_cqt, dim=1) - F.normalize(z_mel, dim=1)).square().sum(1).mean()


def uniformity(z: Tensor) -> Tensor:
    """Return how evenly views cover the unit sphere: 0 is one point, lower is more even.

    log mean exp(-2 |z_i - z_j|^2) over all pairs i < j: (B, P) -> (); 0 for less than two.

    Source:
        Wang & Isola 2020, with their t = 2.
    """
    if len(z) < 2:
        return z.new_zeros(())
    squared = torch.pdist(F.normalize(z, dim=1)).square()  # (B * (B - 1) / 2,)
    return (-2 * squared).exp().mean().log()


def _roles(
    n: int, labels: Tensor | None, same_class: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return which clips are partners and which are left out, (n, n) each, bool."""
    same_clip = torch.eye(n, dtype=torch.bool, device=device)
    if same_class == "negatives":
        return same_clip, torch.zeros_like(same_clip)
    if labels is None:
        raise ValueError(f"same_class={same_class!r} needs the labels of the clips")
    kin = labels[:, None] == labels
    if same_class == "positives":
        return kin, torch.zeros_like(kin)
    return same_clip, kin & ~same_clip


def _find(similarity: Tensor, partners: Tensor, left_out: Tensor) -> Tensor:
    """Return the mean cross-entropy of finding each row's partners: (N, N) x 3 -> ()."""
    log_probs = similarity.masked_fill(left_out, float("-inf")).log_softmax(1)  # (N, N)
    each = log_probs.masked_fill(~partners, 0.0).sum(1) / partners.sum(1)  # (N,)
    return -each.mean()
