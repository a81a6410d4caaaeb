"""Which learning rates are usable, by the losses of a range test (Smith 2017).

The model trains on the training split of one fold while the rate r_k grows geometrically from step
to step, from where it changes nothing to where training diverges. Dev and test audio is not opened.
The loss l_k of step k is that of one batch, so it is noise around a trend, and is smoothed:

    S_k = sum_j w^|k-j| l_j / sum_j w^|k-j|     over all j,      w = 0.9
    P_k = sum_j w^(k-j) l_j / sum_j w^(k-j)     over the past,   j <= k

S averages over both sides: an average of the past alone lags behind the trend by some ten steps,
a third of a decade of rates at 200 steps. P is used where later losses must not leak back: at
the lower end of the range, and for divergence while the test runs. Several seeds are averaged step
by step before smoothing, up to where the first of them diverged.

With L0 the mean loss of the first ten steps and m the step of the lowest S, a rate r_k is
**usable** if all of these hold:

    P_k <= 0.95 L0, for k and all steps up to the lowest P   (training has begun)
    S_k <= S_m + 0.2 (L0 - S_m), for k > m, if S rises by 5 % of L0 behind m, or diverges
                                                            (larger steps undo at most a fifth)
    r_k <= r_D / 3, with r_D the lowest rate at which a seed diverged: its loss is NaN, or
                    P > L0 and P > 4 times its lowest        (a margin to divergence)

Rates below are **too low** (they may train, slowly; the test cannot say), rates above **too high**.
The rates before r_k have trained the same weights: the test shows what steps of that size do to a
network in training, not what hundreds of them do to a fresh one.

Source: Smith 2017, section 3.3; he reads the two ends of the range from the plot by eye.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from system.errors import InputError

SMOOTHING = 0.9  # w
N_FIRST = 10  # losses whose mean is L0
MIN_FALL = 0.05  # of L0
MAX_LOST = 0.2  # of the fall from L0 to the lowest loss
BLOW_UP = 4.0  # times the lowest past average
MARGIN = 3.0  # between a usable rate and r_D


class Sweep(NamedTuple):
    """The losses of one range test, one per step."""

    rates: Sequence[float]
    losses: Sequence[float]
    smooth: Sequence[float]  # S
    diverged_at: float | None = None  # rate


class Reading(NamedTuple):
    """What a sweep shows; its names are the keys of lr_range.json."""

    start: float  # L0
    lowest: float  # S_m
    lowest_at: float  # r_m
    steepest_at: float  # rate at which S falls fastest, by the logarithm of the rate
    diverged_at: float | None  # r_D
    band: tuple[float, float] | None  # lowest and highest usable rate
    highest: float  # the highest rate that is not too high


def sweep(step: Callable[[float], float], rates: Sequence[float]) -> Sweep:
    """Take a step at each rate until the loss diverges.

    Args:
        step: Takes one training step at a rate and returns the loss before it; NaN if it failed.
        rates: Learning rates, growing.
    """
    losses: list[float] = []
    total = weight = 0.0
    lowest = math.inf
    for n, rate in enumerate(rates, start=1):
        loss = step(rate)
        if not math.isfinite(loss):
            return Sweep(rates[: n - 1], losses, smoothed(losses), rate)
        losses.append(loss)
        total, weight = SMOOTHING * total + loss, SMOOTHING * weight + 1
        past = total / weight
        lowest = min(lowest, past)
        if n > N_FIRST and past > max(BLOW_UP * lowest, float(np.mean(losses[:N_FIRST]))):
            return Sweep(rates[:n], losses, smoothed(losses), rate)
    return Sweep(rates, losses, smoothed(losses))


def past_average(losses: Sequence[float]) -> NDArray:
    """Return P, the average of each loss and those before it.

    >>> past_average([1.0, 2.0, 3.0]).round(2).tolist()
    [1.0, 1.53, 2.07]
    """
    return _past_sum(losses) / _past_sum(np.ones(len(losses)))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return S, the average around each loss.

    >>> [round(value, 2) for value in smoothed([1.0, 2.0, 3.0])]
    [1.93, 2.0, 2.07]
    """
    total, weight = (
        _past_sum(values) + _past_sum(values[::-1])[::-1] - values
        for values in (np.array(losses), np.ones(len(losses)))
    )
    average: list[float] = (total / weight).tolist()
    return average


def _past_sum(values: NDArray | Sequence[float]) -> NDArray:
    """Return sum_j w^(k-j) v_j over j <= k."""
    return np.array(list(accumulate(values, lambda total, value: SMOOTHING * total + value)))


def mean_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """Return the mean over seeds, up to where the first of them ended."""
    shortest = min(sweeps, key=lambda each: len(each.losses))
    losses = np.mean([each.losses[: len(shortest.losses)] for each in sweeps], 0).tolist()
    diverged = [each.diverged_at for each in sweeps if each.diverged_at is not None]
    return Sweep(shortest.rates, losses, smoothed(losses), min(diverged, default=None))


def read_sweep(test: Sweep) -> Reading:
    """Find where a sweep falls, rises and diverges, and its usable rates.

    Raises:
        InputError: It has too few steps.
    """
    if len(test.losses) <= N_FIRST:
        raise InputError(
            f"the loss was not finite after {len(test.losses)} steps: give a lower rate as --lowest"
        )
    start = float(np.mean(test.losses[:N_FIRST]))
    smooth, rates, past = np.array(test.smooth), np.array(test.rates), past_average(test.losses)
    bottom = N_FIRST + int(smooth[N_FIRST:].argmin())
    slopes = np.gradient(smooth, np.log10(rates))[N_FIRST : bottom + 1]
    low = past_bottom = N_FIRST + int(past[N_FIRST:].argmin())
    while low > 0 and past[low] <= (1 - MIN_FALL) * start:
        low -= 1
    diverged = test.diverged_at is not None
    rises = diverged or smooth[bottom:].max() >= smooth[bottom] + MIN_FALL * start
    limit = smooth[bottom] + MAX_LOST * (start - smooth[bottom])
    top = bottom
    while top + 1 < len(rates) and (not rises or smooth[top + 1] <= limit):
        top += 1
    highest = min(float(rates[top]), (test.diverged_at or math.inf) / MARGIN)
    is_usable = low < past_bottom and rates[low + 1] <= highest
    return Reading(
        start=start,
        lowest=float(smooth[bottom]),
        lowest_at=float(rates[bottom]),
        steepest_at=float(rates[N_FIRST + int(slopes.argmin())]),
        diverged_at=test.diverged_at,
        band=(float(rates[low + 1]), highest) if is_usable else None,
        highest=highest,
    )


def judge(rate: float, test: Sweep, reading: Reading) -> tuple[str, str]:
    """Return `usable`, `too low`, `too high` or `not tested` for a rate, and the reason."""
    if rate < test.rates[0] or (reading.diverged_at is None and rate > test.rates[-1]):
        tried = f"the test tried {test.rates[0]:.2g} to {test.rates[-1]:.2g}"
        return "not tested", f"{tried}: give --lowest or --highest"
    lowest = f"it is lowest ({reading.lowest:.3g}) at {reading.lowest_at:.2g}"
    if reading.diverged_at is not None:
        lowest += f" and diverges at {reading.diverged_at:.2g}"
    average = past_average(test.losses) if rate < reading.lowest_at else test.smooth
    loss = average[int(np.searchsorted(test.rates, rate, side="right")) - 1]
    change = f"{round(100 * (loss / reading.start - 1)):+d} % of the {reading.start:.3g} at first"
    reason = f"the smoothed loss there is {loss:.3g}, {change}; {lowest}"
    if rate > test.rates[-1]:
        reason = f"the test ended before it, at {test.rates[-1]:.2g}; {lowest}"
    if rate > reading.highest:
        return "too high", reason
    is_too_low = reading.band is None or rate < reading.band[0]
    return "too low" if is_too_low else "usable", reason
