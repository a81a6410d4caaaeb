"""One experiment: plan and certify a corpus, then train, test and sum up folds x seeds."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from config.loading import dump_config, flatten, load_config
from config.schema import Config
from corpora.plan import Plan, leave_out, make_plan, plan_warnings
from evaluation.summary import summarize
from features import SpectrogramImages
from model_gmu import check_settings
from storage.feature_store import FeatureStore
from storage.ledger import LEDGER
from storage.provenance import describe_environment
from system.errors import InputError
from system.files import (
    check_writable,
    make_folder,
    read_json,
    remove_leftovers,
    write_csv,
    write_json,
    write_text,
)
from system.locks import lock
from system.signals import Stop
from training.fold import build_model, run_fold
from training.job import FoldJob

log = logging.getLogger(__name__)

# Keys that may differ when a run is resumed
FREE = ("run.", "corpus.root", "corpus.manifest", "train.checkpoint_minutes")
LOCK = ".lock"  # of a run folder
STUDY, RANGE_TEST = "study.json", "lr_range.json"  # of folders that are no runs
ABOUT_CLIPS = ("utterance", "speaker", "gender", "session", "portion", "text", "seconds", "path")


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
                with lock(folder / ".lock.opening", str(folder), blocking=True):
                    if overwrite:
                        remove_run(folder)
                    check_run_folder(folder, config, overwrite)  # others may have begun meanwhile
                    _open_run_folder(folder, plan, environment)
        stop.begun = True
        _run_folds(plan, folder, store, accelerator, environment, stop)
    accelerator.wait_for_everyone()
    return folder


def _claimed(folder: Path, config: Config, overwrite: bool) -> AbstractContextManager[None]:
    """Hold a run: alone, or with processes that are at work on other folds of it."""
    make_folder(folder)
    shared = config.run.folds is not None and not overwrite
    return lock(folder / LOCK, str(folder), shared=shared)


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


def check_run_folder(folder: Path, config: Config, overwrite: bool) -> None:
    """Refuse a folder of another config, or one that is no run folder.

    `run.*` and the corpus's place may differ: they say where and how much to run and change no
    fold; that the data are the same is what the certificate is for.
    """
    if Path(config.run.store).resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"run.store={config.run.store} lies in the run folder {folder}, which --overwrite "
            "removes: change name or run.store"
        )
    if not folder.exists() or all(_is_left_over(path) for path in folder.iterdir()):
        return
    foreign = [name for name in (STUDY, RANGE_TEST) if (folder / name).exists()]
    if foreign or not (folder / "config.yaml").is_file():
        why = f"{foreign[0]} in it" if foreign else "no config.yaml in it"
        raise InputError(f"{folder} is no run folder ({why}): change name or run.root")
    if overwrite:
        return
    there = flatten(_read_config_of(folder).model_dump())
    now = flatten(config.model_dump())
    differences = [
        f"  {key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    if differences:
        raise InputError(
            f"{folder} was made with another config:\n"
            + "\n".join(differences)
            + "\nChange `name` to keep both, or give --overwrite to start anew"
        )


def _is_left_over(path: Path) -> bool:
    """Whether a run folder may hold it before it is one: a removed run's, or a file being made."""
    return path.name == LEDGER or path.name.startswith(".")


def _read_config_of(folder: Path) -> Config:
    try:
        return load_config(folder / "config.yaml")
    except InputError as error:
        raise InputError(
            f"{error}\n{folder} is corrupt or of another version: give --overwrite to start anew"
        ) from None


def check_places(config: Config) -> None:
    """Fail before anything is computed where the run could not be written.

    A store that is there may be read-only: it may hold all that is needed.

    Raises:
        RunError: Nothing can be written there.
    """
    check_writable(Path(config.run.root) / config.name, f"run.root={config.run.root}")
    if not Path(config.run.store).exists():
        check_writable(Path(config.run.store), f"run.store={config.run.store}")


def remove_run(folder: Path) -> None:
    """Remove a run, all but the ledger: who looked at the test data stays on record.

    Folds go at once and the config last, so that after a kill the same command goes on removing.

    Raises:
        RunError: A process is at work on one of its folds.
    """
    for file in folder.glob("folds/*/state/lock"):
        with lock(file, str(file.parent.parent)):
            pass
    doomed = folder / ".folds.removed"
    shutil.rmtree(doomed, ignore_errors=True)
    if (folder / "folds").exists():
        (folder / "folds").rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (LEDGER, "config.yaml") and not path.name.startswith(LOCK):
            path.unlink()
    (folder / "config.yaml").unlink(missing_ok=True)


def _open_run_folder(folder: Path, plan: Plan, environment: Mapping[str, Any]) -> None:
    """Write what describes the run, after checking that the folder is about the same data."""
    file = folder / "split_certificate.json"
    if file.exists() and read_json(file, "id")["id"] != plan.certificate["id"]:
        raise InputError(
            f"the corpus or its splits changed since {folder} was begun (certificate "
            f"{read_json(file)['id']} there, {plan.certificate['id']} now): change `name` to keep "
            "both, or give --overwrite to start anew"
        )
    remove_leftovers(folder)
    write_text(folder / "config.yaml", dump_config(plan.config))  # a folder without is no run
    make_folder(folder / "folds", inside=folder)
    write_json(file, plan.certificate)
    write_csv(folder / "utterances.csv", ABOUT_CLIPS, _about_clips(plan))
    write_json(folder / "environment.json", environment)
    for line in plan_warnings(plan):
        log.info("%s", line)
    if plan.bad:
        bad = {str(path): reason for path, reason in sorted(plan.bad.items())}
        write_json(folder / "bad_audio.json", bad)
        log.warning("%d bad audio files left out, listed in bad_audio.json", len(bad))


def _about_clips(plan: Plan) -> Iterator[Sequence[Any]]:
    """Yield the rows of utterances.csv; paths start from corpus.root."""
    root = Path(plan.config.corpus.root).expanduser()
    for one in sorted(plan.utterances, key=lambda one: one.id):
        seconds = f"{plan.recordings[one.path].seconds:.3f}"
        path = one.path.relative_to(root) if one.path.is_relative_to(root) else one.path
        facts = (one.speaker, one.gender, one.session, one.portion, one.text_id)
        yield [one.id, *(fact or "" for fact in facts), seconds, path.as_posix()]
