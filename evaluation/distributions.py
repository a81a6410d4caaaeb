"""Scores of label distributions: how near the predicted shares q are to those of the raters, p.

    1 - JSD     JSD = (KL(p | m) + KL(q | m)) / 2 in bits, m = (p + q) / 2: 0 at best, 1 at most
    KL          sum of p log(p / q) in nats: the cross-entropy less the raters' own entropy
    cosine      p q / (|p| |q|)
    macro-F1    a class is there where its share is above 1 / K, in p and in q: F1 by class, mean
                over classes that are there in p or q of some utterance

All follow from sums over utterances (K + 1, 5), which add up over speakers as confusion counts do:

    class k     true positives, false positives, false negatives, 0, 0
    last row    n, JSD, KL, cosine, JSD of equal shares

Source:
    The macro-F1 is that of EMO-SUPERB (Wu et al. 2024): in its code both shares are compared with
    1 / K, over batches; here over all utterances. JSD in bits and KL are those of Interspeech 2026
    papers on MSP-Podcast's votes (arXiv 2606.27536).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.scale import Scale

TINY = 1e-12  # least share that a prediction is taken to give
ROUNDING = 1e-6  # above 1 / K that a share has to be, so that an equal one is not


def sums_of(targets: NDArray, shares: NDArray) -> NDArray:
    """Sum up some utterances: (N, K), (N, K) -> (K + 1, 5).

    Raises:
        ValueError: There are no utterances, or shapes differ.
    """
    p, q = np.asarray(targets, float), np.asarray(shares, float)
    if p.ndim != 2 or p.shape != q.shape or 0 in p.shape:
        raise ValueError(
            f"need a prediction for each target, and an utterance, got {q.shape} for {p.shape}"
        )
    n, n_classes = p.shape
    there, said = (x > 1 / n_classes + ROUNDING for x in (p, q))
    counts = [(there & said).sum(0), (~there & said).sum(0), (there & ~said).sum(0)]
    found = np.zeros((n_classes + 1, 5))
    found[:-1, :3] = np.stack(counts, -1)
    even = np.full_like(p, 1 / n_classes)
    found[-1] = [n, *(x.sum() for x in (jsd(p, q), kl(p, q), cosine(p, q), jsd(p, even)))]
    return found


def jsd(p: NDArray, q: NDArray) -> NDArray:
    """Return the Jensen-Shannon divergence in bits: (N, K), (N, K) -> (N,).

    >>> jsd(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])).tolist()
    [1.0, 0.0]
    """
    m = (p + q) / 2
    found: NDArray = (_relative(p, m) + _relative(q, m)).sum(-1) / 2 / np.log(2)
    return found.clip(0, 1)


def kl(p: NDArray, q: NDArray) -> NDArray:
    """Return KL(p | q) in nats, shares of q below `TINY` taken as that: -> (N,)."""
    found: NDArray = _relative(p, np.maximum(q, TINY)).sum(-1)
    return found


def _relative(p: NDArray, q: NDArray) -> NDArray:
    """Return p log(p / q) of each class, 0 where p is 0."""
    some = p > 0
    found: NDArray = np.where(some, p * np.log(np.where(some, p, 1) / np.where(some, q, 1)), 0.0)
    return found


def cosine(p: NDArray, q: NDArray) -> NDArray:
    """Return the cosine of the angle between p and q: (N, K), (N, K) -> (N,)."""
    found: NDArray = (p * q).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(q, axis=-1)
    return found


def mean_of(place: int, sums: NDArray) -> NDArray:
    """Return the mean over utterances of a value of the last row: (..., K + 1, 5) -> (...)."""
    found: NDArray = sums[..., -1, place] / sums[..., -1, 0]
    return found


def similarity(sums: NDArray) -> NDArray:
    """Return 1 - JSD: (..., K + 1, 5) -> (...)."""
    return 1 - mean_of(1, sums)


def mean_kl(sums: NDArray) -> NDArray:
    """Return the mean KL: (..., K + 1, 5) -> (...)."""
    return mean_of(2, sums)


def mean_cosine(sums: NDArray) -> NDArray:
    """Return the mean cosine: (..., K + 1, 5) -> (...)."""
    return mean_of(3, sums)


def even_similarity(sums: NDArray) -> NDArray:
    """Return 1 - JSD of equal shares, whatever was predicted: (..., K + 1, 5) -> (...)."""
    return 1 - mean_of(4, sums)


def macro_f1(sums: NDArray) -> NDArray:
    """Return the mean F1 of the classes that are there or predicted: (..., K + 1, 5) -> (...)."""
    hits, false, missed = np.moveaxis(sums[..., :-1, :3], -1, 0)  # (..., K) each
    below = 2 * hits + false + missed
    present = below > 0
    f1 = np.where(present, 2 * hits / np.where(present, below, 1.0), 0.0)
    found: NDArray = f1.sum(-1) / np.maximum(present.sum(-1), 1)
    return found


def of_targets(sums: NDArray) -> NDArray:
    """Return what the targets alone decide: (..., K + 1, 5) -> (..., K + 2)."""
    there = sums[..., :-1, 0] + sums[..., :-1, 2]  # (..., K)
    return np.concatenate([there, sums[..., -1, [0, 4]]], -1)


SHARE = Scale(0.0, 1.0, of_targets)
DIVERGENCE = Scale(0.0, np.inf, of_targets)


def speaker_sums(
    targets: NDArray, shares: NDArray, speakers: Sequence[str]
) -> tuple[NDArray, NDArray]:
    """Sum up by speaker: (N, K), (N, K), (N,) -> sorted names (S,), (S, K + 1, 5)."""
    speaker = np.asarray(speakers)
    names = np.unique(speaker)
    own = (speaker == name for name in names)
    return names, np.stack([sums_of(targets[rows], shares[rows]) for rows in own])
