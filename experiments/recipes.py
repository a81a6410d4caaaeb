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
from typing import Any

from config.loading import flatten
from corpora.plan import make_tuning_plan
from evaluation.recipes_table import recipes_markdown
from experiments.recipe_file import Trial
from experiments.search_space import as_overrides
from storage.fold_folder import STATE
from storage.folders import CONFIG, describe_changes
from storage.run_folder import FREE
from system.errors import InputError, RunError
from system.files import make_folder, read_json, write_json, write_text
from system.locks import TAKEN, lock
from system.signals import Stop
from system.temporary import remove_leftovers
from training.checkpoints import Checkpoints
from training.fold import train_fold
from training.session import open_session

log = logging.getLogger(__name__)

N_LAST = 5  # epochs whose mean dev UA counts
DEV = "dev.json"


def run_recipes(
    trials: Sequence[Trial],
    recipes: Mapping[str, Mapping[str, Any]],
    command: Sequence[str],
    stop: Stop,
) -> str:
    """Train all, or resume; write the table and return it.

    Another process that was given the same command trains some; this one waits for it at the end.

    Raises:
        InputError: The corpus or a folder cannot be used.
        RunError: Training diverged, or a file could not be written; the last state is kept.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    folder = trials[0].folder.parent.parent
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} is a run, study or range test: change name or run.root")
    for trial in [trial for trial in trials if not _is_trained(trial, stop, wait=False)]:
        _is_trained(trial, stop, wait=True)
    found = {
        "transductive": trials[0].config.train.normalize == "speaker",
        "command": shlex.join(command),
        "last epochs": N_LAST,
        "folds": sorted({k for trial in trials for k in trial.config.run.folds or ()}),
        "seeds": sorted({seed for trial in trials for seed in trial.config.run.seeds}),
        "recipes": summarize(trials, recipes),
    }
    text = recipes_markdown(found)
    write_json(folder / "recipes.json", found)
    write_text(folder / "recipes.md", text)
    return f"{text}\nThis table is in {folder}"


def _is_trained(trial: Trial, stop: Stop, wait: bool) -> bool:
    """Train unless finished; return False where another process is at work on it."""
    folder, now = trial.folder, flatten(trial.config.model_dump())
    make_folder(folder / STATE)
    try:
        with lock(folder / STATE / "lock", trial.title, blocking=wait):
            remove_leftovers(folder)
            settings = folder / "settings.json"
            if not settings.exists():
                write_json(settings, now)
            elif differences := describe_changes(read_json(settings), now, FREE):
                raise InputError(
                    f"{folder} was made with another config:\n"
                    + "\n".join(differences)
                    + f"\nName the recipe anew, or remove {folder}"
                )
            if not (folder / DEV).exists():
                log.info("%s", trial.title)
                _train(trial, stop)
    except RunError as error:
        if wait or not str(error).startswith(TAKEN):
            raise
        log.info("%s; the others first", error)
        return False
    return True


def _train(trial: Trial, stop: Stop) -> None:
    """Train on train, evaluate dev after each epoch, and keep what it says."""
    plan = make_tuning_plan(trial.config, keep=True)
    session = open_session(trial.config, plan, stop)
    progress = train_fold(session.fold(plan.splits[0], trial.config.run.seeds[0]), trial.folder)
    write_json(
        trial.folder / DEV,
        {
            "certificate": plan.certificate["id"],
            "dev_ua": [row["dev_ua"] for row in progress.history],
            "loss": progress.history[-1]["loss"],
        },
    )
    Checkpoints(trial.folder / STATE).remove()
    session.accelerator.free_memory()


def summarize(
    trials: Sequence[Trial], recipes: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row for each recipe: means over folds and seeds, differences to the first.

    The standard error of a difference is that of the mean of its folds and seeds.
    """
    curves: dict[str, dict[str, list[float]]] = {name: {} for name in recipes}
    for trial in trials:
        dev = read_json(trial.folder / DEV, "dev_ua", remove=trial.folder)["dev_ua"]
        curves[trial.recipe][trial.folder.name] = dev
    rows: list[dict[str, Any]] = []
    first = {name: _last(curve) for name, curve in curves[next(iter(recipes))].items()}
    for recipe, changes in recipes.items():
        last = {name: _last(curve) for name, curve in curves[recipe].items()}
        differences = [last[name] - first[name] for name in last]
        error = None
        if rows and len(differences) > 1:
            error = statistics.stdev(differences) / math.sqrt(len(differences))
        rows.append(
            {
                "recipe": recipe,
                "changes": ", ".join(as_overrides(changes)) or "nothing",
                "dev_ua": statistics.fmean(last.values()),
                "difference": statistics.fmean(differences) if rows else None,
                "standard_error": error,
                "best_dev_ua": statistics.fmean(max(curve) for curve in curves[recipe].values()),
                "by_fold": last,
            }
        )
    return rows


def _last(curve: Sequence[float]) -> float:
    return statistics.fmean(curve[-N_LAST:])
