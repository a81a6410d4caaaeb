"""Gates and branch ablation in words and tables, for gates.md and the report."""

from config.effects import TOKENS
from corpora.stamps import stamps
from evaluation.tables import Rows
from evaluation.tasks import Measure, Task, make_task
from evaluation.wording import (
    count_of,
    in_code,
    in_markdown,
    markdown_table,
    p_value,
    percent,
    with_interval,
)
from gates.agreement import LEAN
from gates.results import (
    BranchAblation,
    Cost,
    Estimate,
    GateDescription,
    GateResults,
    Question,
)

POLARITY = "1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2"
QUESTIONS = {
    "class": "Does the mean gate differ between classes?",
    "units": "Do its units differ between classes, even where the mean does not?",
    "right": "Does it differ between right and wrong predictions of one class?",
    "gender": "Does it differ between genders?",
    "duration": "Does it correlate with the duration of utterances of one class?",
}
ESTIMATES = {
    "class": "root mean square deviation of a class",
    "units": "root mean square deviation of a unit and class",
    "right": "right minus wrong, within classes",
    "duration": "rank correlation within classes",
}
BRANCHES = {"cqt": "CQT", "mel": "Mel"}
HOW = {
    "train mean": "replaced by the mean of the training utterances",
    "same class": "replaced by another test utterance's, same class",
    "other class": "replaced by another test utterance's, other class",
}
DIFFERENCE = "+.4f"  # format of differences of gates, which are often small
MAX_SPEAKERS = 30  # rows of a table; JSON has all
NO_EXPLANATION = (
    "The size of a gate is not a contribution: the branches' terms differ in size. CQT's share "
    "of the fused vector, mean of |g h_cqt| / (|g h_cqt| + |(1 - g) h_mel|), takes that into "
    "account; only the interventions show which branch the predictions depend on."
)
ATTENTION = (
    "This gate comes after cross-attention, where each branch has already read the other: it says "
    "less about the branches than the gate of a plain GMU."
)
NO_HISTORY = "history.csv of this run is older than the gate columns."
VERDICTS_CAPTION = (
    f"The gate leans to a branch where its mean is at least {LEAN} from 0.5 and the 95 % interval "
    "excludes 0.5. The predictions "
    "depend more on the branch whose replacement by its train mean lowers the score more, where "
    "the intervals of that fall and of the difference between the falls are above 0. A class is "
    "scored by its balanced accuracy against the rest, since replacing a branch also shifts "
    "predictions towards some class and raises its recall. The verdicts are not corrected for "
    "their number."
)


def intervention_name(changed: str, how: str) -> str:
    """Return what was changed, in words.

    >>> intervention_name("cqt", "train mean"), intervention_name("gate", "0")
    ('CQT replaced by the mean of the training utterances', 'gate forced to 0 (Mel side alone)')
    """
    if changed != "gate":
        return f"{BRANCHES[changed]} {HOW.get(how, how)}"
    sides = {"0": " (Mel side alone)", "1": " (CQT side alone)"}
    return f"gate forced to {how}{sides.get(how, '')}"


def short_name(changed: str, how: str) -> str:
    """Return the short name of an intervention, for figures and tags.

    >>> short_name("cqt", "train mean"), short_name("gate", "0")
    ('CQT: train mean', 'gate forced to 0: Mel side')
    """
    if changed == "gate":
        return intervention_name(changed, how).removesuffix(" alone)").replace(" (", ": ")
    return f"{BRANCHES[changed]}: {how}"


def gate_value(estimate: Estimate, shape: str = ".3f") -> str:
    """Return a gate, or a difference of gates in a finer format, with its interval.

    >>> gate_value(Estimate(0.5, [0.4, 0.6])), gate_value(Estimate(0.0004, None), DIFFERENCE)
    ('0.500 [0.400, 0.600]', '+0.0004')
    """
    if estimate.interval is None:
        return f"{estimate.value:{shape}}"
    low, high = estimate.interval
    return f"{estimate.value:{shape}} [{low:{shape}}, {high:{shape}}]"


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
        f"Gate: **{POLARITY}**. {brackets_caption(results)}"
    )
    if note := shown_task(results).groups_note:
        blocks.append(note)
    if results.gates is not None:
        blocks += _gate_blocks(results, results.gates)
    if results.branch_ablation is not None:
        blocks += _ablation_blocks(results, results.branch_ablation)
    if results.verdicts:
        lines = [
            f"- **{in_markdown(verdict.class_name or 'all utterances')}**: "
            f"{in_markdown(verdict.words)}"
            for verdict in results.verdicts
        ]
        blocks += ["## Do gate and branch ablation agree?", VERDICTS_CAPTION, "\n".join(lines)]
    return "\n\n".join(blocks) + "\n"


def shown_task(results: GateResults) -> Task:
    """Return the task of an analysis, to name its scores."""
    return make_task(results.task, results.classes)


def measure_of(results: GateResults) -> Measure:
    """Return the score whose falls are shown."""
    task = shown_task(results)
    return task.measures[task.main]


def opening(results: GateResults) -> str:
    """Return one sentence that says on which corpus what was found."""
    whole = next((v.words for v in results.verdicts if v.class_name is None), None)
    if whole:
        said = whole[:1].lower() + whole[1:]
    elif results.gates is not None:
        mean = gate_value(results.gates.mean)
        said = f"the mean gate is {mean}; no branch ablation says what depends on it."
    else:
        said = "this fusion has no gate; the branch ablation says what the loss of a branch costs."
    return f"On {results.corpus}, {said}"


def brackets_caption(results: GateResults) -> str:
    """Return what the intervals of gates take as given."""
    given = "given these models"
    if results.speaker_per_fold:
        given = "and over the folds' models, since each fold tests one speaker"
    return f"Brackets: 95 % intervals over speakers, {given}."


def questions_caption(results: GateResults) -> str:
    """Return how the questions about the gate were tested."""
    where = "among folds" if results.speaker_per_fold else "within each fold"
    scope = "Speakers of one fold share a model, so the answers hold for these models."
    if results.speaker_per_fold:
        scope = "Each fold tests one speaker: a difference between speakers may be between models."
    return (
        "Permutation tests with speakers as units: classes are permuted within each speaker (mean "
        "and units), the sign of each speaker's own difference or correlation is flipped (right or "
        "wrong and duration, each within the utterances of one class, averaged over classes), "
        f"genders are permuted {where}; Holm-corrected over these questions. "
        f"{scope}"
    )


def question_rows(gates: GateDescription) -> tuple[list[str], Rows]:
    """Return the header, and one row a question; the first three columns are words."""
    head = ["question", "answer", "estimate", "p", "p (Holm)", "smallest p", "speakers"]
    genders = " minus ".join(group.group for group in gates.groups.get("gender", [])[:2])
    rows = []
    for question in gates.questions:
        shape = ".4f" if question.key in ("class", "units") else DIFFERENCE
        estimate = f"{ESTIMATES.get(question.key, genders)} {gate_value(question, shape)}"
        p_values = map(p_value, (question.p, question.p_holm, question.smallest_p))
        words = [QUESTIONS[question.key], answer(question), estimate]
        rows.append([*words, *p_values, str(question.n_speakers)])
    return head, rows


def answer(question: Question) -> str:
    """Return the answer to a question at the level of 5 %."""
    if question.p_holm <= 0.05:
        return "yes, significant"
    return "too few speakers to decide" if question.smallest_p > 0.05 else "not significant"


def not_asked(gates: GateDescription) -> list[str]:
    """Return a sentence on the questions that could not be asked, if any."""
    asked = {question.key for question in gates.questions}
    missing = [words for key, words in QUESTIONS.items() if key not in asked]
    why = "Not testable with these utterances and folds, or with one gate for all units"
    return [f"{why}: {' '.join(missing)}"] if missing else []


def ablation_caption(results: GateResults, ablation: BranchAblation) -> str:
    """Return what the fall of an intervention is, and how it was tested."""
    measure = measure_of(results)
    name, points = measure.name, ", points" * measure.in_percent
    inputs = "tokens" if results.fusion in TOKENS else "features"
    smallest = ablation.interventions[0].smallest_p
    draws = max(row.draws for row in ablation.interventions)
    return (
        f"{name} of the frozen head with changed {inputs} of one branch:"
        f"{' percent,' * measure.in_percent} pooled over folds, "
        f"mean over seeds (and over {count_of(draws, 'random draw')} of the other utterances, "
        f"which are of another speaker where there is one). Fall: intact {name} minus this {name}"
        f"{points}, 95 % interval over speakers"
        f"{'; last columns: fall in the recall of each class' * measure.in_percent}. p: "
        "permutation test that swaps the predictions for whole speakers between intact and "
        f"changed; with {count_of(results.n_speakers, 'speaker')} it cannot be below "
        f"{p_value(smallest)}{': no fall can reach 0.05' * (smallest > 0.05)}."
    )


def intervention_rows(results: GateResults, ablation: BranchAblation) -> tuple[list[str], Rows]:
    """Return the header, the intact row, one row an intervention, and the unimodal runs."""
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
        rows.append(row(f"{BRANCHES[run.branch]} trained alone ({run.run})", run, "–"))
    return head, rows


def unimodal_notes(ablation: BranchAblation) -> list[str]:
    """Return how the configs of the unimodal runs differ from the run's."""
    return [
        f"{run.run} differs from the run in more than its fusion: {', '.join(run.differs)}."
        if run.differs
        else f"{run.run} differs from the run in its fusion alone."
        for run in ablation.unimodal
    ]


def _gate_blocks(results: GateResults, gates: GateDescription) -> list[str]:
    mean, share = gate_value(gates.mean), gate_value(gates.share)
    deviations = [
        [row.class_name, gate_value(row, DIFFERENCE), str(row.n_speakers)]
        for row in gates.deviations
    ]
    blocks = [
        "## Gate",
        f"Mean gate {mean}; CQT's share of the fused vector {share}. {NO_EXPLANATION}",
        *([ATTENTION] if results.fusion in TOKENS else []),
        questions_caption(results),
        markdown_table(*question_rows(gates), n_words=3),
        *not_asked(gates),
        "Class means minus the same speaker's mean over classes:",
        markdown_table(["class", "deviation of the gate", "speakers"], deviations),
        "Mean gate by group (mean of the speakers' means; each utterance counts once for every "
        "seed):",
    ]
    for name, groups in gates.groups.items():
        rows = [
            [group.group, str(group.n), str(group.n_speakers), gate_value(group)]
            for group in groups[:MAX_SPEAKERS]
        ]
        blocks.append(markdown_table([name, "utterances", "speakers", "gate"], rows))
        if len(groups) > MAX_SPEAKERS:
            blocks.append(f"{len(groups) - MAX_SPEAKERS} more are in gates.json.")
    return [*blocks, *_model_blocks(gates), *([NO_HISTORY] if results.without_epochs else [])]


def _model_blocks(gates: GateDescription) -> list[str]:
    head = "model, units, gate, spread over utterances, spread over units".split(", ")
    head += ["saturated, %", "variance explained by class, %", "by chance, %"]
    rows = []
    for model in gates.models:
        means = (model.mean, model.spread_over_utterances, model.spread_over_units)
        shares = (model.saturated, model.explained_by_class, model.explained_by_chance)
        cells = [*(f"{value:.3f}" for value in means), *map(percent, shares)]
        rows.append([f"fold {model.fold} seed {model.seed}", str(model.units), *cells])
    return [
        "The gate of each model as a whole. Spreads are standard deviations; saturated is within "
        "0.02 of 0 or 1; variance is that of a unit over utterances, mean over units:",
        markdown_table(head, rows),
    ]


def _ablation_blocks(results: GateResults, ablation: BranchAblation) -> list[str]:
    follows = {
        row.changed: row.follows for row in ablation.interventions if row.follows is not None
    }
    conflict = []
    if len(follows) > 1:
        conflict = [
            "Where one branch is replaced by that of an utterance of another class, the prediction "
            f"is that other class for {percent(follows['cqt'])} % of the utterances if CQT is "
            f"replaced, for {percent(follows['mel'])} % if Mel is."
        ]
    return [
        "## Branch ablation",
        in_markdown(ablation_caption(results, ablation)),
        markdown_table(*intervention_rows(results, ablation)),
        *conflict,
        *map(in_markdown, unimodal_notes(ablation)),
    ]
