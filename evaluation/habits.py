"""What do bad habits of evaluation add to UA? arithmetic on trainings tested after every epoch.

Let t[k, r](e) be the test UA of fold k with seed r after epoch e, and d[k, r] the epoch that dev
selects. The honest score is the mean over folds and seeds of t[k, r](d[k, r]), where the test
speakers are unheard in training. Each habit replaces one thing in it:

    best epoch on test   the mean of max over e of t[k, r](e): never below the honest score
    random split         other folds, whose test speakers are heard in training
    one seed             the mean over folds alone, of the seed with the highest or lowest one
    tuned on test        config and seed are chosen by that mean instead of the mean dev UA
    utterances           the bootstrap draws utterances instead of speakers

Percentile intervals (`speaker_percentiles`, `utterance_percentiles`) are of one training's pooled
UA, their ends means over seeds. Utterances are drawn with replacement: the counts of a draw of all
N of them are multinomial, with the cells of the pooled confusion matrix over N as probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import unweighted_accuracy
from evaluation.significance import MIN_UNITS, mean_scores, pool_folds, resamples

N_DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Watched:
    """A training whose test UA is known after every epoch.

    Args:
        config: Name of its config.
        fold: Fold number, from 1.
        seed: Seed of the training.
        dev_ua: (E,) dev UA after each epoch, a fraction.
        test_ua: (E,) test UA after each epoch, a fraction.
        selected: The epoch that dev selects, from 1.
        confusions: (K, K) test counts of each speaker after that epoch, targets in rows.
    """

    config: str
    fold: int
    seed: int
    dev_ua: Sequence[float]
    test_ua: Sequence[float]
    selected: int
    confusions: Mapping[str, Sequence[Sequence[int]]]

    @property
    def dev(self) -> float:
        """Dev UA of the epoch that dev selects."""
        return self.dev_ua[self.selected - 1]

    @property
    def on_dev(self) -> float:
        """Test UA of the epoch that dev selects."""
        return self.test_ua[self.selected - 1]

    @property
    def on_test(self) -> float:
        """Test UA of the epoch that test selects."""
        return max(self.test_ua)


@dataclass(frozen=True)
class Habit:
    """One row of the table.

    Args:
        config: Name of the config; empty in the row that chooses among all.
        habit: What is done, in words.
        ua: The score with the habit, a fraction; None where the design has too little for it.
        price: `ua` less the honest score; of an interval, its width less that over speakers.
        interval: Ends of a percentile interval of `ua`.
        higher: Trainings whose score the habit raises, and all; None where trainings have no pairs.
        note: What was chosen, or what is missing.
    """

    config: str
    habit: str
    ua: float | None
    price: float | None = None
    interval: Sequence[float] | None = None
    higher: Sequence[int] | None = None
    note: str = ""


def first_best(scores: Sequence[float]) -> int:
    """Return the epoch with the highest score, from 1; of equal ones the first.

    >>> first_best([0.2, 0.5, 0.5])
    2
    """
    return int(np.argmax(scores)) + 1


def price_habits(unheard: Sequence[Watched], heard: Sequence[Watched]) -> list[Habit]:
    """Return the rows of the table: those of each config, then the choice among all.

    Args:
        unheard: Trainings under a protocol that keeps test speakers out of training: the same folds
            with the same seeds of each config.
        heard: The same configs, folds and seeds under a random split of utterances.
    """
    rows = []
    for config in dict.fromkeys(one.config for one in unheard):
        own, random = ([t for t in part if t.config == config] for part in (unheard, heard))
        rows += [*_epochs_and_splits(config, own, random), *_seeds(config, own)]
        rows += _intervals(config, own)
    return [*rows, tuned_on_test(unheard)]


def _epochs_and_splits(
    config: str, own: Sequence[Watched], random: Sequence[Watched]
) -> list[Habit]:
    honest = _mean([t.on_dev for t in own])
    test_epoch, both = "best epoch on test", "random split and best epoch on test"
    higher = [sum(t.on_test > t.on_dev for t in own), len(own)]
    scores = {
        test_epoch: _mean([t.on_test for t in own]),
        "random split": _mean([t.on_dev for t in random]),
        both: _mean([t.on_test for t in random]),
    }
    return [
        Habit(config, "honest", honest),
        *(
            Habit(config, name, ua, ua - honest, higher=higher if name == test_epoch else None)
            for name, ua in scores.items()
        ),
    ]


def _seeds(config: str, own: Sequence[Watched]) -> list[Habit]:
    """Return the rows of the seed with the highest mean over folds, and with the lowest."""
    by_seed = {
        seed: _mean([t.on_dev for t in own if t.seed == seed])
        for seed in sorted({t.seed for t in own})
    }
    if len(by_seed) < 2:
        return [Habit(config, "one seed", None, note="needs two seeds or more")]
    honest = _mean([t.on_dev for t in own])
    chosen = {"highest": max(by_seed, key=by_seed.__getitem__)}
    chosen["lowest"] = min(by_seed, key=by_seed.__getitem__)
    return [
        Habit(config, f"one seed, the {name}", by_seed[s], by_seed[s] - honest, note=f"seed {s}")
        for name, s in chosen.items()
    ]


def _intervals(config: str, own: Sequence[Watched]) -> list[Habit]:
    """Return the rows of the interval over speakers, and of that over utterances."""
    parts = [(t.seed, list(t.confusions), np.array(list(t.confusions.values()))) for t in own]
    counts = pool_folds(parts)  # (R, S, K, K)
    pooled = _mean(unweighted_accuracy(counts.sum(1)).tolist())
    speakers, utterances = speaker_percentiles(counts), utterance_percentiles(counts)
    price, note = None, f"needs {MIN_UNITS} speakers or more"
    if speakers is not None:
        price, note = _width(utterances) - _width(speakers), ""
    names = [f"interval over {what}" for what in ("speakers", "utterances")]
    return [
        Habit(config, names[0], pooled if speakers else None, None, speakers, note=note),
        Habit(config, names[1], pooled, price, utterances),
    ]


def tuned_on_test(unheard: Sequence[Watched]) -> Habit:
    """Return the row of the config and seed with the highest mean test UA.

    Its price is beside the test UA of those with the highest mean dev UA; of equal ones the first.
    """
    means: dict[tuple[str, int], tuple[float, float]] = {}
    for key in dict.fromkeys((t.config, t.seed) for t in unheard):
        own = [t for t in unheard if (t.config, t.seed) == key]
        means[key] = _mean([t.dev for t in own]), _mean([t.on_dev for t in own])
    if len(means) < 2:
        return Habit("", "tuned on test", None, note="needs a second config or seed")
    by_dev = max(means, key=lambda key: means[key][0])
    by_test = max(means, key=lambda key: means[key][1])
    ua, honest = means[by_test][1], means[by_dev][1]
    words = [f"{config} with seed {seed}" for config, seed in (by_test, by_dev)]
    note = f"{words[0]}; dev chooses {'the same' if by_dev == by_test else words[1]}"
    return Habit("", "tuned on test", ua, ua - honest, note=f"of {len(means)}: {note}")


def speaker_percentiles(
    counts: NDArray, n_draws: int = N_DRAWS, seed: int = 0
) -> list[float] | None:
    """Return the percentile interval of UA over speakers, None below `MIN_UNITS` speakers.

    Args:
        counts: (R, S, K, K) confusion counts by seed and speaker.
        n_draws: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    n_speakers = counts.shape[1]
    if n_speakers < MIN_UNITS:
        return None
    weights = resamples(n_speakers, n_draws, seed)
    return _mean_percentiles(
        [mean_scores(weights, own[None], unweighted_accuracy) for own in counts]
    )


def utterance_percentiles(counts: NDArray, n_draws: int = N_DRAWS, seed: int = 0) -> list[float]:
    """Return the percentile interval of UA over utterances, as if each had its own speaker.

    Args:
        counts: (R, S, K, K) confusion counts by seed and speaker.
        n_draws: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for pooled in counts.sum(1):  # (K, K)
        n = int(pooled.sum())
        cells = rng.multinomial(n, pooled.ravel() / n, size=n_draws)  # (draws, K * K)
        draws.append(unweighted_accuracy(cells.reshape(-1, *pooled.shape)))
    return _mean_percentiles(draws)


def _mean_percentiles(draws: Sequence[NDArray]) -> list[float]:
    ends = 100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2
    return np.mean([np.percentile(of_seed, ends) for of_seed in draws], axis=0).tolist()


def _width(interval: Sequence[float]) -> float:
    return interval[1] - interval[0]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
