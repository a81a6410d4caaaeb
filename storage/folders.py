"""Is this the folder of a run, or of a finished fold? Answered before anything slow is imported."""

import re
from pathlib import Path

from system.errors import InputError


def check_is_run(folder: Path) -> None:
    """Refuse a folder that does not belong to a run.

    Args:
        folder: For example `runs/demo_gmu`.

    Raises:
        InputError: It has no config.yaml; names run folders nearby.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is not a run folder (no config.yaml in it); {_hint(folder)}")


def check_is_fold(folder: Path) -> None:
    """Refuse a folder that does not belong to a finished fold.

    Args:
        folder: For example `runs/demo_gmu/folds/fold-1_seed-0`.

    Raises:
        InputError: It has no model.json; names finished folds below it.
    """
    if not (folder / "model.json").is_file():
        inside = sorted(str(path.parent) for path in folder.glob("**/model.json"))
        hint = f"; folds in it: {', '.join(inside)}" if inside else ""
        raise InputError(f"{folder} is not a finished fold (no model.json in it){hint}")


def _hint(folder: Path) -> str:
    inside = sorted(str(path.parent) for path in folder.glob("*/config.yaml"))
    if re.fullmatch(r"fold-\d+_seed-\d+", folder.name):
        return f"name the run that this fold belongs to: {folder.parent.parent}"
    return f"runs in it: {', '.join(inside)}" if inside else "name a folder in run.root"
