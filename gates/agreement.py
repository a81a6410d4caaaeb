"""Do a gate and an intervention name the same branch? One verdict and one sentence each.

A gate above 0.5 leans to CQT, below to Mel. The weights rely on the branch whose loss costs more,
if it costs anything. Each is taken to say so only where its 95 % interval lies on one side.
"""

from collections.abc import Sequence
from typing import NamedTuple

BALANCE = 0.5  # of a gate
AGREE, DISAGREE, UNDECIDED = "agree", "disagree", "undecided"
Interval = Sequence[float] | None


class Verdict(NamedTuple):
    """What gate and intervention say of all clips or of those of a class."""

    leans: str | None  # branch that the gate leans to; None cannot be told
    relies: str | None  # branch whose loss costs more; None cannot be told
    verdict: str
    words: str


def judge(
    gate: float,
    gate_interval: Interval,
    difference: float,
    interval: Interval,
    cost_interval: Interval,
    what: str,
) -> Verdict:
    """Compare a mean gate with how much more the loss of CQT costs than that of Mel.

    Args:
        gate: Mean, 1 = CQT, 0 = Mel.
        gate_interval: Of it.
        difference: Fall without CQT minus fall without Mel, a fraction.
        interval: Of it.
        cost_interval: Of the larger of the two falls: what costs nothing is not relied on.
        what: Falls: UA, or the balanced accuracy of a class against the rest.

    >>> judge(0.4, [0.35, 0.45], 0.1, [0.05, 0.15], [0.1, 0.2], "UA").words
    'The gate leans to Mel, but the loss of CQT costs more UA: they disagree.'
    """
    leans = _side(gate_interval, BALANCE)
    costs = cost_interval is not None and cost_interval[0] > 0
    relies = _side(interval, 0.0) if costs else None
    said = f"The gate leans to {leans}" if leans else f"The gate leans to neither ({gate:.3f})"
    cost = (
        f"the loss of {relies} costs more {what}"
        if relies
        else f"the losses of CQT and Mel cost {what} that cannot be told apart "
        f"({100 * difference:+.1f} points)"
        if costs
        else f"neither the loss of CQT nor that of Mel surely costs {what}"
    )
    if leans is None or relies is None:
        return Verdict(leans, relies, UNDECIDED, f"{said}, and {cost}: undecided.")
    if leans == relies:
        return Verdict(leans, relies, AGREE, f"{said}, and {cost}: they agree.")
    return Verdict(leans, relies, DISAGREE, f"{said}, but {cost}: they disagree.")


def _side(interval: Interval, middle: float) -> str | None:
    if interval is None or interval[0] <= middle <= interval[1]:
        return None
    return "CQT" if interval[0] > middle else "Mel"
