"""Train the fusions, or a study's variants, on the same folds, and compare them.

Each fold and seed is a job. Keys of the gate or of the contrastive loss go only to the recipes that
have one. A study is a folder configs/ablation/STUDY of what its variants change in one recipe; each
variant is compared with the recipe itself. The command may be
stopped at any point and given again, also on several machines at once that share run.root: finished
jobs are not repeated, and no two processes work on one fold.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from config.loading import dump_config
from corpora.plan import Plan, make_plan
from corpora.splits import Split
from evaluation.comparison import conclusion
from evaluation.summary import summarize
from evaluation.tables import comparison_markdown
from experiments.jobs import Failure, Job, run_jobs, slots_for
from experiments.studies import FUSIONS, HERE, STUDIES, Recipe, load_recipes, load_study
from reports.publish import gather, publish
from system.cli import run_cli
from system.disk import make_folder
from system.errors import InputError, RunError, nearest
from system.files import write_text
from system.locks import alone
from system.signals import Stop
from training.experiment import LOCK, check_run_folder, remove_run
from training.job import FoldJob


def main(argv: Sequence[str], configs: Path = HERE / "configs") -> int:
    """Run the jobs that are left and compare the runs; return the exit status.

    Args:
        argv: Arguments of the process.
        configs: Folder of the recipes.
    """
    arguments, overrides = _parse(argv)
    stop = Stop()

    def work() -> None:
        recipes = _load(arguments, configs, overrides)
        if arguments.dry_run:
            _dry_run(recipes, arguments.overwrite)
            return
        jobs = _open_runs(recipes, arguments.overwrite)
        stop.begun = True
        slots = slots_for(arguments.jobs, recipes[0].config.run.device)
        out = Path(recipes[0].config.run.root) / f"{arguments.name}_{arguments.study or 'ablation'}"
        _finish(recipes, run_jobs(jobs, slots), out, reference=0 if arguments.study else None)

    with stop.install_handlers():
        return run_cli(work, ["scripts/ablation.sh", *argv], stop)


def plan_jobs(recipes: Sequence[Recipe], plan: Plan) -> list[Job]:
    """Return all jobs; the fusions of one fold stand together, so that they soon compare."""
    return [
        _job(recipe, plan, split, seed)
        for seed in plan.config.run.seeds
        for split in plan.wanted()
        for recipe in recipes
    ]


def conclude(folders: Sequence[Path], out: Path, reference: int | None = None) -> str:
    """Print the tables of the runs, write them and the report; return what the tests say.

    Args:
        folders: Run folders.
        out: Folder of the tables.
        reference: Place of the run to which the others are compared; None compares all pairs.

    Raises:
        InputError: The runs have not finished the same folds.
    """
    runs, comparison = gather(folders, breakdowns=True, reference=reference)
    print(comparison_markdown(comparison))
    publish(out, runs, comparison)
    return conclusion(runs, comparison)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments, and the overrides in the order in which they stand."""
    parser = argparse.ArgumentParser(
        prog="scripts/ablation.sh", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="recipes configs/NAME_*.yaml, e.g. demo")
    parser.add_argument("--fusions", nargs="+", metavar="FUSION", help="default: all three")
    parser.add_argument("--study", choices=STUDIES, help="vary one recipe instead")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="of the study; default: all")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at a time; 1 a GPU")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument("--overwrite", action="store_true", help="start these runs anew")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. optim.lr=1e-3"
    )
    arguments = parser.parse_intermixed_args(argv)
    for option in ("--fusions", "--study", "--only"):
        if sum(word.partition("=")[0] == option for word in argv) > 1:
            parser.error(f"{option} must be given once")
    if arguments.jobs < 1:
        parser.error(f"--jobs must be 1 or more, got {arguments.jobs}")
    if arguments.study and arguments.fusions:
        parser.error("--fusions and --study are two things: give one")
    if arguments.only and not arguments.study:
        parser.error("--only names variants of a --study: give it, too")
    behind = []  # --fusions and --only take all they can get
    for option, default in (("fusions", list(FUSIONS)), ("only", [])):
        words = getattr(arguments, option)
        named = default if words is None else [word for word in words if "=" not in word]
        if words is not None and (not named or len(set(named)) < len(named)):
            parser.error(f"--{option} must name at least one, and each once")
        behind += [word for word in words or [] if "=" in word]
        setattr(arguments, option, named)
    if unknown := [fusion for fusion in arguments.fusions if fusion not in FUSIONS]:
        parser.error(f"--fusions {unknown[0]}: {nearest(unknown[0], FUSIONS)}")
    overrides = [word for word in argv if word in {*arguments.overrides, *behind}]
    return arguments, overrides


def _load(arguments: argparse.Namespace, configs: Path, overrides: Sequence[str]) -> list[Recipe]:
    if arguments.study is None:
        return load_recipes(configs, arguments.name, arguments.fusions, overrides)
    return load_study(configs, arguments.name, arguments.study, arguments.only, overrides)


def _dry_run(recipes: Sequence[Recipe], overwrite: bool) -> None:
    options = ("--dry-run", *(["--overwrite"] if overwrite else []))
    for recipe in recipes:
        print(f"{recipe.config.name}:", flush=True)
        status = subprocess.run(recipe.command(*options), check=False).returncode
        if status != 0:
            kind = InputError if status == 2 else RunError
            raise kind(f"the dry run of {recipe.config.name} stopped with status {status}")


def _open_runs(recipes: Sequence[Recipe], overwrite: bool) -> list[Job]:
    """Check folders, corpus and splits before anything is trained; return all jobs."""
    for recipe in recipes:
        check_run_folder(recipe.folder, recipe.config, overwrite)
    jobs = plan_jobs(recipes, make_plan(recipes[0].config, keep=True))
    for recipe in recipes:
        make_folder(recipe.folder)
        if overwrite:
            with alone(recipe.folder / LOCK, str(recipe.folder)):
                remove_run(recipe.folder)
        if not (recipe.folder / "config.yaml").exists():  # a folder without one is no run folder
            write_text(recipe.folder / "config.yaml", dump_config(recipe.config))
        make_folder(recipe.folder / "logs", inside=recipe.folder)
    return jobs


def _job(recipe: Recipe, plan: Plan, split: Split, seed: int) -> Job:
    config = recipe.config
    fold = FoldJob(config, plan.labels.classes, split, seed, plan.hashes, plan.certificate, {})
    return Job(
        title=f"{config.name} fold {split.fold} seed {seed}",
        command=recipe.command(f"run.folds=[{split.fold}]", f"run.seeds=[{seed}]"),
        folder=recipe.folder / "folds" / fold.name,
        log=recipe.folder / "logs" / f"{fold.name}.log",
        epochs=config.train.epochs,
    )


def _finish(
    recipes: Sequence[Recipe], failures: Sequence[Failure], out: Path, reference: int | None
) -> None:
    """Sum up what is finished, compare it, and fail with a list where jobs failed."""
    problems, answer = [], ""
    if failures:
        problems.append("these jobs failed, and their folds are missing:")
        problems += [f"  {job.title}: {reason} (in {job.log})" for job, reason in failures]
    try:
        for recipe in recipes:
            if any(recipe.folder.glob("folds/*/metrics.json")):
                _sum_up(recipe)
        print(f"Compare the {len(recipes)} runs; write tables and report to {out}", flush=True)
        answer = conclude([recipe.folder for recipe in recipes], out, reference)
    except (InputError, RunError) as error:
        problems.append(f"there is no table: {error}")
    if problems:
        if not all(failure.reason.startswith("wrong input") for failure in failures):
            problems.append("The same command tries again and repeats nothing that is finished")
        raise RunError("\n".join(problems))
    _say_where_to_look(recipes, out)
    print(answer)


def _sum_up(recipe: Recipe) -> None:
    """Write the summary over all folds: of two jobs that end at once each may miss the other's."""
    write_text(recipe.folder / "config.yaml", dump_config(recipe.config))  # jobs name their fold
    summarize(recipe.folder)


def _say_where_to_look(recipes: Sequence[Recipe], out: Path) -> None:
    print(f"Open {out / 'report.html'} in a browser; the tables to paste are beside it. What the")
    print(
        f"figures mean: FUSION_COMPARISON.md. Predictions and history: {recipes[-1].folder}/folds;"
    )
    print(f"curves and gates: tensorboard --logdir {out.parent}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
