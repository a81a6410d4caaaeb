"""Which models and which examples the page offers; imports nothing slow."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from corpora.audio_files import SUFFIXES, list_tree
from inference.members import BUNDLE, member_folders
from storage.folders import CARD, CONFIG
from system.errors import InputError

FINAL = "final"  # folder of a run's final models
INSIDE_RUN = ("folds", FINAL)
EXAMPLES = 6  # recordings of the demo corpus, spread over it


class Example(NamedTuple):
    """A recording that is offered."""

    label: str
    path: Path


def find_models(named: Sequence[Path], runs: Path | None) -> dict[str, Path]:
    """Return the folders of models by the name that the page shows.

    Args:
        named: Folders of runs, folds, final models or bundles, as on the command line.
        runs: Folder of runs and bundles, of which all with a finished fold are taken; None: none.

    Raises:
        InputError: A named folder is none of these, or there is no model at all.
    """
    for folder in named:
        member_folders(folder)
    found = list(dict.fromkeys([*named, *_models_in(runs)]))
    if not found:
        raise InputError(
            f"there is no trained model in {runs}: name the folder of a run, a fold or a bundle, "
            "or train one (`make demo` trains some)"
        )
    names = [_name(folder.resolve()) for folder in found]
    return {
        name if names.count(name) == 1 else str(folder): folder
        for name, folder in zip(names, found, strict=True)
    }


def find_examples(folder: Path) -> list[Example]:
    """Return recordings of a corpus, evenly spaced in the order of their paths; none if none."""
    if not folder.is_dir():
        return []
    files = list_tree(folder, suffixes=SUFFIXES).audio
    n = min(EXAMPLES, len(files))
    chosen = [files[i * len(files) // n] for i in range(n)]
    return [Example(path.stem, path) for path in chosen]


def _models_in(runs: Path | None) -> list[Path]:
    """Return the folders below `runs` that hold a finished fold, in the order of their names."""
    if runs is None or not runs.is_dir():
        return []
    inside = {file.parent for name in (CONFIG, BUNDLE, CARD) for file in runs.glob(f"*/{name}")}
    inside |= {file.parent for file in runs.glob(f"*/{FINAL}/*/{CARD}")}
    return [folder for folder in sorted(inside) if _has_models(folder)]


def _name(folder: Path) -> str:
    """Return the name of a run or bundle; of a fold or final model that of its run, too.

    >>> _name(Path("/a/runs/demo_gmu")), _name(Path("/a/runs/demo_gmu/final/seed-0"))
    ('demo_gmu', 'demo_gmu/final/seed-0')
    """
    return "/".join(folder.parts[-3:] if folder.parent.name in INSIDE_RUN else folder.parts[-1:])


def _has_models(folder: Path) -> bool:
    try:
        return bool(member_folders(folder))
    except InputError:  # a study, or a run without a finished fold yet
        return False
