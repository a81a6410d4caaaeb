"""Processes that die on cue: a training entry run until the n-th pass of a named place in the code.

The processes are forked from a server that has imported everything once, so that many deaths take
little time.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

MODULES = ["tests.support.kills", "train_gmu", "training.fold", "training.experiment"]

# place -> (module, attribute): death is before the n-th call, or, with "after", behind it
PLACES = {
    "indexing a recording": ("corpora.recordings", "inspect_audio"),
    "computing images": ("storage.feature_store", "read_audio"),
    "writing images": ("storage.feature_store", "FeatureStore._append"),
    "writing the store's index": ("storage.feature_store", "FeatureStore._write_index"),
    "a training step": ("training.engine", "train_step"),
    "a backward pass": ("training.engine", "loss_terms"),
    "writing best weights": ("training.checkpoints", "write_tensors"),
    "writing a checkpoint": ("storage.tensors", "save_file"),
    "renaming a file": ("pathlib", "Path.replace"),
    "evaluating": ("training.engine", "evaluate"),
    "summing up an evaluation": ("training.evaluate", "Predictions"),
    "writing the history": ("training.epoch_files", "write_history"),
    "writing TensorBoard": ("training.tensorboard", "Tracker.log_epoch"),
    "the test pass": ("training.fold", "_test"),
    "writing the ledger": ("training.fold", "record_test_evaluation"),
    "writing predictions": ("training.fold", "write_predictions"),
    "writing metrics": ("training.fold", "write_metrics"),
    "removing checkpoints": ("training.checkpoints", "Checkpoints.remove"),
    "summing up": ("evaluation.summary", "summarize"),
    "writing the summary": ("evaluation.summary", "write_json"),
}
# of a run that asks for them
TRACKER_PLACES = {
    "writing to wandb": ("training.wandb_tracker", "WandbRun.log_epoch"),
    "writing to mlflow": ("training.mlflow_tracker", "MlflowRun.log_epoch"),
    "writing the table of epochs": ("training.trackers", "write_epoch_table"),
    "writing scores to TensorBoard": ("training.tensorboard", "Tracker.log_scores"),
    "writing scores to wandb": ("training.wandb_tracker", "WandbRun.log_scores"),
    "writing scores to mlflow": ("training.mlflow_tracker", "MlflowRun.log_scores"),
}


def start(
    argv: Sequence[str], log: Path, place: str = "", n: int = 1, number: int = signal.SIGKILL
) -> BaseProcess:
    """Start `train_gmu.py ARGV` (or train.py), which dies at the n-th pass of a place, if any.

    Args:
        argv: Arguments, the entry first.
        log: Gets stdout and stderr.
        place: One of `PLACES` or `TRACKER_PLACES`; "after ..." dies behind the call.
        n: Counted from 1.
        number: The signal that it sends itself there.
    """
    os.environ["PYTHONPATH"] = str(ROOT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    arguments = (list(argv), str(log), place, n, number, dict(os.environ))
    process = context.Process(target=_run, args=arguments)
    process.start()
    return process


def _run(
    argv: list[str], log: str, place: str, n: int, number: int, environment: dict[str, str]
) -> None:
    os.setsid()
    os.environ.clear()  # the server has that of the first test
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if place:
        _die_at(place.removeprefix("after "), n, place.startswith("after "), number)
    import torch

    import train_gmu

    torch.set_num_threads(1)
    sys.argv = argv
    entries = {"train.py": ["concat"], "train_gmu.py": ["gmu", "gmu_contrastive"]}
    status = train_gmu.main(argv[1:], "", entries[argv[0]], "the other entry")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _die_at(place: str, n: int, after: bool, number: int) -> None:
    module, attribute = (PLACES | TRACKER_PLACES)[place]
    owner: Any = importlib.import_module(module)
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    calls = 0
    call: Callable[..., Any] = getattr(owner, name)

    def mortal(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n and not after:
            os.kill(os.getpid(), number)
        result = call(*args, **kwargs)
        if calls == n and after:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, mortal)
