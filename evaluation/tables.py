"""A comparison as Markdown and as LaTeX tables, in percent."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from config.several import CROSS_CORPUS
from config.tasks import RATINGS
from corpora.certificate import protocol_parts
from corpora.splits import LONE
from corpora.stamps import UNKNOWN_ORIGIN, stamps
from evaluation.conclusion import conclusion, design, differing_keys, why_untestable
from evaluation.families import families_of_tests
from evaluation.results import Comparison, RunSummary
from evaluation.shares import of_gates
from evaluation.tasks import Task, make_task
from evaluation.wording import (
    count_of,
    count_speakers,
    in_code,
    in_markdown,
    markdown_table,
    p_value,
    plus_minus,
    with_interval,
)
from storage.environment import made_with_notes
from storage.fold_folder import TrainingIssues
from storage.ledger import repeated_evaluations
from system.text import printable

INCIDENTS_SHOWN = 3  # skipped steps of a fold that are listed
LATEX_SPECIAL = {**{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}"}
LATEX_SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}
LATEX_SPECIAL |= {"−": "$-$", "<": "$<$"}
MCNEMAR = (
    "McNemar's test assumes independent utterances, which those of one speaker are not: rely on p "
    "(Holm). Of several seeds its largest p is shown."
)
LONE_SPEAKERS = (
    "Nearly every utterance has a speaker of its own: nothing shows that train and test share no "
    "speaker, and intervals and tests take utterances as independent."
)

Rows = list[list[str]]


def comparison_markdown(comparison: Comparison) -> str:
    """Return the scores of the runs, and the paired tests where there are several.

    Args:
        comparison: From `comparison.compare`, or `results.side_by_side` for one run.
    """
    blocks = [scores_markdown(comparison).rstrip()]
    if comparison.tests:
        blocks.append(_how_tested(comparison))
        blocks.append(markdown_table(*pair_rows(comparison), n_words=3))
    return "\n\n".join([*blocks, *map(in_markdown, notes(comparison))]) + "\n"


def scores_markdown(comparison: Comparison) -> str:
    """Return the scores of the runs alone."""
    blocks = [f"**{stamp}**" for stamp in stamps_of(comparison)]
    blocks.append(in_markdown(conclusion(comparison)))
    blocks += [caption(comparison), markdown_table(*score_rows(comparison), n_words=2)]
    return "\n\n".join(blocks) + "\n"


def comparison_latex(comparison: Comparison) -> str:
    """Return the same as `comparison_markdown`, as booktabs tables."""
    tables = [(caption(comparison), *score_rows(comparison))]
    if comparison.tests:
        above = f"{identity(comparison)}. {_how_tested(comparison)}"
        tables.append((above, *pair_rows(comparison)))
    opening = " ".join([*(f"{s}." for s in stamps_of(comparison)), conclusion(comparison)])
    lines = [_latex(f"{opening} {above}", head, rows) for above, head, rows in tables]
    lines += [f"% {printable(note, keep='')}" for note in notes(comparison)]
    return "\n".join(lines) + "\n"


def stamps_of(comparison: Comparison) -> list[str]:
    """Return what must stand above the scores."""
    return stamps(comparison.protocol, comparison.speaker_dependent)


def caption(comparison: Comparison) -> str:
    """Return what was measured, on which utterances, and how to read it."""
    task = shown_task(comparison)
    folds = ", ".join(map(str, comparison.folds))
    seeds = ", ".join(map(str, comparison.seeds))
    return (
        f"{identity(comparison)}; test folds {folds} of {comparison.n_folds}, seeds {seeds}, "
        f"{count_of(comparison.n, 'utterance')} of "
        f"{count_speakers(comparison.n_speakers, comparison.protocol)}. "
        f"{task.caption}{_of_scale(comparison)}; mean ± "
        "standard deviation over folds; pooled with 95 % interval over speakers, trained weights "
        f"held fixed; gate {of_gates(any(run.gate_shares for run in comparison.runs))}."
        f"{_of_branches(comparison)}"
    )


def _of_branches(comparison: Comparison) -> str:
    """Say where heads alone were trained, and which chance of training is not counted."""
    words = ""
    if frozen := [in_code(run.name) for run in comparison.runs if run.frozen]:
        words += f" Of {', '.join(frozen)} the head alone is trained, on frozen branches."
    by_origin: dict[tuple[int | None, bool], list[str]] = {}
    for run in _of_one_training(comparison):
        by_origin.setdefault((run.branch_seed, run.frozen), []).append(in_code(run.name))
    for (seed, is_frozen), names in by_origin.items():
        verb = "are those of" if is_frozen else "start from"
        counted = "that of training heads is" if is_frozen else "that of what follows is"
        words += (
            f" For all seeds the branches of {', '.join(names)} {verb} one training a fold (seed "
            f"{seed}): its chance is not counted, {counted}."
        )
    return words


def _of_one_training(comparison: Comparison) -> list[RunSummary]:
    return [run for run in comparison.runs if run.branch_seed is not None]


def identity(comparison: Comparison) -> str:
    """Return the protocol and the certificate of the splits."""
    protocol, certificate = in_code(comparison.protocol), in_code(comparison.certificate)
    return f"Protocol {protocol}, certificate {certificate}"


def score_rows(comparison: Comparison) -> tuple[list[str], Rows]:
    """Return the header, and one row a run."""
    several, task = len(comparison.seeds) > 1, shown_task(comparison)
    measures, main = task.measures, task.measures[task.main]
    head = ["run", "fusion", *(measures[m].name for m in task.columns)]
    head += [f"{measures[m].name} pooled" for m in task.pooled]
    head += [f"{main.name} ± over seeds"] * several + ["gate"]
    rows = []
    for run in comparison.runs:
        test = run.test
        row = [run.name, run.fusion]
        row += [plus_minus(test[m].mean, test[m].std, measures[m].words) for m in task.columns]
        row += [
            with_interval(test[m].pooled, test[m].interval, words=measures[m].words)
            for m in task.pooled
        ]
        row += [main.words(test[task.main].seed_std)] * several
        row.append(gate_words(run))
        rows.append(row)
    return head, rows


def gate_words(run: RunSummary) -> str:
    """Return the mean gate of a run, or the share of each source; a dash without a gate."""
    if run.gate_shares is not None:
        return ", ".join(f"{source} {share:.3f}" for source, share in run.gate_shares.items())
    return "–" if run.gate_mean is None else f"{run.gate_mean:.3f}"


def pairs_caption(comparison: Comparison) -> str:
    """Return how the paired tests were made, which chance is in them, and what they can show."""
    tests, reference = comparison.tests, comparison.reference
    task = shown_task(comparison)
    among, *beside = map(len, families_of_tests(comparison, task.main))
    apart = f", and apart for {beside[0]} with baselines" if beside else ""
    which = "" if reference is None else f", each run with {in_code(reference)}"
    if tests[0].p_folds is None:  # of an earlier version
        chance = "p and interval count the choice of speakers alone, trained weights held fixed"
    else:
        shared = " (not that of branches of one seed)" if _of_one_training(comparison) else ""
        chance = (
            "p and 95 % interval count both the choice of speakers and the chance of training"
            f"{shared}: p is the largest of exchanging speakers, of exchanging fold × seed pairs, "
            "and of whole folds; the interval is Student's t over folds"
        )
    smallest = p_value(min(test.smallest_p for test in tests))
    limit = f"{design(comparison)}: the smallest possible p is {smallest}"
    if why := why_untestable(comparison):
        limit = f"{design(comparison)}: {why}"
    return (
        f"Paired tests on the same utterances{which}: {task.differences}; {chance}. {limit}. "
        f"Holm-corrected for {count_of(among, 'comparison')}{apart}; d_z is Cohen's, over speakers."
    )


def pair_rows(comparison: Comparison) -> tuple[list[str], Rows]:
    """Return the header, and one row a pair and score; McNemar's test only where there is one."""
    measures = shown_task(comparison).measures
    unit = ", points" if measures[comparison.tests[0].metric].in_percent else ""
    head = ["a − b", "they differ in", "score", f"a − b{unit}", "p", "p (Holm)", "d_z"]
    head += ["McNemar p (Holm)"] * bool(comparison.mcnemar)
    rows = []
    for test in comparison.tests:
        measure = measures[test.metric]
        row = [
            f"{test.a} − {test.b}",
            _differences(comparison, test.a, test.b),
            measure.name,
            with_interval(test.difference, test.interval, "+", measure.words),
            p_value(test.p),
            p_value(test.p_holm),
            "–" if test.d_z is None else f"{test.d_z:+.2f}",
        ]
        if comparison.mcnemar:
            worst = max(m.p_holm for m in comparison.mcnemar if (m.a, m.b) == (test.a, test.b))
            row.append(p_value(worst) if test.metric == "wa" else "")
        rows.append(row)
    return head, rows


def _of_scale(comparison: Comparison) -> str:
    """Say which unit the ratings of several corpora have; see `corpora.several`."""
    split = protocol_parts(comparison.protocol)["protocol.split"]
    is_mapped = comparison.task == RATINGS and split.startswith(CROSS_CORPUS)
    return " (the ratings of all corpora are on the scale -1 to 1)" * is_mapped


def shown_task(comparison: Comparison) -> Task:
    """Return the task of a comparison, to name its scores."""
    return make_task(comparison.task, comparison.classes)


def _how_tested(comparison: Comparison) -> str:
    return " ".join([pairs_caption(comparison), *[MCNEMAR] * bool(comparison.mcnemar)])


def notes(comparison: Comparison) -> list[str]:
    """Return notes: speakers, audio, classes, texts, earlier evaluations, how it was made."""
    lines = [LONE_SPEAKERS] * (comparison.n_speakers >= LONE * comparison.n)
    lines += [
        f"Fold {fold} tests no utterance of {', '.join(missing)}: its UA is over the other classes."
        for fold, missing in comparison.runs[0].missing_classes.items()
    ]
    lines += [
        f"Fold {fold}: {count_of(n, 'text')} spoken in both train and test."
        for fold, n in comparison.runs[0].shared_texts.items()
    ]
    unread = [line for run in comparison.runs for line in run.unread_audio]
    lines += [f"{line}." for line in dict.fromkeys(unread)]  # of one corpus: once for all runs
    lines += [f"{run.name} is {UNKNOWN_ORIGIN}." for run in comparison.runs if run.unknown_origin]
    for run in comparison.runs:
        if run.runs_before:
            lines.append(
                f"The test utterances of {run.name} were evaluated by "
                f"{count_of(run.runs_before, 'run')} before."
            )
        if repeated := repeated_evaluations(run.test_evaluations):
            lines.append(
                f"Test data of {run.name} were evaluated more than once: {'; '.join(repeated)}."
            )
        lines += [_training_issues(run.name, *issue) for issue in run.training_issues.items()]
        lines += [
            f"In {run.name}, {fold}: the tracker {tracker} lacks a part ({reason}); history.csv "
            "and metrics.json have all."
            for fold, failures in run.tracker_failures.items()
            for tracker, reason in failures.items()
        ]
        if run.left_out:
            folds = ", ".join(run.left_out)
            lines.append(f"Left out of {run.name}, since not every seed has finished: {folds}.")
        if len(run.commits) > 1:
            lines.append(f"Folds of {run.name} were made by {len(run.commits)} commits.")
    return lines + made_with_notes({run.name: run.made_with for run in comparison.runs})


def _training_issues(run: str, fold: str, issues: TrainingIssues) -> str:
    """Describe the skipped steps, float32 fallbacks and signs of collapse of a fold."""
    places = "; ".join(
        f"epoch {step['epoch']}, batch {step['batch']}: {step['what']} ({', '.join(step['parts'])})"
        for step in issues.incidents[:INCIDENTS_SHOWN]
    )
    more = " ..." if issues.bad_steps > INCIDENTS_SHOWN else ""
    skipped = (
        f" {issues.bad_steps} training steps were skipped because their loss or gradient was "
        f"NaN or infinite ({places}{more})."
    )
    fallbacks = "".join(
        f" In epoch {fallback['epoch']} the {fallback['what']} was NaN or infinite: training went "
        f"back to the end of epoch {fallback['back_to_epoch']} and continued in float32 for "
        f"{' and '.join(fallback['float32'])}."
        for fallback in issues.float32_fallbacks
    )
    warnings = "".join(
        f" In {_epochs(warning)} there was a sign of collapse, {warning['what']}: "
        f"{warning['words']}."
        for warning in issues.collapse_warnings
    )
    return f"In {run}, {fold}:{skipped if issues.bad_steps else ''}{fallbacks}{warnings}"


def _epochs(alarm: Mapping[str, Any]) -> str:
    """Return the epochs with a sign of collapse.

    >>> _epochs({"epoch": 2}), _epochs({"epoch": 2, "epochs": [2, 3, 7]})
    ('epoch 2', 'epoch 2 and 2 later, up to 7,')
    """
    later = alarm.get("epochs", [])[1:]
    if not later:
        return f"epoch {alarm['epoch']}"
    return f"epoch {alarm['epoch']} and {len(later)} later, up to {later[-1]},"


def _differences(comparison: Comparison, a: str, b: str) -> str:
    """Return the config keys that differ between two runs, with their values; – has no effect.

    Of a fusion and a baseline the methods come first.
    """
    differences = comparison.config_differences
    of = {run.name: run for run in comparison.runs}
    two_methods = of[a].baseline != of[b].baseline
    words = [f"method: {of[a].fusion} / {of[b].fusion}"] if two_methods else []
    words += [
        f"{key}: {setting(differences[key], a)} / {setting(differences[key], b)}"
        for key in differing_keys(comparison, a, b)
    ]
    return ", ".join(words) or "nothing"


def setting(values: Mapping[str, Any], run: str) -> str:
    """Return a value as it is written in a config."""
    if run not in values:
        return "–"
    return values[run] if isinstance(values[run], str) else json.dumps(values[run])


def _latex(above: str, head: Sequence[str], rows: Rows) -> str:
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escape(above.replace('`', ''))}}}",
        rf"\begin{{tabular}}{{{'l' * 2 + 'r' * (len(head) - 2)}}}",
        r"\toprule",
        _latex_row(head),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    """Return a row; a first [ or * would be read as an argument of the row end before it."""
    row = " & ".join(map(_escape, cells))
    return f"{'{}' * row.startswith(('[', '*'))}{row} \\\\"


def _escape(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(c, c) for c in printable(text, keep=""))
