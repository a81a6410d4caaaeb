"""Which paired tests are one family: those between fusions, and those with a baseline.

A baseline beside the fusions answers another question (does a fusion beat a simple method?) than
the fusions among themselves (does one fusion beat another?). Each family has a Holm correction of
its own, so that a baseline in the table costs the tests between fusions nothing. Baselines are not
tested against each other where there is a fusion.
"""

from collections.abc import Sequence, Set
from itertools import combinations

from evaluation.results import Comparison, PairTest

Pair = tuple[str, str]


def families_of_pairs(
    names: Sequence[str], baselines: Set[str], reference: str | None
) -> list[list[Pair]]:
    """Return the pairs to test, each family in a list of its own.

    Args:
        names: Names of the runs.
        baselines: Those that are baselines.
        reference: The run with which each of the others is compared; None compares all pairs.

    >>> families_of_pairs(["svm", "concat", "gmu"], {"svm"}, None)
    [[('concat', 'gmu')], [('concat', 'svm'), ('gmu', 'svm')]]
    """
    pairs = list(combinations(names, 2))
    if reference is not None:
        pairs = [(name, reference) for name in names if name != reference]
    if set(names) <= set(baselines):
        return [pairs]
    among = [pair for pair in pairs if not baselines & set(pair)]
    beside = [
        (b, a) if a in baselines else (a, b)
        for a, b in pairs
        if (a in baselines) != (b in baselines)
    ]
    return [family for family in (among, beside) if family]


def families_of_tests(comparison: Comparison, metric: str) -> list[list[PairTest]]:
    """Return the tests of a score by family: between fusions first, then with a baseline."""
    baselines = baselines_of(comparison)
    tests = [test for test in comparison.tests if test.metric == metric]
    beside = [test for test in tests if {test.a, test.b} & baselines]
    among = [test for test in tests if test not in beside]
    return [family for family in (among, beside) if family]


def baselines_of(comparison: Comparison) -> set[str]:
    """Return the names of the runs that are baselines."""
    return {run.name for run in comparison.runs if run.baseline}
