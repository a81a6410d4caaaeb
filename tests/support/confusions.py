"""Made confusion counts by seed and speaker, for the tests of scores, intervals and tests."""

import numpy as np
from scipy import special, stats

from evaluation.significance import speaker_confusions


def right_of(*hits: int, clips: int = 4) -> np.ndarray:
    """Return counts of one seed, two classes, class 0 alone: (1, S, 2, 2)."""
    return np.array([[[[h, clips - h], [0, 0]] for h in hits]])


def counts_of(seed: int, n_seeds: int, n_speakers: int, n_classes: int = 3, clips: int = 12):
    """Return counts of two runs on the same clips, speakers unlike in size: two (R, S, K, K)."""
    draw = np.random.default_rng(seed)
    owner = np.sort(np.r_[np.arange(n_speakers), draw.integers(0, n_speakers, n_speakers * clips)])
    targets = draw.integers(0, n_classes, len(owner))
    runs = []
    for skill in (0.6, 0.5):
        preds = [
            np.where(
                draw.random(len(owner)) < skill, targets, draw.integers(0, n_classes, len(owner))
            )
            for _ in range(n_seeds)
        ]
        runs.append(np.stack([speaker_confusions(targets, p, owner, n_classes)[1] for p in preds]))
    return runs


def simulate(draw, n_runs, n_speakers, n_clips=90, spread=1.0):
    """Return whether each clip is right: (n_runs, S, n_clips); each run has its own good speakers.

    A speaker's chance of a right label is expit(1 + spread * normal), for each run anew.
    """
    chance = special.expit(1 + spread * draw.standard_normal((n_runs, n_speakers, 1)))
    return draw.random((n_runs, n_speakers, n_clips)) < chance


def counts_of_right(right):
    """Count two classes, two clips of class 0 for one of class 1: (..., S, n) -> (..., S, 2, 2)."""
    second = right[..., ::3]
    first = right[..., np.arange(right.shape[-1]) % 3 > 0]
    rows = [(first.sum(-1), (~first).sum(-1)), ((~second).sum(-1), second.sum(-1))]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def within(count, n, chance):
    """Whether a count lies within the 99.9 % binomial bounds."""
    low, high = stats.binom(n, chance).interval(0.999)
    return low <= count <= high
