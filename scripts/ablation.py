"""Train the fusions, or variants of one config, on the same folds, and compare them.

Each fold and seed is a job. Keys of the gate or of the contrastive loss go only to the configs that
have them. Cheap baselines stand in the same table: the majority class, an SVM on the band
statistics of the images, and with a speech model a linear layer on its hidden states. A folder
configs/ablation/KIND holds what its variants change in one config; each variant is compared with
that config. With --frozen each branch is trained alone, once a fold, and the heads of all fusions
and of both branches are then trained on their features, with all seeds. The command may be stopped
at any point and given again, also on several machines at once that share run.root: finished jobs
are skipped, and no two processes work on one fold.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from config.baselines import BaselineRun, dump_run
from config.trackers import check_trackers
from corpora.readers import check_corpora_exist
from experiments.ablation import (
    BESIDE_BASELINES,
    FUSIONS,
    VARIED,
    check_dry,
    load_baselines,
    load_fusions,
    load_variants,
    open_runs,
    plan_jobs,
)
from experiments.cluster import EXECUTORS, Executor, check_executor, run_by_submitit
from experiments.frozen_ablation import (
    ARMS,
    SAME,
    check_frozen_dry,
    load_frozen,
    plan_heads,
)
from experiments.jobs import Failure, Job, run_jobs
from experiments.planned_runs import HERE, PlannedRun
from experiments.slots import AUTO, choose_slots, head_slots, slot_environments, widen_last
from storage.folders import CONFIG, METRICS
from system.cli import run_cli, run_entry
from system.errors import InputError, RunError, nearest
from system.files import write_text
from system.signals import Stop
from system.text import truncate, whole_number
from training.command import split_overrides

SUBMITTED = (
    "Submitted. The same command, with or without --no-wait, submits what failed and nothing that "
    "is queued, running or finished; without, it waits and compares"
)


def main(argv: Sequence[str], configs: Path = HERE / "configs") -> int:
    """Run the unfinished jobs and compare the runs; return the exit status.

    Args:
        argv: Arguments of the process.
        configs: Folder of the configs.
    """
    arguments, overrides = _parse(argv)
    stop = Stop()

    def work() -> None:
        if arguments.frozen:
            _train_heads(arguments, configs, overrides, stop)
            return
        name, kind = arguments.name, arguments.variants
        if kind:
            runs = load_variants(configs, name, kind, arguments.only, overrides)
        else:
            runs = load_fusions(configs, name, arguments.fusions, overrides)
        if not arguments.no_baselines and (not kind or kind in BESIDE_BASELINES):
            runs += load_baselines(runs[0], overrides)
        _check_places(runs[0], arguments)
        if arguments.dry_run:
            check_dry(runs, arguments.overwrite)
            return
        config, title = runs[0].config, f"{name}_{kind or 'ablation'}"
        jobs = plan_jobs(runs, open_runs(runs, arguments.overwrite))
        stop.begun = True
        failures = _run(jobs, runs[0], title, arguments)
        if failures is None:
            print(SUBMITTED)
            return
        out = Path(config.run.root) / title
        _finish(runs, failures, out, reference=0 if kind else None)

    return run_cli(work, ["scripts/ablation.sh", *argv], stop)


def _train_heads(
    arguments: argparse.Namespace, configs: Path, overrides: Sequence[str], stop: Stop
) -> None:
    """Train what is missing of the single branches, then heads on their features; compare."""
    from storage.run_folder import check_run_folder  # slow: numpy

    name = arguments.name
    wishes = (arguments.fusions, overrides, arguments.heads, arguments.branch_seeds)
    ablation = load_frozen(configs, name, *wishes)
    baselines = [] if arguments.no_baselines else load_baselines(ablation.heads[0], overrides)
    runs, branch, title = [*ablation.heads, *baselines], ablation.branches[0], f"{name}_frozen"
    _check_places(branch, arguments)
    if arguments.dry_run:
        check_frozen_dry(ablation, baselines)
        return
    for run in runs:  # before anything is trained
        check_run_folder(run.folder, run.config, arguments.overwrite)
    jobs = plan_jobs(ablation.branches, open_runs(ablation.branches, overwrite=False))
    stop.begun = True
    failures: list[Failure] | None = []
    if not all(job.finished for job in jobs):
        failures = _run(jobs, branch, title, arguments)
    if failures is None:
        print(f"{SUBMITTED}. It submits the heads once the branches are trained")
        return
    plan = open_runs(runs, arguments.overwrite)
    on_cluster = arguments.executor is not None  # there a fusion is one job, unless --jobs asks
    slots = [] if on_cluster else head_slots(arguments.jobs, branch.config.run.device)
    folds = ablation.ready_folds([split.fold for split in plan.wanted()])
    jobs = plan_heads(runs, plan, folds, len(slots) or arguments.jobs or 1)
    of_heads = _run(jobs, branch, title, arguments, slots)
    if of_heads is None:
        print(SUBMITTED)
        return
    _finish(runs, [*failures, *of_heads], Path(branch.config.run.root) / title, None)


def _check_places(run: PlannedRun, arguments: argparse.Namespace) -> None:
    """Refuse trackers and an executor that are not here, and a corpus that is not there."""
    check_trackers(run.config.run.trackers)
    if arguments.executor:
        check_executor(arguments.executor, arguments.slurm)
    config = run.config
    check_corpora_exist(config.as_config() if isinstance(config, BaselineRun) else config)


def conclude(folders: Sequence[Path], out: Path, reference: int | None = None) -> str:
    """Print the tables of the runs, write them and the report; return what the tests say.

    Args:
        folders: Run folders.
        out: Folder of the tables.
        reference: Index of the run with which the others are compared; None compares all pairs.

    Raises:
        InputError: The runs have not finished the same folds.
    """
    from evaluation.conclusion import conclusion  # slow: scipy, matplotlib
    from evaluation.tables import comparison_markdown
    from reports.publish import gather, publish

    runs, comparison = gather(folders, breakdowns=True, reference=reference)
    print(comparison_markdown(comparison))
    publish(out, runs, comparison)
    return conclusion(comparison)


def _run(
    jobs: Sequence[Job],
    run: PlannedRun,
    title: str,
    arguments: argparse.Namespace,
    slots: Sequence[dict[str, str]] | None = None,
) -> list[Failure] | None:
    """Run the unfinished jobs here or on a cluster; return the failures, None if not waited for.

    Args:
        jobs: All jobs, finished or not.
        run: One of their runs.
        title: Folder of the tables, and name of the array on a cluster.
        arguments: From `_parse`.
        slots: Slots of this machine; None measures or counts them.
    """
    config, n_jobs = run.config, arguments.jobs
    if arguments.executor is None:
        if slots is not None:
            return run_jobs(jobs, slots)
        if n_jobs is None:
            n_left = sum(job.epochs is not None and not job.finished for job in jobs)
            words, folder = ("--config", str(run.file), *run.overrides), Path(config.run.root)
            slots = choose_slots(words, config.run.device, n_left, folder / title)
        else:
            slots = slot_environments(n_jobs, config.run.device)
        return run_jobs(widen_last(jobs, slots), slots)
    folder = Path(config.run.root) / "cluster"
    executor = Executor(arguments.executor, folder, title, arguments.slurm, n_jobs)
    slots = [{}] * len(jobs)  # a cluster gives each its own
    if arguments.executor == "local":
        slots = slot_environments(n_jobs or 1, config.run.device)
    return run_by_submitit(jobs, executor, slots, not arguments.no_wait)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments, and the overrides in their order."""
    parser = argparse.ArgumentParser(
        prog="scripts/ablation.sh", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="configs/NAME_*.yaml, e.g. demo")
    parser.add_argument(
        "--fusions", nargs="+", metavar="FUSION", help="default: all three; with --frozen all five"
    )
    parser.add_argument(
        "--no-baselines",
        action="store_true",
        help="leave out majority, svm_images and, with a speech model, ssl_linear",
    )
    parser.add_argument(
        "--frozen", action="store_true", help="train each branch alone, then heads on its features"
    )
    parser.add_argument(
        "--branch-seeds",
        type=_branch_seed,
        metavar="SEED",
        help="of the branches under all heads; default: the first of run.seeds; same: each seed "
        "has branches of its own",
    )
    parser.add_argument(
        "--heads", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of heads alone"
    )
    parser.add_argument("--variants", choices=VARIED, help="vary one config instead")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="some variants; default: all")
    parser.add_argument(
        "--jobs",
        type=_n_jobs,
        metavar="N",
        help="at a time; auto, the default: 1 per GPU, as many as prove quickest on a CPU",
    )
    parser.add_argument("--executor", choices=EXECUTORS, help="submit the jobs by submitit")
    parser.add_argument(
        "--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. partition=gpu time=600"
    )
    parser.add_argument("--no-wait", action="store_true", help="submit to Slurm, then end")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start these runs anew; with --frozen the heads, not the branches",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. optim.lr=1e-3"
    )
    words, overrides = split_overrides(argv)
    arguments = parser.parse_intermixed_args(words)
    _check(parser, arguments, argv)
    every = ARMS if arguments.frozen else FUSIONS
    arguments.fusions, arguments.only = arguments.fusions or list(every), arguments.only or []
    return arguments, [*overrides, *arguments.overrides]


def _n_jobs(word: str) -> int | None:
    """Return the number of jobs at a time, None for `auto`."""
    if word == AUTO:
        return None
    if not (number := whole_number(word)):
        raise argparse.ArgumentTypeError(f"must be 1 or more, or {AUTO}, got {truncate(word)}")
    return number


def _branch_seed(word: str) -> int | str:
    """Return the seed of the branches, or `same`."""
    if word == SAME:
        return word
    if (number := whole_number(word)) is None:
        raise argparse.ArgumentTypeError(f"must be a seed, or {SAME}, got {truncate(word)}")
    return number


def _check(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, argv: Sequence[str]
) -> None:
    """End with a message if arguments do not fit one another."""
    for option in ("--fusions", "--variants", "--only", "--slurm", "--heads"):
        if sum(word.partition("=")[0] == option for word in argv) > 1:
            parser.error(f"{option} must be given once")
        names = getattr(arguments, option.removeprefix("--"))
        if isinstance(names, list) and len(set(names)) < len(names):
            parser.error(f"{option} must name each once")
    if arguments.variants and arguments.frozen:
        parser.error("--frozen and --variants are two different ablations: give one")
    if not arguments.frozen and (arguments.heads or arguments.branch_seeds is not None):
        parser.error("--heads and --branch-seeds have an effect with --frozen alone")
    if arguments.variants and arguments.fusions:
        parser.error("--fusions and --variants are two different ablations: give one")
    kind = arguments.variants
    if kind and kind not in BESIDE_BASELINES and arguments.no_baselines:
        parser.error(f"--variants {kind} has no baselines: drop --no-baselines")
    if arguments.only and not arguments.variants:
        parser.error("--only names some of --variants: give it, too")
    allowed = ARMS if arguments.frozen else FUSIONS
    if unknown := [fusion for fusion in arguments.fusions or [] if fusion not in allowed]:
        parser.error(f"--fusions {unknown[0]}: {nearest(unknown[0], allowed)}")
    for option, given in (("--slurm", arguments.slurm), ("--no-wait", arguments.no_wait)):
        if given and arguments.executor != "slurm":
            parser.error(f"{option} has an effect with --executor slurm alone")


def _finish(
    runs: Sequence[PlannedRun], failures: Sequence[Failure], out: Path, reference: int | None
) -> None:
    """Summarize and compare what is finished; fail with a list if jobs failed."""
    from evaluation.summary import summarize  # slow: scipy

    problems, answer = [], ""
    if failures:
        problems.append("these jobs failed, and their folds are missing:")
        problems += [f"  {job.title}: {reason} (in {job.log})" for job, reason in failures]
    try:
        for run in runs:
            if any(run.folder.glob(f"folds/*/{METRICS}")):
                # Again with all folds: each job has written those of its own fold only
                write_text(run.folder / CONFIG, dump_run(run.config))
                summarize(run.folder)
        print(f"Compare the {len(runs)} runs; write tables and report to {out}", flush=True)
        answer = conclude([run.folder for run in runs], out, reference)
    except (InputError, RunError) as error:
        problems.append(f"there is no table: {error}")
    if problems:
        if not all(failure.reason.startswith("wrong input") for failure in failures):
            problems.append("The same command tries again and repeats nothing that is finished")
        raise RunError("\n".join(problems))
    print(
        f"Open {out / 'report.html'} in a browser; the tables to paste are beside it. What the\n"
        f"figures mean: FUSION_COMPARISON.md. Predictions and history: {runs[0].folder}/folds;\n"
        f"curves and gates: tensorboard --logdir {out.parent}"
    )
    print(answer)


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
