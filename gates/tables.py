"""Gates and branch ablation in tables, for gates.md and the report."""

from collections.abc import Sequence

from config.effects import TOKENS
from config.fusions import BRANCH_TITLES
from corpora.stamps import stamps
from evaluation.shares import polarity, titles
from evaluation.tables import Rows
from evaluation.wording import (
    count_of,
    in_code,
    in_markdown,
    markdown_table,
    p_value,
    percent,
    with_interval,
)
from gates.results import BranchAblation, Cost, GateDescription, GateResults, GroupMean, Question
from gates.wording import (
    ATTENTION,
    DIFFERENCE,
    ESTIMATES,
    NO_HISTORY,
    ablation_caption,
    answer,
    brackets_caption,
    explanation,
    follows_words,
    gate_value,
    intervention_name,
    measure_of,
    not_asked,
    opening,
    question_words,
    questions_caption,
    shown_task,
    trained_name,
    unimodal_notes,
    verdicts_caption,
)

MAX_SPEAKERS = 30  # rows of a table; JSON has all


def gates_markdown(results: GateResults) -> str:
    """Return the whole analysis of a run."""
    protocol, certificate = in_code(results.protocol), in_code(results.certificate)
    blocks = [f"# Gates and branch ablation of {in_markdown(results.run)}"]
    blocks += [f"**{s}**" for s in stamps(results.protocol, results.speaker_dependent)]
    blocks.append(in_markdown(opening(results)))
    blocks.append(
        f"Fusion {in_code(results.fusion)}; protocol {protocol}, certificate {certificate}; "
        f"{count_of(len(results.weights), 'frozen model')}; "
        f"{count_of(results.n, 'test utterance')} of {count_of(results.n_speakers, 'speaker')}. "
        f"Gate: **{polarity(results.sources)}**. {brackets_caption(results)}"
    )
    if note := shown_task(results).groups_note:
        blocks.append(note)
    if results.gates is not None:
        blocks += _gate_blocks(results)
    if results.branch_ablation is not None:
        blocks += ["## Branch ablation", ablation_markdown(results, results.branch_ablation)]
    if results.verdicts:
        lines = [
            f"- **{in_markdown(verdict.class_name or 'all utterances')}**: "
            f"{in_markdown(verdict.words)}"
            for verdict in results.verdicts
        ]
        blocks += [
            "## Do gate and branch ablation agree?",
            verdicts_caption(results),
            "\n".join(lines),
        ]
    return "\n\n".join(blocks) + "\n"


def question_rows(results: GateResults) -> tuple[list[str], Rows]:
    """Return the header, and one row a question; words come first.

    Of other sources than both images the first column names the source whose share is asked about.
    """
    named = [] if results.of_images else ["share of"]
    head = [*named, *"question,answer,estimate,p,p (Holm),smallest p,speakers".split(",")]
    rows = [
        [*([BRANCH_TITLES[source]] if named else []), *_question_row(results, gates, question)]
        for source, gates in results.described.items()
        for question in gates.questions
    ]
    return head, rows


def _question_row(results: GateResults, gates: GateDescription, question: Question) -> list[str]:
    genders = " minus ".join(group.group for group in gates.groups.get("gender", [])[:2])
    shape = ".4f" if question.key in ("class", "units") else DIFFERENCE
    estimate = f"{ESTIMATES.get(question.key, genders)} {gate_value(question, shape)}"
    p_values = map(p_value, (question.p, question.p_holm, question.smallest_p))
    words = [question_words(results, question.key), answer(question), estimate]
    return [*words, *p_values, str(question.n_speakers)]


def n_words(results: GateResults) -> int:
    """Return how many of the first columns of `question_rows` are words."""
    return 3 if results.of_images else 4


def share_rows(results: GateResults) -> tuple[list[str], Rows]:
    """Return the header, and one row a source: its share of the gate and of the fused vector."""
    rows = [
        [BRANCH_TITLES[source], gate_value(gates.mean), gate_value(gates.share)]
        for source, gates in results.described.items()
    ]
    return ["source", "mean share of the gate", "share of the fused vector"], rows


def intervention_rows(results: GateResults, ablation: BranchAblation) -> tuple[list[str], Rows]:
    """Return the header, the intact row, one row an intervention, and the runs beside."""
    measure = measure_of(results)
    words = measure.words

    def row(name: str, cost: Cost, p_holm: str) -> list[str]:
        ua = with_interval(cost.ua.value, cost.ua.interval, words=words)
        fall = with_interval(cost.fall.value, cost.fall.interval, "+", words)
        recalls = [percent(value, "+") for value in cost.recall_falls]
        return [name, ua, fall, p_value(cost.p), p_holm, *recalls]

    classes = results.classes if ablation.interventions[0].recall_falls else []
    points = ", points" * measure.in_percent
    head = ["changed", measure.name, f"fall{points}", "p", "p (Holm)", *classes]
    intact = with_interval(ablation.intact.value, ablation.intact.interval, words=words)
    rows = [["nothing (intact)", intact, *("" for _ in head[2:])]]
    for change in ablation.interventions:
        name = intervention_name(change.changed, change.how)
        rows.append(row(name, change, p_value(change.p_holm)))
    for run in ablation.unimodal:
        rows.append(row(f"{trained_name(run.branch)} ({run.run})", run, "–"))
    return head, rows


def ablation_markdown(results: GateResults, ablation: BranchAblation) -> str:
    """Return what changed features of one branch cost: how it was tested, and a table."""
    blocks = [
        in_markdown(ablation_caption(results, ablation)),
        markdown_table(*intervention_rows(results, ablation)),
        *follows_words(results, ablation),
        *map(in_markdown, unimodal_notes(results, ablation)),
    ]
    return "\n\n".join(blocks)


def _gate_blocks(results: GateResults) -> list[str]:
    gates = list(results.described.values())
    first = gates[0]
    if results.of_images:
        mean, share = gate_value(first.mean), gate_value(first.share)
        sizes = [f"Mean gate {mean}; CQT's share of the fused vector {share}. "]
        deviation, columns = ["deviation of the gate"], ["gate"]
    else:
        shares = "A source near 1 is used alone, one near 0 hardly; the shares add up to 1. "
        sizes, names = [markdown_table(*share_rows(results)), shares], titles(results.sources)
        deviation = [f"deviation of the share of {name}" for name in names]
        columns = [f"share of {name}" for name in names]
    deviations = [
        [row[0].class_name, *(gate_value(one, DIFFERENCE) for one in row), str(row[0].n_speakers)]
        for row in zip(*(one.deviations for one in gates), strict=True)
    ]
    blocks = [
        "## Gate",
        *sizes[:-1],
        f"{sizes[-1]}{explanation(results)}",
        *([ATTENTION] if results.fusion in TOKENS else []),
        questions_caption(results),
        markdown_table(*question_rows(results), n_words=n_words(results)),
        *not_asked(results),
        "Class means minus the same speaker's mean over classes:",
        markdown_table(["class", *deviation, "speakers"], deviations),
        f"Mean {'gate' if results.of_images else 'share'} by group (mean of the speakers' means; "
        "each utterance counts once for every seed):",
    ]
    for name in first.groups:
        rows = list(zip(*(one.groups[name] for one in gates), strict=True))
        blocks.append(_group_table(name, columns, rows[:MAX_SPEAKERS]))
        if len(rows) > MAX_SPEAKERS:
            blocks.append(f"{len(rows) - MAX_SPEAKERS} more are in gates.json.")
    return [*blocks, *_model_blocks(results), *([NO_HISTORY] if results.without_epochs else [])]


def _group_table(name: str, columns: Sequence[str], groups: Sequence[Sequence[GroupMean]]) -> str:
    rows = [
        [row[0].group, str(row[0].n), str(row[0].n_speakers), *map(gate_value, row)]
        for row in groups
    ]
    return markdown_table([name, "utterances", "speakers", *columns], rows)


def _model_blocks(results: GateResults) -> list[str]:
    named = [] if results.of_images else ["share of"]
    gate = "gate" if results.of_images else "share"
    head = [
        "model",
        *named,
        *f"units, {gate}, spread over utterances, spread over units".split(", "),
    ]
    head += ["saturated, %", "variance explained by class, %", "by chance, %"]
    rows = []
    for models in zip(*(gates.models for gates in results.described.values()), strict=True):
        for source, model in zip(results.described, models, strict=True):
            means = (model.mean, model.spread_over_utterances, model.spread_over_units)
            shares = (model.saturated, model.explained_by_class, model.explained_by_chance)
            cells = [*(f"{value:.3f}" for value in means), *map(percent, shares)]
            of = [BRANCH_TITLES[source]] if named else []
            rows.append([f"fold {model.fold} seed {model.seed}", *of, str(model.units), *cells])
    words = 1 + len(named)
    return [
        "The gate of each model as a whole. Spreads are standard deviations; saturated is within "
        "0.02 of 0 or 1; variance is that of a unit over utterances, mean over units:",
        markdown_table(head, rows, n_words=words),
    ]
