"""Train a gated fusion: `python train_gmu.py --config configs/iemocap_gmu.yaml`."""

import sys
from collections.abc import Sequence

from config.fusions import GATED
from config.loading import load_config
from config.trackers import check_trackers
from corpora.readers import check_corpora_exist
from system.cli import exit_status, run_entry, say
from system.signals import Stop
from training.command import check_fusion, check_processes, launcher, parse_arguments


def main(
    argv: Sequence[str],
    description: str = __doc__,
    fusions: Sequence[str] = GATED,
    other_entry: str = "train.py",
) -> int:
    """Train, select and test every fold with every seed; return the exit status.

    Args:
        argv: Arguments of the process.
        description: First lines of `--help`.
        fusions: Fusions that this entry trains.
        other_entry: Entry that trains the others.
    """
    arguments = parse_arguments(argv, description)
    command, stop = [sys.argv[0], *argv], Stop()
    with exit_status([*launcher(), *command], stop) as result:
        config = load_config(arguments.config, arguments.overrides)  # keys, types and ranges
        check_fusion(config, arguments.config, fusions, other_entry)
        check_corpora_exist(config)
        check_processes(arguments)
        check_trackers(config.run.trackers)

        # torch is imported only now, so that a mistake above is reported within a second.
        from evaluation.summary import summaries
        from training.dry_run import dry_run
        from training.experiment import open_run
        from training.fold import run_fold

        if arguments.dry_run:
            if report := dry_run(config, arguments.overwrite, arguments.resume_with):
                say(report)
            return result.status
        with open_run(config, command, arguments.overwrite, stop, arguments.resume_with) as session:
            with summaries(session.folder, session.is_main) as after_fold:
                for fold in session.folds():  # folds x seeds
                    run_fold(fold)  # train, select an epoch on dev, test once
                    after_fold()
        say((session.folder / "summary.md").read_text(encoding="utf-8"))
        curves = f"; curves: tensorboard --logdir {session.folder}"
        say(f"Everything is in {session.folder}{curves * ('tensorboard' in config.run.trackers)}")
    return result.status


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
