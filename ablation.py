"""Train the fusions on the same folds, a job for each fold and seed, and compare them.

Keys of the gate or of the contrastive loss go only to the recipes that have one. The command may be
stopped at any point and given again, also on several machines at once that share run.root: finished
jobs are not repeated, and no two processes work on one fold.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli import guarded
from config import dump_config, load_config
from disk import make_folder
from errors import InputError, RunError, nearest
from experiment import LOCK, check_run_folder, remove_run
from files import write_text
from job import FoldJob
from jobs import Failure, Job, run_jobs, slots_for
from locks import alone
from plan import Plan, make_plan
from protocol import Split
from publish import gather, publish
from schema import ONLY_WITH, Config
from stopping import Stop
from summary import summarize
from tables import comparison_markdown

HERE = Path(os.path.relpath(Path(__file__).parent))
ENTRIES = {"concat": "train.py", "gmu": "train_gmu.py", "gmu_contrastive": "train_gmu.py"}


@dataclass(frozen=True)
class Recipe:
    """One fusion: its file, what the command line changes in it, and the config that this gives."""

    file: Path
    overrides: Sequence[str]
    config: Config

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.run.root) / self.config.name

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command that trains it; of a key given twice the last value counts."""
        entry = str(HERE / ENTRIES[self.config.model.fusion])
        recipe = ("--config", str(self.file), *self.overrides)
        return (sys.executable, entry, *recipe, *arguments)


def main(argv: Sequence[str], configs: Path = HERE / "configs") -> int:
    """Run the jobs that are left and compare the runs; return the exit status.

    Args:
        argv: Arguments of the process.
        configs: Folder of the recipes.
    """
    arguments, overrides = _parse(argv)
    stop = Stop()

    def work() -> None:
        recipes = load_recipes(configs, arguments.name, arguments.fusions, overrides)
        if arguments.dry_run:
            _dry_run(recipes, arguments.overwrite)
            return
        jobs = _open_runs(recipes, arguments.overwrite)
        stop.begun = True
        slots = slots_for(arguments.jobs, recipes[0].config.run.device)
        out = Path(recipes[0].config.run.root) / f"{arguments.name}_ablation"
        _finish(recipes, run_jobs(jobs, slots), out)

    with stop.listening():
        return guarded(work, ["scripts/ablation.sh", *argv], stop)


def load_recipes(
    configs: Path, name: str, fusions: Sequence[str], overrides: Sequence[str]
) -> list[Recipe]:
    """Read NAME_concat.yaml or NAME.yaml, NAME_gmu.yaml and NAME_gmu_contrastive.yaml.

    Raises:
        InputError: There are no such recipes, they do not fit one another, or an override is wrong.
    """
    names = [file.stem.removesuffix("_gmu") for file in configs.glob("*_gmu.yaml")]
    if name not in names:
        raise InputError(f"there are no recipes {name!r} in {configs}: {nearest(name, names)}")
    for override in overrides:
        if override.startswith(("name=", "model.fusion=")):
            raise InputError(f"{override} is set by each of the recipes: leave it out")
        if not any(_takes(fusion, override) for fusion in fusions):
            raise InputError(f"{override} has no effect with --fusions {' '.join(fusions)}")
    recipes = [_load_recipe(configs, name, fusion, overrides) for fusion in fusions]
    for recipe in recipes[1:]:
        _check_alike(recipes[0], recipe)
    return recipes


def plan_jobs(recipes: Sequence[Recipe], plan: Plan) -> list[Job]:
    """Return all jobs; the fusions of one fold stand together, so that they soon compare."""
    return [
        _job(recipe, plan, split, seed)
        for seed in plan.config.run.seeds
        for split in plan.wanted()
        for recipe in recipes
    ]


def conclude(folders: Sequence[Path], out: Path) -> None:
    """Print the tables of the runs, and write them and the report.

    Raises:
        InputError: The runs have not finished the same folds.
    """
    runs, comparison = gather(folders, breakdowns=True)
    print(comparison_markdown(comparison))
    publish(out, runs, comparison)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the arguments, and the overrides in the order in which they stand."""
    parser = argparse.ArgumentParser(
        prog="scripts/ablation.sh", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="recipes configs/NAME_*.yaml, e.g. demo")
    parser.add_argument("--fusions", nargs="+", default=list(ENTRIES), help="default: all three")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at a time; 1 a GPU")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument("--overwrite", action="store_true", help="start these runs anew")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. optim.lr=1e-3"
    )
    arguments = parser.parse_intermixed_args(argv)
    if sum(word.partition("=")[0] == "--fusions" for word in argv) > 1:
        parser.error("--fusions must be given once")
    if arguments.jobs < 1:
        parser.error(f"--jobs must be 1 or more, got {arguments.jobs}")
    behind = [word for word in arguments.fusions if "=" in word]  # --fusions takes all it can get
    overrides = [word for word in argv if word in {*arguments.overrides, *behind}]
    arguments.fusions = [fusion for fusion in arguments.fusions if fusion not in behind]
    if unknown := [fusion for fusion in arguments.fusions if fusion not in ENTRIES]:
        parser.error(f"--fusions {unknown[0]}: {nearest(unknown[0], ENTRIES)}")
    if not arguments.fusions or len(set(arguments.fusions)) < len(arguments.fusions):
        parser.error("--fusions must name at least one, and each once")
    return arguments, overrides


def _takes(fusion: str, override: str) -> bool:
    only = ONLY_WITH.get(override.partition("=")[0])
    return only is None or only.controller != "model.fusion" or fusion in only.values


def _load_recipe(configs: Path, name: str, fusion: str, overrides: Sequence[str]) -> Recipe:
    file = configs / f"{name}_{fusion}.yaml"
    if fusion == "concat" and not file.is_file():
        file = configs / f"{name}.yaml"
    overrides = [override for override in overrides if _takes(fusion, override)]
    config = load_config(file, overrides)
    if config.model.fusion != fusion:
        raise InputError(f"{file} must have model.fusion={fusion}, got {config.model.fusion}")
    return Recipe(file, overrides, config)


def _check_alike(first: Recipe, second: Recipe) -> None:
    """Refuse recipes that share a folder, or are not tested on the same folds."""
    one, other = first.config, second.config
    if one.name == other.name:
        raise InputError(f"{first.file} and {second.file} have the same name {one.name}")
    pairs = {
        "corpus": (one.corpus, other.corpus),
        "protocol": (one.protocol, other.protocol),
        "run.root": (one.run.root, other.run.root),
        "run.folds": (one.run.folds, other.run.folds),
        "run.seeds": (one.run.seeds, other.run.seeds),
    }
    if differ := [key for key, (a, b) in pairs.items() if a != b]:
        raise InputError(
            f"{first.file} and {second.file} differ in {', '.join(differ)}: fusions are compared "
            "on the same folds"
        )


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
    )


def _finish(recipes: Sequence[Recipe], failures: Sequence[Failure], out: Path) -> None:
    """Sum up what is finished, compare it, and fail with a list where jobs failed."""
    problems = []
    if failures:
        problems.append("these jobs failed, and their folds are missing:")
        problems += [f"  {job.title}: {reason} (in {job.log})" for job, reason in failures]
    try:
        for recipe in recipes:
            if any(recipe.folder.glob("folds/*/metrics.json")):
                _sum_up(recipe)
        conclude([recipe.folder for recipe in recipes], out)
    except (InputError, RunError) as error:
        problems.append(f"there is no table: {error}")
    if problems:
        if not all(failure.reason.startswith("wrong input") for failure in failures):
            problems.append("The same command tries again and repeats nothing that is finished")
        raise RunError("\n".join(problems))
    _say_where_to_look(recipes, out)


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
