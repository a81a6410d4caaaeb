"""Contrastive terms between the views of each utterance, and measures of how views spread.

Each term compares the views of two sources, such as z_cqt and z_mel; only their directions count:
    a = z_cqt / |z_cqt|,  b = z_mel / |z_mel|                                     (B, P)

NT-Xent (Chen et al. 2020, equation 1) compares all 2B views with each other:
    similarity = [a; b] [a; b]^T / temperature                                    (2B, 2B)
    loss[i] = -log( exp(similarity[i, p]) / sum_j exp(similarity[i, j]) )         (2B,)
where p is the partner of view i, the other view of its utterance, and the sum leaves out i itself.
The loss is the mean of loss[i]. Two boolean masks say what a pair (i, j) is: `partners` is True for
positives, `left_out` for pairs that do not count, all others are negatives. With several positives
loss[i] is the mean over them (Khosla et al. 2020, L_out). GloMER's code searches one way only:
    similarity = a b^T / temperature                                              (B, B)
(`cross_modal`); `symmetric` is the mean for similarity and similarity^T (Radford et al. 2021).

    consistency  L_con = 1 - mean_i a_i . b_i    (both on the views, or on the pooled features)
    diversity    L_div = mean_i |a_i - b_i|
Since |a - b|^2 = 2 - 2 a . b, minimising L_div as GloMER's code does also pulls the views together.

On the unit sphere (Wang & Isola 2020, with their exponent 2 and t = 2):
    alignment = mean_i |a_i - b_i|^2,  uniformity(a) = log mean_{i<j} exp(-2 |a_i - a_j|^2)

Of n sources each term is its mean over all pairs of them, or over the pairs of one source, the
anchor, with each other: the "full graph" and the "core view" of Tian et al. 2020 (Contrastive
Multiview Coding), whose losses are sums with another critic. Of two sources both are the one term.

By default all of them act on the views, and each source has a projection head. In GloMER's code
one projection head serves both modalities, and L_con and L_div act on the pooled features before
the GMU: `model.projection=shared`, `loss.alpha_on=features`.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FORMS = ("simclr", "cross_modal", "symmetric")
SAME_CLASS = ("negatives", "ignored", "positives")
Views = tuple[Tensor, Tensor]  # of two sources


def pairs_of(views: Sequence[Tensor], anchor: int | None = None) -> list[Views]:
    """Return the views of two sources at a time, each pair in the order of the sources.

    Args:
        views: Views or features of each source, n x (B, P).
        anchor: Index of the source that is compared with each other one; None is all pairs.

    >>> cqt, mel, speech = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    >>> [(int(a), int(b)) for a, b in pairs_of([cqt, mel, speech])]
    [(1, 2), (1, 3), (2, 3)]
    >>> [(int(a), int(b)) for a, b in pairs_of([cqt, mel, speech], anchor=1)]
    [(1, 2), (2, 3)]
    """
    chosen = itertools.combinations(range(len(views)), 2)
    return [(views[i], views[j]) for i, j in chosen if anchor is None or anchor in (i, j)]


def mean_over(pairs: Sequence[Views], term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the mean of a term over pairs of views: n x ((B, P), (B, P)) -> ()."""
    first, *others = (term(*pair) for pair in pairs)
    return sum(others, first) / len(pairs)


def nt_xent(
    z_first: Tensor,
    z_second: Tensor,
    temperature: float | Tensor,
    form: str = "simclr",
    labels: Tensor | None = None,
    same_class: str = "negatives",
) -> Tensor:
    """Return NT-Xent: pull the views of an utterance together, push those of others away.

    Args:
        z_first: View of each utterance by one source; its length does not matter.
        z_second: View of each utterance by another source, in the same order.
        temperature: Divides the cosine similarities.
        form: `simclr`: each of the 2B views searches its partner among the other 2B - 1;
            `cross_modal`: each first view (CQT) searches among the B second views (Mel);
            `symmetric`: the mean of `cross_modal` and of second views searching among first ones.
        labels: Class of each utterance; not needed for `negatives`.
        same_class: Other utterances of the same class are `negatives` like all others, `ignored`,
            or `positives`: further partners with equal shares.

    Shape:
        (B, P), (B, P), labels (B,) -> ()

    Raises:
        ValueError: `form` or `same_class` is unknown, or labels are missing.

    Source:
        `simclr`: Chen et al. 2020, equation 1; with `positives` Khosla et al. 2020, equation 2
        (L_out). `cross_modal`: GloMER's code. `symmetric`: Radford et al. 2021. `ignored`: false
        negatives are eliminated as by Huynh et al. 2022, here known by their labels.
    """
    if form not in FORMS or same_class not in SAME_CLASS:
        raise ValueError(
            f"form must be one of {', '.join(FORMS)} and same_class one of "
            f"{', '.join(SAME_CLASS)}, got {form!r} and {same_class!r}"
        )
    a, b = F.normalize(z_first, dim=1), F.normalize(z_second, dim=1)  # (B, P)
    partners, left_out = _masks(len(a), labels, same_class, a.device)  # (B, B), (B, B)
    if form == "simclr":
        views = torch.cat([a, b])  # (2B, P)
        itself = torch.eye(len(views), dtype=torch.bool, device=a.device)  # (2B, 2B)
        partners, left_out = partners.repeat(2, 2) & ~itself, left_out.repeat(2, 2) | itself
        return _mean_loss(views @ views.T / temperature, partners, left_out)
    similarity = a @ b.T / temperature  # (B, B), first views by second
    one_way = _mean_loss(similarity, partners, left_out)
    if form == "cross_modal":
        return one_way
    return (one_way + _mean_loss(similarity.T, partners, left_out)) / 2


def consistency(z_first: Tensor, z_second: Tensor) -> Tensor:
    """Return 1 - mean cosine similarity of views or features: (B, P), (B, P) -> ()."""
    return 1 - F.cosine_similarity(z_first, z_second, dim=1).mean()


def diversity(z_first: Tensor, z_second: Tensor) -> Tensor:
    """Return the mean distance between views or features as unit vectors: (B, P), (B, P) -> ().

    Source:
        GloMER's code, which minimises it and so pulls the views together, despite its name.
    """
    a, b = F.normalize(z_first, dim=1), F.normalize(z_second, dim=1)  # (B, P)
    return ((a - b).square().sum(1) + 1e-12).sqrt().mean()  # 1e-12: finite gradient at a = b


def alignment(z_first: Tensor, z_second: Tensor) -> Tensor:
    """Return the mean squared distance between unit views, 0 to 4: (B, P), (B, P) -> ().

    Source:
        Wang & Isola 2020, with their exponent 2.
    """
    a, b = F.normalize(z_first, dim=1), F.normalize(z_second, dim=1)  # (B, P)
    return (a - b).square().sum(1).mean()


def uniformity(z: Tensor) -> Tensor:
    """Return how evenly views cover the unit sphere: (B, P) -> ().

    0 is a single point, lower is more even; 0 also for fewer than two views.

    Source:
        Wang & Isola 2020, with their t = 2.
    """
    if len(z) < 2:
        return z.new_zeros(())
    squared = torch.pdist(F.normalize(z, dim=1)).square()  # (B * (B - 1) / 2,)
    return (-2 * squared).exp().mean().log()


def _masks(
    n: int, labels: Tensor | None, same_class: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return `partners` and `left_out` between n utterances: (n, n), (n, n), bool."""
    same_utterance = torch.eye(n, dtype=torch.bool, device=device)
    if same_class == "negatives":
        return same_utterance, torch.zeros_like(same_utterance)
    if labels is None:
        raise ValueError(f"same_class={same_class!r} needs the labels of the utterances")
    same_label = labels[:, None] == labels
    if same_class == "positives":
        return same_label, torch.zeros_like(same_label)
    return same_utterance, same_label & ~same_utterance


def _mean_loss(similarity: Tensor, partners: Tensor, left_out: Tensor) -> Tensor:
    """Return the mean of loss[i] over the rows: (N, N), (N, N), (N, N) -> ()."""
    log_probs = similarity.masked_fill(left_out, float("-inf")).log_softmax(1)  # (N, N)
    of_partners = log_probs.masked_fill(~partners, 0.0).sum(1) / partners.sum(1)  # (N,)
    return -of_partners.mean()
