"""A run that is planned: a config, its overrides, and the command that trains it.

Overrides of the command line go to the runs in which their keys have an effect; what a config sets
and the changes of a run leave without effect is set back.
"""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.baselines import NORMALIZE, BaselineRun
from config.effects import deciding_key, keys_without_effect, overlap
from config.fusions import FUSIONS as ALL_FUSIONS
from config.loading import flatten, load_config, parse_override
from config.schema import Config
from experiments.jobs import Job
from experiments.search_space import as_overrides
from system.errors import InputError, nearest

HERE = Path(os.path.relpath(Path(__file__).parents[1]))
SAME = ("corpus", "protocol", "run.root", "run.folds", "run.seeds")  # in all runs


@dataclass(frozen=True)
class PlannedRun:
    """A config file, its overrides, and the config that they give, of a fusion or a baseline."""

    file: Path
    overrides: Sequence[str]
    config: Config | BaselineRun

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.run.root) / self.config.name

    @property
    def fusion(self) -> str | None:
        """`model.fusion`; None of a baseline."""
        return self.config.model.fusion if isinstance(self.config, Config) else None

    @property
    def epochs(self) -> int | None:
        """Most epochs that a job trains; None of a baseline."""
        return self.config.train.epochs if isinstance(self.config, Config) else None

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command that trains it; of a key given twice the last value counts."""
        config = ("--config", str(self.file), *self.overrides)
        if isinstance(self.config, BaselineRun):
            kind, functionals = self.config.baseline.kind, self.config.baseline.functionals
            chosen = () if functionals is None else ("--functionals", functionals)
            baseline = (str(HERE / "baseline.py"), "--kind", kind, *chosen)
            return (sys.executable, *baseline, *config, *arguments)
        entry = ALL_FUSIONS[self.config.model.fusion].entry
        return (sys.executable, str(HERE / entry), *config, *arguments)


def folds_job(
    run: PlannedRun, title: str, folds: Sequence[int], seeds: Sequence[int], log: str
) -> Job:
    """Return one job for several folds and seeds, which take less time than a process to start.

    Args:
        run: The run.
        title: Name of the job, for people.
        folds: Their numbers, named in the command so that several machines may work on a run.
        seeds: Seeds of each.
        log: Name of the log file.
    """
    from storage.fold_folder import fold_name

    wishes = (f"run.folds={list(folds)}", f"run.seeds={list(seeds)}")
    command = run.command(*(wish.replace(" ", "") for wish in wishes))
    names = [fold_name(fold, seed) for seed in seeds for fold in folds]
    first, *others = [run.folder / "folds" / name for name in names]
    return Job(title, command, first, run.folder / "logs" / log, others=tuple(others))


def check_name(configs: Path, name: str) -> None:
    """Refuse a name that no configs have."""
    names = [file.stem.removesuffix("_gmu") for file in configs.glob("*_gmu.yaml")]
    if name not in names:
        raise InputError(f"there are no configs {name!r} in {configs}: {nearest(name, names)}")


def refuse_overrides(overrides: Sequence[str], keys: Collection[str], reason: str) -> None:
    """Refuse overrides of some keys."""
    for override in overrides:
        leaves = flatten(parse_override(override))
        if any(overlap(leaf, key) for leaf in leaves for key in keys):
            raise InputError(f"{override} {reason}: leave it out")


def depends_on(override: str, keys: Collection[str]) -> bool:
    """Return whether one of some keys decides if an override has an effect."""
    leaves = flatten(parse_override(override))
    return any(deciding_key(key) in keys for key in leaves)


def share_overrides(overrides: Sequence[str], values: Mapping[str, Any]) -> list[list[str]]:
    """Return for each override its keys that have an effect with these values of other keys."""
    share, without_effect = [], set(keys_without_effect(values))
    for override in overrides:
        leaves = flatten(parse_override(override))
        used = {key: value for key, value in leaves.items() if key not in without_effect}
        share.append([override] if len(used) == len(leaves) else as_overrides(used))
    return share


def check_all_used(
    overrides: Sequence[str], shares: Mapping[str, Sequence[Sequence[str]]], where: str
) -> None:
    """Refuse an override of which no run has a share."""
    for i, override in enumerate(overrides):
        if not any(share[i] for share in shares.values()):
            raise InputError(f"{override} has no effect {where}")


def planned_run(file: Path, changes: Sequence[str], share: Sequence[Sequence[str]]) -> PlannedRun:
    """Return the run of a config with some changes, then its share of the overrides."""
    overrides = [*changes, *(part for parts in share for part in parts)]
    return PlannedRun(file, overrides, load_config(file, overrides))


def check_comparable(runs: Sequence[PlannedRun]) -> None:
    """Refuse runs that share a folder, or are not tested on the same folds."""
    first, *others = runs
    names = [run.config.name for run in runs]
    for run in others:
        if names.count(run.config.name) > 1:
            raise InputError(f"{first.file} and {run.file} have the same name {run.config.name}")
        expected, actual = flatten(first.config.model_dump()), flatten(run.config.model_dump())
        differing = [k for k in expected if k.startswith(SAME) and expected[k] != actual[k]]
        if (expected[NORMALIZE] == "speaker") != (actual[NORMALIZE] == "speaker"):
            differing.append(NORMALIZE)  # a protocol of its own
        if differing:
            raise InputError(
                f"{first.file} and {run.file} differ in {', '.join(differing)}: runs are compared "
                "on the same folds and under one protocol"
            )
