"""Train a run's final model on ALL its utterances: `python -m scripts.fit_all runs/demo_gmu`.

For use, not for scores: there is no dev and no test. It is trained for the median of the epochs
that the run's folds chose, and lies in RUN/final/seed-S, where predict.py takes it. Its final.json
says what the folds scored, as an estimate. Give the same command again to resume.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from config.loading import load_stored_config
from config.tasks import CLASS
from storage.folders import CONFIG, check_is_run
from system.cli import exit_status, run_entry, say
from system.errors import InputError
from system.signals import Stop


def main(argv: Sequence[str]) -> int:
    """Train, and say where the model is; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fit_all", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, all folds finished")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the training, 0")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="where corpus and store are now, and the device: corpus.root=..., run.device=...",
    )
    arguments = parser.parse_intermixed_args(argv)
    command, stop = ["python", "-m", "scripts.fit_all", *argv], Stop()
    with exit_status(command, stop) as result:
        if arguments.seed < 0:
            raise InputError(f"--seed must be 0 or more, got {arguments.seed}")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("a final model is trained by one process: start the command itself")
        check_is_run(arguments.run)
        load_stored_config(arguments.run / CONFIG, arguments.overrides)

        from gates.frozen import open_run  # slow: torch, timm
        from inference.calibration import calibrate, write_calibration
        from storage.final_model import read_final
        from storage.run_folder import read_run
        from training.experiment import session_environment
        from training.final import check_can_fit_all, fit_final

        run = read_run(arguments.run)
        check_can_fit_all(run)
        session = open_run(run, arguments.overrides, trains=True).session
        environment = session_environment(session, command)
        session = replace(session, stop=stop, environment=environment)
        folder = fit_final(session, run, arguments.seed)
        if run.folds[0].task == CLASS:  # for --risk, and the temperature as predict.py reads it
            write_calibration(folder, calibrate([result.dev for result in run.folds]))
        say(describe(folder, read_final(folder).model_dump()))
    return result.status


def describe(folder: Path, facts: dict) -> str:
    """Say what a final model was trained on, and how to use it.

    Args:
        folder: Its folder.
        facts: Its final.json.
    """
    chosen, scores = facts["chosen"].values(), facts["estimate"]
    lines = [
        f"{facts['epochs']} epochs ({facts['epochs_from']}: {min(chosen)} to {max(chosen)} in "
        f"{len(chosen)}) on all {facts['utterances']} utterances of {facts['speakers']} speakers.",
        "No score of it is measured. Test scores of the folds, as an estimate: "
        + ", ".join(f"{name} {score['mean']:.3f}" for name, score in scores.items()),
    ]
    if facts["temperature"] is not None:
        lines.append(f"Temperature of its probabilities: {facts['temperature']:.2f}")
    return "\n".join([*lines, f"Use it: python predict.py {folder} recording.wav"])


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
