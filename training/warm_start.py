"""Branches that start from another run: found, checked for leaks, loaded.

A branch of fold k starts from fold k of a run with the same certificate. So no utterance that is
tested here has trained, or selected, the weights from which the branch starts. The statistics that
normalise its images come with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.baselines import BaselineRun, load_stored_run
from config.fusions import FUSIONS, fusions_that
from config.loading import flatten
from config.schema import Config
from corpora.certificate import digest_recordings
from corpora.plan import Plan
from model_gmu import MaxMViTGMU
from storage.environment import ENVIRONMENT, STARTED, read_environment
from storage.fold_folder import STATE, WEIGHTS, fold_name, read_metrics
from storage.folders import CARD, CONFIG, check_is_run, describe_changes, is_finished
from storage.ledger import read_ledger
from storage.model_card import read_card
from storage.run_folder import CERTIFICATE, FOLDS
from storage.split_certificate import read_certificate
from storage.tensors import load_tensors
from system.errors import InputError, first_line
from system.files import corrupt_file
from system.regular import file_sha256
from training.checkpoints import Checkpoints
from training.distributed import from_first
from training.session import Fold

FOLDS_NAMED = 5


@dataclass(frozen=True)
class Origin:
    """The finished fold from which a branch starts; `storage.model_card.BranchOrigin` reads it.

    Attributes:
        run: Name of its run.
        fold: Its number.
        seed: Seed of its training.
        weights: SHA-256 of its weights file.
    """

    run: str
    fold: int
    seed: int
    weights: str


Origins = Mapping[str, Origin]  # by branch, `cqt` or `mel`


def check_started(config: Config) -> None:
    """Refuse runs from which no branch of a config can start, before any audio is indexed.

    A run that was begun needs them for folds alone that are not finished, see `check_origins`.

    Raises:
        InputError: One is no run, has no such branch, or other images or another backbone.
        RunError: A file of one is corrupt.
    """
    own = Path(config.run.root, config.name)
    for branch, folder in _folders(config).items():
        if (own / CONFIG).exists() and not (folder / CONFIG).exists():
            continue
        key = f"model.{branch}_from={folder}"
        _check_is_run(branch, folder)
        if folder.resolve() == own.resolve():
            raise InputError(f"{key} is the folder of this run itself: name another run, or `name`")
        theirs = load_stored_run(folder / CONFIG)
        if isinstance(theirs, BaselineRun):
            raise InputError(f"{key} is of a baseline, which has no branches: name a fusion's run")
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
    places = dict.fromkeys(
        _place(config, split.fold, seed)
        for split in plan.wanted()
        for seed in config.run.seeds
        if not is_finished(own / fold_name(split.fold, seed))
    )
    for branch, folder in _folders(config).items() if places else ():
        _check_is_run(branch, folder)
        _check_folds(plan, folder, f"model.{branch}_from={folder}")
        missing = [place for place in places if not is_finished(folder / FOLDS / fold_name(*place))]
        if missing:
            raise InputError(_say_missing(branch, folder, missing))


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
    for branch, folder in _folders(config).items() if cards else ():
        lines = [line for line in read_ledger(folder) if line["kind"] == "test"]
        weights = {fold_name(line["fold"], line["seed"]): line["weights"] for line in lines}
        changed = []
        for name, card in cards.items():
            origin = card.started_from.get(branch)  # type: ignore[call-overload]
            place = None if origin is None else fold_name(origin.fold, origin.seed)
            if place in weights and weights[place] != origin.weights:
                changed.append(name)
        if changed:
            raise InputError(
                f"{_some(changed)} of {own} started from branches that {folder} no longer has: it "
                "was trained again. Give --overwrite to start this run anew, or another name"
            )


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


def describe_origins(origins: Origins) -> dict[str, dict[str, Any]]:
    """Return origins ready for JSON."""
    return {branch: asdict(origin) for branch, origin in origins.items()}


def start_branches(model: MaxMViTGMU, fold: Fold, origins: Origins) -> None:
    """Give branches their weights and statistics, which the first process reads.

    Raises:
        RunError: The weights are corrupt.
    """
    folders = _folders(fold.config)
    for branch, origin in origins.items():
        file = folders[branch] / FOLDS / fold_name(origin.fold, origin.seed) / WEIGHTS
        names = [name for name in model.state_dict() if name.startswith(f"{branch}_")]
        weights = from_first(partial(_read, file, names))
        try:
            model.load_state_dict(weights, strict=False)  # the other branch and the head stay
        except RuntimeError as error:  # other shapes
            raise corrupt_file(file, first_line(error), remove=file.parent) from error


def _folders(config: Config) -> dict[str, Path]:
    return {branch: Path(folder) for branch, folder in config.model.started.items()}


def _place(config: Config, fold: int, seed: int) -> tuple[int, int]:
    """Return fold and seed of the origin of a fold and seed."""
    from_seed = config.model.from_seed
    return fold, seed if from_seed is None else from_seed


def _check_is_run(branch: str, folder: Path) -> None:
    try:
        check_is_run(folder)
    except InputError as error:
        raise InputError(f"model.{branch}_from: {error}") from None


def _check_branch(config: Config, theirs: Config, branch: str, key: str) -> None:
    """Refuse a run without this branch, and one whose branch reads or computes something else."""
    fusion = FUSIONS[theirs.model.fusion]
    if branch not in fusion.branches:
        with_it = ", ".join(fusions_that(lambda fusion: branch in fusion.branches))
        raise InputError(
            f"{key} is of {theirs.model.fusion}, which has no {branch} branch: name a run of one "
            f"of {with_it}"
        )
    if fusion.reads_tokens and not FUSIONS[config.model.fusion].reads_tokens:
        raise InputError(
            f"{key} is of {theirs.model.fusion}, whose branches end before the pooling that "
            f"{config.model.fusion} needs: name a run of {branch}_only or of a fusion that pools"
        )
    if changes := describe_changes(_what_it_is(theirs, branch), _what_it_is(config, branch), ()):
        raise InputError(
            f"{key}: its {branch} branch reads other images or is another network:\n"
            + "\n".join(changes)
            + f"\nfeatures.*, model.image_size, model.{branch}_backbone and train.normalize must "
            "be equal in both runs: change them here, or name another run"
        )


def _what_it_is(config: Config, branch: str) -> dict[str, Any]:
    """Return the keys that decide what a branch reads, and which network it is."""
    values = flatten(config.model_dump())
    keys = ("model.image_size", f"model.{branch}_backbone", "train.normalize")
    return {k: v for k, v in values.items() if k in keys or k.startswith("features.")}


def _check_folds(plan: Plan, folder: Path, key: str) -> None:
    """Refuse a run whose folds hold other utterances than those of a plan."""
    theirs, own = read_certificate(folder / CERTIFICATE), plan.certificate
    if plan.has_test:
        alike = theirs["id"] == own["id"]
    else:  # the certificate of a tuning plan is of one fold without its test
        alike = theirs["protocol"] == own["protocol"] and _has_parts(theirs, plan)
    if not alike:
        raise InputError(
            f"{key} has other folds than this run: certificate {theirs['id']} of "
            f"{theirs['protocol']} there, {own['id']} of {own['protocol']} here. Utterances that "
            "are tested here may have trained its branch. Give both runs the same corpus.* and "
            "protocol.*, or name another run"
        )


def _has_parts(certificate: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether train and dev of a tuning plan's fold are those of a certificate."""
    (split,) = plan.splits
    folds: list[dict[str, Any]] = certificate["folds"]
    fold = next((f for f in folds if f["fold"] == split.fold), {})
    return all(
        fold.get(name, {}).get("recordings") == digest_recordings(part, plan.hashes)
        for name, part in split.parts()
        if part  # a range test has no dev
    )


def _say_missing(branch: str, folder: Path, missing: Sequence[tuple[int, int]]) -> str:
    """Name folds that are not finished, and the command that trains the first of them."""
    names = _some([fold_name(*place) for place in missing])
    theirs = load_stored_run(folder / CONFIG)
    entry = "baseline.py" if isinstance(theirs, BaselineRun) else FUSIONS[theirs.model.fusion].entry
    folds, seeds = (sorted({place[i] for place in missing}) for i in (0, 1))
    command = f'python {entry} --config {folder / CONFIG} "run.folds={folds}" "run.seeds={seeds}"'
    return (
        f"model.{branch}_from={folder} has not finished {names}, from which this run "
        f"starts. Train it first:\n  {command}\nor set model.from_seed to a seed that is finished"
    )


def _some(names: Sequence[str]) -> str:
    """Join the first of some names, with the number of the others."""
    n_more = len(names) - FOLDS_NAMED
    return ", ".join(names[:FOLDS_NAMED]) + (f" and {n_more} more" if n_more > 0 else "")


def _find_origins(fold: Fold) -> dict[str, Origin]:
    number, seed = _place(fold.config, fold.split.fold, fold.seed)
    found = {}
    for branch, folder in _folders(fold.config).items():
        place = folder / FOLDS / fold_name(number, seed)
        if not is_finished(place):
            raise InputError(_say_missing(branch, folder, [(number, seed)]))
        theirs, own = read_metrics(place).certificate, fold.session.plan.certificate["id"]
        if fold.session.plan.has_test and theirs != own:
            raise corrupt_file(place, f"its certificate is {theirs}, not {own}", remove=place)
        try:
            weights = file_sha256(place / WEIGHTS)
        except OSError as error:
            raise corrupt_file(place / WEIGHTS, error, remove=place) from error
        found[branch] = Origin(folder.resolve().name, number, seed, weights)
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
