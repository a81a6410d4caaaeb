"""How large a difference can a design show? Pairs of runs are simulated and tested.

Accuracy of run a or b for speaker s of fold k with seed r, all utterances of a speaker alike:

    0.5 + level[s] + speaker[run, s] + training[run, k, r] +- difference / 2,

each term normal. `level` is common to both runs (standard deviation `LEVEL`), `speaker` is what one
run is better at with some voices, beyond that, and `training` is the luck of one training, which
all speakers of its fold share. Each utterance is right with that chance. Power is the share of
simulated pairs in which `paired_test` finds p <= 0.05.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import SCORES
from evaluation.paired_tests import paired_test, smallest_p_of

LEVEL = 0.1  # standard deviation of speakers' own accuracy, common to both runs
LEAST, MOST = 0.02, 0.98  # of a chance
ALPHA = 0.05
N_DRAWS = 199  # of a permutation test


class Design(NamedTuple):
    """What is tested, and how much chance is in it.

    Attributes:
        n_folds: Folds F.
        n_each: Speakers of a fold.
        n_seeds: Seeds R.
        n_utterances: Utterances of a speaker.
        by_speaker: Standard deviation over speakers of what one run is better at, in 0..1: not of
            its accuracy, most of which varies with the other run's.
        by_training: Standard deviation of a run's accuracy over trainings, in 0..1.
    """

    n_folds: int
    n_each: int
    n_seeds: int
    n_utterances: int = 60
    by_speaker: float = 0.05
    by_training: float = 0.04


def simulate_pair(
    draw: np.random.Generator, design: Design, difference: float = 0.0
) -> tuple[NDArray, NDArray]:
    """Return confusion counts of two runs, the first better by a difference: two (R, F * S, 2, 2).

    Two thirds of the utterances are of class 0.
    """
    n = design.n_folds * design.n_each
    level = LEVEL * draw.standard_normal((1, 1, n, 1))
    speaker = design.by_speaker * draw.standard_normal((2, 1, n, 1))
    shape = (2, design.n_seeds, design.n_folds, 1)
    training = (design.by_training * draw.standard_normal(shape)).repeat(design.n_each, axis=2)
    better = difference / 2 * np.array([1, -1])[:, None, None, None]
    chance = np.clip(0.5 + level + speaker + training + better, LEAST, MOST)
    right = draw.random((2, design.n_seeds, n, design.n_utterances)) < chance
    a, b = _counts(right)
    return a, b


def power(design: Design, difference: float, n: int = 400, seed: int = 0) -> float:
    """Return the share of n simulated pairs in which the difference is found.

    Args:
        design: Folds, speakers, seeds and sources of chance.
        difference: True difference of accuracy, in 0..1.
        n: Number of pairs; 400 are 2.5 points off (standard error) at 0.5.
        seed: Seed of the simulation.
    """
    draw, found = np.random.default_rng(seed), 0
    n_speakers = design.n_folds * design.n_each
    cells = [str(i) for i in range(n_speakers)]
    folds = [i // design.n_each for i in range(n_speakers)]
    for _ in range(n):
        pair = simulate_pair(draw, design, difference)
        found += paired_test(*pair, cells, folds, SCORES["ua"], n_draws=N_DRAWS).p <= ALPHA
    return found / n


def power_table(
    design: Design, seeds: Sequence[int], differences: Sequence[float], n: int = 400
) -> list[dict[str, float | None]]:
    """Return the power of a design for some numbers of seeds and some differences, one row each.

    Power is None where the smallest p that the design allows is above `ALPHA`.
    """
    rows: list[dict[str, float | None]] = []
    for r in seeds:
        own = design._replace(n_seeds=r)
        smallest = smallest_p_of(own.n_folds * own.n_each, own.n_folds, r)
        for d in differences:
            found = None if smallest > ALPHA else power(own, d, n)
            rows.append({"seeds": r, "difference": d, "power": found, "smallest_p": smallest})
    return rows


def _counts(right: NDArray) -> NDArray:
    """Count utterances, every third of class 1: (..., S, n) -> (..., S, 2, 2)."""
    second = right[..., ::3]
    first = right[..., np.arange(right.shape[-1]) % 3 > 0]
    rows = [(first.sum(-1), (~first).sum(-1)), ((~second).sum(-1), second.sum(-1))]
    return np.stack([np.stack(row, -1) for row in rows], -2)
