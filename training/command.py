"""What the two training entries share."""

import argparse
import os
import sys
from collections.abc import Sequence

from config.loading import load_config
from config.schema import Config
from corpora.readers import check_corpus_exists
from system.cli import run_cli
from system.errors import InputError
from system.signals import Stop
from system.text import printable


def train_command(
    argv: Sequence[str], description: str, fusions: Sequence[str], other_entry: str
) -> int:
    """Run a training entry.

    Args:
        argv: Arguments of the process.
        description: For `--help`.
        fusions: Fusions that this entry trains.
        other_entry: The entry that trains the others.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML recipe")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument("--overwrite", action="store_true", help="start a run of this name anew")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. optim.lr=1e-3"
    )
    arguments = parser.parse_intermixed_args(argv)
    command, stop = [sys.argv[0], *argv], Stop()

    def work() -> None:
        config = load_config(arguments.config, arguments.overrides)
        _check_fusion(config, arguments.config, fusions, other_entry)
        check_corpus_exists(config.corpus.root, config.corpus.manifest)
        if arguments.dry_run:
            from training.dry_run import dry_run  # slow: torch, timm, accelerate

            _say(dry_run(config, arguments.overwrite))
            return
        from training.experiment import run_experiment  # slow: torch, timm, accelerate

        folder = run_experiment(config, command, arguments.overwrite, stop)
        _say((folder / "summary.md").read_text(encoding="utf-8"))
        _say(f"Everything is in {folder}; curves: tensorboard --logdir {folder}")

    with stop.install_handlers():
        return run_cli(work, [*_launcher(), *command], stop)


def _launcher() -> list[str]:
    """Return what starts as many processes as there are: a state is of their number."""
    n, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if n == 1:
        return ["python"]
    nodes = [f"--nnodes={n // here}"] if n > here else []
    return ["torchrun", *nodes, f"--nproc_per_node={here}"]


def _check_fusion(config: Config, file: str, fusions: Sequence[str], other_entry: str) -> None:
    if config.model.fusion not in fusions:
        raise InputError(
            f"this entry trains model.fusion {' or '.join(fusions)}, and {file} says "
            f"{config.model.fusion}: run `python {other_entry} --config {file}`"
        )


def _say(text: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:  # one process speaks for all
        print(printable(text))
