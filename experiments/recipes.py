"""Recipes tried one by one: each changes some keys of a config, is trained, and read on dev alone.

The test split is not opened. Selecting the best of many noisy epochs favours noisy curves, so that
recipes are compared by the mean dev UA of the last epochs, as differences to the first recipe on
the same folds and seeds.

NAME_recipes/                       in run.root
  recipes.json recipes.md           the table
  RECIPE/fold-3_seed-0/dev.json     dev UA by epoch; written last
"""

import logging
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from config.tasks import check_classes
from corpora.plan import Plan, folds_that_test, make_tuning_plan
from evaluation.recipes_table import recipes_markdown
from experiments.recipe_file import DEV, Trial
from experiments.search_space import as_overrides
from experiments.settings_file import keep_settings
from storage.environment import distinct_facts, read_environment, record_environment
from storage.fold_folder import STATE
from storage.folders import CONFIG
from system.errors import InputError, RunError
from system.files import make_folder, read_json, write_json, write_text
from system.locks import TAKEN, lock
from system.signals import Stop
from system.temporary import remove_leftovers
from system.text import without_place
from training.checkpoints import Checkpoints
from training.divergence import Diverged
from training.experiment import check_model, check_places, session_environment
from training.fold import train_fold
from training.session import open_session
from training.warm_start import check_started

log = logging.getLogger(__name__)

N_LAST = 5  # epochs whose mean dev UA counts


def run_recipes(
    trials: Sequence[Trial],
    recipes: Mapping[str, Mapping[str, Any]],
    chosen: Sequence[str],
    command: Sequence[str],
    stop: Stop,
) -> str:
    """Train what is chosen, or resume; write the table of all that is trained, and return it.

    Another process that was given the same command trains some; this one waits for it at the end.

    Args:
        trials: All trainings of all recipes.
        recipes: What each changes.
        chosen: Recipes to train.
        command: Command line.
        stop: Flag, set by signals, that asks the process to end.

    Raises:
        InputError: A config, the corpus or a folder cannot be used.
        RunError: A file could not be written; the last state is kept.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    folder = trials[0].folder.parent.parent
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} is a run, study or range test: change name or run.root")
    plans = _check(trials)
    mine = [trial for trial in trials if trial.recipe in chosen]
    tried = partial(_is_trained, plans=plans, command=command, stop=stop)
    for trial in [trial for trial in mine if not tried(trial, wait=False)]:
        tried(trial, wait=True)
    done = [name for name in recipes if all(t.is_finished for t in trials if t.recipe == name)]
    speakers = {u.speaker for plan in plans.values() for u in plan.splits[0].dev}
    environments = [read_environment(t.folder, t.folder) for t in trials if t.recipe in done]
    found = {
        "transductive": trials[0].config.train.normalize == "speaker",
        "protocol": next(iter(plans.values())).certificate["protocol"],
        "command": shlex.join(map(without_place, whole_command(command, list(recipes), done))),
        "made_with": {
            "commit": sorted({str(environment["git_commit"]) for environment in environments}),
            **distinct_facts(environments),
        },
        "last epochs": N_LAST,
        "folds": sorted(plans),
        "seeds": sorted({seed for trial in trials for seed in trial.config.run.seeds}),
        "folds that test dev speakers": folds_that_test(trials[0].config, speakers),
        "not tried": [name for name in recipes if name not in done],
        "recipes": summarize(trials, {name: recipes[name] for name in done}),
    }
    text = recipes_markdown(found)
    write_json(folder / "recipes.json", found)
    write_text(folder / "recipes.md", text)
    return f"{text}\nThis table is in {folder}"


def whole_command(command: Sequence[str], recipes: Sequence[str], done: Sequence[str]) -> list[str]:
    """Return the command that makes a table which several commands may have made part by part.

    >>> whole_command(["recipes", "--only", "b", "run.folds=[1]"], ["a", "b", "c"], ["a", "b"])
    ['recipes', 'run.folds=[1]', '--only', 'a', 'b']
    """
    words = [w for w in command if w != "--only" and w.removeprefix("--only=") not in recipes]
    return words if len(done) == len(recipes) else [*words, "--only", *done]


def _check(trials: Sequence[Trial]) -> dict[int, Plan]:
    """Check all configs before anything is trained; return the plan of each fold, without test."""
    for trial in {trial.recipe: trial for trial in trials}.values():
        check_places(trial.config)
        try:
            check_classes(trial.config.task, "recipes are compared by dev UA,")
            check_model(trial.config)
            check_started(trial.config)
        except InputError as error:
            raise InputError(f"recipe {trial.recipe}: {error}") from None
    by_fold = {k: trial.config for trial in trials for k in trial.config.run.folds or ()}
    return {fold: make_tuning_plan(config, keep=True) for fold, config in by_fold.items()}


def _is_trained(
    trial: Trial, wait: bool, plans: Mapping[int, Plan], command: Sequence[str], stop: Stop
) -> bool:
    """Train unless finished; return False where another process is at work on it."""
    fold = (trial.config.run.folds or [0])[0]  # one alone
    plan = replace(plans[fold], config=trial.config)
    folder, certificate = trial.folder, plan.certificate["id"]
    make_folder(folder / STATE)
    try:
        with lock(folder / STATE / "lock", trial.title, blocking=wait):
            remove_leftovers(folder)
            keep_settings(folder, trial.config, certificate, "Name the recipe anew, or remove")
            if not trial.is_finished:
                log.info("%s", trial.title)
                _train(trial, plan, command, stop)
    except RunError as error:
        if wait or not str(error).startswith(TAKEN):
            raise
        log.info("%s; the others first", error)
        return False
    return True


def _train(trial: Trial, plan: Plan, command: Sequence[str], stop: Stop) -> None:
    """Train on train, evaluate dev after each epoch, and keep what it says.

    A training that diverges is a result: it is kept as such, and the others go on.
    """
    session = open_session(trial.config, plan, stop)
    record_environment(trial.folder, session_environment(session, command))
    fold = session.fold(plan.splits[0], trial.config.run.seeds[0])
    try:
        history = train_fold(fold, trial.folder).history
        found = {"dev_ua": [row["dev_ua"] for row in history], "loss": history[-1]["loss"]}
    except RunError as error:
        cause = error.__cause__ if not isinstance(error, Diverged) else error
        if not isinstance(cause, Diverged) or cause.is_data:
            raise
        log.warning("%s: %s", trial.title, error)
        found = {"dev_ua": None, "diverged": str(error)}
    write_json(trial.folder / DEV, found)
    Checkpoints(trial.folder / STATE).remove()
    session.accelerator.free_memory()


def summarize(
    trials: Sequence[Trial], recipes: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row for each recipe: means over folds and seeds, differences to the first.

    The standard error of a difference is that of the mean of its folds and seeds. A recipe of which
    some training diverged has no means.
    """
    curves: dict[str, dict[str, list[float] | None]] = {name: {} for name in recipes}
    for trial in trials:
        if trial.recipe in curves:
            dev = read_json(trial.folder / DEV, "dev_ua", remove=trial.folder)["dev_ua"]
            curves[trial.recipe][trial.folder.name] = dev
    first = curves[next(iter(curves))]
    return [
        {
            "recipe": recipe,
            "changes": ", ".join(as_overrides(recipes[recipe])) or "nothing",
            **_means(curve, None if curve is first else first),
        }
        for recipe, curve in curves.items()
    ]


def _means(
    curves: Mapping[str, list[float] | None], first: Mapping[str, list[float] | None] | None
) -> dict[str, Any]:
    """Return means of a recipe's curves, and of their differences to those of the first."""
    names = ("dev_ua", "difference", "standard_error", "best_dev_ua")
    whole = {name: curve for name, curve in curves.items() if curve is not None}
    found: dict[str, Any] = {**dict.fromkeys(names), "diverged": len(curves) - len(whole)}
    last = {name: statistics.fmean(curve[-N_LAST:]) for name, curve in whole.items()}
    found["by_fold"] = last
    if found["diverged"]:
        return found
    found["dev_ua"] = statistics.fmean(last.values())
    found["best_dev_ua"] = statistics.fmean(max(curve) for curve in whole.values())
    if first is None or None in first.values():
        return found
    differences = [last[k] - statistics.fmean((first[k] or [])[-N_LAST:]) for k in last]
    found["difference"] = statistics.fmean(differences)
    if len(differences) > 1:
        found["standard_error"] = statistics.stdev(differences) / math.sqrt(len(differences))
    return found
