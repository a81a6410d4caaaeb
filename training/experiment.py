"""One experiment: plan and certify a corpus, then train, test and sum up folds x seeds."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from config.schema import Config
from corpora.plan import Plan, leave_out, make_plan, plan_warnings
from evaluation.summary import summarize
from features import SpectrogramImages
from model_gmu import check_settings
from storage.feature_store import FeatureStore
from storage.provenance import describe_environment
from storage.run_folder import BAD_AUDIO, LOCK, check_run_folder, open_run_folder, remove_run
from system.disk import check_writable, make_folder
from system.locks import alone, in_turn
from system.signals import Stop
from training.fold import build_model, run_fold
from training.job import FoldJob

log = logging.getLogger(__name__)


def run_experiment(
    config: Config, command: Sequence[str], overwrite: bool = False, stop: Stop | None = None
) -> Path:
    """Train and test every fold and seed that is not finished; return the run folder.

    Args:
        config: What to run.
        command: The command line, for environment.json.
        overwrite: Remove what an earlier run of this name left, and start anew.
        stop: Says when to end early; None is never.

    Raises:
        InputError: The config, the corpus or the run folder is not as it must be.
        RunError: Training or writing failed, or another process is at work on the same; what was
            finished is kept.
        KeyboardInterrupt: The process was asked to end; what was finished is kept, and the state of
            the fold at work.
    """
    stop = stop or Stop()
    accelerator = make_accelerator(config)
    folder = Path(config.run.root) / config.name
    check_run_folder(folder, config, overwrite)
    check_places(config)
    check_settings(config.model.model_dump())
    if accelerator.is_main_process and (folder / LOCK).exists():
        with _claimed(folder, config, overwrite):
            pass  # refused now, not after all clips were heard
    accelerator.wait_for_everyone()  # the first process may begin to write the folder
    plan = make_plan(config, keep=True)
    channels = SpectrogramImages(**feature_settings(config)).n_channels
    build_model(config, len(plan.labels.classes), channels)  # fails now, not hours later
    with _claimed(folder, config, overwrite) if accelerator.is_main_process else nullcontext():
        store = FeatureStore(Path(config.run.store), feature_settings(config))
        with accelerator.main_process_first():
            plan = fill_store(plan, store)
            environment = describe_environment(command, config.run.device)
            if accelerator.is_main_process:
                with in_turn(folder / ".lock.opening"):
                    if overwrite:
                        remove_run(folder)
                    check_run_folder(folder, config, overwrite)  # others may have begun meanwhile
                    open_run_folder(folder, plan, environment)
                    _log_warnings(plan)
        stop.begun = True
        _run_folds(plan, folder, store, accelerator, environment, stop)
    accelerator.wait_for_everyone()
    return folder


def _claimed(folder: Path, config: Config, overwrite: bool) -> AbstractContextManager[None]:
    """Hold a run: alone, or with processes that are at work on other folds of it."""
    make_folder(folder)
    shared = config.run.folds is not None and not overwrite
    return alone(folder / LOCK, str(folder), shared)


def _run_folds(
    plan: Plan,
    folder: Path,
    store: FeatureStore,
    accelerator: Accelerator,
    environment: Mapping[str, Any],
    stop: Stop,
) -> None:
    config, hashes = plan.config, plan.hashes
    for split in plan.wanted():
        for seed in config.run.seeds:
            job = FoldJob(
                config, plan.labels.classes, split, seed, hashes, plan.certificate, environment
            )
            run_fold(job, folder, store, accelerator, stop)
            if accelerator.is_main_process:
                summarize(folder)


def make_accelerator(config: Config) -> Accelerator:
    """Return the device, precision and processes; the same seed gives the same weights on them."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # a few CUDA kernels have no such form
    precision = "bf16" if config.train.precision == "bfloat16" else "no"
    return Accelerator(mixed_precision=precision, cpu=config.run.device == "cpu")


def feature_settings(config: Config) -> dict[str, Any]:
    """Return the arguments of `SpectrogramImages`, which also name the feature store."""
    return {**config.features.model_dump(), "image_size": config.model.image_size}


def fill_store(plan: Plan, store: FeatureStore) -> Plan:
    """Compute the images that are missing; return the plan without the files that are bad."""
    paths = {plan.hashes[u.path]: u.path for u in plan.utterances}
    return leave_out(plan, store.build(paths, plan.config.run.workers))


def check_places(config: Config) -> None:
    """Fail before anything is computed where the run could not be written.

    A store that is there may be read-only: it may hold all that is needed.

    Raises:
        RunError: Nothing can be written there.
    """
    check_writable(Path(config.run.root) / config.name, f"run.root={config.run.root}")
    if not Path(config.run.store).exists():
        check_writable(Path(config.run.store), f"run.store={config.run.store}")


def _log_warnings(plan: Plan) -> None:
    for line in plan_warnings(plan):
        log.info("%s", line)
    if plan.bad:
        log.warning("%d bad audio files left out, listed in %s", len(plan.bad), BAD_AUDIO)
