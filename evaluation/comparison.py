"""Runs of one protocol side by side: scores, what differs in their configs, paired tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from config.effects import BRANCH_SCALES, has_effect, usual_value, whole_key, with_branch_scales
from config.tasks import CLASS
from corpora.certificate import protocol_parts
from corpora.stamps import is_transductive
from evaluation.families import Pair, families_of_pairs
from evaluation.paired_tests import paired_test
from evaluation.results import (
    Comparison,
    MadeWith,
    McNemarRow,
    PairTest,
    RunSummary,
    shared_facts,
)
from evaluation.significance import holm, mcnemar
from evaluation.summary import by_fold_and_speaker, describe_run, sessions_of
from evaluation.tasks import task_of
from storage.run_folder import Run
from system.errors import InputError
from system.text import without_place

NOT_COMPARED = ("name", "run.", "corpus.root", "corpus.manifest", "protocol.folds")


def compare(runs: Sequence[Run], reference: int | None = None) -> Comparison:
    """Return everything that tables and report show of several runs.

    `tests` are the paired tests of `paired_tests`, `mcnemar` McNemar's tests over utterances,
    one for each seed. P-values are Holm-corrected over the pairs of a family and score, McNemar's
    over the pairs of a family and seeds; see `families`.

    Args:
        runs: At least one run.
        reference: Index of the run with which each of the others is compared; None compares all
            pairs (45 for ten runs).

    Raises:
        InputError: Protocol, splits, folds or seeds differ; names the key that differs.
    """
    names = run_names(runs)
    summaries = [
        replace(describe_run(run), name=name) for run, name in zip(runs, names, strict=True)
    ]
    _check_alike(summaries, runs)
    whom = None if reference is None else names[reference]
    baselines = {summary.name for summary in summaries if summary.baseline}
    families = families_of_pairs(names, baselines, whom)
    return Comparison(
        **{**shared_facts(summaries[0]), "corpus": _corpora(summaries)},
        runs=summaries,
        reference=whom,
        config_differences=config_differences(runs, names),
        tests=[test for pairs in families for test in _paired_tests(runs, names, pairs)],
        mcnemar=[test for pairs in families for test in _mcnemar_tests(runs, names, pairs)],
        made_with=_made_with(runs),
    )


def _corpora(summaries: Sequence[RunSummary]) -> str:
    """Return the corpus; equal recordings may have been read as two."""
    return " and ".join(dict.fromkeys(summary.corpus for summary in summaries))


def config_differences(runs: Sequence[Run], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return {key: {run: value}} of the keys whose values differ.

    A key that has an effect with some values of another key alone (`loss.alpha` with
    `model.fusion`) has values only for those runs. It is returned only if two of them differ, or
    one is not the default. A baseline has few of the keys; the others say nothing about it. Tables
    are published: of a path from the root of the file system the last part is returned.
    """
    configs: dict[str, Mapping[str, Any]] = {
        name: run.config for name, run in zip(names, runs, strict=True)
    }
    if any(f"{BRANCH_SCALES}.cqt" in config for config in configs.values()):
        configs = {name: with_branch_scales(config) for name, config in configs.items()}
    differences = {}
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        having = {name: config for name, config in configs.items() if key in config}
        values = {name: c[key] for name, c in having.items() if has_effect(c, key)}
        default = [usual_value(key)] if 0 < len(values) < len(having) else []
        if (
            not whole_key(key).startswith(NOT_COMPARED)
            and len({*map(str, [*values.values(), *default])}) > 1
        ):
            differences[key] = _without_places(values)
    return differences


def _without_places(values: dict[str, Any]) -> dict[str, Any]:
    """Return values without folders of this machine, unless these are the difference."""
    shown = {run: without_place(v) if isinstance(v, str) else v for run, v in values.items()}
    same = [len({*map(str, some.values())}) for some in (values, shown)]
    return shown if same[0] == same[1] else values


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return each run's name, or its folder where two runs have the same name.

    Raises:
        InputError: A run is named twice.
    """
    names = [run.name for run in runs]
    names = [
        name if names.count(name) == 1 else str(run.folder)
        for run, name in zip(runs, names, strict=True)
    ]
    if len(set(names)) < len(names):
        raise InputError(f"a run is named twice: {', '.join(names)}; name each once")
    return names


def _check_alike(summaries: Sequence[RunSummary], runs: Sequence[Run]) -> None:
    _refuse_difference(summaries, "protocol", "protocol", _explain_protocols)
    what = "certificate (utterances, labels or folds)"
    _refuse_difference(summaries, "certificate", what, lambda _: _explain_certificates(runs))
    _refuse_difference(summaries, "folds", "finished folds")
    _refuse_difference(summaries, "seeds", "finished seeds")


def _refuse_difference(
    summaries: Sequence[RunSummary],
    key: str,
    what: str,
    explain: Callable[[Sequence[str]], str] = lambda values: "",
) -> None:
    by_run = {summary.name: getattr(summary, key) for summary in summaries}
    if len({str(value) for value in by_run.values()}) > 1:
        listed = "\n".join(f"  {name}: {value}" for name, value in by_run.items())
        raise InputError(
            f"these runs cannot be compared, their {what} differs:\n{listed}"
            f"{explain(list(by_run.values()))}"
        )


def _explain_protocols(protocols: Sequence[str]) -> str:
    """Name the config keys behind the difference."""
    parts = [protocol_parts(protocol) for protocol in protocols]
    lines = [
        f"\n  {key} differs: {', '.join(dict.fromkeys(part[key] for part in parts))}"
        for key in parts[0]
        if len({part[key] for part in parts}) > 1
    ]
    if len({is_transductive(protocol) for protocol in protocols}) > 1:
        lines.append(
            "\n  train.normalize=speaker uses the tested speakers' unlabelled utterances: compare "
            "runs that all do, or that all do not"
        )
    return "".join(lines)


def _explain_certificates(runs: Sequence[Run]) -> str:
    """Name the number of utterances of each run, and the folds that differ."""
    counts = ", ".join(f"{run.name} {run.certificate.get('utterances')}" for run in runs)
    assigned = [{f["fold"]: f.get("assignment") for f in run.certificate["folds"]} for run in runs]
    every = sorted(set().union(*assigned))
    differ = [str(k) for k in every if len({str(folds.get(k)) for folds in assigned}) > 1]
    return f"\n  utterances: {counts}; folds that differ: {', '.join(differ) or 'none'}"


def _paired_tests(
    runs: Sequence[Run], names: Sequence[str], pairs: Sequence[Pair]
) -> list[PairTest]:
    counts = {name: by_fold_and_speaker(run) for name, run in zip(names, runs, strict=True)}
    task, rows = task_of(runs[0].folds[0]), []
    for metric in task.tested:
        measure, tests = task.measures[metric], []
        for a, b in pairs:
            (of_a, speakers, folds), (of_b, *_) = counts[a], counts[b]
            of_pair = (of_a, of_b, speakers, folds, measure.score)
            tests.append(paired_test(*of_pair, scale=measure.scale))
        adjusted = holm([test.p for test in tests])
        rows += [
            PairTest(a=a, b=b, metric=metric, **test._asdict(), p_holm=p)
            for (a, b), test, p in zip(pairs, tests, adjusted, strict=True)
        ]
    return rows


def _mcnemar_tests(
    runs: Sequence[Run], names: Sequence[str], pairs: Sequence[Pair]
) -> list[McNemarRow]:
    if task_of(runs[0].folds[0]).kind != CLASS:
        return []  # nothing is right or wrong
    by_name = dict(zip(names, runs, strict=True))
    places = [(a, b, seed) for a, b in pairs for seed in runs[0].seeds]
    tests = []
    for a, b, seed in places:
        table_a, table_b = by_name[a].of_seed(seed), by_name[b].of_seed(seed)
        tests.append(mcnemar(table_a.preds == table_a.targets, table_b.preds == table_b.targets))
    adjusted = holm([test.p for test in tests])
    return [
        McNemarRow(a=a, b=b, seed=seed, **test._asdict(), p_holm=p)
        for (a, b, seed), test, p in zip(places, tests, adjusted, strict=True)
    ]


def _made_with(runs: Sequence[Run]) -> list[MadeWith]:
    """Return the distinct commits, devices and thread counts behind the folds."""
    keys = ("git_commit", "device", "threads")
    distinct = {
        tuple(str(session.get(key)) for key in keys) for run in runs for session in sessions_of(run)
    }
    return [MadeWith(*values) for values in sorted(distinct)]
