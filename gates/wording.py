"""Names and captions of the gate analysis, for gates.md, figures and the report."""

from config.effects import TOKENS
from config.fusions import BRANCH_TITLES
from evaluation.shares import listed, polarity, titles
from evaluation.tasks import Measure, Task, make_task
from evaluation.wording import count_of, p_value, percent
from gates.agreement import LEAN
from gates.results import EQUAL, JOINED, BranchAblation, Estimate, GateResults, Question

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
HOW = {
    "train mean": "replaced by the mean of the training utterances",
    "same class": "replaced by another test utterance's, same class",
    "other class": "replaced by another test utterance's, other class",
}
DIFFERENCE = "+.4f"  # format of differences of gates, which are often small
NO_EXPLANATION = (
    "The size of a gate is not a contribution: the branches' terms differ in size. CQT's share "
    "of the fused vector, mean of |g h_cqt| / (|g h_cqt| + |(1 - g) h_mel|), takes that into "
    "account; only the interventions show which branch the predictions depend on."
)
SHARES_NO_EXPLANATION = (
    "The size of a share is not a contribution: the sources' terms differ in size. The share of "
    "the fused vector, mean of |g_s h_s| / sum over sources t of |g_t h_t|, takes that into "
    "account; only the interventions show which source the predictions depend on."
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
SHARES_VERDICTS_CAPTION = (
    "The gate leans to a source whose share is larger than that of each other by at least "
    f"{2 * LEAN:g}, with a 95 % interval of the difference above 0. The predictions depend most on "
    "the source whose replacement by its train mean lowers the score more than any other does, "
    "where the intervals of these differences and of its fall are above 0. A class is scored by "
    "its balanced accuracy against the rest, since replacing a source also shifts predictions "
    "towards some class and raises its recall. The verdicts are not corrected for their number."
)


def explanation(results: GateResults) -> str:
    """Return why a gate alone explains nothing."""
    return NO_EXPLANATION if results.of_images else SHARES_NO_EXPLANATION


def verdicts_caption(results: GateResults) -> str:
    """Return how gate and branch ablation are compared."""
    return VERDICTS_CAPTION if results.of_images else SHARES_VERDICTS_CAPTION


def figure_polarity(results: GateResults, name: str) -> str:
    """Return what a gate of 1 means, for a figure of the report; empty where none is drawn."""
    if not any(word in name for word in ("gate", "class", "unit")):
        return ""
    return (
        "Gate: 0 = Mel … 1 = CQT." if results.of_images else f"Gate: {polarity(results.sources)}."
    )


def question_words(results: GateResults, key: str) -> str:
    """Return a question about the gate of both images, or about the share of a source."""
    words = QUESTIONS[key]
    return words if results.of_images else words.replace("mean gate", "mean share")


def intervention_name(changed: str, how: str) -> str:
    """Return what was changed, in words.

    >>> intervention_name("cqt", "train mean"), intervention_name("gate", "0")
    ('CQT replaced by the mean of the training utterances', 'gate forced to 0 (Mel side alone)')
    >>> intervention_name("gate", "speech"), intervention_name("gate", "equal")
    ('gate forced to speech alone', 'gate forced to equal shares')
    """
    if changed != "gate":
        return f"{BRANCH_TITLES[changed]} {HOW.get(how, how)}"
    if how in BRANCH_TITLES or how == EQUAL:
        return f"gate forced to {f'{BRANCH_TITLES[how]} alone' if how != EQUAL else 'equal shares'}"
    sides = {"0": " (Mel side alone)", "1": " (CQT side alone)"}
    return f"gate forced to {how}{sides.get(how, '')}"


def short_name(changed: str, how: str) -> str:
    """Return the short name of an intervention, for figures and tags.

    >>> short_name("cqt", "train mean"), short_name("gate", "0"), short_name("gate", "speech")
    ('CQT: train mean', 'gate forced to 0: Mel side', 'gate: speech alone')
    """
    if changed != "gate":
        return f"{BRANCH_TITLES[changed]}: {how}"
    words = intervention_name(changed, how)
    if how in BRANCH_TITLES or how == EQUAL:
        return words.replace("gate forced to", "gate:")
    return words.removesuffix(" alone)").replace(" (", ": ")


def trained_name(branch: str) -> str:
    """Return what a run beside reads, in words.

    >>> trained_name("cqt"), trained_name("cqt+speech")
    ('CQT trained alone', 'CQT and speech trained alone')
    """
    return f"{listed(titles(branch.split(JOINED)))} trained alone"


def trained_label(branch: str) -> str:
    """Return the same, for figures.

    >>> trained_label("cqt"), trained_label("cqt+speech")
    ('CQT trained alone', 'only CQT + speech')
    """
    several = titles(branch.split(JOINED))
    return trained_name(branch) if len(several) == 1 else f"only {' + '.join(several)}"


def gate_value(estimate: Estimate, shape: str = ".3f") -> str:
    """Return a gate, or a difference of gates in a finer format, with its interval.

    >>> gate_value(Estimate(0.5, [0.4, 0.6])), gate_value(Estimate(0.0004, None), DIFFERENCE)
    ('0.500 [0.400, 0.600]', '+0.0004')
    """
    if estimate.interval is None:
        return f"{estimate.value:{shape}}"
    low, high = estimate.interval
    return f"{estimate.value:{shape}} [{low:{shape}}, {high:{shape}}]"


def mean_words(results: GateResults) -> str:
    """Return the mean gate, or the mean share of each source: the start of a sentence."""
    if results.of_images and results.gates is not None:
        return f"mean gate {gate_value(results.gates.mean)}"
    each = zip(titles(list(results.described)), results.described.values(), strict=True)
    named = [f"{title} {gate_value(gates.mean)}" for title, gates in each]
    return f"mean shares of the gate: {', '.join(named)}"


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
        is_what = f"the mean gate is {mean}" if results.of_images else f"the {mean_words(results)}"
        said = f"{is_what}; no branch ablation says what depends on it."
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
        f"{scope}{_asked_of(results)}"
    )


def _asked_of(results: GateResults) -> str:
    """Say of which source the questions are asked, where two are not both images."""
    if results.of_images or len(results.sources) > 2:
        return ""
    first, second = titles(results.sources)
    return f" The share of {second} is 1 minus that of {first}: its answers are the same."


def answer(question: Question) -> str:
    """Return the answer to a question at the level of 5 %."""
    if question.p_holm <= 0.05:
        return "yes, significant"
    return "too few speakers to decide" if question.smallest_p > 0.05 else "not significant"


def not_asked(results: GateResults) -> list[str]:
    """Return a sentence on the questions that could not be asked, if any."""
    if results.gates is None:
        return []
    asked = {question.key for question in results.gates.questions}
    missing = [question_words(results, key) for key in QUESTIONS if key not in asked]
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
        f"changed; with {count_of(results.n_speakers, 'speaker')} the smallest possible is "
        f"{p_value(smallest)}{': no fall can reach 0.05' * (smallest > 0.05)}."
    )


def unimodal_notes(results: GateResults, ablation: BranchAblation) -> list[str]:
    """Return how the configs of the runs beside differ from the run's."""
    what = "its fusion" if results.of_images else "fusion and branches"
    return [
        f"{run.run} differs from the run in more than {what}: {', '.join(run.differs)}."
        if run.differs
        else f"{run.run} differs from the run in {what} alone."
        for run in ablation.unimodal
    ]


def follows_words(results: GateResults, ablation: BranchAblation) -> list[str]:
    """Return how often a prediction goes with a branch that is of another class."""
    follows = {
        row.changed: row.follows for row in ablation.interventions if row.follows is not None
    }
    if len(follows) < 2:
        return []
    shares = [percent(share) for share in follows.values()]
    names, several = titles(list(follows)), len(follows) > 2
    each = zip(names, shares, strict=True)
    if several:
        told = ", ".join(f"{share} % if {name} is" for name, share in each)
        return [
            "Where one source is replaced by that of an utterance of another class, the prediction "
            f"is that other class for this part of the utterances: {told}."
        ]
    return [
        "Where one branch is replaced by that of an utterance of another class, the prediction "
        f"is that other class for {shares[0]} % of the utterances if {names[0]} is "
        f"replaced, for {shares[1]} % if {names[1]} is."
    ]
