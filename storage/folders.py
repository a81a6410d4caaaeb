"""Recognise run, study and fold folders by their file names; imports nothing slow.

config.yaml                  a run, a study or a range test
+ study.json, lr_range.json  a study, a range test
model.json                   a finished fold; metrics.json is written last
+ final.json                 a final model, trained on all utterances of a run; written last
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.effects import whole_key
from system.errors import InputError

CONFIG = "config.yaml"
STUDY, RANGE_TEST = "study.json", "lr_range.json"
METRICS, CARD = "metrics.json", "model.json"
FINAL = "final.json"  # of a final model, which has no metrics
SHOWN = 5  # folders named in a message


def check_is_run(folder: Path) -> None:
    """Refuse a folder that does not belong to a run.

    Args:
        folder: For example `runs/demo_gmu`.

    Raises:
        InputError: It has no config.yaml; names run folders nearby.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a run folder (no {CONFIG} in it); {_hint(folder)}")


def check_is_fold(folder: Path, wanted: str = f"a finished fold (no {CARD} in it)") -> None:
    """Refuse a folder that does not belong to a finished fold.

    Args:
        folder: For example `runs/demo_gmu/folds/fold-1_seed-0`.
        wanted: What it is not, for the message.

    Raises:
        InputError: It has no model.json; names finished folds below it.
    """
    if not (folder / CARD).is_file():
        hint = ""
        if inside := _folds_in(folder):
            hint = f"; folds in it: {', '.join(inside[:SHOWN])}"
        elif (folder / CONFIG).is_file():
            hint = "; it is a run without a finished fold yet"
        elif meant := _nearest(folder, CARD):
            hint = f"; did you mean {meant}?"
        elif (run := _nearest(folder, CONFIG)) and (inside := _folds_in(run)):
            hint = f"; did you mean {run}? Folds in it: {', '.join(inside[:SHOWN])}"
        raise InputError(f"{folder} is not {wanted}{hint}")


def is_finished(folder: Path) -> bool:
    """Return whether a fold was tested, or a final model trained, and all files were written."""
    return (folder / METRICS).exists() or (folder / FINAL).exists()


def describe_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str]
) -> list[str]:
    """Return one line for each key whose value is another one now.

    Args:
        before: Values stored in the folder, by dotted key.
        now: Values of this command, by dotted key.
        free: Beginnings of keys that may differ.
    """
    return [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not whole_key(key).startswith(tuple(free))
    ]


def _hint(folder: Path) -> str:
    inside = sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
    if re.fullmatch(r"fold-\d+_seed-\d+", folder.name):
        return f"name the run that this fold belongs to: {folder.parent.parent}"
    if inside:
        return f"runs in it: {', '.join(inside[:SHOWN])}"
    if near := _nearest(folder, CONFIG):
        return f"did you mean {near}?"
    return "name a folder in run.root"


def _folds_in(folder: Path) -> list[str]:
    """Return the finished folds below `folds`, a run folder, or run.root."""
    near = ("*", "folds/*", "*/folds/*", "final/*", "*/final/*")
    return sorted(str(card.parent) for where in near for card in folder.glob(f"{where}/{CARD}"))


def _nearest(folder: Path, file: str) -> Path | None:
    """Return a folder with such a file that may be meant, if there is one.

    It lies in runs/, or has another name where the path leaves what there is.
    """
    inside = Path("runs", folder)
    if not folder.is_absolute() and (inside / file).is_file():
        return inside
    path = folder
    while not path.exists() and not path.parent.exists():
        path = path.parent
    rest = folder.relative_to(path)
    others = [  # what may not be read is none of them
        one.name
        for one in path.parent.glob("*")
        if one.name != path.name and os.path.isfile(one / rest / file)
    ]
    close = difflib.get_close_matches(path.name, others, n=1, cutoff=0.6)
    return path.parent / close[0] / rest if close else None
