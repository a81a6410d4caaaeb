"""What do bad habits of evaluation add to a score? One table, with the same model and data.

Trains each config under its own protocol and under random-utterance, evaluates test after every
epoch, and shows what these add: the best epoch on test, speakers that are heard in training, one
seed, a choice of configs on test, a bootstrap over utterances. The test scores are exploratory and
no results; dev selects and stops as ever. Give the same command again to resume, also in a second
shell to share the folds. All is in NAME_habits in run.root, with the name of the first config.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from config.loading import flatten, load_config
from config.schema import Config
from config.tasks import check_classes
from config.trackers import refuse_trackers_by_fold
from corpora.readers import check_corpora_exist
from system.cli import run_cli, run_entry
from system.errors import InputError
from system.signals import Stop
from system.text import printable
from training.command import check_config_option

# Beginnings of keys that all configs share: the same data and splits, one device
SHARED = tuple("corpus. protocol. run. train.precision train.deterministic train.compile".split())


def main(argv: Sequence[str]) -> int:
    """Train, and print the table; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.habits", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--config", required=True, action="append", metavar="FILE", help="YAML config; repeat it"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. run.seeds=[0,1,2]"
    )
    check_config_option(parser, argv)
    arguments = parser.parse_intermixed_args(argv)
    command, stop = ["python", "-m", "scripts.habits", *argv], Stop()

    def work() -> None:
        configs = [load_config(file, arguments.overrides) for file in arguments.config]
        for config in configs:
            check_classes(config.task, "habits are measured by UA,")
        check_configs(configs)
        check_corpora_exist(configs[0])

        # torch is imported only now, so that a mistake above is reported within a second.
        from experiments.habits import run_habits

        print(printable(run_habits(configs, command, stop)))

    return run_cli(work, command, stop)


def check_configs(configs: Sequence[Config]) -> None:
    """Refuse configs that the table cannot compare.

    Raises:
        InputError: One message that names the key, and what to change.
    """
    for config in configs:
        refuse_trackers_by_fold(config.run.trackers, "scripts.habits")
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        raise InputError(f"each --config needs a name of its own, got {', '.join(names)}")
    first = flatten(configs[0].model_dump())
    for config in configs[1:]:
        values = flatten(config.model_dump())
        for key in first.keys() | values.keys():
            if key.startswith(SHARED) and values.get(key) != first.get(key):
                raise InputError(
                    f"{key} is {first.get(key)} in {names[0]} and {values.get(key)} in "
                    f"{config.name}: the configs must share it; give it as an override"
                )
    if configs[0].corpus.corpora is not None:
        raise InputError(
            "habits are measured within one corpus, whose speakers a random split mixes: name one "
            "under `corpus:`"
        )
    if len({config.train.normalize == "speaker" for config in configs}) > 1:
        raise InputError(
            "train.normalize=speaker is a protocol of its own, and some of the configs have it: "
            "give it, or another value, as an override"
        )
    if configs[0].protocol.allow_speaker_overlap:
        raise InputError(
            "protocol.allow_speaker_overlap=true is one of the habits, and the honest score needs "
            "unheard speakers: choose another protocol.split, e.g. speaker-k-fold"
        )
    for config in configs:
        folders = {f"{branch}_from": folder for branch, folder in config.model.started.items()}
        for key, folder in {**folders, "from": config.model.from_}.items():
            if folder is not None:
                raise InputError(
                    f"model.{key}={folder} is of one protocol, and two are trained: set it to null"
                )
    if configs[0].run.shards is not None:
        raise InputError("run.shards are of one protocol, and two are trained: set it to null")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a training here is one process: start the command itself, several times to share folds"
        )


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
