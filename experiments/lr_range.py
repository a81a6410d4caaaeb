"""The learning-rate range test (Smith 2017): which rates train a config's model, and does its own.

The model is trained on the training split of one fold while the rate grows geometrically, step by
step, from where it does nothing to where it destroys; dev and test clips are not opened. With L(r)
the loss around rate r, smoothed and the mean of some seeds, and L0 that of the first ten steps, a
rate r is called **usable** if

- the loss smoothed up to r is at least 5 % below L0, there and from there to the lowest L: training
  has got somewhere,
- from the lowest L to r no more than a fifth of the fall from L0 is lost, if L rises behind its
  lowest by 5 % of L0 or diverges: larger steps undo what smaller ones did,
- r is at most a third of the rate at which the first seed diverged: its loss, smoothed up to
  there, above L0 and above 4 times its lowest, or NaN.

Below them a rate is **too low** (it may train, slowly; the test cannot tell), above **too high**.
The rates before r have trained the same weights: the test shows what steps of that size do to a
network in training, not what hundreds of them do to a fresh one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray
from scipy.signal import lfilter

from config.loading import dump_config
from config.schema import Config
from corpora.plan import Plan, make_tuning_plan
from data import Batch
from experiments.tuning_figures import Sweep, draw_sweep
from storage.feature_store import FeatureStore
from system.errors import InputError
from system.files import make_folder, write_csv, write_json, write_text
from training.divergence import Diverged
from training.engine import in_windows
from training.experiment import (
    RANGE_TEST,
    check_places,
    feature_settings,
    fill_store,
    make_accelerator,
)
from training.fold import Training, prepare
from training.job import FoldJob

SMOOTHING = 0.9  # weight of a step's neighbour in the average, of the next one its square, ...
FIRST = 10  # losses that say where it starts
PER_DECADE = 10  # steps at least for a tenfold rate: the average reaches over some ten to each side
MOST_STEPS, MOST_REPEATS, HIGHEST = 100_000, 100, 1e6
LEAST_FALL = 0.05  # part of the loss at the start
MOST_LOST = 0.2  # of what was won at the lowest loss
BLOW_UP = 4.0  # times the lowest smoothed loss
MARGIN = 3.0  # between a usable rate and the one that diverges


class Found(NamedTuple):
    """What a sweep shows."""

    start: float  # loss
    lowest: float  # smoothed loss
    lowest_at: float  # rate
    steepest_at: float  # rate at which it falls fastest, by the logarithm of the rate
    diverged_at: float | None
    band: tuple[float, float] | None  # the usable rates
    highest: float  # rate that is not too high


def sweep(step: Callable[[float], float], rates: Sequence[float]) -> Sweep:
    """Take a step at each rate, until the smoothed loss is far above its lowest, or not finite.

    Args:
        step: Takes one at a rate and returns the loss before it; NaN where it fails.
        rates: Growing.
    """
    raw: list[float] = []
    total = weight = 0.0
    lowest = math.inf
    for n, rate in enumerate(rates, start=1):
        loss = step(rate)
        if not math.isfinite(loss):
            return Sweep(rates[: n - 1], raw, smoothed(raw), rate)
        raw.append(loss)
        total, weight = SMOOTHING * total + loss, SMOOTHING * weight + 1
        lowest = min(lowest, total / weight)
        if n > FIRST and total / weight > max(BLOW_UP * lowest, float(np.mean(raw[:FIRST]))):
            return Sweep(rates[:n], raw, smoothed(raw), rate)
    return Sweep(rates, raw, smoothed(raw))


def so_far(raw: Sequence[float]) -> NDArray:
    """Return the average of each loss and those before it.

    >>> so_far([1.0, 2.0, 3.0]).round(2).tolist()
    [1.0, 1.53, 2.07]
    """
    return _sums(raw) / _sums(np.ones(len(raw)))


def smoothed(raw: Sequence[float]) -> list[float]:
    """Return the average around each loss, which lags behind in neither direction.

    >>> [round(value, 2) for value in smoothed([1.0, 2.0, 3.0])]
    [1.93, 2.0, 2.07]
    """
    total, weight = (
        _sums(v) + _sums(v[::-1])[::-1] - v for v in (np.array(raw), np.ones(len(raw)))
    )
    found: list[float] = (total / weight).tolist()
    return found


def _sums(values: NDArray | Sequence[float]) -> NDArray:
    """Return sums of each value and those before it, weighed."""
    return lfilter([1.0], [1.0, -SMOOTHING], values)


def mean_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """Return the mean of sweeps of some seeds, up to where the first of them ended."""
    first = min(sweeps, key=lambda one: len(one.raw))
    raw = np.mean([one.raw[: len(first.raw)] for one in sweeps], 0).tolist()
    diverged = [one.diverged for one in sweeps if one.diverged is not None]
    return Sweep(first.rates, raw, smoothed(raw), min(diverged, default=None))


def read_sweep(found: Sweep) -> Found:
    """Say where a sweep falls, turns and diverges.

    Raises:
        InputError: It has too few steps to say anything.
    """
    if len(found.raw) <= FIRST:
        raise InputError(
            f"the loss was not finite after {len(found.raw)} steps: give a lower rate as --lowest"
        )
    start = float(np.mean(found.raw[:FIRST]))
    smooth, rates = np.array(found.smooth), np.array(found.rates)
    bottom = FIRST + int(smooth[FIRST:].argmin())
    slopes = np.gradient(smooth, np.log10(rates))[FIRST : bottom + 1]
    behind = so_far(found.raw)  # into which nothing leaks of what comes later
    low = FIRST + int(behind[FIRST:].argmin())
    floor = low
    while low > 0 and behind[low] <= (1 - LEAST_FALL) * start:
        low -= 1
    turns = (
        found.diverged is not None or smooth[bottom:].max() >= smooth[bottom] + LEAST_FALL * start
    )
    top, kept = bottom, smooth[bottom] + MOST_LOST * (start - smooth[bottom])
    while top + 1 < len(rates) and (not turns or smooth[top + 1] <= kept):
        top += 1
    high = float(rates[top])
    if found.diverged is not None:
        high = min(high, found.diverged / MARGIN)
    falls = low < floor and rates[low + 1] <= high
    return Found(
        start,
        float(smooth[bottom]),
        float(rates[bottom]),
        float(rates[FIRST + int(slopes.argmin())]),
        found.diverged,
        (float(rates[low + 1]), high) if falls else None,
        high,
    )


def judge(rate: float, seen: Sweep, found: Found) -> tuple[str, str]:
    """Return `usable`, `too low`, `too high` or `not tested` for a rate, and the reason."""
    if rate < seen.rates[0] or (found.diverged_at is None and rate > seen.rates[-1]):
        tried = f"the test tried {seen.rates[0]:.2g} to {seen.rates[-1]:.2g}"
        return "not tested", f"{tried}: give --lowest or --highest"
    turn = f"it is lowest ({found.lowest:.3g}) at {found.lowest_at:.2g}"
    if found.diverged_at is not None:
        turn += f" and diverges at {found.diverged_at:.2g}"
    shown = so_far(seen.raw) if rate < found.lowest_at else seen.smooth
    at = shown[int(np.searchsorted(seen.rates, rate, side="right")) - 1]
    change = round(100 * (at / found.start - 1))
    here = f"the smoothed loss there is {at:.3g}, {change:+d} % of the {found.start:.3g} at first"
    if rate > seen.rates[-1]:
        here = f"the test ended before it, at {seen.rates[-1]:.2g}"
    if rate > found.highest:
        return "too high", f"{here}; {turn}"
    if found.band is None or rate < found.band[0]:
        return "too low", f"{here}; {turn}"
    return "usable", f"{here}; {turn}"


def run_range_test(
    config: Config, lowest: float = 1e-7, highest: float = 1.0, steps: int = 200, repeats: int = 3
) -> str:
    """Run the test with some seeds, write its figures and figure, and return the answer in words.

    Args:
        config: Of the model; the first of `run.folds` is trained on, the first seed is the first.
        lowest: Rate of the head at the first step; the backbones' are in proportion.
        highest: At the last one.
        steps: In all, from the one to the other.
        repeats: Seeds.

    Raises:
        InputError: Rates or steps make no test, or the corpus is not as it must be.
        RunError: Something cannot be written.
    """
    _check_wishes(lowest, highest, steps, repeats)
    folder = Path(config.run.root) / f"{config.name}_lr_range"
    if folder.exists() and any(folder.iterdir()) and not (folder / RANGE_TEST).is_file():
        why = f"no {RANGE_TEST} in it"
        raise InputError(f"{folder} is no range test ({why}): change name or run.root")
    check_places(config)
    config = _without_schedule(config)
    plan = make_tuning_plan(config, keep=True, with_dev=False)
    store = FeatureStore(Path(config.run.store), feature_settings(config))
    plan = fill_store(plan, store)
    accelerator = make_accelerator(config)
    rates = np.geomspace(lowest, highest, steps).tolist()
    seeds = [config.run.seeds[0] + i for i in range(repeats)]
    sweeps = []
    for seed in seeds:
        training = prepare(_job(plan, seed), store, accelerator)
        sweeps.append(sweep(_stepper(training, config, accelerator), rates))
        accelerator.free_memory()
    return _publish(folder, config, seeds, sweeps)


def _check_wishes(lowest: float, highest: float, steps: int, repeats: int) -> None:
    if not 0 < lowest < highest <= HIGHEST or not 1 <= repeats <= MOST_REPEATS:
        raise InputError(
            f"--lowest must be above 0 and below --highest, which is at most {HIGHEST:g}, and "
            f"--repeats 1 to {MOST_REPEATS}; got {lowest:g}, {highest:g}, {repeats}"
        )
    least = max(2 * FIRST + 1, math.ceil(PER_DECADE * math.log10(highest / lowest)))
    if not least <= steps <= MOST_STEPS:
        raise InputError(
            f"--steps must be {least} to {MOST_STEPS} from {lowest:g} to {highest:g}, {PER_DECADE} "
            f"at least for a tenfold rate; got {steps}"
        )


def _without_schedule(config: Config) -> Config:
    """Return the config with one fold and rates that only the test moves."""
    constant = {"schedule": "constant", "warmup_epochs": None, "min_lr": None}
    constant |= {"plateau_factor": None, "plateau_patience": None}
    fold = (config.run.folds or [1])[:1]
    return config.model_copy(
        update={
            "optim": config.optim.model_copy(update=constant),
            "train": config.train.model_copy(update={"max_bad_steps": 0}),
            "run": config.run.model_copy(update={"folds": fold}),
        }
    )


def _job(plan: Plan, seed: int) -> FoldJob:
    classes, split = plan.labels.classes, plan.splits[0]
    return FoldJob(plan.config, classes, split, seed, plan.hashes, plan.certificate, {})


def _stepper(
    training: Training, config: Config, accelerator: Accelerator
) -> Callable[[float], float]:
    """Return what takes the next step of a training at a rate, and returns its loss."""
    _, trainer, loader = training
    groups = [group for one in trainer.optimizers for group in one.param_groups]
    scales = [group["lr"] / config.optim.lr for group in groups]
    set_seed(trainer.seed)

    def windows() -> Iterator[list[Batch]]:
        for epoch in range(10**9):
            loader.batch_sampler.set_epoch(epoch, 0)  # type: ignore[union-attr]
            yield from in_windows(loader, config.train.accumulate)

    coming = windows()

    def step(rate: float) -> float:
        for group, scale in zip(groups, scales, strict=True):
            group["lr"] = (
                torch.tensor(rate * scale) if torch.is_tensor(group["lr"]) else rate * scale
            )
        try:
            terms = trainer.step(next(coming))
        except Diverged:
            return math.nan
        return float(np.mean([float(one.total) for one in terms]))

    return step


def _publish(folder: Path, config: Config, seeds: Sequence[int], sweeps: Sequence[Sweep]) -> str:
    """Write the folder of the test; return the answer."""
    make_folder(folder)
    mean = mean_sweep(sweeps)
    found = read_sweep(mean)
    verdict, reason = judge(config.optim.lr, mean, found)
    words = _answer(config, seeds, found, verdict, reason)
    rows = [
        [seed, n, *row]
        for seed, one in zip(seeds, sweeps, strict=True)
        for n, row in enumerate(zip(*one[:3], strict=True), start=1)
    ]
    about: dict[str, Any] = {
        "optim.lr": config.optim.lr,
        "optimizer": config.optim.optimizer.model_dump(),
        "verdict": verdict,
        "reason": reason,
        "seeds": list(seeds),
        **found._asdict(),
        "answer": words.splitlines(),
    }
    write_json(folder / RANGE_TEST, about)  # first: now it is a range test
    write_csv(folder / "lr_range.csv", ["seed", "step", "rate", "loss", "smoothed"], rows)
    write_text(folder / "config.yaml", dump_config(config))
    marks = {f"optim.lr = {config.optim.lr:g}": config.optim.lr}
    marks["steepest fall"] = found.steepest_at
    if found.diverged_at is not None:
        marks["first divergence"] = found.diverged_at
    draw_sweep(folder / "lr_range.png", sweeps, mean, marks, found.band)
    return f"{words}\nPicture and figures: {folder}/lr_range.png, .csv and .json"


def _answer(config: Config, seeds: Sequence[int], found: Found, verdict: str, reason: str) -> str:
    named = sorted({name for name in config.optim.optimizer.model_dump().values() if name})
    recipe = f"{config.name} ({', '.join(named)})"
    number = "one seed only" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"
    line = f"optim.lr={config.optim.lr:g} is {verdict} for {recipe}, {number}: {reason}."
    if found.band is None:
        why = "the loss does not fall by 5 % before it turns: --steps may be too few to tell"
        return f"{line}\nNo rate is usable; {why}."
    low, high = found.band
    return f"{line}\nUsable: {low:.2g} to {high:.2g}; it falls fastest at {found.steepest_at:.2g}."
