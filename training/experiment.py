"""Open a run: check what can be checked, certify the corpus, compute images, claim the folder."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from config.schema import Config
from corpora.plan import Plan, make_plan, plan_warnings
from features import SpectrogramImages
from model_gmu import MaxMViTGMU, check_settings, find_first_weights
from storage.audio_lists import BAD_AUDIO
from storage.provenance import describe_environment
from storage.run_folder import LOCK, check_run_folder, open_run_folder, remove_run
from system.files import check_writable, make_folder
from system.locks import lock
from system.signals import Stop
from training.session import Session, feature_settings, make_accelerator, open_store

log = logging.getLogger(__name__)


@contextmanager
def open_run(
    config: Config, command: Sequence[str], overwrite: bool = False, stop: Stop | None = None
) -> Iterator[Session]:
    """Certify the corpus, compute its images, open the run folder; yield the session.

    Args:
        config: Config of the run.
        command: Command line, for environment.json.
        overwrite: Remove an earlier run of this name, all but its ledger.
        stop: Flag, set by signals, that asks the run to end.

    Raises:
        InputError: The config, the corpus or the run folder cannot be used.
        RunError: Something could not be written, or another process works on the same run.
        KeyboardInterrupt: The process was asked to end; what was finished is kept.
    """
    stop = stop or Stop()
    accelerator = make_accelerator(config)
    folder = Path(config.run.root) / config.name
    check_run(config, overwrite)
    if accelerator.is_main_process and (folder / LOCK).exists():
        with _claimed(folder, config, overwrite):
            pass  # refused now, not after all audio was indexed
    accelerator.wait_for_everyone()  # the first process may begin to write the folder
    plan = make_plan(config, keep=True)
    session = Session(config, plan, open_store(config), accelerator, stop)
    with _claimed(folder, config, overwrite) if session.is_main else nullcontext():
        with accelerator.main_process_first():
            session = replace(
                session.with_images(), environment=describe_environment(command, config.run.device)
            )
            if session.is_main:
                with lock(folder / ".lock.opening", str(folder), blocking=True):
                    if overwrite:
                        remove_run(folder)
                    check_run_folder(folder, config, overwrite)  # others may have begun meanwhile
                    open_run_folder(folder, session.plan, session.environment)
                    _log_warnings(session.plan)
        stop.begun = True
        yield session
    accelerator.wait_for_everyone()


def check_run(config: Config, overwrite: bool) -> None:
    """Check run folder, places, model settings and first weights before the corpus is read."""
    check_run_folder(Path(config.run.root) / config.name, config, overwrite)
    check_places(config)
    check_model(config)


def check_model(config: Config) -> None:
    """Check model settings and first weights, what takes no time first.

    Raises:
        InputError: No network can be built from section `model`, or weights do not fill it.
        RunError: Weights cannot be downloaded, or those in a cache are damaged.
    """
    has_weights = find_first_weights(config.model)
    check_settings(config.model, config.loss.alpha_on)
    if has_weights:
        n_channels = SpectrogramImages(**feature_settings(config)).n_channels
        MaxMViTGMU.from_config(config.model, n_classes=2, n_channels=n_channels)


def _claimed(folder: Path, config: Config, overwrite: bool) -> AbstractContextManager[None]:
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


def _log_warnings(plan: Plan) -> None:
    for line in plan_warnings(plan):
        log.info("%s", line)
    if plan.bad:
        log.warning("%d bad audio files left out, listed in %s", len(plan.bad), BAD_AUDIO)
