"""Recipes of a config, from a YAML file: names, and what each changes.

    start: {features.trim_db: 40}
    mixup: {augment.mixup: 0.3}

Each has the changes of the first, too, with which it is compared.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from config.loading import flatten, load_config
from config.schema import Config
from config.trackers import refuse_trackers_by_fold
from config.yaml_files import read_yaml
from experiments.search_space import SECTIONS, as_overrides
from storage.fold_folder import fold_name
from system.errors import InputError, nearest
from system.files import MAX_CONFIG, read_text

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
DEV = "dev.json"  # of a finished training


class Trial(NamedTuple):
    """One training of a recipe."""

    recipe: str
    config: Config  # with one fold and one seed
    folder: Path

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.recipe}, {self.folder.name}"

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end, or diverged."""
        return (self.folder / DEV).exists()


def read_recipes(file: Path) -> dict[str, dict[str, Any]]:
    """Return {recipe: {dotted key: value}} as the file has them.

    Raises:
        InputError: The file cannot be read, or holds something else.
    """
    try:
        rows = read_yaml(read_text(file, MAX_CONFIG), str(file))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the recipes {file}: {error}") from None
    if not isinstance(rows, dict) or len(rows) < 2:
        raise InputError(f"{file} must hold two recipes or more: `name: {{section.key: value}}`")
    for name, changes in rows.items():
        if not re.fullmatch(NAME, str(name)) or not isinstance(changes, dict):
            raise InputError(
                f"{file}: a recipe is `name: {{section.key: value}}`, {{}} if it changes nothing, "
                f"its name of letters, digits, - and _; got {name!r}: {changes!r}"
            )
        for key in changes:
            if str(key).partition(".")[0] not in SECTIONS:
                raise InputError(
                    f"{file}: recipe {name} changes {key!r}, but recipes may change keys of "
                    f"{', '.join(SECTIONS)} only"
                )
    return {str(name): flatten(changes) for name, changes in rows.items()}


def choose_recipes(recipes: Collection[str], only: Sequence[str]) -> list[str]:
    """Return the first recipe and those that are named, or all where none is.

    Raises:
        InputError: There is no recipe of a name.
    """
    if unknown := [name for name in only if name not in recipes]:
        raise InputError(f"--only {unknown[0]}: {nearest(unknown[0], recipes)}")
    first = next(iter(recipes))
    return [name for name in recipes if not only or name in (first, *only)]


def plan_trials(
    file: str, overrides: Sequence[str], recipes: Mapping[str, Mapping[str, Any]]
) -> list[Trial]:
    """Return all trainings, the recipes of one fold and seed after one another.

    Args:
        file: Config that the recipes change.
        overrides: Overrides of that config; `run.folds` names the folds.
        recipes: From `read_recipes`.

    Raises:
        InputError: A config is wrong or names no folds, or recipes stand under two protocols.
    """
    base = load_config(file, overrides)
    refuse_trackers_by_fold(base.run.trackers, "scripts.recipes")
    if not base.run.folds:
        raise InputError(
            "run.folds must name the folds to try the recipes on, e.g. run.folds=[3,4]"
        )
    root, trials = Path(base.run.root) / f"{base.name}_recipes", []
    first = next(iter(recipes.values()))
    for seed in base.run.seeds:
        for fold in base.run.folds:
            for recipe, changes in recipes.items():
                own = [f"run.folds=[{fold}]", f"run.seeds=[{seed}]"]
                try:
                    config = load_config(
                        file, [*overrides, *as_overrides({**first, **changes}), *own]
                    )
                except InputError as error:
                    raise InputError(f"recipe {recipe}: {error}") from None
                trials.append(Trial(recipe, config, root / recipe / fold_name(fold, seed)))
    by_speaker = {trial.recipe: trial.config.train.normalize == "speaker" for trial in trials}
    if len(set(by_speaker.values())) > 1:
        having = ", ".join(recipe for recipe, found in by_speaker.items() if found)
        raise InputError(
            f"train.normalize=speaker is a protocol of its own, and only {having} has "
            "it: give it to the first recipe, whose changes all have, or to none of the recipes"
        )
    return trials
