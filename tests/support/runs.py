"""Runs made in the tests' own process, as `train_gmu.py` makes them."""

from collections.abc import Sequence
from pathlib import Path

from config.image_keys import IDLE_WITHOUT_IMAGES
from config.loading import load_config
from config.schema import Config
from evaluation.summary import summarize
from experiments.search_space import as_overrides
from storage.run_folder import Run, read_run
from system.signals import Stop
from training.experiment import open_run
from training.fold import run_fold


def run_experiment(
    config: Config, command: Sequence[str], overwrite: bool = False, stop: Stop | None = None
) -> Path:
    """Train and test every fold and seed that is not finished; return the run folder."""
    with open_run(config, command, overwrite, stop) as session:
        for fold in session.folds():
            run_fold(fold)
            if session.is_main:
                summarize(session.folder)
    return session.folder


def without_images(*branches: str) -> tuple[str, ...]:
    """Return the overrides with which a config of images is one of other sources alone.

    Args:
        branches: `speech` and `file`, or one of them, which is then the fusion.
    """
    null = (f"{key}_backbone" for key in ("model.cqt", "model.mel"))
    null = (*null, "optim.optimizer.cqt", "optim.optimizer.mel")
    joined = f"model.branches=[{', '.join(branches)}]"
    chosen = f"model.fusion={branches[0]}_only" if len(branches) == 1 else joined
    return (chosen, *as_overrides({**IDLE_WITHOUT_IMAGES, **dict.fromkeys(null)}))


def gated_run(recipe: Path, root: Path) -> Run:
    """Return two finished folds of the tiny corpus with a small gated model."""
    config = load_config(recipe, [f"run.root={root}", f"run.store={root}/store", "run.folds=[1,2]"])
    return read_run(run_experiment(config, []))
