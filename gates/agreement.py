"""Do the gate and the branch ablation name the same branch? One verdict and one sentence each.

Of two branches a gate above 0.5 leans to the first, CQT of both images, below to the second. Of
more it leans to the branch whose share is larger than that of each other. The weights rely on the
branch whose loss costs more than that of each other, if that loss costs anything. Either side is
decided only where its 95 % intervals exclude balance, and a gate only if it is at least `LEAN` from
it: less is no trust in a branch, however sure it is.
"""

from collections.abc import Sequence
from typing import Literal, cast

from config.fusions import BRANCH_TITLES
from evaluation.shares import listed, titles
from evaluation.tasks import Measure, make_task
from gates.results import Branch, BranchDifference, Estimate, Interval, ShareDifference, Verdict

UA = make_task("class", ()).measures["ua"]
BALANCE = 0.5  # of a gate
LEAN = 0.02  # distance from balance below which a gate leans to neither branch
OF_CLASS = "balanced accuracy"


def judge(gate: Estimate, branches: BranchDifference, measure: Measure = UA) -> Verdict:
    """Compare a mean gate with how much more the loss of the first branch costs than of the second.

    Args:
        gate: Mean gate, the share of the first of two branches (of both images 1 = CQT, 0 = Mel),
            of all utterances or of those of a class.
        branches: Fall without the first minus fall without the second, of the same utterances.
        measure: Score of all utterances that the branches' falls are of.

    >>> difference = BranchDifference(None, Estimate(0.1, [0.05, 0.15]), 0.01, [0.1, 0.2])
    >>> judge(Estimate(0.4, [0.35, 0.45]), difference).words
    'The gate leans to Mel, but the loss of CQT costs more UA: they disagree.'
    """
    first, second = titles([branches.a, branches.b])
    far = abs(gate.value - BALANCE) >= LEAN
    side = _side(gate.interval, BALANCE) if far else None
    leans = None if side is None else (first if side else second)
    said = (
        f"The gate leans to {leans}" if leans else f"The gate leans to neither ({gate.value:.3f})"
    )
    what = measure.name if branches.class_name is None else OF_CLASS
    costs = branches.larger_fall is not None and branches.larger_fall[0] > 0
    side = _side(branches.difference.interval, 0.0) if costs else None
    relies = None if side is None else (first if side else second)
    cost = (
        f"the loss of {relies} costs more {what}"
        if relies
        else f"the costs in {what} of losing {first} and of losing {second} do not differ "
        f"significantly ({measure.words(branches.difference.value, '+')}"
        f"{' points' * measure.in_percent})"
        if costs
        else f"neither the loss of {first} nor that of {second} costs {what} significantly"
    )
    return _verdict(branches.class_name, leans, relies, said, cost)


def judge_sources(
    leads: Sequence[ShareDifference],
    branches: Sequence[BranchDifference],
    measure: Measure = UA,
) -> Verdict:
    """Compare the shares of three sources or more with what the loss of each costs.

    Args:
        leads: Share of a source minus that of another, of each pair, of all utterances or of those
            of a class.
        branches: Fall without a source minus fall without the other, of each pair, likewise.
        measure: Score of all utterances that the sources' falls are of.

    >>> pairs = [("cqt", "mel", 0.0), ("cqt", "speech", -0.2), ("mel", "speech", -0.2)]
    >>> shares = [ShareDifference(x, [x - 0.1, x + 0.1], None, a, b) for a, b, x in pairs]
    >>> falls = [
    ...     BranchDifference(None, Estimate(x, [x - 0.1, x + 0.1]), 0.01, [0.1, 0.3], a, b)
    ...     for a, b, x in pairs
    ... ]
    >>> judge_sources(shares, falls).words
    'The gate leans to speech, and the loss of speech costs most UA: they agree.'
    """
    sources = list(dict.fromkeys(name for lead in leads for name in (lead.a, lead.b)))
    class_name = branches[0].class_name
    what = measure.name if class_name is None else OF_CLASS
    clear = [lead for lead in leads if abs(lead.value) >= 2 * LEAN]
    leans = _first_of_all([(d.a, d.b, _side(d.interval, 0.0)) for d in clear], len(sources))
    said = f"The gate leans to {leans}" if leans else "The gate leans to no source alone"
    paid = [one for one in branches if one.larger_fall is not None and one.larger_fall[0] > 0]
    sides = [(d.a, d.b, _side(d.difference.interval, 0.0)) for d in paid]
    relies = _first_of_all(sides, len(sources))
    cost = (
        f"the loss of {relies} costs most {what}"
        if relies
        else f"no loss of a source alone costs significantly more {what} than that of each other"
        if paid
        else f"the loss of {listed(titles(sources), 'or')} costs no {what} significantly"
    )
    return _verdict(class_name, leans, relies, said, cost)


def _first_of_all(pairs: Sequence[tuple[str, str, bool | None]], n: int) -> Branch:
    """Return the title of the source that is before each of the n - 1 others, or None."""
    before = [a if side else b for a, b, side in pairs if side is not None]
    found = [name for name in dict.fromkeys(before) if before.count(name) == n - 1]
    return cast(Branch, BRANCH_TITLES[found[0]]) if found else None


def _verdict(
    class_name: str | None, leans: str | None, relies: str | None, said: str, cost: str
) -> Verdict:
    verdict: Literal["agree", "disagree", "undecided"] = "undecided"
    if leans is not None and relies is not None:
        verdict = "agree" if leans == relies else "disagree"
    end = verdict if verdict == "undecided" else f"they {verdict}"
    words = f"{said}, {'but' if verdict == 'disagree' else 'and'} {cost}: {end}."
    return Verdict(class_name, cast(Branch, leans), cast(Branch, relies), verdict, words)


def _side(interval: Interval, balance: float) -> bool | None:
    """Return whether an interval lies above (True) or below balance, None if it holds it."""
    if interval is None or interval[0] <= balance <= interval[1]:
        return None
    return interval[0] > balance
