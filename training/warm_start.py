"""Branches, or a network, that start from another run: found, checked for leaks, loaded.

A branch of fold k starts from fold k of a run with the same certificate. So no utterance that is
tested here has trained, or selected, the weights from which the branch starts. The statistics that
normalise its images come with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from config.baselines import BaselineRun, load_stored_run
from config.fusions import FUSIONS
from config.schema import Config
from corpora.plan import Plan
from model_gmu import MaxMViTGMU
from storage.environment import ENVIRONMENT, STARTED, read_environment
from storage.fold_folder import STATE, WEIGHTS, fold_name, read_metrics
from storage.folders import CARD, CONFIG, describe_changes, is_finished
from storage.ledger import read_ledger
from storage.model_card import read_card
from storage.run_folder import FOLDS
from storage.tensors import load_tensors
from storage.trained_model import is_model_folder, read_trained_model
from system.errors import InputError, first_line
from system.files import corrupt_file
from system.regular import file_sha256
from training.checkpoints import Checkpoints
from training.distributed import from_first
from training.origin_leaks import check_leaks
from training.origins import (
    WHOLE,
    Origin,
    Origins,
    check_folds,
    check_run,
    describe_origins,
    folders,
    key_of,
    numbers_of,
    place_of,
    say_missing,
    some,
    what_it_is,
)
from training.session import Fold
from training.whole_start import check_model, find_whole, start_whole


def check_started(config: Config) -> None:
    """Refuse runs from which no branch of a config can start, before any audio is indexed.

    A run that was begun needs them for folds alone that are not finished, see `check_origins`.

    Raises:
        InputError: One is no run, has no such branch, or other images or another backbone.
        RunError: A file of one is corrupt.
    """
    own = Path(config.run.root, config.name)
    for part, folder in folders(config).items():
        key = f"{key_of(part)}={folder}"
        if part == WHOLE and is_model_folder(folder):
            check_model(config, folder, key)
            continue
        if (own / CONFIG).exists() and not (folder / CONFIG).exists():
            continue
        check_run(part, folder)
        if folder.resolve() == own.resolve():
            raise InputError(f"{key} is the folder of this run itself: name another run, or `name`")
        theirs = load_stored_run(folder / CONFIG)
        if isinstance(theirs, BaselineRun):
            raise InputError(f"{key} is of a baseline, which has no branches: name a fusion's run")
        branches = config.model.reads if part == WHOLE else (part,)
        for branch in branches:
            _check_branch(config, theirs, branch, key)


def check_origins(config: Config, plan: Plan) -> None:
    """Refuse runs with other folds than this one, or without the folds that are to be trained.

    Args:
        config: Config of the run.
        plan: Its plan.

    Raises:
        InputError: One of them; names the command that trains what is missing.
        RunError: A file of such a run is corrupt.
    """
    own = Path(config.run.root, config.name, FOLDS)
    wanted = [
        (split, seed)
        for split in plan.wanted()
        for seed in config.run.seeds
        if not is_finished(own / fold_name(split.fold, seed))
    ]
    places = dict.fromkeys(numbers_of(config, split.fold, seed) for split, seed in wanted)
    for part, folder in folders(config).items() if places else ():
        key = f"{key_of(part)}={folder}"
        if is_model_folder(folder):
            splits = [split for split, _ in wanted]
            check_leaks(plan, splits, read_trained_model(folder), key)
            continue
        check_run(part, folder)
        check_folds(plan, folder, key)
        missing = [place for place in places if not is_finished(folder / FOLDS / fold_name(*place))]
        if missing:
            raise InputError(say_missing(part, folder, missing))


def check_finished(config: Config) -> None:
    """Refuse a run with finished folds whose branches were trained again after they started there.

    Folds and seeds of one run, and heads of several, would have different branches under one name.
    What weights a run has now is in its ledger, so that no large file is read.

    Raises:
        InputError: There are such folds.
        RunError: A file of one of the runs is corrupt.
    """
    own = Path(config.run.root, config.name)
    finished = [card.parent for card in sorted(own.glob(f"{FOLDS}/*/{CARD}"))]
    cards = {place.name: read_card(place) for place in finished if is_finished(place)}
    for part, folder in folders(config).items() if cards else ():
        changed = []
        weights = _weights_now(folder)
        for name, card in cards.items():
            origin = card.started_from.get(part)  # type: ignore[call-overload]
            place = None if origin is None else (origin.fold, origin.seed)
            if place in weights and weights[place] != origin.weights:
                changed.append(name)
        if changed:
            raise InputError(
                f"{some(changed)} of {own} started from branches that {folder} no longer has: it "
                "was trained again. Give --overwrite to start this run anew, or another name"
            )


def _weights_now(folder: Path) -> dict[tuple[int | None, int], str]:
    """Return the hash of the weights of each fold and seed that a run or model folder has now."""
    if is_model_folder(folder):
        card = read_card(folder)
        return {(card.fold, card.seed or 0): file_sha256(folder / WEIGHTS)}
    lines = [line for line in read_ledger(folder) if line["kind"] == "test"]
    return {(line["fold"], line["seed"]): line["weights"] for line in lines}


def find_origins(fold: Fold) -> Origins:
    """Return the origin of each branch that starts from another run; the first process reads them.

    Raises:
        InputError: A fold is not finished there, or has changed since this fold was begun.
        RunError: A file of it is corrupt.
    """
    return from_first(lambda: _find_origins(fold))


def with_origins(fold: Fold, origins: Origins) -> Fold:
    """Return a fold whose environment names the origins of its branches."""
    if not origins:
        return fold
    environment = {**fold.session.environment, STARTED: describe_origins(origins)}
    return replace(fold, session=replace(fold.session, environment=environment))


def start_branches(model: MaxMViTGMU, fold: Fold, origins: Origins) -> None:
    """Give branches, or the network, their weights and statistics, which the first process reads.

    Raises:
        RunError: The weights are corrupt.
    """
    for part in origins:
        file = place_of(fold.config, part, fold.split.fold, fold.seed) / WEIGHTS
        if part == WHOLE:
            start_whole(model, fold, file)
            continue
        names = [name for name in model.state_dict() if name.startswith(f"{part}_")]
        weights = from_first(partial(_read, file, names))
        try:
            model.load_state_dict(weights, strict=False)  # the other branch and the head stay
        except RuntimeError as error:  # other shapes
            raise corrupt_file(file, first_line(error), remove=file.parent) from error


def _check_branch(config: Config, theirs: Config, branch: str, key: str) -> None:
    """Refuse a run without this branch, and one whose branch reads or computes something else."""
    fusion = FUSIONS[theirs.model.fusion]
    if branch not in theirs.model.reads:
        raise InputError(
            f"{key} is of {theirs.model.fusion}, which has no {branch} branch: name a run of "
            f"{branch}_only or another that reads it"
        )
    if fusion.reads_tokens and not FUSIONS[config.model.fusion].reads_tokens:
        raise InputError(
            f"{key} is of {theirs.model.fusion}, whose branches end before the pooling that "
            f"{config.model.fusion} needs: name a run of {branch}_only or of a fusion that pools"
        )
    if changes := describe_changes(what_it_is(theirs, [branch]), what_it_is(config, [branch]), ()):
        raise InputError(
            f"{key}: its {branch} branch reads other images or is another network:\n"
            + "\n".join(changes)
            + f"\nfeatures.*, model.image_size, model.{branch}_backbone and train.normalize must "
            "be equal in both runs: change them here, or name another run"
        )


def _find_origins(fold: Fold) -> dict[str, Origin]:
    number, seed = numbers_of(fold.config, fold.split.fold, fold.seed)
    found: dict[str, Origin] = {}
    for part, folder in folders(fold.config).items():
        place = place_of(fold.config, part, fold.split.fold, fold.seed)
        if not is_finished(place) and not is_model_folder(folder):
            raise InputError(say_missing(part, folder, [(number, seed)]))
        if not is_model_folder(folder):
            theirs, own = read_metrics(place).certificate, fold.session.plan.certificate["id"]
            if fold.session.plan.has_test and theirs != own:
                raise corrupt_file(place, f"its certificate is {theirs}, not {own}", remove=place)
        try:
            weights = file_sha256(place / WEIGHTS)
        except OSError as error:
            raise corrupt_file(place / WEIGHTS, error, remove=place) from error
        origin = Origin(folder.resolve().name, number, seed, weights)
        found[part] = find_whole(fold, place, weights) if part == WHOLE else origin
    _check_unchanged(fold, found)
    return found


def _check_unchanged(fold: Fold, origins: Origins) -> None:
    """Refuse origins that have other weights than those from which a state came."""
    if not Checkpoints(fold.folder / STATE).is_begun or not (fold.folder / ENVIRONMENT).exists():
        return
    before = read_environment(fold.folder, remove=None).get(STARTED)
    now = describe_origins(origins) or None
    if before != now:
        raise InputError(
            f"{fold.folder} was begun with branches that started from {before}, now they would "
            f"start from {now}: put the weights back, or remove {fold.folder} to start it anew"
        )


def _read(file: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Return some tensors of a weights file."""
    weights = load_tensors(file)
    if missing := [name for name in names if name not in weights]:
        raise corrupt_file(file, f"it has no {missing[0]}", remove=file.parent)
    found = {name: weights[name] for name in names}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        raise corrupt_file(file, "NaN or infinite weights", remove=file.parent)
    return found
