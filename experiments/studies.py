"""What an ablation trains: the fusions by recipes of their own, or a study's variants of one.

A variant is a YAML file of a few lines in `configs/ablation/STUDY`: what it changes in the recipe.
A file that changes nothing is the recipe itself, to which the others are compared. What the recipe
sets and has no effect in a variant (the other backbone of `cqt_only`) is set to null there.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.loading import flatten, load_config, parse_override, read_yaml
from config.schema import GATED, ONLY_WITH, Config
from experiments.search_space import SECTIONS
from system.errors import InputError, nearest
from system.files import MAX_CONFIG, read_text

HERE = Path(os.path.relpath(Path(__file__).parents[1]))
FUSIONS = ("concat", "gmu", "gmu_contrastive")  # with recipes of their own
STUDIES = {"fusion": "gmu", "contrastive": "gmu_contrastive"}  # and the recipe each one varies


@dataclass(frozen=True)
class Recipe:
    """A recipe: its file, what is changed in it, and the config that this gives."""

    file: Path
    overrides: Sequence[str]
    config: Config

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.run.root) / self.config.name

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command that trains it; of a key given twice the last value counts."""
        entry = "train_gmu.py" if self.config.model.fusion in GATED else "train.py"
        recipe = ("--config", str(self.file), *self.overrides)
        return (sys.executable, str(HERE / entry), *recipe, *arguments)


def load_recipes(
    configs: Path, name: str, fusions: Sequence[str], overrides: Sequence[str]
) -> list[Recipe]:
    """Read NAME_concat.yaml or NAME.yaml, NAME_gmu.yaml and NAME_gmu_contrastive.yaml.

    Args:
        configs: Folder of the recipes.
        name: NAME.
        fusions: Of `FUSIONS`.
        overrides: Those of a key that only some fusions have go only to these.

    Raises:
        InputError: There are no such recipes, they do not fit one another, or an override is wrong.
    """
    _check_name(configs, name)
    _refuse(overrides, {"name", "model.fusion"}, "is set by each of the recipes")
    shares = {fusion: _shares(overrides, {"model.fusion": fusion}) for fusion in fusions}
    _check_all_used(overrides, shares, f"with --fusions {' '.join(fusions)}")
    recipes = []
    for fusion, parts in shares.items():
        file = configs / f"{name}_{fusion}.yaml"
        if fusion == "concat" and not file.is_file():
            file = configs / f"{name}.yaml"
        recipe = _recipe(file, [], parts)
        if recipe.config.model.fusion != fusion:
            found = recipe.config.model.fusion
            raise InputError(f"{file} must have model.fusion={fusion}, got {found}")
        recipes.append(recipe)
    _check_alike(recipes)
    return recipes


def load_study(
    configs: Path, name: str, study: str, only: Sequence[str], overrides: Sequence[str]
) -> list[Recipe]:
    """Return the recipe that a study varies, and the recipes of its variants, NAME_VARIANT.

    Args:
        configs: Folder of the recipes.
        name: NAME.
        study: Of `STUDIES`.
        only: Variants; none is all of them. The recipe itself is always there.
        overrides: Those of a key that only some variants have go only to these.

    Raises:
        InputError: There are no such recipes or variants, they do not fit one another, or an
            override is wrong or of a key that the study varies.
    """
    _check_name(configs, name)
    file, folder = configs / f"{name}_{STUDIES[study]}.yaml", configs / "ablation" / study
    overlays = read_overlays(folder)
    (reference,) = [variant for variant, changes in overlays.items() if not changes]
    if unknown := [variant for variant in only if variant not in overlays]:
        raise InputError(f"no variant {unknown[0]!r} in {folder}: {nearest(unknown[0], overlays)}")
    varied = {key for changes in overlays.values() for key in changes}
    _refuse(overrides, {"name", *varied}, f"is what the {study} study varies")
    always = [text for text in overrides if not _waits(text, varied)]
    plain = flatten(load_config(file, always).model_dump())
    chosen = dict.fromkeys([reference, *(only or overlays)])
    shares = {
        variant: _shares(overrides, {key: (plain | overlays[variant]).get(key) for key in varied})
        for variant in chosen
    }
    _check_all_used(overrides, shares, f"with {', '.join(chosen)}")
    _refuse_unmatched(overrides, {variant: overlays[variant] for variant in chosen})
    recipes = []
    for variant, parts in shares.items():
        changes = _idle(plain, overlays[variant]) | overlays[variant]
        if changes:
            changes = {"name": f"{name}_{variant}", **changes}
        words = [_override(key, value) for key, value in changes.items()]
        try:
            recipes.append(_recipe(file, words, parts))
        except InputError as error:
            raise InputError(f"variant {variant} of {file}: {error}") from None
    _check_alike(recipes)
    return recipes


def read_overlays(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {variant: {dotted key: value}} of a study's folder.

    Raises:
        InputError: A file does not hold sections, names a run or a parent, or there is not exactly
            one that changes nothing.
    """
    overlays = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            found = read_yaml(read_text(path, MAX_CONFIG), str(path)) or {}
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
        if path.stem in STUDIES:
            raise InputError(f"{path} would share a folder with the study's tables: rename it")
        if not isinstance(found, dict) or found.keys() - set(SECTIONS):
            raise InputError(
                f"{path} must hold sections of a recipe alone, of {', '.join(SECTIONS)}"
            )
        overlays[path.stem] = flatten(found)
    if len(plain := [variant for variant, changes in overlays.items() if not changes]) != 1:
        raise InputError(
            f"one file in {folder} must change nothing, for the recipe itself; those that do: "
            f"{', '.join(plain) or 'none'}"
        )
    return overlays


def _check_name(configs: Path, name: str) -> None:
    names = [file.stem.removesuffix("_gmu") for file in configs.glob("*_gmu.yaml")]
    if name not in names:
        raise InputError(f"there are no recipes {name!r} in {configs}: {nearest(name, names)}")


def _refuse(overrides: Sequence[str], keys: Collection[str], why: str) -> None:
    for text in overrides:
        if flatten(parse_override(text)).keys() & keys:
            raise InputError(f"{text} {why}: leave it out")


def _refuse_unmatched(overrides: Sequence[str], chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse another width of the GMU where a concat is matched to it: it knows the usual one."""
    matched = [
        variant
        for variant, changes in chosen.items()
        if changes.get("model.fusion") == "concat" and changes.get("model.match_parameters")
    ]
    if matched:
        why = f"would leave {matched[0]} matched to the usual width (choose others with --only)"
        _refuse(overrides, {"model.fusion_hidden_dim"}, why)


def _waits(text: str, varied: Collection[str]) -> bool:
    """Return whether it hangs on a varied key where an override has an effect."""
    keys = flatten(parse_override(text))
    return any(key in ONLY_WITH and ONLY_WITH[key].controller in varied for key in keys)


def _shares(overrides: Sequence[str], values: Mapping[str, Any]) -> list[list[str]]:
    """Return what of each override has an effect where the varied keys have these values."""
    shares = []
    for text in overrides:
        leaves = flatten(parse_override(text))
        fit = {key: value for key, value in leaves.items() if _has_effect(key, values)}
        parts = [_override(key, value) for key, value in fit.items()]
        shares.append([text] if len(fit) == len(leaves) else parts)
    return shares


def _has_effect(key: str, values: Mapping[str, Any]) -> bool:
    only = ONLY_WITH.get(key)
    return only is None or values.get(only.controller, only.values[0]) in only.values


def _check_all_used(
    overrides: Sequence[str], shares: Mapping[str, Sequence[Sequence[str]]], where: str
) -> None:
    for i, text in enumerate(overrides):
        if not any(parts[i] for parts in shares.values()):
            raise InputError(f"{text} has no effect {where}")


def _idle(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, None]:
    """Return null for what the recipe sets and the changes leave without an effect."""
    return {
        key: None
        for key, value in plain.items()
        if value is not None and key not in changes and not _has_effect(key, changes)
    }


def _override(key: str, value: Any) -> str:
    """Return a line of a file as words of a command line.

    >>> _override("loss.temperature_range", [0.01, 1.0]), _override("model.mel_backbone", None)
    ('loss.temperature_range=[0.01, 1.0]', 'model.mel_backbone=null')
    """
    plain = isinstance(value, str) and read_yaml(value, key) == value
    return f"{key}={value if plain else json.dumps(value)}"


def _recipe(file: Path, changes: Sequence[str], shares: Sequence[Sequence[str]]) -> Recipe:
    overrides = [*changes, *(part for parts in shares for part in parts)]
    return Recipe(file, overrides, load_config(file, overrides))


def _check_alike(recipes: Sequence[Recipe]) -> None:
    """Refuse recipes that share a folder, or are not tested on the same folds."""
    first, *others = recipes
    names = [recipe.config.name for recipe in recipes]
    for recipe in others:
        one, other = first.config, recipe.config
        if names.count(other.name) > 1:
            raise InputError(f"{first.file} and {recipe.file} have the same name {other.name}")
        pairs = {
            "corpus": (one.corpus, other.corpus),
            "protocol": (one.protocol, other.protocol),
            "run.root": (one.run.root, other.run.root),
            "run.folds": (one.run.folds, other.run.folds),
            "run.seeds": (one.run.seeds, other.run.seeds),
        }
        if differ := [key for key, (a, b) in pairs.items() if a != b]:
            raise InputError(
                f"{first.file} and {recipe.file} differ in {', '.join(differ)}: runs are compared "
                "on the same folds"
            )
