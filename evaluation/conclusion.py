"""What a comparison answers, in one sentence: it stands above every table and the report."""

from config.effects import usual_value
from evaluation.families import baselines_of, families_of_tests
from evaluation.results import Comparison, PairTest, RunSummary
from evaluation.tasks import Measure, Task, make_task
from evaluation.wording import count_speakers, p_value
from system.text import count_of

ROUNDING = 1e-12  # of a mean over seeds
LEVEL = 0.05  # of a test: a corrected p below it shows a difference
NAMES_SHOWN = 4  # runs that are named; more are counted
GUESSING = "majority"  # the baseline that is at chance by its making


def conclusion(comparison: Comparison) -> str:
    """Say on which corpus, whether the tests tell the runs apart, and which are at chance.

    Args:
        comparison: From `comparison.compare`, or `results.side_by_side` for one run.
    """
    answer = _of_tests(comparison) if comparison.tests else _of_one(comparison.runs[0])
    measure, chance = _main(comparison), chance_score(comparison.runs[0])
    meant = [run for run in comparison.runs if run.fusion != GUESSING]
    at_chance = [run.name for run in meant if is_at_chance(run)]
    if comparison.tests and at_chance:
        verb = "is" if len(at_chance) == 1 else "are"
        level = f"({measure.name} {measure.words(chance)})"
        answer += f"; {_join(at_chance)} {verb} not shown to be above chance {level}"
    synthetic = "; the speech is synthetic and says nothing about people" * comparison.synthetic
    return f"On {comparison.corpus}, {answer}{synthetic}."


def chance_score(run: RunSummary) -> float:
    """Return the main score of guessing: see `Task.chance`."""
    pooled = {name: score.pooled for name, score in run.test.items()}
    return _task(run).chance(pooled, run.per_class_recall)


def is_at_chance(run: RunSummary) -> bool:
    """Return whether the interval of the pooled main score, or itself, does not exceed guessing."""
    score = run.test[_task(run).main]
    lowest = score.pooled if score.interval is None else score.interval[0]
    return lowest <= chance_score(run) + ROUNDING


def why_untestable(comparison: Comparison) -> str | None:
    """Return why no difference could reach the level, whatever its size; None if one could.

    Holm multiplies the smallest p by the number of comparisons of a family; the first one counts.
    """
    tests = families_of_tests(comparison, _task(comparison).main)[0]
    n, smallest = len(tests), min(test.smallest_p for test in tests)
    corrected = p_value(min(1.0, n * smallest))
    if smallest >= LEVEL:
        also = f" ({corrected} corrected)" * (n > 1)
        least = f"{p_value(smallest)}{also}"
        return f"nothing can be tested with this design, which allows no p below {least}"
    if n * smallest >= LEVEL:
        return f"{n} comparisons allow no corrected p below {corrected}, so compare fewer runs"
    return None


def differing_keys(comparison: Comparison, a: str, b: str) -> list[str]:
    """Return the config keys in which two runs differ.

    A key that has an effect in one run alone differs only if its value is not the default. Of a
    baseline and a fusion, which are two methods, only the keys that both have can differ.
    """
    keys = []
    two_methods = len(baselines_of(comparison) & {a, b}) == 1
    for key, values in comparison.config_differences.items():
        if two_methods and not (a in values and b in values):
            continue
        usual = None if a in values and b in values else usual_value(key)
        if values.get(a, usual) != values.get(b, usual):
            keys.append(key)
    return keys


def design(comparison: Comparison) -> str:
    """Return what the tests rest on, such as "4 speakers in 2 folds with 1 seed"."""
    speakers = count_speakers(comparison.n_speakers, comparison.protocol)
    return (
        f"{speakers} in {count_of(len(comparison.folds), 'fold')} with "
        f"{count_of(len(comparison.seeds), 'seed')}"
    )


def _task(shown: Comparison | RunSummary) -> Task:
    return make_task(shown.task, shown.classes)


def _main(shown: Comparison | RunSummary) -> Measure:
    task = _task(shown)
    return task.measures[task.main]


def _of_one(run: RunSummary) -> str:
    measure, score = _main(run), run.test[_task(run).main]
    chance = measure.words(chance_score(run))
    if is_at_chance(run):
        said = f"not shown to be above chance ({measure.name} {chance})"
    elif score.interval is None:  # too few speakers to show it
        said = f"where chance is {chance}"
    else:
        said = f"above chance ({measure.name} {chance})"
    who = count_speakers(run.n_speakers, run.protocol)
    return f"{run.name} has {measure.name} {measure.words(score.pooled)} on {who}, {said}"


def _of_tests(comparison: Comparison) -> str:
    among, *beside = families_of_tests(comparison, _task(comparison).main)
    answer = _of_family(comparison, among)
    return f"{answer}; {_of_baselines(beside[0])}" if beside else answer


def _of_family(comparison: Comparison, tests: list[PairTest]) -> str:
    n = len(tests)
    if shown := [_in_words(comparison, test) for test in tests if test.p_holm < LEVEL]:
        rest = "" if len(shown) == n else "no other difference is shown; "
        corrected = f"p corrected for {count_of(n, 'comparison')}, {design(comparison)}"
        return f"{', '.join(shown)}; {rest}{corrected}"
    tested = {name for test in tests for name in (test.a, test.b)}
    whom = _join([run.name for run in comparison.runs if run.name in tested])
    sentence = f"no difference in {_main(comparison).name} between {whom}"
    if why := why_untestable(comparison):
        return f"{sentence} can be shown on {design(comparison)}: {why}"
    p, p_holm = (p_value(min(getattr(test, key) for test in tests)) for key in ("p", "p_holm"))
    correction = f" ({p_holm} after correction for {n} comparisons)" if n > 1 else ""
    return f"{sentence} is shown on {design(comparison)}: the smallest p is {p}{correction}"


def _of_baselines(tests: list[PairTest]) -> str:
    """Say which fusions are shown to differ from each baseline; `a` is the fusion of a pair."""
    said = []
    for baseline in dict.fromkeys(test.b for test in tests):
        own = [test for test in tests if test.b == baseline]
        shown = [test for test in own if test.p_holm < LEVEL]
        better = [test.a for test in shown if test.difference > 0]
        worse = [test.a for test in shown if test.difference < 0]
        if better:
            said.append(f"{_join(better)} beat{'s' * (len(better) == 1)} the baseline {baseline}")
        if worse:
            said.append(f"the baseline {baseline} beats {_join(worse)}")
        if rest := [test.a for test in own if test not in shown]:
            said.append(f"no difference between the baseline {baseline} and {_join(rest)} is shown")
    n, least = len(tests), min(1.0, len(tests) * min(test.smallest_p for test in tests))
    limit = f", which allow no p below {p_value(least)}" * (least >= LEVEL)
    return f"{', '.join(said)} (corrected apart, for {count_of(n, 'comparison')}{limit})"


def _in_words(comparison: Comparison, test: PairTest) -> str:
    """Say which run of a pair is better, by how much and how surely, and what else may be why."""
    better, worse = (test.a, test.b) if test.difference > 0 else (test.b, test.a)
    gap = _main(comparison).gap(abs(test.difference))
    n = len(differing_keys(comparison, test.a, test.b))
    also = f"; they differ in {n} config keys" * (n > 1)
    return f"{better} beats {worse} by {gap} (p {p_value(test.p_holm)}{also})"


def _join(names: list[str]) -> str:
    if len(names) > NAMES_SHOWN:
        return f"{len(names)} runs"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
