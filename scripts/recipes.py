"""Which changes of a config lift it? Tries recipes one by one, on dev alone.

A file of recipes says what each changes, e.g. configs/recipes/ravdess_small.yaml. The test split is
never opened. Give the same command again to resume, also in a second shell to share the trainings.
All is in NAME_recipes in run.root.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from corpora.readers import check_corpora_exist
from experiments.recipe_file import choose_recipes, plan_trials, read_recipes
from system.cli import run_cli, run_entry
from system.errors import InputError
from system.signals import Stop
from system.text import printable
from training.command import check_config_option, split_overrides


def main(argv: Sequence[str]) -> int:
    """Train, and print the table; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.recipes", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML config")
    parser.add_argument("--recipes", required=True, metavar="FILE", help="YAML file of recipes")
    parser.add_argument(
        "--only", nargs="+", metavar="RECIPE", help="some of them, and the first; default: all"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. run.folds=[3,4]"
    )
    check_config_option(parser, argv, other_files=("--recipes",))
    words, overrides = split_overrides(argv)
    arguments = parser.parse_intermixed_args(words)
    arguments.overrides = [*overrides, *arguments.overrides]
    command, stop = ["python", "-m", "scripts.recipes", *argv], Stop()
    return run_cli(lambda: _work(arguments, command, stop), command, stop)


def _work(arguments: argparse.Namespace, command: Sequence[str], stop: Stop) -> None:
    recipes = read_recipes(Path(arguments.recipes))
    chosen = choose_recipes(recipes, arguments.only or ())
    trials = plan_trials(arguments.config, arguments.overrides, recipes)
    config = trials[0].config
    check_corpora_exist(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a training here is one process: start the command itself several times")

    # torch is imported only now, so that a mistake above is reported within a second.
    from experiments.recipes import run_recipes

    print(printable(run_recipes(trials, recipes, chosen, command, stop)))


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
