"""Arguments and checks of the two training entries; imports nothing heavy."""

import argparse
import os
from collections.abc import Sequence

from config.schema import Config
from system.errors import InputError


def parse_arguments(argv: Sequence[str], description: str) -> argparse.Namespace:
    """Parse the command line of a training entry.

    Args:
        argv: Arguments of the process.
        description: First lines of `--help`.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML config")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument("--overwrite", action="store_true", help="start a run of this name anew")
    parser.add_argument(
        "--resume-with",
        type=int,
        metavar="N",
        help="resume, on N processes, a run begun with another number; train.batch_size x "
        "processes must stay",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. optim.lr=1e-3"
    )
    check_config_option(parser, argv)
    return parser.parse_intermixed_args(argv)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the overrides out, because options such as --only take all words behind them.

    Keys of overrides have a section, those of --slurm have none. All words behind --heads are its.

    >>> split_overrides(["--only", "mixup", "optim.lr=1"])
    (['--only', 'mixup'], ['optim.lr=1'])
    """
    words, overrides, option = [], [], ""
    for word in argv:
        key, equals, _ = word.partition("=")
        if word.startswith("-"):
            option = word
        elif equals and option != "--heads" and not (option == "--slurm" and "." not in key):
            overrides.append(word)
            continue
        words.append(word)
    return words, overrides


def check_config_option(
    parser: argparse.ArgumentParser, argv: Sequence[str], other_files: Sequence[str] = ()
) -> None:
    """Refuse a YAML file that does not stand behind --config, which would be an override.

    Args:
        parser: Parser that ends the process with its usage.
        argv: Arguments of the process.
        other_files: Other options that name a YAML file.
    """
    options = [word.partition("=")[0] for word in argv]
    for before, word in zip(["", *argv], argv, strict=False):
        is_file = word.endswith((".yaml", ".yml")) and "=" not in word
        if is_file and before not in other_files and "--config" not in options:
            parser.error(f"the config goes behind --config: --config {word}")


def check_fusion(config: Config, file: str, fusions: Sequence[str], other_entry: str) -> None:
    """Refuse a fusion that the other entry trains.

    Args:
        config: Config of the run.
        file: Name of its file.
        fusions: Fusions that this entry trains.
        other_entry: Entry that trains the others.
    """
    if config.model.fusion not in fusions:
        raise InputError(
            f"this entry trains model.fusion {' or '.join(fusions)}, and {file} says "
            f"{config.model.fusion}: run `python {other_entry} --config {file}`"
        )


def check_processes(arguments: argparse.Namespace) -> None:
    """Refuse --resume-with for another number of processes than were started, or a new start.

    Args:
        arguments: From `parse_arguments`.
    """
    wanted, started = arguments.resume_with, int(os.environ.get("WORLD_SIZE", "1"))
    if wanted is None:
        return
    if arguments.overwrite:
        raise InputError("--resume-with resumes a run, --overwrite starts it anew: give one")
    if wanted != started:
        raise InputError(
            f"--resume-with {wanted}, and {started} process{'es were' if started > 1 else ' was'} "
            f"started: give --resume-with {started}, or start {wanted} by torchrun"
        )


def launcher() -> list[str]:
    """Return the launcher of the command that resumes, with the same number of processes."""
    n, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if n == 1:
        return ["python"]
    nodes = [f"--nnodes={n // local}"] if n > local else []
    return ["torchrun", *nodes, f"--nproc_per_node={local}"]
