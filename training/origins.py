"""Where branches, or the whole network, start: named by keys, found in folders, recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config.baselines import BaselineRun, load_stored_run
from config.fusions import FUSIONS
from config.loading import flatten
from config.schema import Config
from corpora.certificate import digest_recordings
from corpora.plan import Plan
from storage.fold_folder import fold_name
from storage.folders import CONFIG, check_is_run
from storage.run_folder import CERTIFICATE, FOLDS
from storage.split_certificate import read_certificate
from storage.trained_model import is_model_folder
from system.errors import InputError

WHOLE = "model"  # in the place of a branch: the whole network
NAMED = 5  # in a message


@dataclass(frozen=True)
class Origin:
    """The finished fold from which a branch starts; `storage.model_card.BranchOrigin` reads it.

    Attributes:
        run: Name of its run.
        fold: Its number; None of a final model.
        seed: Seed of its training.
        weights: SHA-256 of its weights file.
    """

    run: str
    fold: int | None
    seed: int
    weights: str


@dataclass(frozen=True)
class WholeOrigin(Origin):
    """The model from which a network starts; `storage.model_card.NetworkOrigin` reads it.

    Attributes:
        classes: Classes whose rows of the last layer are kept.
        new: Modules that start anew, and rows of the last layer.
        utterances: Number of recordings that trained or selected it, as far as that is known.
        unknown: Folders of models behind it of which nobody knows what trained them.
    """

    classes: list[str]
    new: list[str]
    utterances: int
    unknown: list[str]


Origins = Mapping[str, Origin]  # by branch, `cqt` or `mel`; or that of `WHOLE`


def describe_origins(origins: Origins) -> dict[str, dict[str, Any]]:
    """Return origins ready for JSON."""
    return {part: asdict(origin) for part, origin in origins.items()}


def folders(config: Config) -> dict[str, Path]:
    """Return the folder from which each branch, or `WHOLE`, starts."""
    named = {**config.model.started, WHOLE: config.model.from_}
    return {part: Path(folder) for part, folder in named.items() if folder is not None}


def key_of(part: str) -> str:
    """Return the key that names the origin of a branch, or of `WHOLE`.

    >>> key_of("cqt"), key_of(WHOLE)
    ('model.cqt_from', 'model.from')
    """
    return "model.from" if part == WHOLE else f"model.{part}_from"


def place_of(config: Config, part: str, fold: int, seed: int) -> Path:
    """Return the folder of the model from which a fold and seed start."""
    folder = folders(config)[part]
    if is_model_folder(folder):
        return folder
    return folder / FOLDS / fold_name(*numbers_of(config, fold, seed))


def numbers_of(config: Config, fold: int, seed: int) -> tuple[int, int]:
    """Return fold and seed in another run from which a fold and seed start."""
    from_seed = config.model.from_seed
    return fold, seed if from_seed is None else from_seed


def check_run(part: str, folder: Path) -> None:
    """Refuse a folder that is no run.

    Raises:
        InputError: It is none.
    """
    try:
        check_is_run(folder)
    except InputError as error:
        others = "; nor a finished fold or final model (no model.json in it)" * (part == WHOLE)
        raise InputError(f"{key_of(part)}: {error}{others}") from None


def what_it_is(config: Config, branches: Sequence[str]) -> dict[str, Any]:
    """Return the keys that decide what branches read, and which networks they are."""
    values = flatten(config.model_dump())
    keys = ["model.image_size", "train.normalize", *(f"model.{b}_backbone" for b in branches)]
    return {k: v for k, v in values.items() if k in keys or k.startswith("features.")}


def check_folds(plan: Plan, folder: Path, key: str) -> None:
    """Refuse a run whose folds hold other utterances than those of a plan.

    Args:
        plan: The plan.
        folder: The run.
        key: `section.key=value` that names it, for the message.

    Raises:
        InputError: They do.
        RunError: Its certificate is corrupt.
    """
    theirs, own = read_certificate(folder / CERTIFICATE), plan.certificate
    if plan.has_test:
        alike = theirs["id"] == own["id"]
    else:  # the certificate of a tuning plan is of one fold without its test
        alike = theirs["protocol"] == own["protocol"] and _has_parts(theirs, plan)
    if not alike:
        whole = ", or one of its folds or its final model" * key.startswith("model.from")
        raise InputError(
            f"{key} has other folds than this run: certificate {theirs['id']} of "
            f"{theirs['protocol']} there, {own['id']} of {own['protocol']} here. Utterances that "
            "are tested here may have trained its branch. Give both runs the same corpus.* and "
            f"protocol.*, or name another run{whole}"
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


def say_missing(part: str, folder: Path, missing: Sequence[tuple[int, int]]) -> str:
    """Name folds that are not finished, and the command that trains the first of them."""
    names = some([fold_name(*place) for place in missing])
    theirs = load_stored_run(folder / CONFIG)
    entry = "baseline.py" if isinstance(theirs, BaselineRun) else FUSIONS[theirs.model.fusion].entry
    folds, seeds = (sorted({place[i] for place in missing}) for i in (0, 1))
    command = f'python {entry} --config {folder / CONFIG} "run.folds={folds}" "run.seeds={seeds}"'
    return (
        f"{key_of(part)}={folder} has not finished {names}, from which this run "
        f"starts. Train it first:\n  {command}\nor set model.from_seed to a seed that is finished"
    )


def some(names: Sequence[str]) -> str:
    """Join the first of some names, with the number of the others."""
    n_more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {n_more} more" if n_more > 0 else "")
