"""Do the gate and the branch ablation name the same branch? One verdict and one sentence each.

A gate above 0.5 leans to CQT, below to Mel. The weights rely on the branch whose loss costs more,
if that loss costs anything. Either side is decided only where its 95 % interval excludes balance,
and a gate only if it is at least `LEAN` from it: less is no trust in a branch, however sure it is.
"""

from typing import Literal

from evaluation.tasks import Measure, make_task
from gates.results import Branch, BranchDifference, Estimate, Interval, Verdict

UA = make_task("class", ()).measures["ua"]
BALANCE = 0.5  # of a gate
LEAN = 0.02  # distance from balance below which a gate leans to neither branch
OF_CLASS = "balanced accuracy"


def judge(gate: Estimate, branches: BranchDifference, measure: Measure = UA) -> Verdict:
    """Compare a mean gate with how much more the loss of CQT costs than the loss of Mel.

    Args:
        gate: Mean gate, 1 = CQT, 0 = Mel, of all utterances or of those of a class.
        branches: Fall without CQT minus fall without Mel, of the same utterances.
        measure: Score of all utterances that the branches' falls are of.

    >>> difference = BranchDifference(None, Estimate(0.1, [0.05, 0.15]), 0.01, [0.1, 0.2])
    >>> judge(Estimate(0.4, [0.35, 0.45]), difference).words
    'The gate leans to Mel, but the loss of CQT costs more UA: they disagree.'
    """
    what = measure.name if branches.class_name is None else OF_CLASS
    far = abs(gate.value - BALANCE) >= LEAN
    leans = _side(gate.interval, BALANCE) if far else None
    costs = branches.larger_fall is not None and branches.larger_fall[0] > 0
    relies = _side(branches.difference.interval, 0.0) if costs else None
    said = (
        f"The gate leans to {leans}" if leans else f"The gate leans to neither ({gate.value:.3f})"
    )
    cost = (
        f"the loss of {relies} costs more {what}"
        if relies
        else f"the costs in {what} of losing CQT and of losing Mel do not differ significantly "
        f"({measure.words(branches.difference.value, '+')}{' points' * measure.in_percent})"
        if costs
        else f"neither the loss of CQT nor that of Mel costs {what} significantly"
    )
    verdict: Literal["agree", "disagree", "undecided"] = "undecided"
    if leans is not None and relies is not None:
        verdict = "agree" if leans == relies else "disagree"
    end = verdict if verdict == "undecided" else f"they {verdict}"
    words = f"{said}, {'but' if verdict == 'disagree' else 'and'} {cost}: {end}."
    return Verdict(branches.class_name, leans, relies, verdict, words)


def _side(interval: Interval, balance: float) -> Branch:
    if interval is None or interval[0] <= balance <= interval[1]:
        return None
    return "CQT" if interval[0] > balance else "Mel"
