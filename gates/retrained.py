"""Runs that were trained without some sources of the analyzed run, beside its interventions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config.fusions import ONE_BRANCH, branches_of
from evaluation.comparison import compare
from evaluation.paired_tests import PairedTest
from evaluation.results import Comparison, PairTest
from evaluation.tables import setting
from evaluation.tasks import make_task
from gates.results import JOINED, Estimate, UnimodalRun
from inference.predictor import weights_digests
from storage.run_folder import Run
from system.errors import InputError


def compare_unimodal(run: Run, unimodal: Sequence[Run]) -> list[UnimodalRun]:
    """Compare runs of fewer branches with the run, before anything is evaluated.

    Raises:
        InputError: A run reads all branches or others, or was not tested on the same utterances,
            folds or seeds.
    """
    reads = branches_of(run.config)
    for alone in unimodal:
        if alone.is_baseline or not set(branches_of(alone.config)) < set(reads):
            names = [name for name, branch in ONE_BRANCH.items() if branch in reads]
            several = f", or that join some of {', '.join(reads)}," if len(reads) > 2 else ""
            what = "is of the baseline " if alone.is_baseline else "has model.fusion="
            raise InputError(
                f"{alone.folder} {what}{alone.method}: only runs of one branch "
                f"({' or '.join(names)}){several} can be compared with the interventions"
            )
    return list(_unimodal_rows(compare([run, *unimodal]), unimodal)) if unimodal else []


def cost_fields(ua: Estimate, test: PairedTest | PairTest) -> dict[str, Any]:
    """Return the fields that all costs share."""
    fall = Estimate(test.difference, test.interval)
    return {"ua": ua, "fall": fall, "p": test.p, "smallest_p": test.smallest_p}


def _unimodal_rows(comparison: Comparison, unimodal: Sequence[Run]) -> Iterator[UnimodalRun]:
    first, *others = comparison.runs
    main = make_task(first.task, first.classes).main
    tests = {
        test.b: test for test in comparison.tests if test.a == first.name and test.metric == main
    }
    for summary, run in zip(others, unimodal, strict=True):
        name, ua = summary.name, summary.test[main]
        pairs = zip(first.per_class_recall, summary.per_class_recall, strict=True)
        yield UnimodalRun(
            **cost_fields(Estimate(ua.pooled, ua.interval), tests[name]),
            recall_falls=[None if a is None or b is None else a - b for a, b in pairs],
            run=name,
            branch=JOINED.join(branches_of(run.config)),
            weights=weights_digests(run),
            differs=_config_differences(comparison.config_differences, first.name, name),
        )


def _config_differences(
    differences: Mapping[str, Mapping[str, Any]], run: str, alone: str
) -> list[str]:
    """Return the keys that differ beside fusion and branches, and that both runs have."""
    return [
        f"{key}: {setting(values, run)} / {setting(values, alone)}"
        for key, values in differences.items()
        if key not in ("model.fusion", "model.branches")
        and values.get(run) is not None
        and values.get(alone) is not None
        and values[run] != values[alone]
    ]
