"""Gates and reliance in words and tables, for people."""

from collections.abc import Sequence

from corpora.splits import STAMP
from evaluation.tables import in_code, in_markdown, markdown_table, p_value, percent, with_interval
from gates.results import GateResults, GatesFound, Mean, Question, RelianceFound

POLARITY = "1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2"
QUESTIONS = {
    "class": "Does the mean gate differ between classes?",
    "units": "Do its units, where their mean may not?",
    "right": "Does it differ between right and wrong predictions?",
    "gender": "Does it differ between genders?",
    "duration": "Does it go with the duration of a clip?",
}
ESTIMATES = {
    "class": "root mean square deviation of a class",
    "units": "root mean square deviation of a unit and class",
    "right": "right minus wrong",
    "duration": "rank correlation",
}
BRANCHES = {"cqt": "CQT", "mel": "Mel", "gate": "gate"}
HOW = {
    "train mean": "by the mean of the training clips",
    "same class": "by another test clip's, same class",
    "other class": "by another test clip's, other class",
}
DIFFERENCE = "+.4f"  # of gates, which are often close
MAX_SPEAKERS = 30  # rows of the table; JSON has all
NO_EXPLANATION = (
    "The size of a gate is not a contribution: the branches' terms differ in size. CQT's share "
    "of the fused vector, mean of |g h_cqt| / (|g h_cqt| + |(1 - g) h_mel|), weighs that in; what "
    "the weights rely on is shown by the interventions alone."
)
ATTENTION = (
    "The gate stands behind the attention, where each branch has already read the other: it says "
    "less of the branches than that of a plain GMU."
)


def intervention_name(changed: str, how: str) -> str:
    """Return what was done, in words.

    >>> intervention_name("cqt", "train mean"), intervention_name("gate", "0")
    ('CQT by the mean of the training clips', 'gate forced to 0 (Mel side alone)')
    """
    if changed != "gate":
        return f"{BRANCHES[changed]} {HOW.get(how, how)}"
    sides = {"0": " (Mel side alone)", "1": " (CQT side alone)"}
    return f"gate forced to {how}{sides.get(how, '')}"


def question_words(question: Question) -> str:
    """Return what was found, in one sentence."""
    if question.p_holm <= 0.05:
        return "yes, beyond chance"
    if question.smallest_p > 0.05:
        return "cannot be told from so few speakers"
    return "not beyond chance"


def estimate_words(question: Question, gates: GatesFound) -> str:
    """Return the estimate of a question with its interval, and what it is."""
    genders = [one.group for one in gates.groups.get("gender", [])[:2]]
    what = ESTIMATES.get(question.key, " minus ".join(genders))
    shape = ".4f" if question.key in ("class", "units") else DIFFERENCE
    return f"{what} {gate_value(question.estimate, question.interval, shape)}"


def gates_markdown(found: GateResults) -> str:
    """Return all that was found of a run."""
    protocol, certificate = in_code(found.protocol), in_code(found.certificate)
    blocks = [f"# Gates and reliance of {in_markdown(found.run)}"]
    blocks += [f"**{STAMP}**"] if found.speaker_dependent else []
    blocks.append(
        f"Fusion {in_code(found.fusion)}; protocol {protocol}, certificate {certificate}; "
        f"{_number(len(found.weights), 'frozen model')}; {_number(found.n, 'test clip')} of "
        f"{_number(found.n_speakers, 'speaker')}. "
        f"Gate: **{POLARITY}**. Brackets: 95 % intervals over speakers, {given_models(found)}."
    )
    if found.gates is not None:
        blocks += _gates(found, found.gates)
    else:
        blocks.append("This fusion has no gate.")
    if found.reliance is not None:
        blocks += _reliance(found, found.reliance)
    if found.verdicts:
        blocks += _verdicts(found)
    return "\n\n".join(blocks) + "\n"


def given_models(found: GateResults) -> str:
    """Return what the brackets take as given."""
    if found.speaker_per_fold:
        return "and with them over the folds' models: each fold tests one speaker"
    return "given these models"


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def exchanged(found: GateResults) -> str:
    """Return where genders may be exchanged."""
    return "among folds" if found.speaker_per_fold else "within each fold"


def not_asked(gates: GatesFound) -> list[str]:
    """Return a sentence on the questions that are missing."""
    asked = {question.key for question in gates.questions}
    missing = [words for key, words in QUESTIONS.items() if key not in asked]
    if not missing:
        return []
    why = "Cannot be asked of these clips and folds, or of one gate for all units"
    return [f"{why}: {' '.join(missing)}"]


def beside(reliance: RelianceFound) -> list[str]:
    """Return what to know of the runs of one branch: where their configs differ."""
    return [
        f"{alone.run} differs from the run in more than its fusion: {', '.join(alone.differs)}."
        if alone.differs
        else f"{alone.run} differs from the run in its fusion alone."
        for alone in reliance.unimodal
    ]


def gate_value(value: float, interval: Sequence[float] | None, shape: str = ".3f") -> str:
    """Return a gate, or a difference of gates in a finer shape, with its interval.

    >>> gate_value(0.5, [0.4, 0.6]), gate_value(0.0004, None, DIFFERENCE)
    ('0.500 [0.400, 0.600]', '+0.0004')
    """
    if interval is None:
        return f"{value:{shape}}"
    return f"{value:{shape}} [{interval[0]:{shape}}, {interval[1]:{shape}}]"


def _gates(found: GateResults, gates: GatesFound) -> list[str]:
    mean, share = (gate_value(m.mean, m.interval) for m in (gates.mean, gates.share))
    blocks = [
        "## Gate",
        f"Mean gate {mean}; CQT's share of the fused vector {share}. {NO_EXPLANATION}",
    ]
    blocks += [ATTENTION] if found.fusion == "cross_attention" else []
    rows = [
        [
            QUESTIONS[q.key],
            question_words(q),
            estimate_words(q, gates),
            p_value(q.p),
            p_value(q.p_holm),
            p_value(q.smallest_p),
            str(q.n_speakers),
        ]
        for q in gates.questions
    ]
    head = ["question", "answer", "estimate", "p", "p (Holm)", "smallest p", "speakers"]
    blocks += [
        "Classes are exchanged within each speaker (mean and units), signs of each speaker's own "
        f"difference turned (right or wrong, duration), genders exchanged {exchanged(found)}. "
        f"{_scope(found)} Classes differ in duration and in how often they are right: the "
        "questions are not independent of each other.",
        markdown_table(head, rows, n_words=3),
        *not_asked(gates),
        "Class means minus the speaker's own mean over classes:",
        markdown_table(
            ["class", "deviation of the gate", "speakers"],
            [
                [one.name, gate_value(one.mean, one.interval, DIFFERENCE), str(one.speakers)]
                for one in gates.deviations
            ],
        ),
        "Mean gate by group (mean of the speakers' means; clips count once for each seed):",
    ]
    for name, groups in gates.groups.items():
        cells = [[g.group, str(g.n), str(g.speakers), _mean(g)] for g in groups[:MAX_SPEAKERS]]
        blocks.append(markdown_table([name, "clips", "speakers", "gate"], cells))
        if len(groups) > MAX_SPEAKERS:
            blocks.append(f"{len(groups) - MAX_SPEAKERS} more are in gates.json.")
    return [*blocks, *_models(found, gates)]


def _scope(found: GateResults) -> str:
    if found.speaker_per_fold:
        return "Each fold tests one speaker: where speakers differ, their models may."
    return "Speakers of one fold share a model, so this is about these models."


def _mean(one: Mean) -> str:
    return gate_value(one.mean, one.interval)


def _models(found: GateResults, gates: GatesFound) -> list[str]:
    rows = [
        [
            f"fold {m.fold} seed {m.seed}",
            str(m.units),
            f"{m.mean:.3f}",
            f"{m.spread_over_clips:.3f}",
            f"{m.spread_over_units:.3f}",
            percent(m.saturated),
            percent(m.explained_by_class),
            percent(m.by_chance),
        ]
        for m in gates.models
    ]
    head = ["model", "units", "gate", "spread over clips", "spread over units", "saturated, %"]
    head += ["variance explained by class, %", "by chance, %"]
    without = ["history.csv of this run has no gate: it is older than that column."]
    return [
        "Each model's gate as a whole; spreads are standard deviations, saturated is within 0.02 "
        "of 0 or 1, variance is that of a unit over clips, mean over units:",
        markdown_table(head, rows),
        *(without if found.without_epochs else []),
    ]


def _reliance(found: GateResults, reliance: RelianceFound) -> list[str]:
    read = "tokens" if found.fusion == "cross_attention" else "features"
    intact = reliance.intact
    head = ["changed", "UA", "fall, points", "p", "p (Holm)", *found.classes]
    rows = [
        [
            "nothing",
            with_interval(intact.ua, intact.interval),
            "",
            "",
            "",
            *("" for _ in found.classes),
        ]
    ]
    for one in reliance.interventions:
        rows.append(
            [
                intervention_name(one.changed, one.how),
                with_interval(one.ua, one.interval),
                with_interval(one.fall, one.fall_interval, "+"),
                p_value(one.p),
                p_value(one.p_holm),
                *(percent(fall, "+") for fall in one.recall_falls),
            ]
        )
    for alone in reliance.unimodal:
        rows.append(
            [
                f"{BRANCHES[alone.branch]} trained alone ({alone.run})",
                with_interval(alone.ua, alone.interval),
                with_interval(alone.fall, alone.fall_interval, "+"),
                p_value(alone.p),
                "–",
                *(percent(fall, "+") for fall in alone.recall_falls),
            ]
        )
    smallest = p_value(reliance.interventions[0].smallest_p)
    hopeless = ": no fall can reach 0.05" * (reliance.interventions[0].smallest_p > 0.05)
    draws = max(one.draws for one in reliance.interventions)
    blocks = [
        "## Reliance",
        f"What the frozen head makes of changed {read} of one branch. UA in percent, pooled over "
        f"folds, mean over seeds (and {draws} draws of donors, of another speaker where there is "
        "one); fall against intact in points; last columns: fall in recall of each class. p by "
        f"exchanging whole speakers, never below {smallest} with so many{hopeless}.",
        markdown_table(head, rows),
    ]
    return blocks + _conflict(reliance) + [in_markdown(words) for words in beside(reliance)]


def _conflict(reliance: RelianceFound) -> list[str]:
    """Say which branch wins where the two are of different classes."""
    told = {
        one.changed: one.follows_donor
        for one in reliance.interventions
        if one.follows_donor is not None
    }
    if len(told) < 2:
        return []
    return [
        "Where the branches are of two different classes, the prediction is the class of the "
        f"foreign CQT in {percent(told['cqt'])} % of the clips, of the foreign Mel in "
        f"{percent(told['mel'])} %."
    ]


def _verdicts(found: GateResults) -> list[str]:
    lines = [
        f"- **{'all clips' if one.of is None else in_markdown(one.of)}**: {in_markdown(one.words)}"
        for one in found.verdicts
    ]
    return [
        "## Where gate and intervention disagree",
        "The gate leans to a branch where the interval of its mean excludes 0.5; the weights rely "
        "on the branch whose replacement by its train mean costs more, where that cost and the "
        "difference have intervals above 0. A class is judged by its balanced accuracy against the "
        "rest, since a replaced branch also shifts predictions towards some class and raises its "
        "recall. Each is taken alone, not corrected for their number.",
        "\n".join(lines),
    ]
