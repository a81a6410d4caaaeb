"""Resume a run with another number of processes: `--resume-with N`, N of the processes started.

The global batch stays: train.batch_size (per process) x processes is what the run was begun with.
The state says with how many processes its training was begun; each batch of all processes keeps
the utterances that it would have had with them, also within an epoch under way, and is dealt to
the processes that there are now. Where their number does not divide it, a few utterances of it
count twice.

Equal up to rounding: order, batches, schedule, augmentation (drawn by utterance), gradients and
the negatives of NT-Xent. Not equal: what each process draws or computes for its own share of a
batch, that is dropout, stochastic depth, mixup, batch norms without `train.sync_batch_norm`,
chunks of `train.backbone_batch` and weights of `loss.class_weights=balanced`.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.loading import load_stored_config
from config.schema import Config
from storage.environment import ENVIRONMENT, read_environment, sessions
from storage.fold_folder import STATE
from storage.folders import CONFIG, is_finished
from storage.run_folder import FOLDS, check_run_folder
from system.errors import InputError, RunError
from training.batches import TrainBatches
from training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from training.session import Fold

log = logging.getLogger(__name__)
BATCH_SIZE = "train.batch_size"
FOLD_NAME = re.compile(r"fold-(\d+)_seed-\d+")


def check_same_number(before: int, now: int, folder: Path, resume_with: int | None = None) -> None:
    """Refuse a state saved by another number of processes, whose batches were different.

    Args:
        before: Number of processes that saved the state.
        now: Number of processes of this training.
        folder: Folder of the state, for the message.
        resume_with: Number of processes that may resume a state of others.

    Raises:
        RunError: The numbers differ.
    """
    if before != now != resume_with:
        raise RunError(
            f"{folder} was saved by a training on {_processes(before)}, this one is on {now} and "
            f"would get different batches: start it on {before}, or resume its run by "
            f"--resume-with {now} with {BATCH_SIZE} x processes as before, or remove {folder} to "
            "train this fold anew"
        )


def check_resumable(config: Config, overwrite: bool, resume_with: int | None) -> None:
    """Check a run folder and the states in it, before this session is recorded there.

    Args:
        config: Config of the run that wants to write to it.
        overwrite: Whether the run will remove what the folder holds.
        resume_with: Number of these processes, where they may resume a run of another number; then
            `train.batch_size` may differ, and the global batch may not.

    Raises:
        InputError: The folder cannot be used, or the global batch would be another one.
        RunError: Another number of processes saved a state, and `resume_with` is None.
    """
    folder, free = Path(config.run.root) / config.name, []
    if resume_with is not None and (folder / CONFIG).is_file():
        if known := _sessions(folder):
            _check_global_batch(config, resume_with, known, f"{folder} was begun")
            free = [BATCH_SIZE]
    now = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        check_run_folder(folder, config, overwrite, free)
    except InputError as error:
        if resume_with is None and _only_processes_differ(folder, config, now):
            way = f"Or give --resume-with {now}, since {BATCH_SIZE} x processes is as before"
            raise InputError(f"{error}\n{way}") from error
        raise
    for fold in () if overwrite else sorted(folder.glob(f"{FOLDS}/*")):
        number = FOLD_NAME.fullmatch(fold.name)
        is_wanted = config.run.folds is None or (number and int(number[1]) in config.run.folds)
        if is_wanted and not is_finished(fold):
            check_state(fold, config, now, resume_with)


def _only_processes_differ(folder: Path, config: Config, now: int) -> bool:
    """Return whether a run differs from a config in the processes that share its batches alone."""
    try:
        check_run_folder(folder, config, overwrite=False, free=[BATCH_SIZE])
        known = _sessions(folder)
        _check_global_batch(config, now, known, "")
    except (InputError, RunError, IndexError):  # no session is known
        return False
    return True


def describe_resume(config: Config, resume_with: int) -> str:
    """Say what `--resume-with` does to a run, before this session is recorded in its folder."""
    folder, size = Path(config.run.root) / config.name, config.train.batch_size
    said = f"--resume-with {resume_with}: "
    if not (known := _sessions(folder)):
        return f"{said}nothing to resume in {folder}, it begins with {_processes(resume_with)}"
    before = len(known[-1]["processes"])
    if before == resume_with:
        return f"{said}{folder} was on {_processes(before)} already"
    there = load_stored_config(folder / CONFIG).train.batch_size
    return (
        f"{said}{folder} goes on with {_processes(resume_with)} instead of {before}, "
        f"{BATCH_SIZE}={size} instead of {there}: the global batch stays {size * resume_with}"
    )


def check_state(folder: Path, config: Config, now: int, resume_with: int | None) -> int | None:
    """Refuse a fold whose state these processes may not resume.

    Args:
        folder: Folder of the fold.
        config: Config of the run.
        now: Number of these processes.
        resume_with: The same, where they may resume a state of others.

    Returns:
        The number of processes that saved it; None is unknown, or there is none.

    Raises:
        InputError: `resume_with` is given, and the global batch would be another one.
        RunError: It is not given, and another number of processes saved the state.
    """
    states = Checkpoints(folder / STATE)
    before = states.processes()
    if before in (None, now):
        return before
    check_same_number(before, now, states.folder, resume_with)
    known = [one for one in _sessions(folder) if len(one["processes"]) == before]
    if not known:
        raise InputError(
            f"{folder / ENVIRONMENT} does not say how large the batches were that {states.folder} "
            f"was saved with: start it on {before}, or remove that folder"
        )
    _check_global_batch(config, now, known, f"{states.folder} was saved")
    return before


def check_fold(fold: "Fold") -> None:
    """Check the state of a fold, see `check_state`, and log whose state is resumed.

    Called before the session is recorded as one that made the fold.

    Raises:
        InputError: See there; or the fold is too small to share its batches as before.
        RunError: See there.
    """
    config, now = fold.config, fold.session.accelerator.num_processes
    before = check_state(fold.folder, config, now, fold.session.resume_with)
    if before in (None, now):
        return
    size, n = config.train.batch_size, len(fold.split.train)
    ours, theirs = (
        len(TrainBatches(n, size * now // world, 0, 0, world)) for world in (now, before)
    )
    if ours != theirs:
        raise InputError(
            f"{fold.name} has {n} utterances to train on, too few to share its batches among "
            f"{_processes(now)}: start it on {before}"
        )
    log.info("%s: on %s now, the state is of %d", fold.name, _processes(now), before)


def _check_global_batch(
    config: Config, n: int, known: Sequence[Mapping[str, Any]], what: str
) -> None:
    """Refuse a global batch that none of some sessions had."""
    size, steps = config.train.batch_size, config.train.accumulate
    wanted = [one["global_batch"] // steps for one in known]
    if size * n in wanted:
        return
    whole, rest = divmod(wanted[-1], n)
    way = f"give {BATCH_SIZE}={whole}"
    if rest or whole < 2:
        way = f"{_processes(n)} cannot share it evenly, 2 and more each: start another number"
    raise InputError(
        f"{what} with a global batch of {wanted[-1]}, and {BATCH_SIZE}={size} on {_processes(n)} "
        f"is one of {size * n}: {way}"
    )


def _sessions(folder: Path) -> list[Mapping[str, Any]]:
    """Return what is known of the sessions that worked on a run or fold, the oldest first."""
    if not (folder / ENVIRONMENT).is_file():
        return []
    known = sessions(read_environment(folder, remove=None))
    return [one for one in known if one.get("processes") and "global_batch" in one]


def _processes(n: int) -> str:
    return f"{n} process{'es' * (n != 1)}"
