"""Open a run: check what can be checked, certify the corpus, compute images, claim the folder."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from config.effects import whole_key
from config.loading import flatten
from config.schema import Config
from corpora.plan import Plan, check_listing, make_plan, plan_warnings
from features import SpectrogramImages
from model_gmu import MaxMViTGMU, check_settings
from models.first_weights import find_first_weights
from storage.audio_lists import BAD_AUDIO
from storage.provenance import describe_environment, describe_process, package_versions
from storage.run_folder import LOCK, open_run_folder, remove_run
from system.compilers import compiler_version
from system.files import check_writable, make_folder
from system.locks import lock
from system.signals import Stop
from training.beside import open_sources, source_shapes
from training.build import build_model
from training.distributed import check_alike, check_shared, gather, on_all_processes
from training.origin_leaks import with_origin_facts
from training.resume_with import check_resumable, describe_resume
from training.same_sources import check_finished_sources
from training.session import Session, feature_settings, make_accelerator, open_store
from training.stream import check_shards
from training.trackers import check_tracking
from training.warm_start import check_finished, check_origins, check_started

log = logging.getLogger(__name__)

# Keys that may differ between the machines of one training
OF_MACHINE = (
    *("corpus.root", "corpus.manifest", "protocol.folds"),
    *("run.store", "run.compile_cache", "run.shards", "run.workers", "run.device"),
)


@contextmanager
def open_run(
    config: Config,
    command: Sequence[str],
    overwrite: bool = False,
    stop: Stop | None = None,
    resume_with: int | None = None,
) -> Iterator[Session]:
    """Certify the corpus, compute its images, open the run folder; yield the session.

    Args:
        config: Config of the run.
        command: Command line, for environment.json.
        overwrite: Remove an earlier run of this name, all but its ledger.
        stop: Flag, set by signals, that asks the run to end.
        resume_with: Number of these processes, where they may resume a run of another number.

    Raises:
        InputError: The config, the corpus or the run folder cannot be used.
        RunError: Something could not be written, or another process works on the same run.
        KeyboardInterrupt: The process was asked to end; what was finished is kept.
    """
    stop = stop or Stop()
    accelerator = make_accelerator(config)
    folder = Path(config.run.root) / config.name
    check_shared(folder)
    with ExitStack() as claim:
        with on_all_processes():  # each at its own pace: the training's collectives do not wait
            check_run(config, overwrite, resume_with)
            if accelerator.is_main_process and (folder / LOCK).exists():
                with claimed(folder, config, overwrite):
                    pass  # refused now, not after all audio was indexed
            plan = make_plan(config, keep=True)
            store = open_store(config)
            session = Session(config, plan, store, accelerator, stop, resume_with=resume_with)
            check_origins(config, plan)
            if not overwrite:
                check_finished(config)
                check_finished_sources(config)
            n_classes, n_channels = len(plan.labels.classes), session.store.record[0]
            build_model(config, n_classes, n_channels)  # fails now, not later
            if session.is_main:
                claim.enter_context(claimed(folder, config, overwrite))
            session = session.with_shards().with_images()
            session = replace(session, plan=with_origin_facts(session.plan))
        check_alike(_settings(session))
        session = replace(session, environment=session_environment(session, command))
        with on_all_processes():
            if session.is_main:
                _open_folder(session, overwrite)
        stop.begun = True
        yield session
    accelerator.wait_for_everyone()


def _open_folder(session: Session, overwrite: bool) -> None:
    folder = session.folder
    with lock(folder / ".lock.opening", str(folder), blocking=True):
        if overwrite:
            remove_run(folder)
        check_resumable(session.config, overwrite, session.resume_with)  # others may have begun
        if session.resume_with is not None:
            log.info("%s", describe_resume(session.config, session.resume_with))
        open_run_folder(folder, session.plan, session.environment)
        log_warnings(session.plan)


def _settings(session: Session) -> dict[str, Any]:
    """Return what the processes of one training must agree on; paths may differ."""
    config = flatten(session.config.model_dump())
    settings = {
        key: value for key, value in config.items() if not whole_key(key).startswith(OF_MACHINE)
    }
    return {**settings, "certificate": session.plan.certificate["id"], **package_versions()}


def session_environment(session: Session, command: Sequence[str]) -> dict[str, Any]:
    """Return what all processes of a session work with, see `storage.provenance`."""
    train = session.config.train
    processes = gather(describe_process(session.accelerator.device))
    n_step = train.batch_size * train.accumulate
    compiler = compiler_version(session.accelerator.device.type) if train.compile else None
    return describe_environment(
        command, processes, n_step, train.precision, train.deterministic, compiler
    )


def check_run(config: Config, overwrite: bool, resume_with: int | None = None) -> None:
    """Check run folder, places, trackers, tables, model and first weights; index no audio."""
    check_resumable(config, overwrite, resume_with)
    check_places(config)
    check_tracking(config)
    check_shards(config)
    check_listing(config)  # before weights are downloaded
    check_model(config)


def check_model(config: Config) -> None:
    """Check model settings and first weights, what takes no time first.

    Raises:
        InputError: No network can be built from section `model`, weights do not fill it, or a
            branch cannot start from the run that it names.
        RunError: Weights cannot be downloaded, or those in a cache are damaged.
    """
    check_started(config)
    has_weights = find_first_weights(config.model)
    recompute = config.train.gradient_checkpointing
    shapes = source_shapes(open_sources(config))
    alpha_on = config.loss.alpha_on
    check_settings(config.model, alpha_on, gradient_checkpointing=recompute, shapes=shapes)
    if has_weights:
        n_channels = SpectrogramImages(**feature_settings(config)).n_channels
        MaxMViTGMU.from_config(config.model, 2, n_channels, shapes)


def claimed(folder: Path, config: Config, overwrite: bool) -> AbstractContextManager[None]:
    """Lock a run: exclusively, or shared with processes that train other folds of it."""
    make_folder(folder)
    shared = config.run.folds is not None and not overwrite
    return lock(folder / LOCK, str(folder), shared=shared)


def check_places(config: Config) -> None:
    """Fail before anything is computed where the run could not be written.

    A store that is there may be read-only: it may hold all that is needed.

    Raises:
        RunError: Nothing can be written there.
    """
    check_writable(Path(config.run.root) / config.name, f"run.root={config.run.root}")
    if not Path(config.run.store).exists():
        check_writable(Path(config.run.store), f"run.store={config.run.store}")
    if config.train.compile:
        cache = config.run.compile_folder
        check_writable(cache, f"run.compile_cache={cache}")


def log_warnings(plan: Plan) -> None:
    """Log what the leakage check allowed, and audio that was left out."""
    for line in plan_warnings(plan):
        log.info("%s", line)
    if plan.bad:
        log.warning("%d bad audio files left out, listed in %s", len(plan.bad), BAD_AUDIO)
