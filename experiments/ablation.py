"""Ablation: train the fusions, or variants of one of their configs, on the same folds.

Each fusion has a config of its own, configs/NAME_FUSION.yaml. A variant is a small YAML file in
configs/ablation/KIND with what it changes in one of these configs; the file that changes nothing
is the config itself, with which the others are compared. A variant's changes and the command line
are overrides of that config, so a job is an ordinary training command.

Two rules make one command line fit all runs. An override of a key that only some runs have goes to
these alone. What the config sets and has no effect in a variant (the other backbone of `cqt_only`)
is set to null there.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.baselines import (
    AUTO,
    CHEAP,
    READ_SPEECH,
    choose_functionals,
    concerns,
    dump_run,
    load_baseline,
)
from config.image_keys import NORMALIZE, OF_SPEECH
from config.loading import flatten, load_config, parse_override
from config.schema import Config
from config.yaml_files import read_yaml
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
from experiments.search_space import SECTIONS, as_overrides, set_back
from storage.folders import CONFIG
from system.errors import InputError, RunError, nearest
from system.files import MAX_CONFIG, read_text

if TYPE_CHECKING:
    from corpora.plan import Plan

FUSIONS = ("concat", "gmu", "gmu_contrastive")  # with configs of their own
VARIED = {
    "fusion": "gmu",
    "contrastive": "gmu_contrastive",
    "speech": "gmu",
}  # {kind: config that is varied}
BESIDE_BASELINES = ("speech",)  # kinds whose variants stand beside baselines


def load_fusions(
    configs: Path, name: str, fusions: Sequence[str], overrides: Sequence[str]
) -> list[PlannedRun]:
    """Load NAME_concat.yaml or NAME.yaml, NAME_gmu.yaml and NAME_gmu_contrastive.yaml.

    Args:
        configs: Folder of the configs.
        name: Beginning of the configs' names, NAME: `demo`, for example.
        fusions: Some of `FUSIONS`.
        overrides: Overrides from the command line.

    Raises:
        InputError: A config is missing, they do not fit one another, or an override is wrong.
    """
    check_name(configs, name)
    refuse_overrides(overrides, {"name", "model.fusion"}, "is set by each of the configs")
    shares = {fusion: share_overrides(overrides, {"model.fusion": fusion}) for fusion in fusions}
    check_all_used(overrides, shares, f"with --fusions {' '.join(fusions)}")
    runs = []
    for fusion, share in shares.items():
        file = configs / f"{name}_{fusion}.yaml"
        if fusion == "concat" and not file.is_file():
            file = configs / f"{name}.yaml"
        run = planned_run(file, [], share)
        if run.fusion != fusion:
            raise InputError(f"{file} must have model.fusion={fusion}, got {run.fusion}")
        runs.append(run)
    check_comparable(runs)
    return runs


def load_baselines(run: PlannedRun, overrides: Sequence[str]) -> list[PlannedRun]:
    """Load the cheap baselines that stand beside fusions, on the folds of one of these.

    Args:
        run: A fusion; if it reads a speech model, a baseline does, too.
        overrides: Overrides from the command line; what has no effect on a baseline is left out.
    """
    assert isinstance(run.config, Config)
    kinds = (*CHEAP, *READ_SPEECH) if "speech" in run.config.model.reads else CHEAP
    leaves = {key: value for o in overrides for key, value in flatten(parse_override(o)).items()}
    found = []
    for kind in kinds:
        share = as_overrides({key: v for key, v in leaves.items() if concerns(key, kind)})
        functionals = choose_functionals(kind, AUTO)
        config = load_baseline(run.file, kind, functionals, share)
        found.append(PlannedRun(run.file, share, config))
    return found


def load_variants(
    configs: Path, name: str, kind: str, only: Sequence[str], overrides: Sequence[str]
) -> list[PlannedRun]:
    """Load the config that is varied, and its variants NAME_VARIANT.

    Args:
        configs: Folder of the configs.
        name: Beginning of the configs' names, NAME: `demo`, for example.
        kind: Kind of the variants, one of `VARIED`.
        only: Variants to load; empty for all. The config itself is always loaded, first.
        overrides: Overrides from the command line.

    Raises:
        InputError: A config or variant is missing, they do not fit one another, or an override is
            wrong or of a key that is varied.
    """
    check_name(configs, name)
    file, folder = configs / f"{name}_{VARIED[kind]}.yaml", configs / "ablation" / kind
    variants = read_variants(folder)
    if unknown := [variant for variant in only if variant not in variants]:
        raise InputError(f"no variant {unknown[0]!r} in {folder}: {nearest(unknown[0], variants)}")
    varied = {key for changes in variants.values() for key in changes}
    refuse_overrides(overrides, {"name", *varied}, f"is varied by the {kind} variants")
    (reference,) = [variant for variant, changes in variants.items() if not changes]
    chosen = {variant: variants[variant] for variant in [reference, *(only or variants)]}
    common = [override for override in overrides if not depends_on(override, varied)]
    config = flatten(load_config(file, common).model_dump())
    whole = dict(config)  # with all overrides: they, too, decide what has an effect
    for override in overrides:
        whole |= flatten(parse_override(override))
    shares = {
        variant: share_overrides(
            overrides, {key: (whole | changes).get(key) for key in (*varied, *OF_SPEECH, NORMALIZE)}
        )
        for variant, changes in chosen.items()
    }
    check_all_used(overrides, shares, f"with {', '.join(chosen)}")
    _check_matched(overrides, chosen)
    runs = []
    for variant, changes in chosen.items():
        idle = {k: v for k, v in set_back(whole, changes).items() if config.get(k, v) != v}
        named = {"name": f"{name}_{variant}", **idle, **changes}
        named = named if changes else {}
        try:
            runs.append(planned_run(file, as_overrides(named), shares[variant]))
        except InputError as error:
            raise InputError(f"variant {variant} of {file}: {error}") from None
    check_comparable(runs)
    return runs


def read_variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {variant: {dotted key: value}} of a folder of variants.

    Raises:
        InputError: A file holds other keys, or not exactly one of them changes nothing.
    """
    variants = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            changes = read_yaml(read_text(path, MAX_CONFIG), str(path)) or {}
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from None
        if path.stem in VARIED:
            raise InputError(f"{path} would share a folder with the tables: rename it")
        if not isinstance(changes, dict) or changes.keys() - set(SECTIONS):
            raise InputError(f"{path} must hold sections of a config only: {', '.join(SECTIONS)}")
        variants[path.stem] = flatten(changes)
    if len(plain := [variant for variant, changes in variants.items() if not changes]) != 1:
        raise InputError(
            f"one file in {folder} must change nothing, for the config itself; those that do: "
            f"{', '.join(plain) or 'none'}"
        )
    return variants


def check_dry(runs: Sequence[PlannedRun], overwrite: bool) -> None:
    """Check everything that each run needs, and train nothing.

    Raises:
        InputError: A dry run ended with status 2.
        RunError: A dry run failed.
    """
    options = ("--dry-run", *(["--overwrite"] if overwrite else []))
    for run in runs:
        print(f"{run.config.name}:", flush=True)
        status = subprocess.run(run.command(*options), check=False).returncode
        if status != 0:
            error = InputError if status == 2 else RunError
            raise error(f"the dry run of {run.config.name} stopped with status {status}")


def open_runs(runs: Sequence[PlannedRun], overwrite: bool) -> "Plan":
    """Check folders, corpus and splits before anything is trained; return the plan of all runs.

    Raises:
        InputError: A folder, the corpus or the splits are wrong.
        RunError: A folder cannot be written, or another process works in it.
    """
    from corpora.plan import make_plan
    from storage.run_folder import LOCK, check_run_folder, remove_run
    from system.files import make_folder, write_text
    from system.locks import lock

    for run in runs:
        check_run_folder(run.folder, run.config, overwrite)
    fusion = runs[0].config
    assert isinstance(fusion, Config)
    plan = make_plan(fusion, keep=True)
    for run in runs:
        make_folder(run.folder)
        if overwrite:
            with lock(run.folder / LOCK, str(run.folder)):
                remove_run(run.folder)
        if not (run.folder / CONFIG).exists():  # without it the folder is not a run
            write_text(run.folder / CONFIG, dump_run(run.config))
        make_folder(run.folder / "logs", inside=run.folder)
    return plan


def plan_jobs(runs: Sequence[PlannedRun], plan: "Plan") -> list[Job]:
    """Return all jobs; the runs of one fold follow one another, so that they soon compare.

    A baseline is one job after all others: its folds take less time than a process needs to start.
    """
    from storage.fold_folder import fold_name

    jobs, folds, seeds = [], [split.fold for split in plan.wanted()], plan.config.run.seeds
    fusions = [run for run in runs if run.fusion is not None]
    for seed in seeds:
        for split in plan.wanted():
            fold = fold_name(split.fold, seed)
            for run in fusions:
                title = f"{run.config.name} fold {split.fold} seed {seed}"
                command = run.command(f"run.folds=[{split.fold}]", f"run.seeds=[{seed}]")
                log = run.folder / "logs" / f"{fold}.log"
                folder = run.folder / "folds" / fold
                jobs.append(Job(title, command, folder, log, epochs=run.epochs))
    return [*jobs, *plan_baselines(runs, folds, seeds)]


def plan_baselines(
    runs: Sequence[PlannedRun], folds: Sequence[int], seeds: Sequence[int]
) -> list[Job]:
    """Return one job for each baseline among some runs."""
    found = [run for run in runs if run.fusion is None]
    return [folds_job(run, run.config.name, folds, seeds, "all.log") for run in found]


def _check_matched(overrides: Sequence[str], variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse another width of the GMU beside a concat that is matched to the default width."""
    for variant, changes in variants.items():
        if changes.get("model.fusion") == "concat" and changes.get("model.match_parameters"):
            reason = f"would leave {variant} matched to the default width (name others with --only)"
            refuse_overrides(overrides, {"model.fusion_hidden_dim"}, reason)
