"""Ablation of heads on frozen branches: each branch is trained once a fold, then the heads.

    1. NAME_cqt_only and NAME_mel_only: each branch alone, as the variants of those names
    2. NAME_FUSION_frozen: the heads of all fusions, on the features of these branches

All heads of a fold read the same features, so their scores differ by the fusion and by the chance
of training heads. A head takes seconds: all seeds of several folds are one job. What a config sets
for images and backbones has no effect on heads and is set back for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.effects import FEATURES, FROZEN
from config.fusions import FUSIONS as ALL_FUSIONS
from config.fusions import ONE_IMAGE
from config.loading import flatten, load_config, parse_override
from config.schema import Config
from experiments.ablation import FUSIONS, VARIED, check_dry, plan_baselines
from experiments.jobs import Job
from experiments.planned_runs import (
    PlannedRun,
    check_all_used,
    check_comparable,
    check_name,
    depends_on,
    folds_job,
    planned_run,
    refuse_overrides,
    share_overrides,
)
from experiments.search_space import as_overrides, set_back
from storage.folders import is_finished
from system.errors import InputError

if TYPE_CHECKING:
    from corpora.plan import Plan

ARMS = (*FUSIONS, *ONE_IMAGE)
SAME = "same"  # of --branch-seeds
OF_HEADS = ("model", "loss", "optim", "train")  # sections that --heads may change
# Keys in them that say what branches are and read: theirs and their heads' are equal
OF_BRANCHES = (
    *("model.image_size", "model.cqt_backbone", "model.mel_backbone", "model.pretrained"),
    "train.normalize",
)
FIXED = {
    *("name", "model.fusion", FEATURES),
    *("model.cqt_from", "model.mel_from", "model.from_seed", "model.from", "model.frozen"),
}


@dataclass(frozen=True)
class FrozenAblation:
    """Runs of single branches, and of the heads that read their features."""

    branches: Sequence[PlannedRun]
    heads: Sequence[PlannedRun]

    def ready_folds(self, folds: Sequence[int]) -> list[int]:
        """Return the folds of which all branches are trained."""
        return [k for k in folds if all(_has_trained(run, k) for run in self.branches)]


def _has_trained(run: PlannedRun, fold: int) -> bool:
    from storage.fold_folder import fold_name

    seeds = run.config.run.seeds
    return all(is_finished(run.folder / "folds" / fold_name(fold, seed)) for seed in seeds)


def load_frozen(
    configs: Path,
    name: str,
    fusions: Sequence[str],
    overrides: Sequence[str],
    of_heads: Sequence[str],
    branch_seed: int | str | None,
) -> FrozenAblation:
    """Load the runs of single branches and of heads.

    Args:
        configs: Folder of the configs.
        name: Beginning of the configs' names, NAME: `demo`, for example.
        fusions: Some of `ARMS`.
        overrides: Overrides of branches and heads.
        of_heads: Overrides of heads alone.
        branch_seed: Seed of the branches of all heads; None is the first of run.seeds. `same`: each
            seed has branches of its own.

    Raises:
        InputError: A config is missing, they do not fit one another, or an override is wrong.
    """
    check_name(configs, name)
    refuse_overrides([*overrides, *of_heads], FIXED, "is set by --frozen")
    _check_of_heads(of_heads)
    every = [*overrides, *of_heads]
    loader = _Loader(configs, name, overrides)
    seeds = loader.config(VARIED["fusion"], overrides)["run.seeds"]
    seed = None if branch_seed == SAME else seeds[0] if branch_seed is None else branch_seed
    needed = {branch for fusion in fusions for branch in ALL_FUSIONS[fusion].branches}
    shares, origins, branches = {}, {}, []
    for fusion, branch in ONE_IMAGE.items():
        if branch in needed:
            values = {"model.fusion": fusion}
            share = share_overrides(overrides, values)
            own = [] if seed is None else [[f"run.seeds=[{seed}]"]]
            run = loader.plan(
                fusion, {"name": f"{name}_{fusion}", **values}, values, [*share, *own]
            )
            shares[run.config.name] = [*share, *([] for _ in of_heads)]
            origins[branch] = run.folder
            branches.append(run)
    heads = []
    for fusion in fusions:
        values = {"model.fusion": fusion, FEATURES: FROZEN}
        froms = {f"model.{b}_from": str(origins[b]) for b in ALL_FUSIONS[fusion].branches}
        changes = {"name": f"{name}_{fusion}_frozen", **values, **froms, "model.from_seed": seed}
        share = shares[fusion] = share_overrides(every, values)
        heads.append(loader.plan(fusion, changes, values, share))
    check_all_used(every, shares, f"with --frozen --fusions {' '.join(fusions)}")
    check_comparable(heads)
    return FrozenAblation(branches, heads)


class _Loader:
    """Loads the runs of an ablation from the configs of one name."""

    def __init__(self, configs: Path, name: str, overrides: Sequence[str]) -> None:
        self.configs, self.name = configs, name
        # Of all fusions: the others may have no effect in some config
        self.common = [o for o in overrides if not depends_on(o, {"model.fusion"})]

    def file(self, fusion: str) -> Path:
        """Return the config of a fusion; a single branch has that which the variants change."""
        own = fusion if fusion in FUSIONS else VARIED["fusion"]
        file = self.configs / f"{self.name}_{own}.yaml"
        return (
            self.configs / f"{self.name}.yaml" if own == "concat" and not file.is_file() else file
        )

    def config(self, fusion: str, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the values of that config with some of the common overrides, by dotted key."""
        common = [override for override in self.common if override in overrides]
        return flatten(load_config(self.file(fusion), common).model_dump())

    def plan(
        self,
        fusion: str,
        changes: Mapping[str, Any],
        values: Mapping[str, Any],
        share: Sequence[Sequence[str]],
    ) -> PlannedRun:
        """Return a run: the config, what some values leave idle set back, changes, overrides."""
        config = self.config(fusion, [part for parts in share for part in parts])
        if fusion in FUSIONS and config["model.fusion"] != fusion:
            raise InputError(f"{self.file(fusion)} must have model.fusion={fusion}")
        named = {"name": changes["name"], **set_back(config, values), **changes}
        return planned_run(self.file(fusion), as_overrides(named), share)


def _check_of_heads(overrides: Sequence[str]) -> None:
    for override in overrides:
        for key in flatten(parse_override(override)):
            if key.partition(".")[0] not in OF_HEADS or key in OF_BRANCHES:
                raise InputError(
                    f"--heads {override}: only sections {', '.join(OF_HEADS)} may differ between "
                    f"heads and branches, without {', '.join(OF_BRANCHES)}; give it before "
                    "--heads, for both"
                )


def plan_heads(runs: Sequence[PlannedRun], plan: "Plan", folds: Sequence[int], n: int) -> list[Job]:
    """Return the jobs of heads, then those of baselines.

    Args:
        runs: Heads and baselines.
        plan: Their plan.
        folds: Folds whose branches are trained.
        n: Jobs of each fusion, which share its folds; those of one fusion follow one another, so
            that jobs that run side by side compute features of different folds.

    Raises:
        InputError: Heads are finished whose branches were trained again since.
    """
    from training.warm_start import check_finished  # slow: torch

    jobs, seeds = [], plan.config.run.seeds
    for run in [run for run in runs if run.fusion is not None]:
        assert isinstance(run.config, Config)
        check_finished(run.config)
        for share in _shares(folds, n):
            title = f"{run.config.name} folds {share[0]} to {share[-1]}"
            log = f"folds-{share[0]}-{share[-1]}.log"
            jobs.append(folds_job(run, title, share, seeds, log))
    return [*jobs, *plan_baselines(runs, [split.fold for split in plan.wanted()], seeds)]


def _shares(folds: Sequence[int], n: int) -> list[Sequence[int]]:
    """Split folds into n runs of neighbours of nearly equal size, without empty ones.

    >>> _shares([1, 2, 3, 4, 5], 2), _shares([7], 4)
    ([[1, 2], [3, 4, 5]], [[7]])
    """
    ends = [len(folds) * i // n for i in range(n + 1)]
    return [folds[a:b] for a, b in pairwise(ends) if a < b]


def check_frozen_dry(ablation: FrozenAblation, baselines: Sequence[PlannedRun]) -> None:
    """Check everything, and train nothing; heads can be tried only once their branches are there.

    Raises:
        InputError: A dry run ended with status 2, or the network of a head cannot be built.
        RunError: A dry run failed.
    """
    from model_gmu import check_settings

    check_dry(ablation.branches, overwrite=False)
    trained = all(map(_is_trained, ablation.branches))
    for run in ablation.heads:
        if trained:
            check_dry([run], overwrite=False)
            continue
        assert isinstance(run.config, Config)
        check_settings(run.config.model, run.config.loss.alpha_on)
        print(f"{run.config.name}: its config is right; the rest is checked once its branches are")
    check_dry(baselines, overwrite=False)


def _is_trained(run: PlannedRun) -> bool:
    """Return whether all folds of a branch are trained, as far as its folder shows."""
    from storage.run_folder import CERTIFICATE
    from storage.split_certificate import read_certificate

    file = run.folder / CERTIFICATE
    if not file.exists():
        return False
    folds = run.config.run.folds or [fold["fold"] for fold in read_certificate(file)["folds"]]
    return all(_has_trained(run, fold) for fold in folds)
